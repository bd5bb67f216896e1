# SPDX-License-Identifier: Apache-2.0
"""Where each field of a valid message lies: a second, small reading of the layout notes.

Only for bytes that are known to be valid; it checks nothing.  The catalogue of mutations finds its targets with it, and the
tests hold it against ``explain``: two readings of one layout, written apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from pybcast.messages import Kind


class Span(NamedTuple):
    """Bytes ``offset`` to ``offset + length`` of the message."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        return self.offset + self.length


Fields = dict[str, Span]


class _Walk:
    def __init__(self, data: bytes, offset: int = 0) -> None:
        self.data, self.offset, self.fields = data, offset, Fields()

    def take(self, name: str, length: int) -> int:
        """Name the next bytes; their value as an unsigned integer."""
        self.fields[name] = Span(self.offset, length)
        value = int.from_bytes(self.data[self.offset : self.offset + length], "big")
        self.offset += length
        return value


def drm_stkm(data: bytes) -> Fields:
    """drm-profile 1.1."""
    w = _Walk(data)
    head = w.take("selectors_and_flags", 2)
    w.fields["flags"] = Span(1, 1)
    protocol, follows = head >> 5 & 7, head >> 3 & 1
    if protocol == 0:
        w.take("security_parameter_index", 4)
        if follows:
            w.take("next_security_parameter_index", 4)
    else:
        name = "master_key_index" if protocol == 1 else "key_indicator"
        length = w.take(f"{name}_length", 1)
        w.take(name, length)
        if follows:
            w.take(f"next_{name}", length)
        if protocol == 1:
            w.take("master_salt", 14)
            if follows:
                w.take("next_master_salt", 14)
    length = w.take("encrypted_traffic_key_material_length", 1)
    w.take("encrypted_traffic_key_material", length)
    if follows:
        w.take("next_encrypted_traffic_key_material", length)
    w.take("traffic_key_lifetime", 1)
    if head >> 2 & 1:
        w.take("timestamp", 5)
    if head >> 8 & 1:
        w.take("access_criteria_reserved", 1)
        for i in range(w.take("number_of_access_criteria_descriptors", 1)):
            w.take(f"access_criteria[{i}].tag", 1)
            w.take(f"access_criteria[{i}].value", w.take(f"access_criteria[{i}].length", 1))
    programme, service = head >> 1 & 1, head & 1
    if programme:
        if w.take("programme_selectors_and_flags", 1) & 1:
            w.take("permissions_category", 1)
        if service:
            w.take("encrypted_PEK", 16)
        w.take("programme_CID_extension", 4)
        w.take("programme_MAC", 12)
    if service:
        w.take("service_CID_extension", 4)
        w.take("service_MAC", 12)
    return w.fields


def bcro(data: bytes) -> Fields:
    """drm-profile 2.2."""
    w = _Walk(data)
    w.take("message_tag", 1)
    flags = w.take("version_and_flags", 1)
    mode_and_length = w.take("mode_and_length", 2)
    mode = mode_and_length >> 12 & 7
    if flags & 1:
        w.take("rights_issuer_id", 20)
    if mode < 3:
        w.take("group_address", 4)
    if mode == 1:
        w.take("bit_access_mask", 64 if mode_and_length >> 15 else 32)
    elif mode == 2:
        w.take("position_in_group", 2)
    elif mode == 3:
        w.take("domain_id", 6)
        w.take("domain_generation", 2)
    if flags & 8:
        w.take("bcro_timestamp", 5)
    if flags & 2:
        w.take("refresh_time", 5)
    for i in range(w.take("number_of_assets", 1)):
        category = w.take(f"assets[{i}].flags", 1) & 0x40
        w.take(f"assets[{i}].BCI", 16)
        if category:
            w.take(f"assets[{i}].permissions_category", 1)
        w.take(f"assets[{i}].encrypted_key", 32)
    for i in range(w.take("number_of_permissions", 1)):
        w.take(f"permissions[{i}].action", 1)
        for j in range(w.take(f"permissions[{i}].constraint_count", 1)):
            w.take(f"permissions[{i}].constraints[{j}].type", 1)
            length = w.take(f"permissions[{i}].constraints[{j}].length", 1)
            w.take(f"permissions[{i}].constraints[{j}].value", length)
    w.take("MAC", 12)
    return w.fields


