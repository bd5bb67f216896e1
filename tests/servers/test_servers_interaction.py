# SPDX-License-Identifier: Apache-2.0
"""The interaction channel of a BSM that is a process: terminals fetch, wait, verify; it dies, is reloaded, and says no key."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from terminals_support import TABLE, A, B, Terminals

from pybcast import codec
from pybcast.backend import pki
from pybcast.interaction import Digest, Fetched, Forbidden, InteractionClient, Unauthorised
from pybcast.keys import SRK
from pybcast.messages import SmartcardLtkm
from pybcast.wire.times import NTP_UNIX

T = TypeVar("T")


@pytest.fixture(scope="module")
def terminals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminals]:
    made = Terminals(tmp_path_factory.mktemp("interaction"))
    yield made
    made.system.close()


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, 60))


async def first(client: InteractionClient, service: str, profile: str) -> Fetched:
    found = await client.stkm(service, 1, profile, wait=30)
    assert found is not None
    return found


def test_a_terminal_lives_on_the_interaction_channel_alone(terminals: Terminals) -> None:
    """Registration, LTKMs and STKMs come by HTTPS; the card opens them, and the BSM believes its verification message."""

    async def work() -> None:
        alice, dora, now = terminals.alice(), terminals.dora(), time.time() + NTP_UNIX
        try:
            assert await alice.registration() == (terminals.card.registration,)
            assert await dora.registration() == (terminals.device.registration,)
            terminals.device.device.register(terminals.device.registration, now)
            for service in (A, B):
                assert (await first(dora, service, "drm")).end > now
            answers = [terminals.card.card.ltkm(data, now) for data in await alice.ltkms()]
            proofs = [answer for answer in answers if answer is not None]
            await alice.verify(proofs[-1])
            for service in (A, B):
                found = await first(alice, service, "smartcard")
                opened = terminals.card.card.stkm(found.data)
                assert opened.counter == found.start % (1 << 32)
            for data in await dora.ltkms():
                terminals.device.device.ltkm(data)
        finally:
            await alice.close()
            await dora.close()

    run(work())


def test_r35_the_next_stkm_comes_within_its_lead(terminals: Terminals) -> None:
    async def work() -> None:
        alice, dora = terminals.alice(), terminals.dora()
        try:
            for client, profile in ((alice, "smartcard"), (dora, "drm")):
                last = await first(client, A, profile)
                for _ in range(2):
                    found = await client.stkm(A, 1, profile, after=last.start, wait=10)
                    now = time.time() + NTP_UNIX
                    assert found is not None and found.start == last.end
                    assert found.start - 1.0 <= now < found.end, "half of a period of 2 s before it, not sooner"
                    last = found
        finally:
            await alice.close()
            await dora.close()

    run(work())
    figures = terminals.system.running["bsm"].metrics()
    assert figures['pybcast_interaction_requests_total{path="stkm",status="200"}'] > 0


def test_r2_counters_of_fetched_ltkms_are_stored_before_they_are_used(terminals: Terminals) -> None:
    used: set[int] = set()

    async def fetch() -> None:
        alice = terminals.alice()
        try:
            for data in await alice.ltkms():
                letter = codec.decode(data, "smartcard-ltkm")
                assert isinstance(letter, SmartcardLtkm) and letter.counter not in used
                used.add(letter.counter)
        finally:
            await alice.close()

    for _ in range(2):
        run(fetch())
        terminals.system.kill("bsm")
        terminals.system.start("bsm")
    run(fetch())


def test_who_is_refused(terminals: Terminals) -> None:
    async def work() -> None:
        alice, wrong = terminals.alice(), terminals.alice(SRK(bytes(32)))
        try:
            await first(alice, B, "smartcard")
            with pytest.raises(Unauthorised):
                await wrong.registration()
            assert terminals.system.command("bsm", "subscriber", "withdraw", "bsm.toml", "alice", B)[0] == 0
            with pytest.raises(Forbidden):
                await alice.stkm(B, 1, "smartcard")
            assert await alice.stkm(A, 1, "smartcard") is not None
        finally:
            await alice.close()
            await wrong.close()

    run(work())


@pytest.mark.requires_tool("curl", package="curl")
def test_curl_proves_itself_by_digest(terminals: Terminals) -> None:
    password = Digest.of("", terminals.srk).password.reveal().decode()
    words = [
        "curl",
        "--silent",
        "--show-error",
        "--fail-with-body",
        "--max-time",
        "20",
        "--cacert",
        str(terminals.folder / "ca.pem"),
    ]
    user = ["--digest", "--user", f"{terminals.card.subscriber.idr}:{password}"]
    target = f"{terminals.url}/bcast/stkm/urn%3Aexample%3Aservice%3AA/1?profile=smartcard"
    done = subprocess.run([*words, *user, target], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert codec.decode(done.stdout, "smartcard-stkm").kind == "smartcard-stkm"
    done = subprocess.run([*words, *user[:-1], "nobody:x", target], capture_output=True, check=False)
    assert done.returncode != 0 and b"urn:x-bcast:problem:unauthorised" in done.stdout
    own = terminals.folder / "terminals"
    device = ["--cert", str(own / "dora.pem"), "--key", str(own / "dora-key.pem")]
    done = subprocess.run([*words, *device, target.replace("smartcard", "drm")], capture_output=True, check=False)
    assert done.returncode == 0 and codec.decode(done.stdout, "drm-stkm").kind == "drm-stkm"


def test_a_reload_and_what_needs_a_restart(terminals: Terminals) -> None:
    bsm, path = terminals.system.running["bsm"], terminals.folder / "bsm.toml"
    good = path.read_text()
    for wrong, why in (
        (good.replace(TABLE, ""), "interaction: needs a restart"),
        (good.replace('"127.0.0.1:0"\ncert', '"127.0.0.1:1"\ncert'), "interaction.listen: needs a restart"),
        (good.replace("rate = 50.0", 'rate = 50.0\nrealm = "other"'), "interaction.realm: needs a restart"),
        (good.replace('authority = "terminals/ca.pem"', 'authority = "nothing.pem"'), "nothing.pem"),
    ):
        path.write_text(wrong)
        bsm.process.send_signal(signal.SIGHUP)
        bsm.wait(lambda seen, why=why: any(e.get("event") == "not-reloaded" and why in e["why"] for e in seen), why)  # type: ignore[misc]
    path.write_text(good.replace("rate = 50.0", "rate = 0.01\nburst = 1"))
    bsm.process.send_signal(signal.SIGHUP)
    bsm.wait(lambda seen: any(e.get("event") == "reloaded" for e in seen), "reload")

    async def work() -> None:
        dora = terminals.dora()
        try:
            assert await dora.registration()
            with pytest.raises(Exception, match="HTTP 429: limited"):
                await dora.registration()
        finally:
            await dora.close()

    run(work())


def test_no_key_is_said_and_all_ends_in_order(terminals: Terminals) -> None:
    system = terminals.system
    secrets = system.secrets() | {terminals.srk.reveal()}
    assert system.stop() == {"bsm": 0, "bsda": 0}
    password = Digest.of("", terminals.srk).password.reveal()
    for process in system.past:
        faults = [e for e in process.events if e.get("level") in ("error", "critical") and e["event"] != "not-reloaded"]
        assert not faults and not any(b"Traceback" in line for line in process.raw), faults
        text = b"".join(process.raw)
        for secret in secrets:
            assert secret.hex().encode() not in text and secret not in text
        assert password not in text
    for file in terminals.folder.glob("bsm.db*"):
        assert terminals.srk.reveal() not in file.read_bytes()
    assert any(getattr(row, "srk", None) == terminals.srk for row in system.rows("bsm")["subscriber"].values())


def test_a_certificate_of_a_terminal(tmp_path: Path) -> None:
    from pybcast.cli import main

    folder = tmp_path / "terminals"
    for words in (["x/y", "--udn", "0" * 20], ["ca", "--udn", "0" * 20], ["set", "--udn", "0" * 19], ["set", "--udn", "x" * 20]):
        assert main(["pki", "terminal", str(folder), *words]) == 2
    assert main(["pki", "terminal", str(folder), "set", "--udn", "1" * 20]) == 0
    assert main(["pki", "terminal", str(folder), "set2", "--udn", "2" * 20]) == 0
    assert sorted(path.name for path in folder.iterdir()) == [
        "ca-key.pem",
        "ca.pem",
        "set-key.pem",
        "set.pem",
        "set2-key.pem",
        "set2.pem",
    ]
    assert pki.files_of(folder, "set").certificate.stat().st_mode & 0o777 == 0o600
