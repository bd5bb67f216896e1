# SPDX-License-Identifier: Apache-2.0
"""What each key message says, as frozen dataclasses.

Three forms of a sealed kind, and three types, so that none is taken for another (rules.md R13):

* ``DrmStkm``, ``SmartcardStkm``, ``SmartcardLtkm``, ``Bcro``, ... - as it stands on the wire: keys encrypted, MACs in place.
  ``decode`` gives it without any key, ``encode`` gives the same bytes back.
* ``ClearDrmStkm``, ... - the content, with the keys in clear: what ``seal`` takes and what ``open`` gives.  It has no
  encoding of its own.
* ``PartialDrmStkm``, ``PartialSmartcardStkm`` - a clear STKM on its way from BSD/A to BSM (flow F3).  It has a wire form
  (backend-interface.md 4.5, drm-profile.md 1.7) that must never be sent to a terminal.

Shapes: byte strings are ``bytes`` in network order; times are 64-bit NTP seconds (seconds since 1900-01-01 UTC, also beyond 2036)
in MJD + BCD fields and 32-bit NTP seconds where the wire has 32 bits; keys are ``Secret``.  Names are the specification's.
The dataclasses hold whatever they are given: ``encode`` and ``seal`` check, and name the field.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import ClassVar, Final, Literal

from pybcast.secret import Secret

Kind = Literal[
    "drm-stkm", "drm-ltkm", "drm-registration",
    "smartcard-stkm", "smartcard-ltkm", "smartcard-verification", "smartcard-reporting", "smartcard-parental",
    "smartcard-registration", "mikey",
]  # fmt: skip
KINDS: Final[tuple[Kind, ...]] = (
    "drm-stkm", "drm-ltkm", "drm-registration",
    "smartcard-stkm", "smartcard-ltkm", "smartcard-verification", "smartcard-reporting", "smartcard-parental",
    "smartcard-registration", "mikey",
)  # fmt: skip

Leniency = Literal["mtk-id-4", "interval-2", "trailing-bytes", "rsa-1024"]
"""Departures a parser accepts only when named: a 4-byte MTK ID (CMMB cards), a 2+2 byte MSK interval (3GPP's, of MTK
IDs), bytes after the last field (ignored), 1024-bit RSA (OMA DRM 2.0 devices)."""
LENIENCIES: Final[tuple[Leniency, ...]] = ("mtk-id-4", "interval-2", "trailing-bytes", "rsa-1024")


class Confidence(enum.StrEnum):
    """On what ground a field of the layout stands (see the conformance page)."""

    SURE = "sure"
    LIKELY = "likely"
    GUESS = "guess"
    OWN = "own"


class Protocol(enum.IntEnum):
    """traffic_protection_protocol.  Sure for 0-2; DCF likely, and not supported for streams."""

    IPSEC = 0
    SRTP = 1
    ISMACRYP = 2
    DCF = 3


@dataclass(frozen=True)
class AccessCriterion:
    """One access criteria descriptor: ``tag`` 0..255 (01 parental_rating), ``value`` up to 255 bytes."""

    tag: int
    value: bytes


# --- DRM Profile: STKM (drm-profile.md 1) ----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _DrmStkmCommon:
    """Fields that are in clear in every form of a DRM STKM.

    ``id`` is the field that the protocol names: security_parameter_index (IPsec, 4 bytes), master_key_index (SRTP, 1-16) or
    key_indicator (ISMACryp, 1-16).  ``salt`` is master_salt (SRTP only, 14 bytes).  ``timestamp``: NTP seconds, 64-bit.
    programme_flag and service_flag are the presence of the two CID extensions; the other flags likewise.
    """

    protocol_version: int = 0
    protection_after_reception: int
    traffic_protection_protocol: Protocol
    traffic_authentication_flag: bool
    traffic_key_lifetime: int
    id: bytes
    next_id: bytes | None = None
    salt: bytes | None = None
    next_salt: bytes | None = None
    timestamp: int | None = None
    access_criteria: tuple[AccessCriterion, ...] | None = None
    permissions_category: int | None = None
    programme_CID_extension: int | None = None
    service_CID_extension: int | None = None


@dataclass(frozen=True, kw_only=True)
class DrmStkm(_DrmStkmCommon):
    """A complete DRM STKM as it is on air."""

    kind: ClassVar[Kind] = "drm-stkm"
    encrypted_traffic_key_material: bytes
    next_encrypted_traffic_key_material: bytes | None = None
    encrypted_PEK: bytes | None = None
    programme_MAC: bytes | None = None
    service_MAC: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class ClearDrmStkm(_DrmStkmCommon):
    """The content of a DRM STKM: ``traffic_key_material`` is TEK (16 bytes) or TEK || TAS (32, IPsec with authentication)."""

    kind: ClassVar[Kind] = "drm-stkm"
    traffic_key_material: Secret
    next_traffic_key_material: Secret | None = None


@dataclass(frozen=True, kw_only=True)
class PartialDrmStkm(ClearDrmStkm):
    """A partially created DRM STKM (F3): clear key material, encrypted_PEK and MACs zero on the wire."""


# --- DRM Profile: LTKM, the BCRO (drm-profile.md 2.2) ----------------------------------------------------------------


class AddressMode(enum.IntEnum):
    """address_mode of a BCRO."""

    WHOLE_GROUP = 0
    SUBSET = 1
    UNIQUE_DEVICE = 2
    DOMAIN = 3


@dataclass(frozen=True, kw_only=True)
class _AssetCommon:
    asset_is_service: bool
    BCI: bytes
    permissions_category: int | None = None


@dataclass(frozen=True, kw_only=True)
class Asset(_AssetCommon):
    """One asset of a BCRO: BCI (16 bytes), SEAK (service) or PEAK (programme), encrypted, 32 bytes."""

    encrypted_key: bytes


@dataclass(frozen=True, kw_only=True)
class ClearAsset(_AssetCommon):
    """One asset with its SEAK or PEAK in clear (32 bytes: encryption key || authentication seed)."""

    key: Secret


@dataclass(frozen=True)
class Constraint:
    """``type``: 1 count, 2 start, 3 end, 4 interval, 5 tokens; ``value`` as on the wire (u32, or 40-bit MJD + BCD)."""

    type: int
    value: bytes


@dataclass(frozen=True)
class Permission:
    """``action``: 1 access (live), 2 play, 3 save, 4 export."""

    action: int
    constraints: tuple[Constraint, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _BcroCommon:
    """Fields that are in clear in both forms of a BCRO.

    ``group_address`` (4 bytes) in modes 0-2, ``bit_access_mask`` (32 or 64 bytes) in mode 1, ``position_in_group`` in mode 2,
    ``domain_id`` (6 bytes) and ``domain_generation`` in mode 3.  ``group_size_flag``: False 256, True 512 positions.
    Times are NTP seconds, 64-bit.
    """

    protocol_version: int = 0
    address_mode: AddressMode
    group_size_flag: bool = False
    stateful_flag: bool = False
    rights_issuer_id: bytes | None = None
    group_address: bytes | None = None
    bit_access_mask: bytes | None = None
    position_in_group: int | None = None
    domain_id: bytes | None = None
    domain_generation: int | None = None
    bcro_timestamp: int | None = None
    refresh_time: int | None = None
    permissions: tuple[Permission, ...]


@dataclass(frozen=True, kw_only=True)
class Bcro(_BcroCommon):
    """A broadcast rights object as it is on air: the LTKM of the DRM Profile."""

    kind: ClassVar[Kind] = "drm-ltkm"
    assets: tuple[Asset, ...]
    MAC: bytes


@dataclass(frozen=True, kw_only=True)
class ClearBcro(_BcroCommon):
    """The content of a BCRO, keys in clear."""

    kind: ClassVar[Kind] = "drm-ltkm"
    assets: tuple[ClearAsset, ...]


# --- DRM Profile: registration (drm-profile.md 3, rules.md R22) ------------------------------------------------------


class RegistrationTag(enum.IntEnum):
    """message_tag of the DRM registration family (own numbers, rules.md R22)."""

    device_registration_response = 0x21
    re_register_msg = 0x22
    update_ri_certificate_msg = 0x23
    update_drmtime_msg = 0x24
    update_contact_number_msg = 0x25
    domain_registration_response = 0x26
    domain_update_response = 0x27
    join_domain_msg = 0x28
    leave_domain_msg = 0x29
    token_delivery_response = 0x2A


KEYSET_TAGS: Final = (
    RegistrationTag.device_registration_response,
    RegistrationTag.domain_registration_response,
    RegistrationTag.domain_update_response,
)
"""The three of the family whose body is known in full: they carry certificates and a key set."""


class KeysetTag(enum.IntEnum):
    """item_tag in a key set; 0 is padding.  Unknown numbers are kept."""

    UGK = 0x01
    UDK = 0x02
    SGK = 0x03
    UDF = 0x04
    RIAK = 0x05
    BDK = 0x06
    TDK = 0x07


@dataclass(frozen=True)
class KeysetItem:
    """One item of a key set: ``tag`` 1..255 and its value (the key, or level || key, ...), secret as a whole."""

    tag: int
    value: Secret


@dataclass(frozen=True, kw_only=True)
class _RegistrationHeader:
    """The rows that the whole family shares.

    ``longform_udn``: 20 decimal digits, or 20 x ``F`` for everyone.  ``signature_type``: RSA modulus 1024, 2048 or 4096 bits.
    ``hash``: ``"SHA-1"`` or ``"SHA-256"``.
    """

    message_tag: RegistrationTag
    protocol_version: int = 0
    longform_udn: str
    status: int = 0
    signature_type: int = 2048
    hash: Literal["SHA-1", "SHA-256"] = "SHA-256"


@dataclass(frozen=True, kw_only=True)
class _RegistrationResponseCommon(_RegistrationHeader):
    """``certificates`` (DER, leaf first) and ``ocsp_responses`` (DER): ``None`` = the flag is 0.  ``drm_time``: NTP seconds,
    64-bit.
    """

    rights_issuer_id: bytes
    drm_time: int
    certificates: tuple[bytes, ...] | None = None
    ocsp_responses: tuple[bytes, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class RegistrationResponse(_RegistrationResponseCommon):
    """A response with a key set, as it is on air.  Both blocks are ``None`` when keyset_flag is 0."""

    kind: ClassVar[Kind] = "drm-registration"
    session_key_block: bytes | None = None
    keyset_block: bytes | None = None
    signature: bytes


@dataclass(frozen=True, kw_only=True)
class DeviceRegistrationResponse(RegistrationResponse):
    """device_registration_response (0x21): a device's registration key material."""

    message_tag: RegistrationTag = RegistrationTag.device_registration_response


