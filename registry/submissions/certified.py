"""What a hospital pulls: the files of a certified model, by name; by MLflow, the model alone.

Rules
-----
1. Only a certificate in force is pulled; an expired or revoked one is not found.
2. A name that two organisations certified must be asked for as ORGANISATION/NAME.
3. Who pulls, or resolves `clinical-pilot` by MLflow, is in the log before the answer. What
   happens to the certificate later is told to that hospital.
4. The list gives each file's digest and size, so that a download can be resumed and checked.
   The hospital trusts the certificate, not this list.
"""

from typing import Any, BinaryIO

from registry.audit.certificate_proof import certificate_proof
from registry.database.record import Row
from registry.facility import Facility
from registry.identity.accounts import note
from registry.identity.caller import Caller
from registry.identity.policy import require
from registry.submissions import places
from registry.trust.canonical import canonical, sha256_bytes
from registry.trust.certificate import parse_statement
from registry.trust.dsse import payload_of
from registry.trust.errors import Conflict, NotFound
from serving.bundle.layout import MODEL_PREFIX, UNSIGNED, model_names


def find(facility: Facility, caller: Caller, name: str) -> Row:
    """The certificate in force of a model; the latest where a model has several versions."""
    require(caller, "certified.pull")
    organisation, _, model = name.rpartition("/")
    with facility.record.transaction(caller) as now:
        rows = now.all("certificates_in_force", model_name=model, organisation=organisation or None)
    owners = sorted({row["organisation"] for row in rows})
    if not rows:
        raise NotFound(f"no model {name!r} is certified for clinical pilot at present")
    if len(owners) > 1:
        raise Conflict(
            f"{name!r} is certified for {', '.join(owners)}: ask by "
            f"`touchstone pull ORGANISATION/{name}`"
        )
    return rows[0]


def listing(facility: Facility, caller: Caller, name: str) -> dict[str, Any]:
    """Every file of the bundle with digest and size, and what it certifies."""
    row = find(facility, caller, name)
    files = {
        path: {"digest": sha256_bytes(data), "size": len(data)}
        for path, data in _signature_files(facility, row).items()
    }
    prefix = places.bundle(str(row["submission"]))
    for path in facility.store.list(prefix):
        data = facility.store.get(path)
        files[path.removeprefix(prefix)] = {"digest": sha256_bytes(data), "size": len(data)}
    note_pulled(facility, caller, row)
    return {
        "submission": str(row["submission"]),
        "organisation": row["organisation"],
        "model": row["model_name"],
        "version": row["model_version"],
        "not_after": row["not_after"].isoformat(),
        "files": dict(sorted(files.items())),
    }


def note_pulled(facility: Facility, caller: Caller, row: Row, **how: str) -> None:
    """Log that the caller gets what is certified in `row`."""
    detail: dict[str, object] = {"model": row["model_name"], **how}
    with facility.record.transaction(caller) as now:
        note(now, caller, "bundle-pulled", str(row["submission"]), detail)


def check_noted(facility: Facility, caller: Caller, row: Row) -> None:
    """Raise NotFound unless the log knows that the caller's hospital gets what `row` certifies."""
    with facility.record.transaction(caller) as now:
        known = now.one(
            "bundle_was_pulled",
            submission=str(row["submission"]),
            organisation=caller.organisation,
        )
    if not known["pulled"]:
        raise NotFound(f"begin with models:/{row['model_name']}@clinical-pilot, which is logged")


def model_files(row: Row) -> dict[str, str]:
    """{name of a model's file: its digest}, as the certificate in `row` has it."""
    subjects, _ = parse_statement(payload_of(row["envelope"]))
    return {name: subjects[path] for name, path in model_names(subjects).items()}


def model_size(facility: Facility, row: Row, name: str) -> int:
    """The size in bytes of a model's file; NotFound without one."""
    return facility.store.size(_model_path(row, name))


def open_model(facility: Facility, row: Row, name: str) -> BinaryIO:
    """A model's file as it lies in the store, unchecked; NotFound without one."""
    return facility.store.open(_model_path(row, name))


def _model_path(row: Row, name: str) -> str:
    return places.bundle(str(row["submission"])) + MODEL_PREFIX + name


def read_file(facility: Facility, caller: Caller, name: str, path: str) -> bytes:
    """One file of the bundle."""
    row = find(facility, caller, name)
    if path in UNSIGNED:
        return _signature_files(facility, row)[path]
    return facility.store.get(places.bundle(str(row["submission"])) + path)


def _signature_files(facility: Facility, row: Row) -> dict[str, bytes]:
    return {
        "certificate.json": canonical(row["envelope"]),
        "signers.pem": row["signers"].encode(),
        "enrolments.json": row["enrolments"].encode(),
        "log.json": certificate_proof(facility, row),
    }
