"""The forms of the facility's status: TUF metadata (specification 1.0), as plain files.

    1.root.json, 2.root.json, …   who may sign what: signed by two holders of the status' root
    1.root.dsse.json              the first of them, signed by the key of the pinned X.509 root
    N.targets.json                the certificates in force: signed by two assessors
    N.downgrade.json              those that were stopped: signed by a machine
    N.snapshot.json, timestamp.json   which of these belong together, and since when: by a machine

Rules
-----
1. A certificate is in force when `targets` lists the digest of its signed statement and
   `downgrade` does not stop it later than `targets` lifts. A stop is named by its moment.
2. So the machine's key can stop every certificate and can't make, bring back or prolong one.
3. A person's key carries that person's certificate under the X.509 root, so that two key files of
   one person are one person; a key is named by the digest of itself, so that it has one name.
4. Dates are the roles' own: no signer can give a role more days than stand here.
"""

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)
from securesystemslib.signer import Key, Signature, SSlibKey
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Role,
    Root,
    Snapshot,
    T,
    TargetFile,
    Targets,
    Timestamp,
)

from registry.trust.canonical import hex_of, sha256_bytes
from registry.trust.dsse import Envelope, add_signature, unsigned
from registry.trust.errors import Invalid
from registry.trust.keys import parse_certificate, pem_of
from registry.trust.signer import Signer

ENDORSEMENT = "1.root.dsse.json"
ENDORSEMENT_TYPE = "application/vnd.touchstone.status-root.v1+json"
TIMESTAMP = "timestamp.json"
DOWNGRADE = "downgrade"
PEOPLE_NEEDED = 2
"""Different people behind the root and behind the list of certificates in force."""

DAYS = {"root": 365, "targets": 90, "snapshot": 30, DOWNGRADE: 30, "timestamp": 7}
"""The most that each role's signature is good for."""

HARD_DAYS = 90
"""No hospital's grace reaches further than this from the last renewal."""

_STATEMENTS, _STOPPED, _PERSON = "statements/", "stopped/", "x-touchstone-certificate"


@dataclass(frozen=True)
class Listed:
    """A certificate in force: the length of its statement, and up to when stops are lifted."""

    length: int
    lifts: str | None = None


@dataclass(frozen=True)
class Stop:
    """A certificate that was stopped: `suspended` or `revoked`, at a moment, for a reason."""

    state: Literal["suspended", "revoked"]
    since: str
    reason: str


def person_key(certificate: x509.Certificate) -> SSlibKey:
    """A person's key with the certificate that says whose it is."""
    key = machine_key(_elliptic(certificate.public_key()))
    key.unrecognized_fields[_PERSON] = pem_of(certificate).decode()
    return key


def machine_key(public: ec.EllipticCurvePublicKey) -> SSlibKey:
    """A key of no person, named by the digest of itself."""
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    return SSlibKey(key_name(public), "ecdsa", "ecdsa-sha2-nistp256", {"public": pem})


