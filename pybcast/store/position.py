# SPDX-License-Identifier: Apache-2.0
"""How far a store has come, and how one finds out that it was put back (R2, R51).

Each transaction stores a *stamp* in the database: the life of the store (new at every opening), the number of the commit, and the
highest key number and base of the SMK COUNTERs that were ever stored.  The same stamp is then written to a file in another folder,
the witness (``witness``), before the caller hears that the transaction is stored, so before anything that depends on it leaves.
When the store is opened, the two are compared: a witness that knows of a later commit, or of another life, means that the database
is an older copy.  Back-end peers keep our position as a *token* and send it back: they are a second witness.

What nobody can notice: a whole machine that is rolled back, its witness too, while no peer is left that heard of it.
"""

from __future__ import annotations

import base64
import hmac
import re
import time
import zlib
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import msgspec

from pybcast.flows.bsm.keychain import NUMBERS
from pybcast.flows.restart import Restored
from pybcast.flows.stream.allocator import SMK_BASE as BASE
from pybcast.keys import KEK
from pybcast.store.protocol import Position, StoreDamaged
from pybcast.wire.times import NTP_UNIX

KEY_NUMBERS: Final = NUMBERS.name
SMK_BASE: Final = BASE.name

COMMITS: Final = 1 << 48  # 89,000 years at 100 commits a second; a token cannot move a store further
UNVERIFIED: Final = 1 << 32  # how far a token may move a store that did not make it: a year at 100 commits a second
TOKEN: Final = 200  # characters that a token may have; ours have at most 99
_NUMBERS: Final = 1 << 63  # what an integer of SQLite holds
_MAC: Final = 16  # bytes: a guess is right once in 2^128
_MAC_KEY: Final = b"pybcast position token"
_TOKEN: Final = re.compile(r"([0-9]{1,15})\.([0-9]{1,14})\.([0-9]{1,19})\.([0-9]{1,19})\.[A-Za-z0-9_-]{22}")


_T = TypeVar("_T")


def system_time() -> float:
    """NTP seconds."""
    return time.time() + NTP_UNIX


@dataclass(frozen=True, kw_only=True)
class Stamp(Position):
    """A position, and what is needed to compare it with another.

    ``previous``: the life before this one.  ``began``: the commit that began this life.  ``rows_time``: when rows were stored last;
    the commit that only begins a life does not count, else a crash after it would hide how long the store was away.
    """

    previous: str = ""
    began: int = 0
    rows_time: float = 0.0

    @property
    def position(self) -> Position:
        return Position(life=self.life, commit=self.commit, time=self.time, key_number=self.key_number, smk_base=self.smk_base)

    def raised(self, other: Position) -> Stamp:
        """With the highest numbers of both."""
        return replace(
            self, commit=max(self.commit, other.commit), key_number=max(self.key_number, other.key_number),
            smk_base=max(self.smk_base, other.smk_base),
        )  # fmt: skip

    def next(self, now: float, reached: Position, *, rows: bool) -> Stamp:
        """The stamp of the next transaction.  ``reached``: numbers that it must not be below.  ``rows``: it holds rows."""
        return Stamp(
            life=self.life, commit=max(self.commit, reached.commit) + 1, time=now,
            key_number=max(self.key_number, reached.key_number), smk_base=max(self.smk_base, reached.smk_base),
            previous=self.previous, began=self.began, rows_time=now if rows else self.rows_time,
        )  # fmt: skip


BLANK: Final = Stamp(life="", commit=0, time=0.0, key_number=0, smk_base=0)
"""Of a store in which nothing was ever stored."""


def encode(value: object) -> str:
    """One line of JSON and its check."""
    text = msgspec.json.encode(value)
    return f"{text.decode()} {zlib.crc32(text):08x}"


def decode(line: object, kind: type[_T]) -> _T:
    """The inverse; ``StoreDamaged`` for anything else."""
    text, _, check = str(line).rpartition(" ")
    try:
        if check != f"{zlib.crc32(text.encode()):08x}":
            raise StoreDamaged("damaged (checksum)")
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, UnicodeEncodeError):
        raise StoreDamaged("damaged (content)") from None


def older(database: Stamp | None, witness: Stamp | None, *, unreadable: bool) -> str:
    """Why the database may be older than what has left; empty when it is not.

    ``database``: its last stamp; ``None`` when it is empty.  ``witness``: the stamp in the witness; ``None`` when there is none, or
    when it is ``unreadable``.
    """
    if witness is None:
        what = "the witness cannot be read" if unreadable else "there is no witness"
        return what if unreadable or database is not None else ""
    if database is None:  # a witness of no commit was made by an opening that was killed before its first one
        return f"the witness knows of commit {witness.commit}, the database is empty" if witness.commit else ""
    if witness.life == database.life:
        ahead = witness.commit - database.commit
        return f"the witness is {ahead} commit{'s' if ahead > 1 else ''} ahead" if ahead > 0 else ""
    if witness.life == database.previous and witness.commit < database.began:
        return ""  # killed between the commit that began this life and the writing of the witness
    return "the witness is of another life"


def merged(first: Restored | None, second: Restored) -> Restored:
    """Two verdicts on one database that was not taken into service in between."""
    if first is None:
        return second
    return Restored(why=first.why, lost_from=min(first.lost_from, second.lost_from), lost_to=max(first.lost_to, second.lost_to))


class Tokens:
    """Positions as text that only who has the KEK can make: peers keep it and send it back."""

    def __init__(self, kek: KEK, owner: str) -> None:
        self._key = hmac.digest(kek.reveal(), _MAC_KEY + owner.encode("utf-8", "surrogatepass"), "sha256")

    def _mac(self, text: str) -> str:
        mac = hmac.digest(self._key, text.encode(), "sha256")[:_MAC]
        return base64.urlsafe_b64encode(mac).rstrip(b"=").decode()

    def of(self, position: Position) -> str:
        """The token of a position."""
        text = f"{position.commit}.{max(0, int(position.time))}.{position.key_number}.{position.smk_base}"
        return f"{text}.{self._mac(text)}"

    def genuine(self, token: str) -> bool:
        """Whether we made it."""
        text, _, mac = token.rpartition(".")
        return hmac.compare_digest(mac.encode(), self._mac(text).encode())


def token_position(token: str) -> Position | None:
    """What a token says, true or not; ``None`` for anything that is no token."""
    found = _TOKEN.fullmatch(token) if len(token) <= TOKEN else None
    if found is None:
        return None
    commit, moment, key_number, smk_base = map(int, found.groups())
    if commit >= COMMITS or key_number >= _NUMBERS or smk_base >= _NUMBERS:
        return None
    return Position(life="", commit=commit, time=float(moment), key_number=key_number, smk_base=smk_base)
