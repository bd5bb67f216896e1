# SPDX-License-Identifier: Apache-2.0
"""Who is entitled to a long-term key, and the LTKMs that carry it to them (R2-R4, R7, R19, R21, R36)."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Final, Literal

from pybcast import codec
from pybcast.codec import Records, prepare_smks, seal_many
from pybcast.errors import KeyUnavailable, LocalFlowError
from pybcast.flows.agenda import Agenda
from pybcast.flows.bsm.members import Bundle, Members, PageKey, People, Right, StreamKey, Subscriber
from pybcast.flows.events import Alarm
from pybcast.flows.journal import Journal
from pybcast.flows.peers.messages import MAX_DATA, KeyMaterial
from pybcast.flows.serial import MOD, WITHDRAWAL, counter_of
from pybcast.flows.stream.config import REISSUE_CYCLES, StreamConfig
from pybcast.flows.stream.stkm import key_identity
from pybcast.keys import IEK, RIAK, UGK, GroupRoot, GroupTree, Keys, mask_of
from pybcast.messages import (
    AddressMode,
    ClearAsset,
    ClearBcro,
    ClearSmartcardParental,
    Kind,
    Permission,
    Reporting,
    SmartcardVerification,
)
from pybcast.secret import Secret
from pybcast.wire.smartcard import MAX_SIZE

BCRO_TIME_JUMP: Final = 60  # seconds, after a restore from an older copy: past stamps it cannot know of (R21) - confidence: own
AWAITED: Final = 32  # verifications of one card about one key; of more, the oldest are awaited no longer - confidence: own
FIRST_COPIES: Final = 3  # of the LTKM that must not be lost before another one of its SEK - confidence: own
REISSUE_RATE: Final = 2000.0  # letters a second, all streams together, that are made again to heal losses - confidence: own
"""R7 wants every live LTKM anew after 5 turns of the carousel.  Up to this rate it is (100,000 letters where a turn takes 10 s);
beyond it the turns are reckoned longer in proportion, as they are on air: 1,000,000 letters of 200 bytes in 10 s are 160 Mbit/s."""
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
    """One LTKM in a page as pages were stored before they were kept apart."""

    data: bytes
    addressee: Addressee
    key_id: bytes = b""
    window: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Page:
    """Letters that go out in one delivery and turn on the carousel together.  They are kept apart (``Members.keep``): this changes.

    ``ids``: (BSD/A, messageID of its delivery); ``replaces``: (BSD/A, messageID of the delivery it takes the place of there).
    ``size``: letters.  Of LTKMs for cards: ``key_id``, the addressees' first and last place, and ``alive``, how many letters are
    issued again; not those to the ``struck``.  Of BCROs: ``subjects``, (group, key id) of each.
    """

    service: str
    stream: int
    name: str
    end: int
    issued_at: float
    ids: tuple[tuple[str, str], ...]
    replaces: tuple[tuple[str, str], ...] = ()
    confirmed: frozenset[str] = field(default=frozenset())
    struck: frozenset[str] = field(default=frozenset())
    size: int = 0
    key_id: bytes = b""
    first: int = 0
    last: int = 0
    alive: int = 0
    subjects: tuple[tuple[bytes, bytes], ...] = ()
    letters: tuple[Letter, ...] = ()

    @property
    def key(self) -> PageKey:
        return (self.service, self.stream, self.name)

    @property
    def healing(self) -> bool:
        """Whether it is issued again every few cycles: only what a COUNTER protects from being taken twice (R7)."""
        return self.alive > 0

    @property
    def dead(self) -> bool:
        """Whether nothing of it is issued again: it still turns on the carousel, and the next page takes its place."""
        return bool(self.key_id) and not self.alive


@dataclass(frozen=True)
class Batch:
    """Letters on their way to a page: for cards, with the ``key_id`` of their key and the places of the first and last addressee;
    or for groups, with what each is about; or neither, for what is never made again.
    """

    bundle: Bundle
    key_id: bytes = b""
    first: int = 0
    last: int = 0
    subjects: tuple[tuple[bytes, bytes], ...] = ()

    def split(self, size: int) -> Iterator[Batch]:
        """The same letters for cards, at most ``size`` in each."""
        items, names, windows = self.bundle.items(), self.bundle.names, list(self.bundle.spans())
        for i in range(0, len(items), size):
            part = slice(i, i + size)
            yield replace(self, bundle=Bundle.of(items[part], names[part], windows[part]))


@dataclass(frozen=True)
class Job:
    """A key on its way to everyone entitled, some at a time: ``after``: whoever stands up to this place has his LTKM (or had no
    right when his turn came); ``done``: letters; ``of``: rights there were when it began.
    """

    after: int = 0
    done: int = 0
    of: int = 0


class Issuer:
    """Makes the LTKMs of a BSM and keeps account of them.

    ``fqdn``: the BSM's name in MIKEY messages (IDi).  ``members``: who has a card.  ``streams``: how often the LTKMs of each turn
    on the carousel (R7).
    """

    def __init__(
        self,
        fqdn: str,
        journal: Journal,
        members: Members,
        randomness: Callable[[int], bytes],
        rights_issuer_id: bytes | None,
        streams: Iterable[StreamConfig],
    ) -> None:
        self._idi = fqdn.encode()
        self._journal = journal
        self._members = members
        members.bind(journal)
        self._randomness = randomness
        self._rights_issuer_id = rights_issuer_id
        streams = list(streams)
        self._reissue = {config.key: REISSUE_CYCLES * config.carousel_cycle for config in streams}
        self._pushed = {config.key for config in streams if config.delivery == "push"}
        self._udns = {row.udn: row.id for row in journal.rows("subscriber", Subscriber).values() if row.udn}
        self._awaited: dict[tuple[str, bytes], dict[tuple[object, ...], None]] = {}
        for awaited, row in journal.rows("verify", Awaited).items():
            self._awaited.setdefault((row.subscriber, row.key_id), {})[awaited] = None
        self._devices: dict[StreamKey, dict[str, list[Right]]] = {}
        for key, right in journal.rows("right", Right).items():
            if members.get(str(key[0])) is None:
                self._index(str(key[0]), right)
        self._due: Agenda[PageKey] = Agenda()
        self._by_id: dict[str, PageKey] = {}
        self._alive: dict[PageKey, int] = {}
        self._all_alive = 0
        self._dead: dict[StreamKey, dict[PageKey, None]] = {}
        self._subjects: dict[tuple[StreamKey, tuple[bytes, bytes]], PageKey] = {}
        for page in journal.rows("page", Page).values():
            self._watch(self._settle(page) if page.letters else page)

    def _settle(self, page: Page) -> Page:
        """A page of an older version: its letters are kept apart from now on."""
        letters = page.letters
        names = [letter.addressee[1] for letter in letters]
        windows = [letter.window for letter in letters if letter.window is not None]
        self._members.keep(page.key, Bundle.of([letter.data for letter in letters], names, windows))
        page = replace(page, letters=(), size=len(letters))
        if windows:
            places = [self._members.place(str(name)) for name in names]
            alive = sum(name not in page.struck for name in names)
            page = replace(page, key_id=letters[0].key_id, first=min(places), last=max(places), alive=alive)
        else:
            subjects = [(bytes(x.addressee[1]), x.key_id) for x in letters if isinstance(x.addressee[1], bytes)]
            page = replace(page, subjects=tuple(subjects))
        self._journal.put("page", page.key, page)
        return page

    def skip(self, counters: int, at_least: int = 0) -> None:
        """Every COUNTER moves forward (R2, R51)."""
        self._members.jump(counters, at_least)

    def distrust(self, now: float) -> None:
        """The memory is an older copy: BCRO timestamps go past what it cannot know of (R21)."""
        self._journal.put("bcro-floor", (), int(now) + BCRO_TIME_JUMP)
        for key, stamp in self._journal.rows("bcro-time", int).items():
            self._journal.put("bcro-time", key, max(stamp, int(now)) + BCRO_TIME_JUMP)

    # --- subscribers and rights ---------------------------------------------------------------------------------------

    def add(self, subscribers: Sequence[Subscriber]) -> None:
        """New subscribers, or new keys of old ones.  ``LocalFlowError``, and nothing is added, for a device of a group that is not
        known, for another device's UDN, and for a name that a card has and a device asks for, or the reverse.
        """
        udns: dict[str, str] = {}
        for one in subscribers:
            if one.profile == "drm" and self._journal.get("group", (one.group,), Group) is None:
                raise LocalFlowError(f"subscriber {one.id}: its group is not known")
            if one.udn and udns.setdefault(one.udn, self._udns.get(one.udn, one.id)) != one.id:
                raise LocalFlowError(f"subscriber {one.id}: its UDN is that of {udns[one.udn]}")
            held = self._find(one.id)
            if held is not None and held.profile != one.profile:
                raise LocalFlowError(f"subscriber {one.id} is there with another profile")
        self._members.put([one for one in subscribers if one.smk is not None])
        for one in subscribers:
            if one.smk is None:
                before = self._journal.get("subscriber", (one.id,), Subscriber)
                if before is not None:
                    self._udns.pop(before.udn, None)
                if one.udn:
                    self._udns[one.udn] = one.id
                self._journal.put("subscriber", (one.id,), one)

    def known_as(self, idr: str) -> Subscriber | None:
        """The subscriber with a B-TID."""
        return self._members.known_as(idr)

    def device(self, udn: str) -> Subscriber | None:
        """The subscriber whose device has this UDN."""
        name = self._udns.get(udn)
        return None if name is None else self._journal.get("subscriber", (name,), Subscriber)

    def streams(self, name: str) -> list[StreamKey]:
        """The streams that a subscriber has rights to."""
        return [key for key, some in self._devices.items() if some.get(name)] or self._members.streams(name)

    def _find(self, name: str) -> Subscriber | None:
        found = self._members.get(name) or self._journal.get("subscriber", (name,), Subscriber)
        return None if found is None or found.is_removed else found

    def subscriber(self, name: str) -> Subscriber:
        """``LocalFlowError`` for one that is not known."""
        found = self._find(name)
        if found is None:
            raise LocalFlowError(f"no subscriber {name}")
        return found

    def is_smartcard(self, name: str) -> bool:
        return self.subscriber(name).profile == "smartcard"

    def grant(self, config: StreamConfig, rights: Sequence[tuple[str, Right]]) -> tuple[list[str], list[bytes]]:
        """Rights to a stream; what was issued to a card before, a withdrawal above all, is not issued again.

        Gives whom to tell: the subscribers with cards, and the groups of the devices.  ``LocalFlowError``, and nothing is granted,
        when one of them is not known.
        """
        cards: dict[str, None] = {}
        groups: dict[bytes, None] = {}
        known = [(self.subscriber(name), right) for name, right in rights]
        for one, right in known:
            if one.smk is None:
                groups[one.group] = None
                self._journal.put("right", (one.id, *right.key, right.start, right.end, right.content), right)
                self._index(one.id, right)
            else:
                cards[one.id] = None
        self._strike(config, cards)
        self._members.grant([(one.id, right) for one, right in known if one.smk is not None])
        return list(cards), list(groups)

    def _index(self, name: str, right: Right) -> None:
        rights = self._devices.setdefault(right.key, {}).setdefault(name, [])
        if right not in rights:
            rights.append(right)

    def rights(self, name: str, config: StreamConfig) -> list[Right]:
        return self._devices.get(config.key, {}).get(name) or self._members.rights(name, config.key)

    def forget(self, config: StreamConfig, names: Collection[str]) -> tuple[list[str], list[bytes]]:
        """Drop every right of these subscribers to a stream, and their LTKMs from what is issued again.

        Gives whom to tell: the subscribers with cards, and the groups of the devices.  ``LocalFlowError``, and nothing is dropped,
        when one of them is not known.
        """
        cards: list[str] = []
        groups: dict[bytes, None] = {}
        for one in [self.subscriber(name) for name in names]:
            if one.smk is None:
                groups[one.group] = None
                self._forget_device(config.key, one.id)
            else:
                cards.append(one.id)
                self._members.forget(one.id, config.key)
        self._strike(config, cards)
        return cards, list(groups)

    def _forget_device(self, stream: StreamKey, name: str) -> None:
        self._devices.get(stream, {}).pop(name, None)
        for key in self._journal.select("right", (name, *stream), Right):
            self._journal.drop("right", key)

    def remove(self, name: str) -> None:
        """Forget a subscriber, and what rights he has to streams that are configured no more."""
        one = self.subscriber(name)
        for stream in self.streams(name):
            self._members.forget(name, stream) if one.smk is not None else self._forget_device(stream, name)
        if one.smk is not None:
            self._members.remove(name)
        else:
            self._udns.pop(one.udn, None)
            self._journal.drop("subscriber", (name,))
        for waiting in [names for (subscriber, _), names in self._awaited.items() if subscriber == name]:
            for key in list(waiting):
                awaited = self._journal.get("verify", key, Awaited)
                assert awaited is not None
                self._await_no_more(key, awaited)
        self._journal.drop("report", (name,))

    def _strike(self, config: StreamConfig, names: Collection[str]) -> None:
        """Take the letters to some cards off the pages that are issued again (R7)."""
        places = {name: self._members.place(name) for name in names}
        low, high = min(places.values(), default=0), max(places.values(), default=-1)
        for page in self.pages(config):
            if not page.healing or page.first > high or page.last < low:
                continue
            here = {name for name, place in places.items() if page.first <= place <= page.last} - page.struck
            if here:
                struck = [name for name in self._members.letters(page.key).names if name in here]
                if struck:
                    self._put(replace(page, struck=page.struck | set(map(str, struck)), alive=page.alive - len(struck)))

    # --- making LTKMs for cards ---------------------------------------------------------------------------------------

    def some(self, config: StreamConfig, names: Collection[str]) -> People:
        """Those who have cards among the subscribers named."""
        return self._members.some(names, config.key)

    def next_of(self, config: StreamConfig, job: Job, limit: int) -> People:
        """Who is to have the key of a job next."""
        return self._members.entitled(config.key, job.after, limit)

    def place(self, name: str) -> int:
        """Where a card stands in the order in which jobs reach them."""
        return self._members.place(name)

    def entitled(self, config: StreamConfig) -> int:
        """How many rights of cards to a stream there are."""
        return self._members.count(config.key)

    def batch(self, config: StreamConfig, key: KeyMaterial, people: People, *, verify: bool = False) -> Batch | None:
        """The LTKMs that carry ``key`` to these; ``None`` when they have no right to any of it."""
        common: dict[tuple[tuple[int, int], ...], list[tuple[int, int]]] = {}
        windows, several = [], []
        for name, rights in zip(people.names, people.rights, strict=True):
            found = common.get(rights)
            if found is None:
                found = common[rights] = _union(w for right in rights if (w := _part(right, key)) is not None)
            if found and (len(found) > 1 or found[0][0] != key.valid_from):
                several.append(name)
            windows.append(found)
        if several:
            new = set(several) - self._members.told(key.key_id, several)
            windows = [_first(w, key) if name in new else w for name, w in zip(people.names, windows, strict=True)]
            self._members.tell(key.key_id, sorted(new))
        sized = {w: (_low(w, key), _high(w, key)) for found in windows for w in found}
        return self._seal(config, key, people, [[sized[w] for w in found] for found in windows], verify=verify)

    def withdrawal(self, config: StreamConfig, key: KeyMaterial, names: Collection[str]) -> Batch | None:
        """Tell cards that they have lost a SEK (R3, R4)."""
        people = self.some(config, names)
        return self._seal(config, key, people, [[WITHDRAWAL]] * len(people.names))

    def again(self, page: Page, config: StreamConfig, keys: Iterable[KeyMaterial]) -> Batch | None:
        """The live letters of a page with new COUNTERs; with none the page is dead."""
        key = next((key for key in keys if key.key_id == page.key_id and key.csb_id is not None), None)
        windows: dict[str, list[tuple[int, int]]] = {}
        made = None
        if key is not None:
            bundle = self._members.letters(page.key)
            for name, window in zip(bundle.names, bundle.spans(), strict=True):
                if name not in page.struck:
                    windows.setdefault(str(name), []).append(window)
            people = self.some(config, windows)
            made = self._seal(config, key, people, [windows[name] for name in people.names])
        if made is None:
            self._put(replace(page, alive=0))
        return made

    def _seal(
        self, config: StreamConfig, key: KeyMaterial, people: People, windows: Sequence[Sequence[tuple[int, int]]], *,
        verify: bool = False,
    ) -> Batch | None:  # fmt: skip
        """LTKMs for each of ``people``, one for each of his windows, in one call of the C core."""
        assert key.csb_id is not None and key.rand is not None
        numbers = list(map(len, windows))
        count = sum(numbers)
        if not count:
            return None
        self._members.spend(people, numbers)  # stored before they are used (R2)
        whose = [i for i, number in enumerate(numbers) for _ in range(number)]
        counters = [(c + n) % MOD for c, number in zip(people.counters, numbers, strict=True) for n in range(1, number + 1)]
        flat = [window for some in windows for window in some]
        ends = list(accumulate(map(len, people.idrs), initial=len(self._idi)))
        with Records("smartcard-ltkm", count, base=self._idi + b"".join(people.idrs)) as records:
            for name, value in (
                ("counter", _column(counters)), ("csb_id", key.csb_id), ("rand", key.rand), ("key_domain_id", key.key_id[:3]),
                ("sek_id", key.key_id[3:]), ("sek", NO_KEY if flat[0] == WITHDRAWAL else key.key), ("max_size", MAX_SIZE),
                ("ts_low", _column([low for low, _ in flat])), ("ts_high", _column([high for _, high in flat])),
                ("idi.offset", 0), ("idi.length", len(self._idi)), ("idr.offset", _column([ends[i] for i in whose])),
                ("idr.length", _column([len(people.idrs[i]) for i in whose])), ("verification_requested", int(verify)),
            ):  # fmt: skip
                records.set(name, value)
            with prepare_smks(b"".join(people.smks)) as keys:
                sealed = seal_many(records, keys, which=_column(whose))
                failed = set(sealed.failed)
                for i in failed:
                    self._journal.emit(Alarm("ltkm-not-made", *config.key, f"{people.names[whose[i]]}: {sealed.error(i)}"))
        lengths = memoryview(sealed.packed("length")).cast("B").cast("I")
        kept = [i for i in range(count) if i not in failed]
        if not kept:
            return None
        if verify:
            for i in kept:
                self._await((key.csb_id, counters[i], people.idrs[whose[i]]), Awaited(people.names[whose[i]], key.rand, key.key_id))
        bundle = Bundle(
            bytes(sealed.arena),
            struct.pack(f">{len(kept)}I", *[lengths[i] for i in kept]),
            tuple([people.names[whose[i]] for i in kept]),
            struct.pack(f">{2 * len(kept)}I", *[number for i in kept for number in flat[i]]),
        )
        return Batch(bundle, key.key_id, people.places[whose[kept[0]]], people.places[whose[kept[-1]]])

    def _await(self, name: tuple[object, ...], row: Awaited) -> None:
        waiting = self._awaited.setdefault((row.subscriber, row.key_id), {})
        waiting[name] = None
        self._journal.put("verify", name, row)
        while len(waiting) > AWAITED:  # a terminal that asks and asks, and whose card never answers
            self._await_no_more(next(iter(waiting)), row)

    def _await_no_more(self, name: tuple[object, ...], row: Awaited) -> None:
        self._journal.drop("verify", name)
        waiting = self._awaited.get((row.subscriber, row.key_id), {})
        waiting.pop(name, None)
        if not waiting:
            self._awaited.pop((row.subscriber, row.key_id), None)

    # --- making BCROs for groups --------------------------------------------------------------------------------------

    def bcros(
        self, config: StreamConfig, key: KeyMaterial, now: float, programme: str | None, only: Collection[bytes] | None
    ) -> list[Batch]:
        """The BCROs that carry ``key`` to every group with entitled members, or to ``only`` some; so many as a delivery carries."""
        groups = sorted({self.subscriber(n).group for n in self._devices.get(config.key, {})}) if only is None else list(only)
        made = [(data, address) for address in groups if (data := self._bcro(config, key, address, now, programme)) is not None]
        parts = [made[i : i + MAX_DATA] for i in range(0, len(made), MAX_DATA)]
        return [
            Batch(Bundle.of([d for d, _ in part], [a for _, a in part]), subjects=tuple((a, key.key_id) for _, a in part))
            for part in parts
        ]

    def personal(self, config: StreamConfig, key: KeyMaterial, name: str, now: float, programme: str | None) -> list[bytes]:
        """The LTKMs of one subscriber for the interaction channel; a card is asked to verify (R19, R36)."""
        if not self.rights(name, config) or self.is_smartcard(name) != (key.key_type in ("SEK", "PEK")):
            return []
        if self.is_smartcard(name):
            made = self.batch(config, key, self.some(config, [name]), verify=True)
            return [] if made is None else list(made.bundle.items())
        if not any(_entitles(right, key, programme) for right in self.rights(name, config)):
            return []
        address = self.subscriber(name).group
        bcro = self._turning(config, (address, key.key_id)) or self._bcro(config, key, address, now, programme)
        return [] if bcro is None else [bcro]

    def _turning(self, config: StreamConfig, subject: tuple[bytes, bytes]) -> bytes | None:
        """The BCRO that is on the carousel: one made anew for each member who asks would hurry the group's timestamps on (R21)."""
        page = self.find(self._subjects.get((config.key, subject), ("", 0, "")))
        return None if page is None else self.data(page)[page.subjects.index(subject)]

    def _bcro(self, config: StreamConfig, key: KeyMaterial, address: bytes, now: float, programme: str | None) -> bytes | None:
        """One BCRO for all entitled members of a group: mode 0, 1 or 2 as their number asks (R21)."""
        group = self._journal.get("group", (address,), Group)
        assert group is not None, "add() has refused him"
        members = sorted(
            (
                (s.position, s)
                for s in map(self.subscriber, self._devices.get(config.key, {}))
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
        return data

    # --- what else cards are told, and what they answer --------------------------------------------------------------

    def parental(self, config: StreamConfig, name: str, rating_type: int, level_granted: int, pin: str | None) -> Batch:
        """A parental control message: under the SMK's COUNTER, with a CSB ID and RAND of its own (R2)."""
        subscriber = self.subscriber(name)
        if subscriber.smk is None:
            raise LocalFlowError("parental control is the Smartcard Profile's")
        people = self.some(config, [name])
        self._members.spend(people, [1])
        clear = ClearSmartcardParental(
            counter=(people.counters[0] + 1) % MOD,
            csb_id=self._randomness(4),
            rand=self._randomness(16),
            idi=self._idi,
            idr=subscriber.idr.encode(),
            rating_type=rating_type,
            level_granted=level_granted,
            pin=None if pin is None else Secret(pin.encode()),
        )
        return Batch(Bundle.of([codec.seal(clear, Keys(smk=subscriber.smk))], [name]))

    def verify(self, data: bytes, subscriber: str | None = None) -> str:
        """Whose verification or reporting message this is (R36); ``subscriber``: who brings it.  ``KeyUnavailable`` when none is
        awaited (of him), ``Integrity`` when false.  What it reports is kept (``report``).
        """
        kind: Kind = "smartcard-reporting" if data[2:3] == _EXT else "smartcard-verification"
        message = codec.decode(data, kind)
        assert isinstance(message, SmartcardVerification)
        key = (message.csb_id, message.counter, message.idr)
        row = self._journal.get("verify", key, Awaited)
        if row is None or subscriber not in (None, row.subscriber):
            raise KeyUnavailable("verification that nobody awaits")
        codec.open(data, Keys(smk=self.subscriber(row.subscriber).smk, rand=row.rand, idi=self._idi), kind)
        self._await_no_more(key, row)
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
                self._await_no_more(name, row)
        self._members.untell(key.key_id)

    # --- pages of the carousel (R7, R30) --------------------------------------------------------------------------------

    def pages(self, config: StreamConfig) -> list[Page]:
        return list(self._journal.select("page", config.key, Page).values())

    def all_pages(self) -> list[Page]:
        return list(self._journal.rows("page", Page).values())

    def find(self, key: PageKey) -> Page | None:
        """A page, unless it is gone."""
        return self._journal.get("page", key, Page)

    def data(self, page: Page) -> tuple[bytes, ...]:
        """Its letters."""
        return self._members.letters(page.key).items()

    def page(
        self, config: StreamConfig, batch: Batch, end: int, now: float, new_id: Callable[[], str], old: Page | None
    ) -> tuple[Page, Page | None]:
        """Letters become a page; BCROs take the place of older ones for the same group and key.  Gives the page that is gone."""
        if old is None:
            merged = next((k for s in batch.subjects if (k := self._subjects.get((config.key, s))) is not None), None)
            gone = merged or next(reversed(self._dead.get(config.key, {})), None)
            old = None if gone is None else self.find(gone)
            if merged is not None and old is not None:
                batch, end = self._merge(old, batch), max(end, old.end)
        ids = tuple((bsda, new_id()) for bsda in config.bsdas)
        replaces: tuple[tuple[str, str], ...] = ()
        if old is not None:  # where the old page never arrived, what it was to replace is still there
            there = {**dict(old.replaces), **{bsda: name for bsda, name in old.ids if bsda in old.confirmed}}
            replaces = tuple(there.items())
            self._remove(old)
        size = len(batch.bundle)
        service, stream = config.key
        page = Page(
            service=service, stream=stream, name=ids[0][1], end=end, issued_at=now, ids=ids, replaces=replaces, size=size,
            key_id=batch.key_id, first=batch.first, last=batch.last, alive=size if batch.key_id else 0, subjects=batch.subjects,
        )  # fmt: skip
        self._members.keep(page.key, batch.bundle)
        self._put(page)
        return page, old

    def _merge(self, old: Page, new: Batch) -> Batch:
        """A page of BCROs with some of them made anew."""
        kept = [
            (subject, data) for subject, data in zip(old.subjects, self.data(old), strict=True) if subject not in set(new.subjects)
        ]
        kept += zip(new.subjects, new.bundle.items(), strict=True)
        bundle = Bundle.of([data for _, data in kept], [address for (address, _), _ in kept])
        return Batch(bundle, subjects=tuple(subject for subject, _ in kept))

    def _put(self, page: Page) -> None:
        self._journal.put("page", page.key, page)
        self._watch(page)

    def _watch(self, page: Page) -> None:
        stream = (page.service, page.stream)
        self._all_alive += page.alive - self._alive.get(page.key, 0)
        self._alive[page.key] = page.alive
        self._due.set(page.key, min(page.end, page.issued_at + self._interval(stream)) if page.healing else page.end)
        for _, name in page.ids:
            self._by_id[name] = page.key
        for subject in page.subjects:
            self._subjects[stream, subject] = page.key
        if page.dead:
            self._dead.setdefault(stream, {})[page.key] = None

    def _interval(self, stream: StreamKey) -> float:
        """Seconds until a page of a stream is issued again."""
        every = self._reissue.get(stream)
        return float("inf") if every is None else max(every, self._all_alive / REISSUE_RATE)

    def _remove(self, page: Page) -> None:
        stream = (page.service, page.stream)
        self._all_alive -= self._alive.pop(page.key)
        self._due.set(page.key, None)
        for _, name in page.ids:
            del self._by_id[name]
        for subject in page.subjects:
            if self._subjects.get((stream, subject)) == page.key:
                del self._subjects[stream, subject]
        self._dead.get(stream, {}).pop(page.key, None)
        self._journal.drop("page", page.key)
        self._members.drop(page.key)

    def due(self, now: float) -> Page | None:
        """The next page that is to be issued again now; pages that have ended go."""
        for key in self._due.due(now):
            page = self.find(key)
            assert page is not None, "what is removed is not due"
            again = page.issued_at + self._interval((page.service, page.stream))
            if page.end <= now or not page.healing:
                self._remove(page)
            elif again > now:  # there are more of them than when it was set
                self._due.set(key, min(again, page.end))
            elif not page.confirmed and key[:2] in self._pushed:
                # It may be on the carousel or not; only one delivery can be replaced, and nobody would know which.
                self._due.set(key, min(now + self._interval((page.service, page.stream)), page.end))
            else:
                return page
        return None

    def confirmed(self, message_id: str, bsda: str) -> None:
        """A BSD/A has a page."""
        page = self._journal.get("page", self._by_id.get(message_id, ()), Page)
        if page is not None:
            self._journal.put("page", page.key, replace(page, confirmed=page.confirmed | {bsda}))

    def next_wakeup(self) -> float | None:
        """When a page is due."""
        return self._due.next()


def _column(numbers: Sequence[int]) -> array[int]:
    return array("I", numbers)


def _union(windows: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Windows that meet become one: fewer LTKMs, and none that narrows what another one opens."""
    out: list[tuple[int, int]] = []
    for start, end in sorted(windows):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        else:
            out.append((start, end))
    return out


def _part(right: tuple[int, int], key: KeyMaterial) -> tuple[int, int] | None:
    """The part of a key's validity that a right covers."""
    start, end = max(right[0], key.valid_from), min(right[1], key.valid_to)
    return (start, end) if start < end else None


def _first(windows: list[tuple[int, int]], key: KeyMaterial) -> list[tuple[int, int]]:
    """What goes to a card that has not been told of a key yet.

    The first LTKM of a SEK fixes the card's COUNTER just below its window, for good (R3).  Where that window is a programme's, an
    earlier programme bought later would not open: so a window that holds no STKM comes first, at the SEK's lower end; several
    times, as nothing heals it once the next one has been fed.
    """
    if windows[0][0] != key.valid_from:
        return [(key.valid_from, key.valid_from)] * FIRST_COPIES + windows
    return [windows[0]] * (FIRST_COPIES - 1) + windows


def _low(window: tuple[int, int], key: KeyMaterial) -> int:
    assert key.ts_low is not None
    return key.ts_low if window[0] == key.valid_from else counter_of(window[0])


def _high(window: tuple[int, int], key: KeyMaterial) -> int:
    assert key.ts_low is not None
    return key.ts_low if window[0] == window[1] else counter_of(window[1] - 1)


def _entitles(right: Right, key: KeyMaterial, programme: str | None) -> bool:
    return right.content == programme and _part((right.start, right.end), key) is not None
