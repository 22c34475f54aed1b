"""Where an installed agent lives."""

import sys
from dataclasses import dataclass
from pathlib import Path

from protos.errors import Refused

USER = "nanofleet"
STATE = Path("/var/lib/nanofleet")
UNIT = Path("/etc/systemd/system/nanofleet-agent.service")
WANTED = Path("/etc/systemd/system/multi-user.target.wants/nanofleet-agent.service")
# Who may open the GPU's devices: Jetson's are video's, those of /dev/dri are render's.
DEVICE_GROUPS = ("video", "render")
# What the unit hides from the service.
_HIDDEN = (Path("/home"), Path("/root"), Path("/run/user"))


@dataclass(frozen=True, slots=True)
class Place:
    """``root`` is / or the root folder of an image that is being built."""

    root: Path = Path("/")

    @property
    def is_live(self) -> bool:
        return self.root == Path("/")

    def at(self, path: Path) -> Path:
        """A path of the installed system, as this process reaches it."""
        return self.root / path.relative_to("/")

    def names(self, file: str) -> frozenset[str]:
        """The users or groups there are: the first column of /etc/passwd or /etc/group."""
        try:
            lines = self.at(Path("/etc") / file).read_text().splitlines()
        except FileNotFoundError:
            return frozenset()
        return frozenset(line.partition(":")[0] for line in lines)


def program(given: Path | None = None) -> Path:
    """What the unit starts: what was given, else the command beside this interpreter."""
    found = given or Path(sys.executable).with_name("nanofleet-agent")
    if not found.is_absolute() or any(character.isspace() for character in str(found)):
        raise Refused(
            f"{found} cannot be started by systemd.",
            why="It takes a whole path without spaces.",
            fix="Give the path with --program /opt/nanofleet/bin/nanofleet-agent.",
        )
    hidden = next((folder for folder in _HIDDEN if found.is_relative_to(folder)), None)
    if hidden is not None:
        raise Refused(
            f"The service would not see {found}.",
            why=f"It runs without {hidden}, where people's own files are.",
            fix="Install nanofleet elsewhere: `python3 -m venv /opt/nanofleet`, then"
            " `/opt/nanofleet/bin/pip install 'nanofleet[agent,train,infer]'`, and"
            " `/opt/nanofleet/bin/nanofleet-agent install`.",
        )
    return found
