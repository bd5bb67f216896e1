# SPDX-License-Identifier: Apache-2.0
"""The key ring: everything ``seal`` and ``open`` may need, in one object."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Final, Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from pybcast.errors import ConfigError, did_you_mean
from pybcast.keys.types import CK, IEK, IK, OPC, PAS, PEAK, PEK, RIAK, SAS, SEAK, SEK, SMK, K, Key, SessionKey
from pybcast.secret import Secret

_KEY_TYPES: Final[dict[str, type[Key]]] = {
    "sek": SEK,
    "sas": SAS,
    "pek": PEK,
    "pas": PAS,
    "seak": SEAK,
    "peak": PEAK,
    "smk": SMK,
    "riak": RIAK,
    "iek": IEK,
    "k": K,
    "opc": OPC,
    "ck": CK,
    "ik": IK,
    "session_key": SessionKey,
}
_LONGEST_NAME: Final = len("device_public_key") + 3
_PUBLIC_SIZES: Final = {"csb_id": (4,), "rand": (16, 0)}


@dataclass(frozen=True, kw_only=True)
class Keys:
    """The keys that a party holds.  All optional; an operation that misses one raises ``KeyUnavailable`` with its name.

    DRM Profile STKM: ``sek``/``sas`` (or ``seak``, which fills both) for a service, ``pek``/``pas`` (or ``peak``) for a programme.
    BCRO: ``iek`` and ``riak``.  DRM registration: ``rights_issuer_key`` (private to sign, either to verify), ``device_key`` (to
    open) or ``device_public_key`` (to seal), ``session_key`` (made at random when absent).
    Smartcard STKM: ``sek`` and ``rand``, to seal also ``csb_id`` (4 bytes; a STKM opens with the one in its own header).  ``rand``
    has 16 bytes, or none (``b""``) when the SEK was provisioned and not delivered by an LTKM; ``None`` means not known.  LTKM and
    parental control: ``smk``.  Verification: ``smk``, ``rand`` (16 bytes) and ``idi`` (the bytes of the BSM's identity) of the LTKM
    that is answered.
    Smartcard registration: ``k`` and ``opc``, or ``ck`` and ``ik``; and ``impi``.

    ``ConfigError`` names a field of a wrong size or two that contradict each other, never a value.
    """

    sek: SEK | None = None
    sas: SAS | None = None
    pek: PEK | None = None
    pas: PAS | None = None
    seak: SEAK | None = None
    peak: PEAK | None = None
    riak: RIAK | None = None
    iek: IEK | None = None
    smk: SMK | None = None
    csb_id: bytes | None = None
    rand: bytes | None = None
    idi: bytes | None = None
    k: K | None = None
    opc: OPC | None = None
    ck: CK | None = None
    ik: IK | None = None
    impi: str | None = None
    session_key: SessionKey | None = None
    device_key: RSAPrivateKey | None = field(default=None, repr=False)
    device_public_key: RSAPublicKey | None = field(default=None, repr=False)
    rights_issuer_key: RSAPrivateKey | RSAPublicKey | None = field(default=None, repr=False)

    made: ClassVar[dict[str, Any]]  # of each object; ClassVar: no field

    def __post_init__(self) -> None:
        # What others made from these keys, by a name of theirs: no field, so that a copy with other keys (replace) starts anew.
        object.__setattr__(self, "made", {})
        for name, cls in _KEY_TYPES.items():
            value = getattr(self, name)
            if value is not None and not isinstance(value, cls):
                object.__setattr__(self, name, _typed(name, cls, value))
        for name, sizes in _PUBLIC_SIZES.items():
            value = getattr(self, name)
            if value is not None and len(value) not in sizes:
                raise ConfigError(f"{name}: expected {' or '.join(map(str, sizes))} bytes")
        if self.seak is not None:
            self._fill("seak", zip(("sek", "sas"), self.seak.split(), strict=True))
        if self.peak is not None:
            self._fill("peak", zip(("pek", "pas"), self.peak.split(), strict=True))

    def _fill(self, source: str, parts: zip[tuple[str, Key]]) -> None:
        for name, part in parts:
            held = getattr(self, name)
            if held is None:
                object.__setattr__(self, name, part)
            elif held != part:
                raise ConfigError(f"{source} and {name} contradict each other")

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Self:
        """Keys from plain JSON.

        Hex text for keys, ``csb_id`` and ``rand`` (``""``: the empty RAND); text for ``impi`` and ``idi`` (or ``idi_hex``); PEM
        text for the three RSA keys.  ``null`` is the same as absent.

        ``ConfigError`` names an unknown or unusable field, never its content.
        """
        known = {f.name for f in fields(cls)} | {"idi_hex"}
        out: dict[str, object] = {}
        for name, value in values.items():
            if name not in known:
                # Something longer than any of our names may be a key in the wrong column.
                text = name if len(name) <= _LONGEST_NAME else "too long to be one"
                raise ConfigError(f"unknown key name: {text!r}{did_you_mean(name, sorted(known))}")
            if value is None:
                continue
            if not isinstance(value, str):
                raise ConfigError(f"{name}: expected text")
            if name in _KEY_TYPES:
                out[name] = _typed(name, _KEY_TYPES[name], Secret(_hex(name, value)))
            elif name in _PEM_LOADERS:
                out[name] = _PEM_LOADERS[name](value)
            elif name == "impi":
                out[name] = value
            else:
                out["idi" if name == "idi_hex" else name] = value.encode() if name == "idi" else _hex(name, value)
        if values.get("idi") is not None and values.get("idi_hex") is not None:
            raise ConfigError("idi and idi_hex: give one of them")
        return cls(**out)  # type: ignore[arg-type]  # each value was made by the loader of its field

    def wipe(self) -> None:
        """Overwrite every key and what was made from it, and let go of the RSA keys (the cryptography library's memory)."""
        while self.made:
            self.made.popitem()[1].wipe()
        for name in _KEY_TYPES:
            value = getattr(self, name)
            if value is not None:
                value.wipe()
        for name in _PEM_LOADERS:
            object.__setattr__(self, name, None)


def _hex(name: str, text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise ConfigError(f"{name}: not hexadecimal") from None


def _typed(name: str, cls: type[Key], value: object) -> Key:
    if not isinstance(value, Secret):
        raise ConfigError(f"{name}: expected a {cls.__name__}")
    try:
        return cls(value)
    except ValueError:
        raise ConfigError(f"{name}: expected {cls.SIZES[0]} bytes") from None


def load_private_key(pem: str | bytes, name: str = "private key") -> RSAPrivateKey:
    """An RSA private key from unencrypted PEM.  ``ConfigError`` names ``name`` only."""
    try:
        key = load_pem_private_key(pem.encode() if isinstance(pem, str) else pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(f"{name}: not an unencrypted PEM private key") from None
    if not isinstance(key, RSAPrivateKey):
        raise ConfigError(f"{name}: not an RSA key")
    return key


def load_public_key(pem: str | bytes, name: str = "public key") -> RSAPublicKey:
    """An RSA public key from PEM.  ``ConfigError`` names ``name`` only."""
    try:
        key = load_pem_public_key(pem.encode() if isinstance(pem, str) else pem)
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"{name}: not a PEM public key") from None
    if not isinstance(key, RSAPublicKey):
        raise ConfigError(f"{name}: not an RSA key")
    return key


def _load_either(pem: str) -> RSAPrivateKey | RSAPublicKey:
    if "PRIVATE KEY" in pem:
        return load_private_key(pem, "rights_issuer_key")
    return load_public_key(pem, "rights_issuer_key")


_PEM_LOADERS: Final[dict[str, Callable[[str], object]]] = {
    "device_key": lambda pem: load_private_key(pem, "device_key"),
    "device_public_key": lambda pem: load_public_key(pem, "device_public_key"),
    "rights_issuer_key": _load_either,
}
