"""Certificates of the stand: one small authority per use, elliptic keys, files of mode 0600."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from local.paths import write_private

YEARS_CA = 10
DAYS_LEAF = 365
RENEW_DAYS = 30  # a leaf with less than this left is made anew by the next `up`


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, key_cert_sign=ca, crl_sign=ca, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


@dataclass(frozen=True)
class Leaf:
    """Who a certificate speaks for. Kubernetes reads `name` as user and `group` as group."""

    name: str
    group: str | None = None
    hosts: tuple[str, ...] = ()  # DNS names and addresses; empty for a client


@dataclass(frozen=True)
class Pair:
    cert: Path
    key: Path


class Authority:
    """A certificate authority in a folder; made on first use and kept."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.cert = folder / f"{name}.crt"
        self.key = folder / f"{name}.key"
        if not (self.cert.exists() and self.key.exists()):
            key = ec.generate_private_key(ec.SECP256R1())
            subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"stand {name}")])
            now = datetime.now(UTC)
            cert = (
                x509.CertificateBuilder()
                .subject_name(subject)
                .issuer_name(subject)
                .public_key(key.public_key())
                .serial_number(x509.random_serial_number())
                .not_valid_before(now - timedelta(minutes=5))
                .not_valid_after(now + timedelta(days=365 * YEARS_CA))
                .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
                .add_extension(_usage(ca=True), critical=True)
                .add_extension(
                    x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
                )
                .sign(key, hashes.SHA256())
            )
            write_private(self.key, _pem(key))
            write_private(self.cert, cert.public_bytes(serialization.Encoding.PEM))
        self._cert = x509.load_pem_x509_certificate(self.cert.read_bytes())
        self._key = cast(
            "ec.EllipticCurvePrivateKey",
            serialization.load_pem_private_key(self.key.read_bytes(), None),
        )

    def issue(self, file: str, leaf: Leaf) -> Pair:
        """The pair `<file>.crt`, `<file>.key`; kept while it is valid and says the same."""
        pair = Pair(self.folder / f"{file}.crt", self.folder / f"{file}.key")
        if self._still_good(pair, leaf):
            return pair
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if leaf.hosts:
            usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_subject(leaf))
            .issuer_name(self._cert.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=DAYS_LEAF))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        if leaf.hosts:
            builder = builder.add_extension(_names(leaf.hosts), critical=False)
        cert = builder.sign(self._key, hashes.SHA256())
        # the key first: a kill between the two leaves a pair that `_still_good` refuses
        write_private(pair.key, _pem(key))
        write_private(pair.cert, cert.public_bytes(serialization.Encoding.PEM))
        return pair

    def _still_good(self, pair: Pair, leaf: Leaf) -> bool:
        if not (pair.cert.exists() and pair.key.exists()):
            return False
        try:
            cert = x509.load_pem_x509_certificate(pair.cert.read_bytes())
            key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
            cert.verify_directly_issued_by(self._cert)
        except Exception:  # noqa: BLE001 - whatever is wrong with the old pair, a new one cures it
            return False
        spki = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        if key.public_key().public_bytes(*spki) != cert.public_key().public_bytes(*spki):
            return False
        try:
            hosts = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            hosts = None
        left = cert.not_valid_after_utc - datetime.now(UTC)
        return (
            left > timedelta(days=RENEW_DAYS)
            and cert.subject == _subject(leaf)
            and hosts == (_names(leaf.hosts) if leaf.hosts else None)
        )


def _subject(leaf: Leaf) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, leaf.name)]
    if leaf.group:
        parts.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, leaf.group))
    return x509.Name(parts)


def _names(hosts: tuple[str, ...]) -> x509.SubjectAlternativeName:
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return x509.SubjectAlternativeName(names)


def signing_pair(folder: Path) -> Pair:
    """The RSA pair that signs service-account tokens: `sa.pub`, `sa.key`."""
    pair = Pair(folder / "sa.pub", folder / "sa.key")
    if not (pair.cert.exists() and pair.key.exists()):
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        write_private(pair.key, _pem(key))
        write_private(
            pair.cert,
            key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            ),
        )
    return pair
