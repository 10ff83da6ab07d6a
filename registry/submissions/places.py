"""Where the objects of a submission lie in the store. Each is written once."""


def predictions(submission: str) -> str:
    """Raw predictions of the run itself; the scores are read by the assess step alone."""
    return f"submissions/{submission}/predictions.parquet"


def predicted_masks(submission: str, digest: str) -> str:
    """A part of the masks that the run gave, compressed; the predictions' list names it."""
    return f"submissions/{submission}/masks/{digest.removeprefix('sha256:')}"


def perturbed_predictions(submission: str, run: str, digest: str) -> str:
    """Raw predictions of the `run` under a perturbation by that name.

    The digest is part of the name: a run that was killed before its row was written, and was made
    again with an answer late or in another last digit, is in nobody's way.
    """
    return f"submissions/{submission}/predictions/{run}/{digest.removeprefix('sha256:')}.parquet"


def certified_predictions(submission: str, digest: str) -> str:
    """Raw predictions of the certified version, run within a new version's submission; as above."""
    return f"submissions/{submission}/certified-version/{digest.removeprefix('sha256:')}.parquet"


def part(submission: str, run: str, number: int, digest: str) -> str:
    """The answers of one part of a run; by their digest, as above."""
    name = f"{number:05d}-{digest.removeprefix('sha256:')}"
    return f"submissions/{submission}/parts/{run}/{name}.parquet"


def report(submission: str) -> str:
    """The complete report.json; facility-internal."""
    return f"submissions/{submission}/report.json"


def report_page(submission: str) -> str:
    """The complete report.html; facility-internal."""
    return f"submissions/{submission}/report.html"


def statement(submission: str) -> str:
    """The certificate's statement, as the assessors are asked to sign it."""
    return f"submissions/{submission}/statement.json"


def bundle(submission: str) -> str:
    """The folder of what a hospital pulls, but for certificate.json and signers.pem."""
    return f"submissions/{submission}/bundle/"


def log_proof(submission: str, checkpoint: str) -> str:
    """The proof that the log took the certificate in, under one checkpoint as it was signed."""
    return f"submissions/{submission}/log-proofs/{checkpoint.removeprefix('sha256:')}.json"


def model(digest: str) -> str:
    """The folder of a model's files, by the model's digest."""
    return f"models/{digest.removeprefix('sha256:')}/"


def declaration(digest: str) -> str:
    """What a model's maker declared, by its digest."""
    return f"declarations/{digest.removeprefix('sha256:')}.json"


def drift_page(submission: str) -> str:
    """Evidently's page, which shows single patients' values: for the facility's people alone."""
    return f"submissions/{submission}/facility-only/drift.html"


def cohort_lock(cohort: str, version: str) -> str:
    """The record that two stewards signed, beside the cohort's manifest."""
    return f"cohorts/{cohort}/{version}/lock.json"
