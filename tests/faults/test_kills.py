"""SIGKILL before and after every persist point; then everybody goes on, and nothing is lost."""

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.memory import torch_build
from agent.memory.forecast import inference_forecast, training_forecast
from agent.memory.plan import Plan
from agent.operating import power_mode
from artifacts import base_model
from artifacts import digest as digests
from artifacts.persisting import AFTER, BEFORE, Point
from artifacts.pieces import LEAST_BYTES
from artifacts.store import ArtifactStore
from controller import SyncFleet
from controller.records import StageData
from protos.nanofleet.v1.job_pb2 import JOB_STATE_SUCCEEDED
from tests import disks
from tests.agent.operating.programs import Programs
from tests.faults import oracle
from tests.faults.drive import job
from tests.faults.lab import BASE, CONFIG, DATA, Lab, Order
from tests.faults.oracle import Outcome
from tests.faults.programs import adopted, converted, installed, merged
from tests.faults.table import AGENT, TABLE, Row, cases


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "row" in metafunc.fixturenames:
        every = metafunc.config.getoption("faults") == "all"
        chosen = cases(every=every)
        names = [f"{row}-{side}" for row, side in chosen]
        metafunc.parametrize(("row", "side"), chosen, ids=names)


FROM_A_FOLDER = {"import": converted, "adopt": adopted, "merge": merged}


@pytest.fixture
def lab(request: pytest.FixtureRequest, row: Row, tmp_path: Path, newborn: Callable[[Path], Lab],
        born: Lab, lived: Lab) -> Iterator[Lab]:  # fmt: skip
    """As the row's story finds it."""
    folder = tmp_path / "lab"
    if row.story == "birth":
        lab = newborn(folder)
    elif row.story in ("speech", "graph"):
        lab = lived.copy(folder)
    elif row.story == "full":
        # Room for what there is, the ballast and the telemetry; the test takes what is left.
        with disks.small_disk(tmp_path / "disk", 24 << 20) as disk:
            lab = born.copy(folder)
            lab.device.move_to(disk / "state")
            yield lab
            lab.device.stop()
        return
    else:
        lab = born.copy(folder)
        if row.story == "stock":
            shutil.rmtree(lab.home / "artifacts")
            (lab.home / "fleet.db").write_bytes((born.folder / "unstocked.db").read_bytes())
    yield lab
    lab.device.stop()
    shutil.rmtree(folder)


def test_killed_there(
    row: Row, side: str, lab: Lab, expected: Outcome, said: str, request: pytest.FixtureRequest
) -> None:
    order = Order(row.point, side, row.passing, lab.folder / "killed")
    if row.story == "install":
        installed(lab, order.environment())
    elif row.story in FROM_A_FOLDER:
        folder = request.getfixturevalue("tiny_folder")
        FROM_A_FOLDER[row.story](lab, folder, order.environment())
    else:
        tell(row, lab, order)
    assert order.mark.exists(), f"the story {row.story} does not pass {row.point.value} so often"
    CHECKS[row.story](lab, expected, said)


def tell(row: Row, lab: Lab, order: Order) -> None:
    nobody: dict[str, str] = {}
    agent = {**order.environment()} if row.who == AGENT else nobody
    if row.story == "powered":
        agent["PATH"] = Programs.written(lab.folder / "programs").path
    controller = nobody if row.who == AGENT else order.environment()
    prepare(lab, row)
    if row.story not in ("birth", "rejoin", "stock", "farewell"):
        lab.device.start(agent)
    played = {"graph": "speech", "full": "hello", "quarantine": "hello", "powered": "life"}
    story = played.get(row.story, row.story)
    lab.play(story, agent=agent, controller=controller)
    lab.settle(agent)


def prepare(lab: Lab, row: Row) -> None:
    if row.story == "speech":
        shutil.rmtree(lab.device.state / "engine")
    elif row.story == "graph":
        lab.device.configure(CONFIG + 'engine = "onnxruntime"\n')
    elif row.story == "yielding":
        lab.device.configure(CONFIG + small_memory())
    elif row.story == "powered":
        lab.device.configure(CONFIG + '[power]\nmode = "2"\nclocks = "max"\n')
    elif row.story == "hello":
        lab.device.start()
        lab.play("hello")
        lab.device.stop()
        lab.device.configure(CONFIG.replace("ring_mib = 1", "ring_mib = 2"))
    elif row.story == "forgetting":
        lab.device.configure(CONFIG + "[journal]\nkeep_mib = 0\n")
    elif row.story == "quarantine":
        (lab.device.state / "journal.db").write_bytes(b"no journal" * 1000)
    elif row.story == "repair":
        (lab.folder / "large").write_bytes(random.Random(1).randbytes(LEAST_BYTES + 5))
    elif row.story == "full":
        lab.device.start()
        lab.play("hello")
        lab.device.stop()
        assert (lab.device.state / "ballast").exists()
        disks.fill(lab.device.state.resolve().parent)


