# SPDX-License-Identifier: Apache-2.0
"""F4: periods are sealed here, under keys of the BSM, and their STKMs go to it for terminals (F6)."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Sequence

from pybcast.errors import BcastError, PeerFlowError, WireError
from pybcast.flows.bsda.keys import Cover
from pybcast.flows.bsda.periods import Fields, PeriodRecord
from pybcast.flows.bsda.sealing import Sealer, tek_id
from pybcast.flows.events import AirStkm, FlowDone
from pybcast.flows.peers.messages import MAX_DATA, SERVICE_KEY, KeyMaterial, Profile, StkmItem
from pybcast.flows.stream import stkm
from pybcast.flows.stream.allocator import Ask
from pybcast.flows.tables import PeriodEvent, PeriodState, Tag


class SealedHere(Sealer):
    """Seals the periods whose keys are here."""

    def seal(self, cover: Cover, now: float) -> None:
        """Those with the same keys and length together."""

        def alike(record: PeriodRecord) -> object:
            return cover.covers(record.period) and (cover.span, self._periods.length_at(record.period))

        for covered, group in itertools.groupby(self._periods.waiting(PeriodState.KEYED), alike):
            if covered:
                records = list(group)
                self._seal(records, cover.at(records[0].period.start), now)

    def _seal(self, records: list[PeriodRecord], held: dict[str, KeyMaterial], now: float) -> None:
        """Through the allocator (R1)."""
        config, sek = self.config, held.get("SEK")
        policy = stkm.Policy.of(held.get("SEAK"), sek, held.get("PEAK"))
        at = self._periods.config_at(records[0].period)
        named: list[tuple[PeriodRecord, bytes]] = []
        for record in records:
            try:
                named.append((record, stkm.traffic_id(config, record.period, sek)))
            except PeerFlowError as error:
                self.give_up(record, str(error))
        if not named:
            return
        identities: dict[Profile, bytes] = {}
        made = []
        for profile in config.profiles:
            identities[profile] = stkm.key_identity(config, held[SERVICE_KEY[profile]])
            contents = stkm.contents(at, profile, [(record.period, record.key, name) for record, name in named], held, policy)
            asks = [
                Ask(r.period, stkm.owned_digest(at, r.period, content)) for (r, _), content in zip(named, contents, strict=True)
            ]

            def make(new: list[int], contents: Sequence[stkm.Content] = contents) -> Sequence[bytes | BcastError]:
                return stkm.seal_contents([contents[n] for n in new], held, self._means.rings)

            made.append(self._means.allocator.seal_many(identities[profile], asks, make))
        authority, ends = self._periods.authority(), [key.valid_to for key in held.values()]
        done: list[PeriodRecord] = []
        changes: list[Fields] = []
        alike = {"key_ids": tuple(identities.items()), "waived": (), "csb_id": sek.csb_id if sek else None}
        for (record, name), *results in zip(named, *made, strict=True):
            stkms = self._sort_out(record, results)
            if stkms is not None:
                done.append(record)
                change = {**alike, "stkms": stkms, "traffic_id": name, "authority_end": authority(record.period, ends)}
                if len(stkms) < len(config.profiles):
                    has = [one.profile for one in stkms]
                    change["key_ids"] = tuple((profile, identities[profile]) for profile in has)
                    change["waived"] = tuple(profile for profile in config.profiles if profile not in has)
                changes.append(change)
        if done:
            self.deliver(self._periods.fire_all(done, PeriodEvent.STKM_STORED, changes), now)
            for profile in config.profiles:
                self._means.journal.emit(FlowDone("F4", profile, config.service, done[0].period.start))

    def _sort_out(self, record: PeriodRecord, results: Sequence[bytes | BcastError]) -> tuple[AirStkm, ...] | None:
        """The STKMs of a period; ``None``, and it is given up, where there are none, or one is refused."""
        stkms: list[AirStkm] = []
        for profile, result in zip(self.config.profiles, results, strict=True):
            if isinstance(result, bytes):
                stkms.append(AirStkm(profile, result))
            elif not isinstance(result, WireError):
                self.give_up(record, str(result))
                return None
            elif self.waive(record, profile, str(result)):
                record = record.but(waived=(*record.waived, profile))
            else:
                return None
        return tuple(stkms)

    def items(self, profile: Profile, records: Iterable[PeriodRecord]) -> tuple[StkmItem, ...]:
        """The STKMs of some periods, for the BSM (F6)."""
        config = self.config
        return tuple(
            StkmItem(
                stream=config.stream, period_start=r.period.start, period_end=r.period.end, tek_id=tek_id(config, r),
                content=s.data, authority_end=r.authority_end,
            )
            for r in records if r.state in (PeriodState.SEALED, PeriodState.HANDED)
            for s in r.stkms if s.profile == profile
        )  # fmt: skip

    def deliver(self, records: Collection[PeriodRecord], now: float) -> None:
        """F6, pushed: the STKMs of some periods in one delivery for each profile."""
        config = self.config
        if not config.interaction or config.delivery != "push":
            return
        for profile in config.profiles:
            items = self.items(profile, records)
            for some in (items[n : n + MAX_DATA] for n in range(0, len(items), MAX_DATA)):
                self._means.peers.ask(
                    Tag.STKMDelivery, config.bsm, config.service, now, until=max(i.period_end for i in some), profile=profile,
                    stream=config.stream, items=some, about=frozenset(i.period_start for i in some),
                )  # fmt: skip
