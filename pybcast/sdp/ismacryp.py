# SPDX-License-Identifier: Apache-2.0
"""The fmtp parameters of media that ISMACryp protects (signalling 5.3)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pybcast.errors import BadValue, Unsupported

Parameters = tuple[tuple[str, str | None], ...]
"""Parameters of a fmtp line in their order; ``None`` = a word without ``=``."""


@dataclass(frozen=True, kw_only=True)
class Ismacryp:
    """ISMACryp's fmtp parameters with their defaults, lengths in octets (signalling 5.3)."""

    crypto_suite: str = "AES_CTR_128"
    iv_length: int = 4
    delta_iv_length: int = 0
    selective_encryption: bool = False
    key_indicator_length: int = 0
    key_indicator_per_au: bool = False
    salt: str = ""
    key: str = ""
    kms_id: str = ""
    kms_version: str = ""
    kms_specific_data: str = ""
    slice_indication: bool = False
    padding_indication: bool = False

    def __repr__(self) -> str:
        return f"Ismacryp(crypto_suite={self.crypto_suite!r}, key_indicator_length={self.key_indicator_length})"  # no key, no salt

    def parameters(self) -> Parameters:
        """As they stand in a fmtp line; a default is not written."""
        plain = Ismacryp()
        return tuple(
            (name, str(int(value)) if isinstance(value, int) else value)
            for name, (field, _) in _ISMACRYP.items()
            if (value := getattr(self, field)) != getattr(plain, field)
        )


_NUMBER: Final = re.compile(r"[0-9]{1,20}")
_ISMACRYP: Final[dict[str, tuple[str, int | None]]] = {
    "ISMACrypCryptoSuite": ("crypto_suite", None),
    "ISMACrypIVLength": ("iv_length", 8),
    "ISMACrypDeltaIVLength": ("delta_iv_length", 2),
    "ISMACrypSelectiveEncryption": ("selective_encryption", 1),
    "ISMACrypKeyIndicatorLength": ("key_indicator_length", 255),
    "ISMACrypKeyIndicatorPerAU": ("key_indicator_per_au", 1),
    "ISMACrypSalt": ("salt", None),
    "ISMACrypKey": ("key", None),
    "ISMACrypKMSID": ("kms_id", None),
    "ISMACrypKMSVersion": ("kms_version", None),
    "ISMACrypKMSSpecificData": ("kms_specific_data", None),
    "ISMACrypSliceIndication": ("slice_indication", 1),
    "ISMACrypPaddingIndication": ("padding_indication", 1),
}
"""fmtp name -> field, and the greatest number where it is one (signalling 5.3).
confidence: likely - the greatest ISMACrypIVLength is 8, ISMACrypDeltaIVLength 2
"""
_FLAGS: Final = frozenset(("selective_encryption", "key_indicator_per_au", "slice_indication", "padding_indication"))


def read_ismacryp(parameters: Parameters, offset: int | None, field: str) -> Ismacryp:
    """The parameters of a fmtp line, those of other names passed over.  ``WireError`` at ``offset`` and ``field``."""
    given: dict[str, object] = {}
    for name, value in parameters:
        if not name.startswith("ISMACryp"):
            continue
        if name not in _ISMACRYP:
            raise Unsupported(offset, f"{field}.{name[:40]}", "a parameter of ISMACryp", "another")
        attribute, most = _ISMACRYP[name]
        if attribute in given:
            raise BadValue(offset, f"{field}.{name}", "once", "again")
        if value is None:
            raise BadValue(offset, f"{field}.{name}", f"{name}=VALUE", "no value")
        if most is None:
            given[attribute] = value
        elif not _NUMBER.fullmatch(value) or int(value) > most:
            raise BadValue(offset, f"{field}.{name}", f"0..{most}", repr(value[:40]))
        else:
            given[attribute] = bool(int(value)) if attribute in _FLAGS else int(value)
    return Ismacryp(**given)  # type: ignore[arg-type]
