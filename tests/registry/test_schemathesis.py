"""Whatever is sent, the API answers as its OpenAPI description says, and never with a 5xx.

schemathesis, with all its checks, over a real server on this machine and a real PostgreSQL: what
the schema allows is accepted or refused with a documented status, what it forbids is refused,
tokens are asked for, answers have the described form.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from registry.settings import Databases
from registry.submissions import places
from tests.registry.api_stage import PEOPLE, Stage

# What JSON Schema can't say: these may refuse (416, 422) what their schema allows. So may every
# write: an Idempotency-Key may have been used for another request, and rules tie fields together.
BEYOND_THE_SCHEMA = {
    "list_cohorts": "a cursor is opaque, and one that was not given is refused",
    "list_protocols": "the same",
    "list_submissions": "the same",
    "list_tokens": "the same",
    "list_people": "the same",
    "list_keys": "the same",
    "list_notices": "the same",
    "list_pilots": "the same",
    "audit_events": "the same",
    "audit_checkpoints": "the same",
    "audit_index": "the same",
    "audit_consistency": "the second log must not be the shorter one",
    "fetch_bundle_file": "a Range behind the end of the file (416)",
}
MAY_REFUSE = (
    "checks.positive_data_acceptance.expected-statuses ="
    ' ["2xx", "3xx", 401, 403, 404, 409, 416, 422, 429]'
)
WHO_MAY = {
    "add_organisation": "admin",
    "add_token": "admin",
    "propose_cohort": "steward",
    "read_cohort_life": "steward",
    "sign_cohort": "steward",
    "act_on_cohort": "steward",
    "lock_protocol": "steward",
    "declare_conditions|ask_agreement|move_agreement": "steward",
    "read_attempts": "innovator",
    "submit": "innovator",
    "list_bundle": "clinician",
    "fetch_bundle_file": "clinician",
    "report_pilot|announce_pilot_key": "clinician",
    "logout": "leaver",  # whose token is revoked by it
    "list_people|add_person|withdraw_role|list_tokens": "admin",
    "audit_.*": "auditor",
    ".*_quota": "admin",
}
MUST_GET_IN = {
    "GET /health/live", "GET /health/ready", "GET /me", "POST /organisations", "POST /tokens",
    "GET /cohorts", "POST /protocols", "GET /protocols", "GET /protocols/{name}",
    "POST /submissions", "GET /submissions", "GET /submissions/{submission}",
    "GET /submissions/{submission}/report", "GET /submissions/{submission}/report.html",
    "GET /submissions/{submission}/report.pdf",
    "GET /submissions/{submission}/statement", "GET /certified", "GET /certified/file",
}  # fmt: skip


@pytest.fixture(scope="module")
def server(database: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    made = Stage(database, tmp_path_factory.mktemp("facility")).with_mlflow()
    made.register(version=3)  # with the names of the description's own examples
    made.submission("registered")
    for name in (made.submission("in_review"), made.certified(model="nodule-net")):
        made.facility.store.put(places.bundle(name) + "report.pdf", b"%PDF-1.7")
    yield made
    made.close()


def run(stage: Stage, folder: Path, role: str | None, examples: int, *more: str) -> str:
    """What schemathesis found; `role` None is each operation by somebody who may."""
    with stage.listening() as address:
        lines = []
        for method, operation in operations(stage):
            name = operation["operationId"]
            changes = [MAY_REFUSE] if method != "get" or name in BEYOND_THE_SCHEMA else []
            may = [who for known, who in WHO_MAY.items() if re.fullmatch(known, name)]
            if role is None and may:
                changes.append(authorization(stage, may[0]))
            if changes:
                lines += ["[[operations]]", f'include-operation-id = "{name}"', *changes]
        config = folder / "schemathesis.toml"
        config.write_text("\n".join([authorization(stage, role or "assessor"), *lines]))
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("st")), "--config-file", str(config), "run",
                f"{address}/api/v1/openapi.json", "--checks", "all", "--no-color",
                "--max-examples", str(examples), "--suppress-health-check", "all",
                "--request-timeout", "30", *more,
            ],
            capture_output=True, text=True, cwd=folder, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout[-12_000:] + done.stderr[-2_000:]
    return done.stdout


def operations(stage: Stage) -> list[tuple[str, dict[str, Any]]]:
    return [
        (method, operation)
        for item in stage.app.openapi()["paths"].values()
        for method, operation in item.items()
    ]


def authorization(stage: Stage, role: str) -> str:
    return f'headers = {{ Authorization = "Bearer {stage.secrets[role]}" }}'


def test_every_operation_by_somebody_who_may(server: Stage, tmp_path: Path) -> None:
    run(server, tmp_path, None, 8, "--generation-deterministic")
    # It got behind the doors, and was not only turned away: but for a cohort, which needs sealed
    # objects, and a decision, which needs a signature.
    done = {(method, path) for method, path, status in server.answered if 200 <= status < 300}
    assert {f"{method} {path}".replace("/api/v1", "") for method, path in done} >= MUST_GET_IN


def test_an_sme_at_every_door(server: Stage, tmp_path: Path) -> None:
    run(server, tmp_path, "innovator", 5, "--generation-deterministic",
        "--phases", "examples,fuzzing,stateful")  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("role", [None, *PEOPLE])
def test_many_more_requests_by_each_role(server: Stage, tmp_path: Path, role: str | None) -> None:
    run(server, tmp_path, role, 150)
