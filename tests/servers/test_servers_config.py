# SPDX-License-Identifier: Apache-2.0
"""Configuration files: what they become, and how each mistake is named - file, line, key, reason."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

import pytest
from servers_support import BSDA_TOML, BSM_TOML

from pybcast.cli import main
from pybcast.errors import ConfigError, ConfigErrors
from pybcast.messages import Protocol
from pybcast.servers import config
from pybcast.servers.toml import Address

KEK: Final = "0f" * 16


def _file(folder: Path, text: str) -> Path:
    path = folder / "server.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_becomes_streams(tmp_path: Path) -> None:
    bsm, bsda = config.load(_file(tmp_path, BSM_TOML)), config.load(_file(tmp_path, BSDA_TOML))
    assert bsm.streams == bsda.streams
    assert [(s.generation, s.delivery) for s in bsm.streams] == [
        ("bsm", "push"),
        ("bsda", "push"),
        ("bsm", "pull"),
        ("bsda", "pull"),
    ]
    first = bsm.streams[0]
    assert (first.bsm, first.bsdas, first.protocol) == ("urn:example:bsm", ("urn:example:bsda",), Protocol.SRTP)
    assert (first.rollover_lead, first.rekey_lead) == (10, 3), "five periods, which are prepared ahead; two turns of the carousel"
    assert first.key_domain_id == bytes.fromhex("12f410")
    assert bsm.database == tmp_path / "bsm.db" and bsm.control == tmp_path / "bsm.sock"
    assert bsm.witness == tmp_path / "witness" / "bsm.db.witness"
    assert bsm.kek_source == f"file:{tmp_path}/kek"
    peer = bsm.peers.get("urn:example:bsda")
    assert peer is not None
    assert "urn:example:service:A" in peer.services and "urn:x-bcast:all" in peer.services
    assert "urn:example:service:Z" not in peer.services


def test_where_a_service_goes_on_air(tmp_path: Path) -> None:
    assert "[air]\n" in BSDA_TOML
    air = '[air]\nsender = "stkm.sock"\ncarousel = "c.sock"\nltkm = "239.192.0.9:4359"\n'
    text = BSDA_TOML.replace("[air]\n", air).replace("[[services]]", '[[services]]\nstkm = "239.192.0.1:4380"', 1)
    with pytest.raises(ConfigError, match=r"services\[2\]\.stkm: missing"):
        config.load(_file(tmp_path, text))
    text = text.replace('\nstkm = "239.192.0.1:4380"', "").replace("\n[[services]]", '\n[[services]]\nstkm = "239.192.0.1:4380"')
    found = config.load(_file(tmp_path, text))
    assert found.sender == tmp_path / "stkm.sock" and found.carousel == tmp_path / "c.sock"
    assert found.ltkm == Address("239.192.0.9", 4359) and found.flute is None
    for stream in found.streams:
        ports = [found.groups[*stream.id, profile].port for profile in sorted(stream.profiles)]
        assert ports == ([4380, 4381] if stream.dual else [4380]), "a STKM does not say which profile it is of (R22)"
    for port in ("0", "65535"):
        with pytest.raises(ConfigError, match=r"services\[1\]\.stkm: expected a port"):
            config.load(_file(tmp_path, text.replace(":4380", f":{port}")))
    with pytest.raises(ConfigError, match=r"air\.carousel: needs"):
        config.load(_file(tmp_path, text.replace("ltkm = ", "# ")))
    with pytest.raises(ConfigError, match="interaction: is for a BSM"):
        own = 'listen = "127.0.0.1:0"\ncertificate = "c"\nkey = "k"\nauthority = "a"\n'
        config.load(_file(tmp_path, text + f"\n[interaction]\n{own}"))


REFUSALS: Final = [
    ("not toml", lambda t: t.replace("[tls]", "[tls"), "not TOML"),
    ("unclosed string", lambda t: t.replace('id = "urn:example:bsm"', 'id = "urn:example:bsm'), "not TOML"),
    ("unknown key", lambda t: t.replace("period = 2", "perod = 2", 1), r"services\[1\].perod: unknown key"),
    ("unknown table", lambda t: t + "\n[extra]\na = 1\n", "extra: unknown key"),
    ("missing key", lambda t: t.replace("period = 2\n", "", 1), r"services\[1\].period: missing"),
    ("missing table", lambda t: re.sub(r"\[server\](\n.+)+", "", t), "server: missing"),
    ("witness", lambda t: t.replace('database = "bsm.db"', 'database = "bsm.db"\nwitness = "w"'), "witness: expected a path in"),
    ("wrong type", lambda t: t.replace("period = 2", 'period = "2"', 1), r"services\[1\].period: expected `int`"),
    ("wrong word", lambda t: t.replace('role = "bsm"', 'role = "bsn"'), "server.role: expected bsm or bsda; did you mean bsm"),
    ("no uri", lambda t: t.replace('id = "urn:example:bsm"', 'id = "bsm"'), "server.id: expected an absolute URI"),
    ("listen", lambda t: t.replace('listen = "127.0.0.1:0"', 'listen = "127.0.0.1"'), "server.listen: expected HOST:PORT"),
    ("port", lambda t: t.replace('listen = "127.0.0.1:0"', 'listen = "127.0.0.1:99999"'), "server.listen: expected HOST:PORT"),
    ("status", lambda t: t.replace('status = "127.0.0.1:0"', 'status = "0.0.0.0:0"'), "server.status: expected a loopback"),
    ("key in the file", lambda t: t.replace('"file:kek"', f'"{KEK}"'), "server.kek: expected file:PATH"),
    ("no fqdn", lambda t: t.replace("fqdn", "# fqdn"), "server.fqdn: missing"),
    ("no issuer", lambda t: t.replace("rights_issuer_id", "# x"), "server.rights_issuer_id: missing"),
    ("issuer", lambda t: t.replace("11" * 20, "11" * 19), "server.rights_issuer_id: expected 40 hex"),
    ("no tls", lambda t: re.sub(r"\[tls\](\n.+)+", "", t), "tls: missing"),
    ("http peer", lambda t: t.replace("https://", "http://"), r"peers\[1\].url: expected https"),
    ("peer id", lambda t: t.replace('id = "urn:example:bsda"', 'id = "bsda"'), r"peers\[1\]: peer 'bsda': the id must be"),
    ("peer is me", lambda t: t.replace('id = "urn:example:bsda"', 'id = "urn:example:bsm"'), r"peers\[1\].id: is this server"),
    ("stranger", lambda t: t.replace("period = 2", 'bsdas = ["urn:x:y"]\nperiod = 2', 1), r"services\[1\].bsdas: urn:x:y is nei"),
    ("period 0", lambda t: t.replace("period = 2", "period = 0", 1), r"services\[1\].period: crypto period: expected 1..3600"),
    ("key period", lambda t: t.replace("key_period = 20", "key_period = 3", 1), r"services\[1\].key_period: expected"),
    ("domain", lambda t: t.replace("12f410", "12f4zz", 1), r"services\[1\].key_domain_id: expected 6 hex"),
    ("look-ahead", lambda t: t.replace("look_ahead = 3", "look_ahead = 0", 1), r"services\[1\].look_ahead: expected 1..1000"),
    ("twice", lambda t: t.replace("service:B", "service:A"), r"services\[2\].stream: urn:example:service:A stream 1 is serv"),
    ("key group", lambda t: t.replace("key_group = 2", "key_group = 1"), r"services\[2\].key_group: is that of services\[1\]"),
    ("cycle", lambda t: t.replace("carousel_cycle = 1.0", "carousel_cycle = -1.0", 1), r"services\[1\].carousel_cycle: expected"),
    ("format", lambda t: t.replace('format = "json"', 'format = "xml"'), "log.format: expected json or text$"),
    ("level", lambda t: t.replace('level = "debug"', 'level = "verbose"'), "log.level: expected debug, info, warning or error$"),
    ("profile", lambda t: t.replace('["drm", "smartcard"]', '["drm", "smart"]', 1), r"profiles\[2\]: expected drm or smartcard"),
    ("like a key", lambda t: t.replace("look_ahead", "lookahead", 1), r"lookahead: unknown key; did you mean look_ahead\?"),
    ("like a table", lambda t: t.replace("[tls]", "[tsl]"), r"tsl: unknown key; did you mean tls\?"),
    ("unlike all", lambda t: t.replace("look_ahead", "xyzzy", 1), "xyzzy: unknown key$"),
    ("no table", lambda t: t.replace('role = "bsm"', 'role = "bsm"').replace("[log]", "[[log]]"), "log: expected `object`"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "reason"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS])
def test_a_mistake_is_named(tmp_path: Path, change: object, reason: str) -> None:
    assert callable(change)
    text = change(BSM_TOML)
    assert text != BSM_TOML
    with pytest.raises(ConfigError) as caught:
        config.load(_file(tmp_path, text))
    assert re.search(reason, str(caught.value)), str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "server.toml"))
    assert KEK not in str(caught.value)


def test_every_mistake_is_said_at_once(tmp_path: Path) -> None:
    """In the order of the lines, whatever kind each is of; what is right says nothing."""
    changes = [
        (
            'witness = "w/bsm.witness"',
            'witness = "bsm.witness"',
            "server.witness: expected a path in another folder than the database's",
        ),
        ('listen = "127.0.0.1:0"', 'listen = "here"', "server.listen: expected HOST:PORT"),
        ('kek = "file:kek"', f'kek = "{KEK}"', "server.kek: expected file:PATH, env:NAME or command:WORDS"),
        ("11" * 20, "11", "server.rights_issuer_id: expected 40 hexadecimal digits"),
        ("look_ahead = 3", "look_ahead = 0", "services[1].look_ahead: expected 1..1000 (one delivery, R30)"),
        ("key_group = 1\n", "key_grupp = 1\n", "services[1].key_grupp: unknown key; did you mean key_group?"),
        ("key_group = 2\n", 'key_group = "2"\n', "services[2].key_group: expected `int`, got `str`"),
        ('delivery = "pull"', 'delivery = "fetch"', "services[3].delivery: expected push or pull"),
        ("key_group = 4\n", "key_group = 0\n", "services[4].key_group: expected 1..65535, one for each stream (R10)"),
        ('serviceBaseCID = "service-D"', 'serviceBaseCID = ""', "services[4].serviceBaseCID: needed for the DRM Profile"),
    ]
    text = BSM_TOML.replace('role = "bsm"', 'role = "bsm"\nwitness = "w/bsm.witness"')
    for before, after, _ in changes:
        assert before in text
        text = text.replace(before, after, 1)
    with pytest.raises(ConfigErrors) as caught:
        config.load(_file(tmp_path, text))
    found = [str(error) for error in caught.value.errors]
    lines = [int(error.split(":")[1]) for error in found]
    assert lines == sorted(lines)
    said = {error.split(": ", 1)[1] for error in found}
    # services[1] has not the shape of a service: what its values mean is not looked at
    assert said == {why for _, _, why in changes} - {changes[4][2]}
    assert str(caught.value).splitlines() == found and KEK not in str(caught.value)


def test_mistakes_in_several_tables_are_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (
        BSM_TOML.replace("fqdn", "fdqn")
        .replace("format =", "fromat =")
        .replace("url =", "uri =")
        .replace("period = 2", "period = 0.5")
    )
    path = _file(tmp_path, text)
    assert main(["check", str(path)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 + 1 + 2 + 8 and all(f"{path}:" in line for line in said)
    assert main(["check", str(path), "--json"]) == 2
    assert len([json.loads(line)["error"]["found"] for line in capsys.readouterr().err.splitlines()]) == len(said)
    path.write_text(BSM_TOML.replace('database = "bsm.db"', 'database = "no/bsm.db"').replace('"bsm.sock"', '"nor/bsm.sock"'))
    assert main(["check", str(path)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert [re.sub(r"^.*toml: ", "", line).split(":")[0] for line in said] == [
        "tls",
        "server.kek",
        "server.database",
        "server.witness",
        "server.control",
    ]


def test_the_line_is_the_keys(tmp_path: Path) -> None:
    text = BSM_TOML.replace("look_ahead = 3", "look_ahead = 5000")
    line = text.splitlines().index("look_ahead = 5000") + 1
    with pytest.raises(ConfigError, match=rf"server.toml:{line}: services\[1\].look_ahead"):
        config.load(_file(tmp_path, text))
    with pytest.raises(ConfigError, match=r"server.toml:3: not TOML"):
        config.load(_file(tmp_path, "a = 1\nb = 2\nc =\n"))
    (tmp_path / "server.toml").write_bytes(b"a = 1\nb = '\xff'\n")
    with pytest.raises(ConfigError, match=r"server.toml:2: not UTF-8"):
        config.load(tmp_path / "server.toml")
    with pytest.raises(ConfigError, match=r"absent\.toml: No such file"):
        config.load(tmp_path / "absent.toml")


def test_check_opens_what_the_file_names(tmp_path: Path) -> None:
    found = config.load(_file(tmp_path, BSM_TOML))
    with pytest.raises(ConfigError, match=r"tls: .*bsm\.pem: No such file"):
        found.check()
    plain = BSM_TOML.replace("https://", "http://").replace('role = "bsm"', 'role = "bsm"\nplain_loopback = true')
    plain_text = re.sub(r"\[tls\](\n.+)+", "", plain)
    found = config.load(_file(tmp_path, plain_text))
    with pytest.raises(ConfigError, match=r"server\.kek: .*No such file"):
        found.check()
    (tmp_path / "kek").write_text(KEK)
    (tmp_path / "kek").chmod(0o600)
    found.check()
    found = config.load(_file(tmp_path, plain_text.replace('database = "bsm.db"', 'database = "bsm.db"\nwitness = "no/where/w"')))
    with pytest.raises(ConfigError, match=r"server\.witness: \S*/no is not a folder"):
        found.check()


def test_a_pair_needs_its_secret(tmp_path: Path) -> None:
    peer = '\n[[peers]]\nid = "urn:example:bsda2"\nurl = "https://127.0.0.1:3"\n'
    pair = 'bsm = "urn:example:bsm"\nbsdas = ["urn:example:bsda", "urn:example:bsda2"]\nperiod = 2'
    text = BSDA_TOML.replace("[[services]]", peer + "\n[[services]]", 1).replace("period = 2", pair)
    text = text.replace("key_" + pair, "key_period = 2")
    with pytest.raises(ConfigError, match=r"server\.pair_secret: missing"):
        config.load(_file(tmp_path, text))
    config.load(_file(tmp_path, text.replace('role = "bsda"', 'role = "bsda"\npair_secret = "env:PAIR"')))
    with pytest.raises(ConfigError, match="several peers"):
        config.load(_file(tmp_path, BSDA_TOML.replace("[[services]]", peer + "\n[[services]]", 1)))
