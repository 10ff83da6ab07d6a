"""Two tenants on one server: whatever one asks, in whosever name, the other stays unseen."""

import base64
import json
import time
from typing import Any

import pytest

from registry.mlflow_gate.routes import Route
from tests.registry.mlflow_requests import Tenant, every_route, requests_for, tenant
from tests.registry.mlflow_server import Answer, Gate

FILES = "/api/2.0/mlflow-artifacts/artifacts"
_ROUTES = every_route()


@pytest.fixture(scope="module")
def both(gate: Gate) -> tuple[Tenant, Tenant]:
    return tenant(gate, "sme-a"), tenant(gate, "sme-b")


def ask(gate: Gate, route: Route, path: str, fields: dict[str, Any], organisation: str) -> Answer:
    if route.kind == "upload":
        return gate.ask("PUT", path, organisation, content=b"by another")
    if route.method == "GET":
        pairs = [
            (name, item)
            for name, value in fields.items()
            for item in (value if isinstance(value, list) else [value])
        ]
        return gate.ask("GET", path, organisation, query=pairs)  # type: ignore[arg-type]
    return gate.ask(route.method, path, organisation, fields=fields)


def rows(gate: Gate, of: Tenant) -> list[Any]:
    """All that the database holds of a tenant."""
    experiments = (
        f"SELECT experiment_id FROM mlflow.experiments WHERE workspace='{of.organisation}'"
    )
    runs = f"SELECT run_uuid FROM mlflow.runs WHERE experiment_id IN ({experiments})"
    models = f"SELECT model_id FROM mlflow.logged_models WHERE experiment_id IN ({experiments})"
    where = {
        f"workspace = '{of.organisation}'": (
            "registered_models", "registered_model_tags", "registered_model_aliases",
            "model_versions", "model_version_tags", "experiments"),
        f"experiment_id IN ({experiments})": ("experiment_tags", "runs", "logged_models"),
        f"run_uuid IN ({runs})": ("tags", "params", "metrics", "latest_metrics"),
        f"model_id IN ({models})": ("logged_model_tags", "logged_model_params",
                                    "logged_model_metrics"),
        f"source_id IN ({runs}) OR destination_id IN ({runs}) OR source_id IN ({models})"
        f" OR destination_id IN ({models})": ("inputs",),
    }  # fmt: skip
    return gate.sql(
        " UNION ALL ".join(
            f"SELECT '{table}', x::text FROM mlflow.{table} x WHERE {condition}"
            for condition, tables in where.items()
            for table in tables
        )
        + " ORDER BY 1, 2"
    )


def label(route: Route) -> str:
    return f"{route.method} {route.path.replace('/api/2.0/', '')}"


@pytest.mark.parametrize("route", _ROUTES, ids=label)
def test_no_route_shows_or_changes_what_is_another_tenants(
    gate: Gate, both: tuple[Tenant, Tenant], route: Route
) -> None:
    """Every route, with all names of another tenant, and with each of them among one's own."""
    theirs, mine = both
    before = rows(gate, theirs)
    for swapped, path, fields in requests_for("sme-b", mine, theirs, route):
        answer = ask(gate, route, path, fields, "sme-b")
        sent = path + json.dumps(fields)
        for secret in theirs.secrets:
            if secret not in sent:
                assert secret not in answer.text, f"{label(route)}, {swapped}: {answer.text}"
        assert answer.status_code < 500, f"{label(route)}, {swapped}: {answer.text}"
        assert rows(gate, theirs) == before, f"{label(route)}, {swapped}: {answer.text}"
    assert gate.ask("GET", f"{FILES}/{theirs.folder}/model.onnx").text == theirs.mark
    names = {path.name for path in (gate.artifacts / theirs.folder).iterdir()}
    assert names == {"model.onnx"}


def test_the_same_requests_work_for_the_owner(gate: Gate) -> None:
    """Without this the test above could not fail: each request is well formed and finds its aim."""
    own = tenant(gate, "sme-a")
    refused = {}
    for route in _ROUTES:
        _, path, fields = next(iter(requests_for("sme-a", own, own, route)))
        answer = ask(gate, route, path, fields, "sme-a")
        if answer.status_code != 200:
            refused[label(route)] = f"{answer.status_code} {answer.text}"
    # The model is registered, so its files are sealed; it is registered already as version 1.
    assert refused.keys() == {"PUT mlflow-artifacts/artifacts/{file}"}, refused


@pytest.mark.parametrize("path", ["registered-models/search", "model-versions/search",
                                  "experiments/search", "runs/search",
                                  "logged-models/search"])  # fmt: skip
