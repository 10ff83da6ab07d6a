"""The software that runs a model, as a CycloneDX 1.6 SBOM: what an extra of ours has installed.

    >>> bom = runtime_sbom(runtime("touchstone-tef"), ran=versions, issued=issued, lock=text)

Rules
-----
1. Components are the distributions of this environment that the extra needs here, by their own
   metadata, each with what it needs in turn, and Python.
2. What the evidence says ran goes before what is installed here: where the model ran on another
   host and a version differs, the component has the version that ran. Then, and where something
   that is needed is not installed here, the list says that it is incomplete.
3. The lock's digests are those of every artefact that the lock allows for a version: installers do
   not record which of them they took. Without the lock there are none.
4. A licence is an SPDX expression where the distribution states one, else its own words.
5. The same installation, evidence and moment give the same bytes.
"""

import datetime as dt
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from registry.trust.cyclonedx import Json, enveloped, properties, timestamp

_LINE = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_LONGEST_LICENCE = 100
_ON_GPU = "onnxruntime-gpu"


@dataclass(frozen=True)
class Software:
    """One installed distribution: normalised name, version, licence, and what it needs here."""

    name: str
    version: str
    licence: Json | None = None
    needs: tuple[str, ...] = ()

    @property
    def reference(self) -> str:
        """Its package URL."""
        return f"pkg:pypi/{self.name}@{self.version}"


@dataclass(frozen=True)
class Runtime:
    """An extra as it is installed: the distribution itself, what it needs, and what is missing."""

    root: Software
    needed: tuple[Software, ...]
    missing: tuple[str, ...]


def runtime(root: str) -> Runtime:
    """What runs models here: the extra `gpu` where its ONNX Runtime is installed, or `hospital`."""
    try:
        metadata.version(_ON_GPU)
    except metadata.PackageNotFoundError:
        return installed(root, "hospital")
    return installed(root, "gpu")


def installed(root: str, extra: str) -> Runtime:
    """The extra of the distribution `root` and all that it needs, by name."""
    found: dict[str, Software] = {}
    wanted: dict[str, frozenset[str]] = {}
    missing: set[str] = set()
    pending = [(canonicalize_name(root), frozenset({extra}))]
    while pending:
        name, extras = pending.pop()
        known = wanted.get(name)
        if known is not None and extras <= known:
            continue
        wanted[name] = extras | (known or frozenset())
        try:
            of = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            missing.add(name)
            continue
        needs = list(_needs(of, wanted[name]))
        pending += [(canonicalize_name(need.name), frozenset(need.extras)) for need in needs]
        names = sorted({str(canonicalize_name(need.name)) for need in needs} - {name})
        found[name] = Software(name, of.version, _licence(of), tuple(names))
    if canonicalize_name(root) not in found:
        raise ValueError(f"{root} is not installed")
    own = found.pop(canonicalize_name(root))
    return Runtime(own, tuple(found[name] for name in sorted(found)), tuple(sorted(missing)))


def runtime_sbom(
    here: Runtime, *, ran: Mapping[str, str], issued: dt.datetime, lock: str = "", code: str = ""
) -> Json:
    """The SBOM of `here`. ran: versions by distribution, from the evidence; lock: the text of a
    requirements lock; code: the digest of our own sources."""
    ran = {str(canonicalize_name(name)): version for name, version in ran.items()}
    by_name = {of.name: of for of in here.needed}
    same = {name: version for name, version in ran.items() if name in by_name}
    complete = not here.missing and all(by_name[n].version == v for n, v in same.items())
    parts = [replace(of, version=same.get(of.name, of.version)) for of in here.needed]
    parts += [
        Software(name, ran[name]) for name in here.missing if name in ran
    ]  # it ran on another host
    parts.sort(key=lambda of: of.name)
    references = {of.name: of.reference for of in parts}
    allowed = digests_of(lock)
    python = f"pkg:generic/python@{platform.python_version()}"
    about = {"code": code or None}
    return enveloped(
        {
            "metadata": {
                "timestamp": timestamp(issued),
                "tools": {"components": [_of_us(here.root)]},
                "component": {
                    **_of_us(here.root),
                    "bom-ref": here.root.reference,
                    **({"properties": properties(about)} if code else {}),
                },
            },
            "components": [_component(of, allowed) for of in parts]
            + [
                {
                    "type": "platform",
                    "bom-ref": python,
                    "name": platform.python_implementation(),
                    "version": platform.python_version(),
                }
            ],
            "dependencies": [
                {
                    "ref": of.reference,
                    "dependsOn": sorted(references[need] for need in of.needs if need in references)
                    + ([python] if of is here.root else []),
                }
                for of in (here.root, *parts)
            ]
            + [{"ref": python}],
            "compositions": [
                {
                    "aggregate": "complete" if complete else "incomplete",
                    "dependencies": [here.root.reference],
                }
            ],
        }
    )


def digests_of(lock: str) -> dict[tuple[str, str], tuple[str, ...]]:
    """{(name, version): SHA-256 of the artefacts that the lock allows} of a requirements file."""
    found: dict[tuple[str, str], list[str]] = {}
    current: list[str] = []
    for line in lock.splitlines():
        if start := _LINE.match(line):
            key = (str(canonicalize_name(start["name"])), start["version"])
            current = found.setdefault(key, [])
        current += _HASH.findall(line)
    return {key: tuple(sorted(set(values))) for key, values in found.items()}


def _component(of: Software, allowed: Mapping[tuple[str, str], Sequence[str]]) -> Json:
    digests = allowed.get((of.name, of.version), ())
    return {
        "type": "library",
        "bom-ref": of.reference,
        "name": of.name,
        "version": of.version,
        "purl": of.reference,
        **({} if of.licence is None else {"licenses": [of.licence]}),
        **(
            {
                "externalReferences": [
                    {
                        "type": "distribution",
                        "url": of.reference,
                        "comment": "the artefacts that the lock allows",
                        "hashes": [{"alg": "SHA-256", "content": digest} for digest in digests],
                    }
                ]
            }
            if digests
            else {}
        ),
    }


def _of_us(root: Software) -> Json:
    return {"type": "application", "name": root.name, "version": root.version}


def _needs(of: metadata.Distribution, extras: frozenset[str]) -> Iterator[Requirement]:
    """The requirements that hold in this environment with any of `extras`."""
    for line in of.requires or ():
        need = Requirement(line)
        if need.marker is None or any(
            need.marker.evaluate({"extra": extra}) for extra in ("", *sorted(extras))
        ):
            yield need


def _licence(of: metadata.Distribution) -> Json | None:
    for expression in of.metadata.get_all("License-Expression") or ():
        return {"expression": expression}
    stated = next(iter(of.metadata.get_all("License") or ()), "").strip()
    if stated and "\n" not in stated and len(stated) <= _LONGEST_LICENCE:
        return {"license": {"name": stated}}
    classes = [
        line.rpartition(" :: ")[2]
        for line in of.metadata.get_all("Classifier") or ()
        if line.startswith("License :: ")
    ]
    return {"license": {"name": " and ".join(sorted(classes))}} if classes else None
