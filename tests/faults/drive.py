"""The controller's program: stories that can be told again after any kill, and end the same way.

    python -m tests.faults.drive FOLDER birth | stock | life | …

What a person would do: look at what is there already, do what is missing, and try again what fails
because a device is away.
"""

import asyncio
import contextlib
import sqlite3
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from artifacts import dataset
from artifacts.digest import Digest
from artifacts.pieces import PIECE_BYTES
from artifacts.store import ArtifactStore
from controller import Fleet, JobFile, TransferProgress, parse_job
from controller.records import JobRecord
from protos.errors import (
    DiskFailed,
    DiskFull,
    NanofleetError,
    NotFound,
    TimedOut,
    Unreachable,
    WorkerFailed,
)
from protos.nanofleet.v1 import artifact_pb2, job_pb2
from tests.faults.lab import BASE, DATA, DEVICE, Device

T = TypeVar("T")

CHECKPOINT = artifact_pb2.ARTIFACT_KIND_CHECKPOINT
NOISE = "noise"
_PAUSE_S, _TRIES = 0.1, 600


async def patiently(deed: Callable[[], Awaitable[T]]) -> T:
    """Tries again while the device is away, or busy, or has trouble with its disk."""
    for _ in range(_TRIES):
        try:
            return await deed()
        except NanofleetError as error:
            if not (error.retryable or isinstance(error, DiskFull | DiskFailed)):
                raise
            last = error
        await asyncio.sleep(_PAUSE_S)
    raise last


def job(name: str, *, may_move: bool = False, **train: object) -> JobFile:
    """Seconds of training, with all that a job of hours has: checkpoints, evaluations, a rehearsal.
    One that may move has a lease.

    One thread and one data type: the losses of two runs are the same, bit for bit.
    """
    recipe: dict[str, object] = {
        "base": "tiny",
        "dataset": "persona",
        "steps": 30,
        "accumulation": 8,
        "sequence_length": 128,
        "learning_rate": 1e-3,
        "packing": False,
        "threads": 1,
        "checkpoint_minutes": 0.01,
        "evaluation": {"held_out": 0.2, "every": 10},
        **train,
    }
    place = {"on_lost": "move"} if may_move else {"device": DEVICE}
    return parse_job({"name": name, **place, "train": recipe})


def has(fleet: Fleet, name: str) -> bool:
    return any(entry.name == name for entry in fleet.artifacts())


async def birth(folder: Path) -> None:
    """A fleet, and a device that joins it."""
    home = folder / "home"
    fleet = Fleet.open(home) if (home / "authority").is_dir() else Fleet.create(home, name="lab")
    async with fleet:
        if not any(device.name == DEVICE for device in fleet.devices()) or not joined(folder):
            async with fleet.enrolment("127.0.0.1", 0) as server:
                await join(fleet, server.address, folder)
        fleet.label_device(DEVICE, {"site": "lab"})


def joined(folder: Path) -> bool:
    return (folder / DEVICE / "identity" / "chain.pem").is_file()


async def join(fleet: Fleet, address: str, folder: Path) -> None:
    """With a new token each time: one that was spent does not say that the device has its key."""
    port = int((folder / "port").read_text())
    for _ in range(3):
        token = fleet.new_token(DEVICE, address=address)
        device = Device(folder / DEVICE, port)
        if await asyncio.to_thread(device.join, token.text) == 0:
            return
    raise AssertionError(device.said())


async def stock(folder: Path) -> None:
    """What jobs need, in the catalogue."""
    async with Fleet.open(folder / "home") as fleet:
        if not has(fleet, "tiny"):
            await fleet.import_model(BASE, name="tiny")
        if not has(fleet, "persona"):
            await fleet.add_dataset(DATA, name="persona")


async def submitted(fleet: Fleet, file: JobFile) -> JobRecord:
    """Only when it is not assigned already: the answer may be what was lost."""
    known = [record for record in fleet.jobs() if record.name == file.name]
    return known[0] if known else await fleet.submit(file)


async def life(folder: Path) -> None:
    """A job from its dataset to its adapter, and some bytes that come and go."""
    async with Fleet.open(folder / "home") as fleet:
        if not has(fleet, "persona"):
            await fleet.add_dataset(DATA, name="persona")
        record = await patiently(lambda: submitted(fleet, job("persona")))
        ended = await patiently(lambda: encouraged(fleet, record.id))
        assert ended.job.HasField("result"), ended.job.message
        entry = await patiently(lambda: fleet.fetch_result(record.id))
        target = folder / "pulled.tar"
        if not target.exists():
            await patiently(lambda: fleet.pull(DEVICE, entry.digest, target))
        await come_and_go(fleet, folder)