@pytest.mark.parametrize(
    "attack",
    [
        "' OR '1'='1", "'; DROP TABLE mlflow.runs; --",
        "' UNION SELECT * FROM mlflow.experiments --",
        "name = 'x' OR workspace = 'sme-a'", "workspace = 'sme-a'", "name LIKE '%'",
        "name ILIKE '%%%%%%%%%%%%%%%%%%%%%%%%%%a'", "attributes.run_id LIKE '%'",
        "tags.`x' OR 1=1 --` = 'y'", 'tags."x\\" OR 1=1" = \'y\'', "name = $$x$$",
        "name = E'\\x27'",
        "name != 'x' AND name != 'y'", "params.p LIKE '%'", "tags.note LIKE '%'",
        "attributes.start_time > 0", "creation_time > 0", "metrics.auc >= 0", "name = 'a\\",
        "attribute.experiment_id = '1'", "source_path LIKE '%'", "run_id IN ('a') OR 1=1",
        "name RLIKE '(a+)+$'", "name = pg_sleep(9)", "name = 'x' -- ", "name/**/=/**/'x'",
        "1=1", "((((name = 'x'))))", "name = 'x' AND (SELECT 1)", "\u02b9 OR 1=1",
        "name = 'x\u2019",
    ],
)  # fmt: skip
def test_no_filter_or_order_reaches_another_tenant(
    gate: Gate, both: tuple[Tenant, Tenant], path: str, attack: str
) -> None:
    theirs, mine = both
    for fields in (
        {"filter": attack},
        {"order_by": [attack]},
        {"filter": attack, "experiment_ids": [theirs.experiment]},
    ):
        answer = search(gate, path, mine, fields)
        assert answer.status_code in (200, 400, 422), answer.text
        for secret in (*theirs.secrets, "psycopg", "sqlalchemy", "SELECT x", "pg_catalog"):
            assert secret not in answer.text.replace(attack, ""), answer.text
    assert gate.sql("SELECT count(*) FROM mlflow.runs")[0][0] > 0


def search(gate: Gate, path: str, mine: Tenant, fields: dict[str, Any]) -> Answer:
    """One search, by the method that the route has, in the searcher's own experiment by default."""
    fields = {"max_results": 100, **fields}
    if path in ("runs/search", "logged-models/search"):
        fields = {"experiment_ids": [mine.experiment], **fields}
    if path == "logged-models/search" and "order_by" in fields:
        fields["order_by"] = [{"field_name": name} for name in fields["order_by"]]
    if path in ("registered-models/search", "model-versions/search"):
        pairs = [(k, i) for k, v in fields.items() for i in (v if isinstance(v, list) else [v])]
        address = f"/api/2.0/mlflow/{path}"
        return gate.ask("GET", address, mine.organisation, query=pairs)  # type: ignore[arg-type]
    return gate.mlflow("POST", path, mine.organisation, **fields)


@pytest.mark.parametrize(
    "token",
    [
        "x", "' OR 1=1 --", "e30=", "bnVsbA==", "W10=", "MQ==", "LTE=", "\u0661", "../..",
        {"offset": -1}, {"offset": 10**30}, {"offset": "0; DROP TABLE runs"}, {"offset": 1.5},
        {"offset": None}, {"offset": [1]}, {"offset": True}, {"workspace": "sme-a", "offset": 0},
        {"experiment_ids": ["1"], "offset": 0, "filter_string": "", "order_by": []},
    ],
)  # fmt: skip
def test_no_page_token_reaches_another_tenant(
    gate: Gate, both: tuple[Tenant, Tenant], token: Any
) -> None:
    theirs, mine = both
    if isinstance(token, dict):
        filled = {k: [theirs.experiment] if k == "experiment_ids" else v for k, v in token.items()}
        token = base64.b64encode(json.dumps(filled).encode()).decode()
    for path in ("registered-models/search", "model-versions/search", "experiments/search",
                 "runs/search", "logged-models/search"):  # fmt: skip
        answer = search(gate, path, mine, {"page_token": token})
        assert answer.status_code in (200, 400, 422), f"{path}: {answer.status_code} {answer.text}"
        for secret in (*theirs.secrets, "Traceback", "psycopg"):
            assert secret not in answer.text


def test_one_tenants_page_token_shows_another_its_own_pages_alone(
    gate: Gate, both: tuple[Tenant, Tenant]
) -> None:
    theirs, mine = both
    for _ in range(3):
        gate.mlflow("POST", "runs/create", "sme-a", experiment_id=theirs.experiment)
    page = search(gate, "runs/search", theirs, {"max_results": 1}).json()["next_page_token"]
    answer = search(gate, "runs/search", mine, {"max_results": 1, "page_token": page})
    assert answer.status_code in (200, 400)
    assert all(secret not in answer.text for secret in theirs.secrets)


@pytest.mark.parametrize("clauses", [60, 400])
@pytest.mark.parametrize(
    "clause", ["metrics.m{n} > 1", "tags.t{n} = 'x'", "params.p{n} LIKE '%a%'"]
)
def test_a_huge_filter_holds_nobody_up(
    gate: Gate, both: tuple[Tenant, Tenant], clause: str, clauses: int
) -> None:
    """It may be refused, but soon, and others are answered meanwhile."""
    mine = both[1]
    filter_string = " AND ".join(clause.format(n=n) for n in range(clauses))
    began = time.monotonic()
    for path in ("runs/search", "logged-models/search"):
        answer = search(gate, path, mine, {"filter": filter_string})
        assert answer.status_code in (200, 400, 413, 422), answer.text[:300]
        assert "psycopg" not in answer.text
    assert time.monotonic() - began < 20


