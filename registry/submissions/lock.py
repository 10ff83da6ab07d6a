"""Seal cohorts and lock protocols: the things that are fixed before the first run.

Rules
-----
1. A cohort is proposed by its manifest: the server reads every object's digest from its own store
   before it writes the row, and never takes the caller's word. Two stewards lock it
   (`submissions.cohort_life`).
2. A binary question or a segmentation can be locked; the latter on a cohort of masks.
   A protocol is locked after the cohort it names, and the cohort must have the counts, the
   contract and the attributes that the protocol asks for; the models that it compares with must
   have run there (`submissions.comparators`).
3. Neither is ever changed. New content is a new version.
4. A development cohort is locked before its protocol too, was sealed for the same contract, and has
   enough cases that something may be shown. How far it is apart is in `submissions.apart`; that no
   cohort both gates and is for development, the database holds (0013_development.sql).
"""

import datetime as dt
import json
from typing import Any

from registry.database.record import Row
from registry.facility import Facility
from registry.identity.accounts import note
from registry.identity.caller import Caller
from registry.identity.policy import require
from registry.submissions.apart import compare_inputs, compare_patients
from registry.submissions.comparators import comparator_runs
from registry.submissions.near import near_versions
from registry.trust.canonical import canonical, sha256_bytes
from registry.trust.errors import NotFound, Refused, Tampered
from validators.cohort.fitting import check_attributes
from validators.cohort.manifest import Manifest, manifest_path, parse_manifest
from validators.cohort.verify import check_listed, verify
from validators.protocol.amendment import looser
from validators.protocol.read import check_counts, parse_protocol
from validators.protocol.schema import Protocol
from validators.table import asked_attributes


def propose_cohort(
    facility: Facility, caller: Caller, path: str, until: dt.date | None = None
) -> Row:
    """Put the cohort whose sealed objects and manifest lie in the store up for two signatures.

    `warnings` in what is given back: see `near_versions`.
    until: the day until which the store keeps it from everybody; the store's own days without.
    """
    require(caller, "cohort.lock")
    data = facility.store.get(path)
    manifest = parse_manifest(data)
    check_listed(manifest, facility.store.names(path.rpartition("/")[0]))
    verify(manifest, facility.store, None)
    with facility.record.transaction(caller) as now:
        now.do(
            "cohort_add",
            id=manifest.id,
            version=manifest.version,
            root=manifest.root,
            manifest_digest=sha256_bytes(data),
            manifest_path=path,
            title=manifest.title,
            positives=manifest.counts.positives,
            negatives=manifest.counts.negatives,
            patients=manifest.counts.patients,
            contract_digest=manifest.contract_digest,
            masks=bool(manifest.structures),
            locked_by=caller.person,
            until=until,
        )
        note(now, caller, "cohort-sealed", f"{manifest.id}/{manifest.version}",
             {"root": manifest.root})  # fmt: skip
        counts = manifest.counts.model_dump()
        near = near_versions(now, {"id": manifest.id, "version": manifest.version, **counts})
    if until is not None:
        keep(facility, manifest, until)
    return cohort(facility, caller, manifest.id, manifest.version) | {"warnings": near}


def keep(facility: Facility, manifest: Manifest, until: dt.date) -> None:
    """Have the store keep every object of the cohort from everybody until this day, or longer."""
    folder = manifest_path(manifest.id, manifest.version).rpartition("/")[0]
    for path in facility.store.list(folder):
        facility.store.keep(path, until)


def cohort(facility: Facility, caller: Caller, name: str, version: str | None = None) -> Row:
    """One locked cohort's row, the latest version unless one is named."""
    require(caller, "cohort.list")
    with facility.record.transaction(caller) as now:
        row = now.maybe("cohort_latest", id=name, version=version)
    if row is None:
        raise NotFound(f"there is no locked cohort {name!r}; see `touchstone cohort list`")
    return row


def cohorts(
    facility: Facility, caller: Caller, after: tuple[str, ...] | None = None, limit: int = 1000
) -> list[Row]:
    """Locked cohorts by name and age, those behind the place `after` (see `place`)."""
    require(caller, "cohort.list")
    with facility.record.transaction(caller) as now:
        return now.all("cohorts", **_behind(after), limit=limit)


def place(row: Row) -> tuple[str, ...]:
    """Where a cohort or protocol stands in its list."""
    return (row["id"], row["locked_at"].isoformat(), row["version"])


def _behind(after: tuple[str, ...] | None) -> Row:
    name, locked_at, version = after or (None, None, None)
    return {"after_id": name, "after_locked_at": locked_at, "after_version": version}


def load_manifest(facility: Facility, row: Row) -> Manifest:
    """The manifest of a locked cohort, checked against the digest in the record."""
    return parse_manifest(manifest_data(facility, row))


def manifest_data(facility: Facility, row: Row) -> bytes:
    """Its bytes, checked in the same way. Raises Tampered."""
    data = facility.store.get(row["manifest_path"])
    if sha256_bytes(data) != row["manifest_digest"]:
        raise Tampered(f"the manifest {row['manifest_path']} is not the one that was locked")
    return data


def other_versions(
    facility: Facility, caller: Caller | None, row: Row, until: dt.datetime | None = None
) -> list[Manifest]:
    """The manifests of the other locked versions of a submission's cohort, each checked.

    What is released of this version must not tell by subtraction who is in one and not in another.
    `until`: those locked by then, for what must come out the same when it is made again.
    """
    with facility.record.transaction(caller) as now:
        rows = now.all(
            "cohort_versions", id=row["cohort_id"], version=row["cohort_version"], until=until
        )
    return [load_manifest(facility, other) for other in rows]


