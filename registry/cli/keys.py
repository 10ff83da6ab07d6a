"""The command group `key`: who may sign, and by whose word. As in `main`, bodies import late."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

key_app = typer.Typer(help="Signing keys of people; the server never sees one.",
                      no_args_is_help=True)  # fmt: skip

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Key = Annotated[
    str, typer.Option(help="Your key file, or pkcs11:token=…;object=… for one in a token.")
]


class EnrolledRole(StrEnum):
    """Roles that a key is enrolled for."""

    assessor = "assessor"
    steward = "steward"


@key_app.command("new")
def key_new(
    stem: Annotated[str, typer.Argument(help="File name, such as ada.")],
    person: Annotated[str, typer.Option(help="Name of the person.")],
    org: Annotated[str, typer.Option(help="Organisation of the person.")],
    json: Json = False,
) -> None:
    """Make a key and its certificate under the root in your key folder (demo)."""
    from registry.cli import enrolment

    enrolment.new(stem, person, org, json)


@key_app.command("found")
def key_found(
    people: Annotated[
        list[str], typer.Argument(help="ROLE=CERTIFICATE, such as assessor=ada.pem; two or more.")
    ],
    out: Annotated[Path, typer.Option(help="File for the founding statement.")],
    root: Annotated[
        str | None, typer.Option(help="The root's key; the one in your key folder if left out.")
    ] = None,
    json: Json = False,
) -> None:
    """Sign, offline and with the root's key, who the first people are."""
    from registry.cli import enrolment

    enrolment.found(people, out, root, json)


@key_app.command("request")
def key_request(
    certificate: Annotated[Path, typer.Argument(help="The certificate (PEM) to be enrolled.")],
    role: Annotated[EnrolledRole, typer.Option(help="For which role.")],
    out: Annotated[Path, typer.Option(help="File for the statement, to be approved by two.")],
    json: Json = False,
) -> None:
    """Write the statement by which a key is enrolled; nobody has approved it yet."""
    from registry.cli import enrolment

    enrolment.request_for(certificate, role.value, out, json)


@key_app.command("approve")
def key_approve(
    statement: Annotated[Path, typer.Argument(help="The file that `key request` wrote.")],
    key: Key,
    json: Json = False,
) -> None:
    """Sign another person's statement with your own key (enrolled assessors and stewards)."""
    from registry.cli import enrolment

    enrolment.approve(statement, key, json)


@key_app.command("enrol")
def key_enrol(
    statement: Annotated[Path, typer.Argument(help="From `key found`, or approved by two.")],
    json: Json = False,
) -> None:
    """Hand a signed statement to the server, which checks every signature."""
    from registry.cli import enrolment

    enrolment.enrol(statement, json)


@key_app.command("list")
def key_list(json: Json = False) -> None:
    """List every key that was ever enrolled."""
    from registry.cli import enrolment

    enrolment.listing(json)


@key_app.command("revoke")
def key_revoke(
    key: Annotated[str, typer.Argument(help="The key, as `key list` names it.")],
    reason: Annotated[str, typer.Option(help="Why; it is kept.")],
    json: Json = False,
) -> None:
    """Take a key away: it signs no new decision and approves nobody."""
    from registry.cli import enrolment

    enrolment.revoke(key, reason, json)
