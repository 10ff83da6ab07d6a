"""What the API says of itself, and what its guide says of it."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from jsonschema import Draft202012Validator

from registry.settings import Databases
from tests.registry.api_stage import Stage
from tests.registry.test_api import LISTS

GUIDE = Path(__file__).parents[2] / "docs" / "api.md"
Operation = dict[str, Any]


@pytest.fixture(scope="module")
def stage(database: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    made = Stage(database, tmp_path_factory.mktemp("facility"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def described(stage: Stage) -> dict[str, Any]:
    return stage.app.openapi()


def operations(described: dict[str, Any]) -> list[tuple[str, str, Operation]]:
    return [
        (method, path, operation)
        for path, item in described["paths"].items()
        for method, operation in item.items()
    ]


def test_the_description_is_openapi_3_1(described: dict[str, Any]) -> None:
    assert described["openapi"].startswith("3.1")
    schemathesis.openapi.from_dict(described).validate()
    for name, schema in described["components"]["schemas"].items():
        Draft202012Validator.check_schema(schema)
        assert "$defs" not in schema, name


def test_every_operation_is_told_in_full(described: dict[str, Any]) -> None:
    found = operations(described)
    assert len(found) >= 19
    names = [operation["operationId"] for _, _, operation in found]
    assert len(names) == len(set(names))
    for method, path, operation in found:
        place = f"{method} {path}"
        assert operation["summary"], place
        assert operation["description"], place
        assert operation["tags"], place
        for parameter in operation.get("parameters", []):
            assert parameter.get("description"), f"{place} {parameter['name']}"
        bodies = [operation["requestBody"]] if "requestBody" in operation else []
        bodies += [answer for status, answer in operation["responses"].items() if status < "3"]
        for body in bodies:
            for media in body.get("content", {}).values():
                assert "example" in media or "examples" in media, place
                if not set(media["schema"]) - {"title"}:
                    pytest.fail(f"{place}: an answer without a schema")


def test_every_operation_names_its_errors(described: dict[str, Any]) -> None:
    for method, path, operation in operations(described):
        needed = {"422", "429", "503"}
        if path.startswith("/api/"):
            needed |= {"401", "403", "404"}
        if method == "get":
            needed |= {"304"}
        else:
            needed |= {"409", "413", "415"}
        assert needed <= set(operation["responses"]), f"{method} {path}"
        for status, answer in operation["responses"].items():
            if status >= "4":
                assert set(answer["content"]) == {"application/problem+json"}, f"{method} {path}"


def test_everything_but_health_and_logging_in_needs_a_token(described: dict[str, Any]) -> None:
    opened = {path for _, path, operation in operations(described) if not operation.get("security")}
    assert {path for path in opened if not path.startswith("/api/v1/login")} == {
        "/health/live",
        "/health/ready",
        "/api/v1/status/files/{file}",
    }


def test_every_write_takes_an_idempotency_key(described: dict[str, Any]) -> None:
    writes = [
        (f"{method} {path}", {parameter["name"] for parameter in operation["parameters"]})
        for method, path, operation in operations(described)
        if method != "get" and operation.get("security")
    ]
    assert len(writes) >= 6
    assert [place for place, names in writes if "Idempotency-Key" not in names] == []


def test_every_list_comes_in_pages(described: dict[str, Any]) -> None:
    schemas = described["components"]["schemas"]
    found = set()
    for method, path, operation in operations(described):
        content = operation["responses"].get("200", {}).get("content", {})
        schema = content.get("application/json", {}).get("schema", {})
        schema = schemas.get(schema.get("$ref", "").rpartition("/")[2], schema)
        place = f"{method} {path}"
        assert schema.get("type") != "array", f"{place} answers with a bare list"
        fields = schema.get("properties", {})
        arrays = {name for name, field in fields.items() if field.get("type") == "array"}
        if method != "get" or "{" in path:  # what one thing is made of, or what was written
            continue
        assert arrays <= {"items"}, f"{place} answers with a list of its own form"
        if "items" in fields:
            found.add(path.removeprefix("/api/v1"))
            assert set(fields) == {"items", "next"}, place
            limit, cursor = (
                next(one for one in operation["parameters"] if one["name"] == name)
                for name in ("limit", "cursor")
            )
            assert limit["schema"]["maximum"] <= 5000, place
            assert not cursor["required"], place
            assert "Link" in operation["responses"]["200"]["headers"], place
    assert found == set(LISTS)


def blocks() -> list[str]:
    return re.findall(r"^```bash\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", blocks())
def test_every_command_of_the_guide_runs(stage: Stage, block: str) -> None:
    expected = re.findall(r"# prints (.*)$", block, re.MULTILINE)
    assert expected, "a command of the guide says what it prints"
    stage.register("nodule-net")
    with stage.listening() as address:
        environment = {"PATH": os.environ["PATH"], "TOUCHSTONE_SERVER": address,
                       "TOUCHSTONE_TOKEN": stage.secrets["innovator"], "no_proxy": "*"}  # fmt: skip
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for text in expected:
        assert text in done.stdout
