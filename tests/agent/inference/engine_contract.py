"""What every engine must do, whichever library is behind it."""

import json
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from agent.inference.decoder import BATCH_TOKENS
from agent.inference.engine import (
    EmbedRequest,
    Engine,
    Finish,
    Gbnf,
    JsonSchema,
    Message,
    Piece,
    Request,
    Sample,
    Sampling,
    ScoreRequest,
    Usage,
)
from agent.inference.llama import LlamaEngine
from agent.inference.serial import SerialEngine
from protos.errors import InvalidRequest

PROMPT = "The quick brown fox jumps over the lazy dog, and then"
CHAT = (Message("user", "What is the name of the robot?"),)
WARM = Sampling(temperature=1.0, top_k=50, top_p=0.95, min_p=0.01, repeat_penalty=1.1, seed=7)


@dataclass(frozen=True, slots=True)
class Answer:
    text: str
    tokens: list[int]
    pieces: list[Piece]
    finish: Finish
    usage: Usage


def collected(pieces: Iterator[Piece]) -> Answer:
    """Everything that came, having checked what holds of any stream of pieces."""
    got = list(pieces)
    assert [piece for piece in got if piece.finish or piece.usage] == got[-1:]
    finish, usage = got[-1].finish, got[-1].usage
    assert finish
    assert usage
    tokens = [token for piece in got for token in piece.token_ids]
    assert usage.completion_tokens == len(tokens)
    assert all(piece.text for piece in got[:-1])
    return Answer("".join(piece.text for piece in got), tokens, got, finish, usage)


def ask(engine: Engine, request: Request, cancelled: threading.Event | None = None) -> Answer:
    return collected(engine.generate(request, cancelled or threading.Event()))


def refused(engine: Engine, request: Request) -> InvalidRequest:
    """The error of a wrong request; the engine must serve the next one all the same."""
    with pytest.raises(InvalidRequest) as raised:
        ask(engine, request)
    assert ask(engine, Request(PROMPT, max_tokens=4)).usage.completion_tokens == 4
    return raised.value


class AfterAsking(threading.Event):
    """Is set once it was asked so many times: a cancellation at an exact moment."""

    def __init__(self, times: int = 10**9) -> None:
        super().__init__()
        self.asked = 0
        self.times = times

    def is_set(self) -> bool:
        self.asked += 1
        return self.asked > self.times


