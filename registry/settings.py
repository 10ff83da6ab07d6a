"""Where things are: read once from the environment, then passed on.

| variable | meaning | default |
|---|---|---|
| TOUCHSTONE_HOME | data directory | the user's data directory |
| TOUCHSTONE_SERVER | address of the registry, also MLflow's tracking URI | http://127.0.0.1:8400 |
| TOUCHSTONE_PUBLIC_URL | the registry's address as people know it | TOUCHSTONE_SERVER |
| TOUCHSTONE_TOKEN | the caller's token | the one in the keyring |
| TOUCHSTONE_TOKEN_FILE | a file that holds it instead | none |
| TOUCHSTONE_KEYS | people's keys | `keys` in the user's configuration directory |
| TOUCHSTONE_CATALOGUE | what the facility says for the catalogue, a YAML file | none |
| TOUCHSTONE_WITNESSES | who co-signs the log, a file: `registry/audit/witnesses.py` | none |
| TOUCHSTONE_KEY_ENCRYPTION | what wraps cohorts' keys: `storage/key_encryption.py` | a key file |
| TOUCHSTONE_INFERENCE | http://host:port or unix:/path of the server where models run | none |
| TOUCHSTONE_INFERENCE_TOKEN_FILE | a file with the token that it asks for | none |
| TOUCHSTONE_S3_… | an S3 server in place of folders: `registry/storage/s3_settings.py` | none |
| TOUCHSTONE_OIDC_…, TOUCHSTONE_LIMIT_… | see identity/oidc_settings.py, identity/rate.py | none |
| TOUCHSTONE_[OWNER_|GATE_|MLFLOW_|LOGIN_]DATABASE_URL | one a role; bare: its own | embedded |
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from registry.storage.s3_settings import S3Settings, read_s3
from registry.trust.errors import Invalid

DEFAULT_SERVER = "http://127.0.0.1:8400"

# Third parties that would otherwise call home; set before any of them is imported.
SILENCE = {
    "ORT_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "BENTOML_DO_NOT_TRACK": "True",
    "DO_NOT_TRACK": "1",
}


@dataclass(frozen=True)
class Databases:
    """One connection string a role; the owner's only where migrations run.

    `app` is the process's own: `touchstone_app` in the registry, `touchstone_worker` in a worker.
    """

    app: str
    gate: str
    mlflow: str
    login: str
    worker: str | None = None
    owner: str | None = None

    def environment(self, part: Literal["registry", "worker"]) -> dict[str, str]:
        """The variables that hand these to a child process (never the owner's)."""
        if part == "worker":
            return {
                "TOUCHSTONE_DATABASE_URL": self.worker or self.app,
                "TOUCHSTONE_GATE_DATABASE_URL": self.gate,
                "TOUCHSTONE_MLFLOW_DATABASE_URL": self.mlflow,
            }
        return {
            "TOUCHSTONE_DATABASE_URL": self.app,
            "TOUCHSTONE_LOGIN_DATABASE_URL": self.login,
            "TOUCHSTONE_GATE_DATABASE_URL": self.gate,
            "TOUCHSTONE_MLFLOW_DATABASE_URL": self.mlflow,
        }


@dataclass(frozen=True)
class Settings:
    """The environment, read."""

    home: Path
    server: str
    token: str | None
    keys: Path
    databases: Databases | None
    s3: S3Settings | None = None
    server_is_named: bool = False
    public_url: str | None = None
    catalogue: Path | None = None
    witnesses: Path | None = None
    key_encryption: str | None = None
    inference: str | None = None
    inference_token: Path | None = None
    device: str | None = None

    @property
    def own_address(self) -> str:
        """The registry's own address: what a sign-in names."""
        return self.public_url or self.server

    @property
    def is_local(self) -> bool:
        """Whether the command line works on the database itself: it is named and no server is."""
        return self.databases is not None and not self.server_is_named

    @property
    def objects(self) -> Path:
        """The local object store: cohorts, predictions, reports, bundles."""
        return self.home / "objects"

    @property
    def artifacts(self) -> Path:
        """What SMEs upload through MLflow, apart from the objects: neither reaches the other."""
        return self.home / "artifacts"

    @property
    def root_certificate(self) -> Path:
        """The facility's root, as the server knows it: the certificate alone."""
        return self.home / "root.pem"

    @property
    def log_key(self) -> Path:
        """The key that signs the log's checkpoints; its certificate lies beside it."""
        return self.home / "log.key"

    @property
    def status_key(self) -> Path:
        """The key that renews the status and stops certificates; its public half lies beside it."""
        return self.home / "status.key"

    @property
    def admin_token(self) -> Path:
        """The first administrator's token, written by `init`."""
        return self.keys / "admin.token"

    @property
    def linking_key(self) -> Path:
        """The key under which the facility finds the same patient in two lists."""
        return self.home / "linking.key"

    @property
    def links(self) -> Path:
        """What finds the patients of sealed cohorts again, under the linking key."""
        return self.home / "links"

    @property
    def cohort_keys(self) -> Path:
        """The key-encryption key of the locked cohorts."""
        return self.home / "cohort-keys"


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings that the environment asks for."""
    from platformdirs import user_config_path, user_data_path

    app = environment.get("TOUCHSTONE_DATABASE_URL")
    databases = None
    if app:
        databases = Databases(
            app=app,
            gate=environment.get("TOUCHSTONE_GATE_DATABASE_URL", app),
            mlflow=environment.get("TOUCHSTONE_MLFLOW_DATABASE_URL", app),
            login=environment.get("TOUCHSTONE_LOGIN_DATABASE_URL", app),
            owner=environment.get("TOUCHSTONE_OWNER_DATABASE_URL"),
        )
    home = environment.get("TOUCHSTONE_HOME")
    keys = environment.get("TOUCHSTONE_KEYS")
    catalogue = environment.get("TOUCHSTONE_CATALOGUE")
    witnesses = environment.get("TOUCHSTONE_WITNESSES")
    inference_token = environment.get("TOUCHSTONE_INFERENCE_TOKEN_FILE")
    return Settings(
        home=Path(home).absolute() if home else user_data_path("touchstone"),
        server=(environment.get("TOUCHSTONE_SERVER") or DEFAULT_SERVER).rstrip("/"),
        token=_token(environment),
        keys=Path(keys).absolute() if keys else user_config_path("touchstone") / "keys",
        databases=databases,
        s3=read_s3(environment),
        server_is_named=bool(environment.get("TOUCHSTONE_SERVER")),
        catalogue=Path(catalogue).absolute() if catalogue else None,
        witnesses=Path(witnesses).absolute() if witnesses else None,
        public_url=(environment.get("TOUCHSTONE_PUBLIC_URL") or "").rstrip("/") or None,
        key_encryption=environment.get("TOUCHSTONE_KEY_ENCRYPTION") or None,
        inference=environment.get("TOUCHSTONE_INFERENCE") or None,
        inference_token=Path(inference_token).absolute() if inference_token else None,
        device=environment.get("TOUCHSTONE_DEVICE") or None,
    )


def _token(environment: Mapping[str, str]) -> str | None:
    file = environment.get("TOUCHSTONE_TOKEN_FILE")
    if not file:
        return environment.get("TOUCHSTONE_TOKEN") or environment.get("MLFLOW_TRACKING_TOKEN")
    try:
        token = Path(file).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"the token file {file} can't be read") from error
    if not token or not token.isascii() or len(token.split()) != 1:
        raise Invalid(f"the token file {file} holds no token: one line, nothing else")
    return token
