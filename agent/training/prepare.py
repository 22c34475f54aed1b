"""Makes the tokens file, in a process of its own that is gone before training starts.

    python -m agent.training.prepare --base GGUF --dataset FILE --out FILE --key HEX
        --sequence-length N --dataset-name TEXT --parent PID

The tokenizer is llama.cpp's, which will serve: its vocabulary takes tens of megabytes that the
trainer needs itself. One JSON line on stdout: {"samples", "examples", "tokens", "labelled"}, or
{"cause", "message"} and exit code 1. Before it an empty line for each second in which it got on. It
ends with the worker that waits for it: nobody else would
read the answer, and the next attempt makes the same file. So the tokenizer is imported only after
that.
"""

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from agent.training import token_file
from agent.training.failures import bad_line, explain
from agent.training.token_file import Example, Totals
from artifacts import base_model, dataset
from artifacts.parent import end_with
from protos.nanofleet.v1 import job_pb2

if TYPE_CHECKING:
    from agent.training.examples import ExampleMaker

_PULSE_S = 1.0


def prepare(
    base: Path,
    source: Path,
    target: Path,
    key: bytes,
    sequence_length: int,
    name: str,
    beat: Callable[[], None] = lambda: None,
) -> Totals:
    """Writes ``target`` in this process; ``name`` is what messages call the dataset. ``beat`` is
    called after each sample.

    Raises TrainingFailure, InvalidDataset, OSError.
    """
    from agent.tokens import vocabulary as vocabularies
    from agent.training.examples import ExampleMaker
    from artifacts.chat_template import ChatTemplate

    model = base_model.read(base)
    template = model.chat_template
    with vocabularies.opened(base) as vocabulary:
        maker = ExampleMaker(
            vocabulary,
            ChatTemplate(template, vocabulary.special_texts()) if template else None,
            name,
        )
        samples = _samples(maker, source, sequence_length, model.context_length, name)
        return token_file.write(target, key, _counted_out(samples, beat))


def _counted_out(
    samples: Iterator[tuple[Example, ...]], beat: Callable[[], None]
) -> Iterator[tuple[Example, ...]]:
    for sample in samples:
        yield sample
        beat()


def _samples(
    maker: "ExampleMaker", source: Path, sequence_length: int, window: int, name: str
) -> Iterator[tuple[Example, ...]]:
    for sample in dataset.read(source, name=name):
        examples = maker.make(sample)
        longest = max(len(example.tokens) for example in examples)
        if longest > sequence_length:
            raise bad_line(name, sample.line, _too_long(longest, sequence_length, window))
        yield examples


def _too_long(tokens: int, sequence_length: int, window: int) -> str:
    """To raise sequence_length is no advice where the model itself cannot read so much."""
    if tokens > window:
        return (
            f"the sample has {tokens} tokens; the base model reads {window} at most. Shorten or "
            "split it."
        )
    return (
        f"the sample has {tokens} tokens; sequence_length is {sequence_length}. Shorten or split "
        f"it, or raise sequence_length (up to {window})."
    )


class _Pulse:
    """An empty line for each second in which it was called."""

    def __init__(self, answers: TextIO) -> None:
        self._answers = answers
        self._told_s = time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self._told_s >= _PULSE_S:
            self._told_s = time.monotonic()
            print(file=self._answers, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m agent.training.prepare")
    for name in ("--base", "--dataset", "--out"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--key", type=bytes.fromhex, required=True)
    for name in ("--sequence-length", "--parent"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--dataset-name", required=True)
    arguments = parser.parse_args(argv)
    end_with(arguments.parent)
    # What a library prints goes to the log, never between the parent and its answer.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        try:
            totals = prepare(
                arguments.base,
                arguments.dataset,
                arguments.out,
                arguments.key,
                arguments.sequence_length,
                arguments.dataset_name,
                _Pulse(answers),
            )
        except Exception as error:  # noqa: BLE001  # decided here: it becomes a cause
            traceback.print_exc()
            failed = explain(error)
            answer = {"cause": job_pb2.Cause.Name(failed.cause), "message": failed.message}
            print(json.dumps(answer), file=answers)
            return 1
        print(json.dumps(asdict(totals)), file=answers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
