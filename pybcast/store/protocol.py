# SPDX-License-Identifier: Apache-2.0
"""What a store promises, whatever holds the bytes; its errors, its figures, and the entries of the message log."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import ClassVar, Literal, Protocol, Self

from pybcast.errors import StoreError
from pybcast.flows.events import Persist
from pybcast.flows.journal import RowKey, State
from pybcast.flows.restart import Restored
from pybcast.keys import KEK


class StoreFull(StoreError):
    """No space for this write.  Nothing of it was stored; what was stored before is unharmed."""

    code: ClassVar[str] = "store_full"


class StoreDamaged(StoreError):
    """The database, or a row of it, is not what was written."""

    code: ClassVar[str] = "store_damaged"


class StoreInUse(StoreError):
    """Another process has the database open for writing."""

    code: ClassVar[str] = "store_in_use"


class WrongKek(StoreError):
    """The key-encryption key at hand is not the one the database was written under."""

    code: ClassVar[str] = "store_wrong_kek"


class StoreStopped(StoreError):
    """Not attempted: a write before this one failed.  ``load`` makes the store usable again and says what it holds."""

    code: ClassVar[str] = "store_stopped"


@dataclass(frozen=True)
class Position:
    """How far a store has come.

    ``life``: 16 hexadecimal digits, random, new at every opening for writing.  ``commit``: the number of the last transaction; it
    rises for ever, over lives and restores.  ``time``: NTP seconds at which that was made.  ``key_number``: the highest key number
    that was ever stored.  ``smk_base``: what every SMK COUNTER has been moved by.
    """

    life: str
    commit: int
    time: float
    key_number: int
    smk_base: int


@dataclass(frozen=True, kw_only=True)
class LogEntry:
    """One back-end message that came or went; never its body (R41).

    ``time``: NTP seconds.  ``octets``: size of the message.  ``digest``: SHA-256 of it, where a repeat must be told from another.
    """

    time: float
    direction: Literal["in", "out"]
    peer: str
    tag: int
    message_id: str
    service: str = ""
    status: int | None = None
    octets: int = 0
    digest: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Stats:
    """What the store has done since it was opened, and how large it is now.

    ``writes`` in ``commits`` transactions (one fsync each), ``largest_group`` writes in one of them; ``rows`` stored or dropped.
    ``commit_seconds``: sum over all transactions, of which the slowest took ``slowest_commit``.  ``waiting``: writes queued now.
    ``octets``, ``wal_octets``, ``free_octets``: size of the database, of its log, and what of the database is unused.
    """

    writes: int
    commits: int
    largest_group: int
    rows: int
    commit_seconds: float
    slowest_commit: float
    waiting: int
    octets: int
    wal_octets: int
    free_octets: int
    kek_id: str


class Store(Protocol):
    """Durable memory of one machine (``BSM``, ``BSDA``, ``Terminal``).

    Writes become durable in the order in which they were given; an acknowledged one survives kill -9 and power loss.  When one
    fails, those given after it fail too (``StoreStopped``) until :meth:`load` is called: what is stored is always a prefix of
    what was given, and the machine is made again from it.
    """

    def load(self) -> State:
        """All rows; tables keep the order in which their rows were first put."""

    def rows(self, table: str) -> Iterator[tuple[RowKey, object]]:
        """The rows of one table, a few at a time."""

    def write(self, batch: Iterable[Persist]) -> None:
        """One durable transaction: on return it is stored, on an error nothing of it is."""

    def submit(self, batch: Sequence[Persist], log: Sequence[LogEntry] = ()) -> Future[None]:
        """The same without waiting, for threads."""

    def write_async(self, batch: Sequence[Persist], log: Sequence[LogEntry] = ()) -> Awaitable[None]:
        """The same for the event loop that runs this."""

    def rotate_kek(self, new: KEK) -> None:
        """Wrap every key under ``new``; writes go on meanwhile."""

    @property
    def restored(self) -> Restored | None:
        """Why this may be an older copy: COUNTERs must jump and keys roll (R2); ``None`` when it is not."""

    def take_into_service(self) -> None:
        """They have, and that is stored."""

    @property
    def gap(self) -> float:
        """Seconds for which nothing had been stored when the store was opened; 0.0 for a new one."""

    @property
    def position(self) -> Position:
        """How far the store has come."""

    def token(self) -> str:
        """The position as text, for peers to keep and to send back."""

    def note_heard(self, peer: str, token: str) -> None:
        """What a peer says of its own position, to be sent back to it."""

    def heard(self, peer: str) -> str:
        """The highest token of a peer; empty when there is none."""

    def behind(self, token: str) -> bool:
        """Whether a token that came back names a commit that this store does not know of."""

    def found_ahead(self, token: str, who: str) -> Restored | None:
        """Take over what a token says that came back from ``who``; the verdict when it is ahead of this store."""

    def stats(self) -> Stats:
        """Figures for an operator."""

    def close(self) -> None:
        """Carry out what is queued, then let go of the database."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...
