# SPDX-License-Identifier: Apache-2.0
"""SRTP under broadcast traffic keys: AES-128-CM, HMAC-SHA1-80, the MKI before the tag (signalling 5.2, RFC 3711).

The packet transform is libsrtp's (``pybcast.outlets.libsrtp``), with one session for each key and SSRC.  What is decided here is
which key a packet gets, and which rollover counter (ROC) a session starts with, because the ROC belongs to the stream and not to
the key (rules R39).  A receiver that cannot know the ROC finds it: the tag of a packet fits under the right one only.

Sessions of libsrtp keep their own copy of a key until they are closed; ``wipe`` and removal close them.  Not for several threads
at once.  RTCP is not handled: the layout notes define traffic keys for media packets only.
"""

from __future__ import annotations

import contextlib
import hmac
import itertools
import struct
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from pybcast.errors import BadLength, BadValue, Integrity, KeyUnavailable, LocalFlowError, Replay, Truncated
from pybcast.keys import TEK, srtp_session_keys
from pybcast.outlets import libsrtp
from pybcast.outlets.libsrtp import MAX_PACKET
from pybcast.secret import Secret

TEK_SIZE: Final = 16
SALT_SIZE: Final = 14
TAG_SIZE: Final = 10  # HMAC-SHA1-80 unless the SDP says otherwise (signalling 5.2; confidence: likely)
MKI_SIZES: Final = range(1, 17)  # master_key_index (R17); 6 bytes on Smartcard and two-profile streams (R38; confidence: own)
MAX_KEYS: Final = 16  # a terminal holds the current TEK, the next, and those in their lifetime: 4 to 8 periods (rules R42)
MAX_STREAMS: Final = 64  # SSRCs: a stream has one, plus one for each restart of its encoder
MAX_RETIRED: Final = 1024  # MKIs remembered so that none comes back: more than an hour of 4 s periods
ROC_TRIES: Final = 64  # rules R39 (confidence: own)
MAX_PAUSE: Final = 64  # packets: forged packets must not buy a full search each
LOST: Final = 16  # packets of a stream refused in a row before its ROC is looked for again: more than a burst of repeated ones
JUMPED: Final = 256  # packets refused in a row before an encoder is taken to have begun again: more than a network repeats

_HEADER: Final = struct.Struct(">BBHII")
_HALF: Final = 0x8000
_REACH: Final = 0x7FFF  # the largest advance that an estimate of the packet index takes for one (RFC 3711, 3.3.1)
_WRAP: Final = 1 << 16
_INDICES: Final = 1 << 48  # of packets under one key (RFC 3711, 9.2)


class RolloverUnknown(Integrity):
    """A packet of a stream not yet heard under this key, or lost, fits none of the 64 ROC values tried (rules R39).

    Either the stream is past them - it must restart with a new SSRC before new listeners can join - or the packet is forged.
    """

    code = "rollover_unknown"

    def __str__(self) -> str:
        return f"integrity check failed under each of {ROC_TRIES} rollover counters"


@dataclass(slots=True)
class _Link:
    """The session of one key for one SSRC.  ``index``: the highest that it has passed (ROC x 65,536 + sequence number)."""

    session: libsrtp.Session
    index: int
    failures: int = 0  # in a row


@dataclass(slots=True)
class _Key:
    mki: bytes
    tek: Secret = field(repr=False)
    salt: bytes = field(repr=False)
    links: OrderedDict[int, _Link] = field(default_factory=OrderedDict)
    auth: Secret | None = field(default=None, repr=False)  # for searches only

    def same(self, tek: Secret, salt: bytes) -> bool:
        return self.tek == tek and self.salt == salt

    def session(self, buffer: libsrtp.Buffer, ssrc: int, index: int) -> libsrtp.Session:
        return libsrtp.Session(libsrtp.load(), buffer, ssrc, self.mki, self.tek, self.salt, index >> 16)

    def replace(self, ssrc: int, link: _Link) -> None:
        if old := self.links.pop(ssrc, None):
            old.session.close()
        self.links[ssrc] = link

    def index_of(self, packet: bytes, indices: Iterable[int]) -> int | None:
        """Under which of ``indices`` does the packet's tag fit (RFC 3711, 4.2)?  The packet itself is hashed once."""
        if self.auth is None:
            tek = TEK(self.tek)
            keys = srtp_session_keys(tek, self.salt)
            self.auth = keys.auth
            for other in (tek, keys.encr, keys.salt):
                other.wipe()
        start = hmac.new(self.auth._buffer, packet[: -TAG_SIZE - len(self.mki)], "sha1")
        for index in indices:
            tried = start.copy()
            tried.update((index >> 16).to_bytes(4))
            if hmac.compare_digest(tried.digest()[:TAG_SIZE], packet[-TAG_SIZE:]):
                return index
        return None

    def wipe(self) -> None:
        self.tek.wipe()
        if self.auth is not None:
            self.auth.wipe()
        for link in self.links.values():
            link.session.close()
        self.links.clear()


