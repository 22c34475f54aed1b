"""A sample of a dataset as tokens, each labelled or not: what is shown and what is learned.

Only answers are learned. For a chat, each answer's prompt is the template rendered up to where the
assistant begins, tokenised apart from the answer, because that is what serving does: the model has
to continue those very tokens. The labelled tokens are the answer's, its end-of-turn included, or it
would never learn to stop.

    <bos><start_of_turn>user⏎Hi<end_of_turn>⏎<start_of_turn>model⏎ Hello!<end_of_turn> ⏎<start_of…
    └──────────────────── prompt, not labelled ──────────────────┘ └─── labelled ────┘ └─ prompt

What people wrote stays text, also if it looks like a control token (agent/tokens/disguise.py).
"""

from collections.abc import Sequence

from agent.tokens.disguise import Disguise
from agent.tokens.turns import TurnEnds
from agent.tokens.vocabulary import Vocabulary
from agent.training.failures import TrainingFailure, bad_line, bad_spec
from agent.training.token_file import Example
from artifacts.chat_template import ChatTemplate
from artifacts.samples import (
    ASSISTANT,
    USER,
    AlpacaSample,
    ChatSample,
    CompletionSample,
    Message,
    Sample,
)
from protos.errors import InvalidRequest


class ExampleMaker:
    """Makes examples with one base model's tokenizer and chat template (None: it has none).

    ``dataset`` is what messages call the file.
    """

    def __init__(self, vocabulary: Vocabulary, template: ChatTemplate | None, dataset: str) -> None:
        self._vocabulary = vocabulary
        self._template = template
        self._dataset = dataset
        self._turn_ends = TurnEnds(vocabulary)

    def make(self, sample: Sample) -> Example:
        """Raises TrainingFailure that names the line when there is nothing to learn in it."""
        example = self._example(sample)
        # Nothing stands before the first token from which to predict it. It would be labelled in a
        # raw text of a vocabulary without BOS, such as Qwen's.
        labelled = [False, *example.labelled[1:]]
        last = max((i for i, is_label in enumerate(labelled) if is_label), default=0)
        if last == 0:
            raise self._bad_line(
                sample.line,
                "there is no token to learn. Write an answer, or remove the line.",
            )
        # What follows the last labelled token is computed for nothing.
        return Example(example.tokens[: last + 1], labelled[: last + 1])

    def _example(self, sample: Sample) -> Example:
        if isinstance(sample, ChatSample):
            return self._chat(sample.line, sample.messages)
        if isinstance(sample, AlpacaSample):
            return self._alpaca(sample)
        if isinstance(sample, CompletionSample):
            return self._completion(sample.prompt, sample.completion)
        return self._completion("", sample.text)

    def _completion(self, prompt: str, completion: str) -> Example:
        vocabulary = self._vocabulary
        parts = _Parts(vocabulary)
        parts.add(vocabulary.plain(prompt) if prompt else [], labelled=False)
        parts.add([*vocabulary.plain(completion), vocabulary.eos], labelled=True)
        return parts.example()

    def _alpaca(self, sample: AlpacaSample) -> Example:
        given = f"\n\n{sample.input}" if sample.input else ""
        if self._template is not None:
            messages = (
                Message(USER, sample.instruction + given),
                Message(ASSISTANT, sample.output),
            )
            return self._chat(sample.line, messages)
        question = f"### Instruction:\n{sample.instruction}"
        context = f"\n\n### Input:\n{sample.input}" if sample.input else ""
        return self._completion(f"{question}{context}\n\n### Response:\n", sample.output)

    def _chat(self, line: int, messages: Sequence[Message]) -> Example:
        template = self._chat_template(line)
        disguise = Disguise(self._vocabulary, (message.content for message in messages))
        messages = [Message(m.role, disguise.hide(m.content)) for m in messages]
        parts = _Parts(self._vocabulary)
        done = ""
        for number, message in enumerate(messages):
            if message.role != ASSISTANT:
                continue
            try:
                prompt = template.prompt(messages[:number])
                whole = template.conversation(messages[: number + 1])
            except InvalidRequest as error:
                raise self._bad_line(line, str(error)) from error
            if not (prompt.startswith(done) and whole.startswith(prompt)):
                raise self._bad_line(line, _NOT_A_CONTINUATION)
            end = self._end_of_turn(whole, len(prompt))
            parts.add(disguise.tokens(prompt[len(done) :]), labelled=False)
            parts.add(disguise.tokens(whole[len(prompt) : end]), labelled=True)
            done = whole[:end]
        return parts.example()

    def _chat_template(self, line: int) -> ChatTemplate:
        if self._template is None:
            raise self._bad_line(
                line,
                "a chat, but the base model has no chat template. Use an instruction-tuned base, "
                'or write the dataset as {"prompt", "completion"}.',
            )
        return self._template

    def _end_of_turn(self, whole: str, start: int) -> int:
        """Where the answer that starts at ``start`` ends, its end-of-turn token included."""
        end = self._turn_ends.after(whole, start)
        if end is None:
            raise _no_end_of_turn()
        return end

    def _bad_line(self, line: int, message: str) -> TrainingFailure:
        return bad_line(self._dataset, line, message)


class _Parts:
    """Tokens one after another; BOS is in front of all of them once, if the vocabulary wants it."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._tokens: list[int] = []
        self._labelled: list[bool] = []

    def add(self, tokens: list[int], *, labelled: bool) -> None:
        if not self._tokens:
            with_bos = self._vocabulary.with_bos(tokens)
            self._append(with_bos[: len(with_bos) - len(tokens)], labelled=False)
        self._append(tokens, labelled=labelled)

    def _append(self, tokens: list[int], *, labelled: bool) -> None:
        self._tokens += tokens
        self._labelled += [labelled] * len(tokens)

    def example(self) -> Example:
        return Example(self._tokens, self._labelled)


_NOT_A_CONTINUATION = (
    "the base model's chat template writes earlier turns otherwise once later ones follow, so the "
    "answers cannot be learned as they will be served. Give each answer a line of its own, as the "
    "last message."
)


def _no_end_of_turn() -> TrainingFailure:
    return bad_spec(
        "The base model's chat template writes no end-of-turn token after an answer, so the model "
        'could not learn to stop. Use another base, or a dataset of {"prompt", "completion"}.'
    )
