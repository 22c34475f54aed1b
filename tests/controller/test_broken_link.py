"""Transfers and assignments across a link that breaks: a proxy that cuts, before a real agent."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from artifacts.persisting import Point
from controller import Fleet
from controller.dispatch import Dispatcher
from controller.store import devices
from protos.errors import Unreachable
from protos.nanofleet.v1 import job_pb2
from tests.controller.recipes import job

QUEUED = job_pb2.JOB_STATE_QUEUED


class Link:
    """Passes bytes to a port; ``budget`` is how many it passes upwards before each cut."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._budget = 0
        self._connections: set[asyncio.StreamWriter] = set()
        self.cuts = 0
        self.is_down = False
        self.address = ""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Link"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        self.address = f"{host}:{port}"
        yield self
        server.close()
        self.cut()

    def cut_after(self, *budgets: int) -> None:
        """Each connection from now on passes the next of these; the last ones pass everything."""
        self._budgets = list(budgets)

    def cut(self) -> None:
        for writer in tuple(self._connections):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_down:
            writer.transport.abort()
            return
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._connections |= {writer, up_writer}
        budget = self._budgets.pop(0) if self._budgets else None
        await asyncio.gather(
            self._pass(reader, up_writer, writer, budget),
            self._pass(up_reader, writer, up_writer, None),
        )
        self._connections -= {writer, up_writer}

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        other: asyncio.StreamWriter,
        budget: int | None,
    ) -> None:
        passed = 0
        with contextlib.suppress(ConnectionError):
            while block := await reader.read(1 << 16):
                passed += len(block)
                if budget is not None and passed > budget:
                    self.cuts += 1
                    break
                writer.write(block)
                await writer.drain()
        writer.transport.abort()
        other.transport.abort()

    _budgets: list[int]


@pytest.fixture
async def link(fleet: Fleet) -> AsyncIterator[Link]:
    """The device's record says the proxy's address while the test runs."""
    (record,) = fleet.devices()
    port = int(record.address.rsplit(":", 1)[1])
    async with Link(port).running() as link:
        link.cut_after()
        redirect(fleet, link.address)
        yield link
        redirect(fleet, record.address)


def redirect(fleet: Fleet, address: str) -> None:
    (record,) = fleet.devices()
    with fleet._store.write(Point.FLEET_COLLECTED) as transaction:
        devices.join(
            transaction, record.name, address, record.enrolment, record.labels, record.joined_utc_ns
        )


async def test_an_upload_goes_on_where_it_was_cut(fleet: Fleet, link: Link, tmp_path: Path) -> None:
    noise = random.Random(1)
    path = tmp_path / "big.jsonl"
    await asyncio.to_thread(
        path.write_text,
        "".join(f'{{"text": "{noise.randbytes(500).hex()}"}}\n' for _ in range(30_000)),
    )
    entry = await fleet.add_dataset(path)
    link.cut_after(6 << 20, 6 << 20)
    (sent,) = await fleet.push("big", ["kitchen"])
    assert link.cuts == 2
    assert not sent.already_there
    assert entry.size_bytes <= sent.sent_bytes < entry.size_bytes * 1.8
    assert entry.digest in {found.digest for found in await fleet.remote_artifacts("kitchen")}
    await fleet.remove_artifact("big", device="kitchen")
    await fleet.remove_artifact("big")


async def test_an_assignment_whose_answer_is_lost_is_sent_again_and_runs_once(
    fleet: Fleet, link: Link, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link goes down right after ASSIGNED was written."""
    assign = Dispatcher._assign

    def assign_and_cut(self: Dispatcher, *arguments: object) -> object:
        record = assign(self, *arguments)  # type: ignore[arg-type]  # passed on as they came
        link.is_down = True
        link.cut()
        return record

    monkeypatch.setattr(Dispatcher, "_assign", assign_and_cut)
    with pytest.raises(Unreachable, match="is assigned to kitchen, which has not confirmed it"):
        await fleet.submit(job("assigned", dataset))
    record = fleet.job("assigned")
    assert record.state == job_pb2.JOB_STATE_UNSPECIFIED
    assert "kitchen" in await fleet.refresh()
    assert fleet.job("assigned") == record

    link.is_down = False
    assert await fleet.refresh() == {}
    assert fleet.job("assigned").state != job_pb2.JOB_STATE_UNSPECIFIED
    assert await fleet.refresh() == {}
    await fleet.cancel("assigned")
    ended = await fleet.wait("assigned", 60)
    assert ended.job.spec == record.job.spec
    assert len(ended.job.attempts) <= 1
    arrivals = [event for event in fleet.events("assigned") if event.transition.to == QUEUED]
    assert len(arrivals) == 1
