"""How a generated text is shown: the text alone on stdout, or all that is known of it."""

from dataclasses import dataclass, field

from controller.cli import chat_view, output, plain
from controller.cli.chat_view import Answer
from controller.cli.output import Format, Table
from controller.cli.plain import Plain
from protos.nanofleet.v1 import inference_pb2


@dataclass(slots=True)
class Generated:
    """While it arrives."""

    answer: Answer = field(default_factory=lambda: Answer("", ""))
    logprobs: list[inference_pb2.TokenLogprob] = field(default_factory=list)


def show_part(generated: Generated, part: inference_pb2.GenerateResponse, form: Format) -> None:
    generated.logprobs += part.logprobs
    if form is Format.JSONL:
        output.line({**plain.message(part), "logprobs": [_as_plain(e) for e in part.logprobs]})
    chat_view.show_part(generated.answer, part, Format.JSON if form is Format.JSONL else form)


def show_end(generated: Generated, form: Format) -> None:
    chat_view.show_end(generated.answer, form)


def print_whole(generated: Generated, form: Format) -> None:
    """The document; after a text that was printed as it came, the table of its tokens."""
    if form in (Format.JSON, Format.YAML):
        answer = chat_view.as_plain(generated.answer)
        del answer["adapter"]
        if generated.logprobs:
            answer["logprobs"] = [_as_plain(entry) for entry in generated.logprobs]
        output.whole({"answer": answer}, form)
    elif form is Format.TABLE and generated.logprobs:
        rows = [
            (
                _quoted(entry.chosen),
                f"{entry.chosen.logprob:.3f}",
                "  ".join(f"{_quoted(c)} {c.logprob:.3f}" for c in entry.top),
            )
            for entry in generated.logprobs
        ]
        output.listing("logprobs", [], Table(("TOKEN", "LOGPROB", "LIKELIEST"), rows), form)


def _as_plain(entry: inference_pb2.TokenLogprob) -> dict[str, Plain]:
    return {**_candidate(entry.chosen), "top": [_candidate(other) for other in entry.top]}


def _candidate(candidate: inference_pb2.Candidate) -> dict[str, Plain]:
    return {
        "token_id": candidate.token_id,
        "text": _text(candidate),
        "logprob": candidate.logprob,
    }


def _text(candidate: inference_pb2.Candidate) -> str:
    """A token may be half a character."""
    return candidate.piece.decode("utf-8", "replace")


def _quoted(candidate: inference_pb2.Candidate) -> str:
    return repr(_text(candidate))
