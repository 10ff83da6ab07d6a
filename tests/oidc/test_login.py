"""Logging in with a browser, at a real provider."""

from collections.abc import Iterator

import httpx
import pytest

from tests.oidc.conftest import ASSESSOR_GROUP, CLINIC_GROUP, SME_GROUP, Stage
from tests.oidc.provider import Person
from tests.registry.role import token_of


def test_a_group_makes_an_innovator_of_that_organisation_for_some_hours(stage: Stage) -> None:
    stage.provider.account("eva", [SME_GROUP, "urn:something:else"], name="Eva")
    answer = stage.log_in("eva")
    assert answer.status_code == 200, answer.text
    given = answer.json()
    assert (given["organisation"], given["role"], given["person"]) == ("sme-a", "innovator", "Eva")
    assert stage.registry.me(given["token"]).json() | {"kind": ""} == {
        "organisation": "sme-a", "role": "innovator", "person": "Eva", "kind": "",
    }  # fmt: skip
    [(hours, subject)] = stage.registry.sql(
        "SELECT extract(epoch FROM t.expires_at - t.created_at) / 3600, p.subject"
        " FROM touchstone.token t JOIN touchstone.login_token l ON l.token = t.id"
        " JOIN touchstone.person p ON p.id = l.person WHERE t.id = %s",
        given["id"],
    )
    assert 7.9 < hours < 8.1
    assert subject == "eva"


def test_the_page_at_the_end_shows_the_token_once_and_is_kept_nowhere(stage: Stage) -> None:
    stage.provider.account("page", [SME_GROUP], name="Paige <script>alert(1)</script>")
    person = Person("page")
    answer = person.browser.get(stage.walk(person))
    assert answer.status_code == 200
    assert "tst_" in answer.text
    assert "<script>" not in answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["referrer-policy"] == "no-referrer"


def test_the_browser_is_bound_by_a_cookie_that_no_script_and_no_other_path_sees(
    stage: Stage,
) -> None:
    answer = stage.registry.ask("GET", "/login")
    assert answer.status_code == 303
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert "path=/api/v1/login" in cookie
    sent = httpx.URL(answer.headers["location"]).params
    assert sent["code_challenge_method"] == "S256"
    assert sent["redirect_uri"] == f"{stage.registry.url}/api/v1/login/callback"
    assert len(sent["state"]) >= 40
    assert len(sent["nonce"]) >= 40


def test_nobody_whom_no_group_and_no_record_knows_gets_in_and_they_read_what_to_do(
    stage: Stage,
) -> None:
    stage.provider.account("stranger", ["urn:unknown"], name="Stranger")
    answer = stage.log_in("stranger")
    assert answer.status_code == 403
    assert answer.json()["code"] == "not_linked"
    assert "subject stranger" in answer.json()["detail"]
    assert not stage.registry.sql("SELECT FROM touchstone.person WHERE subject = 'stranger'")


@pytest.fixture(scope="module")
def ada(stage: Stage) -> Iterator[str]:
    """An assessor whom the record knows, and who said with a key that this login is theirs.

    Returns the person's id.
    """
    person = stage.registry.link("Ada", "tef", "assessor", subject="ada")
    signed_in = token_of(stage.registry.databases, "tef", "assessor", "Ada")
    answer = stage.registry.ask("POST", "/login/confirmation", signed_in, json={"subject": "ada"})
    assert (answer.status_code, answer.json()["person"]) == (200, person)
    return person


def test_whom_an_administrator_linked_as_steward_gets_in_when_the_keys_holder_says_so(
    stage: Stage,
) -> None:
    stage.registry.link("Sam", "tef", "steward", subject="puppet")
    signed_in = token_of(stage.registry.databases, "tef", "steward", "Sam")
    stage.provider.account("puppet", [])
    answer = stage.log_in("puppet")
    assert (answer.status_code, answer.json()["code"]) == (403, "against_the_record")
    assert answer.json()["detail"].endswith("then: touchstone person confirm puppet")
    for subject, token, status in (
        ("puppet", stage.registry.admin, 403),
        ("somebody else", signed_in, 404),
        ("puppet", signed_in, 200),
    ):
        answer = stage.registry.ask("POST", "/login/confirmation", token, json={"subject": subject})
        assert answer.status_code == status
    assert stage.log_in("puppet").json()["role"] == "steward"


