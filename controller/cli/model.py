"""``nanofleet model``: base models, in the format that trains and serves."""

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from controller.cli import artifact_view, options, output, session, transfers
from controller.cli.output import Format

if TYPE_CHECKING:
    from controller import CatalogueEntry, Fleet


class FileType(str, enum.Enum):
    Q8_0 = "q8_0"
    F16 = "f16"
    BF16 = "bf16"
    F32 = "f32"
    Q4_0 = "q4_0"
    QINT8 = "qint8"


def import_model(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="A Hugging Face folder, or a .gguf file.")
    ],
    name: Annotated[
        str, typer.Option(help="What to call it.  [default: the folder's or file's name]")
    ] = "",
    file_type: Annotated[
        FileType, typer.Option("--type", help="The weights' type after conversion of a folder.")
    ] = FileType.Q8_0,
    form: options.Output = Format.TABLE,
    home: options.Home = None,
) -> None:
    """Add a base model to the fleet's store.

    A Hugging Face folder is converted to GGUF first, and the file proved against it.

    Example: nanofleet model import ./gemma-3-1b-it
    """

    async def imported(fleet: "Fleet") -> "CatalogueEntry":
        with transfers.import_shown(form) as on_progress:
            return await fleet.import_model(
                source, name=name, file_type=file_type.value, on_progress=on_progress
            )

    entry = session.run(home, imported)
    output.listing(
        "models", [artifact_view.as_plain(entry)], artifact_view.table([entry], ""), form
    )
    if form is Format.TABLE:
        for line in artifact_view.conversion(entry.details):
            output.note(line)


def list_models(form: options.Output = Format.TABLE, home: options.Home = None) -> None:
    """List the base models in the fleet's store.

    Example: nanofleet model list -o json
    """

    async def found(fleet: "Fleet") -> "list[CatalogueEntry]":
        return fleet.artifacts(options.Kind.MODEL.number)

    entries = session.run(home, found)
    empty = "The store has no base model. Add one with `nanofleet model import FOLDER`."
    output.listing(
        "models",
        [artifact_view.as_plain(entry) for entry in entries],
        artifact_view.table(entries, empty),
        form,
    )
