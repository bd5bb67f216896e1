# SPDX-License-Identifier: Apache-2.0
"""Certificates that were taken back: what a list says, which lists are refused, and that nobody gets in with one of them."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from backend_support import BSDA_ID, BSM_ID, NOW, message
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from wire_support import RIGHTS, Caller, asking, serving

from pybcast.backend import pki, xml
from pybcast.backend.errors import PeerUnreachable, WrongPeer
from pybcast.backend.identity import Peer, Peers
from pybcast.cli import main
from pybcast.errors import ConfigError
from pybcast.flows.tables import Tag
from pybcast.https import contexts, revocation
from pybcast.https.revocation import RevocationList, Watched

PARTIES: Final = {"bsm": BSM_ID, "bsda": BSDA_ID}
TEKS: Final = message(Tag.TEKDelivery)
BODY: Final = xml.encode(TEKS, NOW)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An authority, BSM and BSD/A, and the BSD/A's next certificate."""
    pki.init(tmp_path, PARTIES)
    pki.issue(tmp_path, "bsda-next", BSDA_ID)
    return tmp_path


def files(folder: Path, name: str) -> contexts.TlsFiles:
    found = pki.files_of(folder, name)
    return contexts.TlsFiles(certificate=found.certificate, key=found.key, authority=found.authority, crl=folder / "crl.pem")


def der(folder: Path, name: str) -> bytes:
    found = x509.load_pem_x509_certificate((folder / f"{name}.pem").read_bytes())
    return found.public_bytes(serialization.Encoding.DER)


# --- a list -----------------------------------------------------------------------------------------------------------


def test_a_list_grows_and_is_renewed(folder: Path) -> None:
    def read() -> RevocationList:
        return RevocationList.read(folder / "crl.pem", folder / "ca.pem")

    assert pki.revoke(folder) == folder / "crl.pem" and not any(read().entries.values())
    pki.revoke(folder, ["bsda"])
    pki.revoke(folder, ["bsda", "bsda-next"])
    pki.revoke(folder, days=4)
    found = read()
    assert [found.holds(der(folder, name)) for name in ("bsda", "bsda-next", "bsm")] == [True, True, False]
    assert found.holds(b"no certificate"), "what cannot be read is not believed"
    assert timedelta(days=3, hours=23) < found.ends - datetime.now(UTC) < timedelta(days=4)
    assert found.ends - found.renew == timedelta(days=1)
    assert sorted(path.name for path in folder.iterdir() if "crl" in path.name) == ["crl.pem"]


def test_what_cannot_be_taken_back_is_named(folder: Path, tmp_path: Path) -> None:
    pki.init(tmp_path / "other", {"bsda": BSDA_ID})
    (folder / "stranger.pem").write_bytes((tmp_path / "other" / "bsda.pem").read_bytes())
    for name, why in (("nobody", "nobody.pem: No such file"), ("stranger", "of this authority"), ("bsm-key", "of this authority")):
        with pytest.raises(ConfigError, match=why):
            pki.revoke(folder, [name])
    pki.revoke(tmp_path / "other")
    (folder / "crl.pem").write_bytes((tmp_path / "other" / "crl.pem").read_bytes())
    pki.init(tmp_path / "third", {})
    with pytest.raises(ConfigError, match="no test authority"):
        pki.revoke(tmp_path / "nowhere")
    (folder / "crl.pem").write_text("something else")
    with pytest.raises(ConfigError, match="nothing is written over"):
        pki.revoke(folder)
    assert (folder / "crl.pem").read_text() == "something else"


def _made(
    folder: Path,
    key: ec.EllipticCurvePrivateKey,
    *,
    begins: int = -2,
    ends: int = 48,
    issuer: x509.Name | None = None,
    extension: x509.ExtensionType | None = None,
) -> bytes:
    """A list in PEM; ``begins``, ``ends``: hours from now."""
    subject = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes()).subject
    now, builder = datetime.now(UTC), x509.CertificateRevocationListBuilder().issuer_name(issuer or subject)
    builder = builder.last_update(now + timedelta(hours=begins)).next_update(now + timedelta(hours=ends))
    if extension is not None:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _signer(folder: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key((folder / "ca-key.pem").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


CHANGES: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "ended": ({"ends": -1}, "ended at"),
    "for later": ({"begins": 1}, "is for later"),
    "of changes": ({"extension": x509.DeltaCRLIndicator(1)}, "full revocation list"),
    "another's": ({"issuer": x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])}, "none of the authorities"),
}