def key_name(public: ec.EllipticCurvePublicKey) -> str:
    """The hex digest of the public key (SubjectPublicKeyInfo, DER)."""
    return hex_of(
        sha256_bytes(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    )


def holder_certificate(key: Key) -> x509.Certificate | None:
    """The certificate of the person whose key this is; None for a machine's or a false one."""
    pem = key.unrecognized_fields.get(_PERSON)
    if not isinstance(pem, str):
        return None
    try:
        certificate = parse_certificate(pem.encode())
        return certificate if key_name(_elliptic(certificate.public_key())) == key.keyid else None
    except (Invalid, ValueError, UnsupportedAlgorithm):
        return None


def is_well_named(key: Key) -> bool:
    """Whether a key has the one name that it can have, and is of the one kind that is used."""
    try:
        public = _elliptic(load_pem_public_key(key.keyval["public"].encode()))
    except (Invalid, ValueError, KeyError, AttributeError, TypeError, UnsupportedAlgorithm):
        return False
    kind = (key.keytype, key.scheme)
    return kind == ("ecdsa", "ecdsa-sha2-nistp256") and key_name(public) == key.keyid


def new_root(
    version: int,
    at: dt.datetime,
    *,
    holders: Iterable[x509.Certificate],
    assessors: Iterable[x509.Certificate],
    machine: ec.EllipticCurvePublicKey,
) -> Metadata[Root]:
    """Who may sign what, unsigned yet; Invalid with fewer than two keys a people's role."""
    groups = {
        "root": [person_key(leaf) for leaf in holders],
        "targets": [person_key(leaf) for leaf in assessors],
        "snapshot": [machine_key(machine)],
        "timestamp": [machine_key(machine)],
    }
    for role, who in (("root", "holders of the status' root"), ("targets", "assessors")):
        if len({key.keyid for key in groups[role]}) < PEOPLE_NEEDED:
            raise Invalid(f"{PEOPLE_NEEDED} different {who} are needed")
    roles = {
        role: Role(sorted({key.keyid for key in keys}), PEOPLE_NEEDED if len(keys) > 1 else 1)
        for role, keys in groups.items()
    }
    every: dict[str, Key] = {key.keyid: key for keys in reversed(groups.values()) for key in keys}
    return Metadata(
        Root(version, None, until("root", at), keys=every, roles=roles, consistent_snapshot=True)
    )


def new_targets(
    version: int,
    expires: dt.datetime,
    listed: Mapping[str, Listed],
    machine: ec.EllipticCurvePublicKey,
) -> Metadata[Targets]:
    """The certificates in force, unsigned yet; who may stop one is a machine's key."""
    key = machine_key(machine)
    role = DelegatedRole(DOWNGRADE, [key.keyid], 1, True, paths=[f"{_STOPPED}*"])
    files = {
        f"{_STATEMENTS}{hex_of(digest)}": TargetFile(
            one.length,
            {"sha256": hex_of(digest)},
            f"{_STATEMENTS}{hex_of(digest)}",
            {"custom": {"lifts": one.lifts}} if one.lifts else None,
        )
        for digest, one in sorted(listed.items())
    }
    return Metadata(
        Targets(version, None, expires, files, Delegations({key.keyid: key}, {DOWNGRADE: role}))
    )


def new_downgrade(
    version: int, expires: dt.datetime, stops: Mapping[str, Stop]
) -> Metadata[Targets]:
    """The certificates that were stopped, unsigned yet."""
    files = {
        f"{_STOPPED}{hex_of(digest)}": TargetFile(
            0,
            {"sha256": hex_of(sha256_bytes(b""))},
            f"{_STOPPED}{hex_of(digest)}",
            {"custom": {"reason": stop.reason, "since": stop.since, "state": stop.state}},
        )
        for digest, stop in sorted(stops.items())
    }
    return Metadata(Targets(version, None, expires, files))


def new_snapshot(version: int, expires: dt.datetime, files: Mapping[str, bytes]) -> Metadata[Any]:
    """`files`: the bytes of targets and downgrade, by `N.ROLE.json`."""
    meta = {f"{role_of(name)}.json": _meta(name, data) for name, data in files.items()}
    return Metadata(Snapshot(version, None, expires, meta))


def new_timestamp(version: int, expires: dt.datetime, snapshot: tuple[str, bytes]) -> Metadata[Any]:
    """Which snapshot is the present one."""
    return Metadata(Timestamp(version, None, expires, _meta(*snapshot)))


def _meta(name: str, data: bytes) -> MetaFile:
    return MetaFile(version_of(name), len(data), {"sha256": hex_of(sha256_bytes(data))})


def listed_in(targets: Targets) -> dict[str, Listed]:
    """{digest of a statement: Listed}; Invalid for a list of another form."""
    return {
        _digest(path, _STATEMENTS): Listed(file.length, _moment(_custom(file), "lifts", False))
        for path, file in targets.targets.items()
    }


def stops_in(downgrade: Targets) -> dict[str, Stop]:
    """{digest of a statement: Stop}; Invalid for a list of another form."""
    stops = {}
    for path, file in downgrade.targets.items():
        custom = _custom(file)
        state, reason = custom.get("state"), custom.get("reason")
        if state not in ("suspended", "revoked") or not isinstance(reason, str):
            raise Invalid("a stop in the status has no state or no reason")
        since = _moment(custom, "since", True)
        assert since is not None
        stops[_digest(path, _STOPPED)] = Stop(state, since, " ".join(reason.split()))
    return stops


def moment_of(at: dt.datetime) -> str:
    """A moment as stops and lifts spell it; its order is that of the text."""
    return at.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _moment(custom: Mapping[str, Any], name: str, needed: bool) -> str | None:
    text = custom.get(name)
    if text is None and not needed:
        return None
    try:
        if isinstance(text, str) and moment_of(dt.datetime.fromisoformat(text)) == text:
            return text
    except ValueError:
        pass
    raise Invalid(f"{name} in the status is not a moment")


def _custom(file: TargetFile) -> Mapping[str, Any]:
    custom = file.unrecognized_fields.get("custom", {})
    return custom if isinstance(custom, dict) else {}


def _digest(path: str, prefix: str) -> str:
    digest = f"sha256:{path.removeprefix(prefix)}"
    hex_of(digest)
    return digest


def until(role: str, at: dt.datetime) -> dt.datetime:
    """When what is signed at `at` for `role` ends, in whole seconds."""
    return at.astimezone(dt.UTC).replace(microsecond=0) + dt.timedelta(days=DAYS[role])


def signed_by(metadata: Metadata[T], signer: Signer) -> Metadata[T]:
    """`metadata` with the signature of a person, added."""
    name = key_name(_elliptic(signer.certificate.public_key()))
    return with_signature(metadata, name, signer.sign(metadata.signed_bytes))


def with_signature(metadata: Metadata[T], name: str, signature: bytes) -> Metadata[T]:
    """`metadata` with a signature (ECDSA P-256 over SHA-256, DER) by the key of this name."""
    metadata.signatures[name] = Signature(name, signature.hex())
    return metadata


def endorsed(root: Metadata[Root], signer: Signer) -> Envelope:
    """The first root metadata, signed by the X.509 root's own key: where that key is, offline."""
    return add_signature(unsigned(ENDORSEMENT_TYPE, root.signed_bytes), signer)


def file_name(role: str, version: int) -> str:
    """Under which name a version of a role lies."""
    return TIMESTAMP if role == "timestamp" else f"{version}.{role}.json"


def role_of(name: str) -> str:
    """The role in `N.ROLE.json` or `timestamp.json`."""
    return name.removesuffix(".json").rpartition(".")[2]


def version_of(name: str) -> int:
    """The version in `N.ROLE.json`."""
    return int(name.partition(".")[0])


def _elliptic(public: object) -> ec.EllipticCurvePublicKey:
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise Invalid("a key of the status is not an elliptic-curve key")
    return public
