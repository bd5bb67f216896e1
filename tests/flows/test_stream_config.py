# SPDX-License-Identifier: Apache-2.0
"""A stream's description refuses what cannot work on air, and says which field."""

from __future__ import annotations

import pytest
from room_support import SERVICE, START, stream_config

from pybcast.errors import ConfigError, StoreError
from pybcast.flows.events import Persist
from pybcast.flows.journal import Journal, Table
from pybcast.messages import Protocol


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"stream": 0}, "stream"),
        ({"stream": 65536}, "stream"),
        ({"profiles": ()}, "profiles"),
        ({"profiles": ("xml",)}, "profiles"),
        ({"service": "news"}, "absolute URIs"),
        ({"bsm": "bsm"}, "absolute URIs"),
        ({"bsdas": ("urn:a:b", "backup")}, "absolute URIs"),
        ({"bsdas": ()}, "bsdas"),
        ({"bsdas": ("urn:a", "urn:b", "urn:c")}, "bsdas"),
        ({"protocol": Protocol.DCF}, "protocol"),
        ({"key_period": 8}, "two periods"),
        ({"rollover_lead": 0}, "rollover_lead"),
        ({"carousel_cycle": 0}, "carousel_cycle"),
        ({"rollover_lead": 19}, "rollover_lead: expected at least two carousel cycles"),
        ({"rekey_lead": 4, "carousel_cycle": 2.1}, "rekey_lead: expected at least two carousel cycles"),
        ({"look_ahead": 0}, "look_ahead"),
        ({"protection_after_reception": 4}, "protection_after_reception"),
        ({"profiles": ("drm",), "serviceBaseCID": ""}, "serviceBaseCID"),
        ({"key_domain_id": b""}, "key_domain_id"),
    ],
)
def test_refused(changes: dict[str, object], what: str) -> None:
    with pytest.raises(ConfigError, match=what) as caught:
        stream_config(**changes)
    assert SERVICE in str(caught.value) or "service" in changes


def test_what_follows_from_it() -> None:
    dual = stream_config(profiles=("drm", "smartcard"))
    assert (dual.drm, dual.smartcard, dual.dual, dual.ipsec_auth, dual.lifetime, dual.id) == (
        True,
        True,
        True,
        False,
        5,
        (SERVICE, 1),
    )
    drm = stream_config(profiles=("drm",), protocol=Protocol.IPSEC, key_domain_id=b"", key_group=0)
    assert (drm.drm, drm.smartcard, drm.dual, drm.ipsec_auth) == (True, False, False, True)
    assert stream_config().schedule().at(START + 9) is not None
    assert [stream_config(granularity=4).grid(START + t) - START for t in (-4, 0, 1, 4, 5)] == [-4, 0, 4, 4, 8]
    assert drm.grid(START + 3) == START + 3


def test_journal() -> None:
    """Memory and outputs of a machine: what is persisted, in which order, and typed access to it."""
    journal = Journal({"a": {("k",): "old"}})
    table, other = Table("a", str), Table("b", int)
    rows, none = journal.open(table), journal.open(other)
    rows.drop(("nothing",))
    none.drop(("k",))
    assert journal.take() == []
    rows.put(("l",), "text")
    rows.drop(("k",))
    assert journal.take() == [Persist("a", ("l",), "text"), Persist("a", ("k",), None)]
    assert journal.take() == []
    assert (rows.get(("l",)), rows.get(("k",)), none.get(("k",))) == ("text", None, None)
    assert rows.all() == {("l",): "text"} and none.all() == {}
    assert journal.open(table) is rows
    with pytest.raises(AssertionError, match="declared twice"):
        journal.open(Table("a", str))
    with pytest.raises(StoreError, match="table 'a': expected int, found str"):
        Journal(journal.tables).open(Table("a", int))


def test_a_journal_does_not_write_into_what_it_was_given() -> None:
    """A restarted machine must not change the store behind its owner's back."""
    state: dict[str, dict[tuple[object, ...], object]] = {"a": {("k",): 1}}
    rows = Journal(state).open(Table("a", int))
    rows.put(("l",), 2)
    rows.drop(("k",))
    assert state == {"a": {("k",): 1}}
