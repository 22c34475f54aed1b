"""Artifacts to a device and back, verified and synced, against what people would use instead.

    python -m benchmarks.transfers                  # about two minutes
    python -m benchmarks.transfers --mib 64         # a smaller file

    push, pull            nanofleet's: gRPC over mTLS, resumable, SHA-256, fsync
    cp                    cp + fsync + sha256sum: the disk and one hash, no network
    scp                   scp + sha256sum over loopback, with an sshd of our own

The runs alternate, so that what else the machine does falls on all alike; figures are medians. Then
the agent is killed in the middle of a push, as often as there are repeats: what is sent again. The
disk is that of --scratch. Without sshd its rows say so. Prints a table, and writes every run as
JSON.
"""

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import report
from benchmarks.board import DEVICE, Board, board, median
from benchmarks.report import Row, ratio, table
from controller import TransferProgress
from controller.demo.processes import free_port
from controller.demo.story import BASE_MODEL
from protos.nanofleet.v1 import artifact_pb2

RESULTS = Path(__file__).parent / "results" / "transfers.json"
PACKAGES = ("grpcio", "protobuf")
_KIND = artifact_pb2.ARTIFACT_KIND_CHECKPOINT
_MIB = 1 << 20
_NAME = "bytes"
_SSHD = "/usr/sbin/sshd"
_PRIVILEGES = Path("/run/sshd")


@dataclass(slots=True)
class Bench:
    """``runs``: every single value, by its name."""

    scratch: Path
    size_bytes: int
    repeats: int
    runs: dict[str, list[float]] = field(default_factory=dict)

    def note(self, name: str, value: float) -> None:
        self.runs.setdefault(name, []).append(value)

    def rate(self, name: str) -> float | None:
        """MB/s, the median of the runs."""
        found = self.runs.get(name)
        return median(found) if found else None

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        began_s = time.perf_counter()
        yield
        self.note(name, self.size_bytes / (time.perf_counter() - began_s) / 1e6)


