"""The cohort against what a model's maker declared, in the process that scores.

Evidently's page shows single patients and holds fresh identifiers: it is for the facility's people,
is made once, and nothing depends on it.
"""

import sys
from typing import Any

from registry.trust.errors import Unavailable
from validators.declaration import Declaration
from validators.drift.evidence import DriftEvidence
from validators.protocol.schema import Protocol


def compared(
    protocol: Protocol, declaration: Declaration | None, reference: Any, *, page: bool
) -> tuple[DriftEvidence | None, bytes | None]:
    """(aggregates, the page), each None where it is not asked for or can't be made."""
    if protocol.drift is None or declaration is None or declaration.development is None:
        return None, None
    from validators.drift.columns import asked_drift, patient_columns

    declared = declaration.development
    attributes = {name: reference[name].to_pylist() for name in reference.column_names}
    columns = patient_columns(declared, reference["patient"].to_pylist(), attributes)
    made = _page(declared, columns) if page and columns else None
    return asked_drift(protocol, declared, columns), made


def _page(declared: Any, columns: Any) -> bytes | None:
    from validators.drift.facility import evidently_report, expanded

    try:
        return evidently_report(expanded(declared), columns).html
    except Unavailable:
        return None  # Evidently is not installed here
    except Exception as error:  # noqa: BLE001 - the page decides nothing, and ends nothing
        print(f"no drift page: {type(error).__name__}", file=sys.stderr)
        return None
