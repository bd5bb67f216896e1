# SPDX-License-Identifier: Apache-2.0
"""SRTP under broadcast traffic keys: AES-128-CM, HMAC-SHA1-80, the MKI before the tag (signalling 5.2, RFC 3711).

The packet transform is libsrtp's, through pylibsrtp (extra ``media``), which knows neither MKI nor rollover counter (ROC).
Both are added here:

* MKI.  It is outside the authenticated portion (RFC 3711, 3.1 and 4.2), so it is put before the tag and taken out again.
* ROC.  It belongs to the stream, not to the key (rules R39), but a new libsrtp session starts at 0.  A session that must start
  later is led there first by packets made here, without payload and never sent: about two for each 65,536 of the stream,
  some 1.5 microseconds each.  Their indices lie behind those of real packets, so no key stream is used twice.

Sessions of libsrtp keep their own copy of a key until they are freed; ``wipe`` and removal drop them.  Not for several threads
at once.  RTCP is not handled: the layout notes define traffic keys for media packets only.
"""

from __future__ import annotations

import contextlib
import itertools
import struct
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NoReturn

from pybcast.errors import (
    BadLength,
    BadValue,
    ConfigError,
    CryptoError,
    Integrity,
    KeyUnavailable,
    LocalFlowError,
    Replay,
    Truncated,
)
from pybcast.secret import Secret

if TYPE_CHECKING:
    from pylibsrtp import Session

TEK_SIZE: Final = 16
SALT_SIZE: Final = 14
TAG_SIZE: Final = 10  # HMAC-SHA1-80 unless the SDP says otherwise (signalling 5.2; confidence: likely)
MKI_SIZES: Final = range(1, 17)  # master_key_index (R17); 6 bytes on Smartcard and two-profile streams (R38; confidence: own)
MAX_RTP_SIZE: Final = 1356  # bytes: pylibsrtp's buffer of 1,500 less the room it keeps for a trailer (144)
MAX_SRTP_SIZE: Final = 1500
MAX_KEYS: Final = 16  # a terminal holds the current TEK, the next, and those in their lifetime: 4 to 8 periods (rules R42)
MAX_STREAMS: Final = 64  # SSRCs: a stream has one, plus one for each restart of its encoder
MAX_RETIRED: Final = 1024  # MKIs remembered so that none comes back: more than an hour of 4 s periods
ROC_TRIES: Final = 64  # rules R39 (confidence: own)
MAX_ROC: Final = 4095  # leading a session there takes some 12 ms, less than a frame; six days at 500 packets/s
MAX_PAUSE: Final = 64  # packets: forged packets must not buy a full search each

_HEADER: Final = struct.Struct(">BBHII")
_HALF: Final = 0x8000
_STEP: Final = 0x7FFF  # the largest advance that libsrtp's index estimate (RFC 3711, 3.3.1) takes for one
_BEHIND: Final = 0x4000  # how far behind a real packet the last made one stays: beyond any reordering, within one step


class RolloverUnknown(Integrity):
    """A packet of a stream not yet heard under this key fits none of the 64 ROC values tried (rules R39).

    Either the stream is past them - it must restart with a new SSRC before new listeners can join - or the packet is forged.
    """

    code = "rollover_unknown"

    def __str__(self) -> str:
        return f"integrity check failed under each of {ROC_TRIES} rollover counters"


@dataclass(slots=True)
class _Link:
    """One libsrtp session under one key for one SSRC, and the highest packet index (ROC x 65,536 + seq) it has passed."""

    session: Session
    index: int


@dataclass(slots=True)
class _Key:
    mki: bytes
    tek: Secret = field(repr=False)
    salt: bytes = field(repr=False)
    links: OrderedDict[int, _Link] = field(default_factory=OrderedDict)

    def same(self, tek: Secret, salt: bytes) -> bool:
        return self.tek == tek and self.salt == salt

    def session(self, *, inbound: bool) -> Session:
        from pylibsrtp import Policy, Session

        kind = Policy.SSRC_ANY_INBOUND if inbound else Policy.SSRC_ANY_OUTBOUND
        return Session(Policy(key=self.tek.reveal() + self.salt, ssrc_type=kind))

    def wipe(self) -> None:
        self.tek.wipe()
        self.links.clear()


@dataclass(frozen=True, slots=True)
class _Stream:
    """An outgoing SSRC: its highest packet index, and the MKI of its last packet."""

    index: int
    mki: bytes


