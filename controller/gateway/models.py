"""Names of models: what a client may ask for. Pure.

    gemma-3-1b-it                    a base model of the fleet's store, by its name there
    gemma-3-1b-it:persona            with an adapter, which was trained on it or on another file of
                                     the same original weights
    gemma-3-1b-it:persona@site=lab   the same, answered by a device that the selector selects

Names of artifacts have neither ":" nor "@".
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from artifacts.base_model import QINT8
from controller import lineage, selector
from controller.catalogue import ADAPTER, BASE_MODEL
from controller.gateway.errors import MODEL_NOT_FOUND
from controller.records import CatalogueEntry
from controller.selector import Selector
from protos.errors import NotFound

_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Model:
    base: CatalogueEntry
    adapter: CatalogueEntry | None = None

    @property
    def id(self) -> str:
        return f"{self.base.name}:{self.adapter.name}" if self.adapter else self.base.name

    @property
    def base_digest(self) -> str:
        return self.base.digest

    @property
    def adapter_digest(self) -> str:
        return self.adapter.digest if self.adapter else ""

    @property
    def added_utc_ns(self) -> int:
        return (self.adapter or self.base).added_utc_ns

    @property
    def fingerprint(self) -> str:
        """The same weights give the same one."""
        digests = filter(None, (self.base_digest, self.adapter_digest))
        return "fp_" + "_".join(digest.removeprefix("sha256:")[:12] for digest in digests)


def every(entries: Sequence[CatalogueEntry]) -> dict[str, Model]:
    """By id, each base before its adapters. What has no name, or is for training only, is none."""
    bases = [e for e in entries if e.kind == BASE_MODEL and e.name and not _for_training(e)]
    adapters = [e for e in entries if e.kind == ADAPTER and e.name]
    found: dict[str, Model] = {}
    for base in bases:
        fitting = (Model(base, a) for a in adapters if _fits(a, base))
        found.update((model.id, model) for model in (Model(base), *fitting))
    return found


def named(models: Mapping[str, Model], text: str) -> tuple[Model, Selector]:
    """The model that is meant, and who may answer. Raises NotFound with near names, or
    InvalidRequest for a selector that is none."""
    name, at, wanted = text.partition("@")
    model = models.get(name)
    if model is None:
        raise _missing(models, name)
    return model, selector.parse(wanted) if at else Selector(())


def only(models: Mapping[str, Model], names: Sequence[str]) -> dict[str, Model]:
    """Those of the names, in that order. Raises NotFound for one that there is not."""
    if not names:
        return dict(models)
    missing = next((name for name in names if name not in models), None)
    if missing is not None:
        raise _missing(models, missing)
    return {name: models[name] for name in names}


def _fits(adapter: CatalogueEntry, base: CatalogueEntry) -> bool:
    return adapter.details["base_digest"] == base.digest or lineage.is_sibling(adapter, base)


def _for_training(base: CatalogueEntry) -> bool:
    return base.details.get("file_type") == QINT8


def _missing(models: Mapping[str, Model], name: str) -> NotFound:
    near = difflib.get_close_matches(name, models, n=3) if name else []
    # Who knows an adapter's name alone, as `nanofleet chat` takes it.
    near = [model for model in models if model.endswith(f":{name}")] or near
    if near:
        fix = f"Did you mean {' or '.join(near)}?"
    elif models:
        more = " and more" if len(models) > _SHOWN else ""
        fix = f"There is {', '.join(list(models)[:_SHOWN])}{more}."
    else:
        fix = "The fleet has no base model yet: `nanofleet model import SOURCE`."
    return NotFound(
        f"There is no model {name!r} here.",
        why="A model is BASE or BASE:ADAPTER, by their names in the fleet's store.",
        fix=fix,
        reason=MODEL_NOT_FOUND,
        field="model",
    )
