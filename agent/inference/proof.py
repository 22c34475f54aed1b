"""A build of an engine proves itself before it serves: it answers the golden vector.

A library that was built for another processor, or whose kernels are wrong there, does not say so:
it talks nonsense. So the first start of a build on a machine opens a tiny model that is a part of
this package (Gemma 3 in Q8_0, with windows and head norms) and compares greedy answers with those
that Transformers gave; every token in them was chosen by a clear margin. It takes a fraction of a
second, once: what was proved is kept in the cache folder, under the digests of the installed
files, of the processor's abilities and of the vector itself.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import sys
import threading
from pathlib import Path
from typing import Protocol

from agent.inference import engines
from agent.inference.engine import Engine, EngineOptions, Request
from artifacts import durable
from artifacts.persisting import Point
from protos.errors import WorkerFailed

FOLDER = Path(__file__).with_name("golden")
MODEL, VECTOR = "tiny.gguf", "vector.json"
CONTEXT = 256
# Whose library serves in the place of the installed one.
_OVERRIDE = "LLAMA_CPP_LIB_PATH"


class Opens(Protocol):
    """An engine's class, as far as it is needed."""

    def open(self, base: Path, options: EngineOptions) -> Engine: ...


def prove(name: str, engine_type: Opens, cache: Path | None) -> None:
    """Raises WorkerFailed when the engine's build gives wrong answers."""
    build = build_id(name)
    note = cache / "proved" / name if cache else None
    if note and note.is_file() and note.read_text() == build:
        return
    with engine_type.open(FOLDER / MODEL, EngineOptions(CONTEXT)) as engine:
        for case in json.loads((FOLDER / VECTOR).read_text()):
            _compare(name, engine, case["prompt"], case["tokens"])
    if note:
        try:
            durable.make_folder(note.parent)
            durable.write_bytes(note, build.encode(), Point.ENGINE_PROVED)
        except OSError as error:
            sys.stderr.write(f"The proof of {name} is not kept and will be made again: {error}.\n")


def build_id(name: str) -> str:
    """Another one after any change of what computes: packages, processor, or the vector."""
    facts = [platform.machine(), _abilities(), os.environ.get(_OVERRIDE, "")]
    for package in engines.named(name).packages:
        # The digest of every installed file is in there.
        facts.append(importlib.metadata.distribution(package).read_text("RECORD") or "")
    facts += [hashlib.sha256((FOLDER / file).read_bytes()).hexdigest() for file in (MODEL, VECTOR)]
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()


def _abilities() -> str:
    """What kernels are chosen by: the processor's model and its instruction sets."""
    text = Path("/proc/cpuinfo").read_text()
    named = re.findall(r"^(?:model name|CPU part|flags|Features)\s*:.*$", text, re.MULTILINE)
    return "\n".join(sorted(set(named)))


def _compare(name: str, engine: Engine, prompt: str, expected: list[int]) -> None:
    request = Request(prompt, max_tokens=len(expected))
    pieces = engine.generate(request, threading.Event())
    said = [token for piece in pieces for token in piece.token_ids]
    if said != expected:
        raise WorkerFailed(
            f"The inference engine {name} gives wrong answers on this machine.",
            why=f"After {prompt!r} its build says the tokens {said}; {expected} are right.",
            fix="It may have been built for another processor. Build it again: pip install "
            f"--force-reinstall --no-cache-dir 'nanofleet[{engines.named(name).extra}]'",
        )
