# SPDX-License-Identifier: Apache-2.0
"""What the STKMs of both profiles and LTKM management data have in common: access criteria and the meanings of two fields."""

from __future__ import annotations

from typing import Final

from construct import this

from pybcast.errors import BadLength, Unsupported
from pybcast.messages import AccessCriterion, Protocol
from pybcast.wire.schema import LIKELY, Context, Fault, Field, List, Octets, Table, UInt, Values, field

PROTOCOLS: Final = {0: "IPsec", 1: "SRTP", 2: "ISMACryp", 3: "DCF"}
# confidence: likely - meanings of the two-bit values (drm-profile 1.2)
RECEPTION: Final = {
    0: "content protection",
    1: "content protection",
    2: "content protection, also of playback of a recording",
    3: "service protection only",
}
# confidence: likely - same tags as IEC 62455 (drm-profile 1.2); the names of 2 and 3 are guesses
CRITERIA: Final = {1: "parental_rating", 2: "location_based_restriction", 3: "blackout"}


def supported_protocol(value: int, context: Context) -> None:
    """DCF is not for streams and 4..7 are reserved (rules R17)."""
    if value not in (Protocol.IPSEC, Protocol.SRTP, Protocol.ISMACRYP):
        raise Fault(Unsupported, "0 (IPsec), 1 (SRTP) or 2 (ISMACryp)", str(value))


CRITERION: Final = Table(
    field("tag", UInt(1), LIKELY, "access criteria tag", names=CRITERIA),
    field("length", UInt(1, BadLength), LIKELY, "bytes of value", measures="value"),
    field("value", Octets(this.length), LIKELY, "value of the descriptor"),
)


def criteria_rows(*, when: str) -> tuple[Field, Field]:
    """Number octet and descriptors: the same in the STKMs of both profiles and in LTKM management data."""
    flag = this[when]
    return (
        field(
            "number_of_access_criteria_descriptors",
            UInt(1, BadLength),
            LIKELY,
            "number of descriptors",
            when=flag,
            measures="access_criteria",
        ),
        field(
            "access_criteria",
            List(CRITERION, this.number_of_access_criteria_descriptors),
            LIKELY,
            "access criteria descriptors",
            when=flag,
        ),
    )


def criteria_message(found: Context) -> tuple[AccessCriterion, ...] | None:
    """Descriptors out of a table; ``None`` when their flag was 0."""
    items = found.get("access_criteria")
    return None if items is None else tuple(AccessCriterion(item.tag, item.value) for item in items)


def criteria_values(criteria: tuple[AccessCriterion, ...] | None) -> Values:
    """Descriptors into a table."""
    if criteria is None:
        return {"access_criteria_flag": 0}
    return {"access_criteria_flag": 1, "access_criteria": [{"tag": item.tag, "value": item.value} for item in criteria]}
