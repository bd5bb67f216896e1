# SPDX-License-Identifier: Apache-2.0
"""Certificates that are taken back while servers run: by the handbook's procedure, with lists that are no good, for terminals."""

from __future__ import annotations

import asyncio
import re
import shlex
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from servers_support import BSDA_ID, BSM_TOML, Process, System, _service
from terminals_support import A, Terminals
from test_servers_storm import Line, _body, _status

from pybcast.backend import pki
from pybcast.flows.tables import Status, Tag
from pybcast.https import contexts
from pybcast.https.contexts import terminal_context
from pybcast.interaction import InteractionClient, Unreachable

DOCS: Final = Path(__file__).parents[2] / "docs" / "operating.md"
LISTS: Final = 'authority = "ca.pem"'


def alarm(process: Process, code: str, since: int, *, active: bool = True, text: str = "") -> list[dict[str, Any]]:
    def there(seen: list[dict[str, Any]]) -> bool:
        return any(e.get("code") == code and e["active"] is active and text in e["text"] for e in seen[since:])

    return process.wait(there, f"alarm {code}", 20)


def calls(system: System, name: str) -> Line:
    """A connection to the BSM with this certificate."""
    return Line(system.ports["bsm"], contexts.client_context(pki.files_of(system.folder, name)))


def is_served(line: Line) -> bool:
    """An answer to a question: what is there, or that there is nothing."""
    return _status(line.ask(_body(Tag.STKMRequest))) in (Status.SUCCESS, Status.NON_EXISTENT)


def cut(line: Line) -> None:
    """The server has ended it.  Only read: Python 3.13 blames what a write fails with on the connection that is used next."""
    assert line.ended()


def stays_out(system: System, name: str) -> None:
    line = calls(system, name)  # with TLS 1.3 the server's refusal comes after the client's end of the handshake
    cut(line)
    line.close()


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    """BSM and BSD/A; a second certificate of the BSD/A's, ``next``."""
    made = System(tmp_path, _service("A", 1, "bsm", "push", key_period=120))
    pki.issue(tmp_path, "next", BSDA_ID)
    yield made
    made.close()


def _use_lists(folder: Path, *names: str) -> None:
    for name in names:
        config = folder / f"{name}.toml"
        config.write_text(config.read_text().replace(LISTS, f'{LISTS}\ncrl = "crl.pem"'))


