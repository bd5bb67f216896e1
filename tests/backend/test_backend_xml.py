# SPDX-License-Identifier: Apache-2.0
"""The XML of the back end: every message there and back, what the schema says, and what an attacker writes instead (R27-R30)."""

from __future__ import annotations

import random
import re
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace

import pytest
from backend_support import (
    BSDA_ID,
    BSM_ID,
    NOW,
    PARTIALS,
    REQUESTS,
    SERVICE,
    STKMS,
    T,
    items_of,
    message,
    messages,
    mutated,
    partial,
    receiver_of,
    sek,
    stkm,
)
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from pybcast.backend import xml
from pybcast.backend.errors import UNREADABLE, UNREADABLE_URI, BadMessage, Unparseable, refusal
from pybcast.errors import BadLength, BadValue
from pybcast.flows.peers.messages import BackendMessage, KeyMaterial, StkmItem
from pybcast.flows.tables import TAGS, Side, Status, Tag
from pybcast.secret import Secret

NS = f'xmlns="{xml.NAMESPACE}"'
KEY = "0123456789abcdeffedcba9876543210"
DELIVERY = xml.encode(message(Tag.KeyDelivery, items=(replace(sek(), key=Secret.from_hex(KEY)),)), NOW).decode()
TEKS = xml.encode(message(Tag.TEKDelivery), NOW).decode()


def decode(text: str | bytes, receiver: Side = Side.BSDA) -> BackendMessage:
    return xml.decode(text.encode() if isinstance(text, str) else text, receiver, NOW)


def bad(text: str | bytes, receiver: Side = Side.BSDA) -> BadMessage:
    with pytest.raises(BadMessage) as caught:
        decode(text, receiver)
    return caught.value


# --- there and back ---------------------------------------------------------------------------------------------------


@given(messages())
def test_every_message_comes_back(sent: BackendMessage) -> None:
    body = xml.encode(sent, NOW)
    sender = TAGS[sent.tag].sender
    for side in (Side.BSM, Side.BSDA):
        if sender is not side:
            got = xml.decode(body, side, NOW)
            assert got == sent and got.digest() == sent.digest()


@pytest.mark.parametrize("tag", Tag)
def test_every_tag_has_its_root_and_validates(tag: Tag) -> None:
    tree = etree.fromstring(xml.encode(message(tag), NOW))
    etree.XMLSchema(etree.fromstring(xml.schema_text())).assertValid(tree)
    assert tree.tag == f"{{{xml.NAMESPACE}}}{TAGS[tag].root}" and tree.get("tag") == str(int(tag))
    assert xml.decode(xml.encode(message(tag), NOW), receiver_of(tag), NOW) == message(tag)


def test_the_example_of_the_layout_notes() -> None:
    """backend-interface 4.4; its ids made absolute URIs (R28)."""
    got = decode(
        f'<LTKMorRegRequestResponse {NS} tag="14" version="1" messageID="m-17" destination="urn:bsda1" source="urn:bsm1" '
        'status="0" time="3413018730"><GlobalServiceID>urn:example:svc1</GlobalServiceID><Data>2009</Data>'
        "<DistributionStart>3413018730</DistributionStart><DistributionEnd>3413022330</DistributionEnd></LTKMorRegRequestResponse>"
    )
    assert got == BackendMessage(
        tag=Tag.LTKMRequestResponse, message_id="m-17", destination="urn:bsda1", source="urn:bsm1", status=0, time=3413018730,
        service="urn:example:svc1", items=(b"\x20\x09",), start=3413018730, end=3413022330,
    )  # fmt: skip


def test_times_mean_those_nearest_to_now() -> None:
    """R15: over the wrap of 2036 and back."""
    wrap = 1 << 32
    sent = message(Tag.STKMRequest, start=wrap - 5, end=wrap + 5, time=wrap)
    body = xml.encode(sent, wrap)
    assert b">5</DistributionEnd>" in body and b'time="0"' in body
    assert xml.decode(body, Side.BSM, wrap - 100) == sent


