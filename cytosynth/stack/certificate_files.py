"""Files of the development certificates, for users who make none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DEFAULT_HOSTS = ("localhost", "127.0.0.1", "::1")
DEFAULT_TENANT = "local"


class CertificateError(Exception):
    """Certificates that cannot be made or used; the message says why."""


@dataclass(frozen=True)
class Identity:
    """A certificate and its private key, PEM files."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class CertificateSet:
    """What `cytosynth certs` leaves in a folder."""

    directory: Path
    tenants: tuple[str, ...]

    @property
    def ca(self) -> Path:
        """The authority's certificate: what clients and the edge trust."""
        return self.directory / "ca.pem"

    @property
    def server(self) -> Identity:
        return identity_in(self.directory, "server")

    def client(self, tenant: str = DEFAULT_TENANT) -> Identity:
        """The identity of a tenant.

        Raises:
            CertificateError: no certificate was made for it.
        """
        if tenant not in self.tenants:
            raise CertificateError(
                f"There is no certificate for tenant '{tenant}' in {self.directory}. "
                f"Make one: cytosynth certs --tenant {tenant}"
            )
        return identity_in(self.directory, f"client-{tenant}")


def identity_in(directory: Path, name: str) -> Identity:
    """Names the files of one identity."""
    return Identity(directory / f"{name}.pem", directory / f"{name}.key")


def tenants_in(directory: Path) -> tuple[str, ...]:
    """Lists the tenants that have a certificate in a folder."""
    return tuple(
        sorted(path.stem.removeprefix("client-") for path in directory.glob("client-*.pem"))
    )
