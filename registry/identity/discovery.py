"""What the identity provider publishes about itself, asked for with care.

    >>> published = Published(settings)
    >>> published.endpoint("token_endpoint")
    'https://login.example.org/token'

Rules
-----
1. Only the settings name the provider. What its discovery document names is used only if the
   document names the issuer that we asked, over https, and never on a machine of ours.
2. No redirect is followed; an answer has ten seconds and a mebibyte.
3. Keys are fetched again when a token names one that is not known, at most once in ten seconds.
4. A provider that was silent a moment ago is not waited for by one caller after the other.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx
from joserfc.jwk import Key

from registry.identity.id_token import keys_of
from registry.identity.oidc_settings import OidcSettings, is_loopback, secure
from registry.trust.errors import Invalid, Unavailable

_MOST_BYTES = 1 << 20
_DISCOVERY_SECONDS, _KEYS_SECONDS, _AGAIN_SECONDS = 3600.0, 300.0, 10.0
_SILENT_SECONDS = 5.0


class Published:
    """One provider's documents. Thread-safe; they are remembered for a while."""

    def __init__(self, settings: OidcSettings, clock: Callable[[], float] = time.time) -> None:
        self.settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._metadata: tuple[float, dict[str, Any]] | None = None
        self._keys: tuple[float, list[Key]] | None = None
        self._silent_since: float | None = None
        local = is_loopback(settings.issuer)
        # A cluster's way out may be a proxy, named by the environment; this machine is no way out.
        self.http = httpx.Client(timeout=10, follow_redirects=False, trust_env=not local)

    def endpoint(self, name: str) -> str:
        """The address that the document has under this name."""
        address = self.document().get(name)
        if not isinstance(address, str):
            raise Unavailable(f"the identity provider names no {name.replace('_', ' ')}")
        return self.within(address)

    def within(self, address: str) -> str:
        """An address that the provider names, if asking it tells nobody on our own network."""
        try:
            secure(address, "an address that it names")
        except Invalid as error:
            raise Unavailable(f"the identity provider is not to be used: {error}") from error
        if is_loopback(address) and not is_loopback(self.settings.issuer):
            raise Unavailable("the identity provider names an address on our own machine")
        return address

    def document(self) -> dict[str, Any]:
        """The discovery document, which must name the issuer that we asked."""
        with self._lock:
            if self._metadata and self._clock() - self._metadata[0] < _DISCOVERY_SECONDS:
                return self._metadata[1]
            # Whoever waited for the lock while the provider was silent does not wait for it too.
            if self._silent_since and self._clock() - self._silent_since < _SILENT_SECONDS:
                raise Unavailable("the identity provider does not answer; try again in a moment")
            place = self.settings.issuer.rstrip("/") + "/.well-known/openid-configuration"
            try:
                status, said = self.ask("GET", place)
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

    def keys(self, *, anew: bool = False) -> list[Key]:
        """The provider's keys; `anew` asks for a look now, if the last was not just made."""
        address = self.endpoint("jwks_uri")
        with self._lock:
            age = self._clock() - self._keys[0] if self._keys else None
            if (
                self._keys is None
                or age is None
                or age >= (_AGAIN_SECONDS if anew else _KEYS_SECONDS)
            ):
                status, said = self.ask("GET", address)
                if status != 200:
                    raise Unavailable(f"the identity provider's keys can't be read ({status})")
                self._keys = (self._clock(), keys_of(said))
            return self._keys[1]

    def ask(
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
            with self.http.stream(method, address, headers=sent, content=content) as answer:
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