@pytest.mark.parametrize("flags", [{"replace": True}, {"fresh": True}, {}, {"end": (1 << 32) + 90, "content": "urn:event"}])
def test_r50_an_attempt_carries_no_key(flags: dict[str, object]) -> None:
    """Its number is a time: a later attempt has a later one, over the wrap of 2036 too."""
    wrap = 1 << 32
    sent = message(Tag.KeyDelivery, items=(), stream=1, start=wrap + 20, attempt=wrap - 5, **({"end": None} | flags))
    body = xml.encode(sent, wrap)
    assert f' attempt="{wrap - 5}"'.encode() in body and b"KeyMaterial" not in body
    assert xml.decode(body, Side.BSDA, wrap) == sent


@given(st.binary(max_size=60), st.integers(1, 9))
def test_pieces_make_the_same_message(noise: bytes, size: int) -> None:
    sent = message(Tag.KeyDelivery, items=(sek(1), replace(sek(2), socID=noise.hex())))
    body = xml.encode(sent, NOW)
    reader = xml.Reader(Side.BSDA, NOW)
    for at in range(0, len(body), size):
        reader.feed(body[at : at + size])
    assert reader.close() == sent


# --- R28: namespaces --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        DELIVERY.replace(f" {NS}", ""),  # no namespace at all
        re.sub(r"<(/?)", r"<\1p:", DELIVERY).replace(NS, NS.replace("xmlns", "xmlns:p")),  # by prefix
        re.sub(r"<(/?)KeyDelivery", r"<\1p:KeyDelivery", DELIVERY).replace(
            NS, NS.replace("xmlns", "xmlns:p")
        ),  # children unqualified
        f'<?xml version="1.0" encoding="UTF-8"?><!-- a --><?pi b?>{DELIVERY}<!-- c -->',
        DELIVERY.replace("><", ">\r\n  <"),
        DELIVERY.replace(
            NS, f'{NS} xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:schemaLocation="urn:x http://192.0.2.1/x"'
        ),
        DELIVERY.replace(KEY, f"<![CDATA[{KEY}]]>").replace("smartcard<", "smart<!-- x -->card<"),
        DELIVERY.replace(KEY, f"\n{KEY.upper()} "),
        DELIVERY.replace('tag="3"', 'tag=" 003"'),
    ],
    ids=["bare", "prefixed", "mixed", "prolog", "spaced", "hint", "cdata", "upper", "padded"],
)
def test_r28_equal_documents_are_equal_messages(text: str) -> None:
    assert text != DELIVERY and decode(text) == decode(DELIVERY)


def test_r28_another_namespace_is_refused() -> None:
    for text in (DELIVERY.replace(xml.NAMESPACE, xml.NAMESPACE + ".1"), DELIVERY.replace("<Profile>", '<Profile xmlns="urn:x">')):
        error = bad(text)
        assert error.status == Status.MALFORMED and "namespace" in error.reason and error.echo.message_id == "ab" * 16


