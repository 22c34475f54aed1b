"""What can be wrong with one request: an error with a stable reason for each, and what to do.

A reason travels as GenerationFailed.reason and then as google.rpc.ErrorInfo; clients decide by it.
None of these ends the worker: the next request is served. ``received`` is for the agent's side of
the pipe, which raises the same error again.
"""

from collections.abc import Mapping

from protos import errors
from protos.errors import Busy, InvalidRequest, NanofleetError, Refused, TimedOut
from protos.nanofleet.v1.worker_pb2 import GenerationFailed

PROMPT_TOO_LONG = "PROMPT_TOO_LONG"
ADAPTER_UNUSABLE = "ADAPTER_UNUSABLE"
NO_CHAT_TEMPLATE = "NO_CHAT_TEMPLATE"
NON_FINITE_LOGITS = "NON_FINITE_LOGITS"
INVALID_SAMPLING = "INVALID_SAMPLING"
INVALID_GRAMMAR = "INVALID_GRAMMAR"
UNSUPPORTED_FEATURE = "UNSUPPORTED_FEATURE"
DEADLINE_PASSED = "DEADLINE_PASSED"
BUSY = Busy.default_reason

# Which error each reason stands for: ours, and those that go by the reason of their type.
TYPES: Mapping[str, type[NanofleetError]] = {
    **{kind.default_reason: kind for kind in errors.tree()},
    PROMPT_TOO_LONG: InvalidRequest,
    INVALID_SAMPLING: InvalidRequest,
    ADAPTER_UNUSABLE: Refused,
    NO_CHAT_TEMPLATE: Refused,
    NON_FINITE_LOGITS: Refused,
    INVALID_GRAMMAR: InvalidRequest,
    UNSUPPORTED_FEATURE: Refused,
    DEADLINE_PASSED: TimedOut,
}


def received(failed: GenerationFailed) -> NanofleetError:
    """The error that the worker reported. What it refuses for an unknown reason, it refuses for
    what is in the request."""
    return TYPES.get(failed.reason, InvalidRequest)(
        failed.message,
        why=failed.why,
        fix=failed.fix,
        reason=failed.reason,
        field=failed.field,
        retry_after_s=failed.retry_after_s if failed.HasField("retry_after_s") else None,
    )


def prompt_too_long(prompt_tokens: int, context_length: int) -> InvalidRequest:
    return InvalidRequest(
        f"The prompt has {prompt_tokens} tokens; the context has {context_length}.",
        why="One token at least must be free for the answer.",
        fix="Shorten the prompt, or load the model with a larger context_length.",
        reason=PROMPT_TOO_LONG,
        field="prompt",
    )


def adapter_unusable(digest: str, why: str) -> Refused:
    return Refused(
        f"The adapter {digest[:19]} cannot be used.",
        why=why,
        fix="Check that it was trained on this base model, and fetch it again if it is damaged.",
        reason=ADAPTER_UNUSABLE,
        field="adapter_digest",
    )


def no_chat_template() -> Refused:
    return Refused(
        "The base model has no chat template.",
        why="Messages can only be turned into a prompt by the template in the model's GGUF file.",
        fix="Send a plain prompt, or import an instruction-tuned model.",
        reason=NO_CHAT_TEMPLATE,
        field="chat",
    )


def adapter_not_finite() -> Refused:
    return Refused(
        "The model's output is not finite with this adapter: no token can be chosen from it.",
        why="A weight of the adapter is damaged, or its training diverged.",
        fix="Train it again with a lower learning rate; the base model alone may still answer.",
        reason=NON_FINITE_LOGITS,
        field="adapter_digest",
    )


def base_not_finite() -> Refused:
    return Refused(
        "The model's output is not finite: no token can be chosen from it.",
        why="A weight of the base model is damaged, or overflows for this prompt.",
        fix="Import the base model again.",
        reason=NON_FINITE_LOGITS,
    )


def text_too_long(tokens: int, context_length: int, field: str) -> InvalidRequest:
    return InvalidRequest(
        f"A text has {tokens} tokens; the context has {context_length}.",
        why="All of it has to be read at once.",
        fix="Split it, or load the model with a larger context_length.",
        reason=PROMPT_TOO_LONG,
        field=field,
    )


def nothing_to_read(field: str) -> InvalidRequest:
    return InvalidRequest(
        "There is nothing to read in one of the texts, or in all of them.",
        fix="Leave out what is empty.",
        field=field,
    )


def unusable_base(file: str) -> InvalidRequest:
    return InvalidRequest(
        f"{file} is unusable: its output is not finite.", fix="Import the base model again."
    )


def invalid_sampling(name: str, value: object, allowed: str) -> InvalidRequest:
    return InvalidRequest(
        f"{name} is {value}.",
        why=f"It must be {allowed}.",
        reason=INVALID_SAMPLING,
        field=f"sampling.{name}",
    )


def too_many_logprobs(asked: int, most: int) -> InvalidRequest:
    return InvalidRequest(
        f"top_logprobs is {asked}.",
        why=f"At most {most} likeliest tokens come with each token.",
        reason=INVALID_SAMPLING,
        field="top_logprobs",
    )


def nothing_allowed() -> InvalidRequest:
    return InvalidRequest(
        "Every token of the vocabulary is forbidden.",
        why="logit_bias, suppress_tokens and suppress_texts leave none.",
        fix="Leave one token at least that can be chosen.",
        reason=INVALID_SAMPLING,
        field="sampling.logit_bias",
    )


def nothing_left() -> InvalidRequest:
    return InvalidRequest(
        "The answer cannot go on.",
        why="What may come next by the grammar is suppressed, or no token of this model spells it.",
        fix="Suppress less, or allow more in the grammar.",
        reason=INVALID_SAMPLING,
        field="grammar",
    )


def invalid_grammar(
    why: str, field: str = "gbnf", fix: str = "Mend it, and send the request again."
) -> InvalidRequest:
    return InvalidRequest(
        "The grammar does not compile." if field == "gbnf" else "The JSON schema cannot be used.",
        why=why,
        fix=fix,
        reason=INVALID_GRAMMAR,
        field=field,
    )


def unknown_role(role: str) -> InvalidRequest:
    return InvalidRequest(
        f"The role {role[:40]!r} is unknown.",
        why="Each message is from the system, the user or the assistant.",
        fix='Use one of "system", "user" and "assistant".',
        field="chat",
    )


def no_answer() -> InvalidRequest:
    return InvalidRequest(
        "There is no answer to score in one of the chats.",
        why="No message is the assistant's, or the template does not end its turn.",
        fix="Add the answer, or score a prompt and a completion.",
        field="items",
    )


def empty_prompt() -> InvalidRequest:
    return InvalidRequest("The prompt is empty.", fix="Send a prompt or messages.", field="prompt")


def empty_stop() -> InvalidRequest:
    return InvalidRequest(
        "A stop string is empty.", why="It would stop every answer at once.", field="stop"
    )


def deadline_passed(waited_s: float) -> TimedOut:
    return TimedOut(
        f"The request's turn did not come within its deadline: it has waited {waited_s:.1f} s.",
        why="Others were before it; nothing of it was computed.",
        fix="Send it again with a later deadline or a higher priority.",
        reason=DEADLINE_PASSED,
    )


def busy(waiting: int, retry_after_s: float) -> Busy:
    return Busy(
        f"{waiting} requests are under way or wait already.",
        fix=f"Try again after {retry_after_s:.1f} s.",
        reason=BUSY,
        retry_after_s=retry_after_s,
    )
