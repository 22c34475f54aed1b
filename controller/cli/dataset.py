"""``nanofleet dataset``: training data, checked before it travels."""

from pathlib import Path
from typing import Annotated

import typer

from controller.cli import options, output
from controller.cli.output import Card, Format


def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A JSONL file.")],
    form: options.Output = Format.TABLE,
) -> None:
    """Check a dataset as `job submit` would.

    Shape, encoding, roles, empty answers, duplicates; each problem with its line.

    Example: nanofleet dataset check persona.jsonl
    """
    from artifacts import dataset

    report = dataset.check(file)
    shape = report.shape.name.lower()
    fields = [
        ("file", str(file)),
        ("shape", shape),
        ("samples", f"{report.samples:,}"),
        ("characters", f"{report.characters:,}"),
    ]
    output.record(
        "dataset",
        {
            "file": str(file),
            "shape": shape,
            "samples": report.samples,
            "characters": report.characters,
            "warnings": [str(warning) for warning in report.warnings],
        },
        Card(fields),
        form,
    )
    if form is Format.TABLE:
        for warning in report.warnings:
            output.note(f"warning: {warning}")