def small_memory() -> str:
    """A little less than the job and the model take together."""
    model, data = base_model.read(BASE), [StageData(digests.of_file(DATA), 11)]
    train = job("long").to_spec(base_digest="", data=data, instruct=True).train
    training = training_forecast(model, train, Plan(), torch=torch_build.installed())
    both = training.peak_bytes + inference_forecast(model, 256).peak_bytes - model.size_bytes
    return f"quiet_s = 0.5\n[memory]\nmost_mib = {(both >> 20) - 1}\n"


def has_lived(lab: Lab, expected: Outcome, said: str) -> None:
    lab.play("hello")
    lab.device.stop()
    oracle.check_job(lab, "persona", expected)
    oracle.check_stores(lab)
    pulled = digests.of_file(lab.folder / "pulled.tar")
    assert ArtifactStore(lab.home / "artifacts").stat(pulled) is not None


def is_as_it_was(lab: Lab, expected: Outcome, said: str) -> None:
    """The board has its power mode again, and the job its adapter."""
    has_lived(lab, expected, said)
    programs = Programs(lab.folder / "programs")
    assert (programs.mode, programs.pinned) == (0, False)
    assert "nvpmodel -m 2" in programs.calls
    assert not (lab.device.state / power_mode.FILE).exists()


def has_taught(lab: Lab, expected: Outcome, said: str) -> None:
    """What was killed on the way has the bytes of what nobody disturbed."""
    lab.play("teaching_again")
    lab.device.stop()
    oracle.check_stores(lab)
    record, events = oracle.told(lab, "teach")
    oracle.check_events(lab, record, events)
    again, _ = oracle.told(lab, "again")
    made, undisturbed = record.job.result.generated, again.job.result.generated
    assert made.dataset_digest == undisturbed.dataset_digest
    assert made.tokens == undisturbed.tokens
    assert (lab.folder / "taught.jsonl").read_text().count("\n") == made.kept > 0


def is_born(lab: Lab, expected: Outcome, said: str) -> None:
    """The fleet can be used, and the device is in it."""
    lab.device.start()
    lab.play("stock")
    lab.play("hello")
    lab.device.stop()
    oracle.check_stores(lab)


def answers(lab: Lab, expected: Outcome, said: str) -> None:
    lab.play("hello")
    lab.device.stop()
    left = [path.name for path in lab.device.state.glob(".*")]
    assert left == []


def is_repaired(lab: Lab, expected: Outcome, said: str) -> None:
    lab.device.stop()
    oracle.check_stores(lab)
    store = ArtifactStore(lab.device.state / "artifacts")
    assert store.stat(digests.of_file(lab.folder / "large")) is not None


def has_spoken(lab: Lab, expected: Outcome, said: str) -> None:
    assert (lab.folder / "said").read_text() == said


def has_yielded(lab: Lab, expected: Outcome, said: str) -> None:
    lab.device.stop()
    record, events = oracle.told(lab, "long")
    oracle.check_events(lab, record, events)
    oracle.check_stores(lab)
    assert record.ended


def has_forgotten(lab: Lab, expected: Outcome, said: str) -> None:
    """The controller has every event, the device how it ended, and how many events went."""
    lab.device.stop()
    oracle.check_stores(lab)
    record, events = oracle.told(lab, "persona")
    assert record.state == JOB_STATE_SUCCEEDED
    assert oracle.losses(events) == expected.losses
    assert oracle.evaluations(events) == expected.evaluations
    left = oracle.journalled(lab, record.id)
    gone = [event.pruned for event in left if event.HasField("pruned")]
    kept = [event for event in left if not event.HasField("pruned")]
    assert kept == [event for event in events if event.HasField("transition")]
    assert sum(one.events for one in gone) == len(events) - len(kept) > 30
    assert not any(one.unacknowledged for one in gone)


def is_gone(lab: Lab, expected: Outcome, said: str) -> None:
    with pytest.raises(AssertionError, match="There is no device"):
        lab.play("hello")
    with SyncFleet.open(lab.home) as fleet:
        (key,) = fleet.keys()
        assert key.revoked_utc_ns


def is_made(lab: Lab, expected: Outcome, said: str) -> None:
    """What the program made is checked where it is run, see programs.py."""


CHECKS: dict[str, Callable[[Lab, Outcome, str], None]] = {
    "birth": is_born,
    "rejoin": is_born,
    "stock": is_born,
    "life": has_lived,
    "powered": is_as_it_was,
    "teaching": has_taught,
    "hello": answers,
    "full": answers,
    "quarantine": answers,
    "forgetting": has_forgotten,
    "repair": is_repaired,
    "speech": has_spoken,
    "graph": has_spoken,
    "yielding": has_yielded,
    "farewell": is_gone,
    "import": is_made,
    "adopt": is_made,
    "merge": is_made,
    "install": is_made,
}


@pytest.mark.parametrize("point", Point, ids=lambda point: point.value)
def test_no_point_is_missing_in_the_table(point: Point) -> None:
    assert any(row.point is point for row in TABLE)


def test_the_short_table_is_a_part_of_the_long_one() -> None:
    short = cases(every=False)
    assert len(short) == 7
    assert {side for _, side in short} == {BEFORE, AFTER}
    assert len(cases(every=True)) == 2 * len(TABLE) == 2 * len(set(TABLE))
