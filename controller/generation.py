"""Building a GenerateRequest from what a person says. Pure."""

from collections.abc import Sequence

from protos.errors import InvalidRequest
from protos.nanofleet.v1 import inference_pb2

ROLES = ("system", "user", "assistant")


def request(
    *,
    base_digest: str,
    adapter_digest: str,
    prompt: str,
    messages: Sequence[tuple[str, str]],
    max_tokens: int,
    sampling: inference_pb2.Sampling,
    stop: Sequence[str],
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
    wanted = inference_pb2.GenerateRequest(
        base_digest=base_digest,
        adapter_digest=adapter_digest,
        max_tokens=max_tokens,
        sampling=sampling,
        stop=[stop] if isinstance(stop, str) else stop,
    )
    if prompt:
        wanted.prompt = prompt
    for role, content in messages:
        wanted.chat.messages.add(role=_checked(role), content=content)
    return wanted


def _checked(role: str) -> str:
    if role not in ROLES:
        raise InvalidRequest(
            f"{role!r} is no role of a message.",
            fix=f"Roles are {', '.join(ROLES)}.",
            field="messages",
        )
    return role
