# SPDX-License-Identifier: Apache-2.0
"""Who is let in: a running BSM, and callers with certificates of every kind (R26)."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
from servers_support import BSDA_ID, BSM_ID, System, _service

from pybcast.backend import pki, xml
from pybcast.backend.server import PATH
from pybcast.flows.peers.messages import ALL_SERVICES, BackendMessage
from pybcast.flows.tables import Side, Status, Tag

MINE, OTHERS = "urn:example:service:A", "urn:example:service:B"
NOW: Final = 4_004_000_000


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Service A is the BSD/A's, B the other's, who is not here."""
    folder = tmp_path_factory.mktemp("tls")
    services = _service("A", 1, "bsm", "push", bsdas=[BSDA_ID]) + _service("B", 2, "bsm", "push", bsdas=["urn:example:bsda2"])
    made = System(folder, services, bsdas=("bsda", "bsda2"))  # only the BSM runs
    config = folder / "bsm.toml"
    text = config.read_text()
    config.write_text(text.replace(f'id = "{BSDA_ID}"', f'all_services = false\nid = "{BSDA_ID}"'))
    pki.issue(folder, "stranger", "urn:example:stranger")
    pki.issue(folder, "expired", BSDA_ID, days=1, now=datetime.now(UTC) - timedelta(days=30))
    pki.issue(folder, "early", BSDA_ID, now=datetime.now(UTC) + timedelta(days=30))
    pki.init(folder / "other", {"bsda": BSDA_ID})
    made.start("bsm")
    yield made
    made.close()


def _context(folder: Path, name: str | None, authority: Path | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations((authority or folder) / "ca.pem")
    if name is not None:
        context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}-key.pem")
    return context


def _ask(system: System, context: ssl.SSLContext, service: str = MINE, source: str = BSDA_ID) -> int | None:
    """The status of a KeyRequest's answer."""
    message = BackendMessage(
        tag=Tag.KeyRequest if service != ALL_SERVICES else Tag.RegRequest, message_id="ab" * 16, source=source, destination=BSM_ID,
        service=service, profile="drm" if service != ALL_SERVICES else None, stream=1 if service != ALL_SERVICES else None,
        start=NOW, end=NOW + 1,
    )  # fmt: skip
    body = xml.encode(message, NOW)
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: text/xml\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", system.ports["bsm"]), timeout=20) as raw, context.wrap_socket(raw) as tls:
        tls.sendall(head.encode() + body)
        with tls.makefile("rb") as file:
            got = file.read()
    if not got:
        raise ConnectionResetError
    return xml.decode(got.partition(b"\r\n\r\n")[2], Side.BSDA, NOW).status


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("expired", "certificate has expired"),
        ("early", "certificate is not yet valid"),
        ("other", "unable to get local issuer certificate"),
        (None, "PEER_DID_NOT_RETURN_A_CERTIFICATE"),
    ],
)
def test_a_certificate_that_is_no_good_is_not_let_in(system: System, name: str | None, why: str) -> None:
    """And the log says why."""
    bsm, other = system.running["bsm"], name == "other"
    mark = len(bsm.events)
    context = _context(system.folder / "other" if other else system.folder, "bsda" if other else name, system.folder)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        _ask(system, context)
    bsm.wait(lambda seen: any(e.get("event") == "tls" and why in e["reason"] for e in seen[mark:]), f"TLS: {why}")


def test_old_tls_is_not_let_in(system: System) -> None:
    context = _context(system.folder, "bsda")
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        _ask(system, context)


def test_a_certificate_that_is_good_has_its_own_rights_and_no_more(system: System) -> None:
    mine, stranger = _context(system.folder, "bsda"), _context(system.folder, "stranger")
    assert _ask(system, mine) in (Status.INVALID_REQUEST, Status.ALREADY_PROCESSED), "let in: F3 gives no keys"
    for context, service, source in (
        (mine, OTHERS, BSDA_ID), (mine, MINE, "urn:example:bsda2"), (mine, OTHERS, "urn:example:bsda2"),
        (mine, ALL_SERVICES, BSDA_ID), (mine, "urn:nobody", BSDA_ID),
    ):  # fmt: skip
        assert _ask(system, context, service, source) == Status.NOT_PERMITTED, (service, source)
    with pytest.raises(ConnectionError):  # nothing that it says is read
        _ask(system, stranger)
    figures = system.running["bsm"].metrics()
    assert (
        sum(value for name, value in figures.items() if name.startswith("pybcast_exchanges_total") and 'status="11"' in name) == 5
    )
    assert system.stop() == {"bsm": 0}
    system.past[0].check()