@dataclass(slots=True)
class _Stream:
    """An outgoing SSRC: its highest packet index, the MKI of its last packet, and how many packets were refused in a row."""

    index: int
    mki: bytes
    refused: int = 0


class SrtpProtector:
    """Protects one outgoing media stream: clear RTP in, SRTP with MKI out, the key changed whenever told.

    The sequence of packets and the ROC go on over key changes.  ``ConfigError`` when libsrtp is missing.
    Source: signalling 5.2 (likely), smartcard-profile 6, rules R38, R39, RFC 3711.
    """

    def __init__(self) -> None:
        libsrtp.load()
        self._buffer = libsrtp.Buffer()
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
        if ssrc in self._streams or not 0 <= ssrc < 1 << 32 or not 0 <= index < _INDICES:
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
        """One RTP packet as SRTP || MKI || tag (10 bytes).

        Raises ``WireError`` for what is not RTP or too large for a datagram, ``KeyUnavailable`` before the first key, ``Replay``
        for a packet sent before or too old, ``LocalFlowError`` when there are too many streams or a stream has used up its
        indices.  After 256 refusals in a row the encoder is taken to have begun again: the stream goes on under the next ROC, so
        that no index is used twice.
        """
        key = self._key
        if key is None:
            _parse(rtp)
            raise KeyUnavailable("no traffic key has been set")
        if len(rtp) > MAX_PACKET - TAG_SIZE - len(key.mki):
            raise BadLength(None, "rtp", f"at most {MAX_PACKET - TAG_SIZE - len(key.mki)} bytes", f"{len(rtp)} bytes")
        seq, ssrc = _parse(rtp)
        stream = self._streams.get(ssrc)
        if stream is None:
            self._make_room(key.mki)
            stream = _Stream(seq, key.mki)
            srtp = self._protect(key, stream, ssrc, seq, rtp)
            self._streams[ssrc] = stream
            return srtp
        try:
            srtp = self._protect(key, stream, ssrc, _estimate(stream.index, seq), rtp)
        except Replay:
            stream.refused += 1
            if stream.refused < JUMPED:
                raise
            srtp = self._protect(key, stream, ssrc, _ahead(stream.index, seq), rtp)
        self._streams.move_to_end(ssrc)
        return srtp

    def _protect(self, key: _Key, stream: _Stream, ssrc: int, index: int, rtp: bytes) -> bytes:
        if index >= _INDICES:
            raise LocalFlowError(f"stream {ssrc:08x} has used up its packet indices: it must restart with a new SSRC")
        link = key.links.get(ssrc)
        if link is None or index > link.index + _REACH:
            link = _Link(key.session(self._buffer, ssrc, index), index)
            key.replace(ssrc, link)
        srtp = link.session.protect(rtp)
        link.index = max(index, link.index)
        stream.index, stream.mki, stream.refused = max(index, stream.index), key.mki, 0
        return srtp

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

    Holds up to 16 keys; a further one replaces the oldest.  A stream heard for the first time may be past its first wrap, and so
    may one of which more than 32,767 packets were lost: up to 64 ROC values are then tried (rules R39), for a stream known under
    the key only later ones, so that no recorded packet opens again.  ``ConfigError`` when libsrtp is missing.
    Source: signalling 5.2 (likely), smartcard-profile 6, rules R38, R39, R42, RFC 3711.
    """

    def __init__(self) -> None:
        libsrtp.load()
        self._buffer = libsrtp.Buffer()
        self._keys: OrderedDict[bytes, _Key] = OrderedDict()
        self._mki_size: int | None = None
        self._streams: OrderedDict[int, int] = OrderedDict()  # SSRC -> highest authenticated index, over all keys
        self._pause = 0  # packets until the next full search
        self._next_pause = 1

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
        if len(packet) > MAX_PACKET:
            raise BadLength(0, "srtp", f"at most {MAX_PACKET} bytes", f"{len(packet)} bytes")
        end = len(packet) - TAG_SIZE - self._mki_size
        seq, ssrc = _parse(packet, end)
        mki = packet[end:-TAG_SIZE]
        key = self._keys.get(mki)
        if key is None:
            raise KeyUnavailable(mki.hex())
        link = key.links.get(ssrc)
        if link is None:
            return self._search(key, ssrc, packet, self._expected(ssrc, seq))
        try:
            index = _estimate(link.index, seq)
            rtp = link.session.unprotect(packet)
        except (Integrity, Replay):
            link.failures += 1
            if link.failures < LOST:
                raise
            ahead = _ahead(link.index, seq)
            return self._search(key, ssrc, packet, range(ahead, ahead + ROC_TRIES * _WRAP, _WRAP))
        link.index, link.failures = max(index, link.index), 0
        self._heard(ssrc, link.index)
        return rtp

    def _expected(self, ssrc: int, seq: int) -> Iterable[int]:
        """The indices that the first packet of a stream under a key may have, the most likely first."""
        known = self._streams.get(ssrc)
        if known is not None:
            # First on from where the stream was - it may have wrapped unheard -, then as a stream that began again.
            half = range(0, ROC_TRIES // 2 * _WRAP, _WRAP)
            with contextlib.suppress(Replay):  # not to be expected at all: it began again
                expected = _estimate(known, seq)
                return itertools.chain((expected + wrap for wrap in half), (seq + wrap for wrap in half))
        return range(seq, ROC_TRIES * _WRAP, _WRAP)

    def _search(self, key: _Key, ssrc: int, packet: bytes, indices: Iterable[int]) -> bytes:
        """Open a packet that may have any of these indices, and go on from it.

        ``RolloverUnknown`` when it has none of them.  For some packets after such a failure only the first index is tried:
        ``Integrity`` then.
        """
        paused = self._pause > 0
        index = key.index_of(packet, itertools.islice(indices, 1) if paused else indices)
        if index is None:
            if paused:
                self._pause -= 1
                raise Integrity
            self._pause = self._next_pause
            self._next_pause = min(2 * self._next_pause, MAX_PAUSE)
            raise RolloverUnknown
        link = _Link(key.session(self._buffer, ssrc, index), index)
        rtp = link.session.unprotect(packet)
        self._pause, self._next_pause = 0, 1
        if ssrc not in key.links and len(key.links) == MAX_STREAMS:
            key.links.popitem(last=False)[1].session.close()
        key.replace(ssrc, link)
        self._heard(ssrc, index)
        return rtp

    def _heard(self, ssrc: int, index: int) -> None:
        self._streams[ssrc] = max(index, self._streams.get(ssrc, 0))
        self._streams.move_to_end(ssrc)
        if len(self._streams) > MAX_STREAMS:
            self._streams.popitem(last=False)


def _check_key(mki: bytes, tek: Secret, salt: bytes, mki_size: int | None) -> None:
    if len(mki) not in MKI_SIZES:
        raise BadLength(None, "mki", "1 to 16 bytes", f"{len(mki)} bytes")
    if mki_size is not None and len(mki) != mki_size:
        raise BadLength(None, "mki", f"{mki_size} bytes, as this stream's others (rules R38)", f"{len(mki)} bytes")
    if len(tek) != TEK_SIZE:
        raise BadLength(None, "tek", f"{TEK_SIZE} bytes", f"{len(tek)} bytes")
    if len(salt) != SALT_SIZE:
        raise BadLength(None, "salt", f"{SALT_SIZE} bytes", f"{len(salt)} bytes")


def _parse(packet: bytes, size: int | None = None) -> tuple[int, int]:
    """Sequence number and SSRC, once the header is known to fit into the first ``size`` bytes (RFC 3550, 5.1 and 5.3.1)."""
    end = _HEADER.size
    size = len(packet) if size is None else size
    if size < end:
        raise Truncated(0, "rtp", f"at least {end} bytes", f"{size} bytes")
    first, _, seq, _, ssrc = _HEADER.unpack_from(packet)
    if first >> 6 != 2:
        raise BadValue(0, "rtp.version", "2", str(first >> 6))
    start, end = end, end + 4 * (first & 0x0F)
    if size < end:
        raise Truncated(start, "rtp.csrc", f"{end - start} bytes", f"{size - start} bytes")
    if first & 0x10:
        start, end = end, end + 4
        if size >= end:
            end += 4 * int.from_bytes(packet[start + 2 : end])
        if size < end:
            raise Truncated(start, "rtp.extension", f"{end - start} bytes", f"{size - start} bytes")
    return seq, ssrc


def _estimate(last: int, seq: int) -> int:
    """The packet index of ``seq`` nearest to ``last`` (RFC 3711, 3.3.1); ``Replay`` for one that libsrtp would misjudge."""
    step = ((seq - last + _HALF) & 0xFFFF) - _HALF
    if step == -_HALF or last + step < 0:
        # 32,768 away (either way), or before the stream began: libsrtp would count it forward, and the ROC with it.
        raise Replay(f"RTP sequence number {seq} is out of reach of {last & 0xFFFF}")
    return last + step


def _ahead(last: int, seq: int) -> int:
    """The next index of ``seq`` that lies further from ``last`` than an estimate reaches."""
    first = last + _REACH + 1
    return first + ((seq - first) & 0xFFFF)
