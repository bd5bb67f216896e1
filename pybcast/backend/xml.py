# SPDX-License-Identifier: Apache-2.0
"""Back-end messages as XML: decode and encode (SP-4, CP-4; backend-interface 4, rules R15, R26-R34).

Reading has two stages.  ``expat`` screens: well-formed UTF-8, no document type (hence no entities), at most two levels, only names
that the schema knows, bounded numbers of elements.  What passes is written again in one form (elements put into the namespace,
one per line) and validated by ``lxml`` against ``spcp.xsd``; only then it becomes a message.

Why twice: libxml2 under lxml keeps every name it ever met for the life of the process, so that a peer could fill the memory with
invented names; and R28 puts unqualified elements into the namespace before validation.  Validation goes on in batches while
an answer of up to 64 MiB comes in, so that neither its text nor its tree is ever held as a whole (R30).

A message about periods that is written just as :func:`encode` writes it is read with two patterns instead: four times as fast, and
there are thousands a second.  What does not fit them to the last octet, or is not a message to be taken, goes through both stages:
they alone say what is wrong.

Errors never hold a value out of a message, as it may be a key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from importlib import resources
from typing import Final, NoReturn, Protocol, TypeVar, cast, overload
from xml.parsers import expat

from lxml import etree

from pybcast.backend.errors import BadMessage, Echo, Unparseable, answer_tag
from pybcast.errors import BadLength, BadValue, PeerFlowError
from pybcast.flows.peers.messages import (
    KEY_SIZES,
    PROFILES,
    VERSION,
    BackendMessage,
    Item,
    KeyMaterial,
    KeyType,
    PartialItem,
    Profile,
    StkmItem,
    check,
)
from pybcast.flows.tables import TAGS, Side, Status, Tag
from pybcast.secret import Secret
from pybcast.wire.times import ntp64

NAMESPACE: Final = "urn:oma:xml:bcast:spcp:backend:1.0"  # backend-interface 4.1: sure
SCHEMA: Final = "spcp.xsd"  # confidence: own - the schema but for LTKMorRegRequest, its response, the envelope (4.1: sure)
MAX_REQUEST: Final = 1 << 20  # bytes (R30)
MAX_ANSWER: Final = 64 << 20  # bytes (R30)
MAX_ELEMENTS: Final = 2048  # elements of a request: above R30's 1,000, so that 1,001 get their status 21 - confidence: own
MAX_ANSWER_ELEMENTS: Final = 1 << 18  # elements of a pull's answer: 64 MiB hold 180,000 LTKMs of 180 bytes - confidence: own
BATCH: Final = 1000  # elements validated at a time: a delivery (R30) is one batch
MAX_TOKEN: Final = 1 << 20  # bytes of an unfinished tag: expat reads it again with each piece
MAX_CONTENT: Final = 1 << 20  # characters of one element: no message of any profile comes near
MAX_URI: Final = 1024  # characters of an id, as in the schema - confidence: own
MAX_ID: Final = 255  # characters of a messageID - confidence: own
MAX_TEXT: Final = 1024  # characters of other texts in attributes - confidence: own

_XS: Final = "{http://www.w3.org/2001/XMLSchema}"
_XSI: Final = "http://www.w3.org/2001/XMLSchema-instance"
_HINTS: Final = frozenset({f"{_XSI}\nschemaLocation", f"{_XSI}\nnoNamespaceSchemaLocation"})
"""Where a peer's tools say that the schema is: ignored, nothing is ever fetched."""

_ITEMS: Final = frozenset({"KeyMaterial", "PartialSTKM", "STKM", "Data"})
_TAGS_OF: Final[dict[str, tuple[Tag, ...]]] = {
    root: tuple(tag for tag, row in TAGS.items() if row.root == root) for root in dict.fromkeys(row.root for row in TAGS.values())
}
_REPLACE: Final = frozenset({Tag.KeyDelivery, Tag.PartialSTKMRequest, Tag.STKMDelivery})  # R32
_REPLACES: Final = frozenset({Tag.LTKMDelivery, Tag.RegDelivery})  # R32

