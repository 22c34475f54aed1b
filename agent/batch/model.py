"""The model that answers: the engine with its adapter, set so that no answer depends on another."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent.batch import asking
from agent.batch.asking import Asked
from agent.inference import engines, failures, opening
from agent.inference.engine import Adapter, Engine, EngineOptions, Finish, Piece, Request
from agent.quality.answers import Ending, Fault
from artifacts import adapter as archives
from protos.errors import InternalError, NanofleetError
from protos.nanofleet.v1.worker_pb2 import StartGenerating

# What is wrong with a prompt, or with what the model makes of it, and not with the job.
_FAULTS = {
    failures.PROMPT_TOO_LONG: Fault.PROMPT_TOO_LONG,
    failures.NON_FINITE_LOGITS: Fault.NOT_FINITE,
}
_ENDINGS = {
    Finish.STOP: Ending.STOPPED,
    Finish.LENGTH: Ending.CUT,
    Finish.LOOP: Ending.LOOPED,
}


@dataclass(frozen=True, slots=True)
class Reply:
    """``fault``: why there is no answer. ``took_s`` is the engine's time."""

    text: str = ""
    ending: Ending = Ending.STOPPED
    tokens: int = 0
    took_s: float = 0.0
    fault: Fault | None = None


class Model:
    """``close`` it after use."""

    def __init__(self, start: StartGenerating, engine: Engine, adapter: Adapter | None) -> None:
        self._spec = start.spec
        self._adapter = adapter
        self.engine = engine

    @classmethod
    def opened(cls, start: StartGenerating) -> "Model":
        """Raises what the engine says of the base, and WorkerFailed when it is not installed."""
        cache = Path(start.cache_folder) if start.cache_folder else None
        options = EngineOptions(
            start.spec.context_length, start.threads, cache, streams=1, exact=True
        )
        adapter = _unpacked(start) if start.adapter_path else None
        return cls(start, opening.opened(start.engine, Path(start.base_path), options), adapter)

    def close(self) -> None:
        self.engine.close()

    def answer(
        self, prompt: Asked, seed: int, may_go_on: Callable[[], bool] = lambda: True
    ) -> Reply | None:
        """None when ``may_go_on``, asked after each token, said no. Raises what is wrong with the
        job; what is wrong with the prompt is the reply's fault."""
        request = asking.request(self._spec, prompt, seed, self._adapter)
        try:
            return self._said(request, may_go_on)
        except NanofleetError as error:
            if fault := _FAULTS.get(error.reason):
                return Reply(fault=fault)
            raise

    def _said(self, request: Request, may_go_on: Callable[[], bool]) -> Reply | None:
        text, tokens, last = "", 0, Piece("", ())
        cancelled = threading.Event()
        for piece in self.engine.generate(request, cancelled):
            text, tokens, last = text + piece.text, tokens + len(piece.token_ids), piece
            if piece.finish is None and not may_go_on():
                cancelled.set()
        if last.finish is Finish.CANCELED:
            return None
        if last.finish is None or last.usage is None:
            raise InternalError("The engine ended an answer without saying why.")
        took_s = last.usage.prefill_s + last.usage.decode_s
        return Reply(text, _ENDINGS[last.finish], tokens, took_s)

    def tokens_of(self, prompt: Asked) -> int:
        return len(self.engine.tokenise(prompt))


def _unpacked(start: StartGenerating) -> Adapter:
    """In the job's folder, where the attempt before may have done it: whole or not at all."""
    folder = Path(start.job_folder) / "adapter"
    if not folder.exists():
        archives.unpack(Path(start.adapter_path), folder)
    file = engines.named(start.engine or engines.DEFAULT).adapter_file
    return Adapter(start.spec.adapter_digest, folder / file)
