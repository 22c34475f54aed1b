"""The fleet's certificate authority: one P-256 key that never leaves its folder.

It is made once and never overwritten: every device trusts exactly this key, and a second one would
cut them all off. Boards have no clock battery and may boot in 1970, so every certificate is valid
from 1970-01-01; only its end means something.

The controller's own certificate lives as long as the authority: whoever can read the one key can
read the other, so a shorter life would protect nothing. A device's lives a year and is renewed over
the connection that it secures.

What stands in the certificates is in certificates.py. It loads ``cryptography``, which is costly,
so the functions that need it import it themselves.
"""

import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from artifacts import durable
from artifacts.persisting import Point
from protos.errors import AlreadyExists, InvalidRequest, NotFound
from protos.identity import Identity

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

AUTHORITY_LIFE = timedelta(days=30 * 365)
DEVICE_LIFE = timedelta(days=365)

KEY_FILE = "key.pem"
CERTIFICATE_FILE = "certificate.pem"


@dataclass(frozen=True, slots=True)
class Issued:
    """A new key and its chain, leaf first, the authority's certificate included. PEM."""

    key: bytes
    chain: bytes


class Authority:
    """Signs certificates. ``certificate`` is its own, PEM."""

    def __init__(self, key: "ec.EllipticCurvePrivateKey", certificate: "x509.Certificate") -> None:
        self._key = key
        self._certificate = certificate

    @classmethod
    def make(cls, fleet: str, now: datetime) -> "Authority":
        """A new authority, in memory."""
        from controller import certificates

        key = certificates.new_key()
        return cls(key, certificates.root(fleet, key, now + AUTHORITY_LIFE))

    @classmethod
    def open(cls, folder: Path) -> "Authority":
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            key = load_pem_private_key((folder / KEY_FILE).read_bytes(), password=None)
            certificate = x509.load_pem_x509_certificate((folder / CERTIFICATE_FILE).read_bytes())
        except FileNotFoundError as error:
            raise NotFound(
                f"There is no certificate authority in {folder}.", fix="Run `nanofleet init`."
            ) from error
        except ValueError as error:
            raise _unusable(folder, str(error)) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise _unusable(folder, "the key is not a P-256 key")
        return cls(key, certificate)

    def save(self, folder: Path) -> None:
        """Writes a new authority; AlreadyExists, and nothing touched, when there is one.

        The folder takes its name complete, by one rename, and a rename never replaces a folder
        that has files in it: two that try at once cannot both win.
        """
        from controller import certificates

        if folder.exists():
            raise _exists(folder)
        durable.make_folder(folder.parent)
        temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}")
        part = Point.AUTHORITY_PART
        try:
            durable.make_folder(temporary)
            durable.write_bytes(temporary / KEY_FILE, certificates.key_pem(self._key), part)
            durable.write_bytes(temporary / CERTIFICATE_FILE, self.certificate, part, mode=0o644)
            durable.publish(temporary, folder, Point.AUTHORITY_MADE)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if not folder.exists():
                raise
            raise _exists(folder) from error
        for left in folder.parent.glob(f".{folder.name}.*"):
            # By one that was killed before it came so far; no other can win any more.
            shutil.rmtree(left, ignore_errors=True)

    @property
    def certificate(self) -> bytes:
        from controller import certificates

        return certificates.pem(self._certificate)

    @property
    def fleet(self) -> str:
        """The name of the fleet, from the certificate's subject."""
        from controller import certificates

        return certificates.common_name(self._certificate)

    @property
    def pin(self) -> str:
        """What a token carries: a digest of the authority's public key."""
        from controller import certificates

        return certificates.pin(self._key)

    def issue(self, identity: Identity) -> Issued:
        """A new key with its certificate, for the controller itself."""
        from controller import certificates

        key = certificates.new_key()
        end = self._certificate.not_valid_after_utc
        chain = self._chain(identity, (), key.public_key(), end)
        return Issued(certificates.key_pem(key), chain)

    def sign(
        self, request: bytes, identity: Identity, extra_names: Sequence[str], now: datetime
    ) -> bytes:
        """The chain for a device's certificate request (PEM). Of the request only the key counts:
        the names are ours to give. Raises InvalidRequest when it is none, or not self-signed.
        """
        from controller import certificates

        key = certificates.requested_key(request)
        return self._chain(identity, extra_names, key, now + DEVICE_LIFE)

    def _chain(
        self,
        identity: Identity,
        extra_names: Sequence[str],
        key: "ec.EllipticCurvePublicKey",
        end: datetime,
    ) -> bytes:
        from controller import certificates

        certificate = certificates.leaf(
            identity, extra_names, key, end, issuer=self._certificate, issuer_key=self._key
        )
        return certificates.pem(certificate) + self.certificate


def _unusable(folder: Path, why: str) -> InvalidRequest:
    return InvalidRequest(
        f"The certificate authority in {folder} is not usable: {why}.",
        fix="Restore the folder from a copy. Without it every device has to join again.",
    )


def _exists(folder: Path) -> AlreadyExists:
    return AlreadyExists(
        f"There is a fleet in {folder.parent} already.",
        why="A second authority would cut off every device that has joined.",
        fix="Use it, or choose another folder with --home.",
    )