SPELLINGS = (
    "X-MLFLOW-WORKSPACE", "x-mlflow-workspace", "X_MLFLOW_WORKSPACE", "X-Mlflow_Workspace",
    "X-MLFLOW-WORKSPACE-ID", "X-Forwarded-X-MLFLOW-WORKSPACE", "X-Forwarded-Prefix",
    "X-Forwarded-Host", "X-Forwarded-User", "X-Original-URL", "X-Rewrite-URL", "Forwarded",
    "X-Remote-User", "Remote-User", "X-Databricks-Workspace", "Cookie", "X-HTTP-Method-Override",
    "HTTP_X_MLFLOW_WORKSPACE",
)  # fmt: skip


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_forged_header_puts_nobody_into_another_workspace(
    gate: Gate, both: tuple[Tenant, Tenant], name: str
) -> None:
    theirs, mine = both
    for value in ("sme-a", "workspace=sme-a", "sme-a, sme-b", f"/workspaces/sme-a/{theirs.folder}"):
        headers = {name: value}
        for path, query in (
            ("registered-models/get", {"name": theirs.model}),
            ("runs/get", {"run_id": theirs.run}),
            ("experiments/get-by-name", {"experiment_name": f"e-{theirs.mark}"}),
        ):
            answer = gate.ask(
                "GET", f"/api/2.0/mlflow/{path}", "sme-b", headers=headers, query=query
            )
            assert answer.status_code == 404, f"{name}: {answer.text}"
        file = f"{FILES}/{theirs.folder}/model.onnx"
        assert gate.ask("GET", file, "sme-b", headers=headers).status_code == 404
        own = gate.ask("GET", "/api/2.0/mlflow/runs/get", "sme-b", headers=headers,
                       query={"run_id": mine.run})  # fmt: skip
        assert own.status_code == 200, "it is not the header that is refused"
        made = gate.ask(
            "POST", "/api/2.0/mlflow/registered-models/create", "sme-b", headers=headers,
            fields={"name": "forged"},
        )  # fmt: skip
        assert made.status_code in (200, 400)
    assert gate.sql("SELECT workspace FROM mlflow.registered_models WHERE name = 'forged'") == [
        ("sme-b",)
    ]


def test_no_field_or_query_names_another_workspace(gate: Gate, both: tuple[Tenant, Tenant]) -> None:
    theirs, _ = both
    for more in (
        {"workspace": "sme-a"},
        {"workspace_name": "sme-a"},
        {"X-MLFLOW-WORKSPACE": "sme-a"},
    ):
        query = {"name": theirs.model, **more}
        answer = gate.ask("GET", "/api/2.0/mlflow/registered-models/get", "sme-b", query=query)
        assert answer.status_code == 404
        made = gate.mlflow("POST", "registered-models/create", "sme-b", name="filed", **more)
        assert made.status_code in (200, 400)
    for path in ("/workspaces/sme-a/api/2.0/mlflow/runs/get", "/sme-a/api/2.0/mlflow/runs/get",
                 "/api/2.0/mlflow/workspaces/sme-a/runs/get"):  # fmt: skip
        answer = gate.ask("GET", path, "sme-b", query={"run_id": theirs.run})
        assert answer.status_code in (403, 404)
    found = gate.sql("SELECT workspace FROM mlflow.registered_models WHERE name = 'filed'")
    assert found in ([("sme-b",)], [])


def test_artifacts_are_listed_for_their_owner_alone(
    gate: Gate, both: tuple[Tenant, Tenant]
) -> None:
    theirs, _ = both
    for path in (theirs.folder, "workspaces/sme-a", "workspaces", "", "/", ".", "..",
                 theirs.folder.replace("sme-a", "sme-b/../sme-a"), f"//{theirs.folder}",
                 theirs.folder.replace("/", "%2f"), f"{theirs.folder}\n"):  # fmt: skip
        answer = gate.ask("GET", FILES, "sme-b", query={"path": path})
        assert theirs.model_id not in answer.text.replace(path, "")
        assert "model.onnx" not in answer.text
    bare = theirs.folder.removeprefix("workspaces/sme-a/")
    for path in (bare, f"sme-a/{bare}", f"workspaces/{bare}", f"workspaces/SME-A/{bare}",
                 f"workspaces/sme-a/0{bare}", theirs.folder.replace("/models/", "/")):  # fmt: skip
        for organisation in ("sme-a", "sme-b"):
            answer = gate.ask("GET", f"{FILES}/{path}/model.onnx", organisation)
            assert answer.status_code in (400, 403, 404, 422)
            assert theirs.mark not in answer.text