_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:(?:[A-Za-z0-9\-._~:/?@!$&'()*+,;=]|%[0-9A-Fa-f]{2})+", re.ASCII)
_ILLEGAL: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SPECIAL: Final = re.compile('[&<>"\t\n\r]')
_ATTRIBUTE_IN_REPORT: Final = re.compile(r"attribute '(\w+)'")
_SPACE: Final = " \t\r\n"


def schema_text() -> bytes:
    """The schema as shipped (``spcp.xsd``)."""
    return resources.files("pybcast.backend").joinpath(SCHEMA).read_bytes()


def _parser() -> etree.XMLParser:
    # Belt and braces: what reaches libxml2 was written by us.
    return etree.XMLParser(
        encoding="utf-8", resolve_entities=False, load_dtd=False, dtd_validation=False, no_network=True, huge_tree=False
    )


_SCHEMA_TREE: Final = etree.fromstring(schema_text(), _parser())
_SCHEMA: Final = etree.XMLSchema(_SCHEMA_TREE)
_ELEMENTS: Final[Mapping[str, str]] = {
    form: str(name)
    for name in {e.get("name") for e in _SCHEMA_TREE.iter(f"{_XS}element")}
    for form in (f"{NAMESPACE}\n{name}", str(name))
}
"""Element as expat names it, qualified or not (R28) -> name."""
_ATTRIBUTES: Final = frozenset(str(e.get("name")) for e in _SCHEMA_TREE.iter(f"{_XS}attribute"))

_REPORTS: Final = (
    ("COMPLEX_TYPE_4", "required attribute is missing"),
    ("COMPLEX_TYPE_3", "attribute does not belong here"),
    ("ELEMENT_CONTENT", "element missing, repeated or out of order"),
    ("", "value not of its type"),
)
"""Part of libxml2's name for a fault -> what we say (its own words repeat the value)."""


class _Report(Protocol):
    """One fault, as libxml2 names it."""

    line: int
    message: str
    type_name: str


class _Stop(Exception):
    """Reading ends here: a limit was passed."""


class _Element:
    """One element under the root: as read, and as validated."""

    __slots__ = ("attributes", "index", "line", "name", "text", "written")

    def __init__(self, name: str, attributes: dict[str, str], line: int, index: int) -> None:
        self.name, self.attributes, self.line, self.index = name, attributes, line, index
        self.text = self.written = ""

    @property
    def path(self) -> str:
        return f"{self.name}[{self.index}]" if self.name in _ITEMS else self.name


class Reader:
    """Decodes one message piece by piece.

    ``receiver``: our side, which decides what may come.  ``now``: 64-bit NTP seconds, near which 32-bit times are (R15).
    ``max_elements``: how many elements under the root are taken.  :meth:`feed` and :meth:`close` raise ``Unparseable``,
    :meth:`close` also ``BadMessage``.
    """

    def __init__(self, receiver: Side, now: float, *, max_elements: int = MAX_ELEMENTS) -> None:
        self._receiver, self._now, self._max = receiver, now, max_elements
        parser = self._expat = expat.ParserCreate("utf-8", "\n")
        parser.buffer_text = True
        parser.buffer_size = 1 << 16
        parser.StartDoctypeDeclHandler = self._doctype
        parser.XmlDeclHandler = self._declaration
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        self._fed = self._depth = self._count = self._size = 0
        self._root = ""
        self._root_attributes: dict[str, str] = {}
        self._root_line = 1
        self._text: list[str] = []
        self._kept: list[_Element] = []  # all but items; and of a validated batch its last item, to hold the order
        self._pending: list[_Element] = []
        self._indices: dict[str, int] = {}
        self._items: list[Item] = []
        self._scope: dict[str, str] = {}
        self._tag: Tag | None = None
        self._answer_tag = answer_tag(Tag.LTKMRequest)
        self._fault: BadMessage | None = None
        self._stopped = False

    # --- pieces -------------------------------------------------------------------------------------------------------

    @property
    def fault(self) -> BadMessage | None:
        """What :meth:`close` is going to raise, as far as known: whoever need not know whether the rest is XML may stop."""
        return self._fault

    def feed(self, data: bytes) -> None:
        """The next piece of the body."""
        self._parse(data, final=False)

    def close(self) -> BackendMessage:
        """The body has ended: the message, checked also for what no schema can say."""
        self._parse(b"", final=True)
        if self._fault is None:
            self._validate(final=True)
        if self._fault is not None:
            raise self._fault
        return self._message()

    def _parse(self, data: bytes, *, final: bool) -> None:
        if self._stopped:
            return
        if b"\0" in data or (not self._fed and data[:1] in (b"\xfe", b"\xff")):  # UTF-16, which expat would take by itself
            self._stopped = True
            raise Unparseable("expected UTF-8")
        self._fed += len(data)
        try:
            self._expat.Parse(data, final)
        except expat.ExpatError as error:
            self._stopped = True
            text = expat.ErrorString(error.code)
            raise Unparseable(f"line {error.lineno}, column {error.offset}: {text}") from None
        except _Stop:
            self._stopped = True
        except BaseException:
            self._stopped = True
            raise
        if not final and self._fed - max(self._expat.CurrentByteIndex, 0) > MAX_TOKEN:
            self._stopped = True
            self._refuse(f"a tag of more than {MAX_TOKEN} bytes")

    # --- what expat sees ----------------------------------------------------------------------------------------------

    def _doctype(self, *_: object) -> NoReturn:
        # confidence: own - a document type is HTTP 400: refused before its first declaration, so that nothing was parsed (R27)
        raise Unparseable(f"line {self._expat.CurrentLineNumber}: document type declarations are refused")

    def _declaration(self, version: str, encoding: str | None, standalone: int) -> None:
        if encoding is not None and encoding.lower() not in ("utf-8", "us-ascii"):
            raise Unparseable("expected UTF-8")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._fault is not None:
            self._count += 1
            if self._depth > 2 or self._count > self._max:
                raise _Stop  # enough has been read to answer
            return
        line = self._expat.CurrentLineNumber
        known = _ELEMENTS.get(name)
        if self._depth == 1:
            self._begin(name, known, attributes, line)
        elif self._depth > 2:
            self._refuse("an element inside", line, f"{self._root}.{self._pending[-1].path}")
            raise _Stop
        elif known is None or known in _TAGS_OF:
            self._refuse(f"unknown element, or not of the namespace {NAMESPACE}", line, self._root)
        else:
            self._child(known, attributes, line)

    def _begin(self, name: str, known: str | None, attributes: dict[str, str], line: int) -> None:
        self._root_attributes, self._root_line = attributes, line
        local = name.rpartition("\n")[2]
        candidates = _TAGS_OF.get(local, ())
        number = attributes.get("tag", "").strip(_SPACE)
        tag = Tag(int(number)) if re.fullmatch("[0-9]{1,3}", number) and int(number) in Tag._value2member_map_ else None
        if tag in candidates:
            self._tag = tag
        # confidence: own - an unknown root is refused by its tag, else with 14, the answer that everyone knows (4.1)
        self._answer_tag = answer_tag(self._tag or (candidates[0] if candidates else tag or Tag.LTKMRequest))
        if known is None or not candidates:
            self._refuse(f"unknown root element, or not of the namespace {NAMESPACE}", line)
            return
        self._root = local
        if not attributes.keys() <= _ATTRIBUTES:
            self._drop_hints(attributes, local, line)

    def _child(self, name: str, attributes: dict[str, str], line: int) -> None:
        self._count += 1
        if self._count > self._max:
            self._refuse(f"more than {self._max} elements", line)
            raise _Stop
        if len(self._pending) >= BATCH or self._size >= MAX_CONTENT:
            self._validate(final=False)
            if self._fault is not None:
                return
        index = self._indices.get(name, 0)
        self._indices[name] = index + 1
        element = _Element(name, attributes, line, index)
        if not attributes.keys() <= _ATTRIBUTES:
            self._drop_hints(attributes, f"{self._root}.{element.path}", line)
        self._pending.append(element)

    def _drop_hints(self, attributes: dict[str, str], path: str, line: int) -> None:
        if not attributes.keys() <= _ATTRIBUTES | _HINTS:
            self._refuse("unknown attribute", line, path)
        for hint in _HINTS:
            attributes.pop(hint, None)

    def _characters(self, text: str) -> None:
        if self._depth == 2 and self._fault is None:
            self._text.append(text)
            self._size += len(text)
            if self._size > 2 * MAX_CONTENT:
                self._refuse(
                    f"more than {MAX_CONTENT} characters", self._pending[-1].line, f"{self._root}.{self._pending[-1].path}"
                )
                raise _Stop
        elif text.strip(_SPACE) and self._fault is None:
            self._refuse("text between elements", self._expat.CurrentLineNumber, self._root)

    def _end(self, name: str) -> None:
        self._depth -= 1
        if self._depth == 1 and self._fault is None:
            element = self._pending[-1]
            element.text = "".join(self._text)
            element.written = _written(element.name, element.attributes, element.text)
            self._text.clear()
            if element.name not in _ITEMS and len(element.text) <= MAX_URI:
                self._scope.setdefault(element.name, element.text.strip(_SPACE))

    # --- faults -------------------------------------------------------------------------------------------------------

    def _refuse(self, what: str, line: int | None = None, field: str = "", status: int = Status.MALFORMED) -> None:
        if self._fault is None:
            self._fault = BadMessage(status, what, line=line, field=field, echo=self._echo())
            self._pending.clear()
            self._text.clear()

    def _echo(self) -> Echo:
        def uri(text: str | None) -> str | None:
            return text if text is not None and is_uri(text) else None

        message_id = self._root_attributes.get("messageID", "")
        profile = self._scope.get("Profile")
        return Echo(
            answer_tag=self._answer_tag,
            message_id=message_id if 0 < len(message_id) <= MAX_ID else None,
            source=uri(self._root_attributes.get("source", "").strip(_SPACE)),
            service=uri(self._scope.get("GlobalServiceID")),
            profile=profile if profile in PROFILES else None,
        )

    # --- validation ---------------------------------------------------------------------------------------------------

    def _validate(self, *, final: bool) -> None:
        """What is pending, as a document of its own with the envelope and all that is not an item."""
        elements = [*self._kept, *self._pending]
        head = _written(self._root, self._root_attributes, None)
        document = "\n".join([head, *(e.written for e in elements), f"</{self._root}>"])
        self._size = 0
        tree = etree.fromstring(document.encode(), _parser())
        if not _SCHEMA.validate(tree):
            report = cast("Sequence[_Report]", _SCHEMA.error_log)[0]
            element = elements[report.line - 2] if 2 <= report.line < len(elements) + 2 else None
            what = next(text for part, text in _REPORTS if part in report.type_name)
            attribute = _ATTRIBUTE_IN_REPORT.search(report.message)
            name = attribute[1] if attribute is not None and attribute[1] in _ATTRIBUTES else ""
            path = ".".join(part for part in (self._root, element.path if element else "", name) if part)
            self._refuse(what, element.line if element else self._root_line, path)
            return
        if self._tag is None:
            self._refuse("tag does not go with the root element", self._root_line, f"{self._root}.tag", Status.INFORMATION_INVALID)
            return
        items = [element for element in self._pending if element.name in _ITEMS]
        self._items.extend(self._item(element) for element in items)
        if not final:
            self._kept = [e for e in self._kept if e.name not in _ITEMS]
            self._kept += [e for e in self._pending if e.name not in _ITEMS or e is items[-1]]
        self._pending = []

    # --- the message --------------------------------------------------------------------------------------------------

    def _time(self, text: str | None) -> int | None:
        return None if text is None else ntp64(int(text), self._now)

    def _message(self) -> BackendMessage:
        a, scope, tag = self._root_attributes, self._scope, self._tag
        assert tag is not None
        message = BackendMessage(
            tag=tag,
            message_id=a["messageID"],
            source=a["source"].strip(_SPACE),
            destination=a["destination"].strip(_SPACE),
            service=scope["GlobalServiceID"],
            content=scope.get("GlobalContentID"),
            schedule=scope.get("ScheduleID"),
            profile=cast("Profile | None", scope.get("Profile")),
            status=_number(a.get("status")),
            start=self._time(scope.get("DistributionStart")),
            end=self._time(scope.get("DistributionEnd")),
            replace=_truth(a.get("replace")),
            fresh=_truth(a.get("fresh")),
            replaces=a.get("replaces"),
            attempt=self._time(a.get("attempt")),
            version=int(a.get("version", VERSION)),
            time=self._time(a.get("time")),
            stream=_number(a.get("stream")),
            items=tuple(self._items),
        )
        try:
            check(message, self._receiver)
        except PeerFlowError as error:
            self._refuse(error.reason, None, self._root, error.status)
            assert self._fault is not None
            raise self._fault from None
        return message

    def _item(self, element: _Element) -> Item:
        a, text = element.attributes, element.text
        if element.name == "KeyMaterial":
            return self._key_material(a, text)
        if "periodStart" not in a:
            return bytes.fromhex(text)
        start, end = ntp64(int(a["periodStart"]), self._now), ntp64(int(a["periodEnd"]), self._now)
        stream, tek_id = int(a["stream"]), a.get("tekId", "")
        if element.name == "PartialSTKM":
            return PartialItem(
                stream=stream, period_start=start, period_end=end, tek_id=tek_id, content=Secret(bytes.fromhex(text))
            )
        return StkmItem(
            stream=stream,
            period_start=start,
            period_end=end,
            tek_id=tek_id,
            status=int(a.get("status", Status.SUCCESS)),
            content=bytes.fromhex(text),
            authority_end=self._time(a.get("authorityEnd")),
        )

    def _key_material(self, a: dict[str, str], text: str) -> KeyMaterial:
        return KeyMaterial(
            key_type=cast(KeyType, a["keyType"]),
            key_id=bytes.fromhex(a["keyId"]),
            key=Secret(bytes.fromhex(text)),
            stream=int(a["stream"]),
            valid_from=ntp64(int(a["validFrom"]), self._now),
            valid_to=ntp64(int(a["validTo"]), self._now),
            csb_id=_octets(a.get("csbId")),
            rand=_octets(a.get("rand")),
            ts_low=_number(a.get("tsLow")),
            ts_high=_number(a.get("tsHigh")),
            first_counter=_number(a.get("firstCounter")),
            granularity=_number(a.get("granularity")),
            next_counter=_number(a.get("nextCounter")),
            protection_after_reception=_number(a.get("protectionAfterReception")),
            permissions_category=_number(a.get("permissionsCategory")),
            access_criteria=self._criteria(_octets(a.get("accessCriteria"))),
            socID=a.get("socID"),
            serviceBaseCID=a.get("serviceBaseCID"),
        )

    def _criteria(self, data: bytes | None) -> tuple[tuple[int, bytes], ...] | None:
        if data is None:
            return None
        found, rest = [], data[1:]
        for _ in range(data[0]):
            if len(rest) < 2 or len(rest) < 2 + rest[1]:
                break
            found.append((rest[0], rest[2 : 2 + rest[1]]))
            rest = rest[2 + rest[1] :]
        if rest or len(found) != data[0]:
            self._refuse("not a list of access criteria", None, "KeyMaterial.accessCriteria", Status.INFORMATION_INVALID)
        return tuple(found)


def decode(data: bytes, receiver: Side, now: float, *, max_elements: int = MAX_ELEMENTS) -> BackendMessage:
    """The message in a body that came from the peer.

    ``receiver``: our side.  ``now``: 64-bit NTP seconds; times on the interface have 32 bits and mean those nearest to it (R15).
    ``Unparseable`` for what is not XML, ``BadMessage`` (with the status to answer, line and field) for any other message that
    cannot be accepted.  Size is the transport's to limit: ``MAX_REQUEST``, ``MAX_ANSWER``.
    """
    message = _as_written(data, receiver, now, max_elements)
    if message is None:
        reader = Reader(receiver, now, max_elements=max_elements)
        reader.feed(data)
        message = reader.close()
    return message


_VALUE: Final = "[ !#-%'-;=?-~]"  # a character of an attribute that is not escaped, of ASCII
_HEAD: Final = re.compile(
    f'<([A-Za-z]+) xmlns="{NAMESPACE}" tag="([0-9]{{1,3}})" version="([0-9]{{1,10}})" messageID="({_VALUE}{{1,{MAX_ID}}})"'
    f' destination="({_VALUE}+)" source="({_VALUE}+)"(?: status="([0-9]{{1,3}})")?(?: time="([0-9]{{1,10}})")?'
    '(?: stream="([0-9]{1,5})")?( replace="true")?>'
    "<GlobalServiceID>([^<>&]+)</GlobalServiceID>(?:<GlobalContentID>([^<>&]+)</GlobalContentID>)?"
    "(?:<ScheduleID>([^<>&]+)</ScheduleID>)?<Profile>(drm|smartcard)</Profile>"
)
_PERIOD: Final = re.compile(
    '<(PartialSTKM|STKM|Data) stream="([0-9]{1,5})" periodStart="([0-9]{1,10})" periodEnd="([0-9]{1,10})"'
    f'(?: tekId="({_VALUE}{{1,{MAX_TEXT}}})")?(?: status="([0-9]{{1,3}})")?(?: authorityEnd="([0-9]{{1,10}})")?>([0-9a-f]*)</\\1>'
)
_TAIL: Final = re.compile(
    "(?:<DistributionStart>([0-9]{1,10})</DistributionStart>)?(?:<DistributionEnd>([0-9]{1,10})</DistributionEnd>)?</([A-Za-z]+)>"
)
_OF_PERIODS: Final = {
    Tag.PartialSTKMRequestResponse: "PartialSTKM", Tag.TEKDelivery: "PartialSTKM", Tag.TEKDeliveryConfirmation: "STKM",
    Tag.STKMRequestResponse: "Data", Tag.STKMDelivery: "Data", Tag.STKMDeliveryConfirmation: "",
}  # fmt: skip
_BY_ROOT: Final = {(TAGS[tag].root, str(int(tag))): tag for tag in _OF_PERIODS}
_SCOPE: Final = 6  # elements of a message beside its items


def _as_written(data: bytes, receiver: Side, now: float, max_elements: int) -> BackendMessage | None:
    """The message of a body in the form of :func:`encode`; ``None``: it is another, or is not to be taken."""
    first = int(now) - 0x7FFFFFFF  # of the 64-bit times that 32 bits can mean
    if len(data) > MAX_REQUEST or not data.isascii() or first < 0:
        return None
    text = data.decode()
    head = _HEAD.match(text)
    if head is None:
        return None
    root, number, version, message_id, destination, source, status, time, stream, replace, *scope, profile = head.groups()
    tag = _BY_ROOT.get((root, number))
    if tag is None or (replace is not None and tag is not Tag.STKMDelivery):
        return None
    if not all(map(_is_good_uri, filter(None, (destination, source, *scope)))):
        return None
    kind, items, at, most = _OF_PERIODS[tag], list[Item](), head.end(), min(BATCH, max_elements - _SCOPE)
    try:
        while len(items) <= most and (found := _PERIOD.match(text, at)) is not None:
            items.append(_period_item(kind, first, *found.groups()))
            at = found.end()
        tail = _TAIL.fullmatch(text, at)
        if tail is None or tail[3] != root or len(items) > most:
            return None
        message = BackendMessage(
            tag=tag, message_id=message_id, source=source, destination=destination, service=scope[0], content=scope[1],
            schedule=scope[2], profile=cast(Profile, profile), status=None if status is None else _octet(status),
            start=_nearest(tail[1], first), end=_nearest(tail[2], first), replace=replace is not None, version=int(version),
            time=_nearest(time, first), stream=_number(stream), items=tuple(items),
        )  # fmt: skip
        check(message, receiver)
    except (ValueError, PeerFlowError):
        return None
    return message


def _period_item(
    kind: str, first: int, name: str, stream: str, start: str, end: str, tek_id: str | None, status: str | None,
    authority_end: str | None, content: str,
) -> PartialItem | StkmItem:  # fmt: skip
    if name != kind:
        raise ValueError
    if kind != "PartialSTKM":
        return StkmItem(
            stream=int(stream), period_start=_nearest(start, first), period_end=_nearest(end, first), tek_id=tek_id or "",
            status=_octet(status or "0"), content=bytes.fromhex(content),
            authority_end=_nearest(authority_end, first),
        )  # fmt: skip
    if not content or status is not None or authority_end is not None:
        raise ValueError
    return PartialItem(
        stream=int(stream), period_start=_nearest(start, first), period_end=_nearest(end, first), tek_id=tek_id or "",
        content=Secret(bytes.fromhex(content)),
    )  # fmt: skip


@overload
def _nearest(text: str, first: int) -> int: ...
@overload
def _nearest(text: str | None, first: int) -> int | None: ...
def _nearest(text: str | None, first: int) -> int | None:
    """As ``ntp64``, for many."""
    if text is None:
        return None
    value = int(text)
    if value > 0xFFFFFFFF:
        raise ValueError
    return first + ((value - first) & 0xFFFFFFFF)


def _octet(text: str) -> int:
    value = int(text)
    if value > 0xFF:
        raise ValueError
    return value


@lru_cache(maxsize=8192)
def _is_good_uri(text: str) -> bool:
    """As the schema says: libxml2 does not take all that the pattern allows."""
    if not is_uri(text):
        return False
    root = "STKMDeliveryConfirmation"
    some = {"tag": "12", "messageID": "x", "destination": "urn:x", "source": "urn:x", "status": "0"}
    scope = _written("GlobalServiceID", {}, text)
    return _SCHEMA.validate(etree.fromstring(f"{_written(root, some, None)}{scope}</{root}>", _parser()))


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)


def _octets(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


def _truth(text: str | None) -> bool:
    return text is not None and text.strip(_SPACE) in ("true", "1")


@lru_cache(maxsize=8192)
def is_uri(text: str) -> bool:
    return len(text) <= MAX_URI and _URI.fullmatch(text) is not None


def _reference(found: re.Match[str]) -> str:
    return f"&#{ord(found[0])};"


def _escape(text: str) -> str:
    return text if text.isalnum() else _SPECIAL.sub(_reference, text)


def _written(name: str, attributes: Mapping[str, str], text: str | None) -> str:
    """An element on one line; without ``text``, the start tag of the root."""
    out = "".join([f' {key}="{_escape(value)}"' for key, value in attributes.items()])
    if text is None:
        return f'<{name} xmlns="{NAMESPACE}"{out}>'
    return f"<{name}{out}>{_escape(text)}</{name}>"


# --- encode -----------------------------------------------------------------------------------------------------------


def encode(message: BackendMessage, now: float) -> bytes:
    """A message as the body of a request or an answer, UTF-8.

    ``now``: 64-bit NTP seconds; a time that 32 bits cannot tell the peer (68 years away, R15) is refused.  ``BadValue`` and
    ``BadLength`` name the field, as on the interface, that the schema does not allow.  What only the flows know (which keys go with
    which profile) is theirs to get right.
    """
    tag = message.tag
    row = TAGS[tag]
    attributes: dict[str, str] = {
        "tag": str(int(tag)),
        "version": _uint(message.version, 32, "version"),
        "messageID": _text(message.message_id, "messageID", MAX_ID, least=1),
        "destination": _uri(message.destination, "destination"),
        "source": _uri(message.source, "source"),
    }
    if row.answer is None:
        if message.status is None:
            raise BadValue(None, "status", "a status in an answer", "none")
        attributes["status"] = _uint(message.status, 8, "status")
    elif message.status is not None:
        raise BadValue(None, "status", "none in a request", str(int(message.status)))
    if message.time is not None:
        attributes["time"] = _when(message.time, now, "time")
    if message.stream is not None:
        attributes["stream"] = _uint(message.stream, 16, "stream")
    for name, value, allowed in (
        ("replace", message.replace, tag in _REPLACE),
        ("fresh", message.fresh, tag is Tag.KeyRequest or message.attempt is not None),
        ("replaces", message.replaces, tag in _REPLACES),
        ("attempt", message.attempt, tag is Tag.KeyDelivery),
    ):
        if value and not allowed:
            raise BadValue(None, name, f"nothing with {tag.name}", "it")
    if message.replace:
        attributes["replace"] = "true"
    if message.fresh:
        attributes["fresh"] = "true"
    if message.replaces is not None:
        attributes["replaces"] = _text(message.replaces, "replaces", MAX_ID, least=1)
    if message.attempt is not None:
        attributes["attempt"] = _when(message.attempt, now, "attempt")
    out = [
        _written(row.root, attributes, None),
        f"<GlobalServiceID>{_escape(_uri(message.service, 'GlobalServiceID'))}</GlobalServiceID>",
    ]
    for name, scope in (("GlobalContentID", message.content), ("ScheduleID", message.schedule)):
        if scope is not None:
            out.append(f"<{name}>{_escape(_uri(scope, name))}</{name}>")
    _encode_profile(message, out)
    out.extend(_encode_items(message, now))
    for name, time in (("DistributionStart", message.start), ("DistributionEnd", message.end)):
        if time is not None:
            out.append(f"<{name}>{_when(time, now, name)}</{name}>")
        elif row.root == "LTKMorRegRequest":
            raise BadValue(None, name, "a time", "none")
    out.append(f"</{row.root}>")
    return "".join(out).encode()


def _encode_profile(message: BackendMessage, out: list[str]) -> None:
    if message.profile is None:
        if message.tag <= Tag.STKMDeliveryConfirmation and not message.is_answer:
            raise BadValue(None, "Profile", f"a profile with {message.tag.name}", "none")
    elif message.tag > Tag.STKMDeliveryConfirmation or message.profile not in PROFILES:
        raise BadValue(None, "Profile", f"{' or '.join(PROFILES)}, in tags 1..12 only", message.profile)
    else:
        out.append(f"<Profile>{message.profile}</Profile>")


_I = TypeVar("_I", KeyMaterial, PartialItem, StkmItem, bytes)


def _encode_items(message: BackendMessage, now: float) -> Iterable[str]:
    tag, items = message.tag, message.items

    def of(kind: type[_I]) -> Iterable[tuple[str, _I]]:
        for n, item in enumerate(items):
            if not isinstance(item, kind):
                raise BadValue(None, f"items[{n}]", f"{kind.__name__} with {tag.name}", type(item).__name__)
            yield f"[{n}]", item

    match tag:
        case Tag.KeyRequestResponse | Tag.KeyDelivery:
            out = [_encode_key(key, now, f"KeyMaterial{at}") for at, key in of(KeyMaterial)]
        case Tag.PartialSTKMRequestResponse | Tag.TEKDelivery:
            out = [_encode_partial(item, now, f"PartialSTKM{at}") for at, item in of(PartialItem)]
        case Tag.TEKDeliveryConfirmation:
            out = [_encode_stkm(item, now, "STKM", at) for at, item in of(StkmItem)]
        case Tag.STKMRequestResponse | Tag.STKMDelivery:
            out = [_encode_stkm(item, now, "Data", at) for at, item in of(StkmItem)]
        case Tag.LTKMRequestResponse | Tag.LTKMDelivery | Tag.RegRequestResponse | Tag.RegDelivery:
            out = [f"<Data>{_hex(data, f'Data{at}')}</Data>" for at, data in of(bytes)]
        case _:
            if items:
                raise BadValue(None, "items", f"none with {tag.name}", str(len(items)))
            return []
    if not out and not message.is_answer and message.attempt is None:
        raise BadLength(None, "items", f"at least one with {tag.name}", "none")
    return out


def _encode_period(item: PartialItem | StkmItem, now: float, path: str) -> str:
    out = (
        f' stream="{_uint(item.stream, 16, path, ".stream")}" periodStart="{_when(item.period_start, now, path, ".periodStart")}"'
        f' periodEnd="{_when(item.period_end, now, path, ".periodEnd")}"'
    )
    return f'{out} tekId="{_escape(_text(item.tek_id, path + ".tekId"))}"' if item.tek_id else out


def _encode_partial(item: PartialItem, now: float, path: str) -> str:
    return f"<PartialSTKM{_encode_period(item, now, path)}>{_hex(item.content.reveal(), path)}</PartialSTKM>"


def _encode_stkm(item: StkmItem, now: float, name: str, at: str) -> str:
    path = name + at
    out = f'{_encode_period(item, now, path)} status="{_uint(item.status, 8, path, ".status")}"'
    if item.authority_end is not None:
        out += f' authorityEnd="{_when(item.authority_end, now, path, ".authorityEnd")}"'
    return f"<{name}{out}>{item.content.hex()}</{name}>"


def _encode_key(key: KeyMaterial, now: float, path: str) -> str:
    if key.key_type not in KEY_SIZES:
        raise BadValue(None, f"{path}.keyType", " | ".join(KEY_SIZES), "another")
    attributes: dict[str, str | None] = {
        "keyType": key.key_type,
        "keyId": _hex(key.key_id, f"{path}.keyId"),
        "stream": _uint(key.stream, 16, f"{path}.stream"),
        "validFrom": _when(key.valid_from, now, f"{path}.validFrom"),
        "validTo": _when(key.valid_to, now, f"{path}.validTo"),
        "accessCriteria": None if key.access_criteria is None else _encode_criteria(key.access_criteria, path),
    }
    for name, octets in (("csbId", key.csb_id), ("rand", key.rand)):
        empty = name == "rand" and octets == b""  # a provisioned key's (backend-interface 4.5)
        attributes[name] = None if octets is None else "" if empty else _hex(octets, f"{path}.{name}")
    for name, number, bits in (
        ("tsLow", key.ts_low, 32),
        ("tsHigh", key.ts_high, 32),
        ("firstCounter", key.first_counter, 32),
        ("granularity", key.granularity, 32),
        ("nextCounter", key.next_counter, 32),
        ("protectionAfterReception", key.protection_after_reception, 8),
        ("permissionsCategory", key.permissions_category, 8),
    ):
        attributes[name] = None if number is None else _uint(number, bits, f"{path}.{name}")
    for name, text in (("socID", key.socID), ("serviceBaseCID", key.serviceBaseCID)):
        attributes[name] = None if text is None else _text(text, f"{path}.{name}")
    present = {name: value for name, value in attributes.items() if value is not None}
    return _written("KeyMaterial", present, _hex(key.key.reveal(), path))


def _encode_criteria(criteria: tuple[tuple[int, bytes], ...], path: str) -> str:
    field = f"{path}.accessCriteria"
    if len(criteria) > 255 or any(not 0 <= tag <= 255 or len(value) > 255 for tag, value in criteria):
        raise BadLength(None, field, "at most 255 descriptors of at most 255 bytes", f"{len(criteria)} descriptors")
    return (bytes([len(criteria)]) + b"".join(bytes([tag, len(value)]) + value for tag, value in criteria)).hex()


def _uint(value: int, bits: int, *field: str) -> str:
    if not 0 <= value < 1 << bits:
        raise BadValue(None, "".join(field), f"0..{(1 << bits) - 1}", str(value))
    return str(int(value))


def _when(value: int, now: float, *field: str) -> str:
    low = value & 0xFFFFFFFF
    # nearest-to-now can only be wrong far away; asking it for every time would cost as much as the rest
    if value < 0 or (not -0x7FFF0000 < value - now < 0x7FFF0000 and ntp64(low, now) != value):
        raise BadValue(None, "".join(field), "a time within 68 years of now (R15)", str(value))
    return str(low)


def _uri(value: str, field: str) -> str:
    if not is_uri(value):
        raise BadValue(None, field, f"an absolute URI of at most {MAX_URI} characters", f"{len(value)} characters")
    return value


def _text(value: str, field: str, most: int = MAX_TEXT, *, least: int = 0) -> str:
    if not least <= len(value) <= most:
        raise BadLength(None, field, f"{least}..{most} characters", str(len(value)))
    if not value.isalnum() and _ILLEGAL.search(value):
        raise BadValue(None, field, "characters that XML can carry", "others")
    return value


def _hex(value: bytes, field: str) -> str:
    if not value:
        raise BadLength(None, field, "at least 1 byte", "0")
    return value.hex()
