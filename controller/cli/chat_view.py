"""How answers are shown: the text as it comes on stdout, the figures on stderr.

So a pipe gets the answer alone, and a terminal both.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from controller.cli import output, plain, units
from controller.cli.output import Format
from controller.cli.plain import Plain
from protos.nanofleet.v1 import inference_pb2

_REMARKS = {
    inference_pb2.FINISH_REASON_LENGTH: "cut off at the limit",
    inference_pb2.FINISH_REASON_LOOP: "stopped: it repeats itself",
    inference_pb2.FINISH_REASON_CANCELED: "canceled",
}


@dataclass(slots=True)
class Answer:
    """An answer while it arrives. ``title`` is empty when nobody is compared."""

    title: str
    adapter: str
    text: str = ""
    finish_reason: "inference_pb2.FinishReason.ValueType" = inference_pb2.FINISH_REASON_UNSPECIFIED
    usage: inference_pb2.Usage | None = None
    trained_base_digest: str = ""


def show_title(answer: Answer, form: Format) -> None:
    if form is Format.TABLE and answer.title:
        output.heading(f"{answer.title}:")


def show_part(answer: Answer, part: inference_pb2.GenerateResponse, form: Format) -> None:
    answer.text += part.text
    if part.finish_reason:
        answer.finish_reason = part.finish_reason
    if part.HasField("usage"):
        answer.usage = part.usage
    if part.trained_base_digest:
        answer.trained_base_digest = part.trained_base_digest
    if form is Format.TABLE:
        sys.stdout.write(part.text)
        sys.stdout.flush()
    elif form is Format.JSONL:
        output.line({"adapter": answer.adapter or None, **plain.message(part)})


def show_end(answer: Answer, form: Format) -> None:
    """Ends the line that the answer was written on; a terminal also learns how fast it was."""
    if form is not Format.TABLE:
        return
    if answer.text and not answer.text.endswith("\n"):
        output.text("")
    if sys.stderr.isatty() and answer.usage is not None:
        output.aside(figures(answer))
    elif answer.finish_reason in _REMARKS:
        output.note(f"({_REMARKS[answer.finish_reason]})")


def print_answers(answers: Sequence[Answer], form: Format) -> None:
    """The document of one-shot answers; a table and JSON lines were printed as they came."""
    if form in (Format.JSON, Format.YAML):
        output.whole({"answers": [as_plain(answer) for answer in answers]}, form)


def figures(answer: Answer) -> str:
    """``42 tokens, 28.4 tokens/s, first after 0.3 s``."""
    usage = answer.usage or inference_pb2.Usage()
    said = [
        f"{usage.completion_tokens} tokens",
        units.rate(usage.decode_tokens_per_s or None),
        f"first after {units.duration(usage.queue_s + usage.prefill_s)}",
    ]
    if usage.cached_tokens:
        said.append(f"{usage.cached_tokens} of {usage.prompt_tokens} prompt tokens cached")
    if remark := _REMARKS.get(answer.finish_reason):
        said.append(remark)
    return ", ".join(said)


def as_plain(answer: Answer) -> dict[str, Plain]:
    return {
        "adapter": answer.adapter or None,
        "trained_base_digest": answer.trained_base_digest or None,
        "text": answer.text,
        "finish_reason": plain.enum_name(
            inference_pb2.FinishReason.DESCRIPTOR, answer.finish_reason
        ),
        "usage": plain.message(answer.usage) if answer.usage is not None else None,
    }