# --- R27, R28: parseable, but no message ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("<GlobalServiceID>urn:example:service</GlobalServiceID>", "", "KeyDelivery.Profile"),
        ("<GlobalServiceID>", "<GlobalServiceID>urn:x:y</GlobalServiceID><GlobalServiceID>", "KeyDelivery.GlobalServiceID"),
        ("<Profile>smartcard</Profile>", "", "KeyDelivery.KeyMaterial[0]"),
        ("smartcard<", "sim<", "KeyDelivery.Profile"),
        (KEY, KEY[:-1], "KeyDelivery.KeyMaterial[0]"),
        (KEY, KEY[:-1] + "g", "KeyDelivery.KeyMaterial[0]"),
        (KEY, "", "KeyDelivery.KeyMaterial[0]"),
        ('rand="', 'rand="0', "KeyDelivery.KeyMaterial[0].rand"),
        ('keyType="SEK"', 'keyType="SMK"', "KeyDelivery.KeyMaterial[0].keyType"),
        ('keyType="SEK"', "", "KeyDelivery.KeyMaterial[0].keyType"),
        ('validTo="', 'validTo="9', "KeyDelivery.KeyMaterial[0].validTo"),
        ('validTo="', 'validTo="-', "KeyDelivery.KeyMaterial[0].validTo"),
        ('stream="1" validFrom', 'stream="65536" validFrom', "KeyDelivery.KeyMaterial[0].stream"),
        ("<KeyMaterial", '<KeyMaterial authorityEnd="1"', "KeyDelivery.KeyMaterial[0].authorityEnd"),
        ("<KeyMaterial", '<KeyMaterial invented="1"', "KeyDelivery.KeyMaterial[0]"),
        ("<KeyMaterial", "<Invented/><KeyMaterial", "KeyDelivery"),
        ("<KeyMaterial", "<STKM/><KeyMaterial", "KeyDelivery.STKM[0]"),
        (KEY, f"<Data>{KEY}</Data>", "KeyDelivery.KeyMaterial[0]"),
        ("</KeyDelivery>", "text</KeyDelivery>", "KeyDelivery"),
        (' tag="3"', "", "KeyDelivery.tag"),
        (' tag="3"', ' tag="300"', "KeyDelivery.tag"),
        (' tag="3"', ' tag="3" status="0"', "KeyDelivery.status"),
        (' tag="3"', ' tag="3" replace="maybe"', "KeyDelivery.replace"),
        (' tag="3"', ' tag="3" attempt="-1"', "KeyDelivery.attempt"),
        ("urn:example:bsm", "bsm", "KeyDelivery.source"),
        ("urn:example:bsda", "urn:example:bs da", "KeyDelivery.destination"),
        ("urn:example:service", "x" * 10, "KeyDelivery.GlobalServiceID"),
        ("urn:example:service", "urn:" + "x" * 1024, "KeyDelivery.GlobalServiceID"),
        ("<KeyMaterial", "<DistributionEnd>1</DistributionEnd><KeyMaterial", "KeyDelivery.KeyMaterial[0]"),
        (NS, f'{NS} xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="xs:string"', "KeyDelivery"),
        (NS, f'{NS} xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:nil="true"', "KeyDelivery"),
    ],
)
def test_r27_against_the_schema_is_status_8(old: str, new: str, field: str) -> None:
    assert old in DELIVERY
    error = bad(DELIVERY.replace(old, new))
    assert (error.status, error.field) == (Status.MALFORMED, field) and error.line == 1
    assert error.echo.message_id == "ab" * 16 and error.echo.answer_tag is Tag.KeyDeliveryConfirmation


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        (' tag="3"', ' tag="1"', 21),  # another root's
        (' tag="3"', ' tag="77"', 21),  # nobody's
        ('keyType="SEK"', 'keyType="SEAK"', 21),
        ("smartcard<", "drm<", 21),
        (KEY, KEY + "00", 21),
        (' keyId="', ' keyId="00', 21),
        (' csbId="', ' csbId="00', 21),
        (' rand="', ' rand="00', 21),
        (' granularity="8"', ' granularity="0"', 21),
        (' granularity="8"', "", 21),
        (f' validTo="{T + 640}"', f' validTo="{T}"', 21),
        (' accessCriteria="02', ' accessCriteria="03', 21),
        (' accessCriteria="02', ' accessCriteria="01', 21),
        (' accessCriteria="020101', ' accessCriteria="02010f', 21),
        ('stream="1" validFrom', 'stream="0" validFrom', 21),
        (' version="1"', ' version="2"', 12),
    ],
)
def test_r28_what_the_schema_cannot_say(old: str, new: str, status: int) -> None:
    assert old in DELIVERY
    error = bad(DELIVERY.replace(old, new))
    assert error.status == status and error.echo.service == SERVICE and error.echo.message_id == "ab" * 16


def test_an_empty_rand_is_taken_and_an_absent_one_refused() -> None:
    """backend-interface 4.5: the first is that of a provisioned key, without the second nobody can make a STKM that opens."""
    (whole,) = re.findall(' rand="[0-9a-fA-F]{32}"', DELIVERY)
    assert bad(DELIVERY.replace(whole, "")).status == Status.INFORMATION_INVALID
    got = decode(DELIVERY.replace(whole, ' rand=""'))
    (key,) = got.items
    assert isinstance(key, KeyMaterial) and key.rand == b""
    assert decode(xml.encode(got, NOW)) == got


