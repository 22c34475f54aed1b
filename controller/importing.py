"""Converting a Hugging Face folder to GGUF, in a process of its own.

NumPy and the tokenizer's libraries cost a hundred megabytes that the controller would never give
back, and a damaged checkpoint can take a process down. The child speaks JSON lines (see
artifacts/convert/__main__.py); its stderr is kept for the case that it ends without a result. It
ends with this process, also when this one is killed: nobody would take what it writes.
"""

import asyncio
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from controller.records import ImportProgress
from protos import errors
from protos.errors import InternalError, InvalidRequest, NanofleetError

# A line holds numbers, or an error whose text names a few files.
_LINE_BYTES = 1 << 20
_TAIL_BYTES = 2000
_FILE_TYPES = ("q8_0", "f16", "bf16", "f32", "q4_0", "qint8")


async def convert(
    folder: Path,
    target: Path,
    file_type: str,
    on_progress: Callable[[ImportProgress], None] | None,
) -> Mapping[str, object]:
    """What the result line says of the file, for the catalogue: ``warnings``, and the figures of
    its ``proof``. Raises what the conversion raised. Cancelling this ends the process."""
    if file_type not in _FILE_TYPES:
        raise InvalidRequest(
            f"{file_type!r} is no type of a model file.",
            fix=f"Choose one of {', '.join(_FILE_TYPES)}.",
            field="file_type",
        )
    arguments = ("model", str(folder), str(target), "--type", file_type)
    done = await in_child(arguments, on_progress)
    return {"warnings": done["warnings"], "proof": done["proof"]}


async def in_child(
    arguments: Sequence[str],
    on_progress: Callable[[ImportProgress], None] | None,
) -> Mapping[str, object]:
    """The result line of ``python -m artifacts.convert``; raises what it raised."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "artifacts.convert", "--parent", str(os.getpid())),
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=_LINE_BYTES,
    )
    assert child.stdout is not None
    assert child.stderr is not None
    noise = asyncio.ensure_future(child.stderr.read())
    try:
        verdict = await _verdict(child.stdout, on_progress)
        await child.wait()
        said = await noise
    finally:
        noise.cancel()
        if child.returncode is None:
            child.kill()
            await child.wait()
    if verdict is None:
        raise _died(child.returncode or 0, said)
    if verdict["event"] == "error":
        raise _raised(verdict)
    return verdict


async def _verdict(
    lines: asyncio.StreamReader,
    on_progress: Callable[[ImportProgress], None] | None,
) -> Mapping[str, object] | None:
    """The result or error line; None when the process ends without one."""
    verdict = None
    async for line in lines:
        said = json.loads(line)
        if said["event"] != "progress":
            verdict = said
        elif on_progress is not None:
            on_progress(ImportProgress(said["stage"], said["done_bytes"], said["total_bytes"]))
    return verdict


def _raised(said: Mapping[str, object]) -> NanofleetError:
    kinds = {kind.__name__: kind for kind in errors.tree()}
    kind = kinds.get(str(said["type"]), NanofleetError)
    return kind(
        str(said["what"]),
        why=str(said["why"]),
        fix=str(said["fix"]),
        reason=str(said["reason"]),
        field=str(said["field"]),
    )


def _died(code: int, said: bytes) -> InternalError:
    tail = said[-_TAIL_BYTES:].decode(errors="replace").strip()
    return InternalError(
        f"The conversion ended without a result (exit code {code}).",
        why=f"Its last words: {tail}" if tail else "It said nothing.",
        fix="Try again. Exit code -9 means that it was killed: by a person, or for want of memory.",
    )
