"""Carrying a plan out, or printing it."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from agent.install.place import STATE, USER, Place, program
from agent.install.plan import installation, removal
from agent.install.steps import Step
from jetson.board import identify
from jetson.profiles import Profile, load, profile_of
from protos.errors import InvalidRequest, Refused

Tell = Callable[[str], None]

_NEXT = f"""\
Installed. What is left to do:
  sudo -u {USER} {{program}} join --state {STATE} TOKEN     # from: nanofleet device token NAME
  sudo systemctl start nanofleet-agent
  sudo {{program}} doctor --state {STATE}"""


def install(root: Path, module: str, given: Path | None, *, dry_run: bool, tell: Tell) -> None:
    """``module``: the part number of the board that an image is for; empty: look."""
    place = Place(root.absolute())
    if not place.at(Path("/etc/passwd")).is_file():
        raise InvalidRequest(
            f"{root} is not the root folder of a system.",
            why="It has no /etc/passwd, and so no place for the service's user.",
            fix="Give the folder in which the image's etc, usr and var lie.",
            field="root",
        )
    chosen, profile = program(given), _profile(place, module)
    tell(f"board: {profile.name if profile else 'no Jetson that is known; its defaults'}")
    _carry_out(installation(place, chosen, profile), dry_run=dry_run, tell=tell)
    if place.is_live and not dry_run:
        tell(_NEXT.format(program=chosen))


def uninstall(root: Path, *, purge: bool, dry_run: bool, tell: Tell) -> None:
    place = Place(root.absolute())
    _carry_out(removal(place, purge=purge), dry_run=dry_run, tell=tell)
    if not purge and place.at(STATE).exists():
        tell(f"{place.at(STATE)} and the user {USER} stay; `uninstall --purge` removes them, too.")


def _carry_out(steps: Sequence[Step], *, dry_run: bool, tell: Tell) -> None:
    if not dry_run and os.geteuid() != 0:
        raise Refused(
            "Installing a service takes root.",
            why="It makes a user and writes below /etc.",
            fix="Run it with sudo; with --dry-run it prints what it would do.",
        )
    for step in steps:
        if step.is_done():
            tell(f"is so already: {step}")
        else:
            tell(f"would {step}" if dry_run else str(step))
            if not dry_run:
                step.do()


def _profile(place: Place, module: str) -> Profile | None:
    if not module:
        return profile_of(identify(place.root).module)
    found = profile_of(module)
    if found is None:
        known = sorted(module for profile in load() for module in profile.modules)
        raise InvalidRequest(
            f"There is no profile of a module {module}.",
            fix=f"Known are {', '.join(known)}.",
            field="module",
        )
    return found