def test_r28_direction_and_way() -> None:
    """A message of our own side, sent back to us."""
    assert bad(DELIVERY, Side.BSM).status == Status.INFORMATION_INVALID
    assert bad(TEKS, Side.BSDA).status == Status.INFORMATION_INVALID


def test_r30_a_request_of_1001_elements_is_status_21_and_more_stop_the_reading() -> None:
    def deliver(count: int) -> str:
        return TEKS.replace("</TEKDelivery>", "").split("<PartialSTKM ")[0] + "".join(
            f'<PartialSTKM stream="1" periodStart="{T + n}" periodEnd="{T + n + 1}">00</PartialSTKM>' for n in range(count)
        )

    end = f"<DistributionStart>{T}</DistributionStart></TEKDelivery>"
    got = decode(deliver(1000) + end, Side.BSM)
    assert len(got.items) == 1000 and got.start == T
    assert bad(deliver(1001) + end, Side.BSM).status == Status.INFORMATION_INVALID
    many = bad(deliver(xml.MAX_ELEMENTS + 1) + "not even XML &", Side.BSM)
    assert many.status == Status.MALFORMED and many.line == 1 and "elements" in many.reason


@pytest.mark.parametrize("order", ["late scope", "late start", "bad item", "double end"])
def test_batches_keep_what_the_schema_says_of_the_whole(order: str) -> None:
    """Validated in batches of 1,000: what comes after the first batch is held to the same order."""
    item, count = "<Data>00</Data>", 2500
    head = f'<LTKMorRegRequestResponse {NS} tag="14" messageID="a" destination="urn:d" source="urn:s" status="0">'
    scope, end = "<GlobalServiceID>urn:x</GlobalServiceID>", "</LTKMorRegRequestResponse>"
    start = "<DistributionStart>1</DistributionStart>"
    good = head + scope + item * count + start + end
    assert len(xml.decode(good.encode(), Side.BSDA, NOW, max_elements=5000).items) == count
    wrong = {
        "late scope": head + scope + item * count + "<ScheduleID>urn:y</ScheduleID>" + end,
        "late start": head + scope + item * count + start + item + end,
        "bad item": head + scope + item * (count - 1) + "<Data>0</Data>" + end,
        "double end": head + scope + item * count + start + start + end,
    }[order]
    with pytest.raises(BadMessage) as caught:
        xml.decode(wrong.encode(), Side.BSDA, NOW, max_elements=5000)
    assert caught.value.status == Status.MALFORMED and (order == "bad item") == ("order" not in caught.value.reason)


def test_the_line_and_the_field_are_named() -> None:
    spaced = TEKS.replace("><", ">\n<").replace('periodStart="' + str(T + 1), 'periodStart="x')
    error = bad(spaced, Side.BSM)
    assert (error.line, error.field) == (5, "TEKDelivery.PartialSTKM[1].periodStart")
    assert str(error) == "line 5: TEKDelivery.PartialSTKM[1].periodStart: value not of its type (status 8)"
    assert error.as_dict()["line"] == 5 and error.as_dict()["status"] == 8


# --- R27: not XML -----------------------------------------------------------------------------------------------------

BOMB = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b" ",
        b"\x00\xff\xfe garbage",
        b"{}",
        DELIVERY[:-1],
        DELIVERY + DELIVERY,
        DELIVERY.replace("</Profile>", "</profile>"),
        DELIVERY.replace('tag="3"', 'tag="3" tag="3"'),
        DELIVERY.replace("smartcard", "&unknown;"),
        DELIVERY.replace("smartcard", "&#0;"),
        DELIVERY.replace("smartcard", "\x01"),
        DELIVERY.encode("utf-16"),
        b'<?xml version="1.0" encoding="ISO-8859-1"?>' + DELIVERY.encode(),
        DELIVERY.encode().replace(b"smartcard", b"\xc0\x80"),
        DELIVERY.replace("smartcard", "x").replace("</KeyDelivery>", "</Key>"),  # faulty first, then no XML
        f"<!DOCTYPE KeyDelivery>{DELIVERY}",
        f'<!DOCTYPE KeyDelivery SYSTEM "http://192.0.2.1/x.dtd">{DELIVERY}',
        f'<!DOCTYPE x [<!ENTITY e0 "lol">{BOMB}]>{DELIVERY.replace("smartcard", "&e11;")}',
        f'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>{DELIVERY.replace("smartcard", "&e;")}',
        f'<!DOCTYPE x [<!ENTITY % e SYSTEM "http://192.0.2.1/x"> %e;]>{DELIVERY}',
        f'<!DOCTYPE x [<!ATTLIST KeyMaterial keyType CDATA "SEK">]>{DELIVERY}',
    ],
)
def test_r27_what_is_not_xml_is_unparseable(text: str | bytes) -> None:
    with pytest.raises(Unparseable) as caught:
        decode(text)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("unit", ["<a>", "<KeyMaterial>", '<x xmlns="urn:x">'])