async def forgetting(folder: Path) -> None:
    """A job whose events are copied here; the device, which is to keep none, lets go of them."""
    async with Fleet.open(folder / "home") as fleet:
        record = await patiently(lambda: submitted(fleet, job("persona")))
        ended = await patiently(lambda: encouraged(fleet, record.id))
        assert ended.job.HasField("result"), ended.job.message
        await patiently(lambda: fleet.fetch_result(record.id))
        await patiently(lambda: forgotten(fleet, folder, record.id))


async def forgotten(fleet: Fleet, folder: Path, job_id: str) -> None:
    """Looked up in the device's journal: nothing of it is seen from here."""
    if problems := await fleet.refresh(job_id):
        raise Unreachable(str(problems))
    with contextlib.closing(sqlite3.connect(folder / DEVICE / "journal.db")) as journal:
        (left,) = journal.execute("SELECT SUM(details_bytes) FROM job").fetchone()
    if left:
        raise Unreachable("It still keeps them.")


async def encouraged(fleet: Fleet, job_id: str) -> JobRecord:
    """The job at its end. Paused for a cause, it is resumed, as the cause asks a person to."""
    while True:
        with contextlib.suppress(TimedOut):
            return await fleet.wait(job_id, _PAUSE_S * 5)
        paused = fleet.job(job_id).job
        if paused.state == job_pb2.JOB_STATE_PAUSED and paused.attempts[-1].cause:
            await fleet.resume(job_id)


def teaching_job(name: str) -> JobFile:
    """Answers to each line of the dataset; those of two runs are the same, byte for byte."""
    asked = {
        "base": "tiny",
        "dataset": "persona",
        "answers": 4,
        "temperature": 1,
        "max_tokens": 24,
        "context_length": 256,
        "drop": [],
        "threads": 1,
    }
    return parse_job({"name": name, "device": DEVICE, "generate": asked})


async def teaching(folder: Path) -> None:
    """A model answers a dataset, and the answers are a file here."""
    async with Fleet.open(folder / "home") as fleet:
        await taught(fleet, "teach")
        target = folder / "taught.jsonl"
        if not target.exists():
            entry = fleet.resolve("teach")
            store = ArtifactStore(fleet.home / "artifacts")
            dataset.unpack(store.path(Digest(entry.digest)), target)


async def teaching_again(folder: Path) -> None:
    """The same under another name."""
    async with Fleet.open(folder / "home") as fleet:
        await taught(fleet, "again")


async def taught(fleet: Fleet, name: str) -> None:
    record = await patiently(lambda: submitted(fleet, teaching_job(name)))
    ended = await patiently(lambda: encouraged(fleet, record.id))
    assert ended.job.HasField("result"), ended.job.message
    await patiently(lambda: fleet.fetch_result(record.id))


async def trip(folder: Path) -> None:
    """Some bytes come and go."""
    async with Fleet.open(folder / "home") as fleet:
        await come_and_go(fleet, folder)


async def come_and_go(fleet: Fleet, folder: Path) -> None:
    if not (folder / "gone").exists():
        if not has(fleet, NOISE):
            await fleet.add_artifact(folder / NOISE, CHECKPOINT, name=NOISE)
        digest = fleet.resolve(NOISE).digest
        await patiently(lambda: fleet.push(NOISE, DEVICE))
        await patiently(lambda: removed(fleet, digest))
        (folder / "gone").touch()
    if has(fleet, NOISE):
        await fleet.remove_artifact(NOISE)


async def removed(fleet: Fleet, digest: str) -> None:
    try:
        await fleet.remove_artifact(digest, device=DEVICE)
    except NotFound:
        return  # by the try whose answer was lost


async def rejoin(folder: Path) -> None:
    """The device joins again, with a new key in the place of the old one."""
    async with (
        Fleet.open(folder / "home") as fleet,
        fleet.enrolment("127.0.0.1", 0) as server,
    ):
        await join(fleet, server.address, folder)


async def hello(folder: Path) -> None:
    """The device answers as the one that joined."""
    async with Fleet.open(folder / "home") as fleet:
        await patiently(lambda: answering(fleet))


async def answering(fleet: Fleet) -> None:
    status = await fleet.status(DEVICE)
    if not status.reachable:
        raise Unreachable(status.problem)


async def speech(folder: Path) -> None:
    """The adapter of "persona" says what it said before."""
    async with Fleet.open(folder / "home") as fleet:
        said = await patiently(lambda: answer(fleet))
        (folder / "said").write_text(said)
        await patiently(lambda: fleet.unload_model(DEVICE))


