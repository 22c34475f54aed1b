"""The power mode of a job: taken, given back, and left to whoever changed it meanwhile."""

import os
import select
from pathlib import Path

import pytest

from agent.operating.power_mode import FILE, PowerMode
from jetson.simulation import tree
from jetson.simulation.tree import write
from tests.agent.operating.programs import Programs


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    found = Programs.written(tmp_path / "bin")
    monkeypatch.setenv("PATH", found.path)
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write(tree.power_modes(0, "15W", "25W", "MAXN_SUPER", "7W_AI"), tmp_path / "root")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir()
    return folder


def power(state: Path, root: Path, mode: str = "", pin: bool = False, boot: str = "b") -> PowerMode:
    return PowerMode(state, root, boot, mode, pin)


def has_ended(pid: int) -> bool:
    """Or is about to; whoever inherits it may take a while to notice."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 30)[0])
    finally:
        os.close(descriptor)


def impatient(state: Path, root: Path, mode: str) -> PowerMode:
    return PowerMode(state, root, "b", mode, pin=False, patience_s=0.5)


@pytest.mark.parametrize("mode", ["maxn_super", "2"])
async def test_a_mode_is_taken_and_given_back(
    mode: str, state: Path, root: Path, programs: Programs
) -> None:
    own = power(state, root, mode)
    assert await own.take() == ["Power mode MAXN_SUPER (2) for this job; it was 15W (0)."]
    assert (programs.mode, (state / FILE).exists()) == (2, True)
    assert await own.give_back() == ["The power mode is 15W (0) again."]
    assert (programs.mode, (state / FILE).exists()) == (0, False)
    assert programs.calls == ["nvpmodel -m 2", "nvpmodel -m 0"]
    assert await own.give_back() == ()


async def test_clocks_are_pinned_after_the_mode_and_freed_before_it(
    state: Path, root: Path, programs: Programs
) -> None:
    own = power(state, root, "25W", pin=True)
    (state / "jetson_clocks.conf").write_text("of a job that was killed")
    assert len(await own.take()) == 2
    assert (programs.mode, programs.pinned) == (1, True)
    assert len(await own.give_back()) == 2
    assert (programs.mode, programs.pinned) == (0, False)
    stored = state / "jetson_clocks.conf"
    assert programs.calls == [
        "nvpmodel -m 1",
        f"jetson_clocks --store {stored}",
        "jetson_clocks ",
        f"jetson_clocks --restore {stored}",
        "nvpmodel -m 0",
    ]
    assert not stored.exists()
    assert not (state / FILE).exists()


async def test_nothing_is_changed_unless_it_is_asked_for(
    state: Path, root: Path, programs: Programs
) -> None:
    own = power(state, root)
    assert await own.take() == ()
    assert await own.give_back() == ()
    assert await power(state, root, "15W").take() == [], "it is that already"
    assert programs.calls == []


async def test_another_hand_has_the_last_word(state: Path, root: Path, programs: Programs) -> None:
    own = power(state, root, "25W")
    await own.take()
    programs.choose(2)
    assert await own.give_back() == [
        "The power mode stays MAXN_SUPER (2), which another hand has chosen."
    ]
    assert (programs.mode, (state / FILE).exists()) == (2, False)


async def test_the_next_agent_makes_good_what_a_killed_one_left(
    state: Path, root: Path, programs: Programs
) -> None:
    """Also with other settings; after a restart of the board without the clocks, which it lost."""
    await power(state, root, "25W", pin=True).take()
    assert await power(state, root, boot="another").give_back() == [
        "The power mode is 15W (0) again."
    ]
    assert programs.mode == 0
    assert not any("--restore" in call for call in programs.calls)

    await power(state, root, "25W", pin=True).take()
    said = await power(state, root, "MAXN_SUPER").take()
    assert said[-1] == "Power mode MAXN_SUPER (2) for this job; it was 15W (0)."


async def test_what_cannot_be_taken_is_told_and_leaves_nothing(
    state: Path, root: Path, programs: Programs
) -> None:
    (said,) = await power(state, root, "7W_AI").take()
    assert said.startswith("Power: The mode stays 15W (0), because nvpmodel did not take 7W_AI (3)")
    assert "must be chosen by hand" in said
    (said,) = await power(state, root, "40W").take()
    assert "this board has 15W (0), 25W (1), MAXN_SUPER (2), 7W_AI (3)" in said
    (programs.folder / "broken").touch()
    (said,) = await power(state, root, "25W").take()
    assert said == "Power: nvpmodel -q failed (1): NVPM ERROR: no permission."
    assert (programs.mode, (state / FILE).exists()) == (0, False)


async def test_what_cannot_be_given_back_is_tried_again(
    state: Path, root: Path, programs: Programs
) -> None:
    own = power(state, root, "25W")
    await own.take()
    (programs.folder / "broken").touch()
    assert "no permission" in (await own.give_back())[0]
    assert len(await own.take()) == 1, "what was before is not forgotten for a new one"
    (programs.folder / "broken").unlink()
    assert await own.give_back() == ["The power mode is 15W (0) again."]


async def test_a_program_that_hangs_is_given_up_and_killed_with_its_children(
    state: Path, root: Path, programs: Programs
) -> None:
    own = impatient(state, root, "25W")
    programs.hang("-q")
    assert await own.take() == ["Power: nvpmodel -q has not ended within 0.5 s, and was killed."]
    assert has_ended(programs.hanging)
    assert (programs.mode, (state / FILE).exists()) == (0, False)
    programs.work()

    programs.hang("-m")
    (said,) = await own.take()
    assert "stays 15W (0), because nvpmodel did not take 25W (1)" in said
    assert "nvpmodel -m 1 has not ended within 0.5 s" in said
    assert (programs.mode, (state / FILE).exists()) == (0, False)


async def test_a_mode_whose_restoring_hangs_is_restored_the_next_time(
    state: Path, root: Path, programs: Programs
) -> None:
    own = impatient(state, root, "25W")
    await own.take()
    programs.hang("-m")
    (said,) = await own.give_back()
    assert said == "Power: nvpmodel -m 0 has not ended within 0.5 s, and was killed."
    assert (programs.mode, (state / FILE).exists()) == (1, True)
    programs.work()
    assert await own.give_back() == ["The power mode is 15W (0) again."]
    assert (programs.mode, (state / FILE).exists()) == (0, False)


async def test_a_machine_without_the_programs(
    state: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    said = await power(state, root, "25W", pin=True).take()
    assert [one.split(", so")[0] for one in said] == [
        "Power: nvpmodel is not installed",
        "Power: jetson_clocks is not installed",
    ]
    assert all("Empty [power] in agent.toml" in one for one in said)
