"""Selectors: what they mean, and that nothing else is taken for one."""

import pytest

from controller import facts, selector
from protos.errors import InvalidRequest
from protos.nanofleet.v1 import device_pb2

LABELS = {"site": "lab", "rack": "r2"}
FACTS = {"board": "orin-nano", "mem": str(4000 << 20), "state": "idle", "name": "kitchen"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "site=lab",
        " site = lab , rack=r2 ",
        "site=lab,board in (nano,orin-nano),mem>=3500Mi,state=idle,name!=x",
        "board in ( nano , orin-nano )",
        "board notin (nano,agx-orin)",
        "mem>=3.5Gi",
        "mem<5G",
        "unknown!=x",
        "unknown notin (x,y)",
    ],
)
def test_selects(text: str) -> None:
    assert selector.parse(text).selects(LABELS, FACTS)


@pytest.mark.parametrize(
    "text",
    ["site=home", "site=lab,rack=r3", "mem>=4Gi", "mem<4000Mi", "unknown=x", "unknown>=1",
     "unknown in (x)", "board in (nano)", "name!=kitchen", "site>=1"],
)  # fmt: skip
def test_does_not_select(text: str) -> None:
    assert not selector.parse(text).selects(LABELS, FACTS)


@pytest.mark.parametrize(
    "text",
    ["site", "=lab", "site=", "site==lab", "site=lab,", ",site=lab", "board in nano",
     "board in ()", "board in (nano", "mem>=much", "mem>=3500Mb", "a b=c", "site=l@b",
     "mem=>3"],
)  # fmt: skip
def test_refuses_what_is_no_selector(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        selector.parse(text)
    assert caught.value.field == "selector"
    assert "site=lab" in caught.value.fix


def test_labels_come_before_facts() -> None:
    assert selector.parse("board=mine").selects({"board": "mine"}, FACTS)


def test_the_failing_term_is_named_as_it_was_written() -> None:
    failing = selector.parse("site=lab,mem >= 8Gi").failing(LABELS, FACTS)
    assert failing is not None
    assert failing.text == "mem >= 8Gi"


@pytest.mark.parametrize("labels", [{"a b": "c"}, {"a": ""}, {"a": "b,c"}, {"1": "x"}])
def test_labels_that_no_selector_could_ask_for_are_refused(labels: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest):
        selector.checked_labels(labels)


@pytest.mark.parametrize(
    ("model", "word"),
    [
        ("NVIDIA Jetson Orin Nano 8 GB", "orin-nano"),
        ("NVIDIA Jetson Nano 4GB", "nano"),
        ("NVIDIA Jetson AGX Orin Developer Kit", "agx-orin"),
        ("NVIDIA Jetson Xavier NX 8 GB", "xavier-nx"),
        ("Intel(R) Core(TM) i5-8250U", "intel-core-i5-8250u"),
        ("", ""),
    ],
)
def test_the_board_as_people_write_it(model: str, word: str) -> None:
    assert facts.board_word(model) == word


def test_unknown_facts_are_absent() -> None:
    known = facts.of("kitchen", device_pb2.Device(memory_budget_bytes=7))
    assert known == {"name": "kitchen", "mem": "7", "state": "idle"}
    assert facts.of("kitchen", None) == {"name": "kitchen"}
    busy = device_pb2.Device(active_jobs=2)
    assert facts.of("kitchen", busy)["state"] == "busy"
