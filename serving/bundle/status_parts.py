"""The parts of a status: read, held against the part that names them, and who signed them.

Rules
-----
1. A part is metadata of its own role, of a size that memory can bear, and is the very file that the
   part above it names by version and digest.
2. A machine's part has as many signatures as the part above it asks for.
3. A part of people is signed by two different names in certificates under the pinned root. A key
   has one name, its own digest, so that it can't count twice.
"""

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any

from cryptography import x509
from securesystemslib.exceptions import Error as SecureSystemsError
from securesystemslib.signer import Key
from tuf.api.exceptions import LengthOrHashMismatchError, RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, T, Targets
from tuf.api.serialization import DeserializationError

from registry.trust.errors import Refused, Tampered
from registry.trust.keys import check_leaf, signer_name
from registry.trust.status import PEOPLE_NEEDED, file_name, holder_certificate, is_well_named

LARGEST = 8 << 20
AGAIN = "fetch the status again, and tell the facility if it happens twice"


def read_part(kind: type[T], files: Mapping[str, bytes], name: str, what: str) -> Metadata[T]:
    """The file `name` as metadata of this kind. Raises Tampered (incomplete, malformed)."""
    if name not in files:
        raise incomplete(name)
    if len(files[name]) > LARGEST:
        raise malformed(what, f"it is larger than {LARGEST >> 20} MiB")
    try:
        metadata: Metadata[T] = Metadata.from_bytes(files[name])
        metadata.signed_bytes  # noqa: B018 - what has no canonical form is found here
    except (DeserializationError, RepositoryError, ValueError, RecursionError) as error:
        raise malformed(what, "it is not TUF metadata") from error
    if not isinstance(metadata.signed, kind):
        raise malformed(what, "it is metadata of another role")
    return metadata


def named_part(kind: type[T], files: Mapping[str, bytes], role: str, meta: MetaFile) -> Metadata[T]:
    """The part that the part above it names by version and digest."""
    name = file_name(role, meta.version)
    metadata = read_part(kind, files, name, role)
    if not meta.hashes:
        raise malformed("snapshot", f"it names {role} without a digest")
    try:
        meta.verify_length_and_hashes(files[name])
    except LengthOrHashMismatchError as error:
        raise Tampered(
            f"{name} is not the file that the rest of this status names, so parts of two were "
            f"mixed: {AGAIN}",
            code="status_mixed",
        ) from error
    if metadata.signed.version != meta.version:
        raise Tampered(
            f"{name} says to be version {metadata.signed.version}: {AGAIN}", code="status_mixed"
        )
    return metadata


def _signed_with(delegator: Root | Targets, role: str, metadata: Metadata[Any]) -> list[Key]:
    try:
        result = delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    except (ValueError, RepositoryError, SecureSystemsError) as error:
        raise malformed(role, "its signatures can't be read") from error
    if not result.signed:
        raise Tampered(
            f"the {role} of this status is signed by nobody who may sign it: {AGAIN}",
            code="status_bad_signature",
        )
    return list(result.signed.values())


def check_machine_signed(delegator: Root | Targets, role: str, metadata: Metadata[Any]) -> None:
    """Tampered (status_bad_signature) unless as many keys signed as `delegator` asks for."""
    needed = delegator.get_delegated_role(role).threshold
    if len(_signed_with(delegator, role, metadata)) < needed:
        raise Tampered(
            f"the {role} of this status lacks a signature: {AGAIN}", code="status_bad_signature"
        )


def two_people(
    delegator: Root,
    role: str,
    metadata: Metadata[Any],
    root: x509.Certificate,
    at: dt.datetime | None,
) -> list[tuple[str, str]]:
    """Who signed, by their certificates under the pinned root, valid at `at` if it is given."""
    keys = _signed_with(delegator, role, metadata)
    people: list[tuple[str, str]] = []
    for key in keys:
        leaf = holder_certificate(key)
        if leaf is None:
            continue
        try:
            check_leaf(leaf, root, at or leaf.not_valid_before_utc)
        except Refused:
            continue
        people.append(signer_name(leaf))
    needed = max(PEOPLE_NEEDED, delegator.roles[role].threshold)
    if len(people) >= needed and len(set(people)) < needed:
        raise Refused(
            f"one person signed the {role} of this status with several keys; {needed} different "
            "people are needed",
            code="status_one_person",
        )
    if len(set(people)) < needed:
        raise Refused(
            f"{len(set(people))} of {needed} people needed signed the {role} of this status with "
            "a key that stands under the pinned root",
            code="status_one_signer",
        )
    return sorted(set(people))


def check_key_names(keys: Mapping[str, Any], used: Iterable[str]) -> None:
    """Tampered (status_key_twice) where a key in use is not named by its digest."""
    for name in used:
        if name in keys and not is_well_named(keys[name]):
            raise Tampered(
                "a key of this status has another name than its own, by which it could count "
                "twice: tell the facility",
                code="status_key_twice",
            )


def incomplete(what: str) -> Tampered:
    """What is raised where `what` is not among the files."""
    return Tampered(
        f"this status lacks {what}: fetch it again, or copy the whole folder",
        code="status_incomplete",
    )


def malformed(what: str, why: str) -> Tampered:
    """What is raised where `what` is not what it must be."""
    return Tampered(f"the {what} of this status can't be read: {why}", code="status_malformed")
