"""Which base model and adapter a question is for, from what was named and what the device has."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from controller import lineage
from controller.cli import artifact_view, options, output, selection
from protos.errors import NotFound, Unreachable

if TYPE_CHECKING:
    from controller import CatalogueEntry, Fleet


async def resolved(fleet: "Fleet", device: str, base: str, adapter: str) -> tuple[str, str]:
    """The digests of base and adapter (empty: none); a wrong name is told before anything runs."""
    selection.named(fleet, device)
    if not adapter:
        return await _base(fleet, device, base, None), ""
    entry = fleet.resolve(adapter, options.Kind.ADAPTER.number)
    digest = await _base(fleet, device, base, entry)
    _tell_of_sibling(fleet.artifacts(options.Kind.MODEL.number), entry, digest)
    return digest, entry.digest


async def _base(fleet: "Fleet", device: str, named: str, adapter: "CatalogueEntry | None") -> str:
    if named:
        return fleet.resolve(named, options.Kind.MODEL.number).digest
    models = fleet.artifacts(options.Kind.MODEL.number)
    choices = [model.digest for model in models]
    if adapter is not None:
        choices = lineage.serving_bases(adapter, models)
        if len(choices) == 1:
            return choices[0]
    status = await fleet.status(device)
    if not status.reachable:
        raise Unreachable(status.problem)
    loaded = status.device.loaded_model.base_digest if status.device is not None else ""
    if loaded and (adapter is None or loaded in choices):
        return loaded
    if len(choices) == 1:
        return choices[0]
    fitting = "" if adapter is None else f" that {adapter.name} can be served on"
    raise NotFound(
        "Which base model?",
        why=f"{device} has none{fitting} in memory, and the fleet has {len(choices)}.",
        fix="Name it with --base; see `nanofleet model list`.",
    )


def _tell_of_sibling(
    models: "Sequence[CatalogueEntry]", adapter: "CatalogueEntry", base: str
) -> None:
    """Says so when the adapter was trained on another file of the model that answers."""
    known = {model.digest: model for model in models}
    answering = known.get(base)
    if answering is None or not lineage.is_sibling(adapter, answering):
        return
    trained = str(adapter.details["base_digest"])
    output.note(
        f"{adapter.name} was trained on {_described(known.get(trained), trained)}; "
        f"{_described(answering, base)}, which answers, was made of the same original weights."
    )


def _described(model: "CatalogueEntry | None", digest: str) -> str:
    if model is None:
        return artifact_view.short(digest)
    return f"{model.name} ({model.details.get('file_type')})"
