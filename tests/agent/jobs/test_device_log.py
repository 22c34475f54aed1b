"""The device's own events, beside those of jobs in one journal."""

from pathlib import Path

from agent.jobs import device_log
from agent.jobs.journal import Journal
from protos.nanofleet.v1.device_pb2 import DeviceEvent
from tests.agent.clocks import FakeClock
from tests.agent.jobs.samples import FIRST, spec_bytes, train_spec


def test_events_of_the_device_and_of_jobs_do_not_mix(tmp_path: Path) -> None:
    clock = FakeClock()
    journal = Journal(tmp_path / "journal.db", clock)
    journal.device.add(DeviceEvent(act="load the model", reason="There is room."))
    journal.submit(FIRST, 1, spec_bytes(train_spec()), "controller")
    journal.device.add(DeviceEvent(act="unload the model", base_digest="sha256:b"))
    ours, theirs = journal.device.events(0, 10), journal.events(0)
    assert [event.act for event in ours] == ["load the model", "unload the model"]
    assert {event.job_id for event in theirs} == {FIRST}
    seqs = [event.seq for event in (*ours, *theirs)]
    assert len(set(seqs)) == len(seqs)
    assert ours[0].at.boot_id == clock.boot_id
    assert journal.device.events(ours[0].seq, 10) == ours[1:]
    assert journal.device.events(0, 1) == ours[:1]
    assert journal.device.newest(1) == ours[1:]
    journal.close()
    again = Journal(tmp_path / "journal.db", clock)
    assert again.device.newest(10) == ours
    again.close()


def test_the_oldest_go_and_a_jobs_stay(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db", FakeClock())
    journal.submit(FIRST, 1, spec_bytes(train_spec()), "controller")
    before = journal.events(0)
    for number in range(device_log.MOST_KEPT + 5):
        journal.device.add(DeviceEvent(act=str(number)))
    kept = journal.device.events(0, 10_000)
    assert len(kept) == device_log.MOST_KEPT
    assert (kept[0].act, kept[-1].act) == ("5", str(device_log.MOST_KEPT + 4))
    assert journal.events(0) == before
    journal.close()