def test_deep_nesting_stops_at_the_third_level(unit: str) -> None:
    error = bad(DELIVERY.replace(KEY, unit * 100_000))
    assert error.status == Status.MALFORMED and error.echo.message_id == "ab" * 16
    assert bad(unit * 100_000).status == Status.MALFORMED


def test_names_of_a_peer_are_not_kept() -> None:
    """libxml2 keeps names for the life of the process: a peer's inventions must not reach it."""

    def attack(n: int) -> Iterator[str]:
        yield f"<n{n} {NS}/>"
        yield DELIVERY.replace("<Profile>", f"<n{n}/><Profile>")
        yield DELIVERY.replace("<Profile>", f'<Profile n{n}="1">')
        yield DELIVERY.replace("<Profile>", f"<?n{n}?><Profile>")
        yield re.sub(r"<(/?)", rf"<\1n{n}:", DELIVERY).replace(NS, NS.replace("xmlns", f"xmlns:n{n}"))

    seen: list[bytes] = []
    real = etree.fromstring

    def spy(text: bytes, parser: etree.XMLParser) -> object:
        seen.append(text)
        return real(text, parser)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(etree, "fromstring", spy)
        for text in attack(4711):
            try:
                decode(text)
            except BadMessage as error:
                assert error.status == Status.MALFORMED
    assert len(seen) == 2 and not any(b"n4711" in text for text in seen)  # the instruction and the prefix are harmless


def test_memory_of_an_answer_is_what_it_says_not_what_it_is_written_with() -> None:
    """64 MiB come in pieces; neither their text nor their tree is held (R30)."""
    head = f'<LTKMorRegRequestResponse {NS} tag="14" messageID="a" destination="urn:d" source="urn:s" status="0">'
    head += "<GlobalServiceID>urn:x</GlobalServiceID>"
    piece = ("<Data>" + "ab" * 2000 + "</Data>" + "<!--" + "x" * 60_000 + "-->") * 4
    count = xml.MAX_ANSWER // len(piece) // 4
    tracemalloc.start()
    reader = xml.Reader(Side.BSDA, NOW, max_elements=xml.MAX_ANSWER_ELEMENTS)
    reader.feed(head.encode())
    for _ in range(count):
        reader.feed(piece.encode())
    reader.feed(b"</LTKMorRegRequestResponse>")
    assert len(reader.close().items) == 4 * count
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * count * 2000 + 8_000_000 < count * len(piece)


def test_an_endless_tag_or_content_stops_the_reading() -> None:
    for start in (f'<KeyDelivery {NS} messageID="', f"<KeyDelivery {NS}><KeyMaterial>"):
        reader = xml.Reader(Side.BSDA, NOW)
        reader.feed(start.encode())
        fed = 0
        while reader.fault is None:
            reader.feed(b"0" * 65536)
            fed += 65536
            assert fed < 4 << 20
        with pytest.raises(BadMessage):
            reader.close()