def test_a_claim_grants_no_assessor_whom_the_record_does_not_know(stage: Stage) -> None:
    stage.provider.account("mallory", [ASSESSOR_GROUP], name="Mallory")
    answer = stage.log_in("mallory")
    assert answer.status_code == 403
    assert answer.json()["code"] == "not_linked"
    stage.provider.account("mallory", [ASSESSOR_GROUP, SME_GROUP], name="Mallory")
    assert stage.log_in("mallory").json()["role"] == "innovator"
    answer = stage.log_in("mallory", "?organisation=tef&role=assessor")
    assert answer.status_code == 403
    assert "a claim can't grant it" in answer.json()["detail"]


def test_a_lost_claim_takes_the_assessors_role_and_ends_their_live_tokens(
    stage: Stage, ada: str
) -> None:
    stage.provider.account("ada", [ASSESSOR_GROUP], name="whatever the provider says")
    token = stage.token("ada")
    assert stage.registry.me(token).json()["role"] == "assessor"
    assert stage.registry.me(token).json()["person"] == "Ada"
    stage.provider.account("ada", [])
    answer = stage.log_in("ada")
    assert answer.status_code == 403
    assert "the claim for it is gone" in answer.json()["detail"]
    refused = stage.registry.me(token)
    assert refused.status_code == 401
    assert "revoked" in refused.json()["detail"]
    stage.provider.account("ada", [ASSESSOR_GROUP])
    assert stage.registry.me(stage.token("ada")).status_code == 200
    assert stage.registry.me(token).status_code == 401, "what was revoked stays revoked"


def test_a_lost_claim_ends_the_logins_that_the_claim_alone_had_brought(stage: Stage) -> None:
    stage.provider.account("short", [SME_GROUP, CLINIC_GROUP], name="Short Stay")
    innovator, clinician = (
        stage.token("short", "?role=innovator"),
        stage.token("short", "?role=clinician"),
    )
    stage.provider.account("short", [CLINIC_GROUP])
    assert stage.log_in("short").json()["role"] == "clinician"
    assert stage.registry.me(innovator).status_code == 401
    assert stage.registry.me(clinician).status_code == 200
    stage.provider.account("short", [])
    assert stage.log_in("short").json()["code"] == "no_role"
    assert stage.registry.me(clinician).status_code == 401


def test_a_claim_that_is_not_a_list_of_texts_is_no_claim(stage: Stage, ada: str) -> None:
    for groups in ({"a": ASSESSOR_GROUP}, [[ASSESSOR_GROUP]], 7, ASSESSOR_GROUP.upper()):
        stage.provider.account("ada", groups)
        assert stage.log_in("ada").status_code == 403
    stage.provider.account("ada", ASSESSOR_GROUP)
    assert stage.log_in("ada").status_code == 200


def test_an_assessor_without_an_enrolled_key_gets_no_token(stage: Stage) -> None:
    stage.registry.link("Keyless", "tef", "assessor", subject="keyless")
    stage.provider.account("keyless", [ASSESSOR_GROUP])
    answer = stage.log_in("keyless")
    assert answer.status_code == 403
    assert "none is enrolled" in answer.json()["detail"]


def test_withdrawing_a_role_ends_its_logins_at_once_and_a_claim_does_not_bring_it_back(
    stage: Stage,
) -> None:
    stage.provider.account("ines", [SME_GROUP], name="Ines")
    person = stage.registry.link("Ines", "sme-a", "innovator", subject="ines")
    token = stage.token("ines")
    path = f"/people/{person}/roles/sme-a/innovator"
    assert stage.registry.ask("DELETE", path, token).status_code == 403
    assert stage.registry.ask("DELETE", path, stage.registry.admin).status_code == 200
    assert stage.registry.me(token).status_code == 401
    answer = stage.log_in("ines")
    assert answer.status_code == 403
    assert "withdrawn" in answer.json()["detail"]


def test_who_holds_several_roles_chooses_one(stage: Stage) -> None:
    stage.provider.account("both", [SME_GROUP, CLINIC_GROUP], name="Both")
    answer = stage.log_in("both")
    assert answer.status_code == 403
    assert answer.json()["code"] == "role_not_chosen"
    assert stage.log_in("both", "?role=clinician").json()["organisation"] == "clinic"
    assert stage.log_in("both", "?organisation=sme-a").json()["role"] == "innovator"
    assert stage.registry.ask("GET", "/login?role=emperor").status_code == 422


