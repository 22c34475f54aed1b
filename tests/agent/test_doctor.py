"""Each check, made to pass, to warn and to fail on a device that is built for it."""

import datetime
import fcntl
import json
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

from agent import cli
from agent.doctor import checks, probe
from agent.doctor.checks import CHECKS
from agent.doctor.examination import Check, Finding, examine, report, worst
from agent.doctor.findings import Found, Level, Site, warn
from agent.doctor.membership import EARLIEST_UTC_S
from controller.demo.processes import free_port
from protos.errors import WorkerFailed
from tests.jetson import trees
from tests.jetson.trees import Tree, write

ORIN_CPU: Tree = {
    "proc/cpuinfo": b"processor\t: 0\n"
    b"Features\t: fp asimd evtstrm aes crc32 atomics fphp asimdhp cpuid asimddp\n"
}
NANO_CPU: Tree = {"proc/cpuinfo": b"processor\t: 0\nFeatures\t: fp asimd evtstrm aes crc32\n"}
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
        root=write({**trees.ORIN_NANO, **ORIN_CPU}, tmp_path / "root"),
        utc_s=NOW.timestamp,
        slow_sync_ms=1e6,
        slow_write_mb_s=0,
        probed_bytes=16 << 20,
        comfortable_disk_bytes=0,
        least_disk_bytes=0,
    )


def without_state(site: Site) -> Site:
    return replace(site, state=site.state / "none")


def finding(site: Site, name: str) -> Finding:
    (found,) = examine(site, [check for check in CHECKS if check.name == name])
    return found


def test_device_that_is_well(site: Site) -> None:
    findings = examine(site, CHECKS)
    assert [found.name for found in findings] == [check.name for check in CHECKS]
    assert worst(findings) is Level.OK, report(findings)
    assert not any(found.remedy for found in findings)
    by_name = {found.name: found.finding for found in findings}
    assert by_name["certificate"] == "valid until 2026-09-01"
    assert by_name["clock"] == "2026-03-01 00:00 UTC"
    assert by_name["board"] == (
        "NVIDIA Jetson Orin Nano 8 GB (developer kit), p3767-0005, L4T 36.4.3"
    )
    assert by_name["power mode"] == "MAXN_SUPER (2), 6 cores"
    assert by_name["golden vector"] == "llama gives the recorded answers"
    assert by_name["processor"] == "int8 dot products, half precision"
    assert by_name["container"] == "on the host"
    assert by_name["power sensor"].startswith("3.0 W from VDD_IN")


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


def disk_named(name: str, more: Tree, state: Path) -> Tree:
    """The state folder, which is real, lies on a disk of another name."""
    number = state.stat().st_dev
    where = f"sys/dev/block/{os.major(number)}:{os.minor(number)}/uevent"
    return {where: f"MAJOR=1\nDEVNAME={name}\n".encode(), **more}


def on(name: str, more: Tree | None = None) -> Callable[[Site], Site]:
    return lambda site: tree(disk_named(name, more or {}, site.state))(site)


def slow(site: Site) -> Site:
    return replace(on("sda1")(site), slow_sync_ms=0)


def strange_owner(site: Site) -> Site:
    os.chown(site.state / "identity" / "key.pem", 12_345, 12_345)
    return site


def large_model(site: Site) -> Site:
    """A sparse file: nothing is written."""
    objects = site.state / "artifacts" / "objects"
    objects.mkdir(parents=True)
    with (objects / "ab").open("wb") as file:
        file.truncate(20 << 30)
    return tree(ZRAM, trees.AGX_ORIN)(site)


def in_docker(base: Tree, more: Tree | None = None) -> Callable[[Site], Site]:
    return tree({".dockerenv": b"", **(more or {})}, base)


def python(script: str) -> Callable[[Site], Site]:
    return lambda site: replace(site, python=interpreter(site.state / "python", script))


def meminfo(total_mb: int, available_mb: int) -> Callable[[Site], Site]:
    text = f"MemTotal: {total_mb * 1000} kB\nMemAvailable: {available_mb * 1000} kB\n"
    return tree({"proc/meminfo": text.encode()})


CARD = "sys/block/mmcblk0/device"
SWAPS = "Filename Type Size Used Priority\n"
ZRAM: Tree = {"proc/swaps": f"{SWAPS}/dev/zram0 partition 507400 0 5\n".encode()}
MODE = "var/lib/nvpmodel/status"
MODES = "etc/nvpmodel.conf"


