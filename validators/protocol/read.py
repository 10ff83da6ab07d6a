"""Read a protocol from a file, and hold it against the counts of a cohort.

    >>> protocol = read_protocol(Path("protocol.yaml"))

`validators.contract.read` has the rules for files and for what a fault says.
"""

from pathlib import Path
from typing import Any

from registry.trust.errors import Refused
from validators.contract.read import parse_document, read_contract, read_document
from validators.protocol.schema import Protocol

__all__ = ["check_counts", "parse_protocol", "read_contract", "read_protocol"]


def read_protocol(path: Path) -> Protocol:
    """The protocol in a YAML or JSON file. Raises Invalid, in one line."""
    return parse_document(Protocol, read_document(path), f"the protocol {path}")


def parse_protocol(value: Any) -> Protocol:
    """The protocol in a value that came as JSON or YAML. Raises Invalid, in one line."""
    return parse_document(Protocol, value, "the protocol")


def check_counts(protocol: Protocol, positives: int, negatives: int) -> None:
    """Raise Refused unless a cohort has the cases that the protocol needs to answer.

    Of a segmentation a case is positive where any structure is marked, and one negative case, what
    a protocol asks for that says nothing, need not be there.
    """
    if protocol.cohort is None:
        return
    least = protocol.cohort.negatives
    if protocol.task == "segmentation" and least == 1:
        least = 0
    for name, found, needed in (
        ("positive", positives, protocol.cohort.positives),
        ("negative", negatives, least),
    ):
        if found < needed:
            raise Refused(
                f"the protocol {protocol.id} needs {needed} {name} cases, the cohort has "
                f"{found}; use a larger cohort, or a protocol that was written for this one",
                code="too_few_cases",
            )
