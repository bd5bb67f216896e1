# SPDX-License-Identifier: Apache-2.0
"""Turn the shared vector files into C tables: ``make_vectors.py FOLDER > vectors.h``.  Standard library only."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

NTP_EPOCH = datetime(1900, 1, 1, tzinfo=UTC)


def text(value: str | None) -> str:
    return "NULL" if value is None else f'"{value}"'


def array(value: str | None) -> str:
    return "{" + ", ".join(f"0x{byte:02x}" for byte in bytes.fromhex(value or "00")) + "}"


def criteria(items: list[tuple[int, str]] | None) -> str | None:
    return None if items is None else "".join(f"{tag:02x}{len(value) // 2:02x}{value}" for tag, value in items)


def table(struct: str, name: str, rows: list[dict[str, str]]) -> None:
    print(f"static const {struct} {name}[] = {{")
    for row in rows:
        print("    {" + ", ".join(f".{key} = {value}" for key, value in row.items()) + "},")
    print("};\n")


def drm(vector: dict[str, Any]) -> dict[str, str]:
    f = vector["fields"]
    present = [
        name
        for name, there in {
            "SERVICE": f["service_CID_extension"] is not None,
            "PROGRAMME": f["programme_CID_extension"] is not None,
            "TIMESTAMP": f["timestamp"] is not None,
            "NEXT": f["next_id"] is not None,
            "CRITERIA": f["access_criteria"] is not None,
            "PERMISSIONS": f["permissions_category"] is not None,
        }.items()
        if there
    ]
    seconds = 0 if f["timestamp"] is None else int((datetime.fromisoformat(f["timestamp"]) - NTP_EPOCH).total_seconds())
    listed = criteria(f["access_criteria"])
    fields = {
        "present": " | ".join(f"BCAST_DRM_{name}" for name in present),
        "protection_after_reception": str(f["protection_after_reception"]),
        "traffic_protection_protocol": str(f["traffic_protection_protocol"]),
        "traffic_authentication_flag": str(f["traffic_authentication_flag"]),
        "traffic_key_lifetime": str(f["traffic_key_lifetime"]),
        "permissions_category": str(f["permissions_category"] or 0),
        "id_length": str(len(f["id"]) // 2),
        "material_length": str(len(f["traffic_key_material"]) // 2),
        "id": array(f["id"]),
        "next_id": array(f["next_id"]),
        "traffic_key_material": array(f["traffic_key_material"]),
        "next_traffic_key_material": array(f["next_traffic_key_material"]),
        "salt": array(f["salt"]),
        "next_salt": array(f["next_salt"]),
        "programme_CID_extension": f"{f['programme_CID_extension'] or 0}u",
        "service_CID_extension": f"{f['service_CID_extension'] or 0}u",
        "timestamp": f"INT64_C({seconds})",
        "access_criteria": f"{{0, {len(listed or '') // 2}}}",
    }
    return {
        "message": text(vector["message"]),
        "partial": text(vector["partial"]),
        **{name: text(vector["keys"][name]) for name in ("sek", "sas", "pek", "pas")},
        "base": text(listed),
        "fields": "{" + ", ".join(f".{key} = {value}" for key, value in fields.items()) + "}",
    }


def stkm(vector: dict[str, Any]) -> dict[str, str]:
    fields = {
        "counter": f"{vector['counter']}u",
        "key_domain_id": array(vector["key_domain_id"]),
        "sek_id": array(vector["sek_id"]),
        "tek_id": array(vector["tek_id"]),
        "tek_id_length": str(len(vector["tek_id"]) // 2),
        "tek": array(vector["tek"]),
        "salt": array(vector["salt"]),
        "has_salt": str(int(vector["salt"] is not None)),
    }
    if vector.get("management") is not None:
        fields |= {"has_management": "1"} | {key: str(value) for key, value in vector["management"].items()}
    return {
        **{name: text(vector[name]) for name in ("message", "sek", "csb_id", "rand")},
        "fields": "{" + ", ".join(f".{key} = {value}" for key, value in fields.items()) + "}",
    }


def ltkm(vector: dict[str, Any]) -> dict[str, str]:
    idi, idr = vector["idi"].encode().hex(), vector["idr"].encode().hex()
    fields = {
        "counter": f"{vector['counter']}u",
        "csb_id": array(vector["csb_id"]),
        "rand": array(vector["rand"]),
        "key_domain_id": array(vector["key_domain_id"]),
        "verification_requested": str(int(vector["verification_requested"])),
        "sek_id": array(vector["sek_id"]),
        "sek": array(vector["sek"]),
        "ts_low": f"{vector['ts_low']}u",
        "ts_high": f"{vector['ts_high']}u",
        "key_data_type": "BCAST_LTKM_KEY_TYPE",
        "interval_length": "4",
        "has_management": str(int(vector["management_data"] is not None)),
        "idi": f"{{0, {len(idi) // 2}}}",
        "idr": f"{{{len(idi) // 2}, {len(idr) // 2}}}",
    }
    assert vector["management_data"] in (None, "00")
    return {
        "message": text(vector["message"]),
        "smk": text(vector["smk"]),
        "base": text(idi + idr),
        "fields": "{" + ", ".join(f".{key} = {value}" for key, value in fields.items()) + "}",
    }


def main() -> None:
    folder = Path(sys.argv[1])

    def load(name: str) -> Any:
        return json.loads((folder / f"{name}.json").read_text())

    smartcard, more = load("smartcard"), load("more")
    print("/* SPDX-License-Identifier: Apache-2.0 */")
    print("/* Made by make_vectors.py from the shared vector files.  Hexadecimal; NULL: not there. */\n")
    print("#ifndef BCAST_TEST_VECTORS_H\n#define BCAST_TEST_VECTORS_H\n\n#include <bcast.h>\n")
    print("struct drm_vector { const char *message, *partial, *sek, *sas, *pek, *pas, *base; bcast_drm_stkm fields; };")
    print("struct stkm_vector { const char *message, *sek, *csb_id, *rand; bcast_smartcard_stkm fields; };")
    print("struct partial_vector { const char *partial, *complete, *sek, *csb_id, *rand, *key_domain_id, *sek_id, *tek_id; };")
    print("struct ltkm_vector { const char *message, *smk, *base; bcast_smartcard_ltkm fields; };")
    print("struct verification_vector { const char *message, *smk, *rand, *idi; uint32_t reporting; };\n")
    table("struct drm_vector", "drm_vectors", [drm(v) for v in load("drm_stkm")["vectors"]])
    table("struct stkm_vector", "stkm_vectors", [stkm(v) for v in smartcard["stkm"]])
    table("struct stkm_vector", "opened_card_vectors", [stkm(v) for v in smartcard["card"]])
    names = ("partial", "complete", "sek", "csb_id", "rand", "key_domain_id", "sek_id", "tek_id")
    table("struct partial_vector", "partial_vectors", [{n: text(v[n]) for n in names} for v in more["smartcard_partial"]])
    table("struct ltkm_vector", "ltkm_vectors", [ltkm(v) for v in smartcard["ltkm"]])
    table(
        "struct verification_vector",
        "verification_vectors",
        [
            {
                **{n: text(v[n]) for n in ("message", "smk", "rand")},
                "idi": text(v["idi"].encode().hex()),
                "reporting": str(int(v["message"][4:6] == "15")),
            }
            for v in more["verification"]
        ],
    )
    named = load("named")["messages"]
    print("static const struct { const char *name, *message; } named_vectors[] = {")
    for name, message in named.items():
        if name.startswith("drm_stkm") or name[0] in "LSV":
            print(f'    {{"{name}", "{message}"}},')
    print("};\n")
    print("static const struct { const char *kind, *message; } card_vectors[] = {")
    for vector in load("card_messages")["vectors"]:
        print(f'    {{"{vector["kind"]}", "{vector["message"]}"}},')
    print("};\n\n#endif")


if __name__ == "__main__":
    main()