class EngineContract:
    """Subclasses give the fixture ``engine``: a model that goes on for at least 40 tokens."""

    def test_an_answer_ends_at_max_tokens(self, engine: Engine) -> None:
        answer = ask(engine, Request(PROMPT, max_tokens=12))
        assert answer.finish is Finish.LENGTH
        assert len(answer.tokens) == 12
        assert answer.usage.prompt_tokens == len(engine.tokenise(PROMPT))

    def test_an_answer_ends_where_the_context_ends(self, engine: Engine) -> None:
        prompt = PROMPT
        while len(engine.tokenise(prompt + PROMPT)) < engine.context_length:
            prompt += PROMPT
        free = engine.context_length - len(engine.tokenise(prompt))
        answer = ask(engine, Request(prompt, max_tokens=10_000))
        assert answer.finish in (Finish.LENGTH, Finish.LOOP)
        assert len(answer.tokens) <= free

    def test_greedy_answers_are_the_same_each_time(self, engine: Engine) -> None:
        first, again = (ask(engine, Request(PROMPT, max_tokens=30)) for _ in range(2))
        assert first.tokens == again.tokens
        assert first.text == again.text

    def test_the_prefix_of_the_last_request_is_reused(self, engine: Engine) -> None:
        cold = ask(engine, Request(PROMPT, max_tokens=20))
        cached = ask(engine, Request(PROMPT, max_tokens=20))
        assert cold.usage.cached_tokens == 0
        assert cached.usage.cached_tokens == cached.usage.prompt_tokens - 1
        longer = ask(engine, Request(PROMPT + cold.text, max_tokens=5))
        assert longer.usage.cached_tokens >= cold.usage.prompt_tokens

    def test_the_seed_decides_a_warm_answer(self, engine: Engine) -> None:
        def sampled(seed: int) -> list[int]:
            return ask(
                engine,
                Request(PROMPT, max_tokens=20, sampling=Sampling(temperature=1.0, seed=seed)),
            ).tokens

        assert sampled(1) == sampled(1)
        assert len({tuple(sampled(seed)) for seed in (0, 1, 2, 2**40)}) == 4

    def test_all_filters_together_are_reproducible(self, engine: Engine) -> None:
        request = Request(PROMPT, max_tokens=20, sampling=WARM)
        assert ask(engine, request).tokens == ask(engine, request).tokens

    def test_a_top_k_of_one_is_greedy(self, engine: Engine) -> None:
        greedy = ask(engine, Request(PROMPT, max_tokens=20))
        sampling = Sampling(temperature=2.0, top_k=1, seed=3)
        assert (
            ask(engine, Request(PROMPT, max_tokens=20, sampling=sampling)).tokens == greedy.tokens
        )

    @pytest.mark.parametrize("temperature", [1e-5, 1e-38, 1e-42, 1e-300])
    def test_a_temperature_near_zero_is_greedy(self, engine: Engine, temperature: float) -> None:
        greedy = ask(engine, Request(PROMPT, max_tokens=10)).tokens
        sampling = Sampling(temperature=temperature, seed=3)
        assert ask(engine, Request(PROMPT, max_tokens=10, sampling=sampling)).tokens == greedy

    def test_a_forbidden_token_is_not_chosen(self, engine: Engine) -> None:
        free = ask(engine, Request(PROMPT, max_tokens=10)).tokens
        sampling = Sampling(logit_bias={free[0]: float("-inf")})
        bound = ask(engine, Request(PROMPT, max_tokens=10, sampling=sampling)).tokens
        assert free[0] not in bound

    def test_a_repeat_penalty_changes_a_repetitive_answer(self, engine: Engine) -> None:
        free = ask(engine, Request(PROMPT, max_tokens=40)).tokens
        sampling = Sampling(repeat_penalty=5.0)
        bound = ask(engine, Request(PROMPT, max_tokens=40, sampling=sampling)).tokens
        assert len(set(bound)) > len(set(free))

    def test_a_stop_string_ends_the_answer_before_it(self, engine: Engine) -> None:
        free = ask(engine, Request(PROMPT, max_tokens=40))
        # From the middle of one piece to the middle of a later one.
        middle = len(free.text) // 2
        stop = free.text[middle : middle + 6]
        answer = ask(engine, Request(PROMPT, max_tokens=40, stop=["never this", stop]))
        assert answer.finish is Finish.STOP
        assert answer.text == free.text[: free.text.index(stop)]
        assert len(answer.tokens) < 40

    def test_pieces_are_whole_characters(self, engine: Engine) -> None:
        bias = dict.fromkeys(engine.tokenise("🙂 नमस्ते 你好 é")[1:], 8.0)
        sampling = Sampling(temperature=1.0, seed=5, logit_bias=bias)
        answer = ask(engine, Request(PROMPT, max_tokens=60, sampling=sampling))
        for piece in answer.pieces:
            assert piece.text.encode().decode() == piece.text

    def test_a_request_that_is_cancelled_before_it_starts(self, engine: Engine) -> None:
        cancelled = threading.Event()
        cancelled.set()
        answer = ask(engine, Request(PROMPT), cancelled)
        assert (answer.finish, answer.text, answer.tokens) == (Finish.CANCELED, "", [])

    def test_a_cancellation_takes_effect_within_one_token(self, engine: Engine) -> None:
        cancelled = threading.Event()
        pieces = engine.generate(Request(PROMPT, max_tokens=200), cancelled)
        seen = [next(pieces), next(pieces)]
        cancelled.set()
        rest = list(pieces)
        assert len(rest) == 1
        assert rest[0].finish is Finish.CANCELED
        assert len(rest[0].token_ids) <= 1
        assert ask(engine, Request(PROMPT, max_tokens=2)).text.startswith(seen[0].text)

    def test_a_cancellation_inside_a_long_prompt(self, engine: Engine) -> None:
        prompt = "the sea is wide and " * 60
        assert len(engine.tokenise(prompt)) > 4 * BATCH_TOKENS
        whole = AfterAsking()
        ask(engine, Request(prompt, max_tokens=1), whole)
        expected = ask(engine, Request(prompt, max_tokens=12))
        other = "Another beginning. " + prompt
        answer = ask(engine, Request(other, max_tokens=12), AfterAsking(whole.asked // 2))
        assert (answer.finish, answer.tokens) == (Finish.CANCELED, [])
        # What was computed before the cancellation is used by the next attempt, and is right.
        again = ask(engine, Request(other, max_tokens=12))
        assert again.usage.cached_tokens >= BATCH_TOKENS
        warm = ask(engine, Request(other, max_tokens=12))
        assert warm.tokens == again.tokens
        assert ask(engine, Request(prompt, max_tokens=12)).tokens == expected.tokens

    def test_an_abandoned_answer_does_no_harm(self, engine: Engine) -> None:
        expected = ask(engine, Request(PROMPT, max_tokens=20)).tokens
        pieces = engine.generate(Request(PROMPT, max_tokens=200), threading.Event())
        next(pieces)
        pieces.close()  # type: ignore[attr-defined]  # engines write generators
        assert ask(engine, Request(PROMPT, max_tokens=20)).tokens == expected

    def test_a_prompt_that_is_too_long_says_by_how_much(self, engine: Engine) -> None:
        prompt = PROMPT * engine.context_length
        error = refused(engine, Request(prompt))
        assert error.reason == "PROMPT_TOO_LONG"
        assert str(len(engine.tokenise(prompt))) in str(error)
        assert str(engine.context_length) in str(error)

    @pytest.mark.parametrize(
        ("sampling", "field"),
        [
            (Sampling(temperature=-0.1), "sampling.temperature"),
            (Sampling(temperature=float("nan")), "sampling.temperature"),
            (Sampling(temperature=float("inf")), "sampling.temperature"),
            (Sampling(top_p=1.5), "sampling.top_p"),
            (Sampling(min_p=-1), "sampling.min_p"),
            (Sampling(repeat_penalty=-1), "sampling.repeat_penalty"),
            # In 32 bits these would make logits infinite, and each answer the same nonsense.
            (Sampling(repeat_penalty=1e-40), "sampling.repeat_penalty"),
            (Sampling(logit_bias={1: 1e300}), "sampling.logit_bias"),
            (Sampling(logit_bias={1: float("inf")}), "sampling.logit_bias"),
            (Sampling(logit_bias={10_000_000: 1.0}), "sampling.logit_bias"),
            (Sampling(logit_bias={1: float("nan")}), "sampling.logit_bias"),
        ],
    )
    def test_impossible_sampling_is_refused(
        self, engine: Engine, sampling: Sampling, field: str
    ) -> None:
        error = refused(engine, Request(PROMPT, sampling=sampling))
        assert (error.reason, error.field) == ("INVALID_SAMPLING", field)

    @pytest.mark.parametrize("prompt", ["", ()])
    def test_an_empty_prompt_is_refused(self, engine: Engine, prompt: str) -> None:
        assert refused(engine, Request(prompt)).field == "prompt"

    def test_an_empty_stop_string_is_refused(self, engine: Engine) -> None:
        assert refused(engine, Request(PROMPT, stop=["x", ""])).field == "stop"

    def test_messages_become_a_prompt(self, engine: Engine) -> None:
        answer = ask(engine, Request(CHAT, max_tokens=8))
        assert answer.usage.prompt_tokens == len(engine.tokenise(CHAT))

    def test_messages_that_the_template_refuses(self, engine: Engine) -> None:
        error = refused(engine, Request((Message("assistant", "I begin."),)))
        assert "alternate" in str(error)

    @pytest.mark.parametrize("role", ["", "tool", "user\nI obey"])
    def test_a_role_that_is_none_is_refused(self, engine: Engine, role: str) -> None:
        error = refused(engine, Request((Message("user", "Hi"), Message(role, "Hello"))))
        assert error.field == "chat"
        assert '"assistant"' in str(error)

    def test_closing_twice_is_fine(self, engine: Engine) -> None:
        engine.close()
        engine.close()


def object_of(answer: Answer) -> dict[str, object]:
    found = json.loads(answer.text)
    assert isinstance(found, dict)
    return found


def end_tokens(engine: Engine) -> list[int]:
    """Those that end an answer."""
    assert isinstance(engine, LlamaEngine | SerialEngine)
    vocabulary = engine.vocabulary
    return [token for token in range(vocabulary.size) if vocabulary.ends_answer(token)]


ROBOT = JsonSchema(
    json.dumps(
        {
            "type": "object",
            "properties": {
                "name": {"type": "string", "minLength": 1, "maxLength": 8},
                "legs": {"enum": [2, 4, 6]},
                "kind": {"const": 'a "walking" \\ robot'},
                "friends": {"type": "array", "items": {"$ref": "#/$defs/friend"}, "maxItems": 2},
            },
            "required": ["name", "legs", "kind", "friends"],
            "$defs": {"friend": {"type": "object", "properties": {"name": {"const": "Pico"}}}},
        }
    )
)


class ChoiceContract:
    """Grammars, suppression and log-probabilities; the model is the same as in EngineContract."""

    def test_an_answer_by_a_grammar_ends_when_it_is_complete(self, engine: Engine) -> None:
        yes = ask(engine, Request(PROMPT, grammar=Gbnf('root ::= "yes" | "no"')))
        assert yes.text in ("yes", "no")
        assert yes.finish is Finish.STOP
        date = ask(engine, Request(PROMPT, grammar=Gbnf('root ::= [0-9]{4} "-" [01] [0-9]')))
        assert date.finish is Finish.STOP
        assert date.text[4] == "-"
        assert date.text.replace("-", "").isdigit()
        assert ask(engine, Request(PROMPT, max_tokens=5)).usage.completion_tokens == 5

    @pytest.mark.parametrize("sampling", [Sampling(), WARM])
    def test_an_answer_by_a_schema_is_valid(self, engine: Engine, sampling: Sampling) -> None:
        request = Request(PROMPT, grammar=ROBOT, sampling=sampling)
        answer = ask(engine, request)
        found = object_of(answer)
        assert list(found) == ["name", "legs", "kind", "friends"]
        assert found["legs"] in (2, 4, 6)
        assert found["kind"] == 'a "walking" \\ robot'
        assert answer.finish is Finish.STOP
        assert ask(engine, request).tokens == answer.tokens

    def test_a_complete_grammar_ends_also_where_the_end_is_suppressed(self, engine: Engine) -> None:
        sampling = Sampling(suppress_tokens=end_tokens(engine))
        answer = ask(engine, Request(PROMPT, grammar=Gbnf('root ::= "yes"'), sampling=sampling))
        assert (answer.text, answer.finish) == ("yes", Finish.STOP)

    def test_a_grammar_that_cannot_go_on_is_told(self, engine: Engine) -> None:
        sampling = Sampling(suppress_texts=["s"])
        request = Request(PROMPT, grammar=Gbnf('root ::= "yes"'), sampling=sampling)
        assert refused(engine, request).field == "grammar"

    @pytest.mark.parametrize(
        ("grammar", "field", "why"),
        [
            (Gbnf('root ::= "a'), "gbnf", "Line 1, column 10"),
            (Gbnf("root ::= other"), "gbnf", "no rule other"),
            (Gbnf('root ::= "a"{3,1}'), "gbnf", "3 is more than 1"),
            (Gbnf(""), "gbnf", "no rule 'root'"),
            (JsonSchema("{"), "json_schema", "no JSON"),
            (JsonSchema('{"type": "integer", "multipleOf": 3}'), "json_schema", "'multipleOf'"),
        ],
    )
    def test_a_grammar_that_does_not_compile_says_why(
        self, engine: Engine, grammar: Gbnf | JsonSchema, field: str, why: str
    ) -> None:
        error = refused(engine, Request(PROMPT, grammar=grammar))
        assert (error.reason, error.field) == ("INVALID_GRAMMAR", field)
        assert why in error.why

    def test_a_choice_by_a_grammar_can_be_cancelled(self, engine: Engine) -> None:
        """While all tokens are judged, because the likeliest is not permitted."""
        request = Request(PROMPT, max_tokens=8, grammar=Gbnf('root ::= "§" [0-9]{20}'))
        whole = AfterAsking()
        expected = ask(engine, request, whole)
        ends = {
            ask(engine, request, AfterAsking(times)).finish
            for times in range(whole.asked - 30, whole.asked)
        }
        assert ends == {Finish.CANCELED}
        assert ask(engine, request).tokens == expected.tokens

    def test_a_suppressed_token_is_not_chosen_whatever_its_bias(self, engine: Engine) -> None:
        free = ask(engine, Request(PROMPT, max_tokens=10)).tokens
        sampling = Sampling(suppress_tokens=[free[0]], logit_bias={free[0]: 1000.0})
        assert free[0] not in ask(engine, Request(PROMPT, max_tokens=10, sampling=sampling)).tokens

    def test_a_suppressed_text_is_not_said_however_it_is_spelled(self, engine: Engine) -> None:
        free = ask(engine, Request(PROMPT, max_tokens=30)).text
        # A tiny model also says bytes that are no text, and nobody can forbid by their text.
        run = max(free.split("\ufffd"), key=len)
        for text in (run[1:3], run[:4], run[2]):
            for temperature in (0.0, 1.0):
                sampling = Sampling(temperature=temperature, seed=1, suppress_texts=[text, "§"])
                request = Request(PROMPT, max_tokens=30, sampling=sampling)
                bound = ask(engine, request)
                assert text not in bound.text
                assert bound.usage.completion_tokens == 30
                assert ask(engine, request).tokens == bound.tokens

    @pytest.mark.parametrize(
        ("sampling", "field"),
        [
            (Sampling(suppress_tokens=[10_000_000]), "sampling.suppress_tokens"),
            (Sampling(suppress_tokens=[-1]), "sampling.suppress_tokens"),
            (Sampling(suppress_texts=[""]), "sampling.suppress_texts"),
            (Sampling(suppress_texts=["x" * 257]), "sampling.suppress_texts"),
            (Sampling(suppress_texts=["x"] * 65), "sampling.suppress_texts"),
        ],
    )
    def test_impossible_suppression_is_refused(
        self, engine: Engine, sampling: Sampling, field: str
    ) -> None:
        error = refused(engine, Request(PROMPT, sampling=sampling))
        assert (error.reason, error.field) == ("INVALID_SAMPLING", field)

    def test_logprobs_are_of_the_models_own_distribution(self, engine: Engine) -> None:
        request = Request(PROMPT, max_tokens=20, top_logprobs=20)
        greedy = ask(engine, request)
        found = [entry for piece in greedy.pieces for entry in piece.logprobs]
        assert [entry.chosen.token_id for entry in found] == greedy.tokens
        for entry in found:
            assert entry.top[0] == entry.chosen, "greedy takes the likeliest"
            assert len(entry.top) == len({candidate.token_id for candidate in entry.top}) == 20
            values = [candidate.logprob for candidate in entry.top]
            assert values == sorted(values, reverse=True)
            assert sum(map(math.exp, values)) <= 1 + 1e-6
        whole = b"".join(entry.chosen.data for entry in found).decode(errors="replace")
        assert whole.startswith(greedy.text.rstrip("\ufffd"))
        # Neither a bias nor a temperature moves them.
        sampling = Sampling(temperature=0.5, top_k=1, logit_bias={greedy.tokens[0]: 5.0})
        moved = ask(engine, replace(request, sampling=sampling, max_tokens=1))
        entry = moved.pieces[0].logprobs[0]
        assert entry.chosen.logprob == pytest.approx(found[0].chosen.logprob, abs=1e-3)

    def test_logprobs_come_only_when_asked_for(self, engine: Engine) -> None:
        assert not any(p.logprobs for p in ask(engine, Request(PROMPT, max_tokens=5)).pieces)
        own = ask(engine, Request(PROMPT, max_tokens=5, top_logprobs=0))
        entries = [entry for piece in own.pieces for entry in piece.logprobs]
        assert len(entries) == 5
        assert not any(entry.top for entry in entries)
        error = refused(engine, Request(PROMPT, top_logprobs=21))
        assert error.field == "top_logprobs"


class ReadingContract:
    """Embeddings and scores."""

    def test_a_score_is_the_sum_of_the_logprobs(self, engine: Engine) -> None:
        """Of the answer's tokens, as they were when it was generated."""
        answer = ask(engine, Request("A", max_tokens=40, top_logprobs=0))
        (score,) = engine.score(ScoreRequest([Sample("A", "B" * 40)]), threading.Event())
        assert score.tokens > 0
        assert score.logprob_sum < 0
        assert score.logprob_mean == score.logprob_sum / score.tokens
        # The same sample in two requests, behind other texts, and from a cached prefix.
        samples = [Sample("A", "B" * 40), Sample("", PROMPT * 4), Sample("A", "B" * 40)]
        found = list(engine.score(ScoreRequest(samples), threading.Event()))
        assert found[0].logprob_sum == pytest.approx(score.logprob_sum, rel=1e-3)
        assert found[2].logprob_sum == pytest.approx(score.logprob_sum, rel=1e-3)
        assert ask(engine, Request("A", max_tokens=40)).tokens == answer.tokens

    def test_embeddings_have_a_direction(self, engine: Engine) -> None:
        texts = [PROMPT * 3, "the sea", PROMPT * 3]
        found = list(engine.embed(EmbedRequest(texts, normalized=True), threading.Event()))
        assert found[0].vector == pytest.approx(found[2].vector, abs=1e-4)
        assert found[0].vector != pytest.approx(found[1].vector, abs=1e-2)
        for embedding in found:
            assert math.hypot(*embedding.vector) == pytest.approx(1.0)
        assert ask(engine, Request(PROMPT, max_tokens=4)).usage.completion_tokens == 4

    def test_reading_can_be_cancelled(self, engine: Engine) -> None:
        cancelled = threading.Event()
        cancelled.set()
        assert list(engine.embed(EmbedRequest([PROMPT]), cancelled)) == []
        assert list(engine.score(ScoreRequest([Sample("", PROMPT)]), cancelled)) == []

    def test_reading_ends_in_the_middle_of_a_text(self, engine: Engine) -> None:
        embed = EmbedRequest([PROMPT, PROMPT * 6, PROMPT])
        samples = [Sample("", PROMPT), Sample("", PROMPT * 6), Sample("", PROMPT)]
        score = ScoreRequest(samples)
        whole = AfterAsking(), AfterAsking()
        vectors, scores = list(engine.embed(embed, whole[0])), list(engine.score(score, whole[1]))
        halves = [AfterAsking(counted.asked // 2) for counted in whole]
        some_vectors = list(engine.embed(embed, halves[0]))
        some_scores = list(engine.score(score, halves[1]))
        assert [len(some_vectors), len(some_scores)] == [1, 1]
        assert some_vectors[0].vector == pytest.approx(vectors[0].vector, abs=1e-3)
        assert some_scores[0].logprob_sum == pytest.approx(scores[0].logprob_sum, rel=1e-3)
        again = list(engine.score(score, threading.Event()))
        assert [s.logprob_sum for s in again] == pytest.approx(
            [s.logprob_sum for s in scores], rel=1e-3
        )

    def test_texts_that_cannot_be_read_are_refused(self, engine: Engine) -> None:
        never, long = threading.Event(), PROMPT * engine.context_length
        for texts in ([], [""], [PROMPT, long]):
            with pytest.raises(InvalidRequest) as raised:
                list(engine.embed(EmbedRequest(texts), never))
            assert raised.value.field == "texts"
        for samples in (
            [],
            [Sample(PROMPT, "")],
            [Sample("", long)],
            [Sample(messages=(Message("user", "Hi"),))],
        ):
            with pytest.raises(InvalidRequest) as raised:
                list(engine.score(ScoreRequest(samples), never))
            assert raised.value.field == "items"
        assert ask(engine, Request(PROMPT, max_tokens=4)).usage.completion_tokens == 4
