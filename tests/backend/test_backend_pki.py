# SPDX-License-Identifier: Apache-2.0
"""The test authority, TLS contexts from files, and who a certificate stands for (R26)."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from backend_support import BSDA_ID, BSM_ID, SERVICE, message
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from pybcast.backend import pki
from pybcast.backend.identity import Peer, Peers, authorise, certificate_names
from pybcast.errors import ConfigError, PeerFlowError
from pybcast.flows.peers.messages import ALL_SERVICES
from pybcast.flows.tables import Tag
from pybcast.https import contexts
from pybcast.https.limits import is_loopback
from pybcast.https.listener import certificate_end

PARTIES = {"bsm": BSM_ID, "bsda": BSDA_ID}


def test_init_writes_an_authority_and_certificates_that_only_we_can_read(tmp_path: Path) -> None:
    files = pki.init(tmp_path / "pki", PARTIES)
    assert sorted(f.name for f in files) == ["bsda-key.pem", "bsda.pem", "bsm-key.pem", "bsm.pem", "ca-key.pem", "ca.pem"]
    assert {f.stat().st_mode & 0o777 for f in files} == {0o600} and files[0].parent.stat().st_mode & 0o777 == 0o700
    ca, leaf = (x509.load_pem_x509_certificate((tmp_path / "pki" / name).read_bytes()) for name in ("ca.pem", "bsm.pem"))
    leaf.verify_directly_issued_by(ca)
    public = leaf.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey) and public.curve.name == "secp256r1"
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [BSM_ID] and "localhost" in names.get_values_for_type(
        x509.DNSName
    )
    assert ca.not_valid_after_utc > leaf.not_valid_after_utc > datetime.now(UTC) > leaf.not_valid_before_utc
    for name in PARTIES:
        for context in (
            contexts.server_context(pki.files_of(tmp_path / "pki", name)),
            contexts.client_context(pki.files_of(tmp_path / "pki", name)),
        ):
            assert context.minimum_version is ssl.TLSVersion.TLSv1_2 and context.verify_mode is ssl.CERT_REQUIRED


def test_init_overwrites_nothing(tmp_path: Path) -> None:
    before = pki.init(tmp_path, PARTIES)[1].read_bytes()
    with pytest.raises(ConfigError, match=r"bsm\.pem.*exists already"):
        pki.init(tmp_path, PARTIES)
    with pytest.raises(ConfigError, match=r"bsm\.pem"):
        pki.issue(tmp_path, "bsm", BSM_ID)
    assert (tmp_path / "ca-key.pem").read_bytes() == before
    assert [f.name for f in pki.issue(tmp_path, "bsda2", "urn:example:bsda2")] == ["bsda2.pem", "bsda2-key.pem"]


def test_what_is_wrong_with_the_files_is_named(tmp_path: Path) -> None:
    pki.init(tmp_path, PARTIES)
    pki.init(tmp_path / "other", {"x": "urn:x:x"})
    good = pki.files_of(tmp_path, "bsm")
    text = tmp_path / "text.pem"
    text.write_text("not a certificate")
    text.chmod(0o600)

    def fault(**changes: Path) -> str:
        values = {"certificate": good.certificate, "key": good.key, "authority": good.authority} | changes
        with pytest.raises(ConfigError) as caught:
            contexts.server_context(contexts.TlsFiles(**values))
        return str(caught.value)

    assert "missing.pem" in fault(certificate=tmp_path / "missing.pem")
    assert "missing.pem" in fault(key=tmp_path / "missing.pem")
    assert "missing.pem" in fault(authority=tmp_path / "missing.pem")
    assert "text.pem" in fault(certificate=text) and "text.pem" in fault(key=text) and "text.pem" in fault(authority=text)
    assert "bsm.pem" in fault(key=tmp_path / "bsda-key.pem")
    good.key.chmod(0o644)
    assert "everyone may read" in fault()
    with pytest.raises(ConfigError, match="pki init"):
        pki.issue(tmp_path / "nowhere", "x", "urn:x:x")
    with pytest.raises(ConfigError, match="absolute URI"):
        pki.issue(tmp_path, "x", "bsm")


def test_an_encrypted_key_is_refused_and_nobody_is_asked(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as s

    pki.init(tmp_path, {"bsm": BSM_ID})
    files = pki.files_of(tmp_path, "bsm")
    key = s.load_pem_private_key(files.key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    files.key.write_bytes(key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(b"x")))
    with pytest.raises(ConfigError, match="encrypted"):
        contexts.client_context(files)


@pytest.mark.parametrize(
    ("certificate", "names"),
    [
        (None, set()),
        ({}, set()),
        ({"subjectAltName": (("URI", "urn:a"), ("DNS", "b"), ("IP Address", "::1"))}, {"URI:urn:a", "DNS:b"}),
        ({"subject": ((("commonName", "a"),),), "subjectAltName": (("DNS", "b"),)}, {"DNS:b"}),
        ({"subject": ((("commonName", "a"),), (("organizationName", "o"),)), "subjectAltName": ()}, {"CN:a"}),
        ({"subject": ((("commonName", "a"),),), "subjectAltName": (("IP Address", "::1"),)}, set()),
    ],
)
def test_r26_the_names_of_a_certificate(certificate: dict[str, Any] | None, names: set[str]) -> None:
    assert certificate_names(certificate) == names


def test_the_end_of_a_certificate() -> None:
    at = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert certificate_end({"notAfter": "Jan  2 03:04:05 2030 GMT"}) == at.timestamp()
    assert certificate_end(None) > (at + timedelta(days=10**6)).timestamp()


def test_r26_a_certificate_that_names_two_peers_names_none() -> None:
    peers = Peers([Peer(id="urn:a:a"), Peer(id="urn:b:b", certificate="DNS:b.example"), Peer(id="urn:c:c", certificate="CN:c")])
    assert [peers.of_certificate(names) for names in ([], ["DNS:x"], ["URI:urn:a:a", "DNS:b.example"])] == [None] * 3
    found = [peers.of_certificate(names) for names in (["URI:urn:a:a", "DNS:x"], ["DNS:b.example"], ["CN:c"])]
    assert [peer and peer.id for peer in found] == ["urn:a:a", "urn:b:b", "urn:c:c"]


@pytest.mark.parametrize(
    "values",
    [
        {"id": "bsm"},
        {"id": "urn:a:a", "certificate": "a"},
        {"id": "urn:a:a", "certificate": "CN:"},
        {"id": "urn:a:a", "url": "a:1"},
    ],
)
def test_peers_that_cannot_be(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Peer(**values)


def test_peers_share_neither_id_nor_name() -> None:
    for other in (Peer(id="urn:a:a", certificate="CN:x"), Peer(id="urn:b:b", certificate="URI:urn:a:a")):
        with pytest.raises(ConfigError):
            Peers([Peer(id="urn:a:a"), other])


@pytest.mark.parametrize(
    ("services", "changes", "good"),
    [
        ({SERVICE}, {}, True),
        ({SERVICE}, {"source": "urn:example:other"}, False),
        ({SERVICE}, {"service": "urn:example:other"}, False),
        ({SERVICE}, {"service": ALL_SERVICES}, False),
        ({ALL_SERVICES}, {"service": ALL_SERVICES}, True),
        ({ALL_SERVICES}, {}, False),
        (set(), {}, False),
    ],
)
def test_r26_rights(services: set[str], changes: dict[str, object], good: bool) -> None:
    asked, peer = message(Tag.KeyRequest, **changes), Peer(id=BSDA_ID, services=services)
    if good:
        authorise(asked, peer)
    else:
        with pytest.raises(PeerFlowError) as caught:
            authorise(asked, peer)
        assert caught.value.status == 11
    with pytest.raises(PeerFlowError):
        authorise(asked, None)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("[::1]", True), ("localhost", True), ("192.0.2.1", False),
        ("0.0.0.0", False), ("::", False), ("example.org", False), ("", False), (None, False),
    ],
)  # fmt: skip
def test_r26_loopback(host: str | None, loopback: bool) -> None:
    assert is_loopback(host) is loopback
