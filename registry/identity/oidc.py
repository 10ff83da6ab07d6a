"""The identity provider, as we ask it: OpenID Connect with code and PKCE, or the device flow.

    >>> provider = Provider(settings)
    >>> provider.address(state=…, nonce=…, verifier=…)      # where to send the browser
    >>> provider.redeem(code, verifier=…, nonce=…).subject
    '8f2c…@lifescience-ri.eu'

Rules
-----
1. One provider, named by the settings. Everything else about it comes from its own discovery
   document, over https, without following redirects, within limits of time and size.
2. Keys are fetched again when a token names one that is not known, at most once in ten seconds.
3. Who somebody is comes from the ID token; groups may also come from userinfo of the same `sub`.
4. The provider's tokens are used for this and kept nowhere.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote_plus, urlencode

import httpx
from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from joserfc.jwk import Key

from registry.identity.claims import groups_in
from registry.identity.id_token import Expected, UnknownKey, keys_of, verify
from registry.identity.oidc_settings import OidcSettings, is_loopback, secure
from registry.trust.errors import Invalid, Unauthenticated, Unavailable

DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_MOST_BYTES = 1 << 20
_DISCOVERY_SECONDS, _KEYS_SECONDS, _AGAIN_SECONDS = 3600.0, 300.0, 10.0
_SILENT_SECONDS = 5.0


@dataclass(frozen=True)
class Identity:
    """Who the provider says this is. `email` only where it was verified."""

    issuer: str
    subject: str
    name: str
    email: str | None
    groups: frozenset[str]


@dataclass(frozen=True)
class Device:
    """A device login under way: what a person needs, and our half, which stays here."""

    user_code: str
    verification_uri: str
    verification_uri_complete: str | None
    interval: int
    expires_in: int
    device_code: str = field(repr=False)


@dataclass(frozen=True)
class Waiting:
    """The person has not answered yet; ask again after `interval` more seconds than before."""

    slower: bool


class Provider:
    """One provider. Thread-safe; what it publishes is remembered for a while."""

    def __init__(self, settings: OidcSettings, clock: Callable[[], float] = time.time) -> None:
        self.settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._metadata: tuple[float, dict[str, Any]] | None = None
        self._keys: tuple[float, list[Key]] | None = None
        self._silent_since: float | None = None
        local = is_loopback(settings.issuer)
        # A cluster's way out may be a proxy, named by the environment; this machine is no way out.
        self._http = httpx.Client(timeout=10, follow_redirects=False, trust_env=not local)

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def address(self, *, state: str, nonce: str, verifier: str) -> str:
        """Where to send the browser."""
        uri: str = prepare_grant_uri(
            self._endpoint("authorization_endpoint"),
            self.settings.client_id,
            "code",
            redirect_uri=self.settings.redirect_uri,
            scope=self.settings.scopes,
            state=state,
            nonce=nonce,
            code_challenge=create_s256_code_challenge(verifier),
            code_challenge_method="S256",
        )
        return uri

    def check_answerer(self, issuer: str | None) -> None:
        """That an answer names our provider (RFC 9207): no other's code is taken for ours."""
        announced = self._discovered().get("authorization_response_iss_parameter_supported")
        if issuer != self.settings.issuer and (issuer is not None or announced is True):
            raise Unauthenticated(
                "this answer is from another identity provider; begin the login again",
                code="login_refused",
            )

    def redeem(self, code: str, *, verifier: str, nonce: str) -> Identity:
        """Who the browser's code stands for; Unauthenticated when it is not good."""
        answer = self._ask_token(
            grant_type="authorization_code",
            code=code,
            redirect_uri=self.settings.redirect_uri,
            code_verifier=verifier,
        )
        if "error" in answer:
            raise _refused(answer)
        return self._identity(answer, nonce)

    def begin_device(self) -> Device:
        """Begin a login on a device without a browser (RFC 8628)."""
        given = self._post("device_authorization_endpoint", {"scope": self.settings.scopes})
        if "error" in given:
            raise _refused(given)
        try:
            complete = given.get("verification_uri_complete")
            return Device(
                user_code=_plain(given["user_code"]),
                verification_uri=secure(_plain(given["verification_uri"]), "its page"),
                verification_uri_complete=secure(_plain(complete), "its page")
                if complete
                else None,
                interval=min(max(int(given.get("interval", 5)), 1), 60),
                expires_in=min(max(int(given["expires_in"]), 60), 1800),
                device_code=_plain(given["device_code"]),
            )
        except (KeyError, TypeError, ValueError, Invalid) as error:
            raise Unavailable("the identity provider's device login is not usable") from error

    def poll(self, device_code: str) -> Identity | Waiting:
        """Whether the person has answered, and who it is."""
        answer = self._ask_token(grant_type=DEVICE_GRANT, device_code=device_code)
        error = answer.get("error")
        if error in ("authorization_pending", "slow_down"):
            return Waiting(slower=error == "slow_down")
        if error is not None:
            raise _refused(answer)
        return self._identity(answer, None)

    def _identity(self, answer: Mapping[str, Any], nonce: str | None) -> Identity:
        given = answer.get("access_token")
        plain = isinstance(given, str) and given.isascii() and given.isprintable()
        access_token = given if plain else None
        expected = Expected(self.settings.issuer, self.settings.client_id, nonce, access_token)
        token = answer.get("id_token")
        try:
            claims = verify(token, self._published(), expected, int(self._clock()))
        except UnknownKey:
            claims = verify(token, self._published(anew=True), expected, int(self._clock()))
        # Many providers say who it is in the ID token, and the rest only in userinfo.
        more = self._userinfo(access_token, claims["sub"]) if access_token else {}
        address = claims if "email" in claims else more  # and whether it is verified, from one hand
        both = {**more, **claims}
        return Identity(
            issuer=self.settings.issuer,
            subject=claims["sub"],
            name=_name(both.get("name") or both.get("preferred_username")),
            email=_verified(address.get("email"), address.get("email_verified")),
            groups=groups_in(both.get(self.settings.group_claim)),
        )

    def _userinfo(self, access_token: str, subject: str) -> dict[str, Any]:
        if "userinfo_endpoint" not in self._discovered():
            return {}
        status, said = self._ask(
            "GET",
            self._endpoint("userinfo_endpoint"),
            headers={"Authorization": f"Bearer {access_token}"},
        )
        if status != 200 or said.get("sub") != subject:
            raise Unauthenticated(
                "the identity provider's userinfo is not of the person who logged in",
                code="login_refused",
            )
        return said

    def _ask_token(self, **fields: str) -> dict[str, Any]:
        return self._post("token_endpoint", fields)

    def _post(self, endpoint: str, fields: Mapping[str, str]) -> dict[str, Any]:
        """A form to one of the provider's endpoints, in our name."""
        address = self._endpoint(endpoint)
        method, name, secret = "none", self.settings.client_id, self.settings.client_secret
        if secret:
            known = self._discovered().get("token_endpoint_auth_methods_supported", [])
            post_only = "client_secret_post" in known and "client_secret_basic" not in known
            method = "client_secret_post" if post_only else "client_secret_basic"
            if method == "client_secret_basic":  # RFC 6749, 2.3.1: encoded before joining
                name, secret = quote_plus(name), quote_plus(secret)
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        _, headers, body = ClientAuth(name, secret, method).prepare(
            "POST", address, headers, urlencode(fields)
        )
        status, said = self._ask("POST", address, headers=headers, content=body)
        if status >= 500 or (status != 200 and "error" not in said):
            raise Unavailable(f"the identity provider answered {status}; try again in a moment")
        return said

    def _endpoint(self, name: str) -> str:
        address = self._discovered().get(name)
        if not isinstance(address, str):
            raise Unavailable(f"the identity provider names no {name.replace('_', ' ')}")
        return self._within(address)

    def _within(self, address: str) -> str:
        """An address that the provider names, if asking it tells nobody on our own network."""
        try:
            secure(address, "an address that it names")
        except Invalid as error:
            raise Unavailable(f"the identity provider is not to be used: {error}") from error
        if is_loopback(address) and not is_loopback(self.settings.issuer):
            raise Unavailable("the identity provider names an address on our own machine")
        return address

    def _discovered(self) -> dict[str, Any]:
        """The discovery document, which must name the issuer that we asked."""
        with self._lock:
            if self._metadata and self._clock() - self._metadata[0] < _DISCOVERY_SECONDS:
                return self._metadata[1]
            # Whoever waited for the lock while the provider was silent does not wait for it too.
            if self._silent_since and self._clock() - self._silent_since < _SILENT_SECONDS:
                raise Unavailable("the identity provider does not answer; try again in a moment")
            place = self.settings.issuer.rstrip("/") + "/.well-known/openid-configuration"
            try:
                status, said = self._ask("GET", place)
            except Unavailable:
                self._silent_since = self._clock()
                raise
            if status != 200 or said.get("issuer") != self.settings.issuer:
                raise Unavailable(
                    f"{place} does not describe the issuer {self.settings.issuer}; check "
                    "TOUCHSTONE_OIDC_ISSUER"
                )
            self._metadata = (self._clock(), said)
            return said

    def _published(self, *, anew: bool = False) -> list[Key]:
        """The provider's keys; `anew` asks for a look now, if the last was not just made."""
        address = self._endpoint("jwks_uri")
        with self._lock:
            age = self._clock() - self._keys[0] if self._keys else None
            if (
                self._keys is None
                or age is None
                or age >= (_AGAIN_SECONDS if anew else _KEYS_SECONDS)
            ):
                status, said = self._ask("GET", address)
                if status != 200:
                    raise Unavailable(f"the identity provider's keys can't be read ({status})")
                self._keys = (self._clock(), keys_of(said))
            return self._keys[1]

    def _ask(
        self,
        method: str,
        address: str,
        headers: Mapping[str, str] | None = None,
        content: str | None = None,
    ) -> tuple[int, dict[str, Any]]:
        """One request; status and the JSON object that came back."""
        sent = {"Accept": "application/json", **(headers or {})}
        body = bytearray()
        try:
            with self._http.stream(method, address, headers=sent, content=content) as answer:
                for chunk in answer.iter_bytes():
                    body += chunk
                    if len(body) > _MOST_BYTES:
                        raise Unavailable("the identity provider's answer is too large")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unavailable(
                f"the identity provider does not answer ({type(error).__name__}); try again, or "
                "use a token that your administrator gave you"
            ) from error
        try:
            said = json.loads(bytes(body))
        except (ValueError, RecursionError):
            said = {}
        return answer.status_code, said if isinstance(said, dict) else {}


def _refused(answer: Mapping[str, Any]) -> Unauthenticated:
    error = answer["error"]
    word = error if isinstance(error, str) and error.isascii() and error.isprintable() else "error"
    return Unauthenticated(
        f"the identity provider refused this login ({word[:60]}); begin it again",
        code="login_refused",
    )


def _plain(value: object) -> str:
    if isinstance(value, str) and 0 < len(value) <= 4000 and value.isprintable():
        return value
    raise ValueError("not a plain text")


def _verified(email: object, verified: object) -> str | None:
    """An address that the provider vouches for."""
    if verified is True and isinstance(email, str) and 0 < len(email) <= 320:
        return email if email.isprintable() else None
    return None


def _name(value: object) -> str:
    """A name as it may stand in our log: printable, one line; empty where there is none."""
    text = " ".join(value.split()) if isinstance(value, str) else ""
    return text[:200] if text.isprintable() else ""
