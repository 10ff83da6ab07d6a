"""The runs of other models that a protocol compares with on a locked cohort.

    >>> comparator_runs(now, protocol, "lidc-nodules", "1")
    {'clinic_model': {'submission': '5f0c…', 'predictions': 'sha256:…'}}

Rules
-----
1. A model is compared with by the predictions that the facility made of it: a submission of its
   digest that ran on the same cohort version. Nobody brings predictions along.
2. Of several such runs the first is taken, so that the same one is found every time.
3. Whose run it is, is for the facility: the record shows it to nobody else.
"""

from registry.database.record import Transaction
from registry.trust.errors import Refused
from validators.protocol.schema import Protocol


def comparator_runs(
    now: Transaction, protocol: Protocol, cohort: str, version: str
) -> dict[str, dict[str, str]]:
    """{name: {submission, predictions}} of each model that the protocol compares with.

    Raises Refused (comparator_missing) where one has not run on this cohort version.
    """
    runs: dict[str, dict[str, str]] = {}
    models: dict[str, str] = {}
    for endpoint in protocol.endpoints:
        other = endpoint.comparator
        if other is None or other.kind != "model":
            continue
        if other.model is None:
            raise Refused(
                f"on a locked cohort the comparator {other.name} is a model that was run there: "
                "name it with `model:` and its digest, which `touchstone status` shows",
                code="comparator_missing",
            )
        if models.setdefault(other.name, other.model) != other.model:
            raise Refused(f"two comparators are named {other.name}; give each its own name")
        found = now.maybe(
            "comparator_run", model=other.model, cohort_id=cohort, cohort_version=version
        )
        if found is None:
            raise Refused(
                f"the comparator {other.name} has no finished run on the cohort {cohort} "
                f"{version}; submit that model there by another protocol first",
                code="comparator_missing",
            )
        runs[other.name] = {
            "submission": str(found["id"]),
            "predictions": found["output"]["predictions"],
        }
    return runs
