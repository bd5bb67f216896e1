# SPDX-License-Identifier: Apache-2.0
"""Messages of every tag, small and drawn at random, for the tests of the back-end interface."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from typing import Final, cast

from hypothesis import strategies as st

from pybcast.flows.peers.messages import ALL_SERVICES, BackendMessage, Item, KeyMaterial, PartialItem, Profile, StkmItem
from pybcast.flows.serial import counter_of
from pybcast.flows.tables import TAGS, Side, Tag
from pybcast.secret import Secret
from pybcast.testing import mutate

NOW: Final = 3_990_000_000.0  # NTP seconds, in 2026
T: Final = int(NOW)
BSM_ID, BSDA_ID, SERVICE = "urn:example:bsm", "urn:example:bsda", "urn:example:service"
KEYS: Final = frozenset({Tag.KeyDelivery, Tag.KeyRequestResponse})
PARTIALS: Final = frozenset({Tag.TEKDelivery, Tag.PartialSTKMRequestResponse})
STKMS: Final = frozenset({Tag.TEKDeliveryConfirmation, Tag.STKMRequestResponse, Tag.STKMDelivery})
OBJECTS: Final = frozenset({Tag.LTKMRequestResponse, Tag.LTKMDelivery, Tag.RegRequestResponse, Tag.RegDelivery})
REQUESTS: Final = tuple(tag for tag, row in TAGS.items() if row.answer is not None)


def receiver_of(tag: Tag) -> Side:
    """The side a message of this tag is meant for (the BSM where both may send)."""
    return Side.BSDA if TAGS[tag].sender is Side.BSM else Side.BSM


def sek(number: int = 1) -> KeyMaterial:
    rng = random.Random(number)
    return KeyMaterial(
        key_type="SEK", key_id=b"\x12\xf4\x10\x00\x07" + number.to_bytes(2, "big"), key=Secret(rng.randbytes(16)), stream=1,
        valid_from=T, valid_to=T + 640, csb_id=rng.randbytes(4), rand=rng.randbytes(16), ts_low=counter_of(T - 1),
        ts_high=counter_of(T + 639), first_counter=counter_of(T), granularity=8, next_counter=counter_of(T),
        access_criteria=((1, b"\x05"), (3, b"")), socID="soc & <co>", serviceBaseCID='a "base"\n',
    )  # fmt: skip


def seak(number: int = 1) -> KeyMaterial:
    key = Secret(random.Random(number).randbytes(32))
    return KeyMaterial(key_type="SEAK", key_id=number.to_bytes(4, "big"), key=key, stream=1, valid_from=T, valid_to=T + 640)


def partial(number: int = 0, size: int = 120) -> PartialItem:
    content = Secret(random.Random(number).randbytes(size))
    return PartialItem(stream=1, period_start=T + number, period_end=T + number + 1, tek_id=f"t{number}", content=content)


def stkm(number: int = 0, size: int = 120) -> StkmItem:
    content = random.Random(number).randbytes(size)
    return StkmItem(stream=1, period_start=T + number, period_end=T + number + 1, tek_id=f"t{number}", content=content)


def items_of(tag: Tag, count: int = 2) -> tuple[Item, ...]:
    """``count`` elements of the kind the tag carries; none for a tag without."""
    if tag in KEYS:
        return tuple(sek(n + 1) for n in range(count))
    if tag in PARTIALS:
        return tuple(partial(n) for n in range(count))
    if tag in STKMS:
        return tuple(stkm(n) for n in range(count))
    if tag in OBJECTS:
        return tuple(random.Random(n).randbytes(100) for n in range(count))
    return ()


def message(tag: Tag, **changes: object) -> BackendMessage:
    """A valid message of this tag from the side that sends it."""
    to_bsm = receiver_of(tag) is Side.BSM
    scoped = tag <= Tag.STKMDeliveryConfirmation
    values: dict[str, object] = {
        "tag": tag, "message_id": "ab" * 16, "source": BSDA_ID if to_bsm else BSM_ID, "destination": BSM_ID if to_bsm else BSDA_ID,
        "service": SERVICE if tag < Tag.RegRequest or tag in (Tag.LTKMDelivery, Tag.LTKMDeliveryConfirmation) else ALL_SERVICES,
        "profile": "smartcard" if scoped else None, "status": 0 if TAGS[tag].answer is None else None, "start": T, "end": T + 100,
        "stream": 1 if scoped else None, "time": T, "items": items_of(tag),
    }  # fmt: skip
    return BackendMessage(**(values | changes))  # type: ignore[arg-type]  # fields of the message


# --- drawn at random --------------------------------------------------------------------------------------------------

_names = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789-._~!$'()*+,;=&", min_size=1, max_size=30)
uris = st.builds("{}:{}".format, st.sampled_from(["urn:example", "https://a.example/x", "cid", "tag:x@y"]), _names)
texts = st.text(
    st.characters(codec="utf-8", exclude_characters="\ufffe\uffff", exclude_categories=["Cs", "Cc"]) | st.sampled_from("\t\n\r ")
)
times = st.integers(T - 2**31 + 2**17, T + 2**31 - 2**17)
streams = st.integers(1, 65535)
octets = st.binary(min_size=1, max_size=40)
bits32 = st.integers(0, 2**32 - 1)


@st.composite
def periods(draw: st.DrawFn) -> dict[str, object]:
    start = draw(times)
    end = draw(st.integers(start + 1, T + 2**31 - 2**17 + 1))
    return {"stream": draw(streams), "period_start": start, "period_end": end, "tek_id": draw(texts)}


@st.composite
def key_materials(draw: st.DrawFn, profile: Profile) -> KeyMaterial:
    base = sek() if profile == "smartcard" else seak()
    card = profile == "smartcard"
    kind = draw(st.sampled_from(["SEK", "PEK"] if card else ["SEAK", "PEAK"]))
    criteria = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=20)), max_size=5).map(tuple)
    start = draw(times) if not card else T
    names = st.binary(min_size=len(base.key_id), max_size=len(base.key_id))
    changes: dict[str, object] = {
        "key_type": kind,
        "key": Secret(draw(st.binary(min_size=len(base.key), max_size=len(base.key)))),
        "key_id": draw(names.filter(lambda name: not card or b"\0\0" not in (name[3:5], name[5:]))),
        "stream": draw(streams),
        "valid_from": start,
        "valid_to": draw(st.integers(start + 1, start + 640)),
        "protection_after_reception": draw(st.none() | st.integers(0, 3)),
        "permissions_category": draw(st.none() | st.integers(0, 255)),
        "access_criteria": draw(st.none() | criteria),
        "socID": draw(st.none() | texts),
        "serviceBaseCID": draw(st.none() | texts),
        "next_counter": draw(st.none() | bits32) if card else None,
    }
    if card:
        changes |= {"csb_id": draw(st.binary(min_size=4, max_size=4)), "rand": draw(st.binary(min_size=16, max_size=16))}
    return replace(base, **changes)  # type: ignore[arg-type]  # fields of the key material


@st.composite
def messages(draw: st.DrawFn) -> BackendMessage:
    """Any message that a receiver must take."""
    tag = draw(st.sampled_from(Tag))
    answer = TAGS[tag].answer is None
    scoped = tag <= Tag.STKMDeliveryConfirmation
    profile = cast(Profile, draw(st.sampled_from(["drm", "smartcard"])))
    least = 0 if answer else 1
    items: st.SearchStrategy[Item]
    if tag in KEYS:
        items = key_materials(profile)
    elif tag in PARTIALS:
        items = st.builds(lambda p, c: PartialItem(**p, content=Secret(c)), periods(), octets)
    elif tag in STKMS:
        good = st.builds(lambda p, c, e: StkmItem(**p, content=c, authority_end=e), periods(), octets, st.none() | times)
        items = good | st.builds(lambda p, s: StkmItem(**p, status=s), periods(), st.integers(1, 255))
    else:
        items = octets
    attempt = draw(st.none() | times) if tag is Tag.KeyDelivery else None
    if attempt is not None:
        way = draw(st.sampled_from(["replace", "fresh", "neither"]))
        return BackendMessage(
            tag=tag, message_id=draw(texts.filter(bool)), source=draw(uris), destination=draw(uris), service=draw(uris),
            profile=profile, start=draw(times), stream=draw(streams), attempt=attempt, replace=way == "replace",
            fresh=way == "fresh",
        )  # fmt: skip
    carried = tag in KEYS | PARTIALS | STKMS | OBJECTS
    window = times if tag in (Tag.LTKMRequest, Tag.RegRequest) else st.none() | times
    return BackendMessage(
        tag=tag,
        message_id=draw(texts.filter(bool)),
        source=draw(uris),
        destination=draw(uris),
        service=draw(uris | st.just(ALL_SERVICES)),
        content=draw(st.none() | uris),
        schedule=draw(st.none() | uris),
        profile=profile if scoped else None,
        status=draw(st.integers(0, 255)) if answer else None,
        start=draw(window),
        end=draw(window),
        replace=draw(st.booleans()) if tag in (Tag.KeyDelivery, Tag.PartialSTKMRequest, Tag.STKMDelivery) else False,
        fresh=draw(st.booleans()) if tag is Tag.KeyRequest else False,
        replaces=draw(st.none() | texts.filter(bool)) if tag in (Tag.LTKMDelivery, Tag.RegDelivery) else None,
        time=draw(st.none() | times),
        stream=draw(st.none() | streams),
        items=tuple(draw(st.lists(items, min_size=least, max_size=4))) if carried else (),
    )


# --- broken at random --------------------------------------------------------------------------------------------------

TOKENS: Final = re.compile(rb"<[^>]*>|[\\w:.]+=\"[^\"]*\"|[^<>]+")
VALUES: Final = (
    b"",
    b"0",
    b"-1",
    b"256",
    b"4294967296",
    b"00",
    b"0",
    b"zz",
    b"urn:x",
    b"&amp;",
    b"&x;",
    b" 7 ",
    b"<a/>",
    b"\xc3",
    b"drm",
)


def mutated(rng: random.Random, sent: bytes) -> bytes:
    """Half of them broken as bytes, half as XML: tokens dropped, doubled, exchanged; values replaced."""
    if rng.random() < 0.5:
        return mutate(sent, rng)
    tokens = TOKENS.findall(sent)
    for _ in range(rng.choice((1, 1, 2, 4))):
        a, b = rng.randrange(len(tokens)), rng.randrange(len(tokens))
        match rng.randrange(4):
            case 0:
                tokens[a : a + 1] = []
            case 1:
                tokens.insert(a, tokens[b])
            case 2:
                tokens[a], tokens[b] = tokens[b], tokens[a]
            case _:
                value = rng.choice(VALUES)
                tokens[a] = (
                    re.sub(rb'"[^"]*"', b'"' + value + b'"', tokens[a], count=rng.choice((1, 2))) if b'"' in tokens[a] else value
                )
        if not tokens:
            break
    return b"".join(tokens)
