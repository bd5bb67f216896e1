# SPDX-License-Identifier: Apache-2.0
"""The secure function of a Smartcard Profile terminal: what a card keeps and decides (R2-R4, R11, R12, R24).

``Card`` is the interface that a real reader would take; ``SimulatedCard`` is one in software, with the files a card has: SMKs
(EF_MUK) with their COUNTER, SEKs (EF_MSK) with theirs, two per Key Group.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Protocol

from pybcast import codec
from pybcast.errors import BadValue, Integrity, KeyUnavailable, Replay
from pybcast.flows.events import Journal, Output
from pybcast.flows.serial import MOD, WITHDRAWAL, in_window, near, newer
from pybcast.flows.tables import SEK as SEK_TABLE
from pybcast.flows.tables import SekEvent, SekState, step
from pybcast.keys import IK, OPC, SEK, SMK, SRK, K, Keys, Milenage, gba_u_autn, registration_keys
from pybcast.keys import target_id as make_target_id
from pybcast.messages import (
    ClearSmartcardLtkm,
    ClearSmartcardParental,
    ClearSmartcardStkm,
    Reporting,
    SmartcardRegistration,
    SmartcardStkm,
    SmartcardVerification,
)

KEYS_PER_GROUP: Final = 2  # smartcard-profile 4.3: up to two MSKs per (Key Domain, Key Group)
SQN_STEP_LIMIT: Final = 1 << 28  # TS 33.102 annex C: a jump of SQN beyond this is refused


class Card(Protocol):
    """What a terminal asks of a card.  Every refusal is a typed error and changes nothing on the card."""

    def target_ids(self, rand: bytes) -> bytes:
        """The target_id this card has for a RAND (R24)."""

    def register(self, push: bytes, now: float) -> SRK | None:
        """Take a registration push; gives the SRK, ``None`` for a repeat."""

    def ltkm(self, data: bytes) -> bytes | None:
        """Take an LTKM or a parental control message; the verification message when one was asked for."""

    def stkm(self, data: bytes) -> ClearSmartcardStkm:
        """Open a STKM."""

    def csb_id(self, key_domain_id: bytes, sek_id: bytes) -> bytes | None:
        """The CSB ID of a SEK it holds."""


@dataclass(frozen=True)
class SmkFile:
    """One SMK with its identities, end and LTKM COUNTER."""

    smk: SMK
    idi: bytes
    idr: bytes
    until: int
    counter: int | None = None


@dataclass(frozen=True)
class SekFile:
    """One SEK: its key, the CSB ID and RAND that belong to it, the STKM COUNTER and the windows (R3)."""

    state: SekState
    sek: SEK
    csb_id: bytes
    rand: bytes
    counter: int
    windows: tuple[tuple[int, int], ...]
    order: int


class SimulatedCard:
    """A card in software.  ``k``, ``opc`` and ``impi`` are its subscription.

    Its memory is persisted through ``take()`` like any other state; give it back as ``state`` after a restart.
    """

    def __init__(self, *, k: K, opc: OPC, impi: str, state: dict[str, dict[tuple[object, ...], object]] | None = None) -> None:
        self._milenage = Milenage(k, opc)
        self._impi = impi
        self._journal = Journal(state)
        self.parental: dict[int, int] = {}

    def take(self) -> list[Output]:
        """What to persist since the last call."""
        return self._journal.take()

    def target_ids(self, rand: bytes) -> bytes:
        return make_target_id(rand, self._impi)

    # --- registration (F1) --------------------------------------------------------------------------------------------

    def register(self, push: bytes, now: float) -> SRK | None:
        message = codec.decode(push, "smartcard-registration")
        assert isinstance(message, SmartcardRegistration)
        if message.target_id != self.target_ids(message.rand):
            raise KeyUnavailable("registration of another card")
        if ("rand", message.rand) in self._journal.tables.get("seen", {}):
            return None  # R24: repeats are dropped by RAND
        until = near(message.key_lifetime, now)
        if until <= now:
            raise Replay("registration has ended")
        autn = message.autn
        if message.gba_u:  # take MAC* back to MAC with the IK this RAND gives
            autn = gba_u_autn(autn, IK(self._milenage.f4(message.rand)))
        aka = self._milenage.check_autn(message.rand, autn)
        sqn, last = int.from_bytes(aka.sqn, "big"), self._journal.tables.get("sqn", {}).get((), 0)
        assert isinstance(last, int)
        if not last < sqn <= last + SQN_STEP_LIMIT and last:
            raise Replay("SQN is not fresh")
        keys = registration_keys(aka.ck, aka.ik, message.rand, self._impi, message.naf_fqdn, gba_u=message.gba_u)
        codec.open(push, Keys(ck=aka.ck, ik=aka.ik, impi=self._impi), "smartcard-registration")
        self._journal.put("sqn", (), sqn)
        self._journal.put("seen", ("rand", message.rand), until)
        idi, idr = message.naf_fqdn.encode(), message.btid.encode()
        for old, row in list(self._journal.tables.get("smk", {}).items()):
            assert isinstance(row, SmkFile)
            if row.idi == idi:  # the newest B-TID selects the SMK (smartcard-profile 4.3)
                self._journal.drop("smk", old)
        self._journal.put("smk", (idr, idi), SmkFile(keys.smk, idi, idr, until))
        return keys.srk

    def install(self, smk: SMK, *, idi: bytes, idr: bytes, until: int) -> None:
        """Put an SMK on the card as a GBA run over an interaction channel would have done."""
        self._journal.put("smk", (idr, idi), SmkFile(smk, idi, idr, until))

    # --- LTKM (F2) ----------------------------------------------------------------------------------------------------

    def ltkm(self, data: bytes) -> bytes | None:
        mikey = codec.decode(data, "mikey")
        subtypes = {p.data[:1] for p in getattr(mikey, "payloads", ()) if getattr(p, "ext_type", None) == 5}
        parental = b"\x04" in subtypes
        sealed = codec.decode(data, "smartcard-parental" if parental else "smartcard-ltkm")
        row = self._journal.tables.get("smk", {}).get((getattr(sealed, "idr", b""), getattr(sealed, "idi", b"")))
        if row is None:
            raise KeyUnavailable("smk")
        assert isinstance(row, SmkFile)
        counter: int = sealed.counter  # type: ignore[union-attr]
        if row.counter is not None and not newer(counter, row.counter):
            raise Replay("LTKM COUNTER is not above the stored one")
        clear = codec.open(data, Keys(smk=row.smk), "smartcard-parental" if parental else "smartcard-ltkm")
        if isinstance(clear, ClearSmartcardParental):
            self.parental[clear.rating_type] = clear.level_granted
            wanted = clear.verification_requested
        else:
            assert isinstance(clear, ClearSmartcardLtkm)
            self._install(clear)
            wanted = clear.verification_requested
        self._journal.put("smk", (row.idr, row.idi), replace(row, counter=counter))
        if not wanted:
            return None
        reporting = None
        if isinstance(clear, ClearSmartcardLtkm) and clear.management and clear.management.consumption_reporting_flag:
            reporting = Reporting()
        answer = SmartcardVerification(csb_id=clear.csb_id, counter=counter, idr=row.idr, reporting=reporting)
        return codec.seal(answer, Keys(smk=row.smk, rand=clear.rand, idi=row.idi))

    def _seks(self) -> dict[tuple[object, ...], SekFile]:
        return self._journal.tables.get("sek", {})  # type: ignore[return-value]  # the table holds nothing else

    def _install(self, clear: ClearSmartcardLtkm) -> None:
        key = (clear.key_domain_id, clear.sek_id)
        held = self._seks().get(key)
        state = SekState.ABSENT if held is None else held.state
        if (clear.ts_low, clear.ts_high) == WITHDRAWAL:
            if any(clear.sek.reveal()):
                raise BadValue(None, "sek", "16 zero bytes in a withdrawal (R3)", "a key")
            after = step(SEK_TABLE, state, SekEvent.WITHDRAWAL)
            if held is not None:  # keeps the counter, removes all windows, never installs
                self._journal.put("sek", key, replace(held, state=after, windows=()))
            return
        sek, window = SEK(clear.sek), (clear.ts_low, clear.ts_high)
        after = step(SEK_TABLE, state, SekEvent.LTKM)
        if held is not None:
            if held.sek != sek or held.csb_id != clear.csb_id or held.rand != clear.rand:
                raise Integrity  # one id never names two keys
            windows = held.windows if window in held.windows else (*held.windows, window)
            self._journal.put("sek", key, replace(held, state=after, windows=windows))
            return
        group = sorted(
            (row.order, k)
            for k, row in self._seks().items()
            if k[0] == key[0] and bytes(k[1])[:2] == clear.sek_id[:2]  # type: ignore[call-overload]
        )
        for _, oldest in group[: max(0, len(group) - KEYS_PER_GROUP + 1)]:
            step(SEK_TABLE, self._seks()[oldest].state, SekEvent.EVICTED)
            self._journal.drop("sek", oldest)
        order = 1 + max((row.order for row in self._seks().values()), default=0)
        counter = (clear.ts_low - 1) % MOD  # R3: so the first STKM of the window is accepted
        self._journal.put("sek", key, SekFile(after, sek, clear.csb_id, clear.rand, counter, (window,), order))

    # --- STKM ---------------------------------------------------------------------------------------------------------

    def csb_id(self, key_domain_id: bytes, sek_id: bytes) -> bytes | None:
        row = self._seks().get((key_domain_id, sek_id))
        return None if row is None else row.csb_id

    def stkm(self, data: bytes) -> ClearSmartcardStkm:
        sealed = codec.decode(data, "smartcard-stkm")
        if not isinstance(sealed, SmartcardStkm):
            raise BadValue(None, "encr_alg", "a completed STKM (R13)", "a partial one")
        row = self._seks().get((sealed.key_domain_id, sealed.sek_id))
        if row is None or row.state is not SekState.INSTALLED:
            raise KeyUnavailable("sek")
        if sealed.csb_id != row.csb_id:
            raise Integrity
        if not newer(sealed.counter, row.counter):
            raise Replay("STKM COUNTER is not above the stored one")
        if not any(in_window(sealed.counter, low, high) for low, high in row.windows):
            raise Replay("STKM COUNTER is outside every window")
        clear = codec.open(data, Keys(sek=row.sek, csb_id=row.csb_id, rand=row.rand), "smartcard-stkm")
        assert isinstance(clear, ClearSmartcardStkm)
        self._journal.put("sek", (sealed.key_domain_id, sealed.sek_id), replace(row, counter=sealed.counter))
        return clear
