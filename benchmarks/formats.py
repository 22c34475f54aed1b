"""What a conversion costs: memory beyond the file, time, and its proof; with the 1B shape.

    python -m benchmarks.formats                                # about seven minutes
    python -m benchmarks.formats --types q8_0                   # one type; the others' runs stay
    python -m benchmarks.formats --quick --models /tmp/m        # does the tool work? Its figures
                                                                # mean nothing

Memory is counted in largest tensors, each in the type that the checkpoint has it in: 604 MB for the
embedding of this shape in bfloat16. Of the conversion it is all that was resident, with Python and
NumPy. Of the real command, which proves the file, it is the anonymous memory, looked at every few
milliseconds: llama.cpp maps the file, and these pages the kernel takes back when it wants them.

Time is compared with reading the weights and writing as many bytes as the file has, synced. Runs
alternate, --repeat times; times are the least of all repeats, memory the most. Random weights have
the shape's costs, and not its losses: how much a type costs a model, its import says.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from artifacts.convert import FileType
from artifacts.convert.checkpoint import StoredTensor, read_checkpoint
from benchmarks import measuring, report, shapes
from benchmarks.conversion import kilobytes
from benchmarks.measuring import ALL_SEVEN, RunFailed
from benchmarks.report import Row, ratio, table
from benchmarks.shapes import Shape

RESULTS = Path(__file__).parent / "results" / "formats.json"
PACKAGES = ("numpy", "gguf", "llama-cpp-python", "tokenizers", "optimum-quanto", "torch")
TYPES = tuple(file_type.value for file_type in FileType)
RANK = 8
MB = 1e6
_LOOK_EVERY_S = 0.005
_MOST_TENSORS = 1.5
_ADAPTER_AT_MOST_S = 0.1


class Bench:
    def __init__(self, models: Path, scratch: Path, repeats: int, quick: bool) -> None:
        self.models, self.scratch, self.repeats = models, scratch, repeats
        self.shape: Shape = shapes.QUICK if quick else shapes.GEMMA3_1B
        self.folder = shapes.folder(models, self.shape)
        self.stored = read_checkpoint(self.folder)
        self.runs: dict[str, list[Mapping[str, object]]] = {}

    def note(self, name: str, run: Mapping[str, object]) -> None:
        self.runs.setdefault(name, []).append(run)

    def values(self, name: str, key: str) -> list[float]:
        return [float(str(run[key])) for run in self.runs[name]]

    @property
    def weights_bytes(self) -> int:
        return sum(tensor.size_bytes for tensor in self.stored.values())

    @property
    def largest_bytes(self) -> int:
        return max(tensor.size_bytes for tensor in self.stored.values())


def models(bench: Bench, types: Sequence[str]) -> list[Row]:
    """Runs ``types``; rows are of all types that have runs."""
    target = bench.scratch / "model.gguf"
    for turn in range(bench.repeats):
        for name in types:
            print(f"{name}, run {turn + 1}", file=sys.stderr, flush=True)
            proved = imported(bench.folder, target, name)
            bench.note(f"{name}, proved", proved)
            size_bytes = str(proved["size_bytes"])
            for what, last in (("model", name), ("copy", size_bytes)):
                run = _alone(what, bench.folder, target, last)
                bench.note(f"{name}, {what}", run)
            target.unlink()
    measured = [name for name in TYPES if f"{name}, proved" in bench.runs]
    return [row for name in measured for row in _rows(bench, name)]


def _rows(bench: Bench, name: str) -> list[Row]:
    spent_s = min(bench.values(f"{name}, model", "seconds"))
    resident = max(bench.values(f"{name}, model", "peak_rss_bytes"))
    proved = f"{name}, proved"
    anonymous = max(bench.values(proved, "peak_anonymous_bytes"))
    plain_s = min(bench.values(f"{name}, copy", "seconds"))
    largest = bench.largest_bytes
    return [
        Row(f"{name}: memory of the conversion", ratio(resident, largest), "x", _MOST_TENSORS),
        Row(f"{name}: the same in MB", resident / MB, "MB"),
        Row(f"{name}: anonymous, with proof", ratio(anonymous, largest), "x", _MOST_TENSORS),
        Row(f"{name}: conversion, synced", spent_s, "s"),
        Row(f"{name}: of the original's bytes", bench.weights_bytes / MB / spent_s, "MB/s"),
        Row(f"{name}: against reading and writing", ratio(spent_s, plain_s), "x"),
        Row(f"{name}: with proof", min(bench.values(proved, "seconds")), "s"),
    ]


def imported(folder: Path, target: Path, file_type: str) -> Mapping[str, object]:
    """The command that `nanofleet model import` runs, watched. Raises RunFailed."""
    command = (sys.executable, "-m", "artifacts.convert", "--parent", str(os.getpid()), "model")
    began_s = time.perf_counter()
    with (
        subprocess.Popen(
            [*command, str(folder), str(target), "--type", file_type],
            stdout=subprocess.PIPE,
            text=True,
        ) as child,
        _Watched(child.pid) as watched,
    ):
        lines, _ = child.communicate()
    answer = json.loads((lines.splitlines() or ["{}"])[-1])
    if answer.get("event") != "result":
        raise RunFailed(f"{file_type}: {answer}")
    return {
        "seconds": time.perf_counter() - began_s,
        "peak_anonymous_bytes": watched.peak_bytes,
        "size_bytes": answer["size_bytes"],
        "proof": answer["proof"],
    }


class _Watched:
    """The most anonymous memory that a process was seen with."""

    def __init__(self, pid: int) -> None:
        self.peak_bytes = 0
        self._status = Path(f"/proc/{pid}/status")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> "_Watched":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(_LOOK_EVERY_S):
            try:
                status = self._status.read_text()
            except (FileNotFoundError, ProcessLookupError):
                return
            self.peak_bytes = max(self.peak_bytes, kilobytes(status, "RssAnon") * 1024)


def adapter(bench: Bench) -> list[Row]:
    """PEFT's files become GGUF LoRA: as it is at the end of each training."""
    base = shapes.base(bench.models, bench.shape, "q8_0")
    folder = bench.scratch / "adapter"
    folder.mkdir()
    _write_adapter(folder, bench.stored)
    for turn in range(3 * bench.repeats):
        print(f"adapter, run {turn + 1}", file=sys.stderr, flush=True)
        target = bench.scratch / "adapter.gguf"
        bench.note("adapter", _alone("adapter", folder, target, str(base)))
    spent_s = min(bench.values("adapter", "seconds"))
    name = f"adapter of rank {RANK} on all seven projections"
    return [Row(name, spent_s, "s", _ADAPTER_AT_MOST_S)]


