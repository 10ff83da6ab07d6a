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
3. `report.json` and `report.html` appear whole or not at all; an earlier report is replaced.
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
from validators.evaluate import evaluate
from validators.evidence import Digests, Environment, Report
from validators.protocol.read import check_counts
from validators.protocol.schema import Protocol
from validators.report.build import build_report, code_digest, environment_digest, report_bytes
from validators.report.html import report_html
from validators.tables import read_cases

_PACKAGES = ("touchstone-tef", "numpy", "scipy", "scikit-learn", "pyarrow")


def assess(
    table_path: Path, protocol: Protocol, out: Path, columns: Mapping[str, str], warning: str = ""
) -> Report:
    """Score the table by the protocol and write `report.json` and `report.html` into `out`.

    `warning` stands above the page, and as the attribution of the data in both.

    `columns` maps `case`, `patient`, `reference`, `score`, `failure` and attributes (of other tasks
    what their reader reads) to the table's own column names. Raises Invalid for a table that breaks
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
    )
    write_files(
        out,
        {
            "report.html": report_html(report, warning).encode(),
            "report.json": report_bytes(report),
        },
    )
    return report


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
