# SPDX-License-Identifier: Apache-2.0
"""Sealing and opening of the Smartcard Profile's messages (smartcard-profile 1.5, 4, 7, 9; rules R4, R8, R11, R18-R20, R24)."""

from __future__ import annotations

from typing import Final

from pybcast.codec._common import Lenient, carry, own_bytes, require, sized, uint32
from pybcast.errors import BadLength, BadValue, Integrity, KeyUnavailable, Unsupported, WireError
from pybcast.keys import CK, IK, SEK, TEK, Keys, MikeyKeys, Milenage, RegistrationKeys, btid_matches, gba_u_autn, psk_keys
from pybcast.keys import registration_keys as derive_registration_keys
from pybcast.keys import target_id as derive_target_id
from pybcast.keys.cipher import aes_ctr, hmac_sha1, hmac_sha256, same_mac
from pybcast.keys.mikey import iv
from pybcast.messages import (
    SEK_KEY_TYPE,
    ClearSmartcardLtkm,
    ClearSmartcardParental,
    ClearSmartcardStkm,
    KeyData,
    Kind,
    OpenedSmartcardRegistration,
    PartialSmartcardStkm,
    Protocol,
    SmartcardLtkm,
    SmartcardParental,
    SmartcardRegistration,
    SmartcardStkm,
    SmartcardVerification,
)
from pybcast.secret import Secret
from pybcast.wire import decode, decode_key_data, encode, encode_key_data
from pybcast.wire.mikey import KeyDataKind

MAX_SPAN: Final = (1 << 31) - 2
"""Widest window of STKM COUNTERs that serial-number comparison still orders (RFC 1982; rules R4)."""

# confidence: own - that low > high withdraws is likely, the exact form is chosen here.
WITHDRAWAL: Final = (0xFFFFFFFF, 0x00000000)
"""(TS low, TS high) of a withdrawal, tested before any window (rules R4)."""

_MAC: Final = 20
_REGISTRATION_MAC: Final = 12
_ZERO_KEY: Final = bytes(16)
_TEK, _TEK_SALT = 2, 3
_NO_NUMBER: Final = b"\0\0"
_NO_TEK_IDS: Final = (b"\0\0", b"\xff\xff")
_SALT: Final = 14
_PIN: Final = 8


# --- What all MIKEY messages share -----------------------------------------------------------------------------------


def _encrypt(keys: MikeyKeys, csb_id: bytes, counter: int, data: bytes) -> bytes:
    """AES-CM with the start value of this message; its own inverse."""
    return aes_ctr(keys.encr, iv(keys.salt, sized(csb_id, "csb_id", 4), uint32(counter, "counter")), data)


def _finish(message: SmartcardStkm | SmartcardLtkm | SmartcardParental, keys: MikeyKeys, limit: int) -> bytes:
    """Encode and append the MAC of KEMAC over everything before it."""
    covered = encode(message, max_size=limit)[:-_MAC]
    return covered + hmac_sha1(keys.auth, covered)


def _open_kemac(message: SmartcardStkm | SmartcardLtkm | SmartcardParental, data: bytes, keys: MikeyKeys) -> bytes:
    """The decrypted contents of KEMAC, after its MAC has been found right."""
    if not same_mac(hmac_sha1(keys.auth, data[:-_MAC]), message.mac):
        raise Integrity
    return _encrypt(keys, message.csb_id, message.counter, message.encr_data)


def _key_data(clear: bytes, data: bytes, kind: KeyDataKind, lenient: Lenient) -> KeyData:
    """The one key of a KEMAC; an error there tells its offset in the message ``data``, which ends encr data, MAC alg, MAC."""
    try:
        (item,) = decode_key_data(clear, kind=kind, lenient=lenient)
    except WireError as e:
        offset = _encr_data_offset(clear, data) + (e.offset or 0)
        raise type(e)(offset, f"KEMAC.encr_data.{e.field}", e.expected, e.found) from None
    return item


def _encr_data_offset(clear: bytes, data: bytes) -> int:
    return len(data) - _MAC - 1 - len(clear)


