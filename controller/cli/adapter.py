"""``nanofleet adapter``: what to do with a trained adapter outside of the fleet."""

from pathlib import Path
from typing import Annotated

import typer

from artifacts import headroom
from controller.cli import options, output, transfers
from controller.cli.output import Card, Format


def merge(
    adapter: Annotated[
        Path,
        typer.Argument(metavar="ADAPTER", help="A folder as `job result` unpacks it, or PEFT's."),
    ],
    base: Annotated[
        Path, typer.Option("--base", help="The original Hugging Face folder of the base model.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder to make.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the folder.")] = False,
    form: options.Output = Format.TABLE,
) -> None:
    """Merge an adapter into the original weights, as a model in bfloat16.

    Not into a quantised base, which would drop or distort the adapter.

    Example: nanofleet adapter merge ./persona --base ./gemma-3-1b-it --out ./gemma-persona
    """
    import asyncio

    from controller.merging import merge_adapter

    with transfers.import_shown(form) as on_progress:
        work = merge_adapter(adapter, base, out, replace=force, on_progress=on_progress)
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
