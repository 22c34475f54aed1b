"""The fleet's folder: what lies in it, how it is made, and how it is found.

    authority/   key.pem, certificate.pem      made once, never overwritten
    identity/    key.pem, chain.pem            the controller's own, made again when missing
    fleet.db     devices, jobs, names
    artifacts/   the fleet's own artifacts
    scratch/     files on their way there

Making a fleet is claimed by the authority's folder, which appears complete or not at all. What a
crash right after it left out is made on the next opening.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from artifacts import durable, headroom
from artifacts.persisting import Point
from artifacts.store import ArtifactStore
from controller.authority import CERTIFICATE_FILE, Authority, Issued
from controller.device import Credentials
from controller.store import Store
from controller.store import devices as stored_devices
from protos.errors import AlreadyExists, InvalidRequest, NotFound
from protos.identity import Identity, Role, checked_name

VARIABLE = "NANOFLEET_HOME"
CONTROLLER = Identity(Role.CONTROLLER, "controller")

_NAME = "name"


def default_home() -> Path:
    """``$NANOFLEET_HOME``, or ~/.local/share/nanofleet."""
    set_by_user = os.environ.get(VARIABLE, "")
    return Path(set_by_user) if set_by_user else Path.home() / ".local/share/nanofleet"


@dataclass(frozen=True, slots=True)
class Home:
    """The paths, and what is read from them. Raises only errors of protos.errors."""

    root: Path

    @classmethod
    def create(cls, root: Path, name: str) -> "Home":
        """A new fleet. AlreadyExists, and nothing touched, when there is one."""
        checked_name(name, "fleet")
        home = cls(root.absolute())
        with home._telling_of_failure():
            if home._authority.exists():
                raise AlreadyExists(
                    f"There is a fleet in {home.root} already.",
                    why="A second authority would cut off every device that has joined.",
                    fix="Use it, or choose another folder with --home.",
                )
            Authority.make(name, datetime.now(timezone.utc)).save(home._authority)
        return home

    @classmethod
    def open(cls, root: Path) -> "Home":
        home = cls(root.absolute())
        if not (home._authority / CERTIFICATE_FILE).is_file():
            raise NotFound(
                f"There is no fleet in {home.root}.",
                fix=f"Run `nanofleet init`, or name the fleet's folder with --home or {VARIABLE}.",
            )
        return home

    @property
    def scratch(self) -> Path:
        """For files on their way into the store: on its disk, where there is room for models."""
        return self.root / "scratch"

    def artifacts(self) -> ArtifactStore:
        with self._telling_of_failure():
            return ArtifactStore(self.root / "artifacts")

    def authority(self) -> Authority:
        return Authority.open(self._authority)

    def identity(self) -> Issued:
        """The controller's own key and chain."""
        key, chain = self._identity / "key.pem", self._identity / "chain.pem"
        with self._telling_of_failure():
            if not chain.is_file():
                durable.make_folder(self._identity)
                issued = self.authority().issue(CONTROLLER)
                part = Point.CONTROLLER_IDENTITY_PART
                durable.write_bytes(key, issued.key, part)
                durable.write_bytes(chain, issued.chain, part, mode=0o644)
                durable.tidy_up(self._identity)
            return Issued(key.read_bytes(), chain.read_bytes())

    def credentials(self) -> Credentials:
        own = self.identity()
        with self._telling_of_failure():
            certificate = (self._authority / CERTIFICATE_FILE).read_bytes()
        return Credentials(own.key, own.chain, certificate)

    def store(self) -> Store:
        return Store.open(self.root / "fleet.db")

    def name(self, store: Store) -> str:
        """The fleet's name: from the store, or at first from the authority that it was given to."""
        with store.read() as transaction:
            name = stored_devices.fleet_value(transaction, _NAME)
        if not name:
            name = self.authority().fleet
            with store.write(Point.FLEET_NAMED) as transaction:
                stored_devices.set_fleet_value(transaction, _NAME, name)
        return name

    @property
    def _authority(self) -> Path:
        return self.root / "authority"

    @property
    def _identity(self) -> Path:
        return self.root / "identity"

    @contextmanager
    def _telling_of_failure(self) -> Iterator[None]:
        try:
            with headroom.naming_disk_faults(self.root):
                yield
        except OSError as error:
            raise InvalidRequest(
                f"The fleet's folder {self.root} cannot be used: {error.strerror}.",
                why=f"It is about {error.filename}." if error.filename else "",
                fix="Check who owns it, or choose another with --home.",
            ) from error
