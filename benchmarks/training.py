"""The training engine's figures, measured: memory, speed, and what it is compared with.

    python -m benchmarks.training                          # everything, about half an hour
    python -m benchmarks.training --only peak,packing      # some groups
    python -m benchmarks.training --quick --models /tmp/m  # does the tool work? Its figures mean
                                                           # nothing

Makes models of the true shapes with random weights (4 GB for the 1B groups, 12 GB more for `q4`)
below --models, once. Every run is a fresh process; a group's runs alternate, --repeat times, so
that what else the machine does falls on all alike. Times are the least of all repeats, memory the
most.
The plain recipe needs `pip install optimum-quanto accelerate`. The memory limit needs the right to
make control groups (root). Prints a table, and writes every single run as JSON.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks import forecast, measuring, report, shapes
from benchmarks.measuring import ALL_SEVEN, ATTENTION, RunFailed, Task
from benchmarks.report import Row, ratio, table
from benchmarks.shapes import NotConverted, Shape
from benchmarks.work import sample_flops

RESULTS = Path(__file__).parent / "results" / "training.json"
PACKAGES = ("torch", "transformers", "peft", "optimum-quanto", "accelerate", "gguf", "safetensors")
RANK = 8
GB = 1e9
# Resident pages of two runs of the same code differ by this much.
_SAME_MEMORY = 1.02


class Bench:
    """Runs by their label, each a list with one entry for every repeat."""

    def __init__(self, models: Path, scratch: Path, repeats: int, quick: bool) -> None:
        self.models, self._scratch, self._repeats = models, scratch, repeats
        self.shape: Shape = shapes.QUICK if quick else shapes.GEMMA3_1B
        self.large: Shape = shapes.QUICK if quick else shapes.GEMMA3_4B
        self.tokens = 64 if quick else 256
        self.limit_bytes = int(1.0 * GB)
        # What the 1B shape may take at its peak.
        self.budget_bytes = int(1.6 * GB)
        self.runs: dict[str, list[Mapping[str, object]]] = {}
        self.failed: dict[str, str] = {}
        # Of the group that is measured now.
        self.asked: list[str] = []

    def measured(self, name: str) -> Mapping[str, object]:
        """A group's part of the document, with the runs that its rows are made of."""
        self.asked = []
        rows = GROUPS[name](self)
        print(table(rows))
        return {
            **report.measured(PACKAGES, rows),
            "runs": {label: self.runs[label] for label in self.asked if label in self.runs},
            "failed": {label: self.failed[label] for label in self.asked if label in self.failed},
        }

    def alternate(
        self,
        runs: Mapping[str, Callable[[], Iterable[Mapping[str, object]]]],
        repeats: int | None = None,
    ) -> None:
        """Each of ``runs`` once, then each again. One that failed, or ran before, is not tried."""
        self.asked += runs
        todo = {label: run for label, run in runs.items() if label not in self.runs}
        for turn in range(repeats or self._repeats):
            for label, run in todo.items():
                if label in self.failed:
                    continue
                print(f"{label}, run {turn + 1}", file=sys.stderr, flush=True)
                try:
                    self.runs.setdefault(label, []).extend(run())
                except (RunFailed, NotConverted) as error:
                    self.failed[label] = str(error)
                    self.runs.pop(label, None)
                    print(f"  {error}", file=sys.stderr)

    def worker(
        self, file_type: str = "q8_0", shape: Shape | None = None, **fields: Any
    ) -> Callable[[], Iterable[Mapping[str, object]]]:
        def run() -> Iterable[Mapping[str, object]]:
            base = shapes.base(self.models, shape or self.shape, file_type)
            task = replace(Task(base, tokens=self.tokens, sequence_length=self.tokens), **fields)
            return [found.plain() for found in measuring.train(task, self._scratch)]

        return run

    def cold(self) -> Callable[[], Iterable[Mapping[str, object]]]:
        """Under the hard limit, on a copy of the base that is in nobody's page cache.

        A page is charged to the group that reads it first: with the common file, the limited run
        would read pages that are charged to somebody else.
        """

        def run() -> Iterable[Mapping[str, object]]:
            copy = self._scratch / "cold.gguf"
            shutil.copyfile(shapes.base(self.models, self.shape, "q8_0"), copy)
            descriptor = os.open(copy, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
            try:
                task = Task(
                    copy,
                    tokens=self.tokens,
                    sequence_length=self.tokens,
                    limit_bytes=self.limit_bytes,
                )
                return [found.plain() for found in measuring.train(task, self._scratch)]
            finally:
                copy.unlink()

        return run

    def peer(
        self, weights: str, device: str = "cpu"
    ) -> Callable[[], Iterable[Mapping[str, object]]]:
        def run() -> Iterable[Mapping[str, object]]:
            folder = shapes.folder(self.models, self.shape)
            sizes = ("--tokens", str(self.tokens), "--samples", "4", "--threads", "1")
            where = ("--weights", weights, "--device", device)
            return [measuring.in_process("benchmarks.peers.plain", str(folder), *where, *sizes)]

        return run

    def rounding(
        self, shape: Shape, file_type: str
    ) -> Callable[[], Iterable[Mapping[str, object]]]:
        def run() -> Iterable[Mapping[str, object]]:
            base = shapes.base(self.models, shape, file_type)
            sizes = ("--tokens", str(self.tokens), "--threads", "2")
            return [measuring.in_process("benchmarks.gradients", str(base), *sizes)]

        return run

    def gemm(self) -> Iterable[Mapping[str, object]]:
        sizes = (self.tokens, self.shape.hidden, self.shape.feed_forward, 2)
        return [measuring.in_process("benchmarks.gemm", *map(str, sizes))]

    def least(self, label: str, key: str) -> float | None:
        """Of all values of all repeats; None when the run failed or showed none."""
        found = list(self._values(label, key))
        return min(found) if found else None

    def most(self, label: str, key: str) -> float | None:
        found = list(self._values(label, key))
        return max(found) if found else None

    def why(self, *labels: str) -> str:
        """What is wrong with runs; nothing when they are fine."""
        found = [self.failed[label] for label in labels if label in self.failed]
        for label in labels:
            if self.least(label, "cpu_s") == 0:
                found.append(f"{label}: a step took less than the clock's hundredth of a second")
        return "; ".join(found)

    def _values(self, label: str, key: str) -> Iterable[float]:
        for run in self.runs.get(label, ()):
            value = run.get(key, [])
            for one in value if isinstance(value, list) else [value]:
                assert isinstance(one, (int, float))
                yield float(one)


def peak(bench: Bench) -> list[Row]:
    bench.alternate(
        {
            "gguf": bench.worker(targets=ATTENTION),
            "qint8": bench.worker("qint8", targets=ATTENTION),
            "all seven": bench.worker(targets=ALL_SEVEN),
        }
    )

    def gigabytes(label: str, key: str) -> float | None:
        return ratio(bench.most(label, key), GB)

    rss, anonymous = "peak_rss_bytes", "peak_anonymous_bytes"
    return [
        Row("peak RSS, GGUF", gigabytes("gguf", rss), "GB", 1.6, note=bench.why("gguf")),
        Row("peak RSS, qint8", gigabytes("qint8", rss), "GB", 1.5, note=bench.why("qint8")),
        Row(
            "of it anonymous, GGUF",
            gigabytes("gguf", anonymous),
            "GB",
            0.45,
            note=bench.why("gguf"),
        ),
        Row(
            "of it anonymous, qint8",
            gigabytes("qint8", anonymous),
            "GB",
            0.45,
            note=bench.why("qint8"),
        ),
        Row(
            "peak RSS, all seven projections",
            gigabytes("all seven", rss),
            "GB",
            1.7,
            note=bench.why("all seven"),
        ),
    ]


def peers(bench: Bench) -> list[Row]:
    budget: dict[str, Any] = {"targets": ATTENTION, "memory_budget_bytes": bench.budget_bytes}
    bench.alternate(
        {
            "gguf": bench.worker(targets=ATTENTION),
            "GGUF": bench.worker(**budget),
            "qint8 base": bench.worker("qint8", **budget),
            "plain recipe": bench.peer("qint8"),
            "bf16 LoRA": bench.peer("bf16"),
        }
    )
    alone = bench.least("gguf", "cpu_s")
    rows = [Row("CPU seconds a sample, one thread", alone, "s", note=bench.why("gguf"))]
    for label in ("plain recipe", "bf16 LoRA"):
        gigabytes = ratio(bench.most(label, "peak_rss_bytes"), GB)
        rows.append(Row(f"peak RSS of {label}", gigabytes, "GB", note=bench.why(label)))
    for ours in ("GGUF", "qint8 base"):
        name = f"{ours} in a memory budget of {bench.budget_bytes / GB:g} GB"
        spent, why = bench.least(ours, "cpu_s"), bench.why(ours)
        within = ratio(bench.most(ours, "peak_rss_bytes"), bench.budget_bytes)
        rows.append(Row(f"{name}: CPU seconds a sample", spent, "s", note=why))
        rows.append(Row(f"{name}: peak RSS", within, "x", 1.0, note=why))
        for label, target in (("plain recipe", 0.5), ("bf16 LoRA", 0.75)):
            share = ratio(spent, bench.least(label, "cpu_s"))
            why = bench.why(ours, label)
            rows.append(Row(f"{name}: against {label}", share, "x", target, note=why))
    return rows


def gemm(bench: Bench) -> list[Row]:
    quarter = bench.tokens // 4
    packed: dict[str, Any] = {"tokens": quarter, "accumulation": 4, "samples": 16, "packing": True}
    bench.alternate({"two threads": bench.worker(threads=2, **packed), "gemm": bench.gemm})
    operations = 4 * sample_flops(bench.shape, quarter, ATTENTION, RANK)
    reached = ratio(operations, bench.least("two threads", "wall_s"))
    share = ratio(reached, bench.most("gemm", "peak_flops"))
    why = bench.why("two threads", "gemm")
    name = f"share of the GEMM peak, two threads, {bench.tokens} packed tokens"
    return [Row(name, None if share is None else 100 * share, "%", at_least=55, note=why)]


def packing(bench: Bench) -> list[Row]:
    quarter: dict[str, Any] = {"tokens": bench.tokens // 4, "accumulation": 4, "samples": 16}
    bench.alternate(
        {
            "packed": bench.worker(packing=True, **quarter),
            "apart": bench.worker(packing=False, **quarter),
        }
    )
    faster = ratio(bench.least("apart", "cpu_s"), bench.least("packed", "cpu_s"))
    name = f"four {bench.tokens // 4}-token samples, packed against apart"
    return [Row(name, faster, "x faster", at_least=1.7, note=bench.why("packed", "apart"))]


def limit(bench: Bench) -> list[Row]:
    bench.alternate({"gguf": bench.worker(targets=ATTENTION), "limited": bench.cold()})
    slower = ratio(bench.least("limited", "wall_s"), bench.least("gguf", "wall_s"))
    percent = None if slower is None else 100 * (slower - 1)
    why = bench.why("gguf", "limited")
    peak = ratio(bench.most("limited", "peak_group_bytes"), GB)
    return [
        Row("slower under a hard limit of 1.0 GB", percent, "%", 15, note=why),
        Row("peak of its control group, page cache included", peak, "GB", 1.0, note=why),
    ]


def resume(bench: Bench) -> list[Row]:
    bench.alternate({"resume": bench.worker(samples=4, stop_after=2)})
    runs = bench.runs.get("resume", [])
    pairs = list(zip(runs[::2], runs[1::2], strict=True))
    worst = max((_peak(second) / _peak(first) for first, second in pairs), default=None)
    name = "peak RSS of a resumed run against its start"
    return [Row(name, worst, "x", _SAME_MEMORY, note=bench.why("resume"))]


def gradients(bench: Bench) -> list[Row]:
    bases = {"Q8_0": (bench.shape, "q8_0"), "Q4_0": (bench.large, "q4_0")}
    bench.alternate(
        {f"gradients {name}": bench.rounding(*base) for name, base in bases.items()},
        repeats=1,  # the numbers are the same each time
    )
    rows = []
    for name, (shape, _) in bases.items():
        label = f"gradients {name}"
        off = f"{shape.name} on {name}: bfloat16 gradients' distance from float32's"
        rows.append(Row(off, bench.most(label, "distance"), "x", note=bench.why(label)))
        rows.append(Row(f"{shape.name} on {name}: cosine", bench.most(label, "cosine"), ""))
    return rows


def q4(bench: Bench) -> list[Row]:
    bench.alternate({"q4_0": bench.worker("q4_0", bench.large, samples=3)})
    why = bench.why("q4_0")
    name = f"{bench.large.name} on Q4_0"
    return [
        Row(f"{name}: peak RSS", ratio(bench.most("q4_0", "peak_rss_bytes"), GB), "GB", note=why),
        Row(
            f"{name}: of it anonymous",
            ratio(bench.most("q4_0", "peak_anonymous_bytes"), GB),
            "GB",
            note=why,
        ),
        Row(
            f"{name}: CPU seconds a sample, one thread",
            bench.least("q4_0", "cpu_s"),
            "s",
            note=why,
        ),
    ]


def gpu(bench: Bench) -> list[Row]:
    """The attention's recipe where torch finds a GPU; times are what a clock on the wall says."""
    budget: dict[str, Any] = {"memory_budget_bytes": int(40 * GB)}  # more than all layers take
    ours: dict[str, Any] = {"device": "cuda", "targets": ATTENTION, "samples": 12}
    bench.alternate(
        {
            "GPU": bench.worker(**ours),
            "GPU, all layers stored": bench.worker(**ours, **budget),
            "GPU, plain recipe": bench.peer("qint8", "cuda"),
            "GPU, bf16 LoRA": bench.peer("bf16", "cuda"),
        }
    )
    rows = []
    labels = ("GPU", "GPU, all layers stored", "GPU, plain recipe", "GPU, bf16 LoRA")
    for label in labels:
        why, took = bench.why(label), bench.least(label, "wall_s")
        taken = ratio(bench.most(label, "peak_gpu_bytes"), GB)
        rows.append(Row(f"{label}: tokens/s", ratio(bench.tokens, took), "tokens/s", note=why))
        rows.append(Row(f"{label}: peak on it", taken, "GB", note=why))
    for label in labels[2:]:
        faster = ratio(bench.least(label, "wall_s"), bench.least("GPU", "wall_s"))
        name = f"GPU: ours against {label.removeprefix('GPU, ')}"
        rows.append(Row(name, faster, "x faster", note=bench.why("GPU", label)))
    return rows


def _peak(run: Mapping[str, object]) -> float:
    value = run["peak_rss_bytes"]
    assert isinstance(value, int)
    return float(value)


GROUPS: Mapping[str, Callable[[Bench], list[Row]]] = {
    "peak": peak,
    "peers": peers,
    "gemm": gemm,
    "packing": packing,
    "limit": limit,
    "resume": resume,
    "forecast": forecast.forecast,
    "q4": q4,
    "gradients": gradients,
    "gpu": gpu,
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = report.parser("training", __doc__)
    parser.add_argument("--models", type=Path, default=report.models_folder())
    parser.add_argument("--repeat", type=int, default=3)
    report.choose(parser, "--only", GROUPS)
    parser.add_argument("--quick", action="store_true", help="a tiny shape, one repeat")
    parser.add_argument("--json", type=Path, help=f"[default: {RESULTS}; none with --quick]")
    arguments = parser.parse_args(argv)
    target = arguments.json or (None if arguments.quick else RESULTS)
    models = arguments.models.resolve()
    models.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="runs.", dir=models) as scratch:
        repeats = 1 if arguments.quick else arguments.repeat
        bench = Bench(models, Path(scratch), repeats, arguments.quick)
        groups = {name: bench.measured(name) for name in arguments.only}
    if arguments.quick:
        print("The tiny shape: the figures and verdicts above say nothing about the engine.")
    if target:
        # A group is measured in one go, on one machine; those that were not asked for are kept.
        kept = json.loads(target.read_text())["groups"] if target.exists() else {}
        report.write(target, {"shape": asdict(bench.shape), "groups": {**kept, **groups}})
    return 0


if __name__ == "__main__":
    sys.exit(main())
