"""The synchronous twin: the same methods, without an event loop in sight."""

import inspect
import os
import signal
import threading
from pathlib import Path

import pytest

from controller import Fleet, SyncFleet
from protos.errors import NotFound, Refused


def test_it_has_every_method_with_the_same_arguments() -> None:
    for name, method in inspect.getmembers(Fleet, inspect.isfunction):
        if not name.startswith("_"):
            twin = inspect.signature(getattr(SyncFleet, name))
            assert list(twin.parameters) == list(inspect.signature(method).parameters), name
            wanted = [p.default for p in inspect.signature(method).parameters.values()]
            assert [p.default for p in twin.parameters.values()] == wanted, name


def test_a_script_uses_a_device(running: Path, dataset: Path) -> None:
    with SyncFleet.open(running) as fleet:
        assert [device.name for device in fleet.devices()] == ["kitchen"]
        assert fleet.status("kitchen").reachable
        assert fleet.add_dataset(dataset).details["samples"] == 6
        assert fleet.push("tiny", "kitchen")[0].device == "kitchen"
        texts = fleet.generate("kitchen", base="tiny", prompt="Hello", max_tokens=64)
        next(texts)
        texts.close()
        assert len(list(fleet.generate("kitchen", base="tiny", prompt="Hi", max_tokens=2))) > 0
        samples = fleet.telemetry("kitchen")
        assert next(samples).seq > 0
        samples.close()


def test_its_errors_are_the_same(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nanofleet init"):
        SyncFleet.open(tmp_path / "nowhere")
    with SyncFleet.create(tmp_path / "home") as fleet:
        with pytest.raises(NotFound):
            fleet.status("kitchen")
        with fleet.enrolment("127.0.0.1", 0) as server:
            assert server.address.startswith("127.0.0.1:")
            assert fleet.new_token("kitchen", address=server.address).device == "kitchen"


def test_ctrl_c_ends_what_runs_and_the_fleet_goes_on(running: Path) -> None:
    with SyncFleet.open(running) as fleet:
        samples = fleet.telemetry("kitchen")
        next(samples)
        interrupting = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))

        def watch() -> None:
            interrupting.start()
            for _ in samples:
                pass

        with pytest.raises(KeyboardInterrupt):
            watch()
        assert fleet.status("kitchen").reachable


def test_a_closed_fleet_says_so(running: Path) -> None:
    with SyncFleet.open(running) as fleet:
        samples = fleet.telemetry("kitchen")
        next(samples)
        fleet.close()
    samples.close()
    with pytest.raises(Refused, match="closed"):
        fleet.status("kitchen")
