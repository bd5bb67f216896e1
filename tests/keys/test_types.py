# SPDX-License-Identifier: Apache-2.0
"""Key types: sizes, no leaks, wiping, wrapped export."""

from __future__ import annotations

import copy
import doctest
import pickle

import pytest

from pybcast import keys as package
from pybcast.errors import Integrity, KeyUnavailable
from pybcast.keys import types
from pybcast.keys.types import KEK, PEAK, PEK, SAK, SEAK, SEK, SMK, Key, SaltKey
from pybcast.keys.wrapping import export_wrapped, import_wrapped, unwrap, wrap

ALL = sorted(
    (c for c in vars(types).values() if isinstance(c, type) and issubclass(c, Key) and c is not Key), key=lambda c: c.__name__
)


@pytest.mark.parametrize("cls", ALL)
def test_size_is_checked_and_the_error_does_not_leak(cls: type[Key]) -> None:
    for size in range(65):
        value = bytes(range(0xA0, 0xA0 + size))
        if size in cls.SIZES:
            assert cls(value).reveal() == value
        else:
            with pytest.raises(ValueError, match=rf"^{cls.__name__}: expected [0-9or ]+ bytes$"):
                cls(value)


@pytest.mark.parametrize("cls", ALL)
def test_no_printed_form_and_no_pickle(cls: type[Key]) -> None:
    key = cls(b"\xab" * cls.SIZES[0])
    for text in (repr(key), str(key), f"{key}"):
        assert text == f"<{cls.__name__} {cls.SIZES[0]} bytes>"
    with pytest.raises(TypeError, match=cls.__name__):
        pickle.dumps(key)
    assert copy.deepcopy(key) is key
    key.wipe()
    with pytest.raises(KeyUnavailable, match=cls.__name__):
        key.reveal()


def test_seak_and_peak_split_and_join() -> None:
    value = bytes(range(32))
    sek, sas = SEAK(value).split()
    pek, pas = PEAK(value).split()
    assert (sek.reveal(), sas.reveal()) == (pek.reveal(), pas.reveal()) == (value[:16], value[16:])
    assert SEAK.join(sek, sas) == SEAK(value)
    assert PEAK.join(pek, pas) == PEAK(value)


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("kek_size", KEK.SIZES)
def test_wrapped_export_and_import(cls: type[Key], kek_size: int) -> None:
    kek = KEK(bytes(range(kek_size)))
    key = cls(bytes(range(0x40, 0x40 + cls.SIZES[0])))
    data = export_wrapped(key, kek)
    assert key.reveal() not in data
    assert import_wrapped(cls, data, kek) == key
    for broken in (data[:-1], data + b"\0", b"", bytes((data[0] ^ 1,)) + data[1:]):
        with pytest.raises(Integrity):
            import_wrapped(cls, broken, kek)
    with pytest.raises(Integrity):
        import_wrapped(cls, data, KEK(bytes(kek_size)))


@pytest.mark.parametrize(("made", "read"), [(SEK, SMK), (SMK, SEK), (SAK, SaltKey), (SaltKey, SAK), (SAK, SEK), (SEK, SAK)])
def test_import_refuses_a_key_of_another_size(made: type[Key], read: type[Key]) -> None:
    kek = KEK(bytes(16))
    with pytest.raises(Integrity):
        import_wrapped(read, export_wrapped(made(bytes(made.SIZES[0])), kek), kek)


@pytest.mark.parametrize("size", [0, 8, 15, 17, 20])
def test_wrap_refuses_sizes_that_rfc_3394_cannot_hold(size: int) -> None:
    with pytest.raises(ValueError, match="multiple of 8"):
        wrap(KEK(bytes(16)), bytes(size))


@pytest.mark.parametrize("size", [0, 8, 16, 23, 24, 25, 40])
def test_unwrap_of_nonsense_is_an_integrity_failure(size: int) -> None:
    with pytest.raises(Integrity):
        unwrap(bytes(16), bytes(size))


def test_keys_of_different_types_with_equal_bytes_are_equal_secrets_but_not_the_same_type() -> None:
    assert PEK(SEK(bytes(16))) == SEK(bytes(16))
    assert SEK(bytes(16)) != bytes(16)


def test_the_example_of_the_package_runs() -> None:
    result = doctest.testmod(package)
    assert result.attempted > 5
    assert result.failed == 0