def _names_key(sek_id: bytes) -> None:
    """Key Group 0000 is forbidden, Key Number 0000 asks for "the current one": neither names a key (TS 33.246 6.3.2.1, sure)."""
    if len(sek_id) == 4 and _NO_NUMBER in (sek_id[:2], sek_id[2:]):  # another length is found where it is encoded
        raise BadValue(None, "sek_id", "a Key Group and a Key Number other than 0000", sek_id.hex())


# --- STKM ------------------------------------------------------------------------------------------------------------


def seal_stkm(message: ClearSmartcardStkm, keys: Keys, limit: int) -> bytes:
    """A STKM ready to be sent, under the SEK with its RAND and the CSB ID."""
    sek, csb_id, rand = require(keys.sek, "sek"), require(keys.csb_id, "csb_id"), require(keys.rand, "rand")
    sized(message.tek, "tek", 16)
    if message.salt is not None:
        sized(message.salt, "salt", _SALT)
    if message.management is not None:
        found = "absent" if message.salt is None else "present"
        if (message.management.traffic_protection_protocol == Protocol.SRTP) != (found == "present"):
            raise BadValue(None, "salt", "present exactly when the protocol is SRTP (rules R18)", found)
    _names_key(message.sek_id)
    if message.tek_id in _NO_TEK_IDS:
        raise BadValue(None, "tek_id", "0001 to fffe (TS 33.246 6.3.3.1)", message.tek_id.hex())
    derived = psk_keys(sek, csb_id, rand)
    item = KeyData(key_type=_TEK if message.salt is None else _TEK_SALT, key=message.tek, salt=message.salt)
    sealed = SmartcardStkm(
        **carry(message, SmartcardStkm),
        csb_id=csb_id,
        encr_data=_encrypt(derived, csb_id, message.counter, encode_key_data((item,))),
        mac=bytes(_MAC),
    )
    return _finish(sealed, derived, limit)


def open_stkm(data: bytes, keys: Keys, lenient: Lenient) -> ClearSmartcardStkm:
    """The content of a STKM.  One with NULL algorithms is refused, whatever it contains (rules R11).

    Its CSB ID is the one in its own header and is compared with nothing: a wrong one shows as a wrong MAC (smartcard-profile 4.4).
    """
    message = decode(data, "smartcard-stkm", lenient=lenient)
    data = own_bytes(data, message, lenient)
    if isinstance(message, PartialSmartcardStkm):
        size = 4 + len(message.tek) + (0 if message.salt is None else 2 + len(message.salt))
        raise Unsupported(len(data) - size - 4, "KEMAC.encr_alg", "1 (AES-CM-128)", "0 (NULL)")
    assert isinstance(message, SmartcardStkm)
    sek, rand = require(keys.sek, "sek"), require(keys.rand, "rand")
    clear = _open_kemac(message, data, psk_keys(sek, message.csb_id, rand))
    item = _key_data(clear, data, "smartcard-stkm", lenient)
    return ClearSmartcardStkm(**carry(message, ClearSmartcardStkm), tek=TEK(item.key), salt=item.salt)


# --- LTKM ------------------------------------------------------------------------------------------------------------


def seal_ltkm(message: ClearSmartcardLtkm, keys: Keys, limit: int) -> bytes:
    """An LTKM ready to be sent, under the subscriber's SMK."""
    smk = require(keys.smk, "smk")
    sek = sized(message.sek, "sek", 16)
    low, high = uint32(message.ts_low, "ts_low"), uint32(message.ts_high, "ts_high")
    if (message.ts_low, message.ts_high) == WITHDRAWAL:
        if sek != _ZERO_KEY:
            raise BadValue(None, "sek", "16 zero bytes in a withdrawal (rules R3)", "a key")
    elif (message.ts_high - message.ts_low) % (1 << 32) > MAX_SPAN:
        raise BadValue(None, "ts_high", "at most 2^31 - 2 after ts_low (rules R4)", f"{message.ts_low}..{message.ts_high}")
    if message.interval_length != 4:
        raise BadLength(None, "interval_length", "4 (2 is read, never made)", str(message.interval_length))
    if message.key_data_type != SEK_KEY_TYPE:
        raise BadValue(None, "key_data_type", "2 (TEK; 0, TGK, is read, never made)", str(message.key_data_type))
    _names_key(message.sek_id)
    derived = psk_keys(smk, message.csb_id, message.rand)
    item = KeyData(key_type=message.key_data_type, key=message.sek, interval=(low, high))
    sealed = SmartcardLtkm(
        **carry(message, SmartcardLtkm),
        encr_data=_encrypt(derived, message.csb_id, message.counter, encode_key_data((item,))),
        mac=bytes(_MAC),
    )
    return _finish(sealed, derived, limit)


