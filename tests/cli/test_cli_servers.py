# SPDX-License-Identifier: Apache-2.0
"""Times, CSV and help of the servers' commands: what needs no server."""

from __future__ import annotations

import csv
import datetime
import io
import subprocess
import sys
from collections.abc import Iterator

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from pybcast.cli import importing, main, servers
from pybcast.cli.asking import moment, shown_time
from pybcast.cli.bsda import bsda
from pybcast.cli.bsm import bsm
from pybcast.cli.importing import COLUMNS, Chunk, Source, chunks
from pybcast.errors import ConfigError
from pybcast.servers import enrol
from pybcast.wire.times import NTP_UNIX

CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)


def test_a_time_is_absolute_or_from_now() -> None:
    assert moment("1970-01-01T00:00:10Z", "--at") == 2_208_988_810
    assert moment("1970-01-01T01:00:10+01:00", "--at") == moment("1970-01-01T00:00:10", "--at") == 2_208_988_810
    assert shown_time(2_208_988_810) == "1970-01-01 00:00:10"
    assert moment("+3600", "--at") - moment("+0", "--at") in (3600, 3601)
    for text in ("", "soon", "+", "+x", "+" + "9" * 30, "2030-13-01", "25:00"):
        with pytest.raises(ConfigError, match="expected a time such as"):
            moment(text, "--at")


def test_the_columns_are_those_that_the_server_knows() -> None:
    assert set(COLUMNS) == set(enrol.COLUMNS)


def read(data: bytes) -> tuple[list[Chunk], list[tuple[int, str, str]]]:
    refused: list[tuple[int, str, str]] = []
    return list(chunks(Source("x", io.BytesIO(data)), lambda *what: refused.append(what))), refused


@given(st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=20, unique_by=lambda row: row[1].strip() or object()))
def test_rows_come_as_they_were_written(rows: list[tuple[str, str, str]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(("services", "subscriber", "idr"))
    writer.writerows(rows)
    found, refused = read(text.getvalue().encode())
    expected = [dict(zip(("services", "subscriber", "idr"), row, strict=True)) for row in rows if any(row)]
    assert refused == []
    assert [row for chunk in found for row in chunk.rows] == [
        {name: value.strip() for name, value in row.items() if value} for row in expected
    ]


@given(st.binary(max_size=300))
def test_any_bytes_are_rows_or_an_error(data: bytes) -> None:
    for content in (data, b"subscriber,smk\n" + data):
        try:
            found, _ = read(content)
        except ConfigError as error:
            assert str(error).startswith("x:")
        else:
            assert all(set(row) <= set(COLUMNS) for chunk in found for row in chunk.rows)


def test_memory_and_commands_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = read(b"subscriber\n" + b"".join(b"a%d\n" % n for n in range(importing.CHUNK_ROWS * 2 + 1)))
    assert [len(chunk.rows) for chunk in found] == [importing.CHUNK_ROWS, importing.CHUNK_ROWS, 1]
    assert found[1].lines[0] == importing.CHUNK_ROWS + 2
    monkeypatch.setattr(importing, "CHUNK_CHARACTERS", 1000)
    found, _ = read(b"subscriber,smk\n" + b"a," + b"0" * 600 + b"\n" + b"b," + b"0" * 600 + b"\n")
    assert [len(chunk.rows) for chunk in found] == [2]
    assert read(b"\xef\xbb\xbfsubscriber\r\na\r\n")[0][0].rows == [{"subscriber": "a"}], "as spreadsheets write it"


def _commands(group: typer.Typer, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for command in group.registered_commands:
        assert command.callback is not None
        yield (*words, command.name or command.callback.__name__)
    for inner in group.registered_groups:
        assert inner.typer_instance is not None and inner.name is not None
        yield (*words, inner.name)
        yield from _commands(inner.typer_instance, (*words, inner.name))


ALL = [
    command for name, group in (("bsm", bsm), ("bsda", bsda), ("pki", servers.pki), ("metrics", servers.metrics))
    for command in _commands(group, (name,))
]  # fmt: skip


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_command_has_help(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"Usage: pybcast {' '.join(words)} [OPTIONS]") and len(out.splitlines()[2].strip()) > 8
    arguments = [line for line in out.splitlines() if line.lstrip().startswith(("CONFIG", "NAME", "SERVICE", "FILE"))]
    assert all(len(line.split()) > 3 for line in arguments), "every argument is explained"


def test_the_demo_without_the_servers_extra() -> None:
    program = "import sys; sys.modules['aiohttp'] = None; from pybcast.cli import main; sys.exit(main(['demo']))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (2, "") and "pip install '.[media,server]' in pybcast's folder" in done.stderr


def test_a_day_ends_at_midnight() -> None:
    now = datetime.datetime(2030, 1, 31, 23, 59, tzinfo=datetime.UTC).timestamp() + NTP_UNIX
    assert shown_time(enrol.last_second("2030-02-01", 9, now)) == "2030-02-02 00:00:00"
    assert shown_time(enrol.last_second("", 1, now)) == shown_time(enrol.last_second("", 1, now - 80_000)) == "2030-02-02 00:00:00"
