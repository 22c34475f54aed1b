"""``/v1/completions``: texts that are gone on with as they are."""

from collections.abc import Sequence

from pydantic import Field

from controller.gateway.fields import MOST_CHOICES, Generation, Texts
from controller.gateway.speaking import Prompt
from controller.web.exchange import Json
from protos.errors import InvalidRequest
from protos.nanofleet.v1.inference_pb2 import TokenLogprob

# The API's.
DEFAULT_MAX_TOKENS = 16


class CompletionFields(Generation):
    prompt: Texts
    logprobs: int | None = Field(None, ge=0, le=20)

    @property
    def prompts(self) -> list[Prompt]:
        if not 0 < len(self.prompt) * self.n <= MOST_CHOICES or not all(self.prompt):
            raise InvalidRequest(
                f"`prompt` has {len(self.prompt)} texts, for each of which there are to be"
                f" {self.n} answers.",
                why=f"No text may be empty, and a request has 1 to {MOST_CHOICES} answers.",
                fix="Send several requests.",
                field="prompt",
            )
        tokens = self.max_tokens or DEFAULT_MAX_TOKENS
        return [Prompt(text, top_logprobs=self.logprobs, max_tokens=tokens) for text in self.prompt]


class CompletionVoice:
    prefix = "cmpl"
    whole_object = "text_completion"
    part_object = "text_completion"

    def opening(self) -> Json | None:
        return None

    def part(self, text: str, logprobs: Json | None) -> Json:
        return {"text": text, "logprobs": logprobs}

    def closing(self) -> Json:
        return self.part("", None)

    def whole(self, text: str, logprobs: Json | None) -> Json:
        return self.part(text, logprobs)

    def logprobs(self, tokens: Sequence[TokenLogprob], offset: int) -> Json:
        """``text_offset`` counts from the answer's beginning."""
        pieces = [token.chosen.piece.decode(errors="replace") for token in tokens]
        offsets = [offset]
        for piece in pieces:
            offsets.append(offsets[-1] + len(piece))
        return {
            "tokens": pieces,
            "token_logprobs": [token.chosen.logprob for token in tokens],
            "top_logprobs": [
                {one.piece.decode(errors="replace"): one.logprob for one in token.top}
                for token in tokens
            ],
            "text_offset": offsets[:-1],
        }
