"""A registry and a real OpenID provider, each a process of its own, that know each other."""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest

from registry.database.embedded import EmbeddedPostgres
from registry.database.migrate import APP, GATE, LOGIN, MLFLOW, OWNER, ROLES, WORKER, create_roles
from registry.database.record import Record
from registry.identity.accounts import SYSTEM_ADMIN, NewOrganisation, add_organisation
from registry.settings import Databases, read_settings
from registry.setup import lay_ground, migrate_all
from tests.oidc.provider import CLIENT_SECRET, TRUST, OpenIdProvider, Person, running, somewhere
from tests.registry.conftest import PASSWORD, cluster  # noqa: F401
from tests.registry.role import token_of

SME_GROUP = "urn:geant:lifescience-ri.eu:group:sme-a#aai.lifescience-ri.eu"
CLINIC_GROUP = "urn:geant:lifescience-ri.eu:group:clinic#aai.lifescience-ri.eu"
ASSESSOR_GROUP = "urn:geant:lifescience-ri.eu:group:tef:assessors#aai.lifescience-ri.eu"
GROUPS = {
    "groups": [
        {"value": SME_GROUP, "organisation": "sme-a", "role": "innovator"},
        {"value": CLINIC_GROUP, "organisation": "clinic", "role": "clinician"},
        {"value": ASSESSOR_GROUP, "organisation": "tef", "role": "assessor"},
    ]
}
ORGANISATIONS = {"sme-a": "sme", "sme-b": "sme", "tef": "facility", "clinic": "hospital"}


@dataclass(frozen=True)
class Registry:
    """A registry that runs."""

    url: str
    databases: Databases
    admin: str

    def ask(self, method: str, path: str, token: str | None = None, **more: Any) -> httpx.Response:
        """One request to /api/v1."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        headers |= {"X-Forwarded-For": somewhere()} | more.pop("headers", {})
        address = f"{self.url}/api/v1{path}"
        return httpx.request(
            method, address, headers=headers, trust_env=False, timeout=60, verify=TRUST, **more
        )

    def me(self, token: str) -> httpx.Response:
        """Who the registry takes the holder for."""
        return self.ask("GET", "/me", token)

    def link(self, name: str, organisation: str, role: str, **known: str) -> str:
        """Link a person as the administrator; returns the id."""
        body = {"name": name, "organisation": organisation, "role": role, **known}
        answer = self.ask("POST", "/people", self.admin, json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def sql(self, statement: str, *values: Any) -> list[Any]:
        """What the owner reads."""
        assert self.databases.owner is not None
        with psycopg.connect(self.databases.owner) as connection:
            answer = connection.execute(statement, values)  # type: ignore[call-overload]
            return answer.fetchall() if answer.description else []


@dataclass(frozen=True)
class Stage:
    """The two, and people who go from one to the other."""

    registry: Registry
    provider: OpenIdProvider

    def log_in(self, subject: str, query: str = "") -> httpx.Response:
        """The whole way in a browser; what the registry says at the end of it."""
        person = Person(subject)
        back = self.walk(person, query)
        return person.browser.get(back, headers={"Accept": "application/json"})

    def walk(self, person: Person, query: str = "") -> str:
        """As far as the provider's redirect to the registry, which is not followed."""
        callback = f"{self.registry.url}/api/v1/login/callback"
        return person.log_in_until(f"{self.registry.url}/api/v1/login{query}", callback)

    def token(self, subject: str, query: str = "") -> str:
        """Our token after a whole login."""
        answer = self.log_in(subject, query)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["token"])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_databases(server: EmbeddedPostgres, name: str) -> Databases:
    """A migrated database with its organisations."""
    with psycopg.connect(server.superuser_dsn, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    create_roles(
        server.superuser_dsn.replace("@/touchstone?", f"@/{name}?"),
        dict.fromkeys(ROLES, PASSWORD),
    )
    databases = Databases(
        app=server.dsn(APP, PASSWORD, name),
        gate=server.dsn(GATE, PASSWORD, name),
        mlflow=server.dsn(MLFLOW, PASSWORD, name),
        login=server.dsn(LOGIN, PASSWORD, name),
        worker=server.dsn(WORKER, PASSWORD, name),
        owner=server.dsn(OWNER, PASSWORD, name),
    )
    migrate_all(databases)
    assert databases.owner is not None
    record = Record(databases.owner, size=1)
    for organisation, kind in ORGANISATIONS.items():
        new = NewOrganisation(id=organisation, kind=kind, name=organisation)  # type: ignore[arg-type]
        add_organisation(record, SYSTEM_ADMIN, new)
    record.close()
    return databases


class Server:
    """A registry process, and how to start it again with other settings."""

    def __init__(self, home: Path, databases: Databases, port: int) -> None:
        self._databases, self._port = databases, port
        self._environment = {
            **{key: value for key, value in os.environ.items() if "TOUCHSTONE" not in key},
            **databases.environment("registry"),
            "TOUCHSTONE_HOME": str(home),
            "TOUCHSTONE_KEYS": str(home / "keys"),
            "TOUCHSTONE_PUBLIC_URL": f"http://127.0.0.1:{port}",
        }
        lay_ground(read_settings(self._environment))
        self._log = home / "registry.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.registry = Registry(
            f"http://127.0.0.1:{port}",
            databases,
            token_of(databases, "tef", "admin", "administrator"),
        )

    def start(self, **settings: str) -> None:
        """Start it, with these settings beside the usual ones."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "registry.cli.main", "server", "--host", "127.0.0.1",
                 "--port", str(self._port)],
                env={**self._environment, **settings}, stdout=log, stderr=log,
            )  # fmt: skip
        ends = time.monotonic() + 60
        while time.monotonic() < ends:
            try:
                if httpx.get(
                    f"{self.registry.url}/health/ready", trust_env=False, verify=TRUST
                ).is_success:
                    return
            except httpx.TransportError:
                pass
            assert self._process.poll() is None, self._log.read_text()
            time.sleep(0.1)
        raise AssertionError(f"not ready: {self._log.read_text()}")

    def stop(self) -> None:
        """Stop it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)

    def says(self) -> str:
        """Its log."""
        return self._log.read_text()


