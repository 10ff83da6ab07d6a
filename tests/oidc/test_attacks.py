"""A provider that lies, a thief with a code, a mapping that was edited: none of them gets in."""

import time
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
from authlib.oauth2.rfc7636 import create_s256_code_challenge

from registry.database.record import Record
from registry.identity.login import Logins
from registry.identity.oidc import Identity, Provider
from registry.identity.oidc_settings import OidcSettings
from registry.trust.errors import Refused
from tests.oidc.conftest import SME_GROUP, Stage
from tests.oidc.provider import CLIENT_SECRET, TRUST, Person

FORGED = {
    "nonce": "nonce",
    "no nonce": "nonce",
    "aud": "aud",
    "aud list": "aud",
    "aud without azp": "azp",
    "azp": "azp",
    "iss": "iss",
    "exp": "exp",
    "iat": "iat",
    "old iat": "iat",
    "nbf": "nbf",
    "at_hash": "at_hash",
    "sub": "sub",
    "sub list": "sub",
    "crlf sub": "sub",
    "alg none": "algorithm",
    "no signature": "bad_signature",
    "hs256 public key": "algorithm",
    "hs256 secret": "algorithm",
    "stranger": "no published key",
    "stranger in the header": "no published key",
    "stranger under our kid": "bad_signature",
}


@pytest.fixture(autouse=True)
def eva(stage: Stage) -> None:
    """Somebody who may log in, so that each refusal is for its own reason."""
    stage.provider.account("eva", [SME_GROUP], name="Eva")


def back_with(address: str, **changed: str | None) -> str:
    """The provider's answer with other fields."""
    parts = urlsplit(address)
    fields = {name: value[0] for name, value in parse_qs(parts.query).items()} | changed
    query = urlencode({name: value for name, value in fields.items() if value is not None})
    return parts._replace(query=query).geturl()


@pytest.mark.parametrize("kind", FORGED)
def test_a_forged_id_token_opens_nothing_and_the_reason_is_its_own(stage: Stage, kind: str) -> None:
    before = stage.registry.sql("SELECT count(*) FROM touchstone.token")
    with stage.provider.misbehaving(kind):
        answer = stage.log_in("eva")
    assert answer.status_code == 401, answer.text
    assert answer.json()["code"] == "login_refused"
    assert FORGED[kind] in answer.json()["detail"]
    assert stage.registry.sql("SELECT count(*) FROM touchstone.token") == before


def test_the_same_login_is_good_where_the_provider_does_not_lie(stage: Stage) -> None:
    assert stage.log_in("eva").status_code == 200


def test_a_clock_that_is_some_seconds_off_is_forgiven_a_minute_is_not(stage: Stage) -> None:
    with stage.provider.misbehaving("exp just over"):
        assert stage.log_in("eva").status_code == 200


def test_an_id_token_of_another_client_of_the_same_provider_is_refused(stage: Stage) -> None:
    person = Person("eva")
    callback = f"{stage.registry.url}/api/v1/login/callback"
    verifier = "v" * 43
    challenge = create_s256_code_challenge(verifier)
    theirs = person.log_in_until(
        f"{stage.provider.issuer}/auth?"
        + urlencode({
            "client_id": "other", "response_type": "code", "scope": "openid",
            "redirect_uri": callback, "code_challenge": challenge,
            "code_challenge_method": "S256", "state": "x", "nonce": "y",
        }),
        callback,
    )  # fmt: skip
    tokens = httpx.post(
        f"{stage.provider.issuer}/token",
        data={
            "grant_type": "authorization_code", "redirect_uri": callback,
            "code": parse_qs(urlsplit(theirs).query)["code"][0], "code_verifier": verifier,
        },
        auth=("other", CLIENT_SECRET.replace(" ", "+").replace(",", "%2C")),
        trust_env=False, verify=TRUST,
    ).json()  # fmt: skip
    assert "id_token" in tokens, tokens
    with stage.provider.misbehaving("swapped", swapped=tokens["id_token"]):
        answer = stage.log_in("eva")
    assert answer.status_code == 401
    assert "aud" in answer.json()["detail"]


def test_a_token_of_an_earlier_login_of_the_same_person_is_refused_in_a_later_one(
    stage: Stage,
) -> None:
    assert stage.log_in("eva").status_code == 200
    earlier = stage.provider.control()["id_token"]
    with stage.provider.misbehaving("swapped", swapped=earlier):
        answer = stage.log_in("eva")
    assert answer.status_code == 401
    assert "nonce" in answer.json()["detail"] or "at_hash" in answer.json()["detail"]


def test_userinfo_of_somebody_else_is_refused(stage: Stage) -> None:
    with stage.provider.misbehaving("userinfo of another"):
        answer = stage.log_in("eva")
    assert answer.status_code == 401
    assert "userinfo" in answer.json()["detail"]


def test_a_state_is_good_once(stage: Stage) -> None:
    person = Person("eva")
    back = stage.walk(person)
    cookie = person.browser.cookies.get("touchstone-login")
    assert person.browser.get(back).status_code == 200
    again = httpx.get(
        back, headers={"Cookie": f"touchstone-login={cookie}"}, trust_env=False, verify=TRUST
    )
    assert again.status_code == 401
    assert "begin again" in again.json()["detail"]