async def answer(fleet: Fleet) -> str:
    """A worker that dies in the middle of an answer is told of as such; the next one is another."""
    adapter = fleet.job("persona").job.result.adapter_digest
    stream = fleet.generate(
        DEVICE, base="tiny", adapter=adapter, prompt="Who are you?", max_tokens=12
    )
    try:
        return "".join([response.text async for response in stream])
    except WorkerFailed as error:
        raise Unreachable(str(error)) from error


async def yielding(folder: Path) -> None:
    """A job without end that makes room for a request, and is then canceled."""
    async with Fleet.open(folder / "home") as fleet:
        await patiently(lambda: submitted(fleet, job("long", may_move=True, steps=100_000)))
        if not fleet.job("long").ended:
            await patiently(lambda: stepping(fleet))
            await patiently(lambda: short_answer(fleet))
            await patiently(lambda: fleet.cancel("long"))
        await patiently(lambda: fleet.wait("long"))


async def stepping(fleet: Fleet) -> None:
    async for event in fleet.watch("long"):
        if event.HasField("progress"):
            return


async def short_answer(fleet: Fleet) -> None:
    try:
        async for _ in fleet.generate(DEVICE, base="tiny", prompt="Hello", max_tokens=4):
            pass
    except WorkerFailed as error:
        raise Unreachable(str(error)) from error


async def repair(folder: Path) -> None:
    """A large upload, of which the device's disk changes a byte in the middle."""
    async with Fleet.open(folder / "home") as fleet:
        if not has(fleet, "large"):
            await fleet.add_artifact(folder / "large", CHECKPOINT, name="large")
        if not (folder / "spoiled").exists():
            await patiently(lambda: half_pushed(fleet))
            spoil(folder)
        await patiently(lambda: fleet.push("large", DEVICE))


async def half_pushed(fleet: Fleet) -> None:
    half = asyncio.Event()

    def on_progress(progress: TransferProgress) -> None:
        if progress.moved_bytes > progress.size_bytes // 2:
            half.set()

    pushing = asyncio.create_task(fleet.push("large", DEVICE, on_progress))
    waiting = asyncio.create_task(half.wait())
    await asyncio.wait({pushing, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    pushing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await pushing


def spoil(folder: Path) -> None:
    """A byte of the third piece, which the device has and believes in."""
    (incoming,) = (folder / DEVICE / "artifacts" / "incoming").glob("?" * 64)
    with incoming.open("r+b") as file:
        file.seek(2 * PIECE_BYTES + 5)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    (folder / "spoiled").touch()


async def submission(folder: Path) -> None:
    """A job is submitted, and nobody waits for it."""
    async with Fleet.open(folder / "home") as fleet:
        await patiently(lambda: submitted(fleet, job("persona")))


async def silence(folder: Path) -> None:
    """The device does not talk to us, and nobody takes it for a reason to change a job."""
    async with Fleet.open(folder / "home") as fleet:
        before = fleet.job("persona").state
        assert DEVICE in await fleet.refresh()
        assert fleet.job("persona").state == before


async def storm(folder: Path) -> None:
    """Jobs of four kinds in one queue, and all of their results."""
    async with Fleet.open(folder / "home") as fleet:
        names = [f"job-{number}" for number in range(int(sys.argv[3]))]
        for number, name in enumerate(names):
            file = job(name, seed=number % 4, steps=4, accumulation=2)
            await patiently(partial(submitted, fleet, file))
        for name in names:
            ended = await patiently(partial(fleet.wait, name))
            assert ended.job.HasField("result"), ended.job.message
            await patiently(partial(fleet.fetch_result, name))


async def farewell(folder: Path) -> None:
    """A key comes and goes, and the device leaves the fleet."""
    async with Fleet.open(folder / "home") as fleet:
        if not fleet.keys():
            fleet.add_key("laptop")
        if not fleet.keys()[0].revoked_utc_ns:
            fleet.revoke_key("laptop")
        if any(device.name == DEVICE for device in fleet.devices()):
            fleet.remove_device(DEVICE)


STORIES = {
    story.__name__: story
    for story in (
        birth,
        rejoin,
        stock,
        hello,
        life,
        trip,
        forgetting,
        teaching,
        teaching_again,
        speech,
        yielding,
        repair,
        submission,
        silence,
        storm,
        farewell,
    )
}


def main() -> int:
    folder, story = Path(sys.argv[1]), sys.argv[2]
    asyncio.run(STORIES[story](folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
