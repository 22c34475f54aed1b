"""What joining and renewing do: a one-time token becomes a certificate.

A token is spent in the transaction that records the device: of two that come with the same token
one is refused, whichever process serves it. The network's side is enrolment_server.py.
"""

import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone

from artifacts.persisting import Point
from controller import selector, tokens
from controller.authority import Authority
from controller.records import Token, server_name
from controller.store import Store
from controller.store import devices as stored_devices
from controller.store import tokens as stored_tokens
from protos.errors import Forbidden, InvalidRequest, NotFound, Unauthenticated
from protos.identity import Identity, Role, checked_name
from protos.nanofleet.v1 import enrolment_pb2

_NEW_TOKEN = "Make a new one on the controller: `nanofleet device token NAME`."


class Enrolment:
    """The fleet's side of both, without the network."""

    def __init__(
        self, store: Store, authority: Authority, utc_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._store = store
        self._authority = authority
        self._utc_ns = utc_ns

    def invite(self, device: str, address: str, labels: Mapping[str, str], ttl_s: float) -> Token:
        """A token for one device, which finds this controller at ``address``."""
        checked_name(device, "device")
        host, _ = tokens.split_address(address)
        if not host:
            raise InvalidRequest(
                f"{address!r} has no host.",
                why="The device has to know where the controller is.",
                fix="Write the controller's address as the device sees it: 192.168.1.20:7402.",
                field="address",
            )
        invitation, utc_ns = tokens.invite(), self._utc_ns()
        token = stored_tokens.StoredToken(
            id=invitation.id,
            device=device,
            secret_sha256=tokens.sha256_of(invitation.secret),
            labels=selector.checked_labels(labels),
            expires_utc_ns=utc_ns + round(ttl_s * 1e9),
            spent_utc_ns=None,
        )
        with self._store.write(Point.FLEET_INVITED) as transaction:
            stored_tokens.add(transaction, token, utc_ns)
        return Token(invitation.text(self._authority.pin, address), device, ttl_s)

    def join(self, request: enrolment_pb2.JoinRequest, address: str) -> enrolment_pb2.JoinResponse:
        """Spends the token for a certificate. Raises Unauthenticated with a reason of its own."""
        utc_ns = self._utc_ns()
        with self._store.write(Point.FLEET_JOINED) as transaction:
            found = stored_tokens.find(transaction, request.token_id)
            token = _checked(found, request.secret, utc_ns)
            chain = self._sign(request.certificate_request, token.device, token.id)
            if not stored_tokens.spend(transaction, token.id, utc_ns):
                raise _spent(token.device)
            stored_devices.join(transaction, token.device, address, token.id, token.labels, utc_ns)
        return enrolment_pb2.JoinResponse(
            device_name=token.device,
            certificate_chain=chain,
            certificate_authority=self._authority.certificate,
            utc_ns=utc_ns,
            labels=token.labels,
        )

    def renew(
        self, request: enrolment_pb2.RenewCertificateRequest, name: str, dns_names: set[str]
    ) -> enrolment_pb2.RenewCertificateResponse:
        """A fresh certificate for a device that is still in the fleet, by its newest joining."""
        with self._store.read() as transaction:
            record = stored_devices.find(transaction, name)
        if record is None:
            raise NotFound(
                f"There is no device {name} in this fleet.",
                why="It was removed.",
                fix=f"Invite it again: `nanofleet device token {name}`.",
            )
        if server_name(name, record.enrolment) not in dns_names:
            raise Forbidden(
                f"This certificate of {name} is no longer valid.",
                why="A device has joined under this name since it was issued.",
                fix=f"If this is the right one, invite it again: `nanofleet device token {name}`.",
            )
        chain = self._sign(request.certificate_request, name, record.enrolment)
        return enrolment_pb2.RenewCertificateResponse(
            certificate_chain=chain, utc_ns=self._utc_ns()
        )

    def _sign(self, request: bytes, name: str, enrolment: str) -> bytes:
        now = datetime.fromtimestamp(self._utc_ns() / 1e9, timezone.utc)
        names = [server_name(name, enrolment)]
        return self._authority.sign(request, Identity(Role.DEVICE, name), names, now)


def _checked(
    token: stored_tokens.StoredToken | None, secret: str, utc_ns: int
) -> stored_tokens.StoredToken:
    if token is None:
        raise Unauthenticated(
            "The token is not known here.",
            why="It was made by another controller, or more than a day ago.",
            fix=_NEW_TOKEN,
            reason="TOKEN_UNKNOWN",
        )
    if not tokens.is_secret(secret, token.secret_sha256):
        raise Unauthenticated(
            "The token's secret is wrong.",
            why="It may have been cut off or changed when it was copied.",
            fix="Copy the whole token again.",
            reason="TOKEN_WRONG",
        )
    if token.spent_utc_ns is not None:
        raise _spent(token.device)
    if utc_ns >= token.expires_utc_ns:
        raise Unauthenticated(
            f"The token for {token.device} has expired.",
            why=f"It ended {(utc_ns - token.expires_utc_ns) / 60e9:.0f} minutes ago.",
            fix=_NEW_TOKEN,
            reason="TOKEN_EXPIRED",
        )
    return token


def _spent(device: str) -> Unauthenticated:
    return Unauthenticated(
        f"The token for {device} was used already.",
        why="A token lets one device join, once.",
        fix=f"{_NEW_TOKEN} If you did not use it, somebody else did: remove that device.",
        reason="TOKEN_SPENT",
    )