@pytest.mark.parametrize("name", [*CHANGES, "forged", "broken", "text", "gone", "large"])
def test_a_list_that_is_no_good_is_refused_in_words(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "crl.pem"
    good = _made(folder, _signer(folder))
    if name in CHANGES:
        change, why = CHANGES[name]
        path.write_bytes(_made(folder, _signer(folder), **change))
    elif name == "forged":
        path.write_bytes(_made(folder, ec.generate_private_key(ec.SECP256R1())))
        why = "signature of the revocation list is wrong"
    elif name == "broken":
        path.write_bytes(good[:60] + b"AAAA" + good[64:])
        why = "cannot be read|none of the authorities|signature"
    elif name == "text":
        path.write_bytes(b"not a list")
        why = "expected a certificate revocation list in PEM"
    elif name == "gone":
        why = "No such file"
    else:
        path.write_bytes(good)
        monkeypatch.setattr(revocation, "MAX_LIST", 100)
        why = "more than 100 octets"
    for make in (contexts.server_context, contexts.client_context):
        with pytest.raises(ConfigError, match=why) as caught:
            make(files(folder, "bsm"))
        assert "crl.pem" in str(caught.value) or name == "large"
    with pytest.raises(ConfigError, match=why):
        contexts.terminal_context(folder / "ca.pem", crl=path)


def test_one_file_has_the_lists_of_several_authorities(folder: Path, tmp_path: Path) -> None:
    name, key = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "another")]), ec.generate_private_key(ec.SECP256R1())
    now, pem = datetime.now(UTC), serialization.Encoding.PEM
    other = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(7)
        .not_valid_before(now).not_valid_after(now + timedelta(days=1)).sign(key, hashes.SHA256())
    )  # fmt: skip
    pki.revoke(folder, ["bsda"])
    both, authorities = tmp_path / "both.pem", tmp_path / "authorities.pem"
    both.write_bytes((folder / "crl.pem").read_bytes() + b"# a line between\n" + _made(folder, key, issuer=name, ends=3))
    authorities.write_bytes((folder / "ca.pem").read_bytes() + other.public_bytes(pem))
    found = RevocationList.read(both, authorities)
    assert sum(map(len, found.entries.values())) == 1 and found.holds(der(folder, "bsda"))
    assert timedelta(hours=2.9) < found.ends - now < timedelta(hours=3.1), "the earliest end"
    with pytest.raises(ConfigError, match="none of the authorities"):
        RevocationList.read(both, folder / "ca.pem")
    with pytest.raises(ConfigError, match="expected certificates in PEM"):
        RevocationList.read(both, folder / "bsm-key.pem")


def test_a_file_that_changes_is_seen_once_a_second_at_most(tmp_path: Path) -> None:
    now, path = [0.0], tmp_path / "crl.pem"
    watched = Watched([path, tmp_path / "other.pem"], lambda: now[0])

    def looks() -> list[bool]:
        found = [watched.changed()]
        now[0] += 1.0
        return [*found, watched.changed(), watched.changed()]

    assert looks() == [False, False, False]
    path.write_text("a")
    assert looks() == [False, True, False], "there now"
    path.write_text("bb")
    assert looks() == [False, True, False], "another"
    path.unlink()
    assert looks() == [False, True, False], "gone"
    assert looks() == [False, False, False]
    assert not Watched([], lambda: now[0]).changed()


# --- who gets in ------------------------------------------------------------------------------------------------------