def registration(data: bytes) -> Fields:
    """drm-profile 3."""
    w = _Walk(data)
    tag = w.take("message_tag", 1)
    w.take("version_and_reserved", 1)
    w.take("message_length", 2)
    w.take("longform_udn", 10)
    w.take("status", 1)
    flags = w.take("flags", 1)
    signature = {0: 128, 1: 256, 2: 512}[flags >> 6]
    if tag in (0x21, 0x26, 0x27):
        w.take("rights_issuer_id", 20)
        w.take("drm_time", 5)
        for mask, name in ((0x20, "certificates"), (0x10, "ocsp_responses")):
            if flags & mask:
                for i in range(w.take(f"number_of_{name}", 1)):
                    w.take(f"{name}[{i}]", w.take(f"{name}[{i}].length", 2))
        if flags & 0x08:
            w.take("session_key_block", w.take("session_key_block_length", 2))
            w.take("keyset_block", w.take("keyset_block_length", 2))
    else:
        w.take("body", len(data) - signature - w.offset)
    w.take("signature", signature)
    return w.fields


def smartcard_registration(data: bytes) -> Fields:
    """smartcard-profile 9."""
    w = _Walk(data)
    w.take("message_tag", 1)
    w.take("version_and_flags", 1)
    w.take("message_length", 2)
    w.take("target_id", 8)
    w.take("key_lifetime", 4)
    w.take("RAND", 16)
    w.take("AUTN", 16)
    w.take("naf_fqdn", w.take("naf_fqdn_length", 1))
    w.take("btid", w.take("btid_length", 1))
    w.take("MAC", 12)
    return w.fields


_NAMES: Final = {1: "KEMAC", 5: "T", 6: "ID", 9: "V", 10: "SP", 11: "RAND", 12: "ERR"}


def _extension(w: _Walk, name: str, kind: int, length: int) -> None:
    end = w.offset + length
    if kind == 3:
        while w.offset < end:
            base = f"{name}.ids[{w.data[w.offset]}]"
            w.take(f"{base}.type", 1)
            w.take(f"{base}.value", w.take(f"{base}.length", 1))
    elif kind == 5:
        _management(w, name)
    w.take(f"{name}.rest", end - w.offset)


def _management(w: _Walk, name: str) -> None:
    """smartcard-profile 5 and 7."""
    subtype = w.take(f"{name}.subtype", 1)
    head = w.take(f"{name}.head", 1)
    if subtype == 2:
        w.take(f"{name}.protocol_and_lifetime", 1)
        _criteria_and_binding(w, name, head & 1, head >> 1 & 1)
    elif subtype == 1:
        if head & 8:
            _policy(w, name)
        _criteria_and_binding(w, name, head >> 1 & 1, head & 1)
    elif subtype == 3:
        w.take(f"{name}.status", 1)
        for i in range(w.take(f"{name}.number_of_entries", 1)):
            for field, width in (("key_domain_id", 3), ("key_group", 2), ("key_number", 2), ("ts_low", 4), ("ts_high", 4)):
                w.take(f"{name}.entries[{i}].{field}", width)
            _policy(w, f"{name}.entries[{i}]")
    elif subtype == 4:
        w.take(f"{name}.rating_type", 1)
        w.take(f"{name}.level_granted", 1)


def _policy(w: _Walk, name: str) -> None:
    w.take(f"{name}.security_policy_extension", 1)
    flags = w.take(f"{name}.security_policy_flags", 1)
    for mask, value in ((0x80, "cost_value"), (0x40, "purse"), (0x10, "playback"), (0x04, "tek")):
        if flags & mask:
            w.take(f"{name}.{value}", 4)


