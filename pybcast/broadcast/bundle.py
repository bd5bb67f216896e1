# SPDX-License-Identifier: Apache-2.0
"""Bundles: many LTKMs and registration objects in one object of the carousel.

A file description costs more than an LTKM, so they travel together.
confidence: own - the format of a bundle: magic and version, length, number of messages, then each with its length

The octets::

    octets 0-3   magic: "BCB" and the version, 1
    octets 4-7   length of the whole bundle
    octets 8-9   number of messages, 1..4096
    octets 10-11 reserved, 0
    then each    length (4), message

All numbers are big-endian.  The order is that of the COUNTERs (R7): a bundle is filled before the next one begins.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from pybcast.errors import BadLength, BadValue, TrailingBytes, Truncated, Unsupported

MAGIC: Final = b"BCB"
VERSION: Final = 1
TARGET: Final = 32_768  # octets: some 130 LTKMs; one lost datagram of 25 is repaired, one lost description loses no more than this
MAX_MESSAGE: Final = 65_507  # octets: what a datagram of the LTKM push can hold
MAX_MESSAGES: Final = 4_096
MAX_BUNDLE: Final = TARGET + MAX_MESSAGE + 16  # what `bundles` makes: one message over the target at most
CONTENT_TYPE: Final = "application/x-bcast-bundle"

_HEAD: Final = struct.Struct(">3sBIHH")
_LENGTH: Final = struct.Struct(">I")


def encode(messages: Sequence[bytes]) -> bytes:
    """One bundle.  ``WireError`` (no offset) when there is nothing in it, or too much."""
    if not 1 <= len(messages) <= MAX_MESSAGES:
        raise BadLength(None, "count", f"1..{MAX_MESSAGES}", str(len(messages)))
    parts = [b""]
    for i, message in enumerate(messages):
        if not 1 <= len(message) <= MAX_MESSAGE:
            raise BadLength(None, f"message[{i}]", f"1..{MAX_MESSAGE} octets", str(len(message)))
        parts += _LENGTH.pack(len(message)), message
    size = _HEAD.size + sum(map(len, parts))
    if size > MAX_BUNDLE:
        raise BadLength(None, "length", f"at most {MAX_BUNDLE} octets", str(size))
    parts[0] = _HEAD.pack(MAGIC, VERSION, size, len(messages), 0)
    return b"".join(parts)


def decode(data: bytes) -> tuple[bytes, ...]:
    """The messages of a bundle in their order.  ``WireError`` with offset and field."""
    if len(data) < _HEAD.size:
        raise Truncated(0, "head", f"{_HEAD.size} octets", str(len(data)))
    magic, version, size, count, reserved = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise BadValue(0, "magic", MAGIC.hex(), magic.hex())
    if version != VERSION:
        raise Unsupported(3, "version", str(VERSION), str(version))
    if size > MAX_BUNDLE:
        raise BadLength(4, "length", f"at most {MAX_BUNDLE}", str(size))
    if size > len(data):
        raise Truncated(4, "length", f"{size} octets", str(len(data)))
    if size < len(data):
        raise TrailingBytes(size, "length", f"{size} octets", str(len(data)))
    if not 1 <= count <= MAX_MESSAGES:
        raise BadLength(8, "count", f"1..{MAX_MESSAGES}", str(count))
    if reserved:
        raise BadValue(10, "reserved", "0", str(reserved))
    found = []
    at = _HEAD.size
    for i in range(count):
        if at + _LENGTH.size > size:
            raise Truncated(at, f"message[{i}].length", "4 octets", str(size - at))
        (length,) = _LENGTH.unpack_from(data, at)
        begin = at + _LENGTH.size
        if not 1 <= length <= MAX_MESSAGE:
            raise BadLength(at, f"message[{i}].length", f"1..{MAX_MESSAGE}", str(length))
        if begin + length > size:
            raise Truncated(begin, f"message[{i}]", f"{length} octets", str(size - begin))
        at = begin + length
        found.append(bytes(data[begin:at]))
    if at != size:
        raise TrailingBytes(at, "length", f"{at} octets", str(size))
    return tuple(found)


def bundles(messages: Iterable[bytes], target: int = TARGET) -> Iterator[bytes]:
    """Messages in bundles of about ``target`` octets, in their order.  The end of one is never held back for the next."""
    held: list[bytes] = []
    size = _HEAD.size
    for message in messages:
        if held and (size + _LENGTH.size + len(message) > target or len(held) == MAX_MESSAGES):
            yield encode(held)
            held, size = [], _HEAD.size
        held.append(message)
        size += _LENGTH.size + len(message)
    if held:
        yield encode(held)
