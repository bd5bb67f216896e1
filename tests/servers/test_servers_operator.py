# SPDX-License-Identifier: Apache-2.0
"""An operator's commands against running servers: import, programmes, boundaries, change of the key-encryption key, log, status."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from servers_support import System

from pybcast.servers.control import ask
from pybcast.testing.parties import make_card, make_device, make_group

NOW: Final = 4_000_000_000.0
A, B, D = "urn:example:service:A", "urn:example:service:B", "urn:example:service:D"
HEADER: Final = ("subscriber", "smk", "idr", "group", "position", "udk", "riak", "srk", "udn", "registration", "services", "until")


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    made = System(tmp_path_factory.mktemp("operator"))
    made.start("bsm", "bsda")
    yield made
    made.close()


def write(path: Path, rows: Sequence[Mapping[str, str]], header: tuple[str, ...] = HEADER) -> Path:
    text = io.StringIO()
    writer = csv.DictWriter(text, header)
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue())
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def people(system: System) -> list[Mapping[str, str]]:
    """Three cards and two devices, and their group in the BSM."""
    source = random.Random(7)
    group = make_group(source)
    keys = {"address": group.address, "root": group.root.reveal(), "ugk": group.ugk.reveal(), "riak": group.riak.reveal()}
    (system.folder / "group.json").write_text(json.dumps({name: value.hex() for name, value in keys.items()}))
    status, _, err = system.command("bsm", "group", "add", "bsm.toml", str(system.folder / "group.json"))
    assert status == 0, err
    rows: list[Mapping[str, str]] = []
    for n in range(3):
        card = make_card(source, f"card-{n}", NOW)
        assert card.subscriber.smk is not None and card.subscriber.srk is not None
        rows.append({
            "subscriber": f"card-{n}", "smk": card.subscriber.smk.reveal().hex(), "idr": card.subscriber.idr,
            "srk": card.subscriber.srk.reveal().hex(), "registration": card.registration.hex(), "services": f"{A} {B}",
        })  # fmt: skip
    for n in range(2):
        device = make_device(source, f"device-{n}", group, n, NOW)
        assert device.subscriber.udk is not None and device.subscriber.riak is not None
        rows.append({
            "subscriber": f"device-{n}", "group": group.address.hex(), "position": str(n),
            "udk": device.subscriber.udk.reveal().hex(), "riak": device.subscriber.riak.reveal().hex(),
            "udn": device.subscriber.udn, "registration": device.registration.hex(), "services": A, "until": "2150-12-31",
        })  # fmt: skip
    return rows


def imported(system: System, file: Path, *more: str) -> tuple[int, dict[str, Any], list[dict[str, Any]]]:
    status, out, err = system.command("bsm", "subscriber", "import", "bsm.toml", str(file), "--json", *more)
    return status, json.loads(out), [json.loads(line)["error"] for line in err.splitlines()]


def test_both_profiles_are_imported_and_again_is_nothing(system: System, people: list[Mapping[str, str]]) -> None:
    file = write(system.folder / "people.csv", people)
    nothing = {"added": 0, "changed": 0, "unchanged": 0, "refused": 0, "dry_run": False}
    assert imported(system, file, "--dry-run") == (0, nothing | {"added": 5, "dry_run": True}, [])
    assert system.shown("bsm", "subscriber", "list", "bsm.toml") == []
    assert imported(system, file) == (0, nothing | {"added": 5}, [])
    before = system.rows("bsm")
    assert imported(system, file) == (0, nothing | {"unchanged": 5}, [])
    after = system.rows("bsm")
    assert all(after[table] == before[table] for table in ("right", "registration")), "nothing was issued again"
    listed = {row["subscriber"]: row for row in system.shown("bsm", "subscriber", "list", "bsm.toml")}
    assert {name: (row["profile"], len(row["rights"])) for name, row in listed.items()} == {
        "card-0": ("smartcard", 2), "card-1": ("smartcard", 2), "card-2": ("smartcard", 2), "device-0": ("drm", 1),
        "device-1": ("drm", 1),
    }  # fmt: skip
    changed = [{**people[0], "smk": "5c" * 32}, {**people[1], "services": f"{A} {B} urn:example:service:C"}, *people[2:]]
    assert imported(system, write(system.folder / "new.csv", changed)) == (0, nothing | {"changed": 2, "unchanged": 3}, [])
    (shown,) = system.shown("bsm", "subscriber", "show", "bsm.toml", "card-1")
    assert {right["service"][-1] for right in shown["rights"]} == set("ABC")
    assert system.command("bsm", "subscriber", "show", "bsm.toml", "nobody")[0] == 2
    assert "00010203" in system.command("bsm", "group", "list", "bsm.toml")[1]


def test_what_is_wrong_is_named_and_the_rest_is_imported(system: System, people: list[Mapping[str, str]]) -> None:
    key, good = "6d" * 32, {**people[0], "subscriber": "good"}
    bad: list[tuple[Mapping[str, str], str, str]] = [
        ({**people[0], "subscriber": "x", "smk": key[:-2]}, "smk", "expected 64 hexadecimal digits"),
        ({**people[0], "subscriber": "x", "smk": key[:-2] + "xx"}, "smk", "expected 64 hexadecimal digits"),
        ({**people[0], "subscriber": ""}, "subscriber", "expected 1 to 255 printable characters"),
        ({**people[0], "subscriber": "x", "idr": ""}, "idr", "missing"),
        ({**people[0], "subscriber": "x", "udk": "00" * 16}, "udk", "is for the DRM Profile"),
        ({**people[0], "subscriber": "x", "services": f"{A} urn:nobody"}, "services", "no such service or stream here: urn:nobody"),
        ({**people[0], "subscriber": "x", "until": "2020-02-30"}, "until", "expected a day, YYYY-MM-DD"),
        ({**people[0], "subscriber": "x", "until": "2020-02-20"}, "until", "is over"),
        ({**people[0], "subscriber": "x", "registration": "4"}, "registration", "expected hexadecimal digits"),
        ({**people[3], "subscriber": "x", "position": "600"}, "position", "expected 0 to 511"),
        ({**people[3], "subscriber": "x", "group": "0000ffff"}, "group", "is not known"),
        ({**people[3], "subscriber": "x", "riak": "00"}, "riak", "expected 32 hexadecimal digits"),
        ({**people[0], "subscriber": "x", "srk": key[:-2]}, "srk", "expected 64 hexadecimal digits"),
        ({**people[0], "subscriber": "x", "udn": "0" * 20}, "udn", "is for the DRM Profile"),
        ({**people[3], "subscriber": "x", "srk": key}, "srk", "is for the Smartcard Profile"),
        ({**people[3], "subscriber": "x", "udn": "0" * 19}, "udn", "expected 20 digits"),
        ({**people[3], "subscriber": "x"}, "udn", "is that of another subscriber"),
        ({"subscriber": "x"}, "smk", "missing"),
    ]
    bad = [({**row, "subscriber": f"x{n}"} if row["subscriber"] else row, column, why) for n, (row, column, why) in enumerate(bad)]
    file = write(system.folder / "bad.csv", [row for row, _, _ in bad] + [good])
    with file.open("a") as more:
        more.write("too,few\n\n")
    status, total, errors = imported(system, file)
    assert (status, total["added"], total["refused"]) == (2, 1, len(bad) + 1)
    found = sorted(((e["line"], e["column"], e["reason"]) for e in errors), key=lambda e: int(e[0]))
    for number, (line, column, reason) in enumerate(found[:-1], 2):
        assert (line, column) == (number, bad[number - 2][1]) and reason.startswith(bad[number - 2][2])
    assert found[-1][:2] == (len(bad) + 3, "-")
    status, out, err = system.command("bsm", "subscriber", "import", "bsm.toml", str(file))
    assert status == 2 and f"{file}:2: smk: expected 64 hexadecimal digits" in err.splitlines()
    assert "6d6d" not in out + err and "unchanged 1" in out
    assert all(system.command("bsm", "subscriber", "show", "bsm.toml", f"x{n}")[0] == 2 for n in (0, 3, 16))


def test_a_name_twice_in_one_file_is_an_error_with_both_lines(system: System, people: list[Mapping[str, str]]) -> None:
    """Whatever lies between the two lines, and whatever else they say; names are counted once."""
    twin = {**people[0], "subscriber": "twin", "services": "", "registration": ""}
    rows = [twin, *({**twin, "subscriber": f"between-{n}"} for n in range(250)), {**twin, "smk": "7e" * 32}, twin]
    file = write(system.folder / "twice.csv", rows)
    for dry_run in (["--dry-run"], []):
        status, total, errors = imported(system, file, *dry_run)
        assert (status, total["added"], total["refused"]) == (2, 251, 2)
        assert [(e["line"], e["column"]) for e in errors] == [(253, "subscriber"), (254, "subscriber")]
        assert all("line 2 " in e["reason"] for e in errors)
    assert system.command("bsm", "subscriber", "import", "bsm.toml", str(file))[2].splitlines()[0].startswith(f"{file}:253: ")
    assert imported(system, write(system.folder / "once.csv", [twin]))[1]["unchanged"] == 1, "the first line counted"
    answer = ask(system.folder / "bsm.sock", "subscriber-import", rows=[{"subscriber": "q", "smk": twin["smk"], "idr": "q@x"}] * 3)
    assert answer["added"] == 1 and [e["row"] for e in answer["errors"]] == [1, 2]
    for name in ("q", "twin", *(f"between-{n}" for n in range(250))):
        ask(system.folder / "bsm.sock", "subscriber-remove", name=name)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("{0}\n{0}\n", [(3, 2)]),
        ("{0}\r\n{0}\r\n", [(3, 2)]),
        ("{0}\n{0}", [(3, 2)]),
        ("{0}\n\n\n{0}\n", [(5, 2)]),
        ('{0}\n"{1}",{2}\n', [(3, 2)]),
        ("{0}\n  {1}  ,{2}\n", [(3, 2)]),
        ("{0}\n{0}\n{0}\n", [(3, 2), (4, 2)]),
        ("{0}\nother,{2}\n{0}\n", [(4, 2)]),
        ("other,{2}\n{0}\nother,{2}\n{0}\n", [(4, 2), (5, 3)]),
        ("{1},00,one@x\n{0}\n", [(2, 0), (3, 2)]),
        ("{0}\n{1},00,one@x\n", [(3, 2)]),
        ("{1},one\n{0}\n{0}\n", [(2, 0), (4, 3)]),
        ('"{1}\n",{2}\n{0}\n', [(4, 3)]),
        ("{0}\nOne,{2}\n", []),
    ],
)
def test_a_name_twice_however_it_is_written(system: System, text: str, lines: list[tuple[int, int]]) -> None:
    """(line, the line that has its name already; 0: the line is bad for another reason)."""
    name, rest = "one", "6e" * 32 + ",one@x"
    file = system.folder / "same.csv"
    file.write_bytes(("subscriber,smk,idr\n" + text.format(f"{name},{rest}", name, rest)).encode())
    file.chmod(0o600)
    status, total, errors = imported(system, file, "--dry-run")
    assert (status, total["refused"]) == (2 if lines else 0, len(lines))
    assert sorted(e["line"] for e in errors) == [line for line, _ in lines]
    for error in errors:
        first = dict(lines)[error["line"]]
        assert (f"is on line {first} too" in error["reason"]) == bool(first), error


def rights(system: System, name: str) -> set[tuple[str, str | None]]:
    (shown,) = system.shown("bsm", "subscriber", "show", "bsm.toml", name)
    return {(right["service"], right["content"]) for right in shown["rights"]}


def test_rights_of_many_from_a_file(system: System, people: list[Mapping[str, str]]) -> None:
    rows = [{**people[0], "subscriber": f"crowd-{n}", "services": "", "registration": ""} for n in range(210)]
    assert imported(system, write(system.folder / "crowd.csv", rows))[0] == 0
    header = ("subscriber", "services", "programme", "until")
    lines: list[Mapping[str, str]] = [{"subscriber": f"crowd-{n}", "services": f"{A} {B}"} for n in range(209)]
    lines.append({"subscriber": "crowd-209", "services": A, "programme": "urn:example:show", "until": "2150-12-31"})
    bad: list[tuple[Mapping[str, str], str, str]] = [
        ({"subscriber": "nobody", "services": A}, "subscriber", "is not known"),
        ({"subscriber": "", "services": A}, "subscriber", "is not known"),
        ({"subscriber": "crowd-1", "services": "urn:nobody"}, "services", "no such service"),
        ({"subscriber": "crowd-1", "services": ""}, "services", "missing"),
        ({"subscriber": "crowd-2", "services": A, "until": "soon"}, "until", "expected a day"),
        ({"subscriber": "crowd-2", "services": f"{A} {B}"}, "subscriber", "is on line 4 too"),
    ]
    file = write(system.folder / "rights.csv", [*lines, *(row for row, _, _ in bad)], header)
    words: tuple[str, ...] = ("bsm", "subscriber", "grant", "bsm.toml", "--from", str(file), "--json")
    status, out, err = system.command(*words, "--dry-run")
    assert status == 2 and json.loads(out) == {"granted": 210, "unchanged": 0, "refused": len(bad), "dry_run": True}
    assert rights(system, "crowd-7") == set()
    status, out, err = system.command(*words)
    assert status == 2 and json.loads(out)["granted"] == 210
    found = sorted((e["line"], e["column"], e["reason"]) for e in (json.loads(x)["error"] for x in err.splitlines()))
    for (line, column, reason), (number, (_, expected, why)) in zip(found, enumerate(bad, 212), strict=True):
        assert (line, column) == (number, expected) and reason.startswith(why)
    assert rights(system, "crowd-7") == {(A, None), (B, None)} and rights(system, "crowd-209") == {(A, "urn:example:show")}
    assert json.loads(system.command(*words)[1])["unchanged"] == 210, "granting again changes nothing"
    file = write(system.folder / "gone.csv", [{"subscriber": f"crowd-{n}", "services": A} for n in range(210)], header[:2])
    words = ("bsm", "subscriber", "withdraw", "bsm.toml", "--from", str(file))
    assert system.command(*words, "--dry-run")[1].startswith("withdrawn 210,")
    assert system.command(*words)[:2] == (0, "withdrawn 210, unchanged 0, refused 0, dry run no\n")
    assert rights(system, "crowd-7") == {(B, None)} and rights(system, "crowd-209") == set()
    assert system.command(*words)[1].startswith("withdrawn 0, unchanged 210,")
    for answer in (ask(system.folder / "bsm.sock", "subscriber-withdrawals", rows=[{**lines[209], **more}]) for more in (
        {}, {"programme": "", "until": "2150-12-31"}, {"smk": "00"},
    )):  # fmt: skip
        assert [e["column"] for e in answer["errors"]] in (["programme"], ["until"], ["smk"])


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("grant", "bsm.toml", "card-1"), "NAME and SERVICE, or --from FILE.csv"),
        (("withdraw", "bsm.toml"), "NAME and SERVICE, or --from FILE.csv"),
        (("grant", "bsm.toml", "card-1", A, "--dry-run"), "NAME and SERVICE, or --from FILE.csv"),
        (("grant", "bsm.toml", "card-1", A, "--from", "rights.csv"), "the file says who and what"),
        (("grant", "bsm.toml", "--stream", "1", "--from", "rights.csv"), "the file says who and what"),
        (
            ("withdraw", "bsm.toml", "--from", "rights.csv"),
            "rights.csv:1: unknown column 'programme'; columns: subscriber services",
        ),
        (("withdraw", "bsm.toml", "--from", "people.csv"), "people.csv:1: unknown column 'smk'"),
        (("grant", "bsm.toml", "--from", "none.csv"), "cannot read 'none.csv'"),
        (("remove", "bsm.toml", "nobody"), "no subscriber nobody"),
    ],
)
def test_what_a_command_about_rights_refuses(system: System, words: tuple[str, ...], why: str) -> None:
    for name in ("rights.csv", "people.csv"):
        (system.folder / name).exists() or (system.folder / name).write_text("subscriber,services,programme,smk\n")
    words = tuple(str(system.folder / word) if word in ("rights.csv", "people.csv") else word for word in words)
    status, out, err = system.command("bsm", "subscriber", *words)
    assert (status, out) == (2, "") and why in err, err


@pytest.mark.parametrize(
    ("command", "content", "why"),
    [
        ("subscriber", {"smk": "00", "idr": "x"}, "smk: expected 64 hexadecimal digits"),
        ("subscriber", {"idr": "x"}, "smk: missing"),
        ("subscriber", {"group": "00010203", "position": 700}, "position: expected 0 to 511"),
        ("group", {"address": "00"}, "address: expected 8 hexadecimal digits"),
        ("group", {"address": "00010204", "size": 3}, "size: expected 256 or 512"),
    ],
)
def test_what_is_wrong_in_a_key_file_names_the_file(system: System, command: str, content: dict[str, object], why: str) -> None:
    file = system.folder / "wrong.json"
    file.write_text(json.dumps(content))
    named = ["bsm.toml", "x", "--keys", str(file)] if command == "subscriber" else ["bsm.toml", str(file)]
    status, _, err = system.command("bsm", command, "add", *named)
    assert status == 2 and f"{file}: {why}" in err


def test_a_subscriber_is_removed_and_may_come_again(system: System, people: list[Mapping[str, str]]) -> None:
    """R2: with the same SMK his COUNTER goes on."""
    for row in (people[0], people[3]):
        row = {**row, "subscriber": f"{row['subscriber']}-x", "udn": ""}
        name, file = row["subscriber"], write(system.folder / "one.csv", [row])
        imported(system, file)
        assert len(rights(system, name)) in (1, 2)
        assert system.command("bsm", "subscriber", "remove", "bsm.toml", name, "--at-once")[0] == 0
        assert system.command("bsm", "subscriber", "show", "bsm.toml", name)[0] == 2
        assert name not in {r["subscriber"] for r in system.shown("bsm", "subscriber", "list", "bsm.toml")}
        assert (f"{name}/registration",) not in system.rows("bsm").get("registration", {})
        status, _, err = system.command("bsm", "subscriber", "grant", "bsm.toml", name, A)
        assert status == 2 and f"no subscriber {name}" in err
        before = system.rows("bsm")["smk-counter"].get((name,))
        assert imported(system, file)[1]["added"] == 1
        after = system.rows("bsm")["smk-counter"].get((name,))
        assert before is None or (isinstance(before, int) and isinstance(after, int) and after > before > 0)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"name,smk\n", ":1: unknown column 'name'"), (b"smk\n", ":1: expected a header"), (b"", ":1: expected a header"),
        (b"subscriber,subscriber\n", ":1: expected a header"), (b"subscriber\n\xff\n", ":2: not UTF-8"),
        (b"subscriber\n" + 200_001 * b"a", ":2: a line of more than"), (b"subscriber\n" + 150_000 * b"a", ":2: not CSV"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_import_file(system: System, content: bytes, why: str) -> None:
    file = system.folder / "odd.csv"
    file.write_bytes(content)
    status, out, err = system.command("bsm", "subscriber", "import", "bsm.toml", str(file))
    assert status == 2 and f"{file}{why}" in err and "warning: others can read the keys" in err and out == ""


def test_an_import_through_a_pipe_shows_no_bar(system: System, people: list[Mapping[str, str]]) -> None:
    rows = [{**people[0], "subscriber": f"many-{n}", "services": "", "registration": ""} for n in range(1200)]
    text = write(system.folder / "many.csv", rows).read_bytes()
    done = subprocess.run(
        [sys.executable, "-m", "pybcast.cli", "bsm", "subscriber", "import", "bsm.toml", "-"],
        cwd=system.folder, input=text, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().strip() == "added 1200, changed 0, unchanged 0, refused 0, dry run no"
    assert len(system.shown("bsm", "subscriber", "list", "bsm.toml", "--limit", "7")) == 7


def test_an_import_at_a_terminal_shows_how_far_it_is(system: System) -> None:
    ours, theirs = os.openpty()
    with os.fdopen(ours, "rb") as shown:
        done = subprocess.run(
            [sys.executable, "-m", "pybcast.cli", "bsm", "subscriber", "import", "bsm.toml", "many.csv"],
            cwd=system.folder, stdout=subprocess.PIPE, stderr=theirs, timeout=60, check=False, env={**os.environ, "TERM": "xterm"},
        )  # fmt: skip
        os.close(theirs)
        said = shown.read1(1 << 16)
    assert done.returncode == 0 and b"unchanged 1200" in done.stdout
    assert b"import" in said and b"%" in said


def test_a_programme_and_a_boundary(system: System) -> None:
    words: tuple[str, ...] = ("programme", "add", "bsm.toml", A, "urn:example:film", "--start", "+600", "--end", "+1200")
    (added,) = system.shown("bsm", *words)
    assert added["end"] - added["start"] in (598, 600, 602)
    assert system.shown("bsm", *words) == [added], "said again it stays as it is"
    assert system.shown("bsm", "programme", "list", "bsm.toml", "--service", B) == []
    (listed,) = system.shown("bsm", "programme", "list", "bsm.toml")
    assert (listed["content"], listed["start"]) == ("urn:example:film", added["start"])
    system.shown("bsm", "subscriber", "grant", "bsm.toml", "card-2", A, "--programme", "urn:example:film")
    (shown,) = system.shown("bsm", "programme", "show", "bsm.toml", "urn:example:film")
    assert [key["key_type"] for key in shown["keys"]] == ["PEAK"] and [r["subscriber"] for r in shown["rights"]] == ["card-2"]
    assert "PEAK" in system.command("bsm", "programme", "show", "bsm.toml", "urn:example:film")[1]
    (held,) = system.shown("bsda", "service", "boundary", "bsda.toml", A, "+101")
    assert 0 <= held["start"] - held["asked"] <= 2
    for words, why in (
        (("bsm", "programme", "show", "bsm.toml", "urn:none"), "no programme"),
        (("bsm", "programme", "add", "bsm.toml", A, "urn:p", "--start", "+9", "--end", "+3"), "ends after it begins"),
        (("bsm", "programme", "add", "bsm.toml", A, "urn:p", "--start", "soon", "--end", "+3"), "expected a time such as"),
        (("bsda", "service", "boundary", "bsda.toml", A, "2020-01-01T00:00:00Z"), "in the past"),
        (("bsda", "service", "boundary", "bsda.toml", "urn:none", "+9"), "no such service"),
        (("bsda", "service", "list", "bsm.toml"), "is the configuration of a bsm"),
    ):
        status, _, err = system.command(*words)
        assert status == 2 and why in err, err


def test_a_programme_is_taken_back(system: System) -> None:
    words = ("programme", "add", "bsm.toml")
    system.shown("bsm", *words, A, "urn:example:mistake", "--start", "+3000", "--end", "+3600")
    assert system.command("bsm", "programme", "remove", "bsm.toml", A, "urn:example:mistake")[0] == 0
    assert system.command("bsm", "programme", "show", "bsm.toml", "urn:example:mistake")[0] == 2
    system.shown("bsm", *words, D, "urn:example:sealed", "--start", "+3000", "--end", "+3600")
    for service, name, why in (
        (A, "urn:example:mistake", "no programme urn:example:mistake of"), (D, "urn:example:sealed", "(F4)"),
        ("urn:none", "urn:example:sealed", "no such service"),
    ):  # fmt: skip
        status, out, err = system.command("bsm", "programme", "remove", "bsm.toml", service, name)
        assert (status, out) == (2, "") and why in err, err


def test_one_service_in_full(system: System) -> None:
    system.running["bsda"].wait(lambda seen: any(e.get("event") == "UseKey" and e["service"] == B for e in seen), "key in use")
    (shown,) = system.shown("bsda", "service", "show", "bsda.toml", B)
    assert shown["state"][0]["stream"] == 1 and {"in use", "waiting"} <= {period["state"] for period in shown["periods"]}
    assert {key["key_type"] for key in shown["key_version"]} == {"SEK", "SEAK"}
    assert {key["key_type"] for key in system.shown("bsda", "key", "list", "bsda.toml", "--service", B)} == {"SEK", "SEAK"}
    (shown,) = system.shown("bsm", "service", "show", "bsm.toml", A)
    assert shown["configuration"][0]["generation"] == "bsm" and shown["key_version"] and shown["issued"] and shown["programme"]
    text = system.command("bsm", "service", "show", "bsm.toml", A)[1]
    assert "key version:" in text and "urn:example:film" in text
    assert system.command("bsm", "service", "show", "bsm.toml", "urn:none")[0] == 2


def test_the_message_log_says_who_and_what_never_more(system: System) -> None:
    for role, other in (("bsm", "bsda"), ("bsda", "bsm")):
        entries = system.shown(role, "log", f"{role}.toml", "--limit", "50")
        assert (
            entries
            and {e["peer"] for e in entries} == {f"urn:example:{other}"}
            and {e["direction"] for e in entries} == {"in", "out"}
        )
        assert all(e["octets"] > 0 and len(e["message_id"]) == 32 for e in entries)
        assert [e["time"] for e in entries] == sorted(e["time"] for e in entries)
        assert system.shown(role, "log", f"{role}.toml", "--since", "+60") == []


def test_the_kek_changes_while_they_run_and_while_they_do_not(system: System) -> None:
    bsm = system.running["bsm"]
    for name in ("second", "third"):
        (system.folder / name).write_text(os.urandom(32).hex())
        (system.folder / name).chmod(0o600)
    status, out, err = system.command("bsm", "kek", "rotate", "bsm.toml", "--to", "file:second")
    config = system.folder / "bsm.toml"
    number = 1 + config.read_text().splitlines().index('kek = "file:kek"')
    assert status == 0, err
    assert out.splitlines()[0].endswith(f"change {config}, line {number}, to:") and out.splitlines()[1] == 'kek = "file:second"'
    config.write_text(config.read_text().replace('"file:kek"', '"file:second"'))
    bsm.process.send_signal(signal.SIGHUP)
    bsm.wait(lambda seen: any(e.get("event") == "reloaded" for e in seen), "reload with the new source")
    status, _, err = system.command("bsm", "kek", "rotate", "bsm.toml", "--to", "5a" * 32)
    assert status == 2 and "expected file:PATH" in err and "5a5a" not in err
    assert system.command("bsm", "kek", "rotate", "bsm.toml", "--to", "file:missing")[0] == 2
    system.kill("bsm")
    assert system.shown("bsm", "kek", "rotate", "bsm.toml", "--to", "file:third")[0]["line"] == number
    status, log = system.refused("bsm", "bsm.toml")
    assert status == 2 and "key-encryption key" in log
    assert system.command("bsm", "kek", "rotate", "bsm.toml", "--to", "file:third")[0] == 0, "said again, it is done already"
    config.write_text(config.read_text().replace('"file:second"', '"file:third"'))
    system.start("bsm")
    assert len(system.shown("bsm", "subscriber", "list", "bsm.toml", "--limit", "9")) == 9


def test_status_of_a_server_that_is_not_there(system: System) -> None:
    system.kill("bsm")
    status, out, err = system.command("status", "bsm.toml", "bsda.toml")
    assert status == 2 and f"no server at {system.folder}/bsm.sock: is it running?" in err and "urn:example:bsda" in out
    status, out, err = system.command("bsm", "key", "rekey", "bsm.toml", A)
    assert (status, out) == (2, "") and len(err.splitlines()) == 1
    assert system.shown("bsm", "key", "list", "bsm.toml"), "what is stored can be read without it"
    status, out, err = system.command("bsm", "service", "show", "bsm.toml", A)
    assert status == 0 and "is it running?" in err and "key version:" in out
    for command in (("check",), ("status",), ("bsm", "serve"), ("bsm", "key", "list"), ("bsm", "log"), ("bsda", "service", "list")):
        status, out, err = system.command(*command, str(system.folder / "none.toml"))
        assert (status, out) == (2, "") and "none.toml: No such file" in err and len(err.splitlines()) == 1
    (system.folder / "fresh").mkdir()
    fresh = system.folder / "fresh" / "bsm.toml"
    fresh.write_text((system.folder / "bsm.toml").read_text())
    for words in (("subscriber", "list"), ("log",), ("kek", "rotate", "--to", "file:third")):
        status, _, err = system.command("bsm", *words, str(fresh))
        assert status == 2 and "no database yet" in err


def test_no_key_that_was_imported_is_in_a_log_or_on_a_command_line(system: System, people: list[Mapping[str, str]]) -> None:
    keys = [row[name] for row in people for name in ("smk", "udk", "riak", "srk") if row.get(name)] + ["5c" * 32, "6d" * 32]
    logs = b"".join(line for process in (*system.past, *system.running.values()) for line in process.raw).lower()
    files = b"".join(path.read_bytes() for path in system.folder.glob("*.db*"))
    assert len(keys) == 12 and b"subscriber-import" in logs
    for key in keys:
        assert key.encode() not in logs and bytes.fromhex(key) not in logs + files
        assert not any(key in word for process in system.past for word in process.argv)
