"""Power mode and pinned clocks while a job runs, where agent.toml asks for it; and back again.

    take        what is now is noted, durably ─▶ nvpmodel -m ─▶ jetson_clocks --store, jetson_clocks
    give_back   jetson_clocks --restore ─▶ nvpmodel -m ─▶ the note is removed

A note that is there at the start of the agent was left by a crash or a power cut, and is made good
then; a restart of the board loses pinned clocks by itself, and keeps a power mode. What another
hand has changed meanwhile stays as that hand left it. The programs are NVIDIA's and want root; they
get no standard input, so a mode that asks for a restart of the board is not taken. What happened is
returned in sentences, for the log of the job and of the agent.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from async_timeout import timeout

from artifacts import durable
from artifacts.persisting import Point
from jetson import clocks
from jetson.gpu import find_gpu

FILE = "power.json"
CLOCKS_FILE = "jetson_clocks.conf"
# Where NVIDIA puts them, beside what PATH says: a service may have a short one.
_FOLDERS = "/usr/sbin:/usr/bin"
# For one call of them.
PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Note:
    """What is to be restored. ``mode_before`` None: the mode was not touched."""

    boot_id: str
    mode_before: int | None
    mode_set: int | None
    clocks: bool


class _Failed(Exception):
    """A sentence."""


class PowerMode:
    """``mode`` and ``pin`` as agent.toml says: a name or number, and whether to pin the clocks.
    A program that takes longer than ``patience_s`` is killed, and has failed."""

    def __init__(
        self,
        state: Path,
        root: Path,
        boot_id: str,
        mode: str,
        pin: bool,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._path = state / FILE
        self._clocks_path = state / CLOCKS_FILE
        self._root = root
        self._boot_id = boot_id
        self._mode = mode
        self._pin = pin
        self._run = partial(_run, patience_s)

    async def take(self) -> Sequence[str]:
        """For a job that begins."""
        if not self._mode and not self._pin:
            return ()
        said = list(await self.give_back())
        if self._path.exists():
            return said  # What was before is not restored yet: it would be forgotten.
        for act, wanted in ((self._take_mode, bool(self._mode)), (self._take_clocks, self._pin)):
            if wanted:
                said += await _told(act)
        return said

    async def give_back(self) -> Sequence[str]:
        """After a job, and at the start of the agent."""
        if not self._path.exists():
            return ()
        return await _told(self._give_back)

    async def _take_mode(self) -> list[str]:
        target = self._target()
        before = await self._now()
        if before == target:
            return []
        await asyncio.to_thread(self._keep, Note(self._boot_id, before, target, clocks=False))
        try:
            answer = await self._run("nvpmodel", "-m", str(target))
        except _Failed as error:
            answer = str(error)
        if await self._now() != target:
            await asyncio.to_thread(self._forget)
            raise _Failed(
                f"The mode stays {self._named(before)}, because nvpmodel did not take"
                f" {self._named(target)}. One that wants a restart of the board must be chosen by"
                f" hand. {answer[-200:]}".strip()
            )
        return [f"Power mode {self._named(target)} for this job; it was {self._named(before)}."]

    async def _take_clocks(self) -> list[str]:
        if clocks.read_pinned(clocks.find_policies(self._root), find_gpu(self._root)):
            return []
        self._clocks_path.unlink(missing_ok=True)  # It would ask before it writes over one.
        await self._run("jetson_clocks", "--store", str(self._clocks_path))
        note = self._note() or Note(self._boot_id, None, None, clocks=False)
        await asyncio.to_thread(self._keep, replace(note, clocks=True))
        await self._run("jetson_clocks")
        return ["Clocks are pinned for this job by jetson_clocks."]

    async def _give_back(self) -> list[str]:
        """Raises while something is left to restore; the note stays then."""
        note, said = self._note(), []
        if note is None:
            await asyncio.to_thread(self._forget)
            return ["What the power mode was is not known any more: check it with nvpmodel -q."]
        if note.clocks and note.boot_id == self._boot_id:
            pinned = clocks.read_pinned(clocks.find_policies(self._root), find_gpu(self._root))
            if pinned is False:
                said.append("The clocks stay as another hand has left them.")
            else:
                await self._run("jetson_clocks", "--restore", str(self._clocks_path))
                said.append("The clocks are free again.")
        if note.mode_before is not None:
            said += await self._give_mode_back(note, note.mode_before)
        await asyncio.to_thread(self._forget)
        return said

    async def _give_mode_back(self, note: Note, before: int) -> list[str]:
        now = await self._now()
        if now == before:
            return []
        if now != note.mode_set:
            return [f"The power mode stays {self._named(now)}, which another hand has chosen."]
        answer = await self._run("nvpmodel", "-m", str(before))
        if await self._now() != before:
            raise _Failed(f"nvpmodel did not go back to {self._named(before)}. {answer}".strip())
        return [f"The power mode is {self._named(before)} again."]

    async def _now(self) -> int:
        answer = await self._run("nvpmodel", "-q")
        mode = clocks.answered_mode(answer)
        if mode is None:
            raise _Failed(f"nvpmodel -q does not tell the power mode: {answer[-200:]!r}.")
        return mode

    def _target(self) -> int:
        known = clocks.read_power_modes(self._root)
        if self._mode.isdecimal() and (not known or int(self._mode) in known):
            return int(self._mode)
        for number, name in known.items():
            if name.lower() == self._mode.lower():
                return number
        modes = ", ".join(f"{name} ({number})" for number, name in known.items()) or "none by name"
        raise _Failed(
            f"power.mode is {self._mode!r} in agent.toml; this board has {modes}. Nothing is"
            " changed."
        )

    def _named(self, mode: int) -> str:
        return str(clocks.PowerMode(mode, clocks.read_power_modes(self._root).get(mode)))

    def _note(self) -> Note | None:
        try:
            return Note(**json.loads(self._path.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def _keep(self, note: Note) -> None:
        durable.write_bytes(self._path, json.dumps(asdict(note)).encode(), Point.POWER_NOTED)

    def _forget(self) -> None:
        """The note first: as long as it is there, the clocks that it tells of must be, too."""
        durable.remove(self._path, Point.POWER_FORGOTTEN)
        self._clocks_path.unlink(missing_ok=True)


async def _told(act: Callable[[], Awaitable[list[str]]]) -> list[str]:
    """What it says, or why it failed: a job runs in any power mode."""
    try:
        return await act()
    except (_Failed, OSError) as error:
        return [f"Power: {error}"]


async def _run(patience_s: float, name: str, *arguments: str) -> str:
    """What the program prints; raises _Failed when it is missing, fails or hangs."""
    program = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_FOLDERS}")
    if program is None:
        raise _Failed(
            f"{name} is not installed, so nothing is changed. Empty [power] in agent.toml, or"
            " install nvidia-l4t-nvpmodel and nvidia-l4t-tools."
        )
    process = await asyncio.create_subprocess_exec(
        program,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    said = " ".join((name, *arguments))
    try:
        async with timeout(patience_s):
            output, _ = await process.communicate()
    except asyncio.TimeoutError:
        raise _Failed(f"{said} has not ended within {patience_s:g} s, and was killed.") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    answer = output.decode("utf-8", "replace").strip()
    if process.returncode:
        last = answer.rpartition("\n")[2][-200:]
        raise _Failed(f"{said} failed ({process.returncode}): {last or 'it wants root'}.")
    return answer
