# SPDX-License-Identifier: Apache-2.0
"""The subscribers with cards as tables of their own: columns instead of rows of everything, so that a million cost seconds.

Their keys are wrapped as everywhere (RFC 3394), one by one.  Each row carries a check of all that is in it.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from cryptography.hazmat.primitives import keywrap

from pybcast.errors import StoreError
from pybcast.flows.members import Right, Subscriber
from pybcast.keys import KEK, SMK, SRK
from pybcast.store.protocol import StoreDamaged

TABLES: Final = """
-- id: in the order in which they came.  kek: what smk is wrapped under.  crc: over all of the row
CREATE TABLE member (
  id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, idr TEXT NOT NULL, smk BLOB NOT NULL, kek INTEGER NOT NULL,
  crc INTEGER NOT NULL
);
-- value: how far the COUNTER has risen since the SMK came, times 2^31, plus a check
CREATE TABLE member_counter (member INTEGER PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE member_stream (id INTEGER PRIMARY KEY, service TEXT NOT NULL, stream INTEGER NOT NULL, UNIQUE (service, stream));
-- content: empty for all of the stream
CREATE TABLE member_right (
  stream INTEGER NOT NULL, member INTEGER NOT NULL, start INTEGER NOT NULL, "end" INTEGER NOT NULL, content TEXT NOT NULL,
  crc INTEGER NOT NULL, PRIMARY KEY (stream, member, start, "end", content)
) WITHOUT ROWID;
CREATE TABLE member_told (key BLOB NOT NULL, member INTEGER NOT NULL, PRIMARY KEY (key, member)) WITHOUT ROWID;
"""

INTERACTION: Final = """
-- of those with an interaction channel.  kek: what srk is wrapped under.  crc: over all of the row
CREATE TABLE member_srk (member INTEGER PRIMARY KEY, srk BLOB NOT NULL, kek INTEGER NOT NULL, crc INTEGER NOT NULL);
CREATE INDEX member_idr ON member (idr);
CREATE INDEX member_right_member ON member_right (member);
"""

MEMBER: Final = (
    "INSERT INTO member (id, name, idr, smk, kek, crc) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
    " idr = excluded.idr, smk = excluded.smk, kek = excluded.kek, crc = excluded.crc"
)
COUNTER: Final = (
    "INSERT INTO member_counter (member, value) VALUES (?, ?) ON CONFLICT (member) DO UPDATE SET value = excluded.value"
)
ACCESS: Final = (
    "INSERT INTO member_srk (member, srk, kek, crc) VALUES (?, ?, ?, ?) ON CONFLICT (member) DO UPDATE SET"
    " srk = excluded.srk, kek = excluded.kek, crc = excluded.crc"
)
NO_ACCESS: Final = "DELETE FROM member_srk WHERE member = ?"
STREAM: Final = "INSERT INTO member_stream (id, service, stream) VALUES (?, ?, ?)"
GRANT: Final = 'INSERT OR REPLACE INTO member_right (stream, member, start, "end", content, crc) VALUES (?, ?, ?, ?, ?, ?)'
FORGET: Final = "DELETE FROM member_right WHERE stream = ? AND member = ?"
TELL: Final = "INSERT OR IGNORE INTO member_told (key, member) VALUES (?, ?)"
UNTELL: Final = "DELETE FROM member_told WHERE key = ?"

_CHECK: Final = (1 << 31) - 1  # a prime: no flipped bit of a COUNTER or of a check goes unseen
_COUNTERS: Final = 1 << 32


class Change:
    """What one input does to these tables, in its transaction.  ``done``: that has been stored."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, list[tuple[Any, ...]]]] = []
        self.done = False

    def add(self, sql: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Statements, after those that were added before."""
        if not self.steps or self.steps[-1][0] != sql:
            self.steps.append((sql, []))
        self.steps[-1][1].extend(rows)

    def encoded(self, kek: KEK, number: int) -> list[tuple[str, list[tuple[Any, ...]]]]:
        """The same with every key wrapped."""
        locks: dict[str, Callable[..., tuple[Any, ...]]] = {MEMBER: _locked, ACCESS: _locked_srk}
        return [(sql, [locks[sql](kek, number, *row) for row in rows] if sql in locks else rows) for sql, rows in self.steps]


def _locked(kek: KEK, number: int, member: int, name: str, idr: str, smk: SMK) -> tuple[Any, ...]:
    wrapped = keywrap.aes_key_wrap(kek.reveal(), smk.reveal())
    return member, name, idr, wrapped, number, member_crc(member, name, idr, wrapped, number)


def _locked_srk(kek: KEK, number: int, member: int, srk: SRK) -> tuple[Any, ...]:
    wrapped = keywrap.aes_key_wrap(kek.reveal(), srk.reveal())
    return member, wrapped, number, srk_crc(member, wrapped, number)


def srk_crc(member: int, wrapped: bytes, kek: int) -> int:
    """The check of a row of ``member_srk``."""
    return zlib.crc32(wrapped, zlib.crc32(f"srk {member} {kek}".encode()))


def srk_of(keks: Mapping[int, bytes], member: int, wrapped: bytes, kek: int, crc: int) -> SRK:
    """The SRK of a row of ``member_srk``; ``StoreDamaged`` when it is not what was written."""
    if crc != srk_crc(member, wrapped, kek):
        raise StoreDamaged(f"table member_srk, member {member}: damaged (checksum)")
    try:
        return SRK(keywrap.aes_key_unwrap(keks[kek], wrapped))
    except (KeyError, keywrap.InvalidUnwrap):
        raise StoreDamaged(f"table member_srk, member {member}: a key does not unwrap") from None


def member_crc(member: int, name: str, idr: str, wrapped: bytes, kek: int) -> int:
    """The check of a row of ``member``."""
    return zlib.crc32(wrapped, zlib.crc32(f"{member} {kek} {name}\0{idr}".encode()))


def right_crc(stream: int, member: int, start: int, end: int, content: str) -> int:
    """The check of a row of ``member_right``."""
    return zlib.crc32(f"{stream} {member} {start} {end} {content}".encode())


def _check(member: int, counter: int) -> int:
    return (counter * 0x9E3779B1 + member * 0x85EBCA77) % _CHECK


def counter_row(member: int, counter: int) -> tuple[int, int]:
    """A row of ``member_counter``."""
    return member, counter << 31 | _check(member, counter)


def counter_of(member: int, value: int) -> int:
    """What :func:`counter_row` was made of; ``StoreDamaged`` for anything else."""
    counter = value >> 31
    if not 0 <= counter < _COUNTERS or value & _CHECK != _check(member, counter):
        raise StoreDamaged(f"table member_counter, member {member}: damaged (checksum)")
    return counter


def smk_of(keks: Mapping[int, bytes], member: int, name: str, idr: str, wrapped: bytes, kek: int, crc: int) -> bytes:
    """The SMK of a row of ``member``; ``StoreDamaged`` when it is not what was written."""
    if crc != member_crc(member, name, idr, wrapped, kek):
        raise StoreDamaged(f"table member, {name!r}: damaged (checksum)")
    try:
        smk = keywrap.aes_key_unwrap(keks[kek], wrapped)
    except (KeyError, keywrap.InvalidUnwrap):
        raise StoreDamaged(f"table member, {name!r}: a key does not unwrap") from None
    return smk


def rewrapped(keks: Mapping[int, KEK], new: int, member: int, name: str, idr: str, *rest: Any) -> tuple[bytes, int, int, int]:
    """A row of ``member`` under another key-encryption key: (smk, kek, crc, id)."""
    smk = smk_of({number: kek.reveal() for number, kek in keks.items()}, member, name, idr, *rest)
    wrapped = keywrap.aes_key_wrap(keks[new].reveal(), smk)
    return wrapped, new, member_crc(member, name, idr, wrapped, new), member


def rewrapped_srk(keks: Mapping[int, KEK], new: int, member: int, *rest: Any) -> tuple[bytes, int, int, int]:
    """A row of ``member_srk`` under another key-encryption key: (srk, kek, crc, member)."""
    srk = srk_of({number: kek.reveal() for number, kek in keks.items()}, member, *rest)
    wrapped = keywrap.aes_key_wrap(keks[new].reveal(), srk.reveal())
    return wrapped, new, srk_crc(member, wrapped, new), member


def window_of(stream: int, member: int, start: int, end: int, content: str, crc: int) -> tuple[int, int]:
    """[start, end) of a row of ``member_right``; ``StoreDamaged`` when it is not what was written."""
    if crc != right_crc(stream, member, start, end, content):
        raise StoreDamaged(f"table member_right, member {member}: damaged (checksum)")
    return start, end


def right_row(stream: int, member: int, right: Right) -> tuple[Any, ...]:
    """A row of ``member_right``.  ``StoreError`` for a right to a programme without a name."""
    if right.content == "":
        raise StoreError("a right: content: expected the name of a programme, or none")
    content = right.content or ""
    return stream, member, right.start, right.end, content, right_crc(stream, member, right.start, right.end, content)


def everyone(
    db: sqlite3.Connection, keks: Mapping[int, bytes] | None, *, srks: bool = True
) -> dict[str, dict[tuple[object, ...], object]]:
    """All of it in the form in which a journal would hold it.  Without ``keks`` keys come wiped.  ``srks``: there is the table."""
    people: dict[tuple[object, ...], object] = {}
    names: dict[int, str] = {}
    access: dict[int, SRK] = {}
    for member, *rest in db.execute("SELECT member, srk, kek, crc FROM member_srk") if srks else ():
        access[member] = SRK(bytes(32)) if keks is None else srk_of(keks, member, *rest)
        if keks is None:
            access[member].wipe()
    for member, name, idr, *rest in db.execute("SELECT id, name, idr, smk, kek, crc FROM member ORDER BY id"):
        smk = SMK(bytes(32) if keks is None else smk_of(keks, member, name, idr, *rest))
        if keks is None:
            smk.wipe()
        people[name,] = Subscriber(id=name, smk=smk, idr=idr, srk=access.get(member))
        names[member] = name
    counters: dict[tuple[object, ...], object] = {
        (names[m],): counter_of(m, v) for m, v in db.execute("SELECT member, value FROM member_counter ORDER BY member")
    }
    rights: dict[tuple[object, ...], object] = {}
    select = "SELECT s.service, s.stream, r.* FROM member_right r JOIN member_stream s ON s.id = r.stream"
    for service, number, stream, member, start, end, content, crc in db.execute(select):
        window_of(stream, member, start, end, content, crc)
        right = Right(service=service, stream=number, start=start, end=end, content=content or None)
        rights[names[member], service, number, start, end, right.content] = right
    told: dict[tuple[object, ...], object] = {(k, names[m]): True for k, m in db.execute("SELECT key, member FROM member_told")}
    return {"subscriber": people, "smk-counter": counters, "right": rights, "told": told}
