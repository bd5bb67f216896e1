# SPDX-License-Identifier: Apache-2.0
"""LTKM of the DRM Profile: the binary rights object, BCRO (drm-profile 2.2).

The bit table of OMADRMBroadcastRightsObject is not published where it could be read: field names are likely, the layout is our own.
"""

from __future__ import annotations

from typing import Final

from construct import this

from pybcast.errors import BadLength, BadValue, Unsupported
from pybcast.messages import AddressMode, Asset, Bcro, Constraint, Permission
from pybcast.wire.schema import (
    OWN,
    Bits,
    Context,
    Fault,
    List,
    Octets,
    Run,
    Table,
    UInt,
    Values,
    equals,
    field,
    one_of,
    read,
    reserved,
    total_length,
    write_sized,
)
from pybcast.wire.times import MJD_BCD, decode_mjd_bcd, iso

# confidence: own - this whole layout, its numbers and its checks (drm-profile 2.2, rules R21, R22)
MESSAGE_TAG: Final = 0x20
PROTOCOL_VERSION: Final = 0
KEY_LENGTH: Final = 32  # SEAK or PEAK
MAC_LENGTH: Final = 12
ACTIONS: Final = {1: "access (live)", 2: "play", 3: "save", 4: "export"}
CONSTRAINTS: Final = {1: "count", 2: "start", 3: "end", 4: "interval, s", 5: "tokens"}
CONSTRAINT_LENGTHS: Final = {1: 4, 2: 5, 3: 5, 4: 4, 5: 4}
TIME_CONSTRAINTS: Final = (2, 3)
GROUP_SIZES: Final = {0: 256, 1: 512}
MODES: Final = {0: "whole group", 1: "subset of a group", 2: "unique device", 3: "domain"}


def _subset(mask: bytes, context: Context) -> None:
    """A full mask would leave the key without any contribution, an empty one addresses nobody (rules R21)."""
    if not any(mask):
        raise Fault(BadValue, "at least one position", "an empty subset")
    if all(byte == 0xFF for byte in mask):
        raise Fault(BadValue, "at least one position left out (address_mode 0 means all)", "a full mask")


def _position(value: int, context: Context) -> None:
    size = GROUP_SIZES[context.group_size_flag]
    if value >= size:
        raise Fault(BadValue, f"0..{size - 1} in a group of {size}", str(value))


def _at_least_one(value: int, context: Context) -> None:
    if not value:
        raise Fault(BadLength, "at least 1", "0")


def _constraint_length(value: int, context: Context) -> None:
    equals(CONSTRAINT_LENGTHS[context.type], BadLength)(value, context)


def _constraint_value(value: bytes, context: Context) -> None:
    if context.type in TIME_CONSTRAINTS:
        try:
            decode_mjd_bcd(value)
        except BadValue as error:
            raise Fault(BadValue, error.expected, error.found) from None


_ASSET: Final = Table(
    field("asset_is_service", Bits(1), OWN, "SEAK of a service", unset="PEAK of a programme"),
    field("permissions_category_flag", Bits(1), OWN, "permissions category follows", unset="no permissions category"),
    reserved(6, OWN),
    field("BCI", Octets(16), OWN, "binary content id"),
    field("permissions_category", UInt(1), OWN, "permissions category", when=this.permissions_category_flag),
    field("encrypted_key", Octets(KEY_LENGTH), OWN, "SEAK or PEAK under the IEK"),
)
_CONSTRAINT: Final = Table(
    field("type", UInt(1), OWN, "constraint", names=CONSTRAINTS, check=one_of(CONSTRAINTS, Unsupported)),
    field("length", UInt(1, BadLength), OWN, "bytes of value", check=_constraint_length, measures="value"),
    field("value", Octets(this.length), OWN, "number, or MJD + BCD", check=_constraint_value),
)
_PERMISSION: Final = Table(
    field("action", UInt(1), OWN, "action", names=ACTIONS, check=one_of(ACTIONS, Unsupported)),
    field("constraint_count", UInt(1, BadLength), OWN, "number of constraints", measures="constraints"),
    field("constraints", List(_CONSTRAINT, this.constraint_count), OWN, "constraints"),
)

