# SPDX-License-Identifier: Apache-2.0
"""Sealing and opening of the DRM Profile's STKM and BCRO (drm-profile 1.3-1.5, 2.2; rules R11-R13, R17, R21)."""

from __future__ import annotations

from typing import Final

from pybcast.codec._common import Lenient, carry, own_bytes, require, sized
from pybcast.errors import BadValue, Integrity, KeyUnavailable
from pybcast.keys import PEAK, PEK, SEAK, Keys, derive_bak, derive_pak, derive_sak
from pybcast.keys.cipher import aes_cbc_decrypt, aes_cbc_encrypt, aes_ecb_decrypt, aes_ecb_encrypt, hmac_sha1, same_mac
from pybcast.messages import Asset, Bcro, ClearAsset, ClearBcro, ClearDrmStkm, DrmStkm
from pybcast.secret import Secret
from pybcast.wire import decode, encode
from pybcast.wire.drm_stkm import traffic_key_material_length

_MAC: Final = 12
_CID_EXTENSION: Final = 4
_ZERO_MAC: Final = bytes(_MAC)


# --- STKM ------------------------------------------------------------------------------------------------------------


def _mac_spans(message: DrmStkm | ClearDrmStkm, size: int) -> tuple[int | None, int | None]:
    """Where programme_MAC and service_MAC stand.  Each covers everything before itself (drm-profile 1.5).

    The message ends programme_CID_extension, programme_MAC, service_CID_extension, service_MAC, either pair absent with its flag.
    """
    # confidence: likely - that each MAC covers the prefix with its own CID extension.
    end = size
    service = programme = None
    if message.service_CID_extension is not None:
        service = end - _MAC
        end = service - _CID_EXTENSION
    if message.programme_CID_extension is not None:
        programme = end - _MAC
    return programme, service


def seal_stkm(message: ClearDrmStkm, keys: Keys) -> bytes:
    """A STKM ready to be sent: encrypt the key material, encrypt PEK, programme_MAC, service_MAC, in this order."""
    programme, service = message.programme_CID_extension is not None, message.service_CID_extension is not None
    if not programme and not service:
        raise BadValue(None, "service_flag", "1, since programme_flag is 0", "0")
    sek = require(keys.sek, "sek") if service else None
    sas = require(keys.sas, "sas") if service else None
    pek = require(keys.pek, "pek") if programme else None
    pas = require(keys.pas, "pas") if programme else None

    # confidence: likely - AES-128-CBC with a zero IV for key material, one AES block for PEK, PEK before SEK (drm-profile 1.3).
    size = traffic_key_material_length(message.traffic_protection_protocol, message.traffic_authentication_flag)
    tkm_key = require(pek or sek, "sek")
    following = message.next_traffic_key_material
    sealed = DrmStkm(
        **carry(message, DrmStkm),
        encrypted_traffic_key_material=aes_cbc_encrypt(tkm_key, sized(message.traffic_key_material, "traffic_key_material", size)),
        next_encrypted_traffic_key_material=(
            None if following is None else aes_cbc_encrypt(tkm_key, sized(following, "next_traffic_key_material", size))
        ),
        encrypted_PEK=aes_ecb_encrypt(sek, pek.reveal()) if sek is not None and pek is not None else None,
        programme_MAC=_ZERO_MAC if programme else None,
        service_MAC=_ZERO_MAC if service else None,
    )
    data = bytearray(encode(sealed))
    programme_at, service_at = _mac_spans(message, len(data))
    if pas is not None and programme_at is not None:
        data[programme_at : programme_at + _MAC] = hmac_sha1(derive_pak(pas), bytes(data[:programme_at]))[:_MAC]
    if sas is not None and service_at is not None:
        data[service_at : service_at + _MAC] = hmac_sha1(derive_sak(sas), bytes(data[:service_at]))[:_MAC]
    return bytes(data)


