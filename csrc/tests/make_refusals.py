# SPDX-License-Identifier: Apache-2.0
"""What the Python reference says about damaged messages: ``make_refusals.py FOLDER [COUNT [SEED]] > refusals.txt``.

One line for each: operation, kind, partial, leniencies (bits of ``enum bcast_lenient``), keys, message, verdict, offset, path.
The C tests must give the same verdict at the same place.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any, cast

from pybcast.codec import Keys
from pybcast.codec import open as open_message
from pybcast.errors import BcastError, WireError
from pybcast.keys.cipher import aes_ctr, hmac_sha1
from pybcast.keys.mikey import iv, psk_keys
from pybcast.messages import Kind, Leniency
from pybcast.wire import decode

LENIENT: tuple[Leniency, ...] = ("mtk-id-4", "interval-2", "trailing-bytes")


def named(bits: int) -> tuple[Leniency, ...]:
    return tuple(name for bit, name in enumerate(LENIENT) if bits >> bit & 1)


def line(operation: str, kind: Kind, partial: bool, bits: int, keys: str, data: bytes) -> str:
    verdict, offset, field = "ok", "-", "-"
    try:
        if operation == "decode":
            decode(data, kind, partial=partial, lenient=named(bits))
        else:
            open_message(data, Keys.from_dict(json.loads(keys)), kind, lenient=named(bits))
    except WireError as error:
        verdict, offset, field = error.code, str(error.offset), error.field or "-"
    except BcastError as error:
        verdict = error.code
    flat = "-" if keys == "{}" else ",".join(f"{name}={value}" for name, value in json.loads(keys).items())
    return f"{operation} {kind} {int(partial)} {bits} {flat} {data.hex() or '-'} {verdict} {offset} {field}"


def damaged(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at = rng.randrange(len(out)) if out else 0
        match rng.randrange(7):
            case 0 if out:
                out[at] ^= 1 << rng.randrange(8)
            case 1 if out:
                out[at] = rng.choice((0, 1, 2, 3, 4, 5, 9, 10, 11, 12, 20, 21, 255, rng.randrange(256)))
            case 2:
                del out[at:]
            case 3:
                out += rng.randbytes(rng.choice((1, 2, 7)))
            case 4:
                out[at:at] = rng.randbytes(rng.choice((1, 2, 4)))
            case 5:
                del out[at : at + rng.choice((1, 2, 4))]
            case 6:  # a general extension, known or not, in front of the payload announced by some octet
                number = rng.choice((3, 5, 9, 200))
                size = rng.choice((0, 1, 3))
                if len(out) > 10:
                    out[10:10] = bytes((out[2], number, 0, size)) + rng.randbytes(size)
                    out[2] = 21
    return bytes(out)


def key_data_cases(rng: random.Random) -> list[tuple[str, Kind, str, bytes]]:
    """Messages whose MAC is right and whose KEMAC holds something else."""
    out: list[tuple[str, Kind, str, bytes]] = []
    csb, delivered, counter = bytes.fromhex("a1b2c3d4"), bytes(range(0x20, 0x30)), bytes.fromhex("00000005")
    for kind, key in (("smartcard-stkm", bytes(range(0x30, 0x40))), ("smartcard-ltkm", bytes(range(32)))):
        for number in range(250):
            rand = b"" if kind == "smartcard-stkm" and number % 5 == 4 else delivered  # a provisioned SEK has an empty RAND
            keys = psk_keys(key, csb, rand)
            size = rng.choice((20, 36)) if kind == "smartcard-stkm" else rng.choice((30, 30, 26))
            clear = bytearray(bytes.fromhex("00200010") + rng.randbytes(16))
            if kind == "smartcard-ltkm":
                length = 4 if size == 30 else 2
                clear[1] = rng.choice((0x02, 0x22, 0x22))
                clear += bytes((length,)) + rng.randbytes(length) + bytes((length,)) + rng.randbytes(length)
            elif size == 36:
                clear[1] = 0x30
                clear += bytes((0, 14)) + rng.randbytes(14)
            if rng.random() < 0.9:
                at = rng.choice((0, 1, 1, 2, 3, rng.randrange(len(clear)), 20 % len(clear), 21 % len(clear), 25 % len(clear)))
                clear[at] = rng.choice((0, 1, 2, 4, 14, 16, 20, 0x10, 0x12, 0x20, 0x22, 0x30, 0x32, 0x42, rng.randrange(256)))
            encr = aes_ctr(keys.encr, iv(keys.salt, csb, counter), bytes(clear))
            if kind == "smartcard-stkm":
                head = "01001500" + csb.hex() + "0001" + "0503000f000312f4100104000700010202000101020000000500"
            else:
                head = "01001500" + csb.hex() + "0001" + "0503000b000312f4100104000700010b020000000506"
                head += "10" + rand.hex() + "06000001620100000172" + "00"
            covered = bytes.fromhex(head) + b"\x01" + len(encr).to_bytes(2, "big") + encr + b"\x01"
            names = {"smk": key.hex()}
            if kind == "smartcard-stkm":  # csb_id: what the key is prepared for; each message opens with its own
                names = {"sek": key.hex(), "rand": rand.hex()} | rng.choice(({}, {"csb_id": csb.hex()}, {"csb_id": "00000000"}))
            out.append(("open", cast(Kind, kind), json.dumps(names), covered + hmac_sha1(keys.auth, covered)))
    return out


def main() -> None:
    folder = Path(sys.argv[1])
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 2500
    rng = random.Random(int(sys.argv[3]) if len(sys.argv) > 3 else 1)

    def load(name: str) -> Any:
        return json.loads((folder / f"{name}.json").read_text())

    drm, smartcard, more = load("drm_stkm")["vectors"], load("smartcard"), load("more")
    sources: list[tuple[Kind, bool, bytes]] = [("drm-stkm", False, bytes.fromhex(v["message"])) for v in drm]
    sources += [("drm-stkm", True, bytes.fromhex(v["partial"])) for v in drm]
    sources += [("smartcard-stkm", False, bytes.fromhex(v["message"])) for v in smartcard["stkm"]]
    sources += [("smartcard-stkm", True, bytes.fromhex(v["partial"])) for v in more["smartcard_partial"]] * 4
    sources += [("smartcard-ltkm", False, bytes.fromhex(v["message"])) for v in smartcard["ltkm"]]
    ltkm = [bytes.fromhex(v["message"]) for v in smartcard["ltkm"]]
    for block in more["ltkm_management"]:  # LTKMs with rich management data: EXT 5 instead of the plain one, or a new one
        inside = bytes.fromhex(block["data"])
        message = rng.choice(ltkm)
        at = 25 if message[10] == 5 else 25 + 4 + message[28]
        extension = b"\x05\x05" + (len(inside) + 1).to_bytes(2, "big") + b"\x01" + inside
        sources += [("smartcard-ltkm", False, message[:10] + b"\x15" + message[11:25] + extension + message[at:])] * 4
    stkm = [bytes.fromhex(v["message"]) for v in smartcard["stkm"]]
    for block in more["stkm_management"]:
        inside = bytes.fromhex(block["data"])
        message = rng.choice(stkm)
        at = 29 + 4 + message[32]
        extension = b"\x05\x05" + (len(inside) + 1).to_bytes(2, "big") + b"\x02" + inside
        sources += [("smartcard-stkm", False, message[:10] + b"\x15" + message[11:29] + extension + message[at:])] * 4
    for v in more["verification"]:
        kind: Kind = "smartcard-reporting" if v["message"][4:6] == "15" else "smartcard-verification"
        sources += [(kind, False, bytes.fromhex(v["message"]))] * 5
    for block in more["reporting"]:
        inside = bytes.fromhex(block["data"])
        message = bytes.fromhex(more["verification"][0]["message"])
        extension = b"\x05\x05" + (len(inside) + 1).to_bytes(2, "big") + b"\x03" + inside
        sources += [("smartcard-reporting", False, message[:2] + b"\x15" + message[3:10] + extension + message[10:])] * 3

    for kind, partial, data in sources:
        print(line("decode", kind, partial, 0, "{}", data))
    for _ in range(count):
        kind, partial, data = rng.choice(sources)
        if kind in ("drm-stkm", "smartcard-stkm") and rng.random() < 0.1:
            partial = not partial
        print(line("decode", kind, partial, rng.choice((0, 0, 0, rng.randrange(8))), "{}", damaged(data, rng)))
    for operation, kind, keys, data in key_data_cases(rng):
        print(line(operation, kind, False, rng.choice((0, 0, 2, 4)), keys, data))


if __name__ == "__main__":
    main()
