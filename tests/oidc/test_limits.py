"""Limits at a real server: they bite, they say for how long, and they let go."""

import secrets
import time
from pathlib import Path

import httpx
import mlflow
import pytest

from tests.oidc.conftest import Registry, Server, Stage, free_port
from tests.oidc.provider import TRUST
from tests.registry.role import token_of


@pytest.fixture
def strict(stage: Stage) -> Registry:
    """The registry, which has little patience (see `stage`)."""
    return stage.registry


def at(address: str) -> dict[str, str]:
    return {"X-Forwarded-For": f"8.8.8.8, {address}"}


def wrong() -> str:
    return "tst_" + secrets.token_urlsafe(32)


def test_guessing_is_refused_with_the_seconds_to_wait_and_may_go_on_after_them(
    strict: Registry,
) -> None:
    for _ in range(5):
        assert strict.ask("GET", "/me", wrong(), headers=at("192.0.2.1")).status_code == 401
    answer = strict.ask("GET", "/me", wrong(), headers=at("192.0.2.1"))
    assert answer.status_code == 429
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "too_many_requests"
    wait = int(answer.headers["retry-after"])
    assert 1 <= wait <= 5
    assert strict.ask("GET", "/me", wrong(), headers=at("192.0.2.2")).status_code == 401
    time.sleep(wait)
    assert strict.ask("GET", "/me", wrong(), headers=at("192.0.2.1")).status_code == 401


def test_mlflows_door_answers_in_mlflows_words(strict: Registry) -> None:
    def ask(token: str) -> httpx.Response:
        return httpx.get(
            f"{strict.url}/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default",
            headers={"Authorization": f"Bearer {token}", **at("192.0.2.3")},
            trust_env=False,
            verify=TRUST,
        )

    for _ in range(5):
        assert ask(wrong()).status_code == 401
    answer = ask(wrong())
    assert answer.status_code == 429
    assert answer.json()["error_code"] == "REQUEST_LIMIT_EXCEEDED"
    assert answer.json()["status"] == 429
    assert int(answer.headers["retry-after"]) >= 1


def test_the_stock_client_waits_and_goes_on_by_itself(
    strict: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    token = token_of(strict.databases, "sme-a", "innovator", "Busy")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", token)
    monkeypatch.chdir(tmp_path)
    client = mlflow.MlflowClient(strict.url)
    start = time.monotonic()
    for number in range(80):
        client.create_experiment(f"busy-{number}")
    assert time.monotonic() - start > 1, "it was made to wait"


SIGNED = {"envelope": {"payload": "", "payloadType": "x", "signatures": []}}


def test_sign_ins_with_a_key_are_counted_as_logins(strict: Registry) -> None:
    key = {"person": "Ada", "organisation": "tef", "key": "sha256:" + "0" * 64}
    for path, body, status in (("/login/key", key, 201), ("/login/key/token", SIGNED, 422)) * 4:
        answer = strict.ask("POST", path, headers=at("192.0.2.9"), json=body)
        assert answer.status_code == status
    assert strict.ask("GET", "/login", headers=at("192.0.2.9")).status_code == 429


def test_logins_are_begun_and_ended_only_so_often_from_one_address(strict: Registry) -> None:
    for _ in range(4):
        answer = strict.ask("GET", "/login", headers=at("192.0.2.4"))
        assert answer.status_code == 303
        answer = strict.ask("GET", "/login/callback?state=x", headers=at("192.0.2.4"))
        assert answer.status_code == 401
    key = {"person": "Ada", "organisation": "tef", "key": "sha256:" + "0" * 64}
    for path, body in (("/login/device", {}), ("/login/key", key), ("/login/key/token", SIGNED)):
        answer = strict.ask("POST", path, headers=at("192.0.2.4"), json=body)
        assert answer.status_code == 429
    assert strict.ask("GET", "/login", headers=at("192.0.2.5")).status_code == 303
    time.sleep(int(answer.headers["retry-after"]))
    assert strict.ask("GET", "/login", headers=at("192.0.2.4")).status_code == 303


def test_device_logins_are_asked_about_only_so_often(strict: Registry) -> None:
    statuses = [
        strict.ask(
            "POST", "/login/device/token", headers=at("192.0.2.7"), json={"handle": wrong()}
        ).status_code
        for _ in range(9)
    ]
    assert statuses == [401] * 8 + [429]


def test_a_forged_address_does_not_help(strict: Registry) -> None:
    for number in range(6):
        headers = {"X-Forwarded-For": f"10.0.0.{number}, 192.0.2.6"}  # the proxy writes the last
        answer = strict.ask("GET", "/me", wrong(), headers=headers)
    assert answer.status_code == 429


@pytest.mark.slow
def test_without_a_proxy_of_ours_nobody_says_where_they_are(server: Server, tmp_path: Path) -> None:
    other = Server(tmp_path, server.registry.databases, free_port())
    other.start(TOUCHSTONE_LIMIT_FAILURES="5/hour")
    try:
        answer = other.registry.ask("GET", "/login")
        assert (answer.status_code, answer.json()["code"]) == (404, "no_identity_provider")
        answers = [
            other.registry.ask("GET", "/me", wrong(), headers={"X-Forwarded-For": f"192.0.2.{n}"})
            for n in range(6)
        ]
        assert [answer.status_code for answer in answers] == [401] * 5 + [429]
    finally:
        other.stop()