def test_what_we_take_is_what_libxml2_takes() -> None:
    """Our screening and rewriting against lxml and the schema alone: the same documents, but for unqualified ones (R28)."""
    rng, schema = random.Random(28), etree.XMLSchema(etree.fromstring(xml.schema_text()))
    seeds = [xml.encode(message(tag), NOW) for tag in (Tag.TEKDelivery, Tag.KeyRequest, Tag.LTKMRequest)]
    taken = 0
    for _ in range(3000):
        text = mutated(rng, rng.choice(seeds))
        try:
            xml.decode(text, Side.BSM, NOW)
            ours = True
        except Unparseable:
            ours = False
        except BadMessage as error:
            if error.status != Status.MALFORMED:
                continue  # past the schema
            ours = False
        try:
            tree = etree.fromstring(text, etree.XMLParser(resolve_entities=False, no_network=True))
        except (etree.XMLSyntaxError, ValueError):
            theirs = False
        else:
            theirs = schema.validate(tree) or not tree.tag.startswith("{")
        assert ours == theirs or ((ours, theirs) == (False, True) and not text.count(b'xmlns="urn:oma')), text
        taken += ours
    assert 100 < taken < 2900


# --- the form that we write -------------------------------------------------------------------------------------------


def long_way(body: bytes, receiver: Side, now: float = NOW) -> BackendMessage:
    """What both stages say of a body."""
    reader = xml.Reader(receiver, now)
    reader.feed(body)
    return reader.close()


@given(messages(), st.integers(0, 2**33))
def test_what_is_read_as_we_write_it_is_what_the_long_way_reads(sent: BackendMessage, now: int) -> None:
    body = xml.encode(sent, NOW)
    for side in (Side.BSM, Side.BSDA):
        got = xml._as_written(body, side, now, xml.MAX_ELEMENTS)
        try:
            expected = long_way(body, side, now)
        except BadMessage:
            assert got is None
        else:
            assert got is None or (got == expected and got.digest() == expected.digest())


def test_what_is_broken_is_read_as_the_long_way_reads_it() -> None:
    rng = random.Random(7)
    tags = sorted(PARTIALS | STKMS | {Tag.STKMDeliveryConfirmation})
    seeds = [xml.encode(message(tag, items=items_of(tag, 3)), NOW) for tag in tags]
    seeds.append(
        xml.encode(message(Tag.STKMRequestResponse, items=(replace(stkm(), status=5, content=b"", authority_end=T),)), NOW)
    )
    read = 0
    for _ in range(4000):
        body = mutated(rng, rng.choice(seeds))
        for side in (Side.BSM, Side.BSDA):
            got = xml._as_written(body, side, NOW, xml.MAX_ELEMENTS)
            try:
                expected = long_way(body, side)
            except (BadMessage, Unparseable):
                assert got is None, body
            else:
                assert got in (None, expected), body
                read += got is not None
    assert read > 100


@pytest.mark.parametrize("tag", sorted(PARTIALS | STKMS | {Tag.STKMDeliveryConfirmation}))
@pytest.mark.parametrize(
    "changes", [{}, {"content": "urn:c", "schedule": "urn:s"}, {"start": None, "end": None, "stream": None, "time": None}]
)
def test_messages_about_periods_need_no_parser(tag: Tag, changes: dict[str, object]) -> None:
    sent = message(tag, **changes)
    assert xml._as_written(xml.encode(sent, NOW), receiver_of(tag), NOW, xml.MAX_ELEMENTS) == sent


PERIODS = xml.encode(message(Tag.STKMDelivery, items=(replace(stkm(), authority_end=T + 9),)), NOW).decode()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("</GlobalServiceID>", "&amp;x</GlobalServiceID>"),
        ("urn:example:service<", "http://[<"),
        ("urn:example:service<", "urn://a:b:c<"),
        (' tag="11"', ' tag="12"'),
        (f' time="{T}"', ' time="4294967296"'),
        (' status="0"', ' status="256"'),
        (' status="0"', ' status="1"'),
        (' version="1"', ' version="2"'),
        ("<Data ", "<STKM "),
        ("<Data ", "<Data  "),
        ("</Data><", "</Data> <"),
        ("</Data><", "a</Data><"),
        ("tekId=", "tekid="),
        ("ab", "\xe9"),
    ],
)
def test_the_short_way_leaves_what_is_not_as_we_write_it(old: str, new: str) -> None:
    assert old in PERIODS
    body = PERIODS.replace(old, new, 1).encode()
    assert xml._as_written(body, Side.BSDA, NOW, xml.MAX_ELEMENTS) is None