@dataclass(frozen=True, kw_only=True)
class DomainRegistrationResponse(RegistrationResponse):
    """domain_registration_response (0x26): a broadcast domain's key (BDK)."""

    message_tag: RegistrationTag = RegistrationTag.domain_registration_response


@dataclass(frozen=True, kw_only=True)
class DomainUpdateResponse(RegistrationResponse):
    """domain_update_response (0x27): a new generation of a domain's key."""

    message_tag: RegistrationTag = RegistrationTag.domain_update_response


@dataclass(frozen=True, kw_only=True)
class ClearRegistrationResponse(_RegistrationResponseCommon):
    """The content of any of the three, key set in clear (``None`` = keyset_flag 0)."""

    kind: ClassVar[Kind] = "drm-registration"
    keyset_items: tuple[KeysetItem, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class RegistrationMessage(_RegistrationHeader):
    """Any other message of the family: header, opaque body, signature.  The three flags of the header are kept as they are."""

    kind: ClassVar[Kind] = "drm-registration"
    ri_certificate_flag: bool = False
    ocsp_flag: bool = False
    keyset_flag: bool = False
    body: bytes
    signature: bytes


# --- MIKEY (smartcard-profile.md 1-3) --------------------------------------------------------------------------------


@dataclass(frozen=True)
class KeyId:
    """One entry of a Key ID information extension (RFC 4563): ``type`` 0 domain, 1 MSK, 2 MTK, others kept."""

    type: int
    value: bytes


@dataclass(frozen=True)
class Timestamp:
    """T payload: ``ts_type`` 0 NTP-UTC, 1 NTP (8 bytes), 2 COUNTER, 3 NTP-UTC-32 (4 bytes)."""

    ts_type: int
    ts_value: bytes


@dataclass(frozen=True)
class Rand:
    """RAND payload."""

    rand: bytes


@dataclass(frozen=True)
class Identity:
    """ID payload: ``id_type`` 0 NAI, 1 URI, 2 byte string."""

    id_type: int
    id: bytes


@dataclass(frozen=True)
class SecurityPolicy:
    """SP payload: ``params`` are (type, value)."""

    policy_no: int
    prot_type: int
    params: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True)
