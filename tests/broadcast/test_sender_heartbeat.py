# SPDX-License-Identifier: Apache-2.0
"""Two senders that hear each other: who sends, when another takes over, and who cannot silence anyone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybcast.broadcast.heartbeat import LARGEST, SILENCE, Election, Heartbeat, decode, encode
from pybcast.errors import BcastError, Integrity

WALL = 4_000_000_000.0
DETECTION = 0.5
MARK = b"m" * 32
BEATS = st.builds(
    Heartbeat, st.text(max_size=200).filter(lambda text: len(text.encode()) <= 900),
    st.binary(min_size=8, max_size=8), st.booleans(), st.integers(0, 2**32 - 1), st.integers(0, 255), st.integers(0, 2**64 - 1),
)  # fmt: skip


def beat(name: str = "b", *, able: bool = True, missing: int = 0, priority: int = 0, at: float = 0.0) -> Heartbeat:
    return Heartbeat(name, name.encode() * 8, able, missing, priority, int((WALL + at) * 1000))


class Pair:
    """One election, and what it hears."""

    def __init__(self, priority: int = 5) -> None:
        self.election = Election("c", b"c" * 8, priority, DETECTION)

    def hears(self, at: float, **changes: object) -> None:
        self.election.heard(beat(at=at, **changes), at, WALL + at)  # type: ignore[arg-type]

    def sends(self, at: float, able: bool = True, missing: int = 0) -> bool:
        return self.election.decide(able, missing, at)


@given(BEATS)
def test_a_heartbeat_comes_as_it_was_sent(sent: Heartbeat) -> None:
    data = encode(sent, MARK)
    assert decode(data, MARK) == sent and len(data) <= LARGEST
    with pytest.raises(Integrity):
        decode(data, b"another")


@given(st.binary(max_size=LARGEST + 10))
def test_any_bytes_are_no_heartbeat(data: bytes) -> None:
    with pytest.raises(BcastError):
        decode(data, MARK)


@given(BEATS, st.data())
def test_a_changed_heartbeat_is_refused(sent: Heartbeat, data: st.DataObject) -> None:
    whole = bytearray(encode(sent, MARK))
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BcastError):
        decode(bytes(whole), MARK)


def test_who_is_alone_sends() -> None:
    pair = Pair()
    assert pair.sends(0.0) and pair.sends(100.0, able=False, missing=10)


@pytest.mark.parametrize(
    ("other", "mine", "silent"),
    [
        ({"priority": 0}, {}, True),
        ({"priority": 9}, {}, False),
        ({"priority": 0, "able": False}, {}, False),
        ({"priority": 9}, {"able": False}, True),
        ({"priority": 0, "able": False}, {"able": False}, True),
        ({"priority": 0, "missing": 3}, {}, False),
        ({"priority": 9}, {"missing": 1}, True),
        ({"priority": 5, "name": "b"}, {}, True),
        ({"priority": 5, "name": "d"}, {}, False),
        ({"priority": 5, "name": "c"}, {}, False),  # itself
    ],
)
def test_the_better_one_sends(other: dict[str, object], mine: dict[str, object], silent: bool) -> None:
    pair = Pair()
    assert pair.sends(0.0)
    for step in range(20):
        pair.hears(at=step / 10, **other)
        sends = pair.sends(step / 10, **mine)  # type: ignore[arg-type]
        assert sends is not (silent and step >= 5), "both for the time of detection, then one"


def test_another_takes_over_in_time() -> None:
    """With a repetition of a fifth of the time of detection, nothing is missed for longer than both together."""
    pair = Pair()
    for step in range(20):
        pair.hears(at=step / 10)
        pair.sends(step / 10)
    assert not pair.sends(1.9 + SILENCE * 0.5 - 0.01)
    assert pair.sends(1.9 + SILENCE * 0.5 + 0.01), "no beat was heard"
    pair.hears(at=2.6, able=False)
    assert pair.sends(2.6)
    for step in range(27, 40):
        pair.hears(at=step / 10)
        pair.sends(step / 10)
    assert not pair.sends(3.9)
    pair.hears(at=4.0, able=False)
    assert pair.sends(4.0), "at once when it says that its BSD/A is gone"


def test_who_has_another_time_or_says_it_twice_is_not_heard() -> None:
    pair = Pair()
    old = beat(at=0.0)
    for step in range(4):
        pair.election.heard(beat(at=step / 100), step / 10, WALL + step / 10)
        assert pair.sends(step / 10)
    for step in range(8, 28):
        pair.election.heard(old, step / 10, WALL + step / 10)  # recorded and sent again
        pair.election.heard(beat("e", at=step / 10 + 2 * DETECTION), step / 10, WALL + step / 10)
        pair.election.heard(beat("f", at=step / 10 - 2 * DETECTION), step / 10, WALL + step / 10)
        assert pair.sends(step / 10)
    assert pair.election.strange >= 50


@pytest.mark.parametrize("off", [0.9 * DETECTION, -0.9 * DETECTION])
def test_a_heartbeat_within_the_time_of_detection_is_heard(off: float) -> None:
    """A network that delays and clocks that differ a little are no attack."""
    pair = Pair()
    for step in range(20):
        pair.election.heard(beat(at=step / 10 + off), step / 10, WALL + step / 10)
        pair.sends(step / 10)
    assert not pair.sends(2.0) and pair.election.strange == 0


def test_heartbeats_that_were_held_back_silence_nobody() -> None:
    """The better sender dies at 2 s.  Its heartbeats from 1 s on were held back, and come one by one, each 1 s late, in order."""
    pair = Pair()
    for step in range(10):
        pair.hears(at=step / 10)
        pair.sends(step / 10)
    assert not pair.sends(1.0), "the other one sends"
    for step in range(20, 30):
        pair.election.heard(beat(at=step / 10 - 1.0), step / 10, WALL + step / 10)
        assert pair.sends(step / 10), "none of them counts"
    assert pair.election.strange == 10
    for step in range(30, 50):  # the other one comes back: its own heartbeats are heard at once
        pair.hears(at=step / 10)
        pair.sends(step / 10)
    assert not pair.sends(5.0)


@given(st.floats(0.05, 60.0), st.floats(-1.0, 1.0), st.floats(0.0, 10.0))
def test_what_was_heard_is_not_heard_again(detection: float, off: float, later: float) -> None:
    election = Election("c", b"c" * 8, 5, detection)
    said = beat(at=off * detection)
    election.heard(said, 0.0, WALL)
    strange = election.strange
    election.peers(later * detection)
    election.heard(said, later * detection, WALL + later * detection)
    assert election.strange == strange + 1


def test_peers_are_bounded() -> None:
    pair = Pair()
    for number in range(1000):
        pair.election.heard(Heartbeat("x", number.to_bytes(8, "big"), True, 0, 9, int(WALL * 1000)), number / 1e6, WALL)
    assert len(pair.election.peers(0.001)) == 16