def open_stkm(data: bytes, keys: Keys, lenient: Lenient) -> ClearDrmStkm:
    """The content of a STKM, after every MAC whose key is held has been found right (rules R12)."""
    message = decode(data, "drm-stkm", lenient=lenient)
    assert isinstance(message, DrmStkm)
    _check_stkm_macs(message, own_bytes(data, message, lenient), keys)
    tkm_key = _tkm_key(message, keys)
    following = message.next_encrypted_traffic_key_material
    return ClearDrmStkm(
        **carry(message, ClearDrmStkm),
        traffic_key_material=Secret(aes_cbc_decrypt(tkm_key, message.encrypted_traffic_key_material)),
        next_traffic_key_material=None if following is None else Secret(aes_cbc_decrypt(tkm_key, following)),
    )


def _check_stkm_macs(message: DrmStkm, data: bytes, keys: Keys) -> None:
    programme_at, service_at = _mac_spans(message, len(data))
    results = []
    if programme_at is not None and keys.pas is not None:
        mac = hmac_sha1(derive_pak(keys.pas), data[:programme_at])[:_MAC]
        results.append(same_mac(mac, data[programme_at : programme_at + _MAC]))
    if service_at is not None and keys.sas is not None:
        mac = hmac_sha1(derive_sak(keys.sas), data[:service_at])[:_MAC]
        results.append(same_mac(mac, data[service_at : service_at + _MAC]))
    if not results:
        raise KeyUnavailable("pas" if service_at is None else "sas")
    if not all(results):
        raise Integrity


def _tkm_key(message: DrmStkm, keys: Keys) -> Secret:
    """The key of the traffic key material: PEK for a programme, held or unwrapped with SEK; else SEK (drm-profile 1.3)."""
    if message.programme_CID_extension is None:
        return require(keys.sek, "sek")
    if message.encrypted_PEK is None or keys.sek is None:
        return require(keys.pek, "pek")
    unwrapped = PEK(aes_ecb_decrypt(keys.sek, message.encrypted_PEK))
    if keys.pek is not None and keys.pek != unwrapped:
        raise Integrity
    return unwrapped


# --- BCRO ------------------------------------------------------------------------------------------------------------


def seal_bcro(message: ClearBcro, keys: Keys) -> bytes:
    """A BCRO ready to be sent.  Builders always give it its issuer and its time (rules R21)."""
    # confidence: own - CBC with a zero IV under the IEK, and a MAC under BAK over everything before it (drm-profile 2.2).
    iek, riak = require(keys.iek, "iek"), require(keys.riak, "riak")
    for name in ("bcro_timestamp", "rights_issuer_id"):
        if getattr(message, name) is None:
            raise BadValue(None, name, "present (rules R21)", "absent")
    assets = tuple(
        Asset(**carry(asset, Asset), encrypted_key=aes_cbc_encrypt(iek, sized(asset.key, f"assets[{i}].key", 32)))
        for i, asset in enumerate(message.assets)
    )
    data = encode(Bcro(**{**carry(message, Bcro), "assets": assets}, MAC=_ZERO_MAC))[:-_MAC]
    return data + hmac_sha1(derive_bak(riak), data)[:_MAC]


def open_bcro(data: bytes, keys: Keys, lenient: Lenient) -> ClearBcro:
    """The content of a BCRO, after its MAC has been found right."""
    message = decode(data, "drm-ltkm", lenient=lenient)
    assert isinstance(message, Bcro)
    covered = own_bytes(data, message, lenient)[:-_MAC]
    if not same_mac(hmac_sha1(derive_bak(require(keys.riak, "riak")), covered)[:_MAC], message.MAC):
        raise Integrity
    iek = require(keys.iek, "iek")
    assets = tuple(
        ClearAsset(
            **carry(asset, ClearAsset),
            key=(SEAK if asset.asset_is_service else PEAK)(aes_cbc_decrypt(iek, asset.encrypted_key)),
        )
        for asset in message.assets
    )
    return ClearBcro(**{**carry(message, ClearBcro), "assets": assets})