class Sshd:
    """Listens on loopback with keys that live as long as it does."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Sshd":
        for name in ("host", "user"):
            command = [
                "ssh-keygen",
                "-q",
                "-t",
                "ed25519",
                "-N",
                "",
                "-f",
                str(self._folder / name),
            ]
            subprocess.run(command, check=True)
        allowed = self._folder / "allowed"
        shutil.copyfile(self._folder / "user.pub", allowed)
        if os.geteuid() == 0:
            _PRIVILEGES.mkdir(exist_ok=True)
        settings = (
            f"Port={self._port}", "ListenAddress=127.0.0.1", f"HostKey={self._folder / 'host'}",
            f"AuthorizedKeysFile={allowed}", "StrictModes=no", "UsePAM=no", "PidFile=none",
            "PermitRootLogin=prohibit-password", "Subsystem=sftp internal-sftp",
        )  # fmt: skip
        options = [part for setting in settings for part in ("-o", setting)]
        self._process = subprocess.Popen([_SSHD, "-D", "-f", "/dev/null", *options])
        self._wait()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def copy(self, source: Path, target: Path) -> None:
        options = ("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null")
        command = ["scp", "-q", "-i", str(self._folder / "user"), "-P", str(self._port), *options]
        there = f"127.0.0.1:{target}"
        # What it says of a host that it does not know.
        subprocess.run([*command, str(source), there], check=True, stderr=subprocess.DEVNULL)

    def _wait(self) -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", self._port), 1).close()
                return
        raise RuntimeError("sshd does not listen")


async def transfers(bench: Bench) -> list[Row]:
    """Speeds, side by side."""
    with tempfile.TemporaryDirectory(dir=bench.scratch) as name:
        folder = Path(name)
        source = folder / "source"
        _write(source, bench.size_bytes)
        async with board(folder, BASE_MODEL, threads=1) as device:
            await device.fleet.add_artifact(source, _KIND, name=_NAME)
            with _sshd(folder) as sshd:
                for _ in range(bench.repeats):
                    await _pushed_and_pulled(bench, device, folder / "back")
                    _copied(bench, "cp", source, folder / "copy", _copy)
                    if sshd is not None:
                        _copied(bench, "scp", source, folder / "copy", sshd.copy)
    return [row for way in ("push", "pull") for row in _rows(bench, way)]


async def kills(bench: Bench) -> list[Row]:
    """The agent is killed in the middle of an upload, and started again."""
    with tempfile.TemporaryDirectory(dir=bench.scratch) as name:
        folder = Path(name)
        source = folder / "source"
        _write(source, bench.size_bytes)
        async with board(folder, BASE_MODEL, threads=1) as device:
            await device.fleet.add_artifact(source, _KIND, name=_NAME)
            for _ in range(bench.repeats):
                again_bytes = await _killed_once(bench, device)
                bench.note("sent again after a kill, MiB", again_bytes / _MIB)
                await device.fleet.remove_artifact(_NAME, device=DEVICE)
    again = bench.runs["sent again after a kill, MiB"]
    return [
        Row("sent again after a kill, median", median(again), "MiB"),
        Row("sent again after a kill, worst", max(again), "MiB", at_most=4),
    ]


def _rows(bench: Bench, way: str) -> list[Row]:
    rate, why = bench.rate(way), "" if "scp" in bench.runs else "sshd is not installed"
    copied, sent = ratio(rate, bench.rate("cp")), ratio(rate, bench.rate("scp"))
    return [
        Row(way, rate, "MB/s"),
        Row(f"{way}, against cp + fsync + sha256sum", copied, "x", at_least=0.8),
        Row(f"{way}, against scp + sha256sum", sent, "x", at_least=1.0, note=why),
    ]


async def _pushed_and_pulled(bench: Bench, device: Board, back: Path) -> None:
    digest = device.fleet.resolve(_NAME).digest
    with bench.timed("push"):
        await device.fleet.push(_NAME, DEVICE)
    with bench.timed("pull"):
        await device.fleet.pull(DEVICE, digest, back)
    await asyncio.to_thread(back.unlink)
    await device.fleet.remove_artifact(_NAME, device=DEVICE)


def _copied(
    bench: Bench, name: str, source: Path, target: Path, copy: Callable[[Path, Path], None]
) -> None:
    with bench.timed(name):
        copy(source, target)
        subprocess.run(["sha256sum", target], check=True, stdout=subprocess.DEVNULL)
    target.unlink()


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", source, target], check=True)
    subprocess.run(["sync", target], check=True)


async def _killed_once(bench: Bench, device: Board) -> int:
    """What was sent beyond the file's size."""
    killed = False

    def on_progress(progress: TransferProgress) -> None:
        nonlocal killed
        if not killed and progress.moved_bytes > bench.size_bytes // 2:
            killed = True
            device.agent.kill()
            device.agent.start()

    (sent,) = await device.fleet.push(_NAME, DEVICE, on_progress)
    assert killed
    return sent.sent_bytes - bench.size_bytes


@contextmanager
def _sshd(folder: Path) -> Iterator[Sshd | None]:
    if not Path(_SSHD).exists() or shutil.which("scp") is None:
        yield None
        return
    keys = folder / "keys"
    keys.mkdir(mode=0o700)
    with Sshd(keys) as sshd:
        yield sshd


def _write(path: Path, size_bytes: int) -> None:
    with path.open("wb") as file:
        for _ in range(size_bytes // _MIB):
            file.write(os.urandom(_MIB))


GROUPS = {"transfers": transfers, "kills": kills}


def main(argv: Sequence[str] | None = None) -> int:
    parser = report.parser("transfers", __doc__)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--mib", type=int, default=512, help="size of the file")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    bench = Bench(arguments.scratch, arguments.mib * _MIB, arguments.repeat)
    rows = asyncio.run(report.in_turn(GROUPS, list(GROUPS), bench))
    print(table(rows))
    document = {
        **report.measured(PACKAGES, rows),
        "size_bytes": bench.size_bytes,
        "runs": bench.runs,
    }
    report.write(arguments.json, document)
    return 0


if __name__ == "__main__":
    sys.exit(main())
