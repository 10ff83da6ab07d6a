"""The published JSON Schema of the certificate's predicate, made of the model that reads it.

    $ python -m registry.trust.published        # writes docs/validation-certificate.schema.json

What a schema can't say (that the verdict follows from the numbers, that a conditional certificate
has conditions) `registry.trust.certificate` says when it reads one. A test fails when the file is
not current.
"""

import json
from pathlib import Path
from typing import Any

from registry.trust.certificate import PREDICATE, Predicate

SCHEMA_FILE = Path(__file__).parents[2] / "docs" / "validation-certificate.schema.json"


def predicate_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the predicate."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": PREDICATE,
        **Predicate.model_json_schema(mode="serialization"),
    }


def schema_text() -> str:
    """What the published file must hold."""
    return json.dumps(predicate_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA_FILE.write_text(schema_text(), encoding="utf-8")
