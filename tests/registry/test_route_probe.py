"""Every route × method of the MLflow that is installed, and the exact set that is let through.

An upgrade that adds a route opens nothing (it is denied) and shows here: the table differs.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.identity.caller import Role
from registry.identity.policy import KIND_OF_ROLE, POLICY
from registry.mlflow_gate.clinical_pilot import ROUTES as HOSPITALS
from registry.mlflow_gate.routes import ROUTES, match, plain_path, table
from registry.trust.errors import TouchstoneError
from tests.registry.mlflow_server import Gate
from tests.registry.role import token_of

TABLE = Path(__file__).with_name("mlflow_routes.txt")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")


def flask_routes() -> Iterator[tuple[str, str, str]]:
    from mlflow.server import app

    for rule in app.url_map.iter_rules():
        for method in sorted(rule.methods or ()):
            yield method, rule.rule, str(rule.endpoint)


def fastapi_routes() -> Iterator[tuple[str, str]]:
    import mlflow.server.fastapi_app  # noqa: F401
    from mlflow.server import (
        artifact_router,
        gateway_api,
        job_api,
        mcp_server_api,
        otel_api,
        server_info_api,
    )
    from mlflow.server.assistant import api

    routers = (
        artifact_router.artifact_router, gateway_api.gateway_router, job_api.job_api_router,
        otel_api.otel_router, server_info_api.server_info_router, api.assistant_router,
        mcp_server_api.mcp_server_router,
    )  # fmt: skip
    for router in routers:
        for route in router.routes:
            for method in sorted(route.methods):  # type: ignore[attr-defined]
                yield method, route.path  # type: ignore[attr-defined]


def concrete(rule: str) -> str:
    """A path that the rule matches, with what an attacker would put there."""
    filled = rule.replace("<model_id>", "m-" + "0" * 32).replace("<path:artifact_path>", "a/b")
    filled = filled.replace("{artifact_path:path}", "a/b")
    return re.sub(r"<[^>]+>|\{[^}]+\}", "x", filled)


def named(rule: str) -> str:
    """A rule of Flask's as `routes` writes it."""
    return rule.replace("<model_id>", "{model}").replace("<path:artifact_path>", "{file}")


def passes(method: str, path: str) -> bool:
    try:
        match(method, plain_path(path.encode()))
    except TouchstoneError:
        return False
    return True


def probe() -> str:
    """Every route × method, one a line, with what the gate does about it."""
    asked = {(method, rule) for method, rule, _ in flask_routes()} | set(fastapi_routes())
    lines = (
        f"{'allow' if passes(method, concrete(rule)) else 'deny':6}{method:8}{rule}"
        for method, rule in asked
    )
    return "\n".join(sorted(lines)) + "\n"


def test_the_whole_table_is_as_it_was_reviewed() -> None:
    """To review a change: python -m tests.registry.test_route_probe, then read the difference."""
    print(probe())
    assert probe() == TABLE.read_text()


def test_exactly_these_routes_are_let_through() -> None:
    allowed = {
        (method, named(rule), endpoint)
        for method, rule, endpoint in flask_routes()
        if passes(method, concrete(rule))
    }
    print(table())
    assert allowed == {(route.method, route.path, route.endpoint) for route in ROUTES}


def test_of_the_routes_that_flask_never_sees_three_are_let_through() -> None:
    let = {(method, path) for method, path in fastapi_routes() if passes(method, concrete(path))}
    files = "/api/2.0/mlflow-artifacts/artifacts/{artifact_path:path}"
    assert let == {("GET", files), ("PUT", files), ("GET", "/api/3.0/mlflow/server-info")}


def test_the_running_server_denies_all_others(gate: Gate) -> None:
    """Asked for real, as an innovator: nothing but the table answers with anything else."""
    asked = {(method, concrete(rule)) for method, rule, _ in flask_routes()}
    asked |= {(method, concrete(path)) for method, path in fastapi_routes()}
    for method, path in sorted(asked):
        if passes(method, path) or method == "CONNECT":
            continue
        answer = gate.ask(method, path)
        assert answer.status_code in (403, 404), f"{method} {path}: {answer.status_code}"