def test_a_certificate_that_was_taken_back_gets_in_nowhere(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not at the server, and a client asks no such server; others do."""

    async def run() -> None:
        pki.revoke(folder, ["bsda"])
        async with serving(tls=files(folder, "bsm")) as server:
            async with asking(server.port, tls=pki.files_of(folder, "bsda")) as client:
                with pytest.raises(PeerUnreachable):
                    await client.send(TEKS)
            async with asking(server.port, tls=files(folder, "bsda-next")) as client:
                assert (await client.send(TEKS)).status == 0
            pki.revoke(folder, ["bsm"])
            async with asking(server.port, tls=files(folder, "bsda-next")) as client:
                with pytest.raises(PeerUnreachable, match="certificate revoked"):
                    await client.send(TEKS)

    asyncio.run(run())
    assert "certificate refused: certificate revoked" in caplog.text


def test_a_reload_drops_open_connections_of_what_was_taken_back(folder: Path) -> None:
    """Of a server at once, and no others; of a client too, also while it waits for an answer."""

    async def run() -> None:
        entered, release = asyncio.Event(), asyncio.Event()

        async def handler(asked: object, peer: str) -> object:
            entered.set()
            await release.wait()
            raise AssertionError("nobody waits for it")

        pki.revoke(folder)
        context = contexts.client_context(files(folder, "bsda"))
        next_context = contexts.client_context(files(folder, "bsda-next"))
        async with (
            serving(tls=files(folder, "bsm")) as server,
            Caller.to(server.port, context) as old,
            Caller.to(server.port, next_context) as new,
            asking(server.port, context=next_context) as client,
        ):
            assert await old.status(BODY) == await new.status(BODY) == 0 and (await client.send(TEKS)).status == 0
            pki.revoke(folder, ["bsda"])
            await server.reload(context=contexts.server_context(files(folder, "bsm")))
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await old.status(BODY)
            assert await new.status(BODY) == 0, "answered, and closed after it as at any reload"
            server._handler = handler  # type: ignore[assignment]  # it never answers
            waiting = asyncio.create_task(client.send(message(Tag.TEKDelivery, message_id="cd" * 16)))
            await entered.wait()
            pki.revoke(folder, ["bsm"])
            await client.reload(context=contexts.client_context(files(folder, "bsda-next")))
            with pytest.raises(PeerUnreachable):
                await waiting

    asyncio.run(run())


# --- fingerprints -----------------------------------------------------------------------------------------------------


def fingerprint(folder: Path, name: str) -> str:
    """As ``openssl x509 -fingerprint -sha256`` shows it."""
    return x509.load_pem_x509_certificate((folder / f"{name}.pem").read_bytes()).fingerprint(hashes.SHA256()).hex(":").upper()


def test_a_peer_may_be_pinned_to_its_certificates(folder: Path) -> None:
    def peer(peer_id: str, *names: str, url: str | None = None) -> Peers:
        return Peers([Peer(id=peer_id, services=RIGHTS, url=url, fingerprints=frozenset(fingerprint(folder, n) for n in names))])

    async def run() -> None:
        async with serving(tls=pki.files_of(folder, "bsm")) as server:
            first = contexts.client_context(pki.files_of(folder, "bsda"))
            second = contexts.client_context(pki.files_of(folder, "bsda-next"))
            async with Caller.to(server.port, first) as caller, asking(server.port, context=second) as client:
                assert await caller.status(BODY) == 0 and (await client.send(TEKS)).status == 0
                await server.reload(peers=peer(BSDA_ID, "bsda"))
                assert await caller.status(BODY) == 0
                with pytest.raises(PeerUnreachable):  # the same name, another certificate
                    await client.send(message(Tag.TEKDelivery, message_id="cd" * 16))
                await server.reload(peers=peer(BSDA_ID, "bsda", "bsda-next"))
                url = f"https://127.0.0.1:{server.port}"
                await client.reload(peers=peer(BSM_ID, "bsda", url=url))
                with pytest.raises(WrongPeer, match="another fingerprint"):
                    await client.send(TEKS)
                await client.reload(peers=peer(BSM_ID, "bsda", "bsm", url=url))
                assert (await client.send(TEKS)).status == 0

    asyncio.run(run())


@pytest.mark.parametrize("text", ["", "00", "g" * 64, "0" * 63, "0" * 65, " " * 64])
def test_what_is_no_fingerprint(text: str) -> None:
    with pytest.raises(ConfigError, match="fingerprints: expected 64"):
        Peer(id=BSM_ID, fingerprints=frozenset({"ab" * 32, text}))


# --- the command --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("ca",), ("../bsda",), ("nobody",), ("bsda", "ca"), ("--days", "0")])
def test_pki_revoke_refuses_in_words(folder: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pki", "revoke", str(folder), *words]) == 2
    assert "Traceback" not in capsys.readouterr().err and not (folder / "crl.pem").exists()


def test_pki_revoke_says_what_it_made(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pki", "revoke", str(folder), "bsda", "bsda-next", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"file": str(folder / "crl.pem")}
    assert sum(map(len, RevocationList.read(folder / "crl.pem", folder / "ca.pem").entries.values())) == 2