def lock_protocol(facility: Facility, caller: Caller, body: Any) -> Protocol:
    """Lock a protocol; Conflict when its id and version are taken by another text."""
    require(caller, "protocol.lock")
    protocol = parse_protocol(body)
    if protocol.contract is None or protocol.cohort is None:
        raise Refused("a protocol that gates names its contract and its cohort")
    check_task(protocol)
    beside = _development(facility, caller, protocol)
    with facility.record.transaction(caller) as now:
        row = now.maybe("cohort_latest", id=protocol.cohort.id, version=protocol.cohort.version)
        if row is None:
            raise NotFound(
                f"the protocol names the cohort {protocol.cohort.id!r}, which is not locked; "
                "lock the cohort first"
            )
        check_fit(protocol, row)
        check_manifest(facility, protocol, row)
        comparator_runs(now, protocol, row["id"], row["version"])
        if now.maybe("protocol_by_digest", digest=protocol.digest) is None:
            if now.maybe("protocol_latest", id=protocol.id, version=protocol.version) is None:
                _check_amendment(now.maybe("protocol_exposed", id=protocol.id), protocol)
            now.do(
                "protocol_add",
                digest=protocol.digest,
                id=protocol.id,
                version=protocol.version,
                body=canonical(protocol.model_dump(mode="json")).decode(),
                attempts=protocol.attempts,
                locked_by=caller.person,
            )
            note(now, caller, "protocol-locked", f"{protocol.id}/{protocol.version}",
                 {"digest": protocol.digest, **beside})  # fmt: skip
    return protocol


def check_task(protocol: Protocol) -> None:
    """Raise Refused for a question that can't be run on a locked cohort."""
    if protocol.task == "segmentation":
        if protocol.contract is None or protocol.contract.reference is None:
            raise Refused(
                "a segmentation is run on a cohort whose reference standard is masks: say "
                "`reference:` in the contract, and seal a cohort for it"
            )
        if protocol.development_cohort is not None:
            raise Refused("a segmentation question has no development cohort yet; leave it out")
    elif protocol.task != "binary":
        raise Refused(
            f"a {protocol.task} question can't be run on a locked cohort yet, only binary ones and "
            "segmentations; score a table of its predictions with `touchstone assess`"
        )


def _development(facility: Facility, caller: Caller, protocol: Protocol) -> dict[str, object]:
    """What the log is to say of the development cohort; Refused where it is not fit to be one."""
    wanted = protocol.development_cohort
    if wanted is None or protocol.cohort is None:
        return {}
    with facility.record.transaction(caller) as now:
        if now.maybe("protocol_by_digest", digest=protocol.digest) is not None:
            return {}
    gating = cohort(facility, caller, protocol.cohort.id, protocol.cohort.version)
    development = cohort(facility, caller, wanted.id, wanted.version)
    check_contract(protocol, development)
    check_manifest(facility, protocol.for_development(), development)
    least = protocol.disclosure.minimum_group
    if min(development["positives"], development["negatives"]) < least:
        raise Refused(
            f"the development cohort {wanted.id} has fewer than {least} positives or negatives, so "
            "nothing of a run on it could be shown"
        )
    both = load_manifest(facility, gating), load_manifest(facility, development)
    return {
        "development": f"{wanted.id}/{development['version']}",
        "patients": compare_patients(facility, *both),
        "inputs": compare_inputs(facility, caller, *both),
    }


def _check_amendment(exposed: Row | None, protocol: Protocol) -> None:
    """Raise Refused where this version is looser than one that a model was already run under."""
    if exposed is None:
        return
    earlier = parse_protocol(json.loads(exposed["body"]))
    if found := looser(earlier, protocol):
        raise Refused(
            f"a model was run under version {earlier.version} of {protocol.id}, so a new version "
            f"may not ask for less: {'; '.join(found)}",
            code="looser_after_exposure",
        )


def check_fit(protocol: Protocol, cohort_row: Row) -> None:
    """Raise Refused unless the cohort has the counts and the contract that the protocol needs."""
    check_counts(protocol, cohort_row["positives"], cohort_row["negatives"])
    check_contract(protocol, cohort_row)


def check_contract(protocol: Protocol, cohort_row: Row) -> None:
    """Raise Refused unless the cohort was sealed for the protocol's contract."""
    if protocol.contract is None or protocol.contract.digest != cohort_row["contract_digest"]:
        raise Refused(
            f"the cohort {cohort_row['id']} was sealed for another contract than the protocol's"
        )


def check_manifest(facility: Facility, protocol: Protocol, cohort_row: Row) -> None:
    """Raise Refused unless the cohort has the attributes that the protocol names."""
    weighted = protocol.sampling is not None and protocol.sampling.weights is not None
    if asked_attributes(protocol) or protocol.further_columns or weighted:
        check_attributes(protocol, load_manifest(facility, cohort_row))


def protocol_row(facility: Facility, caller: Caller, name: str, version: str | None = None) -> Row:
    """One locked protocol by id (latest version) or digest."""
    require(caller, "protocol.read")
    with facility.record.transaction(caller) as now:
        row = now.maybe("protocol_latest", id=name, version=version)
    if row is None:
        raise NotFound(f"there is no locked protocol {name!r}; see `touchstone protocol list`")
    return row


def protocols(
    facility: Facility, caller: Caller, after: tuple[str, ...] | None = None, limit: int = 1000
) -> list[Row]:
    """Locked protocols without their texts, by name and age, those behind the place `after`."""
    require(caller, "protocol.read")
    with facility.record.transaction(caller) as now:
        return now.all("protocols", **_behind(after), limit=limit)
