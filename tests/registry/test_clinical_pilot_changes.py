"""A certificate, a file or a token that changes while a hospital loads a model by MLflow."""

import threading

import httpx
import pytest

from registry.database.embedded import EmbeddedPostgres
from registry.submissions import places
from tests.registry.logged import behind_the_triggers
from tests.registry.mlflow_server import Gate
from tests.registry.piloted import (
    ALIAS,
    FILES,
    PILOT,
    Piloted,
    all_of,
    asked,
    events,
    piloted,
    resolved,
)
from tests.registry.role import token_of

STOPPED = {
    "suspended": ("in_force = false", "suspended"),
    "revoked": ("in_force = false", "revoked"),
    "expired, and noted": ("in_force = false, not_after = now()", "expired"),
    "expired just now": ("not_after = now() - interval '1 second'", "certified"),
}


def stop(cluster: EmbeddedPostgres, model: Piloted, change: str, state: str) -> None:
    """What a suspension, a revocation or time leaves in the record."""
    behind_the_triggers(
        cluster.superuser_dsn.replace("@/touchstone?", "@/mlflow_gate?"),
        f"UPDATE touchstone.certificate SET {change} WHERE submission = '{model.submission}'",
        f"UPDATE touchstone.submission SET state = '{state}' WHERE id = '{model.submission}'",
    )


@pytest.mark.parametrize("how", STOPPED)
def test_what_was_stopped_between_alias_and_files_is_gone_with_the_next_request(
    gate: Gate, cluster: EmbeddedPostgres, how: str
) -> None:
    model = piloted(gate, f"stopped-{list(STOPPED).index(how)}")
    assert {answer.status_code for answer in all_of(gate, model).values()} == {200}
    noted = events(gate, model.submission)
    stop(cluster, model, *STOPPED[how])
    for answer in all_of(gate, model).values():
        assert answer.status_code == 404
        assert "certified for clinical pilot at present" in answer.json()["message"]
    assert events(gate, model.submission) == noted


def test_a_newer_certificate_between_alias_and_files_is_said(gate: Gate) -> None:
    """Never a mixture of two versions: what was begun with the older one ends in a sentence."""
    first = piloted(gate, "renewed", {"model.onnx": b"first"})
    second = piloted(gate, "renewed", {"model.onnx": b"second"})
    assert (first.version, second.version) == (1, 2)
    found = all_of(gate, first)
    assert "2-unverified" in found["alias"].text
    for what in ("list", "file", "notice"):
        assert found[what].status_code == 404
        assert "load models:/renewed@clinical-pilot again" in found[what].json()["message"]
    assert found["uri"].status_code == 404
    assert all_of(gate, second)["file"].content == b"second"


def test_where_the_newer_version_is_stopped_the_older_certificate_still_holds(
    gate: Gate, cluster: EmbeddedPostgres
) -> None:
    """As for `touchstone pull`."""
    older, newer = piloted(gate, "older-holds"), piloted(gate, "older-holds")
    stop(cluster, newer, *STOPPED["suspended"])
    assert "1-unverified" in all_of(gate, older)["alias"].text
    assert all_of(gate, older)["file"].status_code == 200
    assert all_of(gate, newer)["file"].status_code == 404


def test_a_name_of_two_organisations_is_refused_with_the_way_to_go_on(gate: Gate) -> None:
    mine, theirs = (piloted(gate, "ambiguous", organisation=of) for of in ("sme-a", "sme-b"))
    for what in ("alias", "get", "uri"):
        answer = all_of(gate, mine)[what]
        assert answer.status_code == 409
        assert "touchstone pull ORGANISATION/ambiguous" in answer.json()["message"]
    assert events(gate, mine.submission) == events(gate, theirs.submission) == []
    for name in ("sme-a.ambiguous", "sme-a/ambiguous", "sme-a-ambiguous"):
        assert asked(gate, ALIAS, name=name, alias=PILOT) in (404, 422)


def test_a_tampered_file_is_refused_and_no_byte_of_it_leaves(gate: Gate) -> None:
    model = resolved(gate, piloted(gate, "tampered", {"model.onnx": b"as certified" * 1000}))
    file = gate.artifacts / ".objects" / places.bundle(model.submission) / "model" / "model.onnx"
    file.chmod(0o600)
    file.write_bytes(b"as rewritten" * 1000)
    answer = gate.ask("GET", f"{FILES}/{model.place}/model.onnx", "clinic")
    assert answer.status_code == 409
    assert "not the one that was certified" in answer.json()["message"]
    assert b"rewritten" not in answer.content
    file.unlink()
    assert asked(gate, f"{FILES}/{model.place}/model.onnx") == 404


def test_a_file_that_changes_while_it_is_sent_never_arrives_whole(gate: Gate) -> None:
    content = bytes(1 << 20) * 24
    model = resolved(gate, piloted(gate, "changed-on-the-way", {"model.onnx": content}))
    file = gate.artifacts / ".objects" / places.bundle(model.submission) / "model" / "model.onnx"
    headers = {"Authorization": f"Bearer {gate.tokens['clinic']}"}
    got: list[int] = []

    def read(answer: httpx.Response) -> None:
        got.extend(map(len, answer.iter_bytes()))

    address = f"{gate.url}{FILES}/{model.place}/model.onnx"
    with httpx.stream("GET", address, headers=headers) as answer:
        assert answer.headers["content-length"] == str(len(content))
        file.chmod(0o600)
        with file.open("r+b") as stream:
            stream.seek(-1, 2)
            stream.write(b"x")
        with pytest.raises(httpx.RemoteProtocolError):
            read(answer)
    assert sum(got) <= len(content) - (1 << 20), "the last block was kept back"


def test_many_who_load_at_once_each_get_the_whole_file(gate: Gate) -> None:
    content = bytes(range(256)) * 20_000
    model = resolved(gate, piloted(gate, "loaded-by-many", {"model.onnx": content}))
    got: list[bytes] = []

    def load() -> None:
        answer = gate.ask("GET", f"{FILES}/{model.place}/model.onnx", "clinic")
        got.append(answer.content)

    threads = [threading.Thread(target=load) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert got == [content] * 12


@pytest.mark.parametrize("token", ["expired", "revoked"])
def test_a_token_that_ended_loads_nothing(gate: Gate, token: str) -> None:
    model = resolved(gate, piloted(gate, f"loaded-{token}"))
    secret = token_of(gate.databases, "clinic", "clinician", f"Former {token}")
    headers = {"Authorization": f"Bearer {secret}"}
    path = f"{FILES}/{model.place}/model.onnx"
    assert gate.ask("GET", path, None, headers=headers).status_code == 200
    column = {"expired": "expires_at", "revoked": "revoked_at"}[token]
    gate.sql(f"UPDATE touchstone.token SET {column} = now() WHERE person = %s", f"Former {token}")
    assert gate.ask("GET", path, None, headers=headers).status_code == 401
