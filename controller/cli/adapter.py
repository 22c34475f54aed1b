"""``nanofleet adapter``: adapters that come from outside of the fleet, or leave it."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from artifacts import headroom
from controller.cli import adapter_view, artifact_view, options, output, session, transfers
from controller.cli.output import Card, Format

if TYPE_CHECKING:
    from controller import CatalogueEntry, Fleet


@dataclass(frozen=True, slots=True)
class _Adapters:
    """``bases``: names by digest; ``jobs``: names by id."""

    entries: "list[CatalogueEntry]"
    bases: dict[str, str]
    jobs: dict[str, str]


def import_adapter(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A LoRA as PEFT's save_pretrained() writes it.")
    ],
    base: Annotated[
        str, typer.Option("--base", help="The base model that it was trained on: name or digest.")
    ],
    name: Annotated[str, typer.Option(help="What to call it.  [default: the folder's name]")] = "",
    form: options.Output = Format.TABLE,
    home: options.Home = None,
) -> None:
    """Add an adapter from another machine to the fleet's store.

    It is checked against the base model, and becomes what a job would have made.

    Example: nanofleet adapter import ./my-adapter --base gemma-3-1b-it
    """

    async def imported(fleet: "Fleet") -> _Adapters:
        entry = await fleet.import_adapter(folder, base=base, name=name)
        return _Adapters([entry], _bases(fleet), _jobs(fleet))

    adapters = session.run(home, imported)
    _show(adapters, form)
    (entry,) = adapters.entries
    if form is Format.TABLE:
        for line in artifact_view.conversion(entry.details):
            output.note(line)
        output.note(f"Talk to it: `nanofleet chat DEVICE --adapter {entry.name}`")


def list_adapters(form: options.Output = Format.TABLE, home: options.Home = None) -> None:
    """List the adapters in the fleet's store.

    Example: nanofleet adapter list -o json
    """

    async def found(fleet: "Fleet") -> _Adapters:
        return _Adapters(fleet.artifacts(options.Kind.ADAPTER.number), _bases(fleet), _jobs(fleet))

    _show(session.run(home, found), form)


def merge(
    adapter: Annotated[
        str,
        typer.Argument(
            metavar="ADAPTER",
            help="One of the fleet's, a folder as `job result` unpacks it, or PEFT's.",
        ),
    ],
    base: Annotated[
        Path, typer.Option("--base", help="The original Hugging Face folder of the base model.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder to make.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the folder.")] = False,
    form: options.Output = Format.TABLE,
    home: options.Home = None,
) -> None:
    """Merge an adapter into the original weights, as a model in bfloat16.

    Not into a quantised base, which would drop or distort the adapter.

    Example: nanofleet adapter merge ./persona --base ./gemma-3-1b-it --out ./gemma-persona
    """
    import asyncio

    from controller.merging import merge_adapter

    path = _path_of(adapter, home)
    with transfers.import_shown(form) as on_progress:
        work = merge_adapter(path, base, out, replace=force, on_progress=on_progress)
        size_bytes = asyncio.run(work)
    fields = [
        ("path", str(out)),
        ("weights", headroom.readable(size_bytes)),
        ("dtype", "bfloat16"),
    ]
    output.record(
        "model",
        {"path": str(out), "size_bytes": size_bytes, "dtype": "bfloat16"},
        Card(fields),
        form,
    )


def _path_of(adapter: str, home: Path | None) -> Path:
    """The path, or where the fleet's store has the adapter of that name."""
    path = Path(adapter)
    if path.exists() or os.sep in adapter:
        return path

    async def found(fleet: "Fleet") -> Path:
        return fleet.path_of(adapter, options.Kind.ADAPTER.number)

    return session.run(home, found)


def _show(adapters: _Adapters, form: Format) -> None:
    output.listing(
        "adapters",
        [adapter_view.as_plain(entry, adapters.bases) for entry in adapters.entries],
        adapter_view.table(adapters.entries, adapters.bases, adapters.jobs),
        form,
    )


def _bases(fleet: "Fleet") -> dict[str, str]:
    return {entry.digest: entry.name for entry in fleet.artifacts(options.Kind.MODEL.number)}


def _jobs(fleet: "Fleet") -> dict[str, str]:
    return {job.id: job.name for job in fleet.jobs()}
