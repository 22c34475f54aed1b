"""Conversion in a process of its own, so that its caller never loads NumPy.

    python -m artifacts.convert model FOLDER OUT.gguf --type q8_0
    python -m artifacts.convert adapter FOLDER BASE.gguf OUT.gguf
    python -m artifacts.convert merge ADAPTER FOLDER OUT [--replace]

With ``--parent PID`` before the command it ends with that process, which started it.

Speaks JSON lines on stdout: any number of progress lines, then one result or one error. A model is
converted, then proved (proof.py), and has its name only after that.

    {"event": "progress", "stage": "convert", "done_bytes": 8388608, "total_bytes": 1069305376}
    {"event": "result", "path": "…", "architecture": "gemma3", "parameters": 999885952,
     "size_bytes": 1069305376, "warnings": [],
     "proof": {"logit_difference": 0.0007, "divergence_nats": 6e-05, "agreement": 1.0, "texts": 23}}
    {"event": "error", "type": "InvalidRequest", "what": "…", "why": "…", "fix": "…",
     "reason": "UNSUPPORTED_FEATURE", "field": ""}

The result of an adapter has its ``rank``, ``alpha``, ``targets`` and what it was ``trained_on`` in
the place of the proof.

The exit code is 0 after a result and 1 after an error. What libraries print goes to stderr.
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from artifacts.convert import (
    AdapterConversion,
    Conversion,
    FileType,
    Progress,
    Proof,
    convert_adapter,
    convert_model,
    merge_adapter,
)
from artifacts.parent import end_with
from protos.errors import InternalError, InvalidRequest, NanofleetError

# Of the total, between two lines: a hundred lines tell a person all there is to see.
_PROGRESS_STEP = 0.01


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    if arguments.parent:
        end_with(arguments.parent)
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as lines:
        os.dup2(2, 1)
        try:
            conversion = _run(arguments, lines)
        except NanofleetError as error:
            _say(lines, "error", _described(error))
            return 1
        except OSError as error:
            _say(lines, "error", _described(_from_system(error)))
            return 1
        except Exception as error:
            _say(lines, "error", _described(InternalError(f"{type(error).__name__}: {error}")))
            raise
        _say(lines, "result", {"path": str(arguments.out), **dataclasses.asdict(conversion)})
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m artifacts.convert")
    parser.add_argument("--parent", type=int, help="the process that it ends with")
    commands = parser.add_subparsers(dest="command", required=True)
    model = commands.add_parser("model", help="a checkpoint folder to a GGUF base model")
    model.add_argument("folder", type=Path)
    model.add_argument("out", type=Path)
    model.add_argument(
        "--type", default=FileType.Q8_0.value, choices=[kind.value for kind in FileType]
    )
    adapter = commands.add_parser("adapter", help="a PEFT folder to a GGUF LoRA")
    adapter.add_argument("folder", type=Path)
    adapter.add_argument("base", type=Path)
    adapter.add_argument("out", type=Path)
    merge = commands.add_parser("merge", help="an adapter into its original checkpoint folder")
    merge.add_argument("adapter", type=Path)
    merge.add_argument("folder", type=Path)
    merge.add_argument("out", type=Path)
    merge.add_argument("--replace", action="store_true")
    return parser


def _run(arguments: argparse.Namespace, lines: TextIO) -> Conversion | AdapterConversion:
    if arguments.command == "adapter":
        return convert_adapter(arguments.folder, arguments.base, arguments.out)
    if arguments.command == "merge":
        return merge_adapter(
            arguments.adapter,
            arguments.folder,
            arguments.out,
            replace=arguments.replace,
            on_progress=_progress_lines(lines, "merge"),
        )
    return _proved(arguments.folder, arguments.out, FileType(arguments.type), lines)


def _proved(folder: Path, target: Path, file_type: FileType, lines: TextIO) -> Conversion:
    try:
        from artifacts.convert import proof
    except ImportError as error:
        done = convert_model(folder, target, file_type, _progress_lines(lines, "convert"))
        warning = (
            f"The file is not proved: {error}. Install what compares it with llama.cpp, and import "
            "it again: pip install 'nanofleet[proof]'."
        )
        return dataclasses.replace(done, warnings=(*done.warnings, warning))
    found: list[tuple[Proof, tuple[str, ...]]] = []

    def check(complete: Path) -> None:
        on_progress = _progress_lines(lines, "prove")
        found.append(proof.prove(folder, complete, file_type, on_progress))

    done = convert_model(folder, target, file_type, _progress_lines(lines, "convert"), check)
    proved, warnings = found[0]
    return dataclasses.replace(done, proof=proved, warnings=(*done.warnings, *warnings))


def _progress_lines(lines: TextIO, stage: str) -> Callable[[Progress], None]:
    next_bytes = 0.0

    def on_progress(progress: Progress) -> None:
        nonlocal next_bytes
        if progress.done_bytes >= min(next_bytes, progress.total_bytes):
            next_bytes = progress.done_bytes + _PROGRESS_STEP * progress.total_bytes
            _say(lines, "progress", {"stage": stage, **dataclasses.asdict(progress)})

    return on_progress


def _described(error: NanofleetError) -> dict[str, object]:
    return {
        "type": type(error).__name__,
        "what": error.what,
        "why": error.why,
        "fix": error.fix,
        "reason": error.reason,
        "field": error.field,
    }


def _from_system(error: OSError) -> NanofleetError:
    return InvalidRequest(f"{error.filename or 'A file'}: {error.strerror}.")


def _say(lines: TextIO, event: str, values: Mapping[str, object]) -> None:
    lines.write(json.dumps({"event": event, **values}, ensure_ascii=False) + "\n")
    lines.flush()


if __name__ == "__main__":
    sys.exit(main())