def test_the_handbooks_procedure(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate is taken back with the commands as they stand there: its connection ends, it gets in no more, others do."""
    text = DOCS.read_text("utf-8").partition("### Certificates that are taken back")[2]
    block = re.search(r"```sh\n(.*?)```", text, re.DOTALL)
    assert block is not None
    commands = [shlex.split(line, comments=True) for line in block[1].splitlines()]
    assert [words[:3] for words in commands] == [["pybcast", "pki", "revoke"]] * 3
    monkeypatch.chdir(system.folder)

    def command(number: int) -> None:
        status, _, err = system.command(*commands[number][1:])
        assert status == 0, err

    system.start("bsm", "bsda")
    bsm, bsda = system.running["bsm"], system.running["bsda"]
    command(0)
    _use_lists(system.folder, "bsm", "bsda")
    for process in (bsm, bsda):
        process.process.send_signal(signal.SIGHUP)
        process.wait(lambda seen: any(e.get("event") == "reloaded" for e in seen), "reload")
    old, new = calls(system, "bsda"), calls(system, "next")
    assert is_served(old) and is_served(new)
    since = len(bsm.events)
    command(1)
    alarm(bsm, "revocation-list", since, active=False)
    cut(old)
    assert is_served(new), "others go on, on the connection that they have"
    assert is_served(new)
    stays_out(system, "bsda")
    bsm.wait(lambda seen: any("certificate revoked" in str(e.get("reason")) for e in seen[since:]), "reason in the log")
    bsda.wait(lambda seen: any(e.get("event") == "unanswered" for e in seen), "BSD/A that is not let in any more")
    since = len(bsm.events)
    command(2)
    alarm(bsm, "revocation-list", since, active=False)
    stays_out(system, "bsda")
    for line in (old, new):
        line.close()


def test_a_list_that_is_no_good_leaves_the_old_one_in_use(system: System) -> None:
    """Broken, forged, ended or gone: an alarm, and who was taken back stays out; at a start, an error in words."""
    folder = system.folder
    pki.revoke(folder, ["bsda"])
    pki.init(folder / "other", {"bsm": "urn:example:bsm"})
    _use_lists(folder, "bsm")
    system.start("bsm")
    bsm, good = system.running["bsm"], (folder / "crl.pem").read_bytes()
    line = calls(system, "next")

    def gone() -> None:
        (folder / "crl.pem").unlink()

    def broken() -> None:
        (folder / "crl.pem").write_text("nothing")

    def forged() -> None:
        (folder / "crl.pem").write_bytes(pki.revoke(folder / "other").read_bytes())

    changes: list[tuple[Callable[[], None], str]] = [(gone, "No such file"), (broken, "in PEM"), (forged, "signature")]
    for change, why in changes:
        since = len(bsm.events)
        change()
        alarm(bsm, "revocation-list", since, text=why)
        assert is_served(line)
        stays_out(system, "bsda")
        bsm.process.send_signal(signal.SIGHUP)
        bsm.wait(lambda seen: any(e.get("event") == "not-reloaded" and "crl.pem" in e["why"] for e in seen[since:]), "refusal")  # noqa: B023
        status, _, err = system.command("check", "bsm.toml")
        assert status == 2 and "crl.pem" in err and why in err
    since = len(bsm.events)
    (folder / "crl.pem").write_bytes(good)
    alarm(bsm, "revocation-list", since, active=False)
    assert system.command("check", "bsm.toml")[0] == 0
    line.close()
    assert system.stop() == {"bsm": 0}
    broken()
    status, log = system.refused("bsm", "bsm.toml")
    assert status == 2 and "expected a certificate revocation list in PEM" in log and "Traceback" not in log


def test_a_list_that_ends_soon_is_an_alarm(system: System) -> None:
    pki.revoke(system.folder)
    _use_lists(system.folder, "bsm")
    system.start("bsm")
    bsm = system.running["bsm"]
    assert not [e for e in bsm.events if e.get("code") == "revocation-list-ends"]
    pki.revoke(system.folder, days=0, now=datetime.now(UTC) + timedelta(minutes=5))  # of an hour, five minutes are left
    alarm(bsm, "revocation-list-ends", 0, text="nobody is let in")
    pki.revoke(system.folder)
    alarm(bsm, "revocation-list-ends", 0, active=False)


# --- fingerprints -------------------------------------------------------------------------------------------------------


def test_a_peer_is_pinned_by_the_configuration(system: System) -> None:
    folder, config = system.folder, system.folder / "bsm.toml"

    def pinned(name: str) -> str:
        found = x509.load_pem_x509_certificate((folder / f"{name}.pem").read_bytes()).fingerprint(hashes.SHA256()).hex(":")
        return f'[[peers]]\nfingerprints = ["{found}"]'

    text = config.read_text()
    config.write_text(text.replace("[[peers]]", pinned("bsda")))
    system.start("bsm")
    bsm = system.running["bsm"]
    line = calls(system, "bsda")
    assert is_served(line)
    stays_out(system, "next")
    config.write_text(text.replace("[[peers]]", pinned("next")))
    bsm.process.send_signal(signal.SIGHUP)
    bsm.wait(lambda seen: any(e.get("event") == "reloaded" for e in seen), "reload")
    cut(line)
    new = calls(system, "next")
    assert is_served(new)
    for one in (line, new):
        one.close()
    config.write_text(BSM_TOML.replace("[[peers]]", '[[peers]]\nfingerprints = ["12:34"]'))
    status, _, err = system.command("check", "bsm.toml")
    assert status == 2 and "peers[1]" in err and "64 hexadecimal digits" in err


# --- terminals ----------------------------------------------------------------------------------------------------------


def test_terminals_and_their_bsm(tmp_path: Path) -> None:
    """A device whose certificate was taken back is dropped, while it waits; a card goes on.  Terminals ask no BSM that was."""
    terminals = Terminals(tmp_path, terminals='crl = "terminals/crl.pem"', before=lambda: pki.revoke(tmp_path / "terminals"))
    bsm = terminals.system.running["bsm"]

    async def work() -> None:
        alice, dora = terminals.alice(), terminals.dora()
        try:
            assert await alice.registration() and await dora.registration()
            waiting = asyncio.create_task(dora.stkm(A, 1, "drm", after=1 << 33, wait=60))
            assert await alice.stkm(A, 1, "smartcard", wait=30)
            since = len(bsm.events)
            pki.revoke(tmp_path / "terminals", ["dora"])
            with pytest.raises(Unreachable):
                await waiting
            assert any(e.get("why") == "not admitted any more" for e in bsm.events[since:])
            with pytest.raises(Unreachable):
                await dora.registration()
            assert await alice.registration()
            pki.revoke(tmp_path, ["bsm"])
            context = terminal_context(tmp_path / "ca.pem", crl=tmp_path / "crl.pem")
            careful = InteractionClient(terminals.url, context=context, digest=None)
            with pytest.raises(Unreachable, match="certificate revoked"):
                await careful.registration()
            await careful.close()
        finally:
            for client in (alice, dora):
                await client.close()
            for _ in range(10):
                await asyncio.sleep(0)

    try:
        asyncio.run(asyncio.wait_for(work(), 60))
    finally:
        terminals.system.close()
