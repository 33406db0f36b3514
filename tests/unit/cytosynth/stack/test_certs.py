"""Development certificates: who signs, who is named, who may read."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store

from cytosynth.stack.certificate_files import CertificateError
from cytosynth.stack.certs import make_certificates


def _load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_the_authority_vouches_for_server_and_clients(tmp_path: Path) -> None:
    made = make_certificates(tmp_path, tenants=["clinic-a"], hosts=["localhost", "edge.example"])
    store = Store([_load(made.ca)])
    for host in ("localhost", "edge.example"):
        verifier = PolicyBuilder().store(store).build_server_verifier(x509.DNSName(host))
        assert verifier.verify(_load(made.server.certificate), [])
    client = PolicyBuilder().store(store).build_client_verifier()
    verified = client.verify(_load(made.client("clinic-a").certificate), [])
    assert [name.value for name in verified.subjects or []] == ["cytosynth://tenant/clinic-a"]


def test_private_keys_are_for_their_owner_only(tmp_path: Path) -> None:
    make_certificates(tmp_path)
    keys = list(tmp_path.glob("*.key"))
    assert len(keys) == 3
    assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}


def test_making_them_again_changes_nothing(tmp_path: Path) -> None:
    make_certificates(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    make_certificates(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_tenant_is_added_beside_the_others(tmp_path: Path) -> None:
    first = make_certificates(tmp_path, tenants=["clinic-a"])
    authority = first.ca.read_bytes()
    second = make_certificates(tmp_path, tenants=["clinic-b"])
    assert second.tenants == ("clinic-a", "clinic-b")
    assert second.ca.read_bytes() == authority


def test_renewing_replaces_the_authority_and_all_it_signed(tmp_path: Path) -> None:
    make_certificates(tmp_path, tenants=["clinic-a"])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    made = make_certificates(tmp_path, renew=True)
    assert made.tenants == ("clinic-a", "local")
    assert all(path.read_bytes() != before.get(path.name) for path in tmp_path.iterdir())


def test_a_new_host_gets_a_new_server_certificate(tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    before = made.server.certificate.read_bytes()
    make_certificates(tmp_path, hosts=["edge.example"])
    assert made.server.certificate.read_bytes() != before


def test_hosts_named_before_stay(tmp_path: Path) -> None:
    make_certificates(tmp_path, hosts=["localhost", "edge.example"])
    make_certificates(tmp_path, hosts=["10.0.0.7", "localhost"])
    made = make_certificates(tmp_path, renew=True, hosts=["other.example"])
    extensions = _load(made.server.certificate).extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == [
        *("localhost", "edge.example", "10.0.0.7", "other.example"),
    ]


def test_a_damaged_certificate_is_made_anew(tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    made.server.certificate.write_text("not a certificate")
    make_certificates(tmp_path)
    assert _load(made.server.certificate)


@pytest.mark.parametrize("tenant", ["", "Clinic", "a/b", "-a", "a" * 64, "a\n"])
def test_a_malformed_tenant_is_refused_by_name(tmp_path: Path, tenant: str) -> None:
    with pytest.raises(CertificateError, match="not a valid id"):
        make_certificates(tmp_path, tenants=[tenant])
    assert not list(tmp_path.iterdir())


def test_an_unknown_tenant_says_how_to_make_one(tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    with pytest.raises(CertificateError, match="cytosynth certs --tenant clinic-z"):
        made.client("clinic-z")
