"""Which device answers: what must hold of every choice, and the cases that people ask about."""

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller import selector
from controller.gateway import routing
from controller.gateway.routing import Candidate, Route, Wanted
from controller.records import DeviceRecord, DeviceStatus, Sighting
from protos.errors import NanofleetError, NotFound, Refused, Unreachable
from protos.nanofleet.v1 import device_pb2

BASE, OTHER, ADAPTER = "sha256:base", "sha256:other", "sha256:adapter"


def candidate(
    name: str,
    *,
    held: frozenset[str] = frozenset({BASE}),
    loaded: str = BASE,
    requests: int = 0,
    jobs: int = 0,
    warm: bool = False,
    reachable: bool = True,
    engine: str = "llama",
    site: str = "lab",
) -> Candidate:
    record = DeviceRecord(name, f"{name}:7401", {"site": site}, 0, 0)
    if not reachable:
        problem = f"Cannot reach device {name}."
        return Candidate(Sighting(DeviceStatus(record, False, None, problem), held), requests, warm)
    device = device_pb2.Device(
        name=name, active_jobs=jobs, engines=[device_pb2.Engine(name=engine)]
    )
    if loaded:
        device.loaded_model.base_digest = loaded
    return Candidate(Sighting(DeviceStatus(record, True, device), held), requests, warm)


def wanted(adapter: str = "", text: str = "") -> Wanted:
    return Wanted(BASE, adapter, selector.parse(text))


def chosen(*candidates: Candidate, adapter: str = "", text: str = "") -> str:
    return routing.choose(wanted(adapter, text), candidates).device


held = st.frozensets(st.sampled_from((BASE, OTHER, ADAPTER)))
CANDIDATES = st.lists(
    st.builds(
        candidate,
        name=st.sampled_from([f"d{number}" for number in range(12)]),
        held=held,
        loaded=st.sampled_from((BASE, OTHER, "")),
        requests=st.integers(0, 40),
        jobs=st.integers(0, 3),
        warm=st.booleans(),
        reachable=st.booleans(),
        engine=st.sampled_from(("llama", "llama", "torch")),
        site=st.sampled_from(("lab", "field")),
    ),
    unique_by=lambda one: one.name,
)
WANTED = st.builds(
    wanted, adapter=st.sampled_from(("", ADAPTER)), text=st.sampled_from(("", "site=lab"))
)


def by_name(candidates: list[Candidate], name: str) -> Candidate:
    return next(one for one in candidates if one.name == name)


def can(asked: Wanted, one: Candidate) -> bool:
    status = one.sighting.status
    return (
        status.reachable
        and status.device is not None
        and status.device.engines[0].name == "llama"
        and BASE in one.sighting.held
        and (not asked.selector.terms or status.record.labels["site"] == "lab")
    )


@given(WANTED, CANDIDATES)
def test_a_device_is_chosen_exactly_when_one_can(asked: Wanted, fleet: list[Candidate]) -> None:
    route = routing.choose(asked, fleet)
    able = {one.name for one in fleet if can(asked, one)}
    assert bool(route.device) == bool(able)
    assert route.device in able | {""}
    assert {no.device for no in route.rejections} == {one.name for one in fleet} - able
    assert all(no.reason for no in route.rejections)


@given(WANTED, CANDIDATES)
def test_nobody_who_can_would_answer_sooner(asked: Wanted, fleet: list[Candidate]) -> None:
    route = routing.choose(asked, fleet)
    if route.device:
        best = routing.cost(asked, by_name(fleet, route.device))
        assert all(best <= routing.cost(asked, one) for one in fleet if can(asked, one))


@given(WANTED, CANDIDATES, st.randoms())
def test_the_order_in_which_devices_are_told_does_not_matter(
    asked: Wanted, fleet: list[Candidate], random: Random
) -> None:
    mixed = list(fleet)
    random.shuffle(mixed)
    assert routing.choose(asked, mixed).device == routing.choose(asked, fleet).device


@given(WANTED, CANDIDATES, st.integers(0, 11), st.integers(1, 50))
def test_more_to_do_elsewhere_changes_nothing(
    asked: Wanted, fleet: list[Candidate], number: int, more: int
) -> None:
    before = routing.choose(asked, fleet).device
    busier = [
        replace(one, requests=one.requests + more)
        if one.name == f"d{number}" and one.name != before
        else one
        for one in fleet
    ]
    assert routing.choose(asked, busier).device == before


@given(WANTED, CANDIDATES)
def test_who_has_read_the_beginning_is_never_worse_for_it(
    asked: Wanted, fleet: list[Candidate]
) -> None:
    route = routing.choose(asked, fleet)
    if route.device:
        warmed = [replace(one, is_warm=True) if one.name == route.device else one for one in fleet]
        assert routing.choose(asked, warmed).device == route.device


def test_the_one_with_the_model_in_memory_until_it_has_much_to_do() -> None:
    cold = candidate("cold", loaded="")
    assert chosen(candidate("hot", requests=3), cold) == "hot"
    assert chosen(candidate("hot", requests=5), cold) == "cold"


def test_a_model_that_is_in_use_is_not_pushed_out() -> None:
    other = candidate("other", loaded=OTHER, requests=1)
    assert chosen(candidate("hot", requests=90), other) == "hot"
    idle = candidate("idle", loaded=OTHER)
    assert chosen(candidate("hot", requests=9), idle) == "idle"


def test_a_conversation_stays_unless_its_device_is_busy() -> None:
    fresh = candidate("a")
    assert chosen(candidate("z", warm=True, requests=1), fresh) == "z"
    assert chosen(candidate("z", warm=True, requests=3), fresh) == "a"


def test_one_that_has_the_adapter_and_one_that_trains() -> None:
    has = candidate("z", held=frozenset({BASE, ADAPTER}))
    assert chosen(candidate("a"), has, adapter=ADAPTER) == "z"
    assert chosen(candidate("a", jobs=1), candidate("z")) == "z"


def test_of_equals_the_first_by_name() -> None:
    assert chosen(candidate("b"), candidate("a"), candidate("c")) == "a"


def refusal(*candidates: Candidate, text: str = "") -> NanofleetError:
    route: Route = routing.choose(wanted(text=text), candidates)
    assert not route.device
    return routing.refusal("tiny:persona", route.rejections)


@pytest.mark.parametrize(
    ("fleet", "text", "kind", "said"),
    [
        ((), "", NotFound, "no device"),
        ((candidate("a"),), "site=moon", NotFound, "a: does not match site=moon"),
        ((candidate("a", reachable=False),), "", Unreachable, "Cannot reach device a"),
        ((candidate("a", held=frozenset()),), "", Refused, "artifact push tiny DEVICE"),
        ((candidate("a", engine="torch"),), "", Refused, "llama is missing"),
        (
            (candidate("a", reachable=False), candidate("b", held=frozenset())),
            "",
            Refused,
            "b: does not have the base model",
        ),
    ],
)
def test_a_refusal_says_why_of_each(
    fleet: tuple[Candidate, ...], text: str, kind: type[NanofleetError], said: str
) -> None:
    error = refusal(*fleet, text=text)
    assert type(error) is kind
    assert said in str(error)
