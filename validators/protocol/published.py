"""The published JSON Schema of a protocol, made of the model that reads it.

    $ python -m validators.protocol.published        # writes protocol.schema.json beside this

An editor that knows JSON Schema completes and checks a protocol with it. What a schema can't say
(that a gating endpoint has a goal, that two rules differ) the model says when it reads the file.
A test fails when the file is not current.
"""

import json
from pathlib import Path
from typing import Any

from validators.protocol.schema import Protocol

SCHEMA_FILE = Path(__file__).parent / "protocol.schema.json"
SCHEMA_ID = "urn:touchstone:protocol:v1"


def protocol_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a protocol file."""
    made = Protocol.model_json_schema(mode="validation")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        **made,
    }


def schema_text() -> str:
    """What the published file must hold."""
    return json.dumps(protocol_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA_FILE.write_text(schema_text(), encoding="utf-8")
