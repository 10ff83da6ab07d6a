"""What we believe of a provider, and how we ask: without a registry in between."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from registry.database.record import Record
from registry.identity.id_token import keys_of
from registry.identity.login import Logins
from registry.identity.oidc import Provider
from registry.identity.oidc_settings import OidcSettings, read_oidc
from registry.trust.errors import Invalid, Unauthenticated, Unavailable
from tests.oidc.conftest import SME_GROUP, Stage
from tests.oidc.provider import Person

PUBLIC = "http://127.0.0.1:8400"


@contextmanager
def answering(answers: dict[str, Any]) -> Iterator[str]:
    """An HTTP server that answers what it is told; `HERE` stands for itself."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            answer = answers.get(self.path)
            if isinstance(answer, str):
                self.send_response(302)
                self.send_header("Location", answer.replace("HERE", here))
                self.end_headers()
                return
            body = answer if isinstance(answer, bytes) else json.dumps(answer)
            text = body if isinstance(body, bytes) else body.replace("HERE", here).encode()
            self.send_response(200 if answer is not None else 404)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    here = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield here
    finally:
        server.shutdown()
        server.server_close()


def address(issuer: str) -> str:
    """Where a browser would be sent."""
    provider = Provider(OidcSettings(issuer=issuer, client_id="touchstone"))
    return provider.address(state="s", nonce="n", verifier="v" * 43)


WELL_KNOWN = "/.well-known/openid-configuration"


def test_a_public_client_logs_in_by_code_and_pkce_alone(stage: Stage) -> None:
    stage.provider.account("pia", [SME_GROUP], name="Pia", email="p@x.example")
    settings = OidcSettings(
        issuer=stage.provider.issuer, client_id="public", public_url=stage.registry.url,
        scopes="openid profile email eduperson_entitlement",
    )  # fmt: skip
    provider = Provider(settings)
    sent = provider.address(state="s", nonce="n", verifier="v" * 43)
    back = Person("pia").log_in_until(sent, settings.redirect_uri)
    answer = {name: value[0] for name, value in parse_qs(urlsplit(back).query).items()}
    assert answer["state"] == "s"
    provider.check_answerer(answer["iss"])
    who = provider.redeem(answer["code"], verifier="v" * 43, nonce="n")
    assert (who.subject, who.name, who.groups) == ("pia", "Pia", {SME_GROUP})
    assert who.email is None, "not verified"


@pytest.mark.parametrize(
    "document",
    [
        {"issuer": "https://other.example", "authorization_endpoint": "https://x.example"},
        {"issuer": "HERE/", "authorization_endpoint": "https://x.example"},
        {"issuer": "HERE"},
        {"issuer": "HERE", "authorization_endpoint": "http://192.0.2.1/auth"},
        {"issuer": "HERE", "authorization_endpoint": "file:///etc/passwd"},
        {"issuer": "HERE", "authorization_endpoint": "https://user:secret@x.example/"},
        {"issuer": "HERE", "authorization_endpoint": ["https://x.example"]},
        ["no object"],
        b"no JSON",
        b"[" * 100_000,
        b'{"issuer": "' + b"x" * (2 << 20) + b'"}',
        None,
        "HERE/elsewhere",
    ],
)
def test_a_provider_that_describes_itself_wrongly_is_not_used(document: Any) -> None:
    good = {"issuer": "HERE", "authorization_endpoint": "https://x.example"}
    with (
        answering({WELL_KNOWN: document, "/elsewhere": good}) as issuer,
        pytest.raises(Unavailable),
    ):
        address(issuer)


def test_one_that_describes_itself_rightly_is() -> None:
    good = {"issuer": "HERE", "authorization_endpoint": "https://x.example/a"}
    with answering({WELL_KNOWN: good}) as issuer:
        assert address(issuer).startswith("https://x.example/a?response_type=code&")


def test_a_provider_elsewhere_does_not_send_us_to_our_own_machine() -> None:
    provider = Provider(OidcSettings(issuer="https://login.example", client_id="x"))
    for place in ("http://127.0.0.1:5432/", "https://localhost/keys", "https://[::1]/"):
        with pytest.raises(Unavailable):
            provider._within(place)


@pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")
def test_only_public_keys_for_signatures_are_taken() -> None:
    from joserfc.jwk import ECKey, OctKey, RSAKey

    rsa, small = RSAKey.generate_key(2048), RSAKey.generate_key(1024)
    listed = [
        {**rsa.as_dict(private=False), "kid": "good", "use": "sig"},
        {**ECKey.generate_key("P-256").as_dict(private=False), "kid": "curve"},
        {**rsa.as_dict(private=False), "kid": "for encryption", "use": "enc"},
        {**rsa.as_dict(private=True), "kid": "given away"},
        {**small.as_dict(private=False), "kid": "small"},
        {**OctKey.generate_key(256).as_dict(private=True), "kid": "shared"},
        {"kty": "RSA", "kid": "broken", "n": "!", "e": "AQAB"},
        {"kty": ["RSA"]},
        "text",
    ]
    assert [key.kid for key in keys_of({"keys": listed})] == ["good", "curve"]
    for nothing in (None, [], {"keys": "x"}, {"keys": {}}, {}):
        assert keys_of(nothing) == []


def test_a_provider_that_hangs_takes_a_few_threads_and_no_more(stage: Stage) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(50)
        issuer = f"http://127.0.0.1:{silent.getsockname()[1]}"
        record = Record(stage.registry.databases.login, size=1)
        provider = Provider(OidcSettings(issuer=issuer, client_id="x"))
        provider._http.timeout = 2  # type: ignore[assignment]
        logins = Logins(record, provider)
        took: list[tuple[float, str]] = []

        def begin() -> None:
            start = time.monotonic()
            with pytest.raises(Unavailable) as told:
                logins.begin(None, None)
            took.append((time.monotonic() - start, told.value.message))

        threads = [threading.Thread(target=begin) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        record.close()
    at_once = [message for seconds, message in took if seconds < 1.5]
    assert len([one for one in at_once if "many logins" in one]) == 12
    assert max(seconds for seconds, _ in took) < 6, "those who waited did not wait one by one"


def test_settings_with_a_mistake_stop_the_start(tmp_path: Path) -> None:
    good = {"TOUCHSTONE_OIDC_ISSUER": "https://login.example", "TOUCHSTONE_OIDC_CLIENT_ID": "x"}
    read = read_oidc(good)
    assert read is not None
    assert read.redirect_uri == f"{PUBLIC}/api/v1/login/callback"
    assert read_oidc({}) is None
    groups = tmp_path / "groups.yaml"
    groups.write_text("groups: [{value: a, organisation: tef, role: emperor}]")
    for wrong in (
        {"TOUCHSTONE_OIDC_ISSUER": "http://login.example"},
        {"TOUCHSTONE_OIDC_ISSUER": "login.example"},
        {"TOUCHSTONE_OIDC_CLIENT_ID": ""},
        {"TOUCHSTONE_PUBLIC_URL": "http://touchstone.example"},
        {"TOUCHSTONE_OIDC_CLIENT_SECRET_FILE": str(tmp_path / "none")},
        {"TOUCHSTONE_OIDC_GROUPS": str(tmp_path / "none")},
        {"TOUCHSTONE_OIDC_GROUPS": str(groups)},
        {"TOUCHSTONE_OIDC_CLAIM_GRANTS": "innovator,assessor"},
        {"TOUCHSTONE_OIDC_SCOPES": "profile"},
        {"TOUCHSTONE_LOGIN_HOURS": "13"},
        {"TOUCHSTONE_LOGIN_HOURS": "-1"},
    ):
        with pytest.raises(Invalid):
            read_oidc({**good, **wrong})


def test_an_answer_of_the_wrong_issuer_is_refused_before_any_code_is_sent(stage: Stage) -> None:
    provider = Provider(OidcSettings(issuer=stage.provider.issuer, client_id="touchstone"))
    with pytest.raises(Unauthenticated):
        provider.check_answerer("https://evil.example")
    with pytest.raises(Unauthenticated):
        provider.check_answerer(None)  # this provider says that it always names itself
    provider.check_answerer(stage.provider.issuer)