class SrtpProtector:
    """Protects one outgoing media stream: clear RTP in, SRTP with MKI out, the key changed whenever told.

    The sequence of packets and the ROC go on over key changes.  ``ConfigError`` when pylibsrtp is missing.
    Source: signalling 5.2 (likely), smartcard-profile 6, rules R38, R39, RFC 3711.
    """

    def __init__(self) -> None:
        _require_pylibsrtp()
        self._key: _Key | None = None
        self._mki_size: int | None = None
        self._retired: deque[bytes] = deque(maxlen=MAX_RETIRED)
        self._streams: OrderedDict[int, _Stream] = OrderedDict()  # by SSRC, longest idle first

    def __repr__(self) -> str:
        return f"<SrtpProtector mki={self._key.mki.hex() if self._key else None} roc={self.roc}>"

    @property
    def mki(self) -> bytes | None:
        """The MKI of the key in use; None before the first."""
        return self._key.mki if self._key else None

    @property
    def roc(self) -> int:
        """The highest ROC of any stream.  From ``ROC_TRIES`` on, terminals that tune in no longer find it: alarm then."""
        return max((stream.index >> 16 for stream in self._streams.values()), default=0)

    @property
    def streams(self) -> dict[int, int]:
        """SSRC -> its highest packet index (ROC x 65,536 + sequence number), for ``resume``."""
        return {ssrc: stream.index for ssrc, stream in self._streams.items()}

    def resume(self, ssrc: int, index: int) -> None:
        """Go on with a stream that another process protected up to ``index``, as near as known: within 32,767 packets.

        ``LocalFlowError`` for a stream that is known, or an index out of bounds.
        """
        if ssrc in self._streams or not 0 <= ssrc < 1 << 32 or not 0 <= index < (MAX_ROC + 1) << 16:
            raise LocalFlowError(f"stream {ssrc:08x} cannot be resumed at packet {index}")
        if len(self._streams) < MAX_STREAMS:
            self._streams[ssrc] = _Stream(index, b"")

    def set_key(self, mki: bytes, tek: Secret, salt: bytes) -> None:
        """Protect from the next packet on under ``tek`` (16 bytes) and ``salt`` (14 bytes), named by ``mki``.

        The key in use, given again, changes nothing.  Raises ``BadLength``, or ``LocalFlowError`` for an MKI that has named
        another key or is older than the one in use: going back could use a key stream twice.
        """
        _check_key(mki, tek, salt, self._mki_size)
        if self._key is not None and self._key.mki == mki and self._key.same(tek, salt):
            return
        if mki == self.mki or mki in self._retired:
            raise LocalFlowError(f"MKI {mki.hex()} has been used on this stream before")
        self.wipe()
        self._mki_size = len(mki)
        self._key = _Key(bytes(mki), Secret(tek), bytes(salt))

    def protect(self, rtp: bytes) -> bytes:
        """One RTP packet (up to 1,356 bytes) as SRTP || MKI || tag (10 bytes).

        Raises ``WireError`` for what is not RTP, ``KeyUnavailable`` before the first key, ``Replay`` for a packet sent before
        or too old, ``LocalFlowError`` when the stream has wrapped too often (``MAX_ROC``) or there are too many of them: the
        encoder must then restart with a new SSRC.
        """
        if len(rtp) > MAX_RTP_SIZE:
            raise BadLength(None, "rtp", f"at most {MAX_RTP_SIZE} bytes", f"{len(rtp)} bytes")
        seq, ssrc = _parse(rtp)
        key = self._key
        if key is None:
            raise KeyUnavailable("no traffic key has been set")
        stream = self._streams.get(ssrc)
        index = seq if stream is None else _estimate(stream.index, seq)
        if index >> 16 > MAX_ROC:
            raise LocalFlowError(f"stream {ssrc:08x} has wrapped {MAX_ROC} times: it must restart with a new SSRC")
        if stream is None:
            self._make_room(key.mki)
        link = key.links.get(ssrc)
        if link is None:
            link = _Link(key.session(inbound=False), index)
            _lead(link.session, None, ssrc, None, index)
            key.links[ssrc] = link
        srtp = _run(link.session.protect, rtp)
        self._streams[ssrc] = _Stream(max(index, stream.index) if stream else index, key.mki)
        self._streams.move_to_end(ssrc)
        return srtp[:-TAG_SIZE] + key.mki + srtp[-TAG_SIZE:]

    def wipe(self) -> None:
        """Forget the key (``KeyUnavailable`` until the next one); streams and their ROC are kept."""
        if self._key is not None:
            self._retired.append(self._key.mki)
            self._key.wipe()
            self._key = None

    def _make_room(self, mki: bytes) -> None:
        """A stream idle for a whole key may be forgotten: its indices cannot come again under that key."""
        if len(self._streams) < MAX_STREAMS:
            return
        ssrc, idle = next(iter(self._streams.items()))
        if idle.mki == mki:
            raise LocalFlowError(f"more than {MAX_STREAMS} SSRCs under one key")
        del self._streams[ssrc]


