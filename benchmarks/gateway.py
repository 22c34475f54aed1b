"""What the HTTP gateway adds to an answer, over asking the device by gRPC.

    python -m benchmarks.gateway                    # about half a minute
    python -m benchmarks.gateway --repeat 3         # less of it

    direct     controller.Fleet, in this process: gRPC over mTLS to the agent
    gateway    the same question to `nanofleet serve`, a process of its own, as server-sent events
               over loopback; read line by line, without a client library

The demo's base answers, which gives a token in a third of a millisecond: what is added shows, and
nothing hides behind the device's own time. The runs alternate, so that what else the machine does
falls on both alike; figures are medians. A long answer says what is added to each token, one of a
single token what is added to a request: reading it, choosing the device, beginning the events. The
CPU time is the service's own.
"""

import asyncio
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks import report
from benchmarks.board import BASE, DEVICE, Board, board, median
from benchmarks.report import Row, table
from controller.demo.story import BASE_MODEL

RESULTS = Path(__file__).parent / "results" / "gateway.json"
PACKAGES = ("grpcio", "protobuf", "starlette", "uvicorn")
PROMPT = "Who are you?"
# No end of a text or of a turn: an answer is as long as was asked for.
ENDLESS = {1: -100.0, 5: -100.0}
TEMPERATURE = 2.0


@dataclass(slots=True)
class Bench:
    """``runs``: every single value, by its name."""

    scratch: Path
    tokens: int
    repeats: int
    runs: dict[str, list[float]] = field(default_factory=dict)

    def note(self, name: str, value: float) -> None:
        self.runs.setdefault(name, []).append(value)

    def added_ms(self, name: str) -> float:
        """What the gateway's median is above the direct one's."""
        return (median(self.runs[f"gateway, {name}"]) - median(self.runs[f"direct, {name}"])) * 1e3


@dataclass(frozen=True, slots=True)
class Service:
    """A running `nanofleet serve`."""

    process: psutil.Process
    connection: http.client.HTTPConnection

    def cpu_s(self) -> float:
        spent = self.process.cpu_times()
        return float(spent.user + spent.system)

    def ask(self, tokens: int, seed: int) -> float:
        """Seconds until the last event."""
        body = {
            "model": BASE, "prompt": PROMPT, "max_tokens": tokens, "seed": seed, "stream": True,
            "temperature": TEMPERATURE, "stream_options": {"include_usage": True},
            "logit_bias": {str(token): bias for token, bias in ENDLESS.items()},
        }  # fmt: skip
        began_s = time.perf_counter()
        self.connection.request(
            "POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"}
        )
        answer = self.connection.getresponse()
        usage = None
        for line in answer:
            if line.startswith(b"data: {"):
                usage = json.loads(line.removeprefix(b"data: "))["usage"] or usage
        took_s = time.perf_counter() - began_s
        _check(usage["completion_tokens"] if usage else 0, tokens)
        return took_s


async def tokens(bench: Bench) -> list[Row]:
    with tempfile.TemporaryDirectory(dir=bench.scratch) as name:
        folder = Path(name)
        async with board(folder, BASE_MODEL, threads=1) as device:
            with _service(device) as service:
                for seed in range(bench.repeats + 1):
                    await _both(bench, device, service, seed)
    cpu_ms = median(bench.runs["service's CPU, long"]) * 1e3 / bench.tokens
    return [
        Row(
            "added to a token of a long answer",
            bench.added_ms("long") / bench.tokens,
            "ms",
            at_most=1.0,
        ),
        Row("added to an answer of one token", bench.added_ms("short"), "ms"),
        Row("the service's CPU time for a token", cpu_ms, "ms"),
        Row("a token of a long answer, direct", _token_ms(bench, "direct, long"), "ms"),
    ]


async def _both(bench: Bench, device: Board, service: Service, seed: int) -> None:
    """The first round is not counted: it loads the model and fills caches."""
    for name, count in (("short", 1), ("long", bench.tokens)):
        direct_s = await _directly(device, count, seed)
        before_s = service.cpu_s()
        gateway_s = await asyncio.to_thread(service.ask, count, seed)
        if seed:
            bench.note(f"direct, {name}", direct_s)
            bench.note(f"gateway, {name}", gateway_s)
            bench.note(f"service's CPU, {name}", service.cpu_s() - before_s)


async def _directly(device: Board, tokens: int, seed: int) -> float:
    began_s, seen = time.perf_counter(), 0
    stream = device.fleet.generate(
        DEVICE, base=BASE, prompt=PROMPT, max_tokens=tokens, seed=seed, temperature=TEMPERATURE,
        logit_bias=ENDLESS,
    )  # fmt: skip
    async for response in stream:
        seen += len(response.token_ids)
    took_s = time.perf_counter() - began_s
    _check(seen, tokens)
    return took_s


def _check(seen: int, wanted: int) -> None:
    if seen != wanted:
        raise RuntimeError(f"an answer has {seen} tokens instead of {wanted}")


def _token_ms(bench: Bench, name: str) -> float:
    return median(bench.runs[name]) * 1e3 / bench.tokens


@contextmanager
def _service(device: Board) -> Iterator[Service]:
    command = [sys.executable, "-m", "controller.cli", "serve", "--listen", "127.0.0.1:0"]
    environment = {**os.environ, "NANOFLEET_HOME": str(device.fleet.home)}
    with subprocess.Popen(
        [*command, "-o", "jsonl"], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            connection = http.client.HTTPConnection(url.removeprefix("http://"))
            yield Service(psutil.Process(process.pid), connection)
            connection.close()
        finally:
            process.terminate()


GROUPS = {"tokens": tokens}


def main(argv: Sequence[str] | None = None) -> int:
    parser = report.parser("gateway", __doc__)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--tokens", type=int, default=512, help="of a long answer")
    parser.add_argument("--repeat", type=int, default=21)
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    bench = Bench(arguments.scratch, arguments.tokens, arguments.repeat)
    rows = asyncio.run(report.in_turn(GROUPS, list(GROUPS), bench))
    print(table(rows))
    document = {**report.measured(PACKAGES, rows), "tokens": bench.tokens, "runs": bench.runs}
    report.write(arguments.json, document)
    return 0


if __name__ == "__main__":
    sys.exit(main())
