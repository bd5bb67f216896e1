# SPDX-License-Identifier: Apache-2.0
"""LTKMs as they are made: for cards, with what cards answer (R2-R4, R19, R36), and BCROs for groups of devices (R21)."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from pybcast import codec
from pybcast.codec import WITHDRAWAL, Records, prepare_smks, seal_many
from pybcast.errors import KeyUnavailable, LocalFlowError
from pybcast.flows.bsm.keychain import LongTermKey
from pybcast.flows.bsm.members import Bundle, Members, People, Right, Subscribers
from pybcast.flows.bsm.pages import Batch, Pages
from pybcast.flows.events import Alarm
from pybcast.flows.journal import Journal, RowKey, Table
from pybcast.flows.peers.messages import MAX_DATA, KeyMaterial
from pybcast.flows.serial import MOD, counter_of
from pybcast.flows.stream.config import StreamId
from pybcast.keys import IEK, GroupTree, Keys, mask_of
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

AWAITED: Final = 32  # verifications of one card about one key; of more, the oldest are awaited no longer - confidence: own
FIRST_COPIES: Final = 3  # of the LTKM that must not be lost before another one of its SEK - confidence: own
BCRO_TIME_JUMP: Final = 60  # seconds, after a restore from an older copy: past stamps it cannot know of (R21) - confidence: own
NO_KEY: Final = Secret(bytes(16))
"""The key field of a withdrawal (R3)."""
_EXT: Final = b"\x15"  # MIKEY next payload 21: an extension follows the header, so this verification message reports

Window = tuple[int, int]
"""[start, end) in NTP seconds, or TS low and TS high."""


@dataclass(frozen=True)
class Awaited:
    """An LTKM that asked for verification (R36)."""

    subscriber: str
    rand: bytes | None
    key_id: bytes


VERIFY: Final = Table("verify", Awaited, "csb_id counter idr")
REPORTS: Final = Table("report", Reporting, "subscriber")
TIMES: Final = Table("bcro-time", int, "identity group position")
FLOOR: Final = Table("bcro-floor", int, "")


class Issuer:
    """Makes the LTKMs for cards.  ``fqdn``: the BSM's name in MIKEY messages (IDi)."""

    def __init__(
        self, fqdn: str, journal: Journal, members: Members, subscribers: Subscribers, randomness: Callable[[int], bytes]
    ) -> None:
        self._idi = fqdn.encode()
        self._journal, self._members, self._subscribers, self._randomness = journal, members, subscribers, randomness
        self._verify, self._reports = journal.open(VERIFY), journal.open(REPORTS)
        self._awaited: dict[tuple[str, bytes], dict[RowKey, None]] = {}
        for row_key, row in self._verify.all().items():
            self._awaited.setdefault((row.subscriber, row.key_id), {})[row_key] = None

    # --- made -----------------------------------------------------------------------------------------------------------

    def batch(self, stream_id: StreamId, key: KeyMaterial, people: People, *, verify: bool = False) -> Batch | None:
        """The LTKMs that carry ``key`` to these; ``None`` when they have no right to any of it."""
        common: dict[tuple[Window, ...], list[Window]] = {}
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
        return self._seal(stream_id, key, people, [[sized[w] for w in found] for found in windows], verify=verify)

    def withdrawal(self, stream_id: StreamId, key: KeyMaterial, names: Collection[str]) -> Batch | None:
        """Tell cards that they have lost a SEK (R3, R4)."""
        people = self._members.some(names, stream_id)
        return self._seal(stream_id, key, people, [[WITHDRAWAL]] * len(people.names))

    def again(self, stream_id: StreamId, key: KeyMaterial, windows: dict[str, list[Window]]) -> Batch | None:
        """The LTKMs of some cards with new COUNTERs (R7)."""
        people = self._members.some(windows, stream_id)
        return self._seal(stream_id, key, people, [windows[name] for name in people.names])

    def personal(self, stream_id: StreamId, key: KeyMaterial, name: str) -> tuple[bytes, ...]:
        """The LTKMs of one card for the interaction channel: it is asked to verify (R19, R36)."""
        made = self.batch(stream_id, key, self._members.some([name], stream_id), verify=True)
        return () if made is None else made.bundle.items()

    def _seal(
        self, stream_id: StreamId, key: KeyMaterial, people: People, windows: Sequence[Sequence[Window]], *,
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
                    self._journal.emit(Alarm("ltkm-not-made", *stream_id, f"{people.names[whose[i]]}: {sealed.error(i)}"))
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

    def _await(self, row_key: RowKey, row: Awaited) -> None:
        waiting = self._awaited.setdefault((row.subscriber, row.key_id), {})
        waiting[row_key] = None
        self._verify.put(row_key, row)
        while len(waiting) > AWAITED:  # a terminal that asks and asks, and whose card never answers
            self._await_no_more(next(iter(waiting)), row)

    def _await_no_more(self, row_key: RowKey, row: Awaited) -> None:
        self._verify.drop(row_key)
        waiting = self._awaited.get((row.subscriber, row.key_id), {})
        waiting.pop(row_key, None)
        if not waiting:
            self._awaited.pop((row.subscriber, row.key_id), None)

    # --- what else cards are told, and what they answer --------------------------------------------------------------

    def parental(self, stream_id: StreamId, name: str, rating_type: int, level_granted: int, pin: str | None) -> Batch:
        """A parental control message: under the SMK's COUNTER, with a CSB ID and RAND of its own (R2)."""
        subscriber = self._subscribers.get(name)
        if subscriber.smk is None:
            raise LocalFlowError("parental control is the Smartcard Profile's")
        people = self._members.some([name], stream_id)
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
        row_key = (message.csb_id, message.counter, message.idr)
        row = self._verify.get(row_key)
        if row is None or subscriber not in (None, row.subscriber):
            raise KeyUnavailable("verification that nobody awaits")
        codec.open(data, Keys(smk=self._subscribers.get(row.subscriber).smk, rand=row.rand, idi=self._idi), kind)
        self._await_no_more(row_key, row)
        if message.reporting is not None:
            self._reports.put((row.subscriber,), message.reporting)
        return row.subscriber

    def report(self, name: str) -> Reporting | None:
        """What a card reported last."""
        return self._reports.get((name,))

    def key_ended(self, key: KeyMaterial) -> None:
        """A key is off air: nothing about it is awaited any more."""
        for row_key, row in self._verify.under((key.csb_id,)).items():
            if row.key_id == key.key_id:
                self._await_no_more(row_key, row)
        self._members.untell(key.key_id)

    def removed(self, name: str) -> None:
        """A subscriber is removed: nothing of his is awaited, nor is what his card reported kept."""
        for waiting in [names for (subscriber, _), names in self._awaited.items() if subscriber == name]:
            for row_key in list(waiting):
                awaited = self._verify.get(row_key)
                assert awaited is not None
                self._await_no_more(row_key, awaited)
        self._reports.drop((name,))


def _column(numbers: Sequence[int]) -> array[int]:
    return array("I", numbers)


def _union(windows: Iterable[Window]) -> list[Window]:
    """Windows that meet become one: fewer LTKMs, and none that narrows what another one opens."""
    out: list[Window] = []
    for start, end in sorted(windows):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        else:
            out.append((start, end))
    return out


def _part(right: Window, key: KeyMaterial) -> Window | None:
    """The part of a key's validity that a right covers."""
    start, end = max(right[0], key.valid_from), min(right[1], key.valid_to)
    return (start, end) if start < end else None


def _first(windows: list[Window], key: KeyMaterial) -> list[Window]:
    """What goes to a card that has not been told of a key yet.

    The first LTKM of a SEK fixes the card's COUNTER just below its window, for good (R3).  Where that window is a programme's, an
    earlier programme bought later would not open: so a window that holds no STKM comes first, at the SEK's lower end; several
    times, as nothing heals it once the next one has been fed.
    """
    if windows[0][0] != key.valid_from:
        return [(key.valid_from, key.valid_from)] * FIRST_COPIES + windows
    return [windows[0]] * (FIRST_COPIES - 1) + windows


def _low(window: Window, key: KeyMaterial) -> int:
    assert key.ts_low is not None
    return key.ts_low if window[0] == key.valid_from else counter_of(window[0])


def _high(window: Window, key: KeyMaterial) -> int:
    assert key.ts_low is not None
    return key.ts_low if window[0] == window[1] else counter_of(window[1] - 1)


class Bcros:
    """Makes the BCROs.  ``identity``: what a key is called in the system (``stkm.key_identity``)."""

    def __init__(self, journal: Journal, subscribers: Subscribers, pages: Pages, rights_issuer_id: bytes | None) -> None:
        self._subscribers, self._pages = subscribers, pages
        self._rights_issuer_id = rights_issuer_id
        self._times, self._floor = journal.open(TIMES), journal.open(FLOOR)

    def distrust(self, now: float) -> None:
        """The memory is an older copy: timestamps go past what it cannot know of (R21)."""
        self._floor.put((), int(now) + BCRO_TIME_JUMP)
        for row_key, stamp in self._times.all().items():
            self._times.put(row_key, max(stamp, int(now)) + BCRO_TIME_JUMP)

    def key_ended(self, identity: bytes) -> None:
        """A key is off air: nothing carries it again."""
        for row_key in self._times.under((identity,)):
            self._times.drop(row_key)

    def batches(
        self, stream_id: StreamId, identity: bytes, row: LongTermKey, now: float, only: Collection[bytes] | None = None
    ) -> list[Batch]:
        """The BCROs that carry a key to every group with entitled members, or to ``only`` some; so many as a delivery carries."""
        if only is None:
            only = sorted({one.group for one in self._subscribers.devices(stream_id)})
        made = [(data, address) for address in only if (data := self._bcro(stream_id, identity, row, address, now)) is not None]
        parts = [made[i : i + MAX_DATA] for i in range(0, len(made), MAX_DATA)]
        return [
            Batch(Bundle.of([d for d, _ in part], [a for _, a in part]), subjects=tuple((a, row.material.key_id) for _, a in part))
            for part in parts
        ]

    def personal(self, stream_id: StreamId, identity: bytes, row: LongTermKey, name: str, now: float) -> tuple[bytes, ...]:
        """The BCRO for one device on the interaction channel: that of its group which is on the carousel, if there is one.

        One made anew for each member who asks would hurry the group's timestamps on (R21).
        """
        if not any(_entitles(right, row) for right in self._subscribers.rights(name, stream_id)):
            return ()
        address = self._subscribers.get(name).group
        bcro = self._pages.bcro(stream_id, (address, row.material.key_id)) or self._bcro(stream_id, identity, row, address, now)
        return () if bcro is None else (bcro,)

    def _bcro(self, stream_id: StreamId, identity: bytes, row: LongTermKey, address: bytes, now: float) -> bytes | None:
        """One BCRO for all entitled members of a group: mode 0, 1 or 2 as their number asks (R21)."""
        group, key = self._subscribers.group(address), row.material
        assert group is not None, "add() has refused him"
        members = sorted(
            (
                (s.position, s)
                for s in self._subscribers.devices(stream_id)
                if s.group == address and any(_entitles(right, row) for right in self._subscribers.rights(s.id, stream_id))
            ),
            key=lambda member: member[0],
        )
        if not members:
            return None
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
        last = self._times.get(mark) or self._floor.get(()) or 0
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
        self._times.put(mark, stamp)
        return data


def _entitles(right: Right, row: LongTermKey) -> bool:
    key = row.material
    return right.content == row.programme and max(right.start, key.valid_from) < min(right.end, key.valid_to)
