"""Building requests to a model from what a person says. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from artifacts.samples import AlpacaSample, ChatSample, CompletionSample, Sample
from protos.errors import InvalidRequest
from protos.nanofleet.v1 import inference_pb2

T = TypeVar("T")

ROLES = ("system", "user", "assistant")
PRIORITIES = {
    "low": inference_pb2.PRIORITY_LOW,
    "normal": inference_pb2.PRIORITY_NORMAL,
    "high": inference_pb2.PRIORITY_HIGH,
}
# Of texts or samples in one request: the device takes four times as many.
_BATCH = 64


def request(
    *,
    base_digest: str,
    adapter_digest: str,
    prompt: str,
    messages: Sequence[tuple[str, str]],
    max_tokens: int,
    sampling: inference_pb2.Sampling,
    stop: Sequence[str],
    gbnf: str = "",
    json_schema: str = "",
    top_logprobs: int | None = None,
    priority: str = "normal",
    deadline_s: float = 0.0,
) -> inference_pb2.GenerateRequest:
    """Either ``prompt``, text that is continued as it is, or ``messages`` of (role, content).

    A single ``stop`` may stand by itself.
    """
    if bool(prompt) == bool(messages):
        raise InvalidRequest(
            "Give either a prompt or messages.",
            why="A prompt is continued as it is; messages go through the model's chat template.",
            field="prompt",
        )
    if gbnf and json_schema:
        raise InvalidRequest(
            "Give either a grammar or a JSON schema.", why="An answer has one form.", field="gbnf"
        )
    wanted = inference_pb2.GenerateRequest(
        base_digest=base_digest,
        adapter_digest=adapter_digest,
        max_tokens=max_tokens,
        sampling=sampling,
        stop=[stop] if isinstance(stop, str) else stop,
        top_logprobs=top_logprobs,
        priority=priority_of(priority),
        deadline_s=deadline_s,
    )
    if prompt:
        wanted.prompt = prompt
    for role, content in messages:
        wanted.chat.messages.add(role=_checked(role), content=content)
    if gbnf:
        wanted.gbnf = gbnf
    if json_schema:
        wanted.json_schema = json_schema
    return wanted


def priority_of(name: str) -> "inference_pb2.Priority.ValueType":
    if name not in PRIORITIES:
        raise InvalidRequest(
            f"{name!r} is no priority.",
            fix=f"Priorities are {', '.join(PRIORITIES)}.",
            field="priority",
        )
    return PRIORITIES[name]


def score_item(sample: Sample) -> inference_pb2.ScoreItem:
    """What training makes of the sample; an instruction becomes a chat of two messages."""
    if isinstance(sample, CompletionSample):
        return inference_pb2.ScoreItem(prompt=sample.prompt, completion=sample.completion)
    if isinstance(sample, ChatSample):
        return _chat((message.role, message.content) for message in sample.messages)
    if isinstance(sample, AlpacaSample):
        given = f"\n\n{sample.input}" if sample.input else ""
        return _chat((("user", sample.instruction + given), ("assistant", sample.output)))
    return inference_pb2.ScoreItem(completion=sample.text)


def batches(things: Iterable[T]) -> Iterator[list[T]]:
    """As many at a time as go into one request."""
    left = iter(things)
    while batch := list(islice(left, _BATCH)):
        yield batch


def _chat(messages: Iterable[tuple[str, str]]) -> inference_pb2.ScoreItem:
    item = inference_pb2.ScoreItem()
    for role, content in messages:
        item.chat.messages.add(role=role, content=content)
    return item


def _checked(role: str) -> str:
    if role not in ROLES:
        raise InvalidRequest(
            f"{role!r} is no role of a message.",
            fix=f"Roles are {', '.join(ROLES)}.",
            field="messages",
        )
    return role