def _write_adapter(folder: Path, stored: Mapping[str, StoredTensor]) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    tensors = {}
    chance = np.random.default_rng(0)
    for name, tensor in stored.items():
        module = name.removesuffix(".weight")
        if module.rpartition(".")[2] in ALL_SEVEN:
            rows, columns = tensor.shape
            for part, shape in (("lora_A", (RANK, columns)), ("lora_B", (rows, RANK))):
                values = chance.standard_normal(shape, np.float32)
                tensors[f"base_model.model.{module}.{part}.weight"] = values
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK}
    (folder / "adapter_config.json").write_text(json.dumps(settings))


def _alone(what: str, folder: Path, target: Path, last: str) -> Mapping[str, object]:
    return measuring.in_process("benchmarks.conversion", what, str(folder), str(target), last)


def _earlier(
    path: Path, where: Mapping[str, object], types: Sequence[str]
) -> dict[str, list[Mapping[str, object]]]:
    """The runs of other types, where they were made on this machine with these versions."""
    if not path.exists():
        return {}
    document = json.loads(path.read_text())
    if any(document.get(key) != value for key, value in where.items()):
        return {}
    again = (*types, "adapter")
    return {
        name: runs for name, runs in document["runs"].items() if name.split(",")[0] not in again
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = report.parser("formats", __doc__)
    parser.add_argument(
        "--models", type=Path, default=report.models_folder(), help="where the models are or go"
    )
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--repeat", type=int, default=2)
    report.choose(parser, "--types", TYPES)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="formats.", dir=arguments.scratch) as scratch:
        bench = Bench(arguments.models, Path(scratch), arguments.repeat, arguments.quick)
        where = {**report.surroundings(PACKAGES), "shape": asdict(bench.shape)}
        bench.runs |= _earlier(arguments.json, where, arguments.types)
        rows = models(bench, arguments.types) + adapter(bench)
    print(table(rows))
    document = {
        **report.measured(PACKAGES, rows),
        **where,
        "largest_tensor_bytes": bench.largest_bytes,
        "runs": bench.runs,
    }
    report.write(arguments.json, document)
    return 0


if __name__ == "__main__":
    sys.exit(main())
