"""Raw predictions between the runs, which write them, and the assess step, which reads them.

The files never leave the facility, and only the assess step joins them to the reference standard.

Rules
-----
1. A file is read by the digest that its run wrote down; another file in its place is Tampered.
2. Every file has exactly the cases of the cohort. They are joined by case, never by position.
3. Readers' ratings and sampling weights are attributes of the sealed cohort, which holds text:
   that they are numbers was checked when the protocol was locked.
"""

import io
from collections.abc import Iterable, Mapping
from typing import Any

from registry.facility import Facility
from registry.submissions import places
from registry.trust.canonical import sha256_bytes
from registry.trust.errors import Tampered
from validators.cases import CaseTable
from validators.protocol.schema import Protocol

_KNOWN = ("case", "patient", "reference")


def stored_predictions(facility: Facility, submission: str, digest: str, run: str = "") -> bytes:
    """The file of a run; Tampered unless it is the one that the run wrote down."""
    place = (
        places.perturbed_predictions(submission, run, digest)
        if run
        else places.predictions(submission)
    )
    data = facility.store.get(place)
    if sha256_bytes(data) != digest:
        which = f"the run under {run}" if run else "the run"
        raise Tampered(f"the stored predictions are not those of {which}")
    return data


def case_table(
    predictions: bytes,
    reference: Any,
    protocol: Protocol,
    manifest: Any,
    further: Mapping[str, bytes] | None = None,
) -> CaseTable:
    """Predictions joined to the reference standard, case by case; Tampered unless they match.

    `further`: files of others' or perturbed predictions of the same cases, by name.
    """
    import numpy as np

    from validators.parquet import table_of

    cases = reference["case"].to_pylist()
    score = _scores(predictions, cases)
    scored = table_of(predictions, ["failure"])
    failures = [code for code in scored["failure"].to_pylist() if code]
    weights = protocol.sampling.weights if protocol.sampling else None
    readers = [n for n in protocol.further_columns if n in reference.column_names]
    numbers = {*readers, *([weights] if weights else [])}
    return CaseTable(
        reference=reference["reference"].to_numpy().astype(np.int8),
        score=score,
        patient=patient_codes(reference) if protocol.cluster else None,
        attributes={
            name: np.array(reference[name].to_pylist(), dtype=str)
            for name in reference.column_names
            if name not in _KNOWN and name not in numbers
        },
        failed_by_code={code: failures.count(code) for code in sorted(set(failures))},
        excluded=dict(manifest.case_flow),
        further={name: _scores(data, cases) for name, data in (further or {}).items()}
        | {name: _numbers(reference, name) for name in readers},
        weight=_numbers(reference, weights) if weights else None,
    )


def patient_codes(reference: Any) -> Any:
    """A whole number for each case's patient."""
    import numpy as np

    patients = reference["patient"].to_pylist()
    codes = {patient: i for i, patient in enumerate(sorted(set(patients)))}
    return np.array([codes[patient] for patient in patients])


def cases_of(predictions: bytes) -> list[str]:
    """The cases of a file, in its order."""
    from validators.parquet import table_of

    return list(table_of(predictions, ["case"])["case"].to_pylist())


def predictions_file(cases: Any, scores: Any, failures: Any) -> bytes:
    """Parquet of case, score, failure; in the order of the case ids, so that bytes repeat."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "case": pa.array(cases, pa.string()),
            "score": np.asarray(scores, dtype=np.float64),
            "failure": pc.fill_null(pa.array(failures, pa.string()), ""),
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table.take(pc.sort_indices(table["case"])), buffer, compression="zstd")
    return buffer.getvalue()


def answers_in(files: Iterable[bytes]) -> tuple[tuple[str, ...], Any, tuple[str | None, ...]]:
    """Cases, scores and failures (None where there is none) of several files, one after another."""
    import pyarrow as pa

    from validators.parquet import table_of

    table = pa.concat_tables(table_of(data) for data in files)
    failures = (code or None for code in table["failure"].to_pylist())
    return tuple(table["case"].to_pylist()), table["score"].to_numpy(), tuple(failures)


def _scores(predictions: bytes, cases: list[str]) -> Any:
    """The scores of a file in the order of `cases`, NaN where a prediction failed."""
    import numpy as np

    from validators.parquet import table_of

    found = table_of(predictions, ["case", "score"])
    position = {case: i for i, case in enumerate(found["case"].to_pylist())}
    if len(position) != len(cases) or set(position) != set(cases):
        raise Tampered("the predictions are not of the cases of this cohort")
    order = np.array([position[case] for case in cases])
    return found["score"].to_numpy(zero_copy_only=False)[order].astype(np.float64)


def _numbers(reference: Any, name: str) -> Any:
    import numpy as np

    from validators.numbers import number_in

    values = [number_in(text) for text in reference[name].to_pylist()]
    if None in values:
        raise Tampered(f"the attribute {name} of the cohort is not of numbers any more")
    return np.array(values, dtype=np.float64)
