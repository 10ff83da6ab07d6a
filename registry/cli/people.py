"""`org`, `token` and `key`."""

from pathlib import Path

from registry.cli.client import Client
from registry.cli.credentials import find_token
from registry.cli.output import show
from registry.settings import Settings, read_settings
from registry.trust.errors import Invalid


def admin_client(settings: Settings) -> Client:
    """As the caller's token says; without one, as the first administrator of this machine."""
    token = find_token(settings)
    if token is None and settings.admin_token.exists():
        token = settings.admin_token.read_text().strip()
    return Client(settings, token)


def org_add(organisation: str, kind: str, name: str, as_json: bool) -> None:
    """Add an organisation."""
    client = admin_client(read_settings())
    added = client.post("/organisations", {"id": organisation, "kind": kind, "name": name})
    show(added, as_json, f"{organisation} added ({kind})")


def token_add(
    org: str, role: str, person: str, days: int, certificate: Path | None, as_json: bool
) -> None:
    """Issue a token and print it, this once."""
    body = {"organisation": org, "role": role, "person": person, "days": days}
    if certificate is not None:
        try:
            body["certificate"] = certificate.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise Invalid(f"{certificate} can't be read as a PEM certificate") from error
    issued = admin_client(read_settings()).post("/tokens", body)
    show(
        issued,
        as_json,
        f"{issued['token']}\n{person} ({role}, {org}), until {issued['expires_at'][:10]}. "
        "It is not shown again.",
    )


def key_new(stem: str, person: str, org: str, as_json: bool) -> None:
    """A key and certificate under the root in the key folder."""
    from registry.trust.keys import issue, load_identity, save_identity

    settings = read_settings()
    root_key = settings.keys / "root.key"
    if not root_key.exists():
        raise Invalid(
            f"there is no root key in {settings.keys}; `touchstone init` makes one for a demo"
        )
    identity = issue(load_identity(root_key), person, organisation=org)
    path = save_identity(identity, settings.keys, stem)
    show(
        {"key": str(path), "certificate": str(path.with_suffix(".pem"))},
        as_json,
        f"key {path}\ncertificate {path.with_suffix('.pem')}",
    )
