"""The certificate authority: made once, valid from 1970, and what its certificates say."""

import stat
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtensionOID

from controller.authority import DEVICE_LIFE, Authority
from controller.certificates import EPOCH
from protos.errors import AlreadyExists, InvalidRequest, NotFound
from protos.identity import Identity, Role
from tests.controller.joiner import certificate_request

NOW = datetime(2026, 5, 4, tzinfo=timezone.utc)
KITCHEN = Identity(Role.DEVICE, "kitchen")


def leaf_and_authority(chain: bytes) -> tuple[x509.Certificate, x509.Certificate]:
    leaf, authority = x509.load_pem_x509_certificates(chain)
    return leaf, authority


def test_it_is_valid_from_1970_and_may_only_sign_leaves() -> None:
    certificate = x509.load_pem_x509_certificate(Authority.make("home", NOW).certificate)
    assert certificate.not_valid_before_utc == EPOCH
    assert certificate.not_valid_after_utc > NOW + timedelta(days=20 * 365)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, 0)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.key_cert_sign, usage.digital_signature) == (True, False)


def test_a_device_certificate_has_our_names_and_its_key() -> None:
    authority = Authority.make("home", NOW)
    key, request = certificate_request()
    extra = "abc.kitchen.device.nanofleet"
    leaf, issuer = leaf_and_authority(authority.sign(request, KITCHEN, [extra], NOW))
    leaf.verify_directly_issued_by(issuer)
    assert leaf.public_key() == key.public_key()
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [KITCHEN.uri]
    assert names.get_values_for_type(x509.DNSName) == [KITCHEN.dns_name, extra]
    assert leaf.not_valid_before_utc == EPOCH
    assert leaf.not_valid_after_utc == NOW + DEVICE_LIFE
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_names_in_a_request_are_not_taken_over() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    wish = x509.SubjectAlternativeName(
        [x509.UniformResourceIdentifier("spiffe://nanofleet/controller/x")]
    )
    _, request = certificate_request(key, wish)
    leaf, _ = leaf_and_authority(Authority.make("home", NOW).sign(request, KITCHEN, [], NOW))
    text = str(leaf.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME))
    assert "controller" not in text


def test_the_controllers_own_lives_as_long_as_the_authority() -> None:
    authority = Authority.make("home", NOW)
    leaf, issuer = leaf_and_authority(
        authority.issue(Identity(Role.CONTROLLER, "controller")).chain
    )
    assert leaf.not_valid_after_utc == issuer.not_valid_after_utc


@pytest.mark.parametrize("request_bytes", [b"", b"-----BEGIN", b"\x00" * 1000])
def test_requests_that_are_none_are_refused(request_bytes: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Authority.make("home", NOW).sign(request_bytes, KITCHEN, [], NOW)
    assert caught.value.field == "certificate_request"


def test_only_keys_on_p256_are_signed() -> None:
    authority = Authority.make("home", NOW)
    for key in (ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)):
        _, request = certificate_request(key)
        with pytest.raises(InvalidRequest, match="P-256"):
            authority.sign(request, KITCHEN, [], NOW)


def test_saved_once_with_a_private_key_and_never_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "authority"
    first = Authority.make("home", NOW)
    first.save(folder)
    assert stat.S_IMODE((folder / "key.pem").stat().st_mode) == 0o600
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(AlreadyExists):
        Authority.make("other", NOW).save(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["authority"]
    opened = Authority.open(folder)
    assert (opened.pin, opened.fleet) == (first.pin, "home")


def test_of_many_that_save_at_once_one_wins(tmp_path: Path) -> None:
    folder = tmp_path / "authority"
    authorities = [Authority.make("home", NOW) for _ in range(8)]
    won: list[Authority] = []

    def save(authority: Authority) -> None:
        try:
            authority.save(folder)
        except AlreadyExists:
            return
        won.append(authority)

    threads = [threading.Thread(target=save, args=(each,)) for each in authorities]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert Authority.open(folder).pin == won[0].pin
    assert [path.name for path in tmp_path.iterdir()] == ["authority"]


def test_missing_and_damaged_ones_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nanofleet init"):
        Authority.open(tmp_path)
    Authority.make("home", NOW).save(tmp_path / "a")
    (tmp_path / "a/key.pem").write_bytes(b"not a key")
    with pytest.raises(InvalidRequest, match="copy"):
        Authority.open(tmp_path / "a")