def roles() -> list[tuple[str, Role]]:
    """(an organisation, a role of it), every role there is."""
    organisation = {"sme": "sme-a", "facility": "tef", "hospital": "clinic"}
    return [(organisation[kind], role) for role, kinds in KIND_OF_ROLE.items() for kind in kinds]


@pytest.mark.parametrize(("organisation", "role"), roles())
def test_each_role_reaches_exactly_what_the_policy_gives_it(
    gate: Gate, organisation: str, role: Role
) -> None:
    """Every route × method, asked for real with a token of the role; reached means past the gate.

    What is reached may still answer that a thing is not there: that is MLflow's own answer, with
    MLflow's own words, while the gate's refusals carry the gate's.
    """
    secret = token_of(gate.databases, organisation, role, "Prober")
    asked = {(method, rule) for method, rule, _ in flask_routes()} | set(fastapi_routes())
    reached = set()
    for method, rule in sorted(asked):
        answer = gate.ask(
            method, concrete(rule), None, headers={"Authorization": f"Bearer {secret}"},
            content=b"{}" if method in ("POST", "PATCH", "PUT", "DELETE") else None,
        )  # fmt: skip
        assert answer.status_code < 500, f"{method} {rule}: {answer.text}"
        refused = (
            answer.status_code in (401, 403)
            or (answer.status_code == 404 and "is not offered here" in answer.text)
            or method == "HEAD"  # no route has it; a refusal of it has no body
        )
        if not refused:
            reached.add((method, named(rule)))
    let = {(route.method, route.path) for route in ROUTES}
    # `a/b` is not the name of a place: uploads and downloads of it are refused as such.
    own = let if POLICY[role].get("mlflow.use") else set()
    if POLICY[role].get("certified.pull"):
        own = {("GET", path) for path in HOSPITALS}
    assert {(m, p.replace("{artifact_path:path}", "{file}")) for m, p in reached} == own


def test_a_hospitals_routes_are_these_six_and_each_is_one_of_mlflows() -> None:
    """Answered by `clinical_pilot`, never by MLflow; each by GET alone."""
    assert list(HOSPITALS) == [
        "/api/2.0/mlflow/registered-models/alias",
        "/api/2.0/mlflow/registered-models/get",
        "/api/2.0/mlflow/model-versions/get-download-uri",
        "/api/3.0/mlflow/server-info",
        "/api/2.0/mlflow-artifacts/artifacts",
        "/api/2.0/mlflow-artifacts/artifacts/{file}",
    ]
    assert {("GET", path) for path in HOSPITALS} <= {(r.method, r.path) for r in ROUTES}


def test_the_policy_gives_mlflow_to_innovators_alone() -> None:
    assert [role for role, row in POLICY.items() if "mlflow.use" in row] == ["innovator"]


@pytest.mark.parametrize("token", [None, "expired", "revoked", "unknown"])
def test_without_a_good_token_nothing_is_reached(gate: Gate, token: str | None) -> None:
    secret = token_of(gate.databases, "sme-a", "innovator", "Prober")
    changed = {
        "expired": "expires_at = now() - interval '1 second'",
        "revoked": "revoked_at = now()",
    }
    if token in changed:
        hashed = hashlib.sha256(hashlib.sha256(secret.encode()).digest()).digest()
        gate.sql(f"UPDATE touchstone.token SET {changed[token]} WHERE secret_hash = %s", hashed)
    headers = {"Authorization": f"Bearer {secret + 'x' * (token == 'unknown')}"} if token else {}
    for method, rule in sorted({(m, r) for m, r, _ in flask_routes()} | set(fastapi_routes())):
        if method != "CONNECT":
            answer = gate.ask(method, concrete(rule), None, headers=headers)
            assert answer.status_code == 401, f"{method} {rule}: {answer.status_code}"


@pytest.mark.parametrize("method", METHODS)
def test_a_route_is_open_for_its_own_methods_only(method: str) -> None:
    for route in ROUTES:
        path = route.path.format(model="m-" + "0" * 32, file="a/b")
        assert passes(method, path) == any(
            other.matches(method, path) for other in ROUTES if other.method == method
        )
        assert not passes(method.lower(), path)


if __name__ == "__main__":
    TABLE.write_text(probe())
