# SPDX-License-Identifier: Apache-2.0
"""Records that callers can cause any number of times are counted, and not all written."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Iterator
from typing import Any, Final

import pytest

from pybcast.backend import Exchanged
from pybcast.backend.audit import log_exchange
from pybcast.servers import log
from pybcast.servers.log import FIRST, INTERVAL, KINDS, Repeats


class Clocked:
    """A filter with a clock, and what came out."""

    def __init__(self) -> None:
        self.now = 0.0
        self.repeats = Repeats(lambda: self.now)
        self.lines: list[dict[str, Any]] = []

    def say(
        self,
        text: str = "refused: %s",
        *args: object,
        name: str = "pybcast.backend",
        level: int = logging.WARNING,
        **fields: object,
    ) -> None:
        record = logging.LogRecord(name, level, "x.py", 1, text, args, None)
        if fields:
            record.__dict__["fields"] = fields
        self._write(self.repeats.take(record))

    def ended(self) -> None:
        self._write(self.repeats.ended())

    def _write(self, records: list[logging.LogRecord]) -> None:
        self.lines += [json.loads(log._Formatter("json").format(record)) for record in records]

    @property
    def texts(self) -> list[str]:
        return [line["message"] for line in self.lines]


def test_the_first_of_a_kind_are_written_and_the_others_counted() -> None:
    made = Clocked()
    for number in range(1000):
        made.say("refused: %s", f"127.0.0.{number % 256}", event="connection-refused", why="too many")
    assert made.texts == [f"refused: 127.0.0.{n}" for n in range(FIRST)]
    made.now = INTERVAL - 0.1
    made.ended()
    assert len(made.lines) == FIRST
    made.now = INTERVAL
    made.ended()
    assert made.texts[FIRST:] == [f"refused: 127.0.0.{999 % 256} ... repeated {1000 - FIRST} times"]
    assert made.lines[-1]["repeated"] == 1000 - FIRST and made.lines[-1]["event"] == "connection-refused"
    made.say("refused: %s", "again", event="connection-refused", why="too many")
    assert made.texts[-1] == "refused: again", "the next interval begins anew"
    made.now = 3 * INTERVAL
    made.ended()
    assert len(made.lines) == FIRST + 2, "nothing was left out"


def test_the_next_record_ends_an_interval_too() -> None:
    made = Clocked()
    for _ in range(FIRST + 2):
        made.say()
    made.now = INTERVAL + 1
    made.say("another")
    assert made.texts[FIRST:] == ["refused: %s ... repeated 2 times", "another"]


def test_what_an_operator_tells_apart_is_counted_apart() -> None:
    """One peer's flood of refusals hides neither another's nor those of another kind."""
    made = Clocked()
    for _ in range(100):
        made.say("%s", "a", peer="urn:a", status=8)
    made.say("%s", "b", peer="urn:b", status=8)
    made.say("%s", "c", peer="urn:a", status=11)
    made.say("certificate refused: %s", "expired", event="tls")
    assert made.texts[FIRST:] == ["b", "c", "certificate refused: expired"]


@pytest.mark.parametrize(
    "record",
    [
        {"name": "pybcast.audit", "level": logging.INFO}, {"name": "pybcast.servers", "level": logging.WARNING},
        {"name": "pybcast.backend", "level": logging.DEBUG},
    ],
)  # fmt: skip
def test_what_nobody_else_causes_is_all_written(record: dict[str, Any]) -> None:
    """Each key is in the audit, and who sets ``debug`` wants everything."""
    made = Clocked()
    for _ in range(100):
        made.say("x", **record)
    assert len(made.lines) == 100


@pytest.mark.parametrize(
    "name", ["asyncio", "aiohttp.server", "pybcast.backend.http", "pybcast.interaction", "pybcast.interaction.http"]
)
def test_stray_records_of_others_are_counted(name: str) -> None:
    made = Clocked()
    for number in range(100):
        made.say(f"Fatal error\n{number}", name=name, level=logging.ERROR)
    assert len(made.lines) == FIRST


def test_texts_that_vary_without_end_take_bounded_memory() -> None:
    """They share one kind for each logger, in which the first few are written too."""
    made = Clocked()
    for number in range(10 * KINDS):
        made.say(f"text {number}", name="asyncio")
    assert len(made.repeats) <= KINDS + 1 and len(made.lines) == KINDS + FIRST
    made.say("text", name="pybcast.backend")
    assert made.texts[-1] == "text", "others have a kind of their own"
    made.now = INTERVAL
    made.ended()
    assert len(made.repeats) == 0 and sum(line.get("repeated", 0) for line in made.lines) + KINDS + FIRST == 10 * KINDS


def test_refused_requests_are_counted_by_peer_and_status() -> None:
    made, records = Clocked(), list[logging.LogRecord]()

    class Collecting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    handler, logger = Collecting(), logging.getLogger("pybcast.backend")
    logger.addHandler(handler)
    try:
        for number in range(500):
            done = Exchanged(
                role="server", peer="urn:a", tag=7, message_id=f"{number}", service=f"urn:{number}", status=8, http=200,
                seconds=number, error=f"line {number}",
            )  # fmt: skip
            log_exchange(done, b"%d" % number)
    finally:
        logger.removeHandler(handler)
    for record in records:
        made._write(made.repeats.take(record))
    assert len(records) == 500 and len(made.lines) == FIRST and len(made.repeats) == 1


# --- the handler ------------------------------------------------------------------------------------------------------


@pytest.fixture
def quiet() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("pybcast")
    before = root.handlers[:], root.level, ours.level, logging.raiseExceptions
    hooks = sys.unraisablehook, threading.excepthook
    yield
    for handler in root.handlers:
        if isinstance(handler, log._Handler):
            handler.close()
    root.handlers[:], root.level, ours.level, logging.raiseExceptions = before
    sys.unraisablehook, threading.excepthook = hooks


FLOOD: Final = 5000


def _flood() -> None:
    for number in range(FLOOD):
        logging.getLogger("pybcast.backend").warning("flood", extra={"fields": {"event": "connection-refused", "number": number}})


def test_a_timer_writes_the_counts_when_nothing_follows(
    quiet: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "INTERVAL", 0.05)
    log.start("json", "info")
    _flood()
    handler = logging.getLogger().handlers[0]
    assert isinstance(handler, log._Handler)
    while (timer := handler._timer) is not None:
        timer.join()
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert sum(line.get("repeated", 1) for line in lines) == FLOOD and len(lines) < FLOOD / 10


def test_what_is_counted_is_written_at_a_reload_and_at_the_end(quiet: None, capsys: pytest.CaptureFixture[str]) -> None:
    log.start("text", "info")
    _flood()
    log.start("json", "info")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == FIRST + 1 and lines[-1].endswith(f"flood ... repeated {FLOOD - FIRST} times")
    _flood()
    logging.getLogger().handlers[0].close()
    last = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert last["repeated"] == FLOOD - FIRST
