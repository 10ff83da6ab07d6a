"""`org`, `token` and `person`."""

import datetime as dt
from urllib.parse import quote

from registry.cli.client import Client
from registry.cli.credentials import find_token
from registry.cli.output import print_items, show, show_table
from registry.settings import Settings, read_settings


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


def token_add(org: str, role: str, person: str, days: int, as_json: bool) -> None:
    """Issue a token and print it, this once."""
    body = {"organisation": org, "role": role, "person": person, "days": days}
    issued = admin_client(read_settings()).post("/tokens", body)
    show(
        issued,
        as_json,
        f"{issued['token']}\n{person} ({role}, {org}), until {issued['expires_at'][:10]}. "
        "It is not shown again.",
    )


def token_list(as_json: bool) -> None:
    """Tokens, without their secrets."""
    found = admin_client(read_settings()).items("/tokens")
    if as_json:
        return print_items("tokens", found)
    rows = list(found)
    now = dt.datetime.now(dt.UTC)
    for row in rows:
        over = dt.datetime.fromisoformat(row["expires_at"]) <= now
        row["state"] = "revoked" if row["revoked_at"] else "expired" if over else "live"
        for moment in ("expires_at", "last_used_at"):
            row[moment] = (row[moment] or "never")[:16].replace("T", " ")
    columns = {
        "id": "id",
        "person": "person",
        "role": "role",
        "organisation": "organisation",
        "state": "state",
        "expires_at": "until",
        "last_used_at": "last used",
    }
    return show_table(rows, columns, "Tokens")


def token_revoke(token: str, as_json: bool) -> None:
    """Revoke a token."""
    revoked = admin_client(read_settings()).delete(f"/tokens/{quote(token, safe='')}")
    show(revoked, as_json, f"{token} revoked; it opens nothing from now on")


def person_add(
    name: str, org: str, role: str, subject: str | None, email: str | None, as_json: bool
) -> None:
    """Link a person, or grant one more role."""
    body = {"name": name, "organisation": org, "role": role, "subject": subject, "email": email}
    added = admin_client(read_settings()).post("/people", body)
    show(added, as_json, f"{name} may log in as {role} of {org} (id {added['id']})")


def person_list(as_json: bool) -> None:
    """Who is linked, with what they hold and held."""
    found = admin_client(read_settings()).items("/people")
    if as_json:
        return print_items("people", found)
    rows = list(found)
    for row in rows:
        row["known as"] = row["subject"] or f"{row['email']} (not yet seen)"
        row["roles"] = ", ".join(
            f"{one['role']} of {one['organisation']}"
            + (" (withdrawn)" if one["withdrawn_by"] else "")
            for one in row["roles"]
        )
    columns = {"id": "id", "name": "name", "roles": "roles", "known as": "known as"}
    return show_table(rows, columns, "People")


def person_withdraw(person: str, org: str, role: str, as_json: bool) -> None:
    """Withdraw a role from a person."""
    path = "/".join(quote(part, safe="") for part in (person, "roles", org, role))
    done = admin_client(read_settings()).delete(f"/people/{path}")
    show(done, as_json, f"{role} of {org} withdrawn; logins in it have ended")
