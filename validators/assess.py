"""The validators alone: a table of predictions and a protocol in, a report out. No server.

    >>> report = assess(Path("predictions.csv"), read_protocol(Path("protocol.yaml")),
    ...                 Path("out"), {"score": "adae_score"})
    >>> report.verdict.overall
    'insufficient_evidence'

Rules
-----
1. The numbers are those that a facility would compute from the same predictions.
2. It certifies nothing: nobody saw the predictions being made. The report says so, and names no
   model and no cohort.
3. A declaration's attributes are read where the table has columns of those names; a patient (a
   case, where there is no column `patient`) is described by its first row.
4. `report.json` and `report.html` appear whole or not at all; an earlier report is replaced.
"""

import os
import platform
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from registry.trust.canonical import sha256_file
from registry.trust.errors import Invalid, Unavailable
from validators.cases import CaseTable
from validators.declaration import Declaration
from validators.drift.columns import asked_drift, patient_columns
from validators.drift.evidence import DriftEvidence
from validators.evaluate import evaluate
from validators.evidence import Digests, Environment, Report
from validators.protocol.read import check_counts
from validators.protocol.schema import Protocol
from validators.report.build import build_report, code_digest, environment_digest, report_bytes
from validators.report.html import report_html
from validators.table_file import open_table
from validators.tables import read_cases

_PACKAGES = ("touchstone-tef", "numpy", "scipy", "scikit-learn", "pyarrow")


def assess(
    table_path: Path,
    protocol: Protocol,
    out: Path,
    columns: Mapping[str, str],
    declaration: Declaration | None = None,
    warning: str = "",
) -> Report:
    """Score the table by the protocol and write `report.json` and `report.html` into `out`.

    `warning` stands above the page, and as the attribution of the data in both.

    `columns` maps `case`, `patient`, `reference`, `score`, `failure` and attributes (of other tasks
    what their reader reads) to the table's own column names. `declaration`: what a protocol with
    `drift` holds the table's patients against. Raises Invalid for a table that breaks
    the rules of its reader, Refused where it has fewer cases than the protocol needs, Unavailable
    where the files can't be written.
    """
    table = read_cases(table_path, protocol, columns)
    if isinstance(table, CaseTable):
        positives = int(table.positive.sum())
        check_counts(protocol, positives, table.n - positives)
    environment = Environment(versions=_versions())
    report = build_report(
        evaluate(table, protocol),
        protocol,
        Digests(
            model=None,
            protocol=protocol.digest,
            cohort_root=None,
            predictions=sha256_file(table_path),
            code=code_digest(),
            environment=environment_digest(environment),
        ),
        environment,
        attribution=warning,
        drift=_drift(table_path, protocol, columns, declaration),
    )
    write_files(
        out,
        {
            "report.html": report_html(report, warning).encode(),
            "report.json": report_bytes(report),
        },
    )
    return report


def _drift(
    path: Path, protocol: Protocol, columns: Mapping[str, str], declaration: Declaration | None
) -> DriftEvidence | None:
    if protocol.drift is None or declaration is None or declaration.development is None:
        return None
    declared = declaration.development
    file = open_table(path)
    names = ["case", "patient", *(of.attribute for of in declared.attributes)]
    wanted = {name: columns.get(name, name) for name in dict.fromkeys(names)}
    texts = {
        name: data.to_pylist()
        for name, data in file.read(
            {name: column for name, column in wanted.items() if column in file.names}
        ).items()
    }
    patients = texts.get("patient", texts.get("case"))
    return asked_drift(protocol, declared, patient_columns(declared, patients, texts))


def write_files(directory: Path, files: Mapping[str, bytes], mode: int = 0o644) -> None:
    """Write `files` into `directory`, made if need be: all are on the disk before one is named.

    Raises Invalid when `directory` is a file, Unavailable when the disk is full or not ours.
    """
    if directory.exists() and not directory.is_dir():
        raise Invalid(f"--out {directory} is a file; name a directory")
    waiting: dict[Path, Path] = {}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            handle, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=directory)
            waiting[Path(temporary)] = directory / name
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
        for path, final in waiting.items():
            path.chmod(mode)
            path.replace(final)
    except OSError as error:
        raise Unavailable(
            f"the report can't be written to {directory}: {error.strerror}"
        ) from error
    finally:
        for path in waiting:
            path.unlink(missing_ok=True)


def _versions() -> dict[str, str]:
    """What computed the numbers; a package that runs from its sources has no version."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
