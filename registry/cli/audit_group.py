"""The command group `audit`. As in `main`, bodies import late."""

from pathlib import Path
from typing import Annotated

import typer

from registry.cli.groups import Json, Root

audit_app = typer.Typer(
    help="The log: who did what, and the proof that nobody changed it.", no_args_is_help=True
)


@audit_app.command("list")
def audit_list(
    after: Annotated[int, typer.Option(help="Begin after this event.", min=0)] = 0,
    limit: Annotated[
        int | None, typer.Option(help="At most so many; all if left out.", min=1)
    ] = None,
    json: Json = False,
) -> None:
    """List events, oldest first (auditors all, others their own organisation's)."""
    from registry.cli import audit

    audit.list_events(after, limit, json)


@audit_app.command("verify")
def audit_verify(
    against: Annotated[
        list[Path] | None,
        typer.Option(help="A checkpoint that you kept: a note, a proof or a certificate."),
    ] = None,
    root: Root = None,
    json: Json = False,
) -> None:
    """Compute chain, tree and checkpoints again, on this machine; name the first bad row."""
    from registry.cli import audit

    audit.verify(root, against or [], json)


@audit_app.command("prove")
def audit_prove(
    id: Annotated[str, typer.Argument(help="An event's number, or a submission.")],  # noqa: A002
    out: Annotated[Path | None, typer.Option(help="File to write.")] = None,
    json: Json = False,
) -> None:
    """Write a proof that events are in the log, for somebody who does not trust us."""
    from registry.cli import audit

    audit.prove(id, out, json)


@audit_app.command("check")
def audit_check(
    proof: Annotated[Path, typer.Argument(help="File that `audit prove` wrote.")],
    root: Root = None,
    witness: Annotated[
        list[str] | None, typer.Option(help="NAME+ID+KEY of a witness that must have co-signed.")
    ] = None,
    json: Json = False,
) -> None:
    """Check a proof, offline."""
    from registry.cli import audit

    audit.check(proof, root, witness or [], json)


@audit_app.command("certify")
def audit_certify(
    request: Annotated[Path, typer.Argument(help="log.csr of the server's data directory.")],
    key: Annotated[Path, typer.Option(help="The root's key; its certificate lies beside it.")],
    out: Annotated[Path, typer.Option(help="Certificate to write.")] = Path("log.pem"),
    json: Json = False,
) -> None:
    """Make the certificate of a log's key, where the root's key is."""
    from registry.cli import audit

    audit.certify(request, key, out, json)


@audit_app.command("witnesses")
def audit_witnesses(json: Json = False) -> None:
    """Show who co-signs the log, what each co-signed last, and what is the trouble."""
    from registry.cli import witnesses

    witnesses.show_witnesses(json)


@audit_app.command("witness-request")
def audit_witness_request(
    name: Annotated[str, typer.Argument(help="The witness, as its key names it.")],
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("request.txt"),
    old: Annotated[
        int | None, typer.Option(help="Events that it saw last, if it says another number.", min=0)
    ] = None,
    json: Json = False,
) -> None:
    """Write what a witness without an address is to be given (stewards, auditors)."""
    from registry.cli import witnesses

    witnesses.write_request(name, out, old, json)


@audit_app.command("witness-answer")
def audit_witness_answer(
    name: Annotated[str, typer.Argument(help="The witness, as its key names it.")],
    answer: Annotated[Path, typer.Argument(help="File that it gave back.")],
    size: Annotated[int, typer.Option(help="Events of the checkpoint that it was given.", min=1)],
    json: Json = False,
) -> None:
    """Take in what a witness co-signed (stewards). Checked; twice is once."""
    from registry.cli import witnesses

    witnesses.hand_in(name, answer, size, json)
