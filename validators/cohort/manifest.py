"""The manifest of a sealed cohort: what was sealed, object by object and case by case.

    >>> manifest = parse_manifest(store.get("cohorts/lidc-nodules/1/manifest.json"))
    >>> manifest.root
    'sha256:…'

Rules
-----
1. The root is the RFC 9162 tree hash over: the cohort's description, then each object's plain
   digest, then each case's digest. It names the content: sealing the same cases with other
   encryption keys changes the objects and not the root.
2. A case's digest binds its inputs, patient, reference standard and attributes to each other,
   with a salt that lies with the reference standard: who holds the inputs can't test a guess.
3. A manifest whose root, counts or order do not fit its own contents is Tampered.
4. Where masks are the reference standard, `structures` says which, and they are objects of their
   own between the inputs and the table. A positive case is one in which any structure is marked.
5. It is facility-internal: counts and digests of single objects do not leave.
"""

import json
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import pydantic
from pydantic import Field, PlainSerializer, PlainValidator

from registry.trust import merkle
from registry.trust.canonical import canonical, is_digest, parse_canonical, sha256_bytes
from registry.trust.errors import Invalid, Tampered
from validators.contract.schema import Identifier, Name, Strict, Version
from validators.contract.strict import Grown

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


def _digests(value: object) -> tuple[str, ...]:
    """Digests, the very strings that were given: there are a million of them."""
    if not isinstance(value, list | tuple):
        raise ValueError("a list of digests was expected")
    if not all(isinstance(digest, str) and is_digest(digest) for digest in value):
        raise ValueError("something else stands among the digests")
    return tuple(value)


Count = Annotated[int, Field(ge=0)]
ObjectKind = Literal["inputs", "reference-masks", "reference"]
SCHEMA: Literal["touchstone/cohort/v2"] = "touchstone/cohort/v2"
_OLDER = "touchstone/cohort/v1"
_FLAT = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


class Counts(Strict):
    """How many, of a whole cohort or of one group."""

    cases: Count
    patients: Count
    positives: Count
    negatives: Count


class SealedObject(Strict):
    """One object: the bytes that lie in the store, and the plain bytes within."""

    path: str
    kind: ObjectKind
    cases: Count
    size: Count
    sha256: Digest
    plain_size: Count
    plain_sha256: Digest
    """Of a shard of inputs: `validators.cohort.contents.shard_digests`."""


class KeyFingerprints(Strict):
    """Which data keys open it; they give nothing away."""

    inputs: str
    reference: str


class Manifest(Grown):
    """A sealed cohort. `root` is its identity."""

    added_later: ClassVar[tuple[str, ...]] = ("structures",)

    schema_id: Literal["touchstone/cohort/v2"] = SCHEMA
    id: Identifier
    version: Version
    title: str
    licence: str
    citation: str
    reference_standard: str
    contract_digest: Digest
    counts: Counts
    attributes: dict[Name, dict[str, Counts]]
    case_flow: dict[str, Count]
    """Left out before sealing, by reason."""
    about: dict[str, str | int | float]
    """What else is known of the source, such as how far readers agree."""
    objects: tuple[SealedObject, ...]
    """Input shards in the order in which they are read, then masks, then the reference standard."""
    case_digests: Annotated[tuple[str, ...], PlainValidator(_digests), PlainSerializer(list)]
    """One a case, in the order of the shards."""
    keys: KeyFingerprints
    root: Digest
    structures: dict[Name, int] = {}
    """Where masks are the reference standard: the label of each structure."""

    @property
    def masks(self) -> tuple[SealedObject, ...]:
        """The objects that hold reference masks; none where the reference standard is a class."""
        return tuple(entry for entry in self.objects if entry.kind == "reference-masks")

    @property
    def shards(self) -> tuple[SealedObject, ...]:
        """The objects that hold inputs."""
        return tuple(entry for entry in self.objects if entry.kind == "inputs")

    @property
    def reference(self) -> SealedObject:
        """The object that holds reference standard and attributes."""
        return next(entry for entry in self.objects if entry.kind == "reference")


def shard_path(cohort: str, version: str, number: int) -> str:
    """Where a shard of inputs lies in the store."""
    return f"cohorts/{cohort}/{version}/inputs/{number:05d}"


def mask_path(cohort: str, version: str, number: int) -> str:
    """Where a shard of reference masks lies in the store."""
    return f"cohorts/{cohort}/{version}/reference-masks/{number:05d}"


def reference_path(cohort: str, version: str) -> str:
    """Where the reference standard lies in the store."""
    return f"cohorts/{cohort}/{version}/reference"


def manifest_path(cohort: str, version: str) -> str:
    """Where the manifest lies in the store."""
    return f"cohorts/{cohort}/{version}/manifest.json"