class Kemac:
    """KEMAC payload.  ``encr_data`` may hold keys in clear (NULL encryption), hence no ``repr``."""

    encr_alg: int
    encr_data: bytes = field(repr=False)
    mac_alg: int
    mac: bytes


@dataclass(frozen=True)
class Verification:
    """V payload: ``ver_data`` 20 bytes for auth_alg 1, empty for 0."""

    auth_alg: int
    ver_data: bytes


@dataclass(frozen=True)
class ErrorPayload:
    """ERR payload."""

    error_no: int


@dataclass(frozen=True)
class Extension:
    """General extension whose content is kept as bytes.  ``ext_type`` 5: the first byte is the OMA BCAST subtype."""

    ext_type: int
    data: bytes


@dataclass(frozen=True)
class KeyIds:
    """General extension type 3: Key ID information."""

    ids: tuple[KeyId, ...]


MikeyPayload = Timestamp | Rand | Identity | SecurityPolicy | Kemac | Verification | ErrorPayload | Extension | KeyIds


@dataclass(frozen=True)
class SrtpId:
    """One entry of an SRTP-ID crypto session map."""

    policy_no: int
    ssrc: int
    roc: int


@dataclass(frozen=True, kw_only=True)
class MikeyMessage:
    """Any PSK-mode MIKEY message, payload by payload.

    ``data_type``: 0 initiator, 1 verification, 6 error.  ``cs_id_map_type``: 0 SRTP-ID (``cs_id_map`` entries), 1 empty.
    """

    kind: ClassVar[Kind] = "mikey"
    data_type: int = 0
    v: bool = False
    prf_func: int = 0
    csb_id: bytes
    cs_id_map_type: int = 1
    cs_id_map: tuple[SrtpId, ...] = ()
    payloads: tuple[MikeyPayload, ...]