def open_ltkm(data: bytes, keys: Keys, lenient: Lenient) -> ClearSmartcardLtkm:
    """The content of an LTKM.  Windows and withdrawals are the flows' to apply (rules R3, R4)."""
    message = decode(data, "smartcard-ltkm", lenient=lenient)
    assert isinstance(message, SmartcardLtkm)
    data = own_bytes(data, message, lenient)
    derived = psk_keys(require(keys.smk, "smk"), message.csb_id, message.rand)
    clear = _open_kemac(message, data, derived)
    item = _key_data(clear, data, "smartcard-ltkm", lenient)
    low, high = require(item.interval, "interval")
    return ClearSmartcardLtkm(
        **carry(message, ClearSmartcardLtkm),
        sek=SEK(item.key),
        ts_low=int.from_bytes(low, "big"),
        ts_high=int.from_bytes(high, "big"),
        key_data_type=item.key_type,
        interval_length=len(low),
    )


# --- Verification and reporting --------------------------------------------------------------------------------------


def _verification_mac(message: SmartcardVerification, covered: bytes, keys: Keys) -> bytes:
    """HMAC over the message up to the auth alg || IDi || IDr || TS (RFC 3830 5.2)."""
    # confidence: likely - that identities and COUNTER are the bare values, without payload headers; what is covered is sure (1.5).
    # An LTKM always has a RAND: the empty one, of a provisioned SEK, is not what is answered here.
    smk, rand, idi = require(keys.smk, "smk"), require(keys.rand or None, "rand"), require(keys.idi, "idi")
    auth = psk_keys(smk, message.csb_id, rand).auth
    return hmac_sha1(auth, covered + idi + message.idr + uint32(message.counter, "counter"))


def seal_verification(message: SmartcardVerification, keys: Keys, limit: int) -> bytes:
    """A card's answer to the LTKM whose RAND and IDi the key ring holds; ``message.mac`` is not looked at."""
    unsigned = SmartcardVerification(**{**carry(message, SmartcardVerification), "mac": bytes(_MAC)})
    covered = encode(unsigned, max_size=limit)[:-_MAC]
    return covered + _verification_mac(message, covered, keys)


def open_verification(data: bytes, keys: Keys, kind: Kind, lenient: Lenient) -> SmartcardVerification:
    """The answer, after its MAC has been found right."""
    message = decode(data, kind, lenient=lenient)
    assert isinstance(message, SmartcardVerification)
    data = own_bytes(data, message, lenient)
    if not same_mac(_verification_mac(message, data[:-_MAC], keys), message.mac):
        raise Integrity
    return message


# --- Parental control ------------------------------------------------------------------------------------------------


def seal_parental(message: ClearSmartcardParental, keys: Keys, limit: int) -> bytes:
    """A parental control message ready to be sent; the PIN travels in KEMAC only."""
    smk = require(keys.smk, "smk")
    derived = psk_keys(smk, message.csb_id, message.rand)
    clear = b""
    if message.pin is not None:
        pin = message.pin.reveal()
        if not (1 <= len(pin) <= _PIN and pin.isdigit()):
            raise BadValue(None, "pin", "1 to 8 digits", f"{len(pin)} characters")
        # confidence: own - ASCII digits padded with FF, as a TEK without validity.
        clear = encode_key_data((KeyData(key_type=_TEK, key=Secret(pin.ljust(_PIN, b"\xff"))),))
    sealed = SmartcardParental(
        **carry(message, SmartcardParental),
        pin_present=message.pin is not None,
        encr_data=_encrypt(derived, message.csb_id, message.counter, clear),
        mac=bytes(_MAC),
    )
    return _finish(sealed, derived, limit)


