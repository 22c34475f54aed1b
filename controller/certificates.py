"""The fleet's certificates, as X.509: what is in an authority's, and what in a leaf's.

``cryptography`` costs 60 ms and 16 MB to import, and only making or reading certificates needs it:
whoever imports this module does so within a function.
"""

import base64
import hashlib
from collections.abc import Sequence
from datetime import datetime, timezone

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from protos.errors import InvalidRequest
from protos.identity import Identity

# Boards without a clock battery boot in 1970: only the end of a certificate means something.
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

# What X.509 lets a key be used for.
_PURPOSES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def root(fleet: str, key: ec.EllipticCurvePrivateKey, end: datetime) -> x509.Certificate:
    """The authority's own certificate."""
    name = _named(fleet, "nanofleet authority")
    return (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(EPOCH)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage("key_cert_sign", "crl_sign"), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def leaf(
    identity: Identity,
    extra_names: Sequence[str],
    key: ec.EllipticCurvePublicKey,
    end: datetime,
    *,
    issuer: x509.Certificate,
    issuer_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    """A certificate for both sides of a connection: the fleet's parts are client and server."""
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(identity.uri)]
    names += [x509.DNSName(name) for name in (identity.dns_name, *extra_names)]
    both_sides = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    return (
        x509.CertificateBuilder(
            issuer.subject, _named(identity.name), key, x509.random_serial_number()
        )
        .not_valid_before(EPOCH)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage("digital_signature"), critical=True)
        .add_extension(x509.ExtendedKeyUsage(both_sides), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(authority, critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


def requested_key(request: bytes) -> ec.EllipticCurvePublicKey:
    """The key of a certificate request (PEM). Raises InvalidRequest when it is none, or not signed
    by that key.
    """
    try:
        parsed = x509.load_pem_x509_csr(request)
        key, signed = parsed.public_key(), parsed.is_signature_valid
    except ValueError as error:
        raise _bad_request(f"It cannot be read: {error}.") from error
    if not signed:
        raise _bad_request("Its signature is not by the key that it names.")
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise _bad_request("Its key is not on the curve P-256.")
    return key


def common_name(certificate: x509.Certificate) -> str:
    (name,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(name.value)


def pin(key: ec.EllipticCurvePrivateKey) -> str:
    """What a token carries: base32 of the SHA-256 of the public key (SubjectPublicKeyInfo)."""
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b32encode(hashlib.sha256(spki).digest()).decode().rstrip("=").lower()


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _bad_request(why: str) -> InvalidRequest:
    return InvalidRequest(
        "The certificate request is not usable.", why=why, field="certificate_request"
    )


def _named(name: str, organization: str = "nanofleet") -> x509.Name:
    parts = ((NameOID.ORGANIZATION_NAME, organization), (NameOID.COMMON_NAME, name))
    return x509.Name([x509.NameAttribute(kind, value) for kind, value in parts])


def _usage(*purposes: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{purpose: purpose in purposes for purpose in _PURPOSES})
