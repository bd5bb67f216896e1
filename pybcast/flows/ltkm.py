# SPDX-License-Identifier: Apache-2.0
"""Who is entitled to a long-term key, and the LTKMs that carry it to them (R2-R4, R7, R19, R21, R36)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from pybcast import codec
from pybcast.errors import KeyUnavailable, LocalFlowError
from pybcast.flows.agenda import Agenda
from pybcast.flows.allocator import SmkCounters
from pybcast.flows.config import REISSUE_CYCLES, StreamConfig
from pybcast.flows.events import Journal
from pybcast.flows.serial import WITHDRAWAL, counter_of
from pybcast.flows.spcp import KeyMaterial, Profile
from pybcast.flows.stkm import key_identity
from pybcast.keys import IEK, RIAK, SMK, UDK, UGK, GroupRoot, GroupTree, Keys, mask_of
from pybcast.messages import (
    AddressMode,
    ClearAsset,
    ClearBcro,
    ClearSmartcardLtkm,
    ClearSmartcardParental,
    Kind,
    Permission,
    Reporting,
    SmartcardVerification,
)
from pybcast.secret import Secret

BCRO_TIME_JUMP: Final = 60  # seconds, after a restore from an older copy: past stamps it cannot know of (R21) - confidence: own
FIRST_COPIES: Final = 3  # of the LTKM that must not be lost before another one of its SEK - confidence: own
NO_KEY: Final = Secret(bytes(16))
"""The key field of a withdrawal (R3)."""
_EXT: Final = b"\x15"  # MIKEY next payload 21: an extension follows the header, so this verification message reports


@dataclass(frozen=True, kw_only=True)
class Group:
    """A subscriber group of the DRM Profile: ``address`` 4 bytes, 256 or 512 positions, and its keys (drm-profile 2.3)."""

    address: bytes
    size: Literal[256, 512]
    root: GroupRoot
    ugk: UGK
    riak: RIAK


@dataclass(frozen=True, kw_only=True)
class Subscriber:
    """One subscriber and what registration gave him.

    Smartcard Profile: ``smk`` and ``idr`` (B-TID).  DRM Profile: ``group`` address, ``position``, and the device's own ``udk``
    and ``riak``.
    """

    id: str
    smk: SMK | None = None
    idr: str = ""
    group: bytes = b""
    position: int = 0
    udk: UDK | None = None
    riak: RIAK | None = None

    @property
    def profile(self) -> Profile:
        return "smartcard" if self.smk is not None else "drm"


@dataclass(frozen=True, kw_only=True)
class Right:
    """What a subscriber may see: a stream, or one programme of it, in [start, end) NTP seconds."""

    service: str
    stream: int
    start: int
    end: int
    content: str | None = None


Addressee = tuple[str, bytes | str]
"""("card", subscriber id) or ("group", group address)."""


@dataclass(frozen=True)
class Awaited:
    """An LTKM that asked for verification (R36)."""

    subscriber: str
    rand: bytes | None
    key_id: bytes


@dataclass(frozen=True)
class Letter:
    """One LTKM as it was made: for whom, for which key, with which window."""

    data: bytes
    addressee: Addressee
    key_id: bytes = b""
    window: tuple[int, int] | None = None


PageKey = tuple[str, int, str]


@dataclass(frozen=True)
class Page:
    """Letters that go out in one delivery and turn on the carousel together.

    ``ids``: (BSD/A, messageID of its delivery); ``replaces``: (BSD/A, messageID of the delivery it takes the place of there).
    ``struck``: the subscribers whose letters are not issued again.
    """

    service: str
    stream: int
    name: str
    letters: tuple[Letter, ...]
    end: int
    issued_at: float
    ids: tuple[tuple[str, str], ...]
    replaces: tuple[tuple[str, str], ...] = ()
    confirmed: frozenset[str] = field(default=frozenset())
    struck: frozenset[str] = field(default=frozenset())

    @property
    def key(self) -> PageKey:
        return (self.service, self.stream, self.name)

    @property
    def data(self) -> tuple[bytes, ...]:
        return tuple(letter.data for letter in self.letters)

    @property
    def healing(self) -> bool:
        """Whether it is issued again every few cycles: only what a COUNTER protects from being taken twice (R7)."""
        return any(letter.window is not None for letter in self.letters) and not self.dead

    @property
    def dead(self) -> bool:
        """Whether nothing of it is issued again: it still turns on the carousel, and the next page takes its place."""
        return all(letter.window is not None and letter.addressee[1] in self.struck for letter in self.letters)


class Issuer:
    """Makes the LTKMs of a BSM and keeps account of them.

    ``fqdn``: the BSM's name in MIKEY messages (IDi).  ``streams``: how often the LTKMs of each turn on the carousel (R7).
    """

    def __init__(
        self,
        fqdn: str,
        journal: Journal,
        randomness: Callable[[int], bytes],
        rights_issuer_id: bytes | None,
        streams: Iterable[StreamConfig],
    ) -> None:
        self._idi = fqdn.encode()
        self._journal = journal
        self._randomness = randomness
        self._rights_issuer_id = rights_issuer_id
        self._reissue = {config.key: REISSUE_CYCLES * config.carousel_cycle for config in streams}
        self.counters = SmkCounters(journal)
        self._rights: dict[tuple[str, int], dict[str, list[Right]]] = {}
        for key, right in journal.rows("right", Right).items():
            self._index(str(key[0]), right)
        self._due: Agenda[PageKey] = Agenda()
        self._by_id: dict[str, PageKey] = {}
        for page in journal.rows("page", Page).values():
            self._watch(page)

    def distrust(self, now: float) -> None:
        """The memory is an older copy: COUNTERs and BCRO timestamps go past what it cannot know of (R2, R21)."""
        self.counters.jump()
        self._journal.put("bcro-floor", (), int(now) + BCRO_TIME_JUMP)
        for key, stamp in self._journal.rows("bcro-time", int).items():
            self._journal.put("bcro-time", key, max(stamp, int(now)) + BCRO_TIME_JUMP)

    # --- subscribers and rights ---------------------------------------------------------------------------------------

    def add(self, subscriber: Subscriber) -> None:
        """A new subscriber, or new keys of an old one.  ``LocalFlowError`` for a device of a group that is not known."""
        if subscriber.profile == "drm" and self._journal.get("group", (subscriber.group,), Group) is None:
            raise LocalFlowError(f"subscriber {subscriber.id}: its group is not known")
        held = self._journal.get("subscriber", (subscriber.id,), Subscriber)
        if subscriber.smk is not None and (held is None or held.smk != subscriber.smk):
            self.counters.restart(subscriber.id)  # a new SMK restarts its COUNTER, an old one never (smartcard-profile 4.6, R2)
        self._journal.put("subscriber", (subscriber.id,), subscriber)

    def subscriber(self, name: str) -> Subscriber:
        """``LocalFlowError`` for one that is not known."""
        row = self._journal.get("subscriber", (name,), Subscriber)
        if row is None:
            raise LocalFlowError(f"no subscriber {name}")
        return row

    def is_smartcard(self, name: str) -> bool:
        return self.subscriber(name).profile == "smartcard"

    def addressee(self, name: str) -> Addressee:
        """Who gets the LTKM of a subscriber: his card, or his group."""
        row = self.subscriber(name)
        return ("card", row.id) if row.profile == "smartcard" else ("group", row.group)

    def grant(self, config: StreamConfig, name: str, right: Right) -> None:
        """A right; what was issued to him before on this stream, a withdrawal above all, is not issued again."""
        self.subscriber(name)
        self._strike(config, name)
        self._journal.put("right", (name, right.service, right.stream, right.start, right.end, right.content), right)
        self._index(name, right)

    def _index(self, name: str, right: Right) -> None:
        rights = self._rights.setdefault((right.service, right.stream), {}).setdefault(name, [])
        if right not in rights:
            rights.append(right)

    def rights(self, name: str, config: StreamConfig) -> list[Right]:
        return self._rights.get(config.key, {}).get(name, [])

    def forget(self, config: StreamConfig, name: str) -> None:
        """Drop every right of a subscriber to a stream, and his letters from what is issued again."""
        self._rights.get(config.key, {}).pop(name, None)
        for key in self._journal.select("right", (name, *config.key), Right):
            self._journal.drop("right", key)
        self._strike(config, name)

    def _strike(self, config: StreamConfig, name: str) -> None:
        """Take a card's letters off the pages that are issued again (R7)."""
        for page in self.pages(config):
            if any(letter.addressee == ("card", name) for letter in page.letters):
                page = replace(page, struck=page.struck | {name})
                self._journal.put("page", page.key, page)
                self._watch(page)

    # --- making LTKMs -------------------------------------------------------------------------------------------------

    def issue(
        self, config: StreamConfig, key: KeyMaterial, now: float, programme: str | None, only: Addressee | None
    ) -> tuple[Letter, ...]:
        """The LTKMs that carry ``key`` to everyone entitled, or to ``only``."""
        entitled = self._rights.get(config.key, {})
        if key.key_type in ("SEK", "PEK"):
            names = entitled if only is None else [only[1]] if only[0] == "card" else []
            return tuple(letter for name in names for letter in self._letters(config, key, str(name), verify=False))
        groups = sorted({self.subscriber(n).group for n in entitled if not self.is_smartcard(n)})
        if only is not None:
            groups = [bytes(only[1])] if only[0] == "group" and isinstance(only[1], bytes) else []
        letters = (self._bcro(config, key, address, now, programme) for address in groups)
        return tuple(letter for letter in letters if letter is not None)

    def personal(self, config: StreamConfig, key: KeyMaterial, name: str, now: float, programme: str | None) -> list[bytes]:
        """The LTKMs of one subscriber for the interaction channel; a card is asked to verify (R19, R36)."""
        if not self.rights(name, config):
            return []
        if self.is_smartcard(name):
            if key.key_type not in ("SEK", "PEK"):
                return []
            return [letter.data for letter in self._letters(config, key, name, verify=True)]
        if key.key_type in ("SEK", "PEK"):
            return []
        letter = self._bcro(config, key, self.subscriber(name).group, now, programme)
        return [] if letter is None else [letter.data]

    def _letters(self, config: StreamConfig, key: KeyMaterial, name: str, *, verify: bool) -> list[Letter]:
        subscriber = self.subscriber(name)
        if subscriber.smk is None:
            return []
        assert key.ts_low is not None
        windows = _union(w for right in self.rights(name, config) if (w := _window(right, key)) is not None)
        if windows and self._journal.get("told", (key.key_id, name), bool) is None:
            # The first LTKM of a SEK fixes the card's COUNTER just below its window, for good (R3).  Where that window is a
            # programme's, an earlier programme bought later would not open: so a window that holds no STKM comes first, at the
            # SEK's lower end; several times, as nothing heals it once the next one has been fed.
            if windows[0][0] != key.valid_from:
                windows[:0] = [(key.valid_from, key.valid_from)] * FIRST_COPIES
            elif len(windows) > 1:
                windows[:0] = [windows[0]] * (FIRST_COPIES - 1)
            self._journal.put("told", (key.key_id, name), True)
        out = []
        for start, end in windows:
            low = key.ts_low if start == key.valid_from else counter_of(start)
            high = key.ts_low if start == end else counter_of(end - 1)
            out.append(self._letter(key, subscriber, (low, high), verify=verify))
        return out

    def withdrawal(self, key: KeyMaterial, name: str) -> Letter:
        """Tell a card that it has lost a SEK (R3, R4)."""
        return self._letter(key, self.subscriber(name), WITHDRAWAL, verify=False)

    def _letter(self, key: KeyMaterial, subscriber: Subscriber, window: tuple[int, int], *, verify: bool) -> Letter:
        assert key.csb_id is not None and key.rand is not None and subscriber.smk is not None
        clear = ClearSmartcardLtkm(
            counter=self.counters.next(subscriber.id),  # stored before it is used (R2)
            csb_id=key.csb_id,
            key_domain_id=key.key_id[:3],
            sek_id=key.key_id[3:],
            rand=key.rand,
            idi=self._idi,
            idr=subscriber.idr.encode(),
            verification_requested=verify,
            sek=NO_KEY if window == WITHDRAWAL else key.key,
            ts_low=window[0],
            ts_high=window[1],
        )
        if verify:
            self._journal.put("verify", (key.csb_id, clear.counter, clear.idr), Awaited(subscriber.id, key.rand, key.key_id))
        return Letter(codec.seal(clear, Keys(smk=subscriber.smk)), ("card", subscriber.id), key.key_id, window)

    def _bcro(self, config: StreamConfig, key: KeyMaterial, address: bytes, now: float, programme: str | None) -> Letter | None:
        """One BCRO for all entitled members of a group: mode 0, 1 or 2 as their number asks (R21)."""
        group = self._journal.get("group", (address,), Group)
        assert group is not None, "add() has refused him"
        members = sorted(
            (
                (s.position, s)
                for s in map(self.subscriber, self._rights.get(config.key, {}))
                if s.group == address and any(_entitles(r, key, programme) for r in self.rights(s.id, config))
            ),
            key=lambda member: member[0],
        )
        if not members:
            return None
        identity = key_identity(config, key)
        position = mask = None
        if len(members) == group.size:
            mode, iek, riak = AddressMode.WHOLE_GROUP, IEK(group.ugk), group.riak
        elif len(members) == 1 and members[0][1].udk is not None and members[0][1].riak is not None:
            only = members[0][1]
            assert only.udk is not None and only.riak is not None
            mode, iek, riak, position = AddressMode.UNIQUE_DEVICE, IEK(only.udk), only.riak, only.position
        else:
            mask = mask_of([p for p, _ in members], group.size)
            mode, iek, riak = AddressMode.SUBSET, GroupTree(group.root, group.size).iek(mask), group.riak
        mark = (identity, address, position)
        last = self._journal.get("bcro-time", mark, int) or self._journal.get("bcro-floor", (), int) or 0
        stamp = max(int(now), last + 1)  # rising by at least 1 s (R21)
        clear = ClearBcro(
            address_mode=mode,
            group_size_flag=group.size == 512,
            rights_issuer_id=self._rights_issuer_id,
            group_address=address,
            bit_access_mask=mask,
            position_in_group=position,
            bcro_timestamp=stamp,
            assets=(ClearAsset(asset_is_service=key.key_type == "SEAK", BCI=identity, key=key.key),),
            permissions=(Permission(1),),
        )
        data = codec.seal(clear, Keys(iek=iek, riak=riak))
        self._journal.put("bcro-time", mark, stamp)
        return Letter(data, ("group", address), key.key_id)

    def parental(self, name: str, rating_type: int, level_granted: int, pin: str | None) -> Letter:
        """A parental control message: under the SMK's COUNTER, with a CSB ID and RAND of its own (R2)."""
        subscriber = self.subscriber(name)
        if subscriber.smk is None:
            raise LocalFlowError("parental control is the Smartcard Profile's")
        clear = ClearSmartcardParental(
            counter=self.counters.next(name),
            csb_id=self._randomness(4),
            rand=self._randomness(16),
            idi=self._idi,
            idr=subscriber.idr.encode(),
            rating_type=rating_type,
            level_granted=level_granted,
            pin=None if pin is None else Secret(pin.encode()),
        )
        return Letter(codec.seal(clear, Keys(smk=subscriber.smk)), ("card", name))

    def verify(self, data: bytes) -> str:
        """Whose verification or reporting message this is (R36).  ``KeyUnavailable`` when none is awaited, ``Integrity`` when
        false.  What it reports is kept (``report``).
        """
        kind: Kind = "smartcard-reporting" if data[2:3] == _EXT else "smartcard-verification"
        message = codec.decode(data, kind)
        assert isinstance(message, SmartcardVerification)
        key = (message.csb_id, message.counter, message.idr)
        row = self._journal.get("verify", key, Awaited)
        if row is None:
            raise KeyUnavailable("verification that nobody awaits")
        codec.open(data, Keys(smk=self.subscriber(row.subscriber).smk, rand=row.rand, idi=self._idi), kind)
        self._journal.drop("verify", key)
        if message.reporting is not None:
            self._journal.put("report", (row.subscriber,), message.reporting)
        return row.subscriber

    def report(self, name: str) -> Reporting | None:
        """What a card reported last."""
        return self._journal.get("report", (name,), Reporting)

    def key_ended(self, config: StreamConfig, key: KeyMaterial) -> None:
        """A key is off air: nothing about it is awaited any more, and nothing carries it again."""
        for mark in self._journal.select("bcro-time", (key_identity(config, key),), int):
            self._journal.drop("bcro-time", mark)
        for name, row in self._journal.select("verify", (key.csb_id,), Awaited).items():
            if row.key_id == key.key_id:
                self._journal.drop("verify", name)
        for told in self._journal.select("told", (key.key_id,), bool):
            self._journal.drop("told", told)

    # --- pages of the carousel (R7, R30) --------------------------------------------------------------------------------

    def pages(self, config: StreamConfig) -> list[Page]:
        return list(self._journal.select("page", config.key, Page).values())

    def all_pages(self) -> list[Page]:
        return list(self._journal.rows("page", Page).values())

    def page(
        self, config: StreamConfig, letters: tuple[Letter, ...], end: int, now: float, new_id: Callable[[], str], old: Page | None
    ) -> tuple[Page, Page | None]:
        """Letters become a page; BCROs take the place of older ones for the same group and key.  Gives the page that is gone."""
        if old is None:
            subjects = {(x.addressee, x.key_id) for x in letters if x.addressee[0] == "group"}
            for page in self.pages(config):
                if any((x.addressee, x.key_id) in subjects for x in page.letters):
                    letters = (*(x for x in page.letters if (x.addressee, x.key_id) not in subjects), *letters)
                    old, end = page, max(end, page.end)
                    break
                if page.dead:
                    old = page
        ids = tuple((bsda, new_id()) for bsda in config.bsdas)
        replaces: tuple[tuple[str, str], ...] = ()
        if old is not None:  # where the old page never arrived, what it was to replace is still there
            there = {**dict(old.replaces), **{bsda: name for bsda, name in old.ids if bsda in old.confirmed}}
            replaces = tuple(there.items())
            self._remove(old)
        page = Page(*config.key, ids[0][1], letters, end, now, ids, replaces)
        self._journal.put("page", page.key, page)
        self._watch(page)
        return page, old

    def _watch(self, page: Page) -> None:
        again = self._reissue.get((page.service, page.stream))
        self._due.set(page.key, page.end if again is None or not page.healing else min(page.end, page.issued_at + again))
        for _, name in page.ids:
            self._by_id[name] = page.key

    def _remove(self, page: Page) -> None:
        self._journal.drop("page", page.key)
        self._due.set(page.key, None)
        for _, name in page.ids:
            self._by_id.pop(name, None)

    def due(self, now: float) -> Iterator[Page]:
        """Pages to be issued again (R7); ended ones are dropped."""
        for key in self._due.due(now):
            page = self._journal.get("page", key, Page)
            assert page is not None, "what is removed is not due"
            if page.end <= now or not page.healing:
                self._remove(page)
            else:
                yield page

    def again(self, page: Page, keys: Iterable[KeyMaterial]) -> tuple[Letter, ...]:
        """The live letters of a page with new COUNTERs; with none the page is dead."""
        live = {key.key_id: key for key in keys if key.csb_id is not None}
        out = []
        for letter in page.letters:
            name = letter.addressee[1]
            if letter.window is not None and letter.key_id in live and name not in page.struck:
                out.append(self._letter(live[letter.key_id], self.subscriber(str(name)), letter.window, verify=False))
        if not out:
            page = replace(page, struck=page.struck | {str(letter.addressee[1]) for letter in page.letters})
            self._journal.put("page", page.key, page)
            self._watch(page)
        return tuple(out)

    def confirmed(self, message_id: str, bsda: str) -> None:
        """A BSD/A has a page."""
        page = self._journal.get("page", self._by_id.get(message_id, ()), Page)
        if page is not None:
            self._journal.put("page", page.key, replace(page, confirmed=page.confirmed | {bsda}))

    def next_wakeup(self) -> float | None:
        """When a page is due."""
        return self._due.next()


def _union(windows: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Windows that meet become one: fewer LTKMs, and none that narrows what another one opens."""
    out: list[tuple[int, int]] = []
    for start, end in sorted(windows):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        else:
            out.append((start, end))
    return out


def _window(right: Right, key: KeyMaterial) -> tuple[int, int] | None:
    """The part of a key's validity that a right covers."""
    start, end = max(right.start, key.valid_from), min(right.end, key.valid_to)
    return (start, end) if start < end else None


def _entitles(right: Right, key: KeyMaterial, programme: str | None) -> bool:
    return right.content == programme and _window(right, key) is not None
