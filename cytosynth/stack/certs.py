"""Certificates for development: one private authority, the edge's and one per tenant.

Not for production: there the hospital's own authority signs. A client certificate names its tenant
in the URI `cytosynth://tenant/<id>` (and, for readers, in the common name).
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cytosynth.stack.certificate_files import (
    DEFAULT_HOSTS,
    DEFAULT_TENANT,
    CertificateError,
    CertificateSet,
    Identity,
    identity_in,
    tenants_in,
)

TENANT_URI = "cytosynth://tenant/"
VALID_DAYS = 365
RENEW_DAYS = 7
"""Certificates with fewer days left are replaced."""
_TENANT_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


def make_certificates(
    directory: Path,
    *,
    tenants: Iterable[str] = (DEFAULT_TENANT,),
    hosts: Iterable[str] = DEFAULT_HOSTS,
    renew: bool = False,
) -> CertificateSet:
    """Makes what is missing, about to end, or (`renew`) everything.

    Args:
        directory: where the PEM files go; private keys are readable by their owner only.
        tenants: tenant ids, `[a-z0-9][a-z0-9-]{0,62}`; certificates made before stay.
        hosts: names and IP addresses under which clients reach the edge; those of the
            certificate made before stay.

    Raises:
        CertificateError: a tenant id is malformed, or the folder cannot be written.
    """
    tenants, hosts = tuple(tenants), tuple(hosts)
    for tenant in tenants:
        if not _TENANT_ID.fullmatch(tenant):
            raise CertificateError(
                f"Tenant '{tenant}' is not a valid id: use 1 to 63 of a-z, 0-9 and '-', "
                "starting with a letter or digit."
            )
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        _make(directory, tenants, hosts, renew)
    except OSError as error:
        raise CertificateError(f"Cannot write certificates to {directory}: {error}") from error
    return CertificateSet(directory, tenants_in(directory))


def _make(directory: Path, tenants: tuple[str, ...], hosts: tuple[str, ...], renew: bool) -> None:
    authority = identity_in(directory, "ca")
    if renew or not _usable(authority):
        renew = True
        tenants = tuple(dict.fromkeys((*tenants, *tenants_in(directory))))
        _write(authority, *_sign_authority())
    ca_certificate, ca_key = _read(authority)
    server = identity_in(directory, "server")
    before = _names(server)
    wanted = [*before, *(name for name in map(_host_name, hosts) if name not in before)]
    if renew or not _usable(server) or wanted != before:
        names = x509.SubjectAlternativeName(wanted)
        usage = ExtendedKeyUsageOID.SERVER_AUTH
        _write(server, *_sign("cytosynth edge", names, usage, ca_certificate, ca_key))
    for tenant in tenants:
        client = identity_in(directory, f"client-{tenant}")
        if renew or not _usable(client):
            uri = x509.UniformResourceIdentifier(TENANT_URI + tenant)
            names = x509.SubjectAlternativeName([uri])
            usage = ExtendedKeyUsageOID.CLIENT_AUTH
            _write(client, *_sign(tenant, names, usage, ca_certificate, ca_key))


def _read(identity: Identity) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate = x509.load_pem_x509_certificate(identity.certificate.read_bytes())
    key = serialization.load_pem_private_key(identity.key.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateError(
            f"{identity.key} was not made by 'cytosynth certs'; name another folder."
        )
    return certificate, key


def _usable(identity: Identity) -> bool:
    if not identity.certificate.exists() or not identity.key.exists():
        return False
    try:
        certificate, _ = _read(identity)
    except ValueError:
        return False
    left = certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    return left > datetime.timedelta(days=RENEW_DAYS)


def _names(server: Identity) -> list[x509.GeneralName]:
    """The edge's names in its certificate; empty without a readable one."""
    try:
        certificate = x509.load_pem_x509_certificate(server.certificate.read_bytes())
    except (FileNotFoundError, ValueError):
        return []
    extensions = certificate.extensions
    return list(extensions.get_extension_for_class(x509.SubjectAlternativeName).value)


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write(
    identity: Identity, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> None:
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    identity.key.unlink(missing_ok=True)
    with os.fdopen(
        os.open(identity.key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb"
    ) as file:
        file.write(pem)
    identity.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _sign_authority() -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("cytosynth development authority")
    builder = (
        _builder(name, name, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
    )
    return builder.sign(key, hashes.SHA256()), key


def _sign(
    common_name: str,
    names: x509.SubjectAlternativeName,
    usage: x509.ObjectIdentifier,
    ca_certificate: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    builder = (
        _builder(_name(common_name), ca_certificate.subject, key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(names, critical=False)
        .add_extension(issuer_key, critical=False)
    )
    return builder.sign(ca_key, hashes.SHA256()), key


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "cytosynth"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
