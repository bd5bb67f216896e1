# SPDX-License-Identifier: Apache-2.0
"""HTTP Digest (RFC 7616), both ends."""

from __future__ import annotations

import contextlib
import hashlib
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybcast.interaction.digest import (
    MAX_HEADER,
    NONCE_LIFE,
    WINDOW,
    Authenticator,
    BadDigest,
    Credentials,
    Digest,
    Nonces,
    NotProven,
    Verifier,
    password_of,
    read_parameters,
    response,
    user_hash,
)
from pybcast.keys import SRK
from pybcast.secret import Secret

REALM, TARGET = "3GPP-bootstrapping@bsm.example.com", "/bcast/ltkm"
ALICE: Final = Digest.of("YWxpY2U=@bsf.example.com", SRK(bytes(range(32))))


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def pair(most: int = 100) -> tuple[Clock, Nonces, Verifier, Authenticator]:
    clock = Clock()
    nonces = Nonces(clock, most=most)
    verifier = Verifier(REALM, nonces)
    return clock, nonces, verifier, Authenticator(ALICE)


def shown(terminal: Authenticator, method: str = "GET", target: str = TARGET) -> str:
    proof = terminal.prove(method, target)
    assert proof is not None
    return proof.header


def accepted(
    verifier: Verifier, header: str, *, method: str = "GET", target: str = TARGET, password: Secret | None = ALICE.password
) -> str:
    return verifier.accept(verifier.read(header, target), method, password)


def not_proven(verifier: Verifier, header: str, *, method: str = "GET", target: str = TARGET) -> bool:
    """Refused; whether with another nonce it might not be."""
    with pytest.raises(NotProven) as caught:
        accepted(verifier, header, method=method, target=target)
    return caught.value.stale


def test_rfc_7616_example() -> None:
    """3.9.1, SHA-256."""
    a1 = user_hash("Mufasa", "http-auth@example.org", Secret(b"Circle of Life"))
    nonce, cnonce = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
    found = response(a1, nonce, "00000001", cnonce, "GET", "/dir/index.html")
    assert found == "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"
    header = (
        'Digest username="Mufasa", realm="http-auth@example.org", uri="/dir/index.html", algorithm=SHA-256, '
        f'nonce="{nonce}", nc=00000001, cnonce="{cnonce}", qop=auth, response="{found}", '
        'opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
    )
    said = Credentials.read(header)
    assert (said.username, said.nonce, said.cnonce, said.count, said.response) == ("Mufasa", nonce, cnonce, "00000001", found)


def test_the_password_is_base64_of_the_srk() -> None:
    assert password_of(SRK(b"\xff" * 32)).reveal() == b"/" * 42 + b"8="
    assert b"8=" not in repr(ALICE).encode()


def test_a_terminal_proves_itself_and_the_server_does() -> None:
    _, nonces, verifier, terminal = pair()
    assert terminal.prove("GET", TARGET) is None, "nothing is sent before the server has said how"
    assert terminal.challenged(verifier.challenge()) is False
    for _ in range(3):
        proof = terminal.prove("GET", TARGET)
        assert proof is not None
        info = accepted(verifier, proof.header)
        terminal.confirmed(proof, info)
        for wrong in (info.replace('rspauth="', 'rspauth="0'), info.replace(f"nc={proof.count}", "nc=00000009"), "a=b", ""):
            with pytest.raises(BadDigest):
                terminal.confirmed(proof, wrong)
    assert len(nonces) == 1, "only the nonce in use is remembered"


def test_what_is_wrong() -> None:
    _, nonces, verifier, terminal = pair()
    terminal.challenged(verifier.challenge())
    assert not_proven(verifier, shown(terminal), method="POST") is False
    assert not_proven(verifier, shown(terminal), target="/bcast/registration") is False
    header = shown(terminal)
    assert not_proven(verifier, header.replace(REALM, "other")) is False
    assert not_proven(verifier, header.replace("YWxp", "Ym9i")) is False
    with pytest.raises(NotProven) as caught:
        accepted(verifier, header, password=None)
    assert caught.value.stale is False and "password" in str(caught.value)
    assert len(nonces) == 0, "who proves nothing costs no memory"
    assert accepted(verifier, header), "and takes nothing from who does"


def test_a_request_that_was_heard_is_not_taken_again() -> None:
    _, _, verifier, terminal = pair()
    terminal.challenged(verifier.challenge())
    header = shown(terminal)
    assert accepted(verifier, header)
    assert not_proven(verifier, header) is True
    later = [shown(terminal) for _ in range(3)]
    for one in reversed(later):  # on several connections
        assert accepted(verifier, one)
    for one in later:
        assert not_proven(verifier, one) is True


def test_a_nonce_is_one_users() -> None:
    _, nonces, _, _ = pair()
    nonce = nonces.new()
    assert nonces.use(nonce, "alice", 1) and not nonces.use(nonce, "bob", 2) and nonces.use(nonce, "alice", 2)
    assert not nonces.use(nonces.new(), "alice", 0), "counts begin with 1"


def test_a_nonce_ends() -> None:
    clock, nonces, verifier, terminal = pair()
    terminal.challenged(verifier.challenge())
    assert accepted(verifier, shown(terminal))
    clock.now += NONCE_LIFE + 1
    header = shown(terminal)
    assert not_proven(verifier, header) is True
    assert terminal.challenged(verifier.challenge(stale=True)) is True
    assert accepted(verifier, shown(terminal)) and len(nonces) == 1, "the old one is forgotten"