def open_parental(data: bytes, keys: Keys, lenient: Lenient) -> ClearSmartcardParental:
    """The content of a parental control message."""
    message = decode(data, "smartcard-parental", lenient=lenient)
    assert isinstance(message, SmartcardParental)
    data = own_bytes(data, message, lenient)
    derived = psk_keys(require(keys.smk, "smk"), message.csb_id, message.rand)
    clear = _open_kemac(message, data, derived)
    pin = None
    if message.pin_present:
        padded = _key_data(clear, data, "smartcard-parental", lenient).key.reveal()
        digits = padded.rstrip(b"\xff")
        if not digits.isdigit():
            raise BadValue(_encr_data_offset(clear, data) + 4, "KEMAC.encr_data.key", "1 to 8 digits padded with ff", "other bytes")
        pin = Secret(digits)
    return ClearSmartcardParental(**carry(message, ClearSmartcardParental), pin=pin)


# --- Registration push -----------------------------------------------------------------------------------------------


def _btid_offset(message: SmartcardRegistration) -> int:
    return 50 + len(message.naf_fqdn)  # behind the fixed part (48 bytes), the two length octets and the FQDN


def _registration_keys(message: SmartcardRegistration, keys: Keys, *, check_autn: bool) -> RegistrationKeys:
    impi = require(keys.impi, "impi")
    ck, ik = keys.ck, keys.ik
    if keys.k is not None and keys.opc is not None:
        card = Milenage(keys.k, keys.opc)
        own_ck, own_ik = card.f3(message.rand), card.f4(message.rand)
        if check_autn:
            card.check_autn(message.rand, gba_u_autn(message.autn, own_ik) if message.gba_u else message.autn)
        if (ck is not None and ck != own_ck) or (ik is not None and ik != own_ik):
            raise Integrity
        ck, ik = own_ck, own_ik
    elif ck is None and ik is None:
        raise KeyUnavailable("k" if keys.k is None else "opc")
    known_ck: CK = require(ck, "ck")
    known_ik: IK = require(ik, "ik")
    return derive_registration_keys(known_ck, known_ik, message.rand, impi, message.naf_fqdn, gba_u=message.gba_u)


def seal_registration(message: SmartcardRegistration, keys: Keys) -> bytes:
    """A registration push ready to be sent.  AUTN goes as given; ``target_id`` and ``btid`` must fit RAND and IMPI (rules R24)."""
    data = encode(SmartcardRegistration(**{**carry(message, SmartcardRegistration), "mac": bytes(_REGISTRATION_MAC)}))
    derived = _registration_keys(message, keys, check_autn=False)
    if message.target_id != derive_target_id(message.rand, require(keys.impi, "impi")):
        raise BadValue(None, "target_id", "the first 8 bytes of SHA-256(RAND || IMPI)", message.target_id.hex())
    if not btid_matches(message.btid, message.rand):
        raise BadValue(None, "btid", 'base64(RAND) "@" BSF name', repr(message.btid))
    covered = data[:-_REGISTRATION_MAC]
    return covered + hmac_sha256(derived.mac_key, covered)[:_REGISTRATION_MAC]


def open_registration(data: bytes, keys: Keys, lenient: Lenient) -> OpenedSmartcardRegistration:
    """SMK and SRK from a registration push, after AUTN (when K and OPc are held) and MAC have been found right.

    Whether the SQN in AUTN is fresh is the card's to know.
    """
    message = decode(data, "smartcard-registration", lenient=lenient)
    assert isinstance(message, SmartcardRegistration)
    data = own_bytes(data, message, lenient)
    derived = _registration_keys(message, keys, check_autn=True)
    if not same_mac(hmac_sha256(derived.mac_key, data[:-_REGISTRATION_MAC])[:_REGISTRATION_MAC], message.mac):
        raise Integrity
    if message.target_id != derive_target_id(message.rand, require(keys.impi, "impi")):
        raise BadValue(4, "target_id", "the first 8 bytes of SHA-256(RAND || IMPI)", message.target_id.hex())
    if not btid_matches(message.btid, message.rand):
        raise BadValue(_btid_offset(message), "btid", 'base64(RAND) "@" BSF name', repr(message.btid))
    return OpenedSmartcardRegistration(registration=message, smk=derived.smk, srk=derived.srk)
