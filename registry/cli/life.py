"""`withdraw`, `cancel`, `suspend`, `resume`, `revoke`, `notices`, `quota` and `org quota`.

`attach` puts the commands on the application; what each needs is imported when it runs.
"""

import datetime as dt
from typing import Annotated, Any

import typer

from registry.cli.groups import Json, org_app

Id = Annotated[str, typer.Argument(help="Submission.")]
_MIB = 1 << 20
Reason = Annotated[str, typer.Option(help="Why, in one line; it is kept and shown.")]


def attach(app: typer.Typer) -> None:
    """Add the commands to `app` and to its group `org`."""
    for command in (withdraw, cancel, suspend, resume, revoke, notices, quota):
        app.command()(command)
    org_app.command("quota")(org_quota)


def withdraw(id: Id, reason: Reason, json: Json = False) -> None:  # noqa: A002
    """Take your submission back before its review; its compute stops (innovators)."""
    _stop("withdraw", id, reason, json)


def cancel(id: Id, reason: Reason, json: Json = False) -> None:  # noqa: A002
    """Stop a submission before its review; its compute stops (stewards)."""
    _stop("cancel", id, reason, json)


def suspend(id: Id, reason: Reason, json: Json = False) -> None:  # noqa: A002
    """Take a certified model out of clinical pilot, at once (assessors, stewards)."""
    _stop("suspend", id, reason, json)


def revoke(id: Id, reason: Reason, json: Json = False) -> None:  # noqa: A002
    """End a certificate: the first assessor suspends it, the second ends it."""
    _stop("revoke", id, reason, json)


def resume(
    id: Id,  # noqa: A002
    reason: Reason,
    key: Annotated[str, typer.Option(help="Your key file, or pkcs11:… for a key in a token.")],
    json: Json = False,
) -> None:
    """Sign, on this machine, that a suspended model may come back (two assessors)."""
    from registry.cli.client import Client
    from registry.cli.status import sign_along
    from registry.settings import read_settings
    from registry.trust.canonical import sha256_bytes
    from registry.trust.dsse import add_signature, unsigned
    from registry.trust.errors import Conflict
    from registry.trust.keys import signer_name
    from registry.trust.resumption import RESUMPTION_TYPE, Resumption, new_resumption
    from registry.trust.signer import open_signer
    from registry.trust.status import moment_of

    client = Client(read_settings())
    found = client.get(f"/submissions/{id}")
    if found["state"] != "suspended":
        raise Conflict(f"the submission is {found['state']}: there is nothing to resume")
    with open_signer(key) as signer:
        person, organisation = signer_name(signer.certificate)
        resumption = Resumption(
            submission=id,
            suspended_at=found["changed_at"],
            reason=reason,
            person=person,
            organisation=organisation,
            signed_at=dt.datetime.now(dt.UTC),
        )
        envelope = add_signature(unsigned(RESUMPTION_TYPE, new_resumption(resumption)), signer)
        shown = client.post(f"/submissions/{id}/resume", {"envelope": envelope})
        statement = sha256_bytes(client.get_bytes(f"/submissions/{id}/statement"))
        expected = {statement: moment_of(resumption.suspended_at)}
        shown["status"] = sign_along(client, signer, id, expected, json)
    _tell(shown, json)


def notices(
    after: Annotated[int, typer.Option(help="Only those after this number.", min=0)] = 0,
    json: Json = False,
) -> None:
    """Read what you are told: failures, late reviews, suspensions."""
    from registry.cli.client import Client
    from registry.cli.output import print_items, show_table
    from registry.settings import read_settings

    client = Client(read_settings())
    found = client.items("/notices", after=str(after))
    if json:
        print_items("notices", found)
        return
    rows = list(found)
    columns = {"number": "number", "at": "at", "organisation": "to", "submission": "submission",
               "message": "message"}  # fmt: skip
    show_table(rows, columns, f"{len(rows)} notices")


def quota(
    org: Annotated[str | None, typer.Option(help="Organisation; your own if left out.")] = None,
    json: Json = False,
) -> None:
    """Show what your organisation may use, and uses."""
    from registry.cli.people import admin_client
    from registry.settings import read_settings

    client = admin_client(read_settings())
    name = org or client.get("/me")["organisation"]
    _print_quota(client.get(f"/organisations/{name}/quota"), json)


def org_quota(
    id: Annotated[str, typer.Argument(help="Organisation.")],  # noqa: A002
    storage: Annotated[int | None, typer.Option(help="MiB of artifacts.", min=0)] = None,
    waiting: Annotated[int | None, typer.Option(help="Submissions at a time.", min=0)] = None,
    compute: Annotated[int | None, typer.Option(help="Hours in 30 days.", min=0)] = None,
    json: Json = False,
) -> None:
    """Change what an organisation may use (administrators)."""
    from registry.cli.people import admin_client
    from registry.settings import read_settings

    body = {
        "storage_bytes": None if storage is None else storage << 20,
        "waiting": waiting,
        "compute_seconds": None if compute is None else compute * 3600,
    }
    client = admin_client(read_settings())
    _print_quota(client.put(f"/organisations/{id}/quota", body), json)


def _stop(what: str, submission: str, reason: str, as_json: bool) -> None:
    from registry.cli.client import Client
    from registry.settings import read_settings

    client = Client(read_settings())
    _tell(client.post(f"/submissions/{submission}/{what}", {"reason": reason}), as_json)


def _tell(found: dict[str, Any], as_json: bool) -> None:
    from registry.cli.output import show

    show(found, as_json, f"the submission is {found['state']}: {found['meaning']}")


def _print_quota(found: dict[str, Any], as_json: bool) -> None:
    from registry.cli.output import show

    storage, waiting, compute = (
        found[name] for name in ("storage_bytes", "waiting", "compute_seconds")
    )
    show(
        found,
        as_json,
        f"{found['organisation']}\n"
        f"  storage  {storage['used'] / _MIB:.0f} of {storage['allowed'] / _MIB:.0f} MiB\n"
        f"  waiting  {waiting['used']} of {waiting['allowed']} submissions\n"
        f"  compute  {compute['used'] / 3600:.1f} of {compute['allowed'] / 3600:.1f} hours of the "
        "last 30 days",
    )