@dataclass(frozen=True, kw_only=True)
class KeyData:
    """One Key data sub-payload of a KEMAC.

    ``key_type``: 0 TGK, 1 TGK+SALT, 2 TEK, 3 TEK+SALT, 4.. others.  ``spi``: KV 1; ``interval``: KV 2, (valid from, valid to).
    """

    key_type: int
    key: Secret
    salt: bytes | None = None
    spi: bytes | None = None
    interval: tuple[bytes, bytes] | None = None


PayloadSlot = Literal["EXT3", "EXT5", "T", "RAND", "IDi", "IDr", "KEMAC", "V"] | Extension | SecurityPolicy
"""Where a payload of a Smartcard Profile message stood: a known one by name, a kept one (unknown EXT, SP) by itself."""


# --- Smartcard Profile (smartcard-profile.md 4, 5, 7; rules.md R16-R25) ----------------------------------------------

SEK_KEY_TYPE: Final = 2
"""Key data type of the SEK in an LTKM that is built: TEK (TS 33.246 6.4.5.1, sure).  0, TGK, is read too (decision 1)."""


@dataclass(frozen=True)
class TerminalBinding:
    """Terminal binding block (parsed and shown, never generated by the flows, R18)."""

    terminal_binding_key_id: int
    permissions_issuer_uri: bytes


@dataclass(frozen=True, kw_only=True)
class StkmManagement:
    """STKM management data (EXT 5 subtype 2): names likely, widths and order guess."""

    protocol_version: int = 0
    protection_after_reception: int
    traffic_protection_protocol: Protocol
    traffic_authentication_flag: bool
    traffic_key_lifetime: int
    access_criteria: tuple[AccessCriterion, ...] | None = None
    terminal_binding: TerminalBinding | None = None


@dataclass(frozen=True, kw_only=True)
class SecurityPolicyExtension:
    """SPE block.  ``security_policy_extension`` is any 0..255 (meanings unverified); a mode is 0 add, 1 set, and needs its
    value.
    """

    security_policy_extension: int
    cost_value: int | None = None
    purse: int | None = None
    purse_mode: int = 0
    playback: int | None = None
    playback_mode: int = 0
    tek: int | None = None
    tek_mode: int = 0


