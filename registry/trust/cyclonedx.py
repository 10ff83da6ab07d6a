"""The envelope that our CycloneDX documents share, written as plain JSON.

    >>> enveloped({"metadata": {"timestamp": timestamp(issued)}, "components": []})["specVersion"]
    '1.6'

Rules
-----
1. The serial number is made of what the document says (UUID version 8, RFC 9562): the same content
   has the same number, on every machine and at any time.
2. Written by hand, because the usual library for CycloneDX drops a model card when it reads one.
"""

import datetime as dt
import uuid
from collections.abc import Mapping
from typing import Any

from registry.trust.canonical import digest_of, hex_of

SPECIFICATION = "1.6"
Json = dict[str, Any]


def enveloped(body: Mapping[str, Any]) -> Json:
    """`body` as a CycloneDX document whose serial number follows from what it says."""
    return {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPECIFICATION}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPECIFICATION,
        "serialNumber": f"urn:uuid:{_uuid(digest_of(dict(body)))}",
        "version": 1,
        **body,
    }


def timestamp(at: dt.datetime) -> str:
    """A moment as CycloneDX writes it."""
    return f"{at.astimezone(dt.UTC):%Y-%m-%dT%H:%M:%SZ}"


def properties(values: Mapping[str, Any]) -> list[dict[str, str]]:
    """Named values of our own; what is None is left out."""
    return [
        {"name": f"touchstone:{name}", "value": str(value)}
        for name, value in values.items()
        if value is not None
    ]


def _uuid(digest: str) -> uuid.UUID:
    data = bytearray(bytes.fromhex(hex_of(digest))[:16])
    data[6] = data[6] & 0x0F | 0x80  # version 8: made by the maker's own rule
    data[8] = data[8] & 0x3F | 0x80
    return uuid.UUID(bytes=bytes(data))