def test_a_code_is_good_once_also_under_a_fresh_state(stage: Stage) -> None:
    person = Person("eva")
    back = stage.walk(person)
    code = parse_qs(urlsplit(back).query)["code"][0]
    assert person.browser.get(back).status_code == 200
    fresh = stage.walk(person)
    answer = person.browser.get(back_with(fresh, code=code))
    assert answer.status_code == 401
    assert "invalid_grant" in answer.json()["detail"]


def test_a_stolen_code_is_worth_nothing_in_the_thiefs_own_login(stage: Stage) -> None:
    stolen = parse_qs(urlsplit(stage.walk(Person("eva"))).query)["code"][0]
    thief = Person("thief")
    stage.provider.account("thief", [])
    own = stage.walk(thief)
    answer = thief.browser.get(back_with(own, code=stolen))  # PKCE: another verifier
    assert answer.status_code == 401
    assert "invalid_grant" in answer.json()["detail"]


def test_nobody_is_logged_in_as_the_attacker_by_a_link(stage: Stage) -> None:
    attacker = Person("eva")
    link = stage.walk(attacker)
    victim = Person("victim")
    assert victim.browser.get(link).status_code == 401
    victim.browser.get(f"{stage.registry.url}/api/v1/login")  # a cookie, of another login
    assert victim.browser.get(link).status_code == 401
    assert attacker.browser.get(link).status_code == 200, "and the attempt used nothing up"


@pytest.mark.parametrize("issuer", ["http://127.0.0.1:1", "", None])
def test_an_answer_of_another_provider_is_refused(stage: Stage, issuer: str | None) -> None:
    person = Person("eva")
    answer = person.browser.get(back_with(stage.walk(person), iss=issuer))
    assert answer.status_code == 401
    assert "another identity provider" in answer.json()["detail"]


def test_an_answer_that_says_no_says_nothing_of_ours(stage: Stage) -> None:
    person = Person("eva")
    wicked = "<script>alert(1)</script>"
    address = back_with(stage.walk(person), code=None, error=wicked, error_description=wicked)
    answer = person.browser.get(address)
    assert answer.status_code == 401
    assert "script" not in answer.text


@pytest.mark.parametrize(
    "query",
    ["next=https://evil.example", "redirect_uri=https://evil.example", "return_to=//evil.example"],
)
def test_there_is_no_address_to_be_sent_on_to(stage: Stage, query: str) -> None:
    answer = stage.registry.ask("GET", f"/login?{query}")
    assert "evil" not in answer.headers.get("location", "") + answer.text
    person = Person("eva")
    answer = person.browser.get(back_with(stage.walk(person)) + "&" + query)
    assert answer.status_code == 200
    assert "evil" not in str(answer.headers) + answer.text


def test_a_revoked_token_ends_in_the_middle_of_an_upload(stage: Stage) -> None:
    token = stage.token("eva")
    [row] = [
        row
        for row in stage.registry.ask("GET", "/tokens", token).json()["items"]
        if row["last_used_at"] is not None and row["revoked_at"] is None
    ][:1]
    create = "/api/2.0/mlflow/experiments/create"
    bearer = {"Authorization": f"Bearer {token}"}

    def mlflow(name: str) -> httpx.Response:
        return httpx.post(
            stage.registry.url + create,
            json={"name": name},
            headers=bearer,
            trust_env=False,
            verify=TRUST,
            timeout=60,
        )

    assert mlflow("before").status_code == 200
    assert stage.registry.ask("DELETE", f"/tokens/{row['id']}", token).status_code == 200
    answer = mlflow("after")
    assert answer.status_code == 401
    assert answer.json()["error_code"] == "UNAUTHENTICATED"


def test_no_secret_of_a_login_is_in_the_log_of_the_server(stage: Stage, server: object) -> None:
    token = stage.token("eva")
    latest = stage.provider.control()
    said = server.says()  # type: ignore[attr-defined]
    for secret in (token, latest["id_token"], latest["access_token"], CLIENT_SECRET):
        assert secret not in said


def test_the_mapping_can_be_edited_and_still_makes_no_assessor(
    stage: Stage, tmp_path: Path
) -> None:
    """The file of groups in the attacker's hands, with the real rules over it."""
    edited = OidcSettings(
        issuer=stage.provider.issuer,
        client_id="touchstone",
        groups={SME_GROUP: frozenset({("tef", "assessor"), ("tef", "steward"), ("tef", "admin")})},
        claim_grants=frozenset({"assessor", "steward", "admin"}),  # code that was edited too
    )
    record = Record(stage.registry.databases.login, size=1)
    logins = Logins(record, Provider(edited))
    who = Identity(edited.issuer, "mallory-2", "Mallory", None, frozenset({SME_GROUP}))
    for role in ("assessor", "steward", "admin"):
        with pytest.raises(Refused):
            logins._admit(who, {"organisation": "tef", "role": role})
    record.close()


def test_keys_may_rotate_and_the_old_one_is_then_no_good(stage: Stage) -> None:
    assert stage.log_in("eva").status_code == 200
    stage.provider.control(rotate="second")
    ends = time.monotonic() + 15  # we look again at most once in ten seconds
    while (answer := stage.log_in("eva")).status_code == 401 and time.monotonic() < ends:
        assert "no published key" in answer.json()["detail"]
        time.sleep(0.5)
    assert answer.status_code == 200, answer.text
    with stage.provider.misbehaving("old key"):
        answer = stage.log_in("eva")
    assert answer.status_code == 401
    assert "no published key" in answer.json()["detail"]
    assert stage.log_in("eva").status_code == 200