@dataclass(frozen=True, kw_only=True)
class LtkmManagement:
    """LTKM management data (EXT 5 subtype 1): names likely, widths guess."""

    protocol_version: int = 0
    consumption_reporting_flag: bool = False
    security_policy_ext: SecurityPolicyExtension | None = None
    access_criteria: tuple[AccessCriterion, ...] | None = None
    terminal_binding: TerminalBinding | None = None


@dataclass(frozen=True, kw_only=True)
class _SmartcardCommon:
    """``csb_id`` 4 bytes, ``counter`` 0..2^32-1.  ``layout``: payload order when it is not the canonical one, else ``None``."""

    counter: int
    layout: tuple[PayloadSlot, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class _SmartcardStkmCommon(_SmartcardCommon):
    """``key_domain_id`` 3, ``sek_id`` 4, ``tek_id`` 2 bytes (4 with leniency mtk-id-4).  ``other_key_ids``: unknown types, kept.

    What is sealed has a Key Group and a Key Number (halves of ``sek_id``) other than 0000, and a ``tek_id`` of 0001..fffe.
    """

    key_domain_id: bytes
    sek_id: bytes
    tek_id: bytes
    management: StkmManagement | None = None
    other_key_ids: tuple[KeyId, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SmartcardStkm(_SmartcardStkmCommon):
    """A complete Smartcard Profile STKM (MIKEY MTK message) as it is on air.

    ``csb_id``: any value; with the RAND of the SEK it gives the message's keys (smartcard-profile.md 4.4).
    """

    kind: ClassVar[Kind] = "smartcard-stkm"
    csb_id: bytes
    encr_data: bytes
    mac: bytes


@dataclass(frozen=True, kw_only=True)
class ClearSmartcardStkm(_SmartcardStkmCommon):
    """The content of a Smartcard STKM: ``tek`` 16 bytes, ``salt`` 14 bytes exactly when the protocol is SRTP (R18)."""

    kind: ClassVar[Kind] = "smartcard-stkm"
    tek: Secret
    salt: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class PartialSmartcardStkm(ClearSmartcardStkm):
    """A partially created Smartcard STKM (F3): CSB ID 0, NULL encryption, NULL MAC on the wire."""


@dataclass(frozen=True, kw_only=True)
class _SmartcardLtkmCommon(_SmartcardCommon):
    """``idi``, ``idr``: bare identities (bytes of a NAI); ``idr_type``: 0 NAI, 1 URI; ``idi_type``: 0, others are ignored.

    ``rand``: 16 bytes, the SEK's and not the message's: the same in every LTKM that delivers it.  Ours give it one ``csb_id`` too,
    on which readers do not rely (smartcard-profile.md 4.4).
    """

    csb_id: bytes
    key_domain_id: bytes
    sek_id: bytes
    rand: bytes
    idi: bytes
    idr: bytes
    idi_type: int = 0
    idr_type: int = 0
    verification_requested: bool = False
    management: LtkmManagement | None = None
    other_key_ids: tuple[KeyId, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SmartcardLtkm(_SmartcardLtkmCommon):
    """A Smartcard Profile LTKM (MIKEY MSK message) as it is sent."""

    kind: ClassVar[Kind] = "smartcard-ltkm"
    encr_data: bytes
    mac: bytes


@dataclass(frozen=True, kw_only=True)
class ClearSmartcardLtkm(_SmartcardLtkmCommon):
    """The content of an LTKM: SEK or PEK (16 bytes) and the window of STKM COUNTERs it opens.

    ``ts_low`` > ``ts_high`` in the exact form ffffffff/00000000 with a zero key withdraws (R3, R4).  ``key_data_type``: 2 (TEK), or
    0 (TGK), which is read but not sealed.  ``interval_length``: 4, or 2 with leniency interval-2.
    """

    kind: ClassVar[Kind] = "smartcard-ltkm"
    sek: Secret
    ts_low: int
    ts_high: int
    key_data_type: int = SEK_KEY_TYPE
    interval_length: int = 4


@dataclass(frozen=True, kw_only=True)
class ReportingEntry(SecurityPolicyExtension):
    """One entry of LTKM reporting (R25): the SPE of one key and window, with its counters."""

    key_domain_id: bytes
    key_group: bytes
    key_number: int
    ts_low: int
    ts_high: int


@dataclass(frozen=True, kw_only=True)
class Reporting:
    """LTKM reporting management data (EXT 5 subtype 3), own."""

    protocol_version: int = 0
    status: int = 0
    entries: tuple[ReportingEntry, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SmartcardVerification(_SmartcardCommon):
    """The card's answer to an LTKM with V = 1; with ``reporting`` it is the kind ``smartcard-reporting``.

    ``mac`` (V payload, 20 bytes) is empty until sealed.
    """

    csb_id: bytes
    idr: bytes
    idr_type: int = 0
    reporting: Reporting | None = None
    mac: bytes = b""

    @property
    def kind(self) -> Kind:
        return "smartcard-verification" if self.reporting is None else "smartcard-reporting"


@dataclass(frozen=True, kw_only=True)
class _SmartcardParentalCommon(_SmartcardCommon):
    """Parental control message, own: ``rating_type``, ``level_granted`` 0..255; ``rand`` and ``csb_id`` fresh for each message."""

    protocol_version: int = 0
    csb_id: bytes
    rand: bytes
    idi: bytes
    idr: bytes
    idi_type: int = 0
    idr_type: int = 0
    verification_requested: bool = False
    rating_type: int
    level_granted: int


@dataclass(frozen=True, kw_only=True)
class SmartcardParental(_SmartcardParentalCommon):
    """A parental control message as it is sent."""

    kind: ClassVar[Kind] = "smartcard-parental"
    pin_present: bool
    encr_data: bytes
    mac: bytes


@dataclass(frozen=True, kw_only=True)
class ClearSmartcardParental(_SmartcardParentalCommon):
    """Its content: ``pin`` is 1-8 ASCII digits, or ``None``."""

    kind: ClassVar[Kind] = "smartcard-parental"
    pin: Secret | None = None


@dataclass(frozen=True, kw_only=True)
class SmartcardRegistration:
    """Bootstrapping push (smartcard-profile.md 9, R24), own.

    ``target_id`` 8 bytes; ``key_lifetime``: absolute end, 32-bit NTP seconds; ``rand``, ``autn`` 16 bytes; ``mac`` 12 bytes,
    empty until sealed.  ``naf_fqdn`` and ``btid`` are ASCII.
    """

    kind: ClassVar[Kind] = "smartcard-registration"
    protocol_version: int = 0
    gba_u: bool
    target_id: bytes
    key_lifetime: int
    rand: bytes
    autn: bytes
    naf_fqdn: str
    btid: str
    mac: bytes = b""


@dataclass(frozen=True, kw_only=True)
class OpenedSmartcardRegistration:
    """What a card obtains from a registration push: SMK (32 bytes) and SRK (32 bytes)."""

    kind: ClassVar[Kind] = "smartcard-registration"
    registration: SmartcardRegistration
    smk: Secret
    srk: Secret


Message = (
    DrmStkm | PartialDrmStkm | Bcro | RegistrationResponse | RegistrationMessage
    | SmartcardStkm | PartialSmartcardStkm | SmartcardLtkm | SmartcardVerification | SmartcardParental | SmartcardRegistration
    | MikeyMessage
)  # fmt: skip
"""What ``decode`` gives and ``encode`` takes."""

ClearMessage = (
    ClearDrmStkm | ClearBcro | ClearRegistrationResponse | RegistrationMessage | ClearSmartcardStkm | ClearSmartcardLtkm
    | SmartcardVerification | ClearSmartcardParental | OpenedSmartcardRegistration
)  # fmt: skip
"""What ``open`` gives."""

FIRST_BYTE: Final[dict[int, Kind]] = {
    0x20: "drm-ltkm", 0x40: "smartcard-registration",
    **{tag.value: "drm-registration" for tag in RegistrationTag},
}  # fmt: skip
"""R22: the first byte of an LTKM or registration object tells its kind; 01 is MIKEY (look inside).  A STKM's does not."""