@pytest.fixture(scope="session")
def server(
    cluster: EmbeddedPostgres,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    """A registry that is not started yet."""
    made = Server(
        tmp_path_factory.mktemp("facility"),
        make_databases(cluster, f"login_{secrets.token_hex(4)}"),
        free_port(),
    )
    yield made
    made.stop()


@pytest.fixture(scope="session")
def stage(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A registry that knows the provider, has little patience, and a proxy in front.

    Whoever asks here comes from another address each time, unless a test says from where.
    """
    folder = tmp_path_factory.mktemp("login")
    (folder / "groups.yaml").write_text(json.dumps(GROUPS))
    (folder / "secret").write_text(CLIENT_SECRET + "\n")
    url = server.registry.url
    assert urlsplit(url).port
    with running(f"{url}/api/v1/login/callback") as provider:
        server.start(
            TOUCHSTONE_OIDC_ISSUER=provider.issuer,
            TOUCHSTONE_OIDC_CLIENT_ID="touchstone",
            TOUCHSTONE_OIDC_CLIENT_SECRET_FILE=str(folder / "secret"),
            TOUCHSTONE_OIDC_SCOPES="openid profile email eduperson_entitlement",
            TOUCHSTONE_OIDC_GROUPS=str(folder / "groups.yaml"),
            TOUCHSTONE_LIMIT_FAILURES="5/5 seconds",
            TOUCHSTONE_LIMIT_LOGINS="8/8 seconds",
            TOUCHSTONE_LIMIT_POLLS="8/4 seconds",
            TOUCHSTONE_LIMIT_REQUESTS="60/6 seconds",
            TOUCHSTONE_TRUSTED_PROXIES="1",
        )
        yield Stage(server.registry, provider)