def test_nonces_of_others() -> None:
    _, nonces, _, _ = pair()
    _, others, verifier, terminal = pair()
    assert nonces.issued(others.new()) is None
    for nonce in ("", "x" * 44, "=" * 44, "x" * 43, "x" * 4000, "é" * 44):
        assert nonces.issued(nonce) is None and not nonces.live(nonce) and not nonces.use(nonce, "alice", 1)
    terminal.challenged(verifier.challenge().replace('nonce="', 'nonce="A'))
    assert not_proven(verifier, shown(terminal)) is True, "of this server before it was started again, perhaps"


def test_memory_is_bounded_and_what_is_forgotten_is_refused() -> None:
    clock, nonces, _, _ = pair(most=10)
    early = nonces.new()
    assert nonces.use(early, "alice", 1)
    for n in range(50):
        clock.now += 1
        assert nonces.use(nonces.new(), f"user {n}", 1)
        assert len(nonces) <= 10
    assert not nonces.live(early) and not nonces.use(early, "alice", 1) and not nonces.use(early, "alice", 2)
    clock.now += NONCE_LIFE + 1
    assert nonces.use(nonces.new(), "alice", 1) and len(nonces) == 1


@given(st.lists(st.integers(1, 3 * WINDOW) | st.integers(1, 2**32 - 1), max_size=60))
def test_no_count_is_taken_twice(counts: list[int]) -> None:
    _, nonces, _, _ = pair()
    nonce, taken = nonces.new(), set[int]()
    for count in counts:
        good = nonces.use(nonce, "alice", count)
        highest = max(taken, default=0)
        assert good == (count not in taken and highest - count < WINDOW)
        if good:
            taken.add(count)


# --- header fields --------------------------------------------------------------------------------------------------------


def test_parameters() -> None:
    assert read_parameters('A=b , c = "d, \\"e\\\\" ,f=""') == {"a": "b", "c": 'd, "e\\', "f": ""}
    assert read_parameters("") == {}
    for wrong in ("a", "a=", '="b"', "a=b a=c", 'a="b', "a=b,,c=d", "a=b,A=c", "é=b", "a=" + "b" * MAX_HEADER):
        with pytest.raises(BadDigest):
            read_parameters(wrong)
    with pytest.raises(BadDigest):
        read_parameters(",".join(f"a{n}=b" for n in range(17)))


@given(st.text(max_size=200) | st.text(st.sampled_from('Digest ="\\,abcnoqp=1-'), max_size=200))
def test_anything_is_read_or_refused(text: str) -> None:
    for header in (text, f"Digest {text}"):
        with contextlib.suppress(BadDigest):
            Credentials.read(header)
        with contextlib.suppress(BadDigest):
            Authenticator(ALICE).challenged(header)


@pytest.mark.parametrize(
    "change",
    [
        ("SHA-256", "MD5"), ("algorithm=SHA-256, ", ""), ("qop=auth", "qop=auth-int"), ("nc=00000001", "nc=1"),
        ("nc=00000001", "nc=0000000g"),         ("cnonce=", "conce="), ("Digest ", "Basic "),
        ("username=", "user="), ("response=", "userhash=true, response="),
        ("YWxp", "é"), ("YWxp", "\x7f"),
    ],
)  # fmt: skip
def test_credentials_that_are_none(change: tuple[str, str]) -> None:
    _, _, verifier, terminal = pair()
    terminal.challenged(verifier.challenge())
    header = shown(terminal)
    assert change[0] in header
    with pytest.raises(BadDigest):
        verifier.read(header.replace(*change), TARGET)


@pytest.mark.parametrize(
    "challenge",
    [
        "Basic realm=x", 'Digest realm="x", qop="auth", algorithm=MD5, nonce="n"', 'Digest realm="x", qop="auth", nonce="n"',
        'Digest realm="x", algorithm=SHA-256, nonce="n"', 'Digest realm="x", qop="auth-int", algorithm=SHA-256, nonce="n"',
        'Digest qop="auth", algorithm=SHA-256, nonce="n"', 'Digest realm="x", qop="auth", algorithm=SHA-256, nonce=""', "Digest",
        'Digest realm="é", qop="auth", algorithm=SHA-256, nonce="n"',
    ],
)  # fmt: skip
def test_r11_a_terminal_takes_no_weaker_challenge(challenge: str) -> None:
    with pytest.raises(BadDigest):
        Authenticator(ALICE).challenged(challenge)


def test_a_challenge_of_another_server() -> None:
    terminal = Authenticator(ALICE)
    assert terminal.challenged('Digest realm="a\\"b", qop="auth,auth-int", algorithm=sha-256, nonce="n", opaque="o", stale=TRUE')
    said = Credentials.read(shown(terminal))
    assert (said.realm, said.nonce, said.count) == ('a"b', "n", "00000001")
    a1 = hashlib.sha256(b'%b:a"b:%b' % (ALICE.username.encode(), ALICE.password.reveal())).hexdigest()
    a2 = hashlib.sha256(f"GET:{TARGET}".encode()).hexdigest()
    assert said.response == hashlib.sha256(f"{a1}:n:00000001:{said.cnonce}:auth:{a2}".encode()).hexdigest()
