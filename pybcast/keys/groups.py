# SPDX-License-Identifier: Apache-2.0
"""Subscriber groups: one BCRO for any subset of 256 or 512 devices without a message to each (drm-profile 2.3).

The 1-resilient tree of Fiat and Naor.  Every position has a leaf key that all members can compute but the one at that position.
The key of a subset is the XOR of the leaf keys of the positions *outside* it, so an excluded device lacks exactly its own leaf.
Two excluded devices that put their keys together defeat it; that is the scheme's published limit, and the price of its size.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final, Literal

from pybcast.errors import BadLength, BadValue, KeyUnavailable
from pybcast.keys.cipher import aes_ecb_encrypt
from pybcast.keys.types import IEK, SGK, Key, LeafKey
from pybcast.secret import Secret

GroupSize = Literal[256, 512]

_DEPTH: Final[dict[int, int]] = {256: 8, 512: 9}
_SUBKEYS_1_3: Final = b"\x01" * 16 + b"\x03" * 16
_PADDED_0: Final = int.from_bytes(b"\x00\x80" + bytes(14), "big")
_PADDED_1: Final = int.from_bytes(b"\x01\x80" + bytes(14), "big")


class GroupRoot(Key):
    """The root key of a group's tree; it never leaves the BSM."""

    __slots__ = ()


def _children(node: bytes) -> tuple[bytes, bytes]:
    """AES-XCBC-PRF-128(node, 00) and (node, 01): both children of a node with two AES key set-ups instead of four.

    (A one-byte message is one padded block: E(K1, block XOR K3), RFC 3566.)
    """
    # confidence: own - the tree derivation is chosen here; the idea and what a member holds are published.
    subkeys = aes_ecb_encrypt(node, _SUBKEYS_1_3)
    k3 = int.from_bytes(subkeys[16:], "big")
    pair = aes_ecb_encrypt(subkeys[:16], (_PADDED_0 ^ k3).to_bytes(16, "big") + (_PADDED_1 ^ k3).to_bytes(16, "big"))
    return pair[:16], pair[16:]


def _depth(size: int) -> int:
    if size not in _DEPTH:
        raise BadValue(None, "group_size_flag", "256 or 512 positions", str(size))
    return _DEPTH[size]


def _check_position(position: int, size: int, field: str = "position_in_group") -> None:
    if not 0 <= position < size:
        raise BadValue(None, field, f"0..{size - 1}", str(position))


def excluded_positions(mask: bytes, size: int) -> list[int]:
    """The positions whose bit in ``mask`` is 0, ascending; bit 7 of the first byte is position 0.

    ``BadLength`` when the mask is not ``size`` bits; ``BadValue`` when it is full (mode 0 is for that) or empty (rules R21).
    """
    if len(mask) * 8 != size:
        raise BadLength(None, "bit_access_mask", f"{size // 8} bytes", f"{len(mask)} bytes")
    excluded = [8 * i + j for i, byte in enumerate(mask) for j in range(8) if not byte & (0x80 >> j)]
    if not excluded:
        raise BadValue(None, "bit_access_mask", "at least one position excluded (address_mode 0 reaches all)", "a full mask")
    if len(excluded) == size:
        raise BadValue(None, "bit_access_mask", "at least one position", "an empty mask")
    return excluded


def mask_of(positions: Sequence[int], size: GroupSize) -> bytes:
    """The bit_access_mask that lets ``positions`` in and nobody else."""
    bits = 0
    for position in positions:
        _check_position(position, size, "bit_access_mask")
        bits |= 1 << (size - 1 - position)
    return bits.to_bytes(size // 8, "big")


def _xor_of_leaves(node: bytes, levels: int, first: int, wanted: Sequence[int]) -> int:
    """XOR of the leaves at ``wanted`` (ascending, all below this node whose leaves start at ``first``): each node visited once."""
    if levels == 0:
        return int.from_bytes(node, "big")
    middle = first + (1 << (levels - 1))
    cut = bisect_left(wanted, middle)
    left, right = _children(node)
    out = 0
    if cut:
        out ^= _xor_of_leaves(left, levels - 1, first, wanted[:cut])
    if cut < len(wanted):
        out ^= _xor_of_leaves(right, levels - 1, middle, wanted[cut:])
    return out


class GroupTree:
    """The BSM's side of a subscriber group: all leaf keys from one root.

    ``root``: 16 bytes, random, kept only by the BSM; ``size``: 256 or 512.  Source: drm-profile 2.3.
    """

    def __init__(self, root: GroupRoot | Secret, size: GroupSize) -> None:
        self._root = GroupRoot(root)
        self.size: Final = size
        self._levels = _depth(size)

    def leaf(self, position: int) -> LeafKey:
        """The leaf key of ``position``."""
        _check_position(position, self.size)
        return LeafKey(_xor_of_leaves(self._root.reveal(), self._levels, 0, [position]).to_bytes(16, "big"))

    def sgks(self, position: int) -> tuple[SGK, ...]:
        """What the member at ``position`` is given: the sibling of each node on his path, level 1 first (8 or 9 keys)."""
        _check_position(position, self.size)
        node, out = self._root.reveal(), []
        for level in range(self._levels - 1, -1, -1):
            pair = _children(node)
            bit = position >> level & 1
            out.append(SGK(pair[1 - bit]))
            node = pair[bit]
        return tuple(out)

    def iek(self, mask: bytes) -> IEK:
        """The inferred encryption key of the subset whose bits are 1.  Raises as :func:`excluded_positions`."""
        excluded = excluded_positions(mask, self.size)
        return IEK(_xor_of_leaves(self._root.reveal(), self._levels, 0, excluded).to_bytes(16, "big"))

    def wipe(self) -> None:
        """Forget the root."""
        self._root.wipe()


class Member:
    """A device's side of a subscriber group: every leaf key but its own.

    ``sgks``: the 8 or 9 subscriber group keys from registration, level 1 first.
    """

    def __init__(self, position: int, size: GroupSize, sgks: Sequence[SGK | Secret]) -> None:
        self._levels = _depth(size)
        _check_position(position, size)
        if len(sgks) != self._levels:
            raise BadLength(None, "sgks", f"{self._levels} keys", f"{len(sgks)} keys")
        self.position: Final = position
        self.size: Final = size
        self._sgks = tuple(SGK(sgk) for sgk in sgks)

    def _xor(self, wanted: Sequence[int]) -> int:
        """XOR of the leaves at ``wanted``, none of which is ours: each lies below exactly one of the nodes we hold."""
        out = 0
        for level, sgk in enumerate(self._sgks):
            below = self._levels - 1 - level
            first = (self.position >> below ^ 1) << below
            part = [position for position in wanted if position >> below == first >> below]
            if part:
                out ^= _xor_of_leaves(sgk.reveal(), below, first, part)
        return out

    def leaf(self, position: int) -> LeafKey:
        """The leaf key of another position.  ``KeyUnavailable`` for the own one."""
        _check_position(position, self.size)
        if position == self.position:
            raise KeyUnavailable("leaf")
        return LeafKey(self._xor([position]).to_bytes(16, "big"))

    def iek(self, mask: bytes) -> IEK:
        """The inferred encryption key of a subset.  ``KeyUnavailable`` when we are excluded from it."""
        excluded = excluded_positions(mask, self.size)
        if self.position in excluded:
            raise KeyUnavailable("iek")
        return IEK(self._xor(excluded).to_bytes(16, "big"))

    def wipe(self) -> None:
        """Forget the keys."""
        for sgk in self._sgks:
            sgk.wipe()