BCRO: Final = Table(
    field("message_tag", UInt(1), OWN, "BCRO", check=equals(MESSAGE_TAG, Unsupported), default=MESSAGE_TAG),
    field("protocol_version", Bits(4), OWN, "0", check=equals(PROTOCOL_VERSION, Unsupported)),
    field("bcro_timestamp_flag", Bits(1), OWN, "bcro_timestamp follows", unset="no bcro_timestamp"),
    field("stateful_flag", Bits(1), OWN, "constraint counters survive restarts", unset="constraint counters end with a restart"),
    field("refresh_time_flag", Bits(1), OWN, "refresh_time follows", unset="no refresh_time"),
    field("rights_issuer_flag", Bits(1), OWN, "rights_issuer_id follows", unset="no rights_issuer_id"),
    field("group_size_flag", Bits(1), OWN, "positions in a group", names=GROUP_SIZES),
    field("address_mode", Bits(3), OWN, "who is addressed", names=MODES, check=one_of(MODES, Unsupported)),
    field("bcro_length", Bits(12, BadLength), OWN, "bytes, header and MAC included", check=total_length),
    field("rights_issuer_id", Octets(20), OWN, "SHA-1 of the rights issuer's public key", when=this.rights_issuer_flag),
    field("group_address", Octets(4), OWN, "group", when=this.address_mode != int(AddressMode.DOMAIN)),
    field(
        "bit_access_mask",
        Octets(lambda context: GROUP_SIZES[context.group_size_flag] // 8),
        OWN,
        "bit 7 of the first byte is position 0; 1: may use",
        when=this.address_mode == int(AddressMode.SUBSET),
        check=_subset,
    ),
    reserved(7, OWN, when=this.address_mode == int(AddressMode.UNIQUE_DEVICE)),
    field("position_in_group", Bits(9), OWN, "device", when=this.address_mode == int(AddressMode.UNIQUE_DEVICE), check=_position),
    field("domain_id", Octets(6), OWN, "broadcast domain", when=this.address_mode == int(AddressMode.DOMAIN)),
    field("domain_generation", UInt(2), OWN, "its generation", when=this.address_mode == int(AddressMode.DOMAIN)),
    field("bcro_timestamp", MJD_BCD, OWN, "UTC, MJD + BCD", when=this.bcro_timestamp_flag, show=iso),
    field("refresh_time", MJD_BCD, OWN, "do not use after this without a newer one", when=this.refresh_time_flag, show=iso),
    field("number_of_assets", UInt(1, BadLength), OWN, "number of assets", check=_at_least_one, measures="assets"),
    field("assets", List(_ASSET, this.number_of_assets), OWN, "assets"),
    field("number_of_permissions", UInt(1, BadLength), OWN, "number of permissions", check=_at_least_one, measures="permissions"),
    field("permissions", List(_PERMISSION, this.number_of_permissions), OWN, "permissions"),
    field("MAC", Octets(MAC_LENGTH), OWN, "HMAC-SHA-1-96 under BAK over all before it"),
)
"""drm-profile 2.2."""


def decode(data: bytes, run: Run) -> Bcro:
    """A BCRO out of its bytes."""
    found = read(BCRO, data, run)
    return Bcro(
        protocol_version=found.protocol_version,
        address_mode=AddressMode(found.address_mode),
        group_size_flag=bool(found.group_size_flag),
        stateful_flag=bool(found.stateful_flag),
        rights_issuer_id=found.get("rights_issuer_id"),
        group_address=found.get("group_address"),
        bit_access_mask=found.get("bit_access_mask"),
        position_in_group=found.get("position_in_group"),
        domain_id=found.get("domain_id"),
        domain_generation=found.get("domain_generation"),
        bcro_timestamp=found.get("bcro_timestamp"),
        refresh_time=found.get("refresh_time"),
        assets=tuple(
            Asset(
                asset_is_service=bool(asset.asset_is_service),
                BCI=asset.BCI,
                permissions_category=asset.get("permissions_category"),
                encrypted_key=asset.encrypted_key,
            )
            for asset in found.assets
        ),
        permissions=tuple(
            Permission(permission.action, tuple(Constraint(entry.type, entry.value) for entry in permission.constraints))
            for permission in found.permissions
        ),
        MAC=found.MAC,
    )


def encode(message: Bcro, run: Run) -> bytes:
    """A BCRO as bytes."""
    values: Values = {
        "protocol_version": message.protocol_version,
        "bcro_timestamp_flag": message.bcro_timestamp is not None,
        "stateful_flag": message.stateful_flag,
        "refresh_time_flag": message.refresh_time is not None,
        "rights_issuer_flag": message.rights_issuer_id is not None,
        "group_size_flag": message.group_size_flag,
        "address_mode": message.address_mode,
        "rights_issuer_id": message.rights_issuer_id,
        "group_address": message.group_address,
        "bit_access_mask": message.bit_access_mask,
        "position_in_group": message.position_in_group,
        "domain_id": message.domain_id,
        "domain_generation": message.domain_generation,
        "bcro_timestamp": message.bcro_timestamp,
        "refresh_time": message.refresh_time,
        "assets": [
            {
                "asset_is_service": asset.asset_is_service,
                "permissions_category_flag": asset.permissions_category is not None,
                "BCI": asset.BCI,
                "permissions_category": asset.permissions_category,
                "encrypted_key": asset.encrypted_key,
            }
            for asset in message.assets
        ],
        "permissions": [
            {
                "action": permission.action,
                "constraints": [{"type": entry.type, "value": entry.value} for entry in permission.constraints],
            }
            for permission in message.permissions
        ],
        "MAC": message.MAC,
    }
    return write_sized(BCRO, values, "bcro_length", run)
