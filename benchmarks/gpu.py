"""Training and serving on a GPU, on a machine or board that has one.

    python -m benchmarks.gpu                    # everything, some minutes
    python -m benchmarks.gpu --only training    # a group

The shape of Gemma 3 1B with random weights in Q8_0, made once below --models. Every run is a fresh
process; what is compared runs in turn, --repeat times. Training wants torch with CUDA, serving a
llama.cpp that was built with it (docs/boards.md). Prints a table, and writes every single run as
JSON.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import measuring, report, shapes
from benchmarks.board import median
from benchmarks.measuring import ATTENTION, RunFailed, Task
from benchmarks.report import Row, ratio, table
from benchmarks.shapes import Shape
from benchmarks.work import sample_flops

RESULTS = Path(__file__).parent / "results" / "gpu.json"
PACKAGES = ("torch", "transformers", "peft", "optimum-quanto", "llama-cpp-python")
GB = 1e9
RANK = 8
_SAMPLES = 12
_ANSWER_TOKENS = 96


class Bench:
    """``runs``: every single one, by its label; ``failed``: why one gave none."""

    def __init__(
        self, models: Path, scratch: Path, shape: Shape, repeats: int, threads: int
    ) -> None:
        self.models, self._scratch, self.shape = models, scratch, shape
        self._repeats, self.threads = repeats, threads
        self.tokens = min(256, shape.sliding_window)
        self.runs: dict[str, list[Mapping[str, object]]] = {}
        self.failed: dict[str, str] = {}

    def base(self) -> Path:
        return shapes.base(self.models, self.shape, "q8_0")

    def in_turn(self, runs: Mapping[str, Callable[[], Mapping[str, object]]]) -> None:
        for turn in range(self._repeats):
            for label, run in runs.items():
                if label in self.failed:
                    continue
                print(f"{label}, run {turn + 1}", file=sys.stderr, flush=True)
                try:
                    self.runs.setdefault(label, []).append(run())
                except RunFailed as error:
                    self.failed[label] = str(error)
                    print(f"  {error}", file=sys.stderr)

    def worker(self, device: str, **fields: Any) -> Callable[[], Mapping[str, object]]:
        def run() -> Mapping[str, object]:
            task = Task(
                self.base(),
                tokens=self.tokens,
                samples=_SAMPLES,
                sequence_length=self.tokens,
                threads=self.threads,
                device=device,
                **fields,
            )
            (found,) = measuring.train(task, self._scratch)
            return found.plain()

        return run

    def peer(self, weights: str) -> Callable[[], Mapping[str, object]]:
        folder = shapes.folder(self.models, self.shape)
        sizes = ("--tokens", str(self.tokens), "--samples", str(_SAMPLES), "--threads", "1")
        where = ("--weights", weights, "--device", "cuda")
        return lambda: measuring.in_process("benchmarks.peers.plain", str(folder), *where, *sizes)

    def median(self, label: str, key: str) -> float | None:
        """Of all values of all repeats."""
        found: list[float] = []
        for run in self.runs.get(label, ()):
            value = run[key]
            for one in value if isinstance(value, list) else [value]:
                assert isinstance(one, int | float)
                found.append(float(one))
        return median(found) if found else None


def training(bench: Bench) -> list[Row]:
    """Samples of 256 tokens, LoRA of rank 8 on attention."""
    bench.in_turn(
        {
            "GPU": bench.worker("cuda"),
            "GPU, all layers stored": bench.worker("cuda", memory_budget_bytes=int(40 * GB)),
            "plain recipe (qint8)": bench.peer("qint8"),
            "bf16 LoRA": bench.peer("bf16"),
        }
    )
    rows = []
    flops = sample_flops(bench.shape, bench.tokens, ATTENTION, RANK)
    ours = bench.median("GPU", "wall_s")
    for label in (
        "GPU",
        "GPU, all layers stored",
        "processor",
        "plain recipe (qint8)",
        "bf16 LoRA",
    ):
        took, why = bench.median(label, "wall_s"), bench.failed.get(label, "")
        rows.append(Row(f"{label}: tokens/s", ratio(bench.tokens, took), "tokens/s", note=why))
        taken = ratio(bench.median(label, "peak_gpu_bytes"), GB)
        rows.append(Row(f"{label}: peak on the GPU", taken, "GB", note=why))
        if label in ("plain recipe (qint8)", "bf16 LoRA"):
            rows.append(Row(f"ours against {label}", ratio(took, ours), "x faster", note=why))
    rate = ratio(ratio(flops, ours), 1e12)
    rows.append(Row("GPU: arithmetic", rate, "TFLOP/s"))
    return rows


def serving(bench: Bench) -> list[Row]:
    """A prompt of 220 tokens, an answer of 96."""

    def engine(device: str) -> Callable[[], Mapping[str, object]]:
        sizes = ("--threads", str(bench.threads), "--tokens", str(_ANSWER_TOKENS))
        where = (str(bench.base()), "--device", device)
        return lambda: measuring.in_process("benchmarks.engine_speed", *where, *sizes)

    def bare() -> Mapping[str, object]:
        sizes = ("--context", "2048", "--prompt", "32", "--tokens", str(_ANSWER_TOKENS))
        where = (str(bench.base()), "--threads", str(bench.threads), "--gpu-layers", "99")
        return measuring.in_process("benchmarks.peers.bare_llama", *where, *sizes)

    runs = {"on the GPU": engine("cuda"), "bare loop": bare, "on the processor": engine("cpu")}
    bench.in_turn(runs)
    rows = []
    for label in ("on the GPU", "on the processor"):
        why = bench.failed.get(label, "")
        for key, what in (("tokens_per_s", "answer"), ("prompt_tokens_per_s", "prompt")):
            rows.append(Row(f"{what} {label}", bench.median(label, key), "tokens/s", note=why))
    alone = bench.median("bare loop", "tokens_per_s")
    share = ratio(bench.median("on the GPU", "tokens_per_s"), alone)
    rows.append(Row("answer on the GPU, against a bare loop", share, "x"))
    return rows


GROUPS: Mapping[str, Callable[[Bench], list[Row]]] = {"training": training, "serving": serving}


def main(argv: Sequence[str] | None = None) -> int:
    parser = report.parser("gpu", __doc__)
    parser.add_argument("--models", type=Path, default=report.models_folder())
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    report.choose(parser, "--only", GROUPS)
    parser.add_argument("--quick", action="store_true", help="a tiny shape: does the tool work?")
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    models = arguments.models.resolve()
    models.mkdir(parents=True, exist_ok=True)
    shape = shapes.QUICK if arguments.quick else shapes.GEMMA3_1B
    with tempfile.TemporaryDirectory(prefix="runs.", dir=models) as scratch:
        bench = Bench(models, Path(scratch), shape, arguments.repeat, arguments.threads)
        rows = [row for name in arguments.only for row in GROUPS[name](bench)]
    print(table(rows))
    document = {**report.measured(PACKAGES, rows), "gpu": _gpu_name()}
    report.write(arguments.json, {**document, "runs": bench.runs, "failed": bench.failed})
    return 0


def _gpu_name() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""


if __name__ == "__main__":
    sys.exit(main())
