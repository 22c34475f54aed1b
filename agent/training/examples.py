"""A sample of a dataset as examples: tokens, each labelled or not; what is shown, what is learned.

Only answers are learned. For a chat, each answer's prompt is the template rendered up to where the
assistant begins, tokenised apart from the answer, because that is what serving does: the model has
to continue those very tokens. The labelled tokens are the answer's, its end-of-turn included, or it
would never learn to stop.

    <bos><start_of_turn>user⏎Hi<end_of_turn>⏎<start_of_turn>model⏎ Hello!<end_of_turn> ⏎<start_of…
    └──────────────────── prompt, not labelled ──────────────────┘ └─── labelled ────┘ └─ prompt

Where the template writes earlier turns otherwise once later ones follow (Qwen 3's leaves the
thoughts of all but the last answer out), a conversation is no such line: it becomes several
examples, each with the prompt as it is rendered for its own answer, and that answer labelled.

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

    def make(self, sample: Sample) -> tuple[Example, ...]:
        """Mostly one; raises TrainingFailure that names the line when there is nothing to learn."""
        found = tuple(filter(None, map(_trimmed, self._examples(sample))))
        if not found:
            raise self._bad_line(
                sample.line,
                "there is no token to learn. Write an answer, or remove the line.",
            )
        return found

    def _examples(self, sample: Sample) -> list[Example]:
        if isinstance(sample, ChatSample):
            return self._chat(sample.line, sample.messages)
        if isinstance(sample, AlpacaSample):
            return self._alpaca(sample)
        if isinstance(sample, CompletionSample):
            return [self._completion(sample.prompt, sample.completion)]
        return [self._completion("", sample.text)]

    def _completion(self, prompt: str, completion: str) -> Example:
        vocabulary = self._vocabulary
        parts = _Parts(vocabulary)
        parts.add(vocabulary.plain(prompt) if prompt else [], labelled=False)
        parts.add([*vocabulary.plain(completion), vocabulary.eos], labelled=True)
        return parts.example()

    def _alpaca(self, sample: AlpacaSample) -> list[Example]:
        given = f"\n\n{sample.input}" if sample.input else ""
        if self._template is not None:
            messages = (
                Message(USER, sample.instruction + given),
                Message(ASSISTANT, sample.output),
            )
            return self._chat(sample.line, messages)
        question = f"### Instruction:\n{sample.instruction}"
        context = f"\n\n### Input:\n{sample.input}" if sample.input else ""
        prompt = f"{question}{context}\n\n### Response:\n"
        return [self._completion(prompt, sample.output)]

    def _chat(self, line: int, messages: Sequence[Message]) -> list[Example]:
        template = self._chat_template(line)
        disguise = Disguise(self._vocabulary, (message.content for message in messages))
        messages = [Message(m.role, disguise.hide(m.content)) for m in messages]
        examples, parts, done = [], _Parts(self._vocabulary), ""
        for number, message in enumerate(messages):
            if message.role != ASSISTANT:
                continue
            try:
                prompt = template.prompt(messages[:number])
                whole = template.conversation(messages[: number + 1])
            except InvalidRequest as error:
                raise self._bad_line(line, str(error)) from error
            if not whole.startswith(prompt):
                raise self._bad_line(line, _NO_ANSWER_TO_ITS_PROMPT)
            if not prompt.startswith(done):
                examples.append(parts.example())
                parts, done = _Parts(self._vocabulary), ""
            end = self._end_of_turn(whole, len(prompt))
            parts.add(disguise.tokens(prompt[len(done) :]), labelled=False)
            parts.add(disguise.tokens(whole[len(prompt) : end]), labelled=True)
            done = whole[:end]
        return [*examples, parts.example()]

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


def _trimmed(example: Example) -> Example | None:
    """Without what is computed for nothing, after the last labelled token; None if there is none.

    Nothing stands before the first token from which to predict it. It would be labelled in a raw
    text of a vocabulary without BOS, such as Qwen's.
    """
    labelled = [False, *example.labelled[1:]]
    length = max((place + 1 for place, is_label in enumerate(labelled) if is_label), default=0)
    return Example(example.tokens[:length], labelled[:length]) if length else None


_NO_ANSWER_TO_ITS_PROMPT = (
    "the base model's chat template writes the turns before an answer otherwise once the answer is "
    "there, so it cannot be learned as it will be served. Use another base, or write the dataset "
    'as {"prompt", "completion"}.'
)


def _no_end_of_turn() -> TrainingFailure:
    return bad_spec(
        "The base model's chat template writes no end-of-turn token after an answer, so the model "
        'could not learn to stop. Use another base, or a dataset of {"prompt", "completion"}.'
    )