@pytest.mark.parametrize(
    ("name", "change", "level", "says"),
    [
        ("permissions", strange_owner, Level.FAIL, "identity/key.pem: not of the user"),
        ("storage", on("nvme0n1p1"), Level.OK, "NVMe (nvme0n1p1): writes"),
        ("storage", on("sda1"), Level.OK, "a disk (sda1)"),
        (
            "storage",
            on("sda1", {"sys/block/sda/queue/rotational": b"1\n"}),
            Level.OK,
            "a rotating disk (sda1)",
        ),
        ("storage", on("vda"), Level.OK, "a virtual disk (vda)"),
        ("storage", on("mmcblk0p1", {f"{CARD}/type": b"SD\n"}), Level.OK, "an SD card"),
        (
            "storage",
            on("mmcblk0p1", {f"{CARD}/type": b"MMC\n", f"{CARD}/life_time": b"0x01 0x02\n"}),
            Level.OK,
            "eMMC (mmcblk0p1)",
        ),
        (
            "storage",
            on("mmcblk0p1", {f"{CARD}/type": b"MMC\n", f"{CARD}/life_time": b"0x02 0x0b\n"}),
            Level.WARN,
            "about 100 % of its life is used",
        ),
        (
            "storage",
            on("mmcblk0p1", {f"{CARD}/pre_eol_info": b"0x02\n"}),
            Level.WARN,
            "most of its spare blocks are used",
        ),
        (
            "storage",
            on("mmcblk0p1", {f"{CARD}/pre_eol_info": b"0x03\n", f"{CARD}/life_time": b"0x0b"}),
            Level.FAIL,
            "its spare blocks are used up",
        ),
        (
            "storage",
            on("nvme0n1p1", {"sys/fs/ext4/nvme0n1p1/errors_count": b"3\n"}),
            Level.FAIL,
            "its file system has seen 3 errors",
        ),
        ("storage", slow, Level.WARN, "ms for a small sync: slow"),
        ("golden vector", python("echo wrong >&2; exit 1"), Level.FAIL, "wrong"),
        ("golden vector", python("kill -ILL $$"), Level.FAIL, "died of signal 4"),
        ("allocation", python("echo NvMapMemAlloc error 12 >&2; exit 1"), Level.FAIL, "error 12"),
        (
            "allocation",
            lambda site: replace(site, probed_bytes=1 << 50),
            Level.WARN,
            "not tried: only 6,157 MB are available",
        ),
        ("processor", tree(NANO_CPU, trees.NANO), Level.OK, "no int8 dot products"),
        ("processor", tree(NANO_CPU), Level.FAIL, "asimddp, asimdhp is missing"),
        ("processor", tree({}, trees.CONTAINER), Level.WARN, "does not tell"),
        (
            "processor",
            tree({"proc/cpuinfo": b"flags\t\t: fpu sse2 avx2 avx512f\n"}, trees.CONTAINER),
            Level.OK,
            "AVX2, AVX-512",
        ),
        ("container", in_docker(trees.ORIN_NANO), Level.WARN, "without the GPU's devices"),
        ("container", in_docker(trees.ORIN_NANO, {"dev/nvmap": b""}), Level.OK, "in a Docker"),
        ("container", in_docker(trees.WORKSTATION), Level.OK, "in a Docker container"),
        (
            "container",
            tree({"proc/1/environ": b"PATH=/bin\0container=lxc\0"}, trees.WORKSTATION),
            Level.OK,
            "a container (lxc)",
        ),
        ("container", tree({"run/.containerenv": b""}, trees.WORKSTATION), Level.OK, "Podman"),
        ("profile", tree({}, trees.WORKSTATION), Level.OK, "none for this machine"),
        ("profile", tree({}, trees.NANO), Level.OK, "Jetson Nano 4 GB: engine llama, 4 threads"),
        ("power mode", tree({}, trees.NANO), Level.WARN, "5W (1), 4 cores: Jetson Nano 4 GB is"),
        (
            "power mode",
            tree({"sys/devices/system/cpu/present": b"0-5\n"}, trees.XAVIER_NX),
            Level.WARN,
            "none, 3 cores of 6 are on",
        ),
        (
            "power mode",
            tree({MODE: b"pmode:0001\n", MODES: b"< POWER_MODEL ID=1 NAME=MAXQ >\n"}),
            Level.WARN,
            "the mode that saves power",
        ),
        ("power mode", tree({}, trees.WORKSTATION), Level.OK, "none, 8 cores"),
        ("swap", large_model, Level.WARN, "beside models of 21,475 MB"),
        ("swap", tree(ZRAM, trees.AGX_ORIN), Level.OK, "much memory"),
        (
            "swap",
            tree({"proc/swaps": f"{SWAPS}/dev/mmcblk0p2 partition 9 0 5\n".encode()}),
            Level.WARN,
            "on a card or eMMC (/dev/mmcblk0p2)",
        ),
        (
            "swap",
            tree({"proc/swaps": f"{SWAPS}/dev/nvme0n1p3 partition 9 0 5\n".encode()}),
            Level.OK,
            "on /dev/nvme0n1p3",
        ),
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
        ("storage", without_state, Level.OK, "there is no state folder"),
        ("permissions", without_state, Level.OK, "there are no files yet"),
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
        "import sys, agent.doctor.checks; "
        "print({'torch', 'llama_cpp', 'cryptography', 'numpy'} & set(sys.modules))"
    )
    assert probe._run(sys.executable, program, "") == "set()"
    assert NOW.timestamp() > EARLIEST_UTC_S


@pytest.mark.parametrize(
    ("flags", "code"), [((), 0), (("--strict",), 1), (("--strict", "-o", "json"), 1)]
)
def test_a_warning_is_tolerated_unless_one_is_strict(
    site: Site,
    flags: tuple[str, ...],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    warned = Check("clock", "Set it.", lambda site: warn("1970"))
    monkeypatch.setattr(checks, "CHECKS", (warned,))
    assert cli.main(["doctor", "--state", str(site.state), *flags]) == code
    shown = capsys.readouterr().out
    if "json" in flags:
        assert json.loads(shown)["worst"] == "warn"
        assert json.loads(shown)["findings"][0]["remedy"] == "Set it."
    else:
        assert shown == "warn  clock  1970\n             → Set it.\n"
