"""Placement: which device, and a reason for each of the others."""

from controller import placement, selector
from controller.placement import Candidate, Wanted
from controller.records import DeviceRecord, DeviceStatus
from protos.errors import NotFound, Refused, Unreachable
from protos.nanofleet.v1 import device_pb2

BASE = "sha256:base"
TRAINS = ("train:lora", "base:gguf/q8_0")


def candidate(
    name: str,
    *,
    labels: dict[str, str] | None = None,
    reachable: bool = True,
    engine: str = "torch",
    jobs: int = 0,
    before: int = 0,
    free: int = 10**10,
    memory: int = 4 << 30,
    held: tuple[str, ...] = (),
    capabilities: tuple[str, ...] = TRAINS,
) -> Candidate:
    record = DeviceRecord(name, f"{name}:7401", labels or {}, 0, 0)
    if not reachable:
        return Candidate(DeviceStatus(record, False, None, f"Cannot reach {name}."))
    device = device_pb2.Device(
        name=name,
        active_jobs=jobs,
        memory_budget_bytes=memory,
        engines=[device_pb2.Engine(name=engine)],
        storage=device_pb2.Storage(free_bytes=free),
        capabilities=capabilities,
    )
    return Candidate(DeviceStatus(record, True, device), frozenset(held), before)


def wanted(text: str = "", device: str = "") -> Wanted:
    return Wanted(device, selector.parse(text), {BASE: 10**9}, TRAINS)


def reasons(result: placement.Placement) -> dict[str, str]:
    return {item.device: item.reason for item in result.rejections}


def test_the_device_with_the_fewest_jobs_before_this_one() -> None:
    fleet = [candidate("a", jobs=1), candidate("b"), candidate("c", before=2)]
    result = placement.choose(wanted(), fleet)
    assert result.device == "b"
    assert reasons(result) == {
        "a": "has 1 jobs before this one, b has 0",
        "c": "has 2 jobs before this one, b has 0",
    }


def test_one_that_holds_the_base_model_is_preferred() -> None:
    result = placement.choose(wanted(), [candidate("a"), candidate("b", held=(BASE,))])
    assert result.device == "b"
    assert reasons(result) == {"a": "would need files that b has already"}


def test_then_memory_then_name() -> None:
    assert (
        placement.choose(wanted(), [candidate("a"), candidate("b", memory=8 << 30)]).device == "b"
    )
    assert placement.choose(wanted(), [candidate("b"), candidate("a")]).device == "a"


def test_a_named_device_gets_the_job_even_when_it_is_busy() -> None:
    fleet = [candidate("a"), candidate("b", jobs=3)]
    assert placement.choose(wanted(device="b"), fleet).device == "b"


def test_each_unfit_device_has_its_reason() -> None:
    fleet = [
        candidate("away", reachable=False, labels={"site": "lab"}),
        candidate("elsewhere", labels={"site": "home"}),
        candidate("server", labels={"site": "lab"}, engine="llama"),
        candidate("old", labels={"site": "lab"}, capabilities=("train:lora",)),
        candidate("full", labels={"site": "lab"}, free=10**6),
    ]
    result = placement.choose(wanted("site=lab"), fleet)
    assert result.device == ""
    assert reasons(result) == {
        "away": "Cannot reach away.",
        "elsewhere": "does not match site=lab",
        "server": "cannot train: torch is not installed there",
        "old": "its agent cannot do base:gguf/q8_0",
        "full": "has 1 MB of free disk, and 1000 MB have to go there",
    }
    refusal = placement.refusal(result)
    assert isinstance(refusal, Refused)
    assert refusal.reason == "NO_DEVICE"
    assert all(
        no.reason.rstrip(".") in refusal.why for no in result.rejections if no.device != "elsewhere"
    )


def test_a_full_disk_that_holds_the_base_already_is_fine() -> None:
    assert placement.choose(wanted(), [candidate("a", free=10, held=(BASE,))]).device == "a"


def test_when_all_that_match_are_away_that_is_the_error() -> None:
    fleet = [candidate("a", reachable=False), candidate("b")]
    result = placement.choose(wanted(device="a"), fleet)
    assert isinstance(placement.refusal(result), Unreachable)


def test_an_empty_fleet_says_how_to_add_a_device() -> None:
    error = placement.refusal(placement.choose(wanted(), []))
    assert isinstance(error, NotFound)
    assert "nanofleet device token" in error.fix


def test_nothing_matches_is_not_unreachable() -> None:
    result = placement.choose(wanted("site=x"), [candidate("a")])
    assert isinstance(placement.refusal(result), Refused)
