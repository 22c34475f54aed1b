"""Programs beside the board's own files: real processes with a pipe."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from agent.telemetry import jtop
from agent.telemetry.beside import FRESH_S, Beside, read_tegrastats
from agent.telemetry.sampler import Sampler
from jetson import jtop_reader
from jetson.emc import EmcReading
from jetson.gpu import GpuReading
from jetson.power import Rail
from jetson.thermal import Temperature
from protos.errors import WorkerFailed
from tests.agent.telemetry.test_sampler import Clock, nobody
from tests.jetson.lines import LINES

# As the package jetson-stats: what is read of it, and what it raises.
PACKAGE = """
class JtopException(Exception):
    pass

class jtop:
    def __init__(self, interval):
        self.left = 2
    def __enter__(self):
        problem = {problem!r}
        if problem:
            raise JtopException(problem)
        return self
    def __exit__(self, *error):
        return False
    def ok(self):
        self.left -= 1
        return self.left >= 0
    power = {{"rail": {{"VDD_IN": {{"power": 4915, "avg": 1, "online": True}},
                      "NC": {{"power": 7, "online": False}}}}, "tot": {{"power": 1}}}}
    temperature = {{"cpu": {{"temp": 44.1, "online": True}},
                   "cv0": {{"temp": -256, "online": False}}}}
    gpu = {{"gpu": {{"status": {{"load": 12.5}}, "freq": {{"cur": 305000}}}}}}
    memory = {{"EMC": {{"cur": 2133000}}}}
"""


def package(folder: Path, problem: str = "") -> dict[str, str]:
    """The environment of a Python that has jetson-stats."""
    (folder / "jtop.py").write_text(PACKAGE.format(problem=problem))
    return {"PYTHONPATH": str(folder)}


def reader(environment: dict[str, str]) -> list[str]:
    done = subprocess.run(
        jtop.command(""), env=environment, capture_output=True, text=True, check=False
    )
    return done.stdout.splitlines()


def test_jtop_is_read_value_by_value(tmp_path: Path) -> None:
    observed = jtop.parse(reader(package(tmp_path))[0])
    assert observed.power is not None
    assert observed.power.rails == (Rail("VDD_IN", 4915),)
    assert (observed.power.total_mw, observed.power.total_source) == (4915, "VDD_IN")
    assert observed.temperatures == (Temperature("cpu", 44.1),)
    assert observed.offline_zones == ("cv0",)
    assert observed.gpu == GpuReading(12.5, 305)
    assert observed.emc == EmcReading(None, 2133)


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        ("The jtop.service is not active. Please run:\nsudo systemctl restart jtop", "not active"),
        ("Mismatch version jtop service: [4.3.2] and client: [7.2.2]", "different versions"),
        ("Mismatch of Python versions between library and service", "different versions"),
        ("I can't access jtop.service. Please add the user to the group", "may not talk"),
        ("Something new", "cannot be read"),
    ],
)
def test_what_jtop_lacks_is_explained(tmp_path: Path, problem: str, said: str) -> None:
    with pytest.raises(WorkerFailed, match=said) as failed:
        jtop.parse(reader(package(tmp_path, problem))[-1])
    assert failed.value.fix
    assert problem.split()[0] in failed.value.why


def test_python_without_jetson_stats_is_explained() -> None:
    assert importlib.util.find_spec("jtop") is None
    with pytest.raises(WorkerFailed, match="not installed") as failed:
        jtop.parse(reader({})[-1])
    assert "nanofleet[jetson]" in failed.value.fix


@pytest.mark.parametrize("line", ["", "[]", "{", '{"celsius": 4}', '{"celsius": {"cpu": "warm"}}'])
def test_damaged_line_of_the_reader(line: str) -> None:
    try:
        observed = jtop.parse(line)
    except WorkerFailed:
        return
    assert (observed.power, observed.temperatures, observed.gpu) == (None, (), None)


def test_reader_is_plain_enough_for_the_python_of_jetpack_4() -> None:
    tree = ast.parse(Path(jtop_reader.__file__).read_text(), feature_version=(3, 6))
    imported = {
        getattr(node, "module", None) or node.names[0].name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert imported == {"importlib", "json", "sys", "typing"}


def program(*lines: str) -> tuple[str, ...]:
    return (sys.executable, "-c", "import sys; print(*sys.argv[1:], sep='\\n')", *lines)


async def test_newest_line_is_what_a_sample_takes_while_it_is_fresh(tmp_path: Path) -> None:
    now_s = 100.0
    lines = (LINES["r36 orin nx, two clusters"], LINES["r35 orin nano"])
    beside = Beside("tegrastats", program(*lines), read_tegrastats, lambda: now_s)
    assert beside.newest() is None
    with pytest.raises(WorkerFailed, match="tegrastats ended") as failed:
        await beside.read()
    assert "exit code is 0" in failed.value.why
    sampling = Sampler(
        tmp_path, nobody, boottime_ns=Clock(), beside=beside.newest, beside_source=beside.source
    )
    taken = sampling.sample()
    assert (taken.power.total_mw, taken.power.total_source) == (4915, "VDD_IN")
    assert (taken.heat.zone, taken.heat.celsius) == ("tj", 46.968)
    assert taken.emc.frequency_mhz == 2133
    assert taken.gpu.frequency_mhz == 305
    assert taken.beside_source == "tegrastats"
    now_s += FRESH_S + 1
    silent = sampling.sample()
    assert not silent.HasField("power")
    assert not silent.HasField("heat")


async def test_program_that_is_not_there_is_explained() -> None:
    beside = Beside("tegrastats", ("/nowhere/tegrastats",), read_tegrastats)
    with pytest.raises(WorkerFailed, match="cannot be started") as failed:
        await beside.read()
    assert "agent.toml" in failed.value.fix


async def test_trouble_is_logged_once_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    beside = Beside("jtop", program('{"trouble": "inactive", "why": "no socket"}'), jtop.parse)
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        await beside.run(sleep)
    assert len(waits) == 3
    assert [record.message.count("not active") for record in caplog.records] == [1]
