# SPDX-License-Identifier: Apache-2.0
"""The secure function of a Smartcard Profile terminal: what a card keeps and decides (R2-R4, R11, R12, R24).

``Card`` is the interface that a real reader would take; ``SimulatedCard`` is one in software, with the files a card has: SMKs
(EF_MUK) with their COUNTER, SEKs (EF_MSK) with theirs, two per Key Group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol

from pybcast import codec
from pybcast.codec import WITHDRAWAL
from pybcast.errors import BadValue, KeyUnavailable, Replay, Unsupported
from pybcast.flows.events import Output
from pybcast.flows.journal import Journal, RowKey, State, Table
from pybcast.flows.serial import MOD, in_window, near, newer
from pybcast.flows.tables import SEK as SEK_TABLE
from pybcast.flows.tables import SekEvent, SekState, step
from pybcast.keys import IK, OPC, SEK, SMK, SRK, K, Keys, Milenage, gba_u_autn
from pybcast.keys import target_id as make_target_id
from pybcast.messages import (
    AccessCriterion,
    ClearSmartcardLtkm,
    ClearSmartcardParental,
    ClearSmartcardStkm,
    OpenedSmartcardRegistration,
    Reporting,
    SmartcardLtkm,
    SmartcardParental,
    SmartcardRegistration,
    SmartcardStkm,
    SmartcardVerification,
)
from pybcast.wire import mikey_kind

KEYS_PER_GROUP: Final = 2  # smartcard-profile 4.3: up to two MSKs per (Key Domain, Key Group) (TS 31.102, TS 33.246 6.5.3)
SQN_STEP_LIMIT: Final = 1 << 28  # TS 33.102 annex C: a jump of SQN beyond this is refused
PARENTAL_RATING: Final = 0x01  # access criteria tag - confidence: likely
_NO_NUMBER: Final = b"\0\0"


def check_parental(criteria: tuple[AccessCriterion, ...] | None, levels: Mapping[int, int]) -> None:
    """``KeyUnavailable`` when a parental rating is above the level granted for its rating type.

    confidence: own - a level grants every rating up to itself; a rating type without a level is granted.
    """
    for criterion in criteria or ():
        if criterion.tag == PARENTAL_RATING and len(criterion.value) == 2:
            rating_type, rating = criterion.value
            if rating > levels.get(rating_type, 255):
                raise KeyUnavailable("parental rating")


class Card(Protocol):
    """What a terminal asks of a card.  Every refusal is a typed error and changes nothing on the card.

    ``now`` is the terminal's clock (a card has none), 64-bit NTP seconds.
    """

    def identities(self) -> frozenset[bytes]:
        """The IDr (B-TID) of every SMK it holds: an LTKM without one of them is for others."""

    def openable(self) -> frozenset[bytes]:
        """The SEK ID of every SEK it holds: an STKM without one of them cannot be opened."""

    def account(self) -> tuple[str, SRK] | None:
        """B-TID and SRK of its newest registration: user and password of the interaction channel (R35)."""

    def target_ids(self, rand: bytes) -> bytes:
        """The target_id this card has for a RAND (R24)."""

    def register(self, push: bytes, now: float) -> SRK | None:
        """Take a registration push; gives the SRK, ``None`` for a repeat."""

    def ltkm(self, data: bytes, now: float) -> bytes | None:
        """Take an LTKM or a parental control message; the verification message when one was asked for."""

    def examine(self, data: bytes, now: float) -> None:
        """Refuse what ``ltkm`` would refuse now for its MAC, COUNTER or key; take nothing."""

    def stkm(self, data: bytes) -> ClearSmartcardStkm:
        """Open a STKM."""

    def take(self) -> list[Output]:
        """What is to be persisted since the last call; a real card keeps its own files and gives nothing."""


@dataclass(frozen=True)
class SmkFile:
    """One SMK with its identities, its end (64-bit NTP seconds) and the COUNTER of the last LTKM."""

    smk: SMK
    idi: bytes
    idr: bytes
    until: int
    counter: int | None = None
    srk: SRK | None = None


@dataclass(frozen=True)
class SekFile:
    """One SEK: its key, the RAND of the LTKM that brought it (empty: provisioned), the STKM COUNTER and the windows (R3)."""

    state: SekState
    sek: SEK
    rand: bytes
    counter: int
    windows: tuple[tuple[int, int], ...]


SMKS: Final = Table("smk", SmkFile, "idr idi")
SEKS: Final = Table("sek", SekFile, "key_domain_id sek_id")
LEVELS: Final = Table("parental", int, "rating_type")
SEEN: Final = Table("seen", int, "rand")
SQN: Final = Table("sqn", int, "")


class SimulatedCard:
    """A card in software.  ``k``, ``opc`` and ``impi`` are its subscription.

    Its memory is persisted through ``take()`` like any other state; give it back as ``state`` after a restart.  It has no purse and
    no TBK: LTKMs with conditions that it cannot hold are refused, never taken without them.
    """

    def __init__(self, *, k: K, opc: OPC, impi: str, state: State | None = None) -> None:
        self._milenage = Milenage(k, opc)
        self._impi = impi
        self._journal = Journal(state)
        self._smks = self._journal.open(SMKS)
        self._seks = self._journal.open(SEKS)
        self._levels = self._journal.open(LEVELS)
        self._seen = self._journal.open(SEEN)
        self._sqn = self._journal.open(SQN)

    def take(self) -> list[Output]:
        """What to persist since the last call."""
        return self._journal.take()

    def identities(self) -> frozenset[bytes]:
        return frozenset(row.idr for row in self._smks.all().values())

    def openable(self) -> frozenset[bytes]:
        rows = self._seks.all().items()
        return frozenset(key[1] for key, row in rows if row.state is SekState.INSTALLED and isinstance(key[1], bytes))

    def account(self) -> tuple[str, SRK] | None:
        rows = [row for row in self._smks.all().values() if row.srk is not None]
        newest = max(rows, key=lambda row: row.until, default=None)
        return None if newest is None or newest.srk is None else (newest.idr.decode(), newest.srk)

    def target_ids(self, rand: bytes) -> bytes:
        return make_target_id(rand, self._impi)

    @property
    def parental(self) -> dict[int, int]:
        """Rating type -> level granted, as set by parental control messages."""
        return {key[0]: level for key, level in self._levels.all().items() if isinstance(key[0], int)}

    # --- registration (F1) --------------------------------------------------------------------------------------------

    def register(self, push: bytes, now: float) -> SRK | None:
        message = codec.decode(push, "smartcard-registration")
        assert isinstance(message, SmartcardRegistration)
        if message.target_id != self.target_ids(message.rand):
            raise KeyUnavailable("registration of another card")
        if self._seen.get((message.rand,)) is not None:
            return None  # R24: repeats are dropped by RAND
        until = near(message.key_lifetime, now)
        if until <= now:
            raise Replay("registration has ended")
        autn = message.autn
        if message.gba_u:  # take MAC* back to MAC with the IK this RAND gives
            autn = gba_u_autn(autn, IK(self._milenage.f4(message.rand)))
        aka = self._milenage.check_autn(message.rand, autn)
        sqn, last = int.from_bytes(aka.sqn, "big"), self._sqn.get(())
        if last is not None and not last < sqn <= last + SQN_STEP_LIMIT:
            raise Replay("SQN is not fresh")
        opened = codec.open(push, Keys(ck=aka.ck, ik=aka.ik, impi=self._impi), "smartcard-registration")
        assert isinstance(opened, OpenedSmartcardRegistration)
        # The SMK first, what refuses a repeat last: a crash in between must not leave a card that drops its only registration.
        srk = SRK(opened.srk)
        self.install(SMK(opened.smk), idi=message.naf_fqdn.encode(), idr=message.btid.encode(), until=until, srk=srk)
        self._sqn.put((), sqn)
        self._seen.put((message.rand,), until)
        for rand, end in self._seen.all().items():
            if end <= now:
                self._seen.drop(rand)  # refused by its end from now on
        return srk

    def install(self, smk: SMK, *, idi: bytes, idr: bytes, until: int, srk: SRK | None = None) -> None:
        """Put an SMK on the card, as a registration or a GBA run over an interaction channel does.

        It takes the place of every other of the same BSM: the newest B-TID selects the SMK (smartcard-profile 4.3).
        """
        held = self._smks.get((idr, idi))
        counter = held.counter if held is not None and held.smk == smk else None  # the COUNTER belongs to the key (R2)
        self._smks.put((idr, idi), SmkFile(smk, idi, idr, until, counter, srk))
        for old, row in self._smks.all().items():
            if row.idi == idi and row.idr != idr:
                self._smks.drop(old)

    # --- LTKM (F2) ----------------------------------------------------------------------------------------------------

    def examine(self, data: bytes, now: float) -> None:
        self._opened(data, now)

    def ltkm(self, data: bytes, now: float) -> bytes | None:
        clear, row = self._opened(data, now)
        answer = self._answer(clear, row) if clear.verification_requested else None
        if isinstance(clear, ClearSmartcardParental):
            self._levels.put((clear.rating_type,), clear.level_granted)
        else:
            self._install(clear)
        self._smks.put((row.idr, row.idi), replace(row, counter=clear.counter))
        return answer

    def _opened(self, data: bytes, now: float) -> tuple[ClearSmartcardLtkm | ClearSmartcardParental, SmkFile]:
        sealed = codec.decode(data, "smartcard-parental" if mikey_kind(data) == "smartcard-parental" else "smartcard-ltkm")
        assert isinstance(sealed, SmartcardLtkm | SmartcardParental)
        row = self._smks.get((sealed.idr, sealed.idi))
        if row is None or row.until <= now:  # R24: key_lifetime is an absolute end
            raise KeyUnavailable("smk")
        if row.counter is not None and not newer(sealed.counter, row.counter):
            raise Replay("LTKM COUNTER is not above the stored one")
        clear = codec.open(data, Keys(smk=row.smk), sealed.kind)
        assert isinstance(clear, ClearSmartcardLtkm | ClearSmartcardParental)
        return clear, row

    @staticmethod
    def _answer(clear: ClearSmartcardLtkm | ClearSmartcardParental, row: SmkFile) -> bytes:
        wants_report = isinstance(clear, ClearSmartcardLtkm) and clear.management and clear.management.consumption_reporting_flag
        answer = SmartcardVerification(
            csb_id=clear.csb_id, counter=clear.counter, idr=row.idr, reporting=Reporting() if wants_report else None
        )
        return codec.seal(answer, Keys(smk=row.smk, rand=clear.rand, idi=row.idi))

    def _install(self, clear: ClearSmartcardLtkm) -> None:
        if _NO_NUMBER in (clear.sek_id[:2], clear.sek_id[2:]):  # smartcard-profile 4.3: no key has such an id
            raise BadValue(None, "sek_id", "a Key Group and a Key Number other than 0000", clear.sek_id.hex())
        key = (clear.key_domain_id, clear.sek_id)
        held = self._seks.get(key)
        state = SekState.ABSENT if held is None else held.state
        if (clear.ts_low, clear.ts_high) == WITHDRAWAL:
            if any(clear.sek.reveal()):
                raise BadValue(None, "sek", "16 zero bytes in a withdrawal (R3)", "a key")
            after = step(SEK_TABLE, state, SekEvent.WITHDRAWAL)
            if held is not None:  # keeps the counter, removes all windows, never installs
                self._seks.put(key, replace(held, state=after, windows=()))
            return
        for name in ("security_policy_ext", "access_criteria", "terminal_binding"):
            if getattr(clear.management, name, None) is not None:
                raise Unsupported(None, f"management.{name}", "a condition that this card can hold", "one that it cannot")
        if (clear.ts_high - clear.ts_low) % MOD > codec.MAX_SPAN:
            # R4: nobody builds it, and elsewhere low > high means withdrawn: as a window it would open nearly everything.
            raise BadValue(None, "ts_high", "at most 2^31 - 2 after ts_low (R4)", f"{clear.ts_low}..{clear.ts_high}")
        sek, window = SEK(clear.sek), (clear.ts_low, clear.ts_high)
        after = step(SEK_TABLE, state, SekEvent.LTKM)
        if held is not None:
            # R3: SEK and RAND are those of the newest LTKM (TS 33.246 6.5.3); the counter stays.
            # Windows that the COUNTER has left behind open nothing more, and an event a day must not fill the card.
            windows = tuple(w for w in held.windows if w != window and newer(w[1], held.counter))
            self._seks.put(key, replace(held, state=after, sek=sek, rand=clear.rand, windows=(*windows, window)))
            return
        if not self._make_room(clear.key_domain_id, clear.sek_id):
            return
        counter = (clear.ts_low - 1) % MOD  # R3: so the first STKM of the window is accepted
        self._seks.put(key, SekFile(after, sek, clear.rand, counter, (window,)))

    def _make_room(self, key_domain_id: bytes, sek_id: bytes) -> bool:
        """Keep the newest keys of a group by their Key Number, not by the order in which they came (R10); whether this is one.

        confidence: guess - an LTKM that was lost and issued again comes after its successor's, and must not push that one out.
        """
        number = int.from_bytes(sek_id[2:], "big")
        group: list[tuple[int, RowKey, SekState]] = []
        for key, row in self._seks.all().items():
            if key[0] == key_domain_id and isinstance(key[1], bytes) and key[1][:2] == sek_id[:2]:
                age = (number - int.from_bytes(key[1][2:], "big") + (1 << 15)) % (1 << 16) - (1 << 15)  # numbers wrap (RFC 1982)
                group.append((age, key, row.state))
        if sum(age < 0 for age, _, _ in group) >= KEYS_PER_GROUP:
            return False
        for _, oldest, state in sorted(group, reverse=True)[: max(0, len(group) - KEYS_PER_GROUP + 1)]:
            step(SEK_TABLE, state, SekEvent.EVICTED)
            self._seks.drop(oldest)
        return True

    # --- STKM ---------------------------------------------------------------------------------------------------------

    def stkm(self, data: bytes) -> ClearSmartcardStkm:
        sealed = codec.decode(data, "smartcard-stkm")
        if not isinstance(sealed, SmartcardStkm):
            raise BadValue(None, "encr_alg", "a completed STKM (R13)", "a partial one")
        key = (sealed.key_domain_id, sealed.sek_id)
        row = self._seks.get(key)
        if row is None or row.state is not SekState.INSTALLED:
            raise KeyUnavailable("sek")
        if not newer(sealed.counter, row.counter):
            raise Replay("STKM COUNTER is not above the stored one")
        if not any(in_window(sealed.counter, low, high) for low, high in row.windows):
            raise KeyUnavailable("sek")  # for this COUNTER: an LTKM with another window may be on its way
        check_parental(None if sealed.management is None else sealed.management.access_criteria, self.parental)
        clear = codec.open(data, Keys(sek=row.sek, rand=row.rand), "smartcard-stkm")  # with the CSB ID of its own header
        assert isinstance(clear, ClearSmartcardStkm)
        self._seks.put(key, replace(row, counter=sealed.counter))
        return clear
