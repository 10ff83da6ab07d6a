"""What lies in a bundle, under which names, and how its files are read.

    certificate.json        the DSSE envelope with the two assessors' signatures
    signers.pem             their certificates
    enrolments.json         the statements by which two others enrolled their keys
    log.json                the proof that the facility's log took the certificate in
    contract.json           the model's inputs and outputs
    protocol.json           what was fixed before the run
    report.json             the released form of the report
    model-label.txt         one page for people
    report.pdf              the same report for people, as PDF/A-2b
    model-card.xml          the CHAI Applied Model Card
    ml-bom.json             the model, its data and results, as CycloneDX 1.6
    sbom.json               the software that ran it at the facility, as CycloneDX 1.6
    reference-summary.json  what the model saw and said on the cohort, as shares
    model/model.onnx        the model, and at most one model/<name>.data
    golden/inputs.bin       made-up inputs, and in golden/expected.json what they must give
    golden/maps.bin         the maps of labels that they must give, where the score is one
    golden/raw/             made-up images as DICOM or PNG, where the contract begins at images

Rules
-----
1. The certificate's subjects are every file but the first four, which carry signatures.
2. A name is plain: ASCII, relative, no `..`, nothing hidden, no two alike but for their case.
3. A file is regular and has one name: no link of either kind (see `files`).
4. Older bundles lack the documents from report.pdf to reference-summary.json.
"""

import re
from collections.abc import Iterable

from registry.trust.errors import Invalid
from registry.trust.model_files import check_names

CERTIFICATE = "certificate.json"
SIGNERS = "signers.pem"
ENROLMENTS = "enrolments.json"
LOG = "log.json"
CONTRACT = "contract.json"
PROTOCOL = "protocol.json"
REPORT = "report.json"
LABEL = "model-label.txt"
REPORT_PDF = "report.pdf"
CARD = "model-card.xml"
ML_BOM = "ml-bom.json"
SBOM = "sbom.json"
REFERENCE_SUMMARY = "reference-summary.json"
MODEL_PREFIX = "model/"
GOLDEN_INPUTS = "golden/inputs.bin"
GOLDEN_EXPECTED = "golden/expected.json"
GOLDEN_MAPS = "golden/maps.bin"
GOLDEN_RAW = "golden/raw/"
GOLDEN_RAW_MAPS = "golden/raw/maps.bin"

RELEASED_REPORT = "touchstone/released-report/v1"
"""The form of report that may leave the facility (`validators.report.disclosure`)."""

UNSIGNED = frozenset({CERTIFICATE, SIGNERS, ENROLMENTS, LOG})
DOCUMENTS = frozenset({REPORT_PDF, CARD, ML_BOM, SBOM, REFERENCE_SUMMARY})
"""What a bundle may hold beside what it must."""
REQUIRED = frozenset({CONTRACT, PROTOCOL, REPORT, LABEL, GOLDEN_INPUTS, GOLDEN_EXPECTED})
MAXIMUM_FILES = 1000
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z", re.ASCII)
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?\Z", re.ASCII | re.IGNORECASE)
"""Names that Windows does not take for files."""


def check_path(path: str) -> None:
    """Raise Invalid unless `path` is a plain relative path with `/` between its parts."""
    segments = path.split("/")
    if len(segments) > 8 or not all(
        _SEGMENT.match(part) and not part.endswith(".") and not _DEVICES.match(part)
        for part in segments
    ):
        raise Invalid(f"{path[:80]!a} is not a name that a bundle may use", code="unsafe_name")


def check_paths(paths: Iterable[str]) -> None:
    """Raise Invalid unless all `paths` are plain and can lie in one directory on any system."""
    seen: dict[str, str] = {}
    directories: set[str] = set()
    for count, path in enumerate(sorted(paths), 1):
        if count > MAXIMUM_FILES:
            raise Invalid(f"a bundle has at most {MAXIMUM_FILES} files", code="too_many_files")
        check_path(path)
        folded = path.lower()
        if folded in seen:
            raise Invalid(
                f"{path} and {seen[folded]} differ only in upper and lower case",
                code="name_collision",
            )
        seen[folded] = path
        parts = folded.split("/")
        directories |= {"/".join(parts[:depth]) for depth in range(1, len(parts))}
    for name in sorted(directories & set(seen)):
        raise Invalid(f"{name} is both a file and a directory", code="name_collision")


def check_subjects(paths: Iterable[str]) -> None:
    """Raise Invalid or Refused unless `paths` can be the subjects of a bundle's certificate."""
    names = set(paths)
    check_paths(names)
    if signed := sorted(names & UNSIGNED):
        raise Invalid(f"{signed[0]} carries signatures and can't be signed over", code="layout")
    if missing := sorted(REQUIRED - names):
        raise Invalid(f"a bundle needs {missing[0]}, which is not among its files", code="layout")
    check_names(model_names(names))


def model_names(paths: Iterable[str]) -> dict[str, str]:
    """{name of a model's file: its path in the bundle}."""
    return {
        path.removeprefix(MODEL_PREFIX): path for path in paths if path.startswith(MODEL_PREFIX)
    }
