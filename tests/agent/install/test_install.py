"""Installing into the root folder of an image, with the true useradd; and undoing it."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import cli, config
from agent.install import command
from agent.install.place import STATE, UNIT, USER, WANTED
from protos.errors import InvalidRequest, Refused
from tests.images import PASSWD

PROGRAM = Path("/opt/nanofleet/bin/nanofleet-agent")


def install(root: Path, module: str = "", *, dry_run: bool = False) -> list[str]:
    said: list[str] = []
    command.install(root, module, PROGRAM, dry_run=dry_run, tell=said.append)
    return said


def uninstall(root: Path, *, purge: bool = False, dry_run: bool = False) -> list[str]:
    said: list[str] = []
    command.uninstall(root, purge=purge, dry_run=dry_run, tell=said.append)
    return said


def below(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


def everything(root: Path) -> Iterator[tuple[str, int, int, int, bytes]]:
    """Names, owners, modes and contents of all that is there."""
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        yield str(path), status.st_uid, status.st_gid, status.st_mode, content


def test_what_is_there_afterwards(image: Path) -> None:
    said = install(image)
    assert said[0] == "board: Jetson Nano 4 GB"
    user = next(
        line.split(":")
        for line in (image / "etc/passwd").read_text().splitlines()
        if line.startswith(USER)
    )
    assert (user[5], user[6]) == (str(STATE), "/usr/sbin/nologin")
    groups = (image / "etc/group").read_text().splitlines()
    assert {f"video:x:44:{USER}", f"render:x:109:{USER}"} <= set(groups)
    state = below(image, STATE).stat()
    assert stat.S_IMODE(state.st_mode) == 0o700
    settings = below(image, STATE / config.FILE)
    assert stat.S_IMODE(settings.stat().st_mode) == 0o600
    assert {state.st_uid, settings.stat().st_uid} == {int(user[2])}
    unit = below(image, UNIT).read_text()
    assert f"ExecStart={PROGRAM} run --state {STATE}\n" in unit
    assert "Environment=OPENBLAS_CORETYPE=ARMV8\n" in unit
    assert below(image, WANTED).readlink() == UNIT


def test_the_settings_are_the_profile_and_load(image: Path) -> None:
    install(image)
    loaded = config.load(below(image, STATE))
    assert loaded.memory.most_mib == 3000
    assert (loaded.training.threads, loaded.inference.threads) == (4, 3)
    assert loaded.inference.context_length == 2048


@pytest.mark.parametrize("module", ["p3448-0003", "p3767-0005", "p3834-0008"])
def test_an_image_for_another_board(image: Path, module: str) -> None:
    install(image, module)
    config.load(below(image, STATE))
    text = below(image, STATE / config.FILE).read_text()
    assert ("take a smaller base" in text) == (module == "p3448-0003")
    assert ("OPENBLAS" in below(image, UNIT).read_text()) == module.startswith("p3448")


def test_a_machine_that_is_no_board(image: Path) -> None:
    (image / "proc/device-tree/compatible").unlink()
    assert "no Jetson that is known" in install(image)[0]
    assert config.load(below(image, STATE)) == config.Config()


def test_a_module_without_a_profile(image: Path) -> None:
    with pytest.raises(InvalidRequest, match="no profile of a module p0000-0000"):
        install(image, "p0000-0000")


def test_a_folder_that_is_no_system(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="not the root folder of a system"):
        install(tmp_path, dry_run=True)
    assert list(tmp_path.iterdir()) == []


def test_twice_is_once(image: Path) -> None:
    install(image)
    before = list(everything(image))
    said = install(image)
    assert all(line.startswith("is so already: ") for line in said[1:]), said
    assert list(everything(image)) == before


def test_settings_of_a_person_stay_and_what_they_own_is_the_services(image: Path) -> None:
    install(image)
    settings = below(image, STATE / config.FILE)
    settings.write_text("[listen]\nport = 7500\n")
    key = below(image, STATE / "identity/key.pem")
    key.parent.mkdir()
    key.write_text("joined as root")
    below(image, UNIT).write_text("[Service]\nof an older version\n")
    below(image, WANTED).unlink()
    said = install(image)
    assert settings.read_text() == "[listen]\nport = 7500\n"
    assert key.stat().st_uid == settings.stat().st_uid != 0
    assert "Type=notify" in below(image, UNIT).read_text()
    assert below(image, WANTED).is_symlink()
    assert len([line for line in said[1:] if not line.startswith("is so already")]) == 3


def test_a_dry_run_prints_it_all_and_does_nothing(image: Path) -> None:
    before = list(everything(image))
    said = install(image, dry_run=True)
    assert len(said) == 8
    assert all(line.startswith("would ") for line in said[1:])
    assert any("useradd --system" in line for line in said)
    assert list(everything(image)) == before


def test_uninstall_keeps_the_state(image: Path) -> None:
    install(image)
    said = uninstall(image)
    assert not below(image, UNIT).exists()
    assert not below(image, WANTED).is_symlink()
    assert below(image, STATE / config.FILE).exists()
    assert USER in (image / "etc/passwd").read_text()
    assert "stay; `uninstall --purge` removes them" in said[-1]
    assert all(line.startswith("is so already") for line in uninstall(image)[:-1])


def test_purge_leaves_the_image_as_it_was(image: Path) -> None:
    install(image)
    uninstall(image, purge=True)
    assert not below(image, STATE).exists()
    assert (image / "etc/passwd").read_text() == PASSWD
    assert USER not in (image / "etc/group").read_text()
    assert all(line.startswith("is so already") for line in uninstall(image, purge=True))


def test_an_uninstallation_may_be_dry(image: Path) -> None:
    install(image)
    before = list(everything(image))
    assert any(
        line == f"would remove {below(image, UNIT)}" for line in uninstall(image, dry_run=True)
    )
    assert list(everything(image)) == before


def test_without_root(
    image: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    arguments = ["install", "--root", str(image), "--program", str(PROGRAM)]
    assert cli.main(arguments) == 5
    assert "error: Installing a service takes root." in capsys.readouterr().err
    assert cli.main(["uninstall", "--root", str(image)]) == 5
    assert cli.main([*arguments, "--dry-run"]) == 0
    assert "would useradd" in capsys.readouterr().out
    assert USER not in (image / "etc/passwd").read_text()


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("/home/ann/venv/bin/nanofleet-agent", "The service would not see"),
        ("/root/venv/bin/nanofleet-agent", "The service would not see"),
        ("venv/bin/nanofleet-agent", "cannot be started by systemd"),
        ("/opt/my venv/bin/nanofleet-agent", "cannot be started by systemd"),
    ],
)
def test_a_program_that_the_service_cannot_start(image: Path, program: str, says: str) -> None:
    with pytest.raises(Refused, match=says):
        command.install(image, "", Path(program), dry_run=False, tell=print)
    assert not below(image, UNIT).exists()


def test_a_command_that_fails_is_told(image: Path) -> None:
    """Somebody's group has the name."""
    with (image / "etc/group").open("a") as groups:
        groups.write(f"{USER}:x:500:\n")
    with pytest.raises(Refused, match=r"`useradd .*` failed\. .*group nanofleet exists"):
        install(image)
