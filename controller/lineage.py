"""Which base models of the fleet an adapter is served on. Pure.

Its own, and others that were made of the same original weights: an adapter that was trained on
qint8, which no device serves, answers on the q8_0 of the same folder. The device has the last word.
"""

from collections.abc import Sequence

from artifacts.base_model import QINT8
from controller.records import CatalogueEntry


def serving_bases(adapter: CatalogueEntry, models: Sequence[CatalogueEntry]) -> list[str]:
    """Digests: the one that it was trained on, or where that is for training only, its siblings
    that can be served. Never empty: a device says better why none is."""
    own = str(adapter.details["base_digest"])
    trained_on = next((model for model in models if model.digest == own), None)
    if trained_on is None or trained_on.details.get("file_type") != QINT8:
        return [own]
    siblings = [model for model in models if is_sibling(adapter, model)]
    return [m.digest for m in siblings if m.details.get("file_type") != QINT8] or [own]


def is_sibling(adapter: CatalogueEntry, model: CatalogueEntry) -> bool:
    """Whether the model is not the adapter's own base, but of the same original weights. Of files
    from before they named those it is not known."""
    source = adapter.details.get("source_digest")
    is_own = model.digest == adapter.details["base_digest"]
    return source is not None and not is_own and model.details.get("source_digest") == source