@pytest.mark.parametrize(
    "body",
    [
        TEKS.replace("PartialSTKM ", "STKM ", 1).replace("</PartialSTKM", "</STKM", 1),
        TEKS.replace(' tekId="t0"', ' tekId="t0" status="0"'),
        TEKS.replace(' tekId="t0"', f' tekId="t0" authorityEnd="{T}"'),
        re.sub(r"(<PartialSTKM [^>]*>)[0-9a-f]+", r"\1", TEKS, count=1),
    ],
)
def test_a_partial_stkm_has_a_content_and_no_status(body: str) -> None:
    assert xml._as_written(body.encode(), Side.BSM, NOW, xml.MAX_ELEMENTS) is None
    bad(body, Side.BSM)


def test_the_short_way_has_the_bounds_of_the_long_one() -> None:
    body = xml.encode(message(Tag.TEKDelivery, items=items_of(Tag.TEKDelivery, 4)), NOW)
    assert xml.decode(body, Side.BSM, NOW, max_elements=8) == message(Tag.TEKDelivery, items=items_of(Tag.TEKDelivery, 4))
    with pytest.raises(BadMessage, match="more than 7 elements"):
        xml.decode(body, Side.BSM, NOW, max_elements=7)
    assert xml._as_written(body + b" " * xml.MAX_REQUEST, Side.BSM, NOW, xml.MAX_ELEMENTS) is None
    assert xml._as_written(body, Side.BSM, 100.0, xml.MAX_ELEMENTS) is None  # times before 1900 are none


# --- what errors say, and what is answered ----------------------------------------------------------------------------


@given(st.data())
def test_errors_hold_no_key(data: st.DataObject) -> None:
    """Any place where a key may stand in a broken message: no error repeats it."""
    at = data.draw(st.integers(0, len(DELIVERY)))
    cut = data.draw(st.sampled_from(["", "<", "&", "g", '"', ">"]))
    text = DELIVERY[:at] + cut + DELIVERY[at + data.draw(st.integers(0, 3)) :]
    try:
        decode(text)
    except (BadMessage, Unparseable) as error:
        shown = f"{error!r} {error} {error.as_dict()}".lower()
        assert KEY[:8] not in shown and KEY[-8:] not in shown


def test_secrets_stay_secret() -> None:
    for text, side in ((DELIVERY, Side.BSDA), (TEKS, Side.BSM)):
        shown = repr(decode(text, side))
        assert KEY not in shown and partial().content.reveal().hex() not in shown and "<Secret" in shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (DELIVERY.replace("smartcard<", "x<"), (Tag.KeyDeliveryConfirmation, "ab" * 16, BSM_ID, SERVICE, None)),
        (DELIVERY.replace(KEY, "x"), (Tag.KeyDeliveryConfirmation, "ab" * 16, BSM_ID, SERVICE, "smartcard")),
        (f"<Unknown {NS}/>", (Tag.LTKMRequestResponse, UNREADABLE, UNREADABLE_URI, UNREADABLE_URI, None)),
        (
            f'<Unknown {NS} tag="7" messageID="m" source="x"/>',
            (Tag.TEKDeliveryConfirmation, "m", UNREADABLE_URI, UNREADABLE_URI, None),
        ),
        (f'<LTKMorRegDelivery {NS} tag="19"/>', (Tag.RegDeliveryConfirmation, UNREADABLE, UNREADABLE_URI, UNREADABLE_URI, None)),
        (f'<KeyRequestResponse {NS} tag="3"/>', (Tag.KeyRequestResponse, UNREADABLE, UNREADABLE_URI, UNREADABLE_URI, None)),
        (f'<KeyRequest {NS} messageID="{"x" * 256}"/>', (Tag.KeyRequestResponse, UNREADABLE, UNREADABLE_URI, UNREADABLE_URI, None)),
    ],
)
def test_r27_a_refusal_echoes_what_is_readable_and_can_be_read(text: str, expected: tuple[object, ...]) -> None:
    error = bad(text)
    answer = refusal(BSDA_ID, error.echo, error.status, now=NOW)
    assert (answer.tag, answer.message_id, answer.destination, answer.service, answer.profile) == expected
    assert answer.status == error.status and answer.source == BSDA_ID
    etree.XMLSchema(etree.fromstring(xml.schema_text())).assertValid(etree.fromstring(xml.encode(answer, NOW)))