def manifest_bytes(manifest: Manifest) -> bytes:
    """The manifest's canonical JSON."""
    return canonical(manifest.model_dump(mode="json"))


def parse_manifest(data: bytes) -> Manifest:
    """The manifest of canonical JSON bytes.

    Raises Invalid when this is no manifest, Tampered when it contradicts itself.
    """
    value = parse_canonical(data)
    if isinstance(value, dict) and value.get("schema_id") == _OLDER:
        raise Invalid("this cohort was sealed by an older version: seal its cases again")
    try:
        manifest = Manifest.model_validate(value)
    except pydantic.ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Invalid(f"this is not a cohort manifest: {where}: {first['msg']}") from error
    check_manifest(manifest)
    return manifest


def case_digest(
    case: str,
    patient: str,
    reference: int | str,
    attributes: Mapping[str, str],
    inputs: str,
    salt: str,
) -> str:
    """The digest that binds one case together; `inputs` is the digest of its tensors, `reference`
    0 or 1, or the digest of its mask.

    It is that of the canonical JSON, written by a faster hand: for text and whole numbers under
    names in ASCII, as here, JSON with its keys in order is canonical.
    """
    value = {
        "attributes": dict(attributes),
        "case": case,
        "inputs": inputs,
        "patient": patient,
        "reference": reference,
        "salt": salt,
    }
    return sha256_bytes(_FLAT.encode(value).encode())


def root_of(description: Mapping[str, Any], objects: Sequence[SealedObject],
            case_digests: Sequence[str]) -> str:  # fmt: skip
    """The tree hash over a cohort's description, objects and cases, as a digest."""
    return "sha256:" + merkle.root(_leaves(description, objects, case_digests)).hex()


def description_of(manifest: Manifest) -> dict[str, Any]:
    """Everything about the cohort that is not an object, a case digest, a key or the root."""
    return manifest.model_dump(mode="json", exclude={"objects", "case_digests", "keys", "root"})


_SOUND: dict[int, weakref.ref[Manifest]] = {}


def check_manifest(manifest: Manifest) -> None:
    """Raise Tampered unless the manifest fits itself: root, counts, paths and order.

    A manifest never changes, so one that was found sound is not gone through again: the tree over a
    million cases takes seconds.
    """
    if (known := _SOUND.get(id(manifest))) is not None and known() is manifest:
        return
    name = f"the manifest of cohort {manifest.id} version {manifest.version}"
    masks = len(manifest.masks)
    shards = len(manifest.objects) - masks - 1
    expected = [shard_path(manifest.id, manifest.version, n) for n in range(shards)]
    expected += [mask_path(manifest.id, manifest.version, n) for n in range(masks)]
    kinds = [entry.kind for entry in manifest.objects]
    right = ["inputs"] * shards + ["reference-masks"] * masks + ["reference"]
    if kinds != right or shards < 1 or bool(masks) != bool(manifest.structures):
        raise Tampered(f"{name} does not list shards of inputs and one reference standard")
    expected.append(reference_path(manifest.id, manifest.version))
    for entry, path in zip(manifest.objects, expected, strict=True):
        if entry.path != path:
            raise Tampered(f"{name} lists {entry.path} where {path} belongs")
    cases = manifest.counts.cases
    listed = sum(entry.cases for entry in manifest.shards)
    if not cases == listed == manifest.reference.cases == len(manifest.case_digests):
        raise Tampered(f"{name} counts {cases} cases and lists another number")
    if masks and sum(entry.cases for entry in manifest.masks) != cases:
        raise Tampered(f"{name} counts {cases} cases and lists another number of masks")
    for attribute, groups in manifest.attributes.items():
        if sum(group.cases for group in groups.values()) != cases:
            raise Tampered(f"{name}: the groups of {attribute} do not add up to {cases} cases")
    root = root_of(description_of(manifest), manifest.objects, manifest.case_digests)
    if root != manifest.root:
        raise Tampered(f"{name} was changed: its root is not the one of its contents")
    key = id(manifest)
    _SOUND[key] = weakref.ref(manifest, lambda _: _SOUND.pop(key, None))


def _leaves(
    description: Mapping[str, Any], objects: Sequence[SealedObject], case_digests: Sequence[str]
) -> Iterator[bytes]:
    """Each leaf begins with its kind, so none can be passed off as another."""
    yield canonical(["cohort", dict(description)])
    for entry in objects:
        yield canonical(
            ["object", entry.path, entry.kind, entry.cases, entry.plain_size, entry.plain_sha256]
        )
    for digest in case_digests:
        yield f'["case","{digest}"]'.encode()  # canonical: a digest holds nothing to escape
