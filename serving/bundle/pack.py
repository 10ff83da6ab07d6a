"""Putting a bundle together, before anyone signs, and onto a disk, complete or not at all.

    files = bundle_files(model_files=…, contract=…, protocol=…, report=…, label=…, golden=…)
    statement = new_statement(subjects(files), predicate)      # two assessors sign this
    write_bundle(files | {"certificate.json": …, "signers.pem": …}, Path("nodules-3"))

Rules
-----
1. Packing changes no byte: what is certified is what was given.
2. A bundle on disk is complete, written through to the disk, or absent. Nothing is overwritten.
"""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from registry.trust.canonical import parse_canonical, sha256_bytes
from registry.trust.errors import Conflict, Invalid, Refused, Unavailable
from serving.bundle.download import download
from serving.bundle.files import settle
from serving.bundle.layout import (
    CARD,
    CONTRACT,
    DOCUMENTS,
    GOLDEN_EXPECTED,
    GOLDEN_INPUTS,
    GOLDEN_MAPS,
    GOLDEN_RAW,
    LABEL,
    MODEL_PREFIX,
    PROTOCOL,
    RELEASED_REPORT,
    REPORT,
    REPORT_PDF,
    UNSIGNED,
    check_paths,
    check_subjects,
)

__all__ = ["bundle_files", "download", "subjects", "write_bundle"]

_GOLDEN = {GOLDEN_INPUTS, GOLDEN_EXPECTED, GOLDEN_MAPS}
_BEGINS = {REPORT_PDF: b"%PDF-", CARD: b"<?xml"}


def bundle_files(
    *,
    model_files: Mapping[str, bytes],
    contract: bytes,
    protocol: bytes,
    report: bytes,
    label: str | bytes,
    golden: Mapping[str, bytes],
    documents: Mapping[str, bytes] = MappingProxyType({}),
) -> dict[str, bytes]:
    """Every file that is signed over, by its path.

    `contract`, `protocol` and `report` (the released form) are canonical JSON; `golden` is what
    `golden.record` gave; `documents` are further ones by their names (`layout.DOCUMENTS`). Raises
    Invalid or Refused when something is not what a bundle holds.
    """
    further = {path for path in golden if not path.startswith(GOLDEN_RAW)}
    if not {GOLDEN_INPUTS, GOLDEN_EXPECTED} <= further <= _GOLDEN:
        raise Invalid("the golden vectors are the files that golden.record gives")
    given = {CONTRACT: contract, PROTOCOL: protocol, REPORT: report}
    for name, data in given.items():
        if not isinstance(parse_canonical(data), dict):
            raise Invalid(f"{name} must hold a JSON object")
    if parse_canonical(report).get("schema_id") != RELEASED_REPORT:
        raise Refused("only a report in its released form may leave the facility in a bundle")
    for name, data in documents.items():
        _check_document(name, data)
    files = {
        **given,
        **documents,
        LABEL: label.encode() if isinstance(label, str) else label,
        **golden,
        **{MODEL_PREFIX + name: data for name, data in model_files.items()},
    }
    check_subjects(files)
    return files


def _check_document(name: str, data: bytes) -> None:
    if name not in DOCUMENTS:
        raise Invalid(f"{name[:80]!a} is none of the documents that a bundle holds")
    if name.endswith(".json"):
        if not isinstance(parse_canonical(data), dict):
            raise Invalid(f"{name} must hold a JSON object")
    elif not data.startswith(_BEGINS[name]):
        raise Invalid(f"{name} must hold {'a PDF' if name == REPORT_PDF else 'an XML'} document")


def subjects(files: Mapping[str, bytes]) -> dict[str, str]:
    """{path: digest} of what the certificate signs over: all but the signatures themselves."""
    signed = {path: sha256_bytes(data) for path, data in files.items() if path not in UNSIGNED}
    check_subjects(signed)
    return signed


def write_bundle(files: Mapping[str, bytes], directory: Path) -> Path:
    """Write `files` as a new directory; returns it. Conflict when the directory exists."""
    check_paths(files)
    if os.path.lexists(directory):
        raise Conflict(f"{directory} exists already: choose another place", code="target_exists")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
        partial.chmod(0o755)  # mkdtemp's 0700 would keep the server's own user out
        try:
            for path, data in files.items():
                (partial / path).parent.mkdir(parents=True, exist_ok=True)
                with (partial / path).open("xb") as stream:
                    stream.write(data)
            settle(partial, directory)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    except OSError as error:
        raise Unavailable(
            f"{directory} could not be written ({error.strerror}); nothing was left behind",
            code="not_written",
        ) from error
    return directory
