"""The API as a client sees it: errors, pages, tags."""

import itertools
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from registry.api.conditional import matches
from registry.audit.checkpoints import make_checkpoint
from registry.identity.accounts import authenticate
from registry.settings import Databases
from registry.submissions import certified, pilots
from registry.trust.canonical import sha256_bytes
from registry.trust.dsse import payload_of
from registry.trust.keys import pem_of
from tests.registry.api_stage import PEOPLE, Stage, client
from tests.registry.pilot_made import signed_report
from tests.registry.role import token_of


@pytest.fixture(scope="module")
def stage(database: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    made = Stage(database, tmp_path_factory.mktemp("facility")).with_log()
    yield made
    made.close()


@pytest.fixture(scope="module")
def http(stage: Stage) -> Iterator[httpx.Client]:
    with stage.listening() as server, client(server) as opened:
        yield opened


def problem(answer: httpx.Response, status: int) -> str:
    """The problem's code, after a look at its form."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert set(body) == {"type", "title", "status", "detail", "code"}
    assert body["status"] == status
    assert "\n" not in body["detail"]
    return str(body["code"])


def test_every_kind_of_wrong_request_is_a_problem(stage: Stage, http: httpx.Client) -> None:
    me = stage.headers("admin")
    json_type = {"Content-Type": "application/json"}
    assert problem(http.get("/submissions"), 401) == "unauthenticated"
    assert problem(http.get("/me", headers={"Authorization": "Bearer nope"}), 401)
    assert problem(http.get("/nowhere", headers=me), 404) == "not_found"
    assert problem(http.get("/me/", headers=me), 404) == "not_found"
    assert problem(http.get("/protocols/%00", headers=me), 404) == "not_found"
    refused = http.delete("/me", headers=me)
    assert problem(refused, 405) == "method_not_allowed"
    assert refused.headers["allow"] == "GET"
    assert problem(http.get("/me?x=1", headers=me), 422) == "unknown_parameter"
    assert problem(http.get("/cohorts?limit=1&limit=2", headers=me), 422) == "unknown_parameter"
    for body in (b"{", b"\xff", b'{"a": NaN}', b'{"a": 1e999}', b'{"a":1,"a":2}', b'"\\ud800"',
                 b'"\\u0000"', b"9007199254740993", b"[" * 100_000, b"1" * 5000):  # fmt: skip
        answer = http.post("/organisations", content=body, headers=me | json_type)
        assert problem(answer, 422) == "malformed_json"
    assert problem(http.post("/organisations", content=b"a=b", headers=me), 415) == "not_json"
    large = b'"' + b"x" * (5 * 1024**2) + b'"'
    assert problem(http.post("/organisations", content=large, headers=me | json_type), 413)
    chunks = (b" " * 1024**2 for _ in range(6))
    assert problem(http.post("/organisations", content=chunks, headers=me | json_type), 413)
    assert problem(http.post("/organisations", json={"id": "x"}, headers=me), 422) == "invalid"
    assert problem(http.post("/organisations", json=[], headers=me), 422) == "invalid"


def test_an_unforeseen_error_shows_nothing_of_itself(
    stage: Stage, http: httpx.Client, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    from registry.submissions import lock

    def broken(*_: object) -> None:
        raise RuntimeError("patient 4711 has a score of 0.93")

    monkeypatch.setattr(lock, "protocols", broken)
    answer = http.get("/protocols", headers=stage.headers("steward"))
    assert problem(answer, 500) == "fault"
    assert "patient 4711" not in answer.text
    assert "patient 4711" not in caplog.text
    assert "RuntimeError at" in caplog.text


def pages(http: httpx.Client, path: str, headers: dict[str, str], limit: int) -> list[list[Any]]:
    """Every page, following the Link header."""
    found = []
    address: str | None = f"{path}?limit={limit}"
    while address is not None:
        answer = http.get(address, headers=headers)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        found.append(body["items"])
        link = answer.links.get("next", {}).get("url")
        assert (link is None) == (body["next"] is None)
        address = None if link is None else link.removeprefix("/api/v1")
    return found


def test_a_list_in_pages_has_every_item_once_while_others_are_added(
    stage: Stage, http: httpx.Client
) -> None:
    me = stage.headers()
    made = [stage.submission("registered") for _ in range(7)]
    first = http.get("/submissions?limit=3", headers=me).json()
    added = [stage.submission("registered") for _ in range(4)]
    seen = [row["id"] for row in first["items"]]
    cursor = first["next"]
    while cursor:
        following = http.get("/submissions", params={"limit": 3, "cursor": cursor}, headers=me)
        body = following.json()
        seen += [row["id"] for row in body["items"]]
        cursor = body["next"]
    assert len(seen) == len(set(seen))
    assert set(made) <= set(seen)
    assert not set(added) & set(seen)
    everything = pages(http, "/submissions", me, 4)
    assert [len(page) for page in everything[:-1]] == [4] * (len(everything) - 1)
    assert {row["id"] for page in everything for row in page} >= {*made, *added}


LISTS = {
    "/cohorts": "steward",
    "/protocols": "steward",
    "/submissions": "innovator",
    "/tokens": "admin",
    "/people": "admin",
    "/keys": "auditor",
    "/notices": "innovator",
    "/pilots": "steward",
    "/audit/events": "auditor",
    "/audit/checkpoints": "auditor",
    "/audit/checkpoint-index": "auditor",
}


def report_pilot(stage: Stage) -> None:
    """One more report of the hospital, of a model that it pulled."""
    submission = stage.certified()
    clara = authenticate(stage.facility.record, stage.secrets["clinician"])
    certified.listing(stage.facility, clara, stage.model_of(submission))
    envelope = signed_report(
        stage.hospital, sha256_bytes(payload_of(stage.envelope_of(submission)))
    )
    pem = pem_of(stage.hospital.certificate).decode()
    pilots.receive(stage.facility, clara, envelope, pem)


def grow(stage: Stage, path: str, number: int) -> None:
    """One more row in each list that grows while somebody reads."""
    name = f"{'AaZz'[number % 4]}{path.strip('/')}-{uuid.uuid4()}"
    if path == "/people":
        stage.owner.execute(
            "INSERT INTO touchstone.person (name, issuer, subject, added_by) VALUES"
            " (%s, 'https://login.example.org', %s, 'Ann')", (name, name),
        )  # fmt: skip
    elif path in ("/tokens", "/keys"):
        token_of(stage.database, "tef", "assessor", name)  # enrols a key, too
    elif path.startswith("/audit/checkpoint"):
        stage.submission("in_review")
        make_checkpoint(stage.facility)
    elif path == "/pilots":
        report_pilot(stage)
    elif path == "/protocols":
        stage.owner.execute(
            "INSERT INTO touchstone.protocol (digest, id, version, body, attempts, locked_by)"
            " SELECT 'sha256:' || encode(sha256(%s), 'hex'), %s, '1', '{}', 1, 'Sam'",
            (name.encode(), f"p-{name[-36:]}"),
        )
    elif path == "/cohorts":
        stage.owner.execute(
            "INSERT INTO touchstone.cohort SELECT id, %s, 'sha256:' || encode(sha256(%s), 'hex'),"
            " manifest_digest, manifest_path, title, positives, negatives, patients,"
            " contract_digest, locked_by FROM touchstone.cohort LIMIT 1",
            (name[-31:], name.encode()),
        )
    else:
        stage.submission("in_review")


@pytest.mark.parametrize("path", LISTS)
def test_every_list_has_every_item_once_while_others_are_added(
    stage: Stage, http: httpx.Client, path: str
) -> None:
    me = stage.headers(LISTS[path])
    for number in range(4):
        grow(stage, path, number)
    before = everything(http, path, me)
    assert len(before) >= 4
    assert [row for page in pages(http, path, me, 1) for row in page] == before
    seen = []
    cursor: str | None = ""
    for number in itertools.count():
        query = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
        body = http.get(path, params=query, headers=me).json()
        assert set(body) == {"items", "next"}
        assert len(body["items"]) <= 2
        seen += [unique(row) for row in body["items"]]
        cursor = body["next"]
        if cursor is None:
            break
        if number < 3:
            grow(stage, path, number)
    assert len(seen) == len(set(seen)), "an item came twice"
    assert {unique(row) for row in before} <= set(seen), "an item was left out"
    assert len(everything(http, path, me)) > len(before)


def everything(http: httpx.Client, path: str, me: dict[str, str]) -> list[Any]:
    return [row for page in pages(http, path, me, 200) for row in page]


def unique(row: dict[str, Any]) -> str:
    """What tells a row from the others of its list."""
    if "locked_at" in row:
        return f"{row['id']}/{row['version']}"
    return str(next(row[key] for key in ("id", "key", "number", "seq", "size") if key in row))


@pytest.mark.parametrize("path", LISTS)
def test_no_list_goes_on_by_a_cursor_of_another(
    stage: Stage, http: httpx.Client, path: str
) -> None:
    for number in range(2):
        grow(stage, path, number)
    me = stage.headers(LISTS[path])
    cursor = http.get(path, params={"limit": 1}, headers=me).json()["next"]
    assert http.get(path, params={"cursor": cursor}, headers=me).status_code == 200
    organisation, person = PEOPLE[LISTS[path]]
    mine_elsewhere = token_of(stage.database, organisation, LISTS[path], person)
    for where, headers, given in (
        (path, {"Authorization": f"Bearer {mine_elsewhere}"}, cursor),
        ("/protocols" if path != "/protocols" else "/cohorts", me, cursor),
        (path, me, cursor[:-1] + ("A" if cursor[-1] != "A" else "B")),
        (path, me, "A" * 60),
    ):
        answer = http.get(where, params={"cursor": given}, headers=headers)
        assert problem(answer, 422) == "cursor_unknown"
    most = 5000 if path.startswith("/audit/") else 200
    for limit in ("0", str(most + 1), "x", "-1"):
        assert problem(http.get(path, params={"limit": limit}, headers=me), 422) == "invalid"
    assert http.get(path, params={"limit": most}, headers=me).status_code == 200


def test_a_list_in_pages_shows_nothing_that_the_whole_would_not(
    stage: Stage, http: httpx.Client
) -> None:
    stage.submission("in_review")
    own = everything(http, "/notices", stage.headers("innovator"))
    assert {row["organisation"] for row in own} == {"sme-a"}
    assert everything(http, "/notices", stage.headers("stranger")) == []
    tokens = [row for page in pages(http, "/tokens", stage.headers("innovator"), 1) for row in page]
    assert {(row["organisation"], row["person"]) for row in tokens} == {("sme-a", "Eva")}
    for path in ("/people", "/keys", "/audit/events"):
        who = "clinician" if path != "/audit/events" else "steward"
        assert http.get(path, headers=stage.headers(who)).status_code == 403, path


def test_notices_beyond_a_number_are_those_that_are_new(stage: Stage, http: httpx.Client) -> None:
    me = stage.headers()
    stage.submission("in_review")
    known = everything(http, "/notices", me)
    asked = {"after": known[-1]["number"]}
    answer = http.get("/notices", params=asked, headers=me)
    assert answer.status_code == 200
    assert answer.json() == {"items": [], "next": None}
    tag = {"If-None-Match": answer.headers["etag"]}
    assert http.get("/notices", params=asked, headers=me | tag).status_code == 304
    new = {stage.submission("in_review") for _ in range(2)}
    page = http.get("/notices", params=asked | {"limit": 1}, headers=me | tag).json()
    rest = http.get("/notices", params=asked | {"cursor": page["next"]}, headers=me).json()
    assert {row["submission"] for row in page["items"] + rest["items"]} == new


def test_a_notice_waits_for_one_that_is_still_being_written(
    stage: Stage, http: httpx.Client
) -> None:
    """Else whoever had read up to the later number would never be told the earlier one."""
    submission = stage.submission("registered")
    add = (
        "INSERT INTO touchstone.notice (organisation, submission, kind, message, occasion)"
        f" VALUES ('sme-a', '{submission}', %s, 'm', now())"
    )
    with psycopg.connect(str(stage.database.worker)) as first:
        first.execute(add, ("one",))
        with (
            psycopg.connect(str(stage.database.worker), options="-c lock_timeout=200") as second,
            pytest.raises(psycopg.errors.LockNotAvailable),
        ):
            second.execute(add, ("two",))
    told = everything(http, "/notices", stage.headers())
    assert [row["kind"] for row in told if row["submission"] == submission] == ["one"]


def test_a_cursor_that_was_not_given_is_refused(stage: Stage, http: httpx.Client) -> None:
    for _ in range(2):
        stage.submission("registered")
    me, other = stage.headers(), stage.headers("assessor")
    cursor = http.get("/submissions?limit=1", headers=me).json()["next"]
    ask = {"limit": "1", "cursor": cursor}
    assert http.get("/submissions", params=ask, headers=me).status_code == 200
    for path, headers, changed in (
        ("/submissions", other, cursor),
        ("/cohorts", me, cursor),
        ("/submissions", me, cursor[:-1] + ("A" if cursor[-1] != "A" else "B")),
        ("/submissions", me, "A" * 60),
        ("/submissions", me, "A" * 61),
    ):
        answer = http.get(path, params=ask | {"cursor": changed}, headers=headers)
        assert problem(answer, 422) == "cursor_unknown"
    assert problem(http.get("/submissions?cursor=x", headers=me), 422) == "invalid"


@pytest.mark.parametrize("path", LISTS)
def test_a_list_that_did_not_grow_is_not_sent_again(
    stage: Stage, http: httpx.Client, path: str
) -> None:
    me = stage.headers(LISTS[path])
    for number in range(2):
        grow(stage, path, number)
    following = http.get(path, params={"limit": 1}, headers=me).json()["next"]
    most = {"limit": "5000" if path.startswith("/audit/") else "200"}
    for query in ({"limit": "1"}, {"limit": "1", "cursor": following}, most):
        first = http.get(path, params=query, headers=me)
        tag = {"If-None-Match": first.headers["etag"]}
        again = http.get(path, params=query, headers=me | tag)
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers.get("link") == first.headers.get("link")
    grow(stage, path, 2)
    assert http.get(path, params=most, headers=me | tag).status_code == 200


def test_an_unchanged_answer_is_not_sent_again(stage: Stage, http: httpx.Client) -> None:
    submission = stage.submission("registered")
    me = stage.headers()
    for path in (f"/submissions/{submission}", "/submissions", "/cohorts", "/me"):
        first = http.get(path, headers=me)
        assert first.headers["cache-control"] == "private, no-cache"
        again = http.get(path, headers=me | {"If-None-Match": first.headers["etag"]})
        assert again.status_code == 304
        assert again.content == b""
        assert again.headers["etag"] == first.headers["etag"]
    path = f"/submissions/{submission}"
    tag = http.get(path, headers=me).headers["etag"]
    stage.worker.execute(
        "UPDATE touchstone.submission SET state = 'intake' WHERE id = %s", (submission,)
    )
    moved = http.get(path, headers=me | {"If-None-Match": tag})
    assert moved.status_code == 200
    assert moved.json()["state"] == "intake"
    # A tag is no way round the check of who asks.
    assert http.get(path, headers={"If-None-Match": tag}).status_code == 401
    stranger = stage.headers("stranger", If_None_Match=tag)
    assert http.get(path, headers=stranger).status_code == 404


def test_a_report_is_kept_by_no_cache_and_asked_for_by_its_digest(
    stage: Stage, http: httpx.Client
) -> None:
    submission = stage.submission()
    me = stage.headers("assessor")
    first = http.get(f"/submissions/{submission}/report", headers=me)
    assert first.headers["cache-control"] == "private, no-store"
    row = http.get(f"/submissions/{submission}", headers=me).json()
    assert first.headers["etag"].strip('"') == row["report_digest"].removeprefix("sha256:")
    again = http.get(f"/submissions/{submission}/report",
                     headers=me | {"If-None-Match": first.headers["etag"]})  # fmt: skip
    assert again.status_code == 304


@pytest.mark.parametrize(
    ("asked", "tag", "same"),
    [
        ('"a"', '"a"', True),
        ('W/"a"', '"a"', True),
        ('"b", "a"', '"a"', True),
        ("*", '"a"', True),
        ("", '"a"', False),
        ("a", '"a"', False),
        ('"a', '"a"', False),
        ('"A"', '"a"', False),
        ("\xff,,,", '"a"', False),
    ],
)
def test_if_none_match_is_read_as_rfc_9110_says(asked: str, tag: str, same: bool) -> None:
    assert matches(asked, tag) is same


def test_a_part_of_a_bundles_file_is_what_was_asked_for(stage: Stage, http: httpx.Client) -> None:
    model = stage.model_of(stage.certified())
    whole = bytes(range(256)) * 16
    ask = {"name": model, "path": "model/model.onnx"}
    me = stage.headers("clinician")
    full = http.get("/certified/file", params=ask, headers=me)
    assert full.content == whole
    for asked, part in (
        ("bytes=100-", whole[100:]),
        ("bytes=0-9", whole[:10]),
        ("bytes=-6", whole[-6:]),
        ("bytes=4090-99999", whole[4090:]),
    ):
        answer = http.get("/certified/file", params=ask, headers=me | {"Range": asked})
        assert (answer.status_code, answer.content) == (206, part)
        assert answer.headers["etag"] == full.headers["etag"]
        assert answer.headers["content-range"].endswith("/4096")
    for asked in ("bytes=4096-", "bytes=-0"):
        answer = http.get("/certified/file", params=ask, headers=me | {"Range": asked})
        assert problem(answer, 416) == "range_not_satisfiable"
        assert answer.headers["content-range"] == "bytes */4096"
    for asked in ("bytes=9-3", "bytes=-", "bytes=a-", "lines=1-2", "bytes=0-1,4-5"):
        answer = http.get("/certified/file", params=ask, headers=me | {"Range": asked})
        assert (answer.status_code, answer.content) == (200, whole)
    other = me | {"Range": "bytes=100-", "If-Range": '"other"'}
    assert http.get("/certified/file", params=ask, headers=other).status_code == 200


def test_the_door_shows_every_field_that_a_submission_has(stage: Stage) -> None:
    from registry.api.submissions import Submission
    from registry.identity.accounts import authenticate
    from registry.submissions.submit import view

    submission = stage.submission()
    caller = authenticate(stage.facility.record, stage.secrets["assessor"])
    assert set(view(stage.facility, caller, submission)) == set(Submission.model_fields)


def test_a_submission_that_stopped_looks_the_same_in_the_list_as_alone(
    stage: Stage, http: httpx.Client
) -> None:
    name = stage.submission(state="queued")
    stage.worker.execute(
        "UPDATE touchstone.submission SET state = 'technical_failure',"
        " failure_code = 'model_crash', failure_message = 'it crashed' WHERE id = %s", (name,),
    )  # fmt: skip
    for role in ("innovator", "steward"):
        alone = http.get(f"/submissions/{name}", headers=stage.headers(role)).json()
        listed = http.get("/submissions", headers=stage.headers(role)).json()["items"]
        assert alone["failure"]["code"] == "model_crash"
        assert [row for row in listed if row["id"] == name] == [alone]


def test_what_is_hidden_from_an_sme_is_not_in_the_answer(stage: Stage, http: httpx.Client) -> None:
    submission = stage.submission()
    shown = http.get(f"/submissions/{submission}", headers=stage.headers()).json()
    assert not {"verdict", "report_digest", "cohort_root", "decisions"} & set(shown)
    cohort = http.get("/cohorts", headers=stage.headers()).json()["items"][0]
    assert not {"root", "manifest_path", "manifest_digest", "locked_by"} & set(cohort)
    assert json.dumps(shown)
    assert uuid.UUID(shown["id"])
    assert Path(submission).name == submission
