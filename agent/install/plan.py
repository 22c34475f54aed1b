"""What installing and uninstalling do, step by step."""

from collections.abc import Sequence
from pathlib import Path

from agent import config
from agent.install.place import DEVICE_GROUPS, STATE, UNIT, USER, WANTED, Place
from agent.install.settings import settings
from agent.install.steps import GiveTo, Link, MakeFolder, Remove, Run, Step, WriteFile
from agent.install.unit import unit
from jetson.profiles import Profile


def installation(place: Place, program: Path, profile: Profile | None) -> list[Step]:
    """The user, the folder, the settings, the unit, and its start at boot; in this order."""
    state, unit_path = place.at(STATE), place.at(UNIT)
    environment = profile.environment if profile else {}
    steps: list[Step] = [
        *_user(place),
        MakeFolder(state, 0o700),
        WriteFile(state / config.FILE, settings(profile), mode=0o600, only_once=True),
        GiveTo(state, place),
        WriteFile(unit_path, unit(program, environment)),
        Link(place.at(WANTED), UNIT),
    ]
    if place.is_live:
        # Asked now, before anything is done.
        written = all(step.is_done() for step in steps[-2:])
        steps.append(Run(("systemctl", "daemon-reload"), lambda: written))
    return steps


def removal(place: Place, *, purge: bool) -> list[Step]:
    """Stops and removes the service. Jobs, artifacts and identity stay, unless they are purged."""
    steps: list[Step] = []
    if place.is_live:
        gone = not place.at(UNIT).exists()
        steps.append(Run(("systemctl", "stop", UNIT.name), lambda: gone))
    steps += [Remove(place.at(WANTED)), Remove(place.at(UNIT))]
    if place.is_live:
        steps.append(Run(("systemctl", "daemon-reload"), lambda: gone))
    if purge:
        steps.append(Remove(place.at(STATE)))
        steps.append(_without("userdel", "passwd", place))
        # userdel takes the group along where login.defs says so.
        steps.append(_without("groupdel", "group", place))
    return steps


def _without(command: str, file: str, place: Place) -> Step:
    return Run((command, *_prefix(place), USER), lambda: USER not in place.names(file))


def _user(place: Place) -> Sequence[Step]:
    """A user of its own without a shell, who may open the GPU where there are its groups."""
    command = ("useradd", "--system", "--user-group", "--no-create-home", "--home-dir", str(STATE))
    makes = (*command, "--shell", "/usr/sbin/nologin", *_prefix(place), USER)
    steps = [Run(makes, lambda: USER in place.names("passwd"))]
    groups = [name for name in DEVICE_GROUPS if name in place.names("group")]
    if groups:
        joins = ("usermod", *_prefix(place), "--append", "--groups", ",".join(groups), USER)
        steps.append(Run(joins, lambda: _is_member(place, groups)))
    return steps


def _is_member(place: Place, groups: Sequence[str]) -> bool:
    members = {}
    for line in place.at(Path("/etc/group")).read_text().splitlines():
        name, _, _, listed = [*line.split(":"), "", "", ""][:4]
        members[name] = listed.split(",")
    return all(USER in members[name] for name in groups)


def _prefix(place: Place) -> tuple[str, ...]:
    return () if place.is_live else ("--prefix", str(place.root))