def _criteria_and_binding(w: _Walk, name: str, criteria: int, binding: int) -> None:
    if criteria:
        for i in range(w.take(f"{name}.number_of_access_criteria_descriptors", 1)):
            w.take(f"{name}.access_criteria[{i}].tag", 1)
            w.take(f"{name}.access_criteria[{i}].value", w.take(f"{name}.access_criteria[{i}].length", 1))
    if binding:
        w.take(f"{name}.terminal_binding_key_id", 4)
        w.take(f"{name}.permissions_issuer_uri", w.take(f"{name}.permissions_issuer_uri_length", 1))


def smartcard(data: bytes) -> Fields:
    """smartcard-profile 4: MIKEY, and what is inside the OMA extension."""
    return mikey(data, inside=True)


def mikey(data: bytes, inside: bool = False) -> Fields:
    """smartcard-profile 1.  Payload ``X`` is named after its type: ``T``, ``EXT3``, ``ID`` then ``ID2``, ...

    ``X`` itself is the span of the whole payload; ``X.next`` its first octet; ``last`` that of the last payload.
    """
    w = _Walk(data)
    w.take("version", 1)
    w.take("data_type", 1)
    kind = w.take("next_payload", 1)
    w.take("v_and_prf", 1)
    w.take("csb_id", 4)
    entries = w.take("number_of_cs", 1)
    if w.take("cs_id_map_type", 1) == 0:
        for i in range(entries):
            w.take(f"cs_id_map[{i}]", 9)
    index = 0
    while kind:
        name, start = _NAMES.get(kind, "EXT"), w.offset
        if kind == 21:
            name = f"EXT{data[start + 1]}"
        serial = 2
        while name in w.fields:
            name, serial = f"{name.partition('#')[0]}#{serial}", serial + 1
        following = w.take(f"{name}.next", 1)
        if kind == 1:
            w.take(f"{name}.encr_alg", 1)
            w.take(f"{name}.encr_data", w.take(f"{name}.encr_data_length", 2))
            w.take(f"{name}.mac", {0: 0, 1: 20, 2: 32}[w.take(f"{name}.mac_alg", 1)])
        elif kind == 5:
            w.take(f"{name}.ts_value", 8 if w.take(f"{name}.ts_type", 1) < 2 else 4)
        elif kind == 6:
            w.take(f"{name}.id_type", 1)
            w.take(f"{name}.id", w.take(f"{name}.length", 2))
        elif kind == 9:
            w.take(f"{name}.ver_data", 20 * w.take(f"{name}.auth_alg", 1))
        elif kind == 10:
            w.take(f"{name}.policy_no", 1)
            w.take(f"{name}.prot_type", 1)
            w.take(f"{name}.params", w.take(f"{name}.length", 2))
        elif kind == 11:
            w.take(f"{name}.rand", w.take(f"{name}.length", 1))
        elif kind == 12:
            w.take(f"{name}.error_no", 1)
            w.take(f"{name}.reserved", 2)
        elif kind == 21:
            extension = w.take(f"{name}.type", 1)
            _extension(w, name, extension if inside or extension == 3 else 0, w.take(f"{name}.length", 2))
        w.fields[name] = w.fields[f"payloads[{index}]"] = Span(start, w.offset - start)
        index += 1
        w.fields["last"] = Span(start, 1)
        kind = following
    return w.fields


LOCATE: Final[dict[Kind, Callable[[bytes], Fields]]] = {
    "drm-stkm": drm_stkm,
    "drm-ltkm": bcro,
    "drm-registration": registration,
    "smartcard-registration": smartcard_registration,
    "smartcard-stkm": smartcard,
    "smartcard-ltkm": smartcard,
    "smartcard-verification": smartcard,
    "smartcard-reporting": smartcard,
    "smartcard-parental": smartcard,
    "mikey": mikey,
}
