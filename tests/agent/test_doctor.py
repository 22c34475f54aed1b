"""Each check, made to pass, to warn and to fail on a device that is built for it."""

import datetime
import fcntl
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent import doctor, probe
from agent.doctor import CHECKS, Check, Finding, examine, report, worst
from agent.findings import Found, Level, Site
from controller.demo.processes import free_port
from protos.errors import WorkerFailed
from tests.jetson import trees
from tests.jetson.trees import Tree, write

NOW = datetime.datetime(2026, 3, 1, tzinfo=datetime.timezone.utc)


def write_certificate(path: Path, start: datetime.datetime, end: datetime.datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kitchen")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, start, end)
    path.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def interpreter(path: Path, script: str) -> str:
    """Something that is started in the place of python."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """An Orin Nano that joined a fleet and is well."""
    state = tmp_path / "state"
    (state / "identity").mkdir(parents=True)
    key = state / "identity" / "key.pem"
    key.write_text("key")
    key.chmod(0o600)
    chain = state / "identity" / "chain.pem"
    epoch = datetime.datetime(1970, 1, 1)
    write_certificate(chain, epoch, datetime.datetime(2026, 9, 1))
    os.utime(chain, (NOW.timestamp() - 86_400,) * 2)
    return Site(
        state=state,
        port=free_port(),
        root=write(trees.ORIN_NANO, tmp_path / "root"),
        utc_s=NOW.timestamp,
        comfortable_disk_bytes=0,
        least_disk_bytes=0,
    )


def finding(site: Site, name: str) -> Finding:
    (found,) = examine(site, [check for check in CHECKS if check.name == name])
    return found


def test_device_that_is_well(site: Site) -> None:
    findings = examine(site)
    assert [found.name for found in findings] == [check.name for check in CHECKS]
    assert worst(findings) is Level.OK, report(findings)
    assert not any(found.remedy for found in findings)
    by_name = {found.name: found.finding for found in findings}
    assert by_name["certificate"] == "valid until 2026-09-01"
    assert by_name["clock"] == "2026-03-01 00:00 UTC"
    assert by_name["board"] == (
        "NVIDIA Jetson Orin Nano 8 GB (developer kit), p3767-0005, L4T 36.4.3, "
        "power mode MAXN_SUPER (2)"
    )
    assert by_name["power sensor"].startswith("3.0 W from VDD_IN")


def without_state(site: Site) -> Site:
    return replace(site, state=site.state / "none")


def state_is_a_file(site: Site) -> Site:
    (site.state / "file").write_text("")
    return replace(site, state=site.state / "file")


def key_for_all(site: Site) -> Site:
    (site.state / "identity" / "key.pem").chmod(0o644)
    return site


def not_joined(site: Site) -> Site:
    for path in (site.state / "identity").iterdir():
        path.unlink()
    return site


def certificate_is_nonsense(site: Site) -> Site:
    (site.state / "identity" / "chain.pem").write_text("-----BEGIN CERTIFICATE-----\nx\n")
    return site


def certificate(start: str, end: str) -> Callable[[Site], Site]:
    def change(site: Site) -> Site:
        write_certificate(
            site.state / "identity" / "chain.pem",
            datetime.datetime.fromisoformat(start),
            datetime.datetime.fromisoformat(end),
        )
        return site

    return change


def at(utc: str) -> Callable[[Site], Site]:
    moment_s = datetime.datetime.fromisoformat(f"{utc}+00:00").timestamp()
    return lambda site: replace(site, utc_s=lambda: moment_s)


def disk(least: int, comfortable: int) -> Callable[[Site], Site]:
    return lambda site: replace(site, least_disk_bytes=least, comfortable_disk_bytes=comfortable)


def tree(changes: Tree, base: Tree = trees.ORIN_NANO) -> Callable[[Site], Site]:
    def change(site: Site) -> Site:
        return replace(site, root=write({**base, **changes}, site.root.with_name("changed")))

    return change


def python(script: str) -> Callable[[Site], Site]:
    return lambda site: replace(site, python=interpreter(site.state / "python", script))


def meminfo(total_mb: int, available_mb: int) -> Callable[[Site], Site]:
    text = f"MemTotal: {total_mb * 1000} kB\nMemAvailable: {available_mb * 1000} kB\n"
    return tree({"proc/meminfo": text.encode()})


@pytest.mark.parametrize(
    ("name", "change", "level", "says"),
    [
        ("state folder", without_state, Level.FAIL, "is not a folder"),
        ("state folder", state_is_a_file, Level.FAIL, "is not a folder"),
        ("key", key_for_all, Level.FAIL, "can be read by others (mode 0644)"),
        ("key", not_joined, Level.WARN, "has not joined a fleet"),
        ("certificate", not_joined, Level.WARN, "has not joined a fleet"),
        ("certificate", certificate_is_nonsense, Level.FAIL, "cannot be read"),
        (
            "certificate",
            certificate("1970-01-01", "2026-02-28"),
            Level.FAIL,
            "ended on 2026-02-28",
        ),
        (
            "certificate",
            certificate("1970-01-01", "2026-03-11"),
            Level.WARN,
            "valid until 2026-03-11: 10 days left",
        ),
        (
            "certificate",
            certificate("2026-03-02", "2027-03-11"),
            Level.FAIL,
            "is valid only from 2026-03-02 on",
        ),
        ("certificate", python("exit 3"), Level.FAIL, "exit code 3"),
        ("clock", at("1970-01-01"), Level.WARN, "1970-01-01 00:00 UTC cannot be"),
        ("clock", at("2026-01-01"), Level.WARN, "before the time when this device joined"),
        ("disk", disk(1 << 60, 1 << 60), Level.FAIL, "GB are free"),
        ("disk", disk(0, 1 << 60), Level.WARN, "GB are free"),
        ("engine llama", python("kill -ILL $$"), Level.FAIL, "died of signal 4"),
        ("engine torch", python("echo 'No module named torch' >&2; exit 1"), Level.FAIL, "torch."),
        ("engine torch", python("echo 9.9"), Level.OK, "9.9"),
        (
            "board",
            tree({"etc/nv_tegra_release": b"# R36 (release), REVISION: 4.7, GCID: 1\n"}),
            Level.WARN,
            "L4T 36.4.7",
        ),
        ("board", tree({}, trees.CONTAINER), Level.OK, "unknown"),
        ("memory", meminfo(1900, 1700), Level.WARN, "MB are for workers"),
        ("memory", meminfo(1000, 300), Level.FAIL, "MB are for workers"),
        ("memory", tree({}, trees.CONTAINER), Level.FAIL, "does not tell"),
        ("desktop", tree({"proc/812/comm": b"gnome-shell\n"}), Level.WARN, "gnome-shell runs"),
        ("desktop", tree({"proc/812/comm": b"bash\n"}), Level.OK, "none runs"),
        ("swap", tree({}, trees.NANO), Level.WARN, "of zram"),
        ("swap", tree({}, trees.AGX_ORIN), Level.OK, "none"),
        ("swap", tree({}, trees.WORKSTATION), Level.OK, "none of it in memory"),
        ("power sensor", tree({}, trees.CONTAINER), Level.WARN, "none can be read"),
        ("power sensor", tree({}, trees.WORKSTATION), Level.OK, "RAPL"),
        ("power sensor", tree({}, trees.AGX_ORIN), Level.OK, "sum of rails (lower bound)"),
        (
            "power sensor",
            tree({"sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon11/in1_input": b""}),
            Level.WARN,
            "no reading",
        ),
    ],
)
def test_finding_and_its_remedy(
    site: Site, name: str, change: Callable[[Site], Site], level: Level, says: str
) -> None:
    found = finding(change(site), name)
    assert (found.level, says in found.finding) == (level, True), found
    assert bool(found.remedy) == (level is not Level.OK)


def test_port_that_another_program_has(site: Site) -> None:
    with socket.socket() as other:
        other.bind(("0.0.0.0", site.port))
        other.listen()
        found = finding(site, "port")
    assert (found.level, found.finding) == (
        Level.FAIL,
        f"port {site.port}: Address already in use",
    )
    assert "ss -ltnp" in found.remedy


def test_port_that_the_agent_itself_has(site: Site) -> None:
    with socket.socket() as other, (site.state / "agent.lock").open("w") as held:
        other.bind(("0.0.0.0", site.port))
        other.listen()
        held.write(f'{{"pid": {os.getpid()}, "address": "127.0.0.1:{site.port}"}}')
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        found = finding(site, "port")
    assert found.level is Level.OK
    assert f"listens on 127.0.0.1:{site.port}" in found.finding


def test_report_shows_what_to_do_below_what_is_wrong() -> None:
    text = report(
        [
            Finding("clock", Level.OK, "2026-03-01", ""),
            Finding("state folder", Level.FAIL, "gone", "Make it."),
        ]
    )
    assert text.splitlines() == [
        "ok    clock         2026-03-01",
        "fail  state folder  gone",
        "                    → Make it.",
    ]
    assert report([]) == ""
    assert worst([]) is Level.OK


def test_check_that_cannot_look_is_a_finding(site: Site) -> None:
    def look(site: Site) -> Found:
        raise PermissionError(13, "Permission denied", str(site.state))

    (found,) = examine(site, [Check("state folder", "Run it as root.", look)])
    assert (found.level, found.remedy) == (Level.FAIL, "Run it as root.")
    assert "cannot be checked: [Errno 13] Permission denied" in found.finding


def test_every_check_has_a_remedy_and_its_own_name() -> None:
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    assert all(check.remedy for check in CHECKS)


def test_program_that_cannot_be_started() -> None:
    with pytest.raises(WorkerFailed, match="The engine torch does not work"):
        probe.engine_version("torch", "/nowhere/python")


def test_doctor_loads_no_engine_itself() -> None:
    """And no cryptography: the doctor can run where nothing else does."""
    program = (
        "import sys, agent.doctor; "
        "print({'torch', 'llama_cpp', 'cryptography', 'numpy'} & set(sys.modules))"
    )
    assert probe._run(sys.executable, program, "") == "set()"
    assert NOW.timestamp() > doctor.EARLIEST_UTC_S
