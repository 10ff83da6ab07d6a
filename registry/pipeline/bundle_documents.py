"""The documents of a bundle beside what it must hold: report.pdf, card, both lists of material, and
the shares that drift is measured against.

Rules
-----
1. All but `sbom.json` follow from the report and what was locked: the same when made again.
2. `sbom.json` lists the software of the host that prepares, with the versions that the evidence
   says ran (`serving.bundle.sbom`).
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import registry
from registry.submissions.lock import load_manifest
from registry.trust.canonical import canonical, sha256_bytes
from serving.bundle.layout import CARD, ML_BOM, REFERENCE_SUMMARY, REPORT_PDF, SBOM
from serving.bundle.sbom import runtime, runtime_sbom
from validators.cohort.manifest import Manifest
from validators.evidence import Report
from validators.report.card import applied_model_card, card_xml
from validators.report.disclosure import release
from validators.report.ml_bom import NamedCohort, NamedModel, ml_bom
from validators.report.pdf import NamedRun, report_pdf

if TYPE_CHECKING:
    from registry.pipeline.work import Work

US = "touchstone-tef"


def documents(
    work: "Work",
    report: Report,
    released: Mapping[str, Any],
    others: Sequence[Manifest],
    model_files: Mapping[str, bytes],
    issued: dt.datetime,
    not_after: dt.datetime,
) -> dict[str, bytes]:
    """The further documents of a certified model's bundle, by their names in it."""
    row = work.row
    facility = work.facility.root.subject.rfc4514_string()
    manifest = load_manifest(work.facility, row)
    return {
        REPORT_PDF: report_pdf(
            released,
            NamedRun(f"{row['organisation']}/{row['model_name']} {row['model_version']}", facility),
            issued,
            not_after,
        ),
        CARD: card_xml(
            applied_model_card(
                released,
                model=row["model_name"],
                version=str(row["model_version"]),
                developer=row["organisation"],
                issued=issued,
                not_after=not_after,
            )
        ),
        ML_BOM: canonical(
            ml_bom(
                released,
                work.contract,
                model=NamedModel(
                    row["organisation"],
                    row["model_name"],
                    row["model_version"],
                    {name: sha256_bytes(data) for name, data in model_files.items()},
                ),
                cohort=NamedCohort(manifest.id, manifest.version, manifest.licence),
                issued=issued,
                tool=version(US),
            )
        ),
        SBOM: canonical(
            runtime_sbom(
                runtime(US),
                ran=report.environment.versions,
                issued=issued,
                lock=_lock(report),
                code=report.digests.code,
            )
        ),
        REFERENCE_SUMMARY: canonical(
            release(
                report, "monitoring", work.protocol.disclosure, others, score=work.contract.score
            )
        ),
    }


def _lock(report: Report) -> str:
    """The lock of the checkout that this runs from; empty where it was installed from a wheel."""
    name = "gpu.lock" if "CUDAExecutionProvider" in report.environment.providers else "cpu.lock"
    place = Path(registry.__file__).parents[1] / "requirements" / name
    return place.read_text(encoding="utf-8") if place.is_file() else ""
