"""A run on the development cohort, by REST and by the command line."""

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from registry.api.app import create_api
from registry.identity.rate import Throttle
from registry.pipeline.carry import carry
from registry.settings import Databases
from registry.trust.errors import NotFound, Refused
from tests.registry.api_stage import OFTEN, client, listening
from tests.registry.development_example import development_example
from tests.registry.facility_example import Example, honest
from tests.registry.registered import register
from tests.registry.role import Role, token_of
from validators.report.ladder import NOTICE

Cli = Callable[..., str]


@pytest.fixture(scope="module")
def life(database: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    with development_example(database, tmp_path_factory.mktemp("doors")) as made:
        made.fresh()
        yield made


@pytest.fixture(scope="module")
def server(life: Example) -> Iterator[str]:
    with listening(create_api(life.api, throttle=Throttle(OFTEN))) as address:
        yield address


@pytest.fixture(scope="module")
def secrets(life: Example) -> dict[str, str]:
    databases = life.api.databases
    return {
        "Eva": token_of(databases, "sme-a", "innovator", "Eva"),
        "Finn": token_of(databases, "sme-b", "innovator", "Finn"),
    }


@pytest.fixture
def cli(server: str, secrets: dict[str, str], monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> Cli:  # fmt: skip
    """`cli("Eva", "status", …)`: what the command prints."""
    for name in [name for name in os.environ if name.startswith("TOUCHSTONE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TOUCHSTONE_SERVER", server)

    def run(who: str, *arguments: object) -> str:
        from registry.cli.main import app

        monkeypatch.setenv("TOUCHSTONE_TOKEN", secrets[who])
        capsys.readouterr()
        app([*map(str, arguments)], standalone_mode=False)
        return capsys.readouterr().out

    return run


def test_by_rest(life: Example, server: str, secrets: dict[str, str]) -> None:
    register(Role(life.api.databases.owner), "sme-a", "by-rest")
    body: dict[str, Any] = {
        "model": "by-rest", "version": 1, "protocol": life.protocol, "cohort": "open",
    }  # fmt: skip
    eva = {"Authorization": f"Bearer {secrets['Eva']}"}
    finn = {"Authorization": f"Bearer {secrets['Finn']}"}
    with client(server) as http:
        plain = http.post("/submissions", json=body, headers=eva)
        assert (plain.status_code, "development cohort" in plain.json()["detail"]) == (403, True)
        wrong = http.post("/submissions", json=body | {"development": "yes"}, headers=eva)
        assert wrong.status_code == 422
        added = http.post("/submissions", json=body | {"development": True}, headers=eva)
        assert added.status_code == 201, added.text
        shown = added.json()
        assert (shown["development"], shown["trials"]) == (True, {"allowed": 20, "spent": 0})
        address = f"/submissions/{shown['id']}"
        assert http.get(f"{address}/report", headers=eva).status_code == 409
        life.pass_intake(shown["id"], honest())
        with life.turn() as turn:
            assert carry(life.worker, turn) == "tried"
        report = http.get(f"{address}/report", headers=eva)
        assert report.json()["notice"] == NOTICE
        assert http.get(address, headers=eva).json()["outcome"] is None
        for path in (address, f"{address}/report", f"{address}/statement"):
            refused: httpx.Response = http.get(path, headers=finn)
            assert refused.status_code in (403, 404), path
        assert http.get(f"{address}/report.html", headers=eva).status_code == 403
        decided = http.post(f"{address}/decisions", json={"envelope": {}}, headers=eva)
        assert decided.status_code == 403


def test_by_the_command_line(life: Example, cli: Cli) -> None:
    register(Role(life.api.databases.owner), "sme-a", "by-hand")
    ask = ("submit", "models:/by-hand/1", "--protocol", life.protocol, "--cohort", "open")
    with pytest.raises(Refused, match="submit with --development"):
        cli("Eva", *ask)
    shown = json.loads(cli("Eva", *ask, "--development", "--json"))
    life.pass_intake(shown["id"], honest(0.2))
    with life.turn() as turn:
        carry(life.worker, turn)
    status = cli("Eva", "status", shown["id"])
    assert "tried: run on the development cohort; it decides nothing" in status
    assert "of 20 spent" in status
    assert "attempts" not in status
    table = cli("Eva", "report", shown["id"])
    assert NOTICE in table
    for word in ("best so far", "sensitivity", "slice_thickness thin", "auc"):
        assert word in table, table
    assert json.loads(cli("Eva", "report", shown["id"], "--json"))["notice"] == NOTICE
    with pytest.raises(NotFound):
        cli("Finn", "report", shown["id"])
