"""What a protocol asks of a sealed cohort's attributes, held against the manifest.

    >>> check_attributes(protocol, manifest)        # Refused, in one line, where it can't answer

Rules
-----
1. Every attribute that groups, hospitals, readers' ratings or sampling weights are read from must
   be in the cohort.
2. Ratings and weights are numbers in every case (each reader must have read each case), and a
   weight is above 0.
3. Hospitals are counted as the manifest groups them; an empty name is no hospital.
4. A message names the attribute and counts cases; it never holds a value.
"""

import math

from registry.trust.errors import Refused
from validators.cohort.manifest import Manifest
from validators.numbers import MISSING, number_in
from validators.protocol.schema import Protocol
from validators.table import UNKNOWN, asked_attributes


def check_attributes(protocol: Protocol, manifest: Manifest) -> None:
    """Raise Refused unless the cohort has the attributes that the protocol needs to answer."""
    readers = [
        name
        for endpoint in protocol.endpoints
        if endpoint.comparator is not None
        for name in endpoint.comparator.readers
    ]
    weights = protocol.sampling.weights if protocol.sampling else None
    for name in (*asked_attributes(protocol), *readers, *([weights] if weights else [])):
        if name not in manifest.attributes:
            raise Refused(
                f"the protocol {protocol.id} asks for the attribute {name!r}, which the cohort "
                f"{manifest.id} {manifest.version} lacks (it has "
                f"{', '.join(sorted(manifest.attributes)) or 'none'}); seal a version that has it",
                code="attribute_missing",
            )
    for name in dict.fromkeys(readers):
        _check_numbers(manifest, name, "a rating", above=-math.inf)
    if weights:
        _check_numbers(manifest, weights, "a weight above 0", above=0.0)
    _check_sites(protocol, manifest)


def _check_numbers(manifest: Manifest, name: str, what: str, *, above: float) -> None:
    odd = sum(
        counts.cases
        for text, counts in manifest.attributes[name].items()
        if (value := number_in(text)) is None or not value > above  # NaN, where it is empty
    )
    if odd:
        raise Refused(
            f"the attribute {name!r} of the cohort {manifest.id} is not {what} in {odd} cases; "
            "seal a version with numbers in it",
            code="attribute_not_numbers",
        )


def _check_sites(protocol: Protocol, manifest: Manifest) -> None:
    if protocol.sites is None or protocol.cohort is None or protocol.cohort.sites is None:
        return
    groups = manifest.attributes[protocol.sites.attribute]
    known = [name for name in groups if name.strip().lower() not in (*MISSING, UNKNOWN)]
    if len(known) < protocol.cohort.sites:
        raise Refused(
            f"the protocol {protocol.id} needs cases of {protocol.cohort.sites} hospitals "
            f"({protocol.sites.attribute}), the cohort {manifest.id} has those of {len(known)}; "
            "use a cohort of more, or a protocol that was written for this one",
            code="too_few_sites",
        )
