"""Whose attempts count together: the weights of a model against those of other organisations.

    >>> note_weights(now, submission, description.weights)     # in the transaction of intake

Rules
-----
1. Every pair of models for one indication on one cohort version is compared once, by whoever comes
   second: one lock is held from the comparison to the commit, so the order of intake is no matter.
   It is taken before anything is logged in the transaction: the log's lock comes last everywhere.
2. Models of one organisation are one family already and are not compared.
3. What was found is for the facility; a submitter never learns of another organisation.
4. What follows from it (attempts that count together, the end at the first pass) is decided in the
   database (0012_families.sql), which spends no attempt on a model that was never compared.
"""

from registry.database.record import Row, Transaction
from validators.contract.description import Weights
from validators.intake.weights import compare


def note_weights(now: Transaction, row: Row, weights: Weights) -> None:
    """Keep what the model of a submission looks like and whom it is like; once a submission."""
    submission = str(row["id"])
    now.one(
        "families_hold",
        protocol=row["protocol_id"],
        cohort_id=row["cohort_id"],
        cohort_version=row["cohort_version"],
    )
    if now.maybe("fingerprint", submission=submission) is not None:
        return
    now.do("fingerprint_add", submission=submission, weights=weights.model_dump(mode="json"))
    for other in now.all("fingerprints_of_others", submission=submission):
        likeness = compare(weights, Weights.model_validate(other["weights"]))
        if likeness.worth_knowing:
            now.do(
                "kinship_add",
                submission=submission,
                other=other["submission"],
                share=likeness.share,
                same=likeness.same,
            )