# --- what is refused on the way out -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tag", "changes", "field"),
    [
        (Tag.KeyDelivery, {"source": "bsm"}, "source"),
        (Tag.KeyDelivery, {"destination": "urn:a b"}, "destination"),
        (Tag.KeyDelivery, {"service": "urn:" + "x" * 1024}, "GlobalServiceID"),
        (Tag.KeyDelivery, {"content": ""}, "GlobalContentID"),
        (Tag.KeyDelivery, {"message_id": ""}, "messageID"),
        (Tag.KeyDelivery, {"message_id": "\x00"}, "messageID"),
        (Tag.KeyDelivery, {"status": 0}, "status"),
        (Tag.KeyDelivery, {"profile": None}, "Profile"),
        (Tag.LTKMDelivery, {"profile": "drm"}, "Profile"),
        (Tag.KeyDelivery, {"fresh": True}, "fresh"),
        (Tag.TEKDelivery, {"replace": True}, "replace"),
        (Tag.TEKDelivery, {"replaces": "x"}, "replaces"),
        (Tag.KeyDelivery, {"items": ()}, "items"),
        (Tag.KeyDelivery, {"attempt": T + 2**32, "items": ()}, "attempt"),
        (Tag.TEKDelivery, {"attempt": T}, "attempt"),
        (Tag.KeyRequest, {"items": (b"x",)}, "items"),
        (Tag.KeyDelivery, {"items": (sek(), b"x")}, "items[1]"),
        (Tag.KeyDelivery, {"items": (replace(sek(), key=Secret(b"")),)}, "KeyMaterial[0]"),
        (Tag.KeyDelivery, {"items": (replace(sek(), key_type="SMK"),)}, "KeyMaterial[0].keyType"),  # type: ignore[arg-type]
        (Tag.KeyDelivery, {"items": (replace(sek(), valid_to=T + 2**32),)}, "KeyMaterial[0].validTo"),
        (Tag.KeyDelivery, {"items": (replace(sek(), access_criteria=((1, bytes(256)),)),)}, "KeyMaterial[0].accessCriteria"),
        (Tag.KeyDelivery, {"items": (replace(sek(), socID="x" * 1025),)}, "KeyMaterial[0].socID"),
        (Tag.STKMDelivery, {"items": (stkm(), replace(stkm(), status=256))}, "Data[1].status"),
        (Tag.STKMDelivery, {"items": (replace(stkm(), stream=65536),)}, "Data[0].stream"),
        (Tag.KeyDeliveryConfirmation, {"status": None}, "status"),
        (Tag.KeyDeliveryConfirmation, {"status": 256}, "status"),
        (Tag.LTKMRequest, {"start": None}, "DistributionStart"),
        (Tag.LTKMDelivery, {"items": (b"",)}, "Data[0]"),
        (Tag.KeyDelivery, {"start": -1}, "DistributionStart"),
        (Tag.KeyDelivery, {"time": T + 2**31 + 1}, "time"),
    ],
)
def test_what_the_schema_forbids_is_not_written(tag: Tag, changes: dict[str, object], field: str) -> None:
    with pytest.raises((BadValue, BadLength)) as caught:
        xml.encode(message(tag, **changes), NOW)
    assert caught.value.field == field and caught.value.offset is None


def test_r32_an_item_with_a_status_has_no_content() -> None:
    empty = StkmItem(stream=1, period_start=T, period_end=T + 1, tek_id="", status=Status.DELAYED)
    sent = message(Tag.TEKDeliveryConfirmation, items=(empty, stkm(1)))
    body = xml.encode(sent, NOW)
    assert b'status="19"></STKM>' in body and b"tekId" in body and xml.decode(body, Side.BSDA, NOW) == sent
    assert bad(body.replace(b'status="19"></STKM>', b'status="19">00</STKM>')).status == Status.INFORMATION_INVALID


def test_requests_have_answers_of_the_same_room() -> None:
    assert len(REQUESTS) == 10 and all(items_of(tag) or tag not in (Tag.KeyDelivery, Tag.TEKDelivery) for tag in REQUESTS)
