# SPDX-License-Identifier: Apache-2.0
"""Milenage, the example AKA algorithm set of 3GPP TS 35.206, and the AUTN it makes (TS 33.102 6.3).

For card simulators and for operators that make authentication vectors in the BSM's neighbourhood; a real card computes its own.
Sure: checked with the test sets of TS 35.208.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pybcast.errors import BadLength, Integrity
from pybcast.keys.cipher import aes_ecb_encrypt, same_mac
from pybcast.keys.types import CK, IK, OPC, K

_ROTATIONS: Final = (64, 0, 32, 64, 96)
"""r1..r5, bits to the left (TS 35.206 4.1)."""

_CONSTANTS: Final = (0, 1, 2, 4, 8)
"""c1..c5 (TS 35.206 4.1)."""

_MASK128: Final = (1 << 128) - 1


def _sized(value: bytes, field: str, size: int) -> bytes:
    if len(value) != size:
        raise BadLength(None, field, f"{size} bytes", f"{len(value)} bytes")
    return value


def opc(k: K, op: bytes) -> OPC:
    """OPc = OP XOR E_K(OP) (TS 35.206 4.1).  ``op``: 16 bytes, the operator's own constant."""
    _sized(op, "op", 16)
    return OPC(bytes(a ^ b for a, b in zip(op, aes_ecb_encrypt(k, op), strict=True)))


class Milenage:
    """f1..f5* for one subscriber.

    Every function takes the 16-byte RAND; f1 and f1* also SQN (6 bytes) and AMF (2 bytes).  ``BadLength`` names a wrong size.
    """

    def __init__(self, k: K, opc: OPC) -> None:
        self._k, self._opc = k, opc

    def _out(self, n: int, rand: bytes, extra: bytes = bytes(16)) -> bytes:
        """OUTn of TS 35.206 4.1; ``extra`` is IN1 for OUT1 (where it is XORed in rotated) and zero for the others."""
        opc = int.from_bytes(self._opc.reveal(), "big")
        temp = int.from_bytes(aes_ecb_encrypt(self._k, _xor16(_sized(rand, "rand", 16), opc)), "big")
        rotation, constant = _ROTATIONS[n - 1], _CONSTANTS[n - 1]
        turned = (int.from_bytes(extra, "big") if n == 1 else temp) ^ opc
        block = (((turned << rotation) | (turned >> (128 - rotation))) & _MASK128) ^ constant
        if n == 1:
            block ^= temp
        return _xor16(aes_ecb_encrypt(self._k, block.to_bytes(16, "big")), opc)

    def _out1(self, rand: bytes, sqn: bytes, amf: bytes) -> bytes:
        return self._out(1, rand, (_sized(sqn, "sqn", 6) + _sized(amf, "amf", 2)) * 2)

    def f1(self, rand: bytes, sqn: bytes, amf: bytes) -> bytes:
        """MAC-A, 8 bytes: the network's authentication code."""
        return self._out1(rand, sqn, amf)[:8]

    def f1_star(self, rand: bytes, sqn: bytes, amf: bytes) -> bytes:
        """MAC-S, 8 bytes: the resynchronisation code."""
        return self._out1(rand, sqn, amf)[8:]

    def f2(self, rand: bytes) -> bytes:
        """RES, 8 bytes."""
        return self._out(2, rand)[8:]

    def f3(self, rand: bytes) -> CK:
        """Cipher key."""
        return CK(self._out(3, rand))

    def f4(self, rand: bytes) -> IK:
        """Integrity key."""
        return IK(self._out(4, rand))

    def f5(self, rand: bytes) -> bytes:
        """AK, 6 bytes: hides SQN in AUTN."""
        return self._out(2, rand)[:6]

    def f5_star(self, rand: bytes) -> bytes:
        """AK for resynchronisation, 6 bytes."""
        return self._out(5, rand)[:6]

    def autn(self, rand: bytes, sqn: bytes, amf: bytes) -> bytes:
        """AUTN = (SQN XOR AK) || AMF || MAC-A, 16 bytes (TS 33.102 6.3.2)."""
        hidden = bytes(a ^ b for a, b in zip(_sized(sqn, "sqn", 6), self.f5(rand), strict=True))
        return hidden + amf + self.f1(rand, sqn, amf)

    def check_autn(self, rand: bytes, autn: bytes) -> AkaResult:
        """What a card does with (RAND, AUTN): checks the MAC and gives SQN, CK and IK.  ``Integrity`` when it does not fit.

        Whether SQN is fresh is the card's own memory and not checked here.
        """
        _sized(autn, "autn", 16)
        sqn = bytes(a ^ b for a, b in zip(autn[:6], self.f5(rand), strict=True))
        if not same_mac(self.f1(rand, sqn, autn[6:8]), autn[8:]):
            raise Integrity
        return AkaResult(sqn, autn[6:8], self.f3(rand), self.f4(rand))


@dataclass(frozen=True)
class AkaResult:
    """An accepted AUTN: ``sqn`` 6 bytes, ``amf`` 2 bytes, and the two keys."""

    sqn: bytes
    amf: bytes
    ck: CK
    ik: IK


def _xor16(block: bytes, mask: int) -> bytes:
    return (int.from_bytes(block, "big") ^ mask).to_bytes(16, "big")