def test_a_verified_address_introduces_once_and_an_unverified_one_never(stage: Stage) -> None:
    stage.registry.link("Nora", "clinic", "clinician", email="nora@clinic.example")
    nora = {"email": "Nora@clinic.example", "name": "N."}
    stage.provider.account("thief", [], **nora, email_verified=False)
    assert stage.log_in("thief").json()["code"] == "not_linked"
    stage.provider.account("thief", [], **nora, email_verified="true")
    assert stage.log_in("thief").json()["code"] == "not_linked"
    stage.provider.account("nora", [CLINIC_GROUP], **nora, email_verified=True)
    answer = stage.log_in("nora")
    assert (answer.json()["person"], answer.json()["role"]) == ("Nora", "clinician")
    stage.provider.account("second", [], **nora, email_verified=True)
    assert stage.log_in("second").json()["code"] == "not_linked", "the address is used up"


def test_an_address_introduces_no_assessor(stage: Stage) -> None:
    body = {"name": "Anna", "organisation": "tef", "role": "assessor", "email": "anna@tef.example"}
    answer = stage.registry.ask("POST", "/people", stage.registry.admin, json=body)
    assert answer.status_code == 403
    assert "--subject" in answer.json()["detail"]


def test_nobody_takes_the_name_of_somebody_else(stage: Stage, ada: str) -> None:
    stage.provider.account("twin", [SME_GROUP], name="  ADA ")
    person = stage.log_in("twin").json()["person"]
    assert person.startswith("ADA (")
    stage.provider.account("admin-twin", [SME_GROUP], name="administrator")
    assert stage.log_in("admin-twin").json()["person"].startswith("administrator (")
    stage.provider.account("nameless", [SME_GROUP])
    assert stage.log_in("nameless").json()["person"].startswith("(")
    body = {"name": "ada", "organisation": "sme-a", "role": "innovator", "subject": "other-ada"}
    answer = stage.registry.ask("POST", "/people", stage.registry.admin, json=body)
    assert answer.status_code == 409


def test_only_an_administrator_links_people_and_only_an_auditor_reads_them_besides(
    stage: Stage,
) -> None:
    stage.provider.account("eva", [SME_GROUP], name="Eva")
    token = stage.token("eva")
    body = {"name": "Puppet", "organisation": "tef", "role": "assessor", "subject": "puppet"}
    assert stage.registry.ask("POST", "/people", token, json=body).status_code == 403
    assert stage.registry.ask("GET", "/people", token).status_code == 403
    assert stage.registry.ask("GET", "/people", stage.registry.admin).status_code == 200


def test_tokens_are_listed_without_secrets_and_revoked_at_once(stage: Stage) -> None:
    stage.provider.account("tom", [SME_GROUP], name="Tom")
    stage.provider.account("eva", [SME_GROUP], name="Eva")
    tom, other, eva = stage.token("tom"), stage.token("tom"), stage.token("eva")
    answer = stage.registry.ask("GET", "/tokens", tom)
    rows = answer.json()["items"]
    assert {row["person"] for row in rows} == {"Tom"}
    assert len(rows) == 2
    assert "tst_" not in answer.text
    assert "hash" not in answer.text
    [second] = [row["id"] for row in rows if row["last_used_at"] is None]
    assert stage.registry.ask("DELETE", f"/tokens/{second}", eva).status_code == 404
    assert stage.registry.ask("DELETE", f"/tokens/{second}", tom).status_code == 200
    assert stage.registry.me(other).status_code == 401
    [mine] = [row["id"] for row in rows if row["id"] != second]
    everybody = stage.registry.ask("GET", "/tokens", stage.registry.admin).json()["items"]
    assert {"Tom", "Eva", "administrator"} <= {row["person"] for row in everybody}
    answer = stage.registry.ask("DELETE", f"/tokens/{mine}", stage.registry.admin)
    assert answer.status_code == 200
    assert stage.registry.me(tom).status_code == 401
    assert stage.registry.me(eva).status_code == 200


def test_logging_out_revokes_the_token_that_is_shown(stage: Stage) -> None:
    stage.provider.account("lea", [SME_GROUP], name="Lea")
    token = stage.token("lea")
    assert stage.registry.ask("POST", "/logout", token).status_code == 200
    assert stage.registry.me(token).status_code == 401


def test_every_login_and_revocation_is_in_the_log_by_name(stage: Stage) -> None:
    stage.provider.account("logged", [SME_GROUP], name="Logged")
    stage.registry.ask("POST", "/logout", stage.token("logged"))
    kinds = stage.registry.sql(
        "SELECT kind FROM touchstone.event WHERE actor = 'Logged' ORDER BY seq"
    )
    assert kinds == [("person-added",), ("login",), ("token-revoked",)]