class SrtpUnprotector:
    """Opens one incoming media stream with whichever of its keys a packet's MKI names.

    Holds up to 16 keys; a further one replaces the oldest.  A stream heard for the first time may be past its first wrap: up
    to 64 ROC values are then tried (rules R39).  ``ConfigError`` when pylibsrtp is missing.
    Source: signalling 5.2 (likely), smartcard-profile 6, rules R38, R39, R42, RFC 3711.
    """

    def __init__(self) -> None:
        _require_pylibsrtp()
        self._keys: OrderedDict[bytes, _Key] = OrderedDict()
        self._mki_size: int | None = None
        self._streams: OrderedDict[int, int] = OrderedDict()  # SSRC -> highest authenticated index, over all keys
        self._pause = 0
        self._failures = 0

    def __repr__(self) -> str:
        return f"<SrtpUnprotector mkis={[mki.hex() for mki in self._keys]}>"

    @property
    def mkis(self) -> tuple[bytes, ...]:
        """The MKIs of the keys held, oldest first."""
        return tuple(self._keys)

    def add_key(self, mki: bytes, tek: Secret, salt: bytes) -> None:
        """Hold ``tek`` (16 bytes) and ``salt`` (14 bytes) under the name ``mki``.  A key held already changes nothing.

        Raises ``BadLength``; also for an MKI of another length than the first one's, since a packet does not tell it (R38).
        ``LocalFlowError`` when the MKI names another key.
        """
        _check_key(mki, tek, salt, self._mki_size)
        held = self._keys.get(mki)
        if held is not None:
            if held.same(tek, salt):
                return
            raise LocalFlowError(f"MKI {mki.hex()} names another key already")
        if len(self._keys) == MAX_KEYS:
            self.remove_key(next(iter(self._keys)))
        self._mki_size = len(mki)
        self._keys[bytes(mki)] = _Key(bytes(mki), Secret(tek), bytes(salt))

    def remove_key(self, mki: bytes) -> None:
        """Wipe the key that ``mki`` names; nothing when there is none (it may have been replaced)."""
        key = self._keys.pop(mki, None)
        if key is not None:
            key.wipe()

    def wipe(self) -> None:
        """Forget every key; streams and their ROC are kept."""
        for mki in self.mkis:
            self.remove_key(mki)

    def unprotect(self, packet: bytes) -> bytes:
        """The RTP packet inside SRTP || MKI || tag.

        Raises ``KeyUnavailable`` (with the MKI) when that key is not held, ``Integrity`` when the tag is wrong
        (``RolloverUnknown`` when that may be for the ROC), ``Replay``, and ``WireError`` for what is not such a packet.
        """
        if self._mki_size is None:
            raise KeyUnavailable("no traffic key has been added")
        smallest = _HEADER.size + self._mki_size + TAG_SIZE
        if len(packet) < smallest:
            raise Truncated(0, "srtp", f"at least {smallest} bytes", f"{len(packet)} bytes")
        if len(packet) > MAX_SRTP_SIZE:
            raise BadLength(0, "srtp", f"at most {MAX_SRTP_SIZE} bytes", f"{len(packet)} bytes")
        body, mki, tag = packet[: -TAG_SIZE - self._mki_size], packet[-TAG_SIZE - self._mki_size : -TAG_SIZE], packet[-TAG_SIZE:]
        seq, ssrc = _parse(body)
        key = self._keys.get(mki)
        if key is None:
            raise KeyUnavailable(mki.hex())
        link = key.links.get(ssrc)
        if link is None:
            rtp, link = self._first(key, ssrc, seq, body + tag)
            if len(key.links) == MAX_STREAMS:
                key.links.popitem(last=False)
            key.links[ssrc] = link
        else:
            index = _estimate(link.index, seq)
            rtp = _run(link.session.unprotect, body + tag)
            link.index = max(index, link.index)
        self._streams[ssrc] = max(link.index, self._streams.get(ssrc, 0))
        self._streams.move_to_end(ssrc)
        if len(self._streams) > MAX_STREAMS:
            self._streams.popitem(last=False)
        return rtp

    def _first(self, key: _Key, ssrc: int, seq: int, srtp: bytes) -> tuple[bytes, _Link]:
        """Open the first packet of a stream under a key, whose ROC is expected (stream known) or has to be found."""
        known = self._streams.get(ssrc)
        wraps = range(0, ROC_TRIES << 16, 1 << 16)
        indices: Iterable[int] = (seq + wrap for wrap in wraps)
        if known is not None:
            # First on from where the stream was - it may have wrapped unheard -, then as a stream that began again.
            half = wraps[: ROC_TRIES // 2]
            with contextlib.suppress(Replay):  # not to be expected at all: it began again
                expected = _estimate(known, seq)
                indices = itertools.chain((expected + wrap for wrap in half), (seq + wrap for wrap in half))
        if self._pause:
            # A search has just failed: only the expected index is tried until the pause is over.
            indices = itertools.islice(indices, 1)
        make, link, at = key.session(inbound=False), _Link(key.session(inbound=True), 0), None
        for index in indices:
            if at is not None and index < at:
                make, link, at = key.session(inbound=False), _Link(key.session(inbound=True), 0), None
            at = _lead(make, link.session, ssrc, at, index)
            try:
                rtp = _run(link.session.unprotect, srtp)
            except Integrity:
                continue
            link.index = index
            self._pause = self._failures = 0
            return rtp, link
        if self._pause:
            self._pause -= 1
            raise Integrity
        self._pause = min(1 << self._failures, MAX_PAUSE)
        self._failures += 1
        raise RolloverUnknown


def _require_pylibsrtp() -> None:
    try:
        import pylibsrtp  # noqa: F401
    except ImportError:
        raise ConfigError("SRTP needs pylibsrtp: pip install 'pybcast[media]'") from None


def _check_key(mki: bytes, tek: Secret, salt: bytes, mki_size: int | None) -> None:
    if len(mki) not in MKI_SIZES:
        raise BadLength(None, "mki", "1 to 16 bytes", f"{len(mki)} bytes")
    if mki_size is not None and len(mki) != mki_size:
        raise BadLength(None, "mki", f"{mki_size} bytes, as this stream's others (rules R38)", f"{len(mki)} bytes")
    if len(tek) != TEK_SIZE:
        raise BadLength(None, "tek", f"{TEK_SIZE} bytes", f"{len(tek)} bytes")
    if len(salt) != SALT_SIZE:
        raise BadLength(None, "salt", f"{SALT_SIZE} bytes", f"{len(salt)} bytes")


def _parse(rtp: bytes) -> tuple[int, int]:
    """Sequence number and SSRC, once the header is known to fit (RFC 3550, 5.1 and 5.3.1)."""
    end = _HEADER.size
    if len(rtp) < end:
        raise Truncated(0, "rtp", f"at least {end} bytes", f"{len(rtp)} bytes")
    first, _, seq, _, ssrc = _HEADER.unpack_from(rtp)
    if first >> 6 != 2:
        raise BadValue(0, "rtp.version", "2", str(first >> 6))
    start, end = end, end + 4 * (first & 0x0F)
    if len(rtp) < end:
        raise Truncated(start, "rtp.csrc", f"{end - start} bytes", f"{len(rtp) - start} bytes")
    if first & 0x10:
        start, end = end, end + 4
        if len(rtp) >= end:
            end += 4 * int.from_bytes(rtp[start + 2 : end])
        if len(rtp) < end:
            raise Truncated(start, "rtp.extension", f"{end - start} bytes", f"{len(rtp) - start} bytes")
    return seq, ssrc


def _estimate(last: int, seq: int) -> int:
    """The packet index of ``seq`` nearest to ``last`` (RFC 3711, 3.3.1); ``Replay`` for one that libsrtp would misjudge."""
    step = ((seq - last + _HALF) & 0xFFFF) - _HALF
    if step == -_HALF or last + step < 0:
        # 32,768 away (either way), or before the stream began: libsrtp would count it forward, and the ROC with it.
        raise Replay(f"RTP sequence number {seq} is out of reach of {last & 0xFFFF}")
    return last + step


def _path(at: int | None, index: int) -> Iterator[int]:
    """The indices that lead a session from ``at`` (None: new, which takes any index below 65,536) to just behind ``index``."""
    goal = index - _BEHIND
    if at is None:
        if index <= 0xFFFF:
            return
        at = goal % _STEP - _STEP
    while at < goal:
        at = min(at + _STEP, goal)
        yield at


def _lead(sender: Session, receiver: Session | None, ssrc: int, at: int | None, index: int) -> int | None:
    """Bring a session (or a pair: the receiver only counts what authenticates) to where ``index`` is the next to come."""
    for step in _path(at, index):
        made = sender.protect(_HEADER.pack(0x80, 0, step & 0xFFFF, 0, ssrc))
        if receiver is not None:
            receiver.unprotect(made)
        at = step
    return at


def _run(transform: Callable[[bytes], bytes], packet: bytes) -> bytes:
    from pylibsrtp import Error

    try:
        return transform(packet)
    except Error as error:
        _refuse(str(error))


def _refuse(reason: str) -> NoReturn:
    if reason == "authentication failure":
        raise Integrity
    if reason.startswith("replay"):
        raise Replay(reason)
    raise CryptoError(f"libsrtp: {reason}")
