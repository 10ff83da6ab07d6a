"""The command line. What a command needs is imported when it runs, so that `--help` is quick.

Exit status: 0 done, 1 a mistake that the message explains, 2 wrong usage, 130 interrupted; `verify`
has one a kind of failure (serving/bundle/exits.py).
`--json` on every command prints one JSON object on stdout and nothing else there.
"""

import enum
import itertools
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from registry.cli import cohort_use, life, pilot, serving
from registry.cli.audit_group import audit_app
from registry.cli.cohort_group import cohort_app
from registry.cli.groups import (
    Json,
    Root,
    State,
    org_app,
    person_app,
    protocol_app,
    token_app,
)
from registry.cli.keys import key_app
from registry.cli.serving import AllowDemo, GraceDays, NoStatus, WitnessesNeeded, WitnessKeys
from registry.cli.status_group import status_app
from registry.cli.storage import storage_app
from registry.settings import SILENCE

app = typer.Typer(
    name="touchstone",
    help="The proving ground between a cancer-imaging AI model and a patient.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for name, group in (
    ("org", org_app),
    ("token", token_app),
    ("person", person_app),
    ("key", key_app),
    ("cohort", cohort_app),
    ("protocol", protocol_app),
    ("audit", audit_app),
    ("status", status_app),
    ("storage", storage_app),
):
    app.add_typer(group, name=name)


class Queue(enum.StrEnum):
    """What a protocol asks its runs to be computed on."""

    CPU = "cpu"
    GPU = "gpu"


_EVERYWHERE = ("--server", "--token-file")


@app.callback()
def everywhere(
    server: Annotated[
        str | None,
        typer.Option(help="Address of the registry, in place of TOUCHSTONE_SERVER."),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File that holds your token, in place of TOUCHSTONE_TOKEN."),
    ] = None,
) -> None:
    """Where to and as whom: these two may stand before or after any command."""
    if server is not None:
        os.environ["TOUCHSTONE_SERVER"] = server
    if token_file is not None:
        os.environ["TOUCHSTONE_TOKEN_FILE"] = str(token_file)


def options_first(arguments: list[str]) -> list[str]:
    """The same arguments with those that hold everywhere in front, where typer wants them.

    >>> options_first(["status", "--server", "http://x", "--json"])
    ['--server', 'http://x', 'status', '--json']
    """
    front, rest = [], []
    left = iter(arguments)
    for argument in left:
        if argument == "--":
            rest += [argument, *left]
        elif argument in _EVERYWHERE:
            front += [argument, *itertools.islice(left, 1)]
        elif argument.startswith(tuple(f"{name}=" for name in _EVERYWHERE)):
            front.append(argument)
        else:
            rest.append(argument)
    return front + rest


@app.command()
def init(json: Json = False) -> None:
    """Set up the data directory, the database and a root of your own. Safe to repeat."""
    from registry.cli import operate

    operate.init(json)


@app.command()
def up(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8400,
    allow_unsandboxed: Annotated[
        bool, typer.Option(help="Run models without a sandbox where the host has none.")
    ] = False,
    json: Json = False,
) -> None:
    """Start everything on this machine; Ctrl-C stops it all."""
    from registry.cli import operate

    operate.up(host, port, allow_unsandboxed, json)


@app.command(hidden=True)
def server(host: str = "0.0.0.0", port: int = 8400) -> None:  # noqa: S104
    """The registry alone, for a cluster: the database is named in the environment."""
    from registry.cli import operate

    operate.server(host, port)


@app.command(hidden=True)
def worker(
    queue: Annotated[
        Queue | None, typer.Option(help="Take turns of this queue alone, in place of all.")
    ] = None,
    allow_unsandboxed: bool = False,
) -> None:
    """One worker alone, for a cluster."""
    from registry.cli import operate

    operate.worker(None if queue is None else queue.value, allow_unsandboxed)


@app.command(hidden=True)
def migrate(json: Json = False) -> None:
    """Bring the database named in the environment to the present shape."""
    from registry.cli import operate

    operate.migrate(json)


@app.command()
def login(
    org: Annotated[str | None, typer.Option(help="Where, if you hold roles in several.")] = None,
    role: Annotated[str | None, typer.Option(help="As what, if you hold several roles.")] = None,
    key: Annotated[
        str | None,
        typer.Option(
            help="Sign in with your enrolled key (assessors, stewards): its file, or "
            "pkcs11:token=…;object=…"
        ),
    ] = None,
    person: Annotated[
        str | None, typer.Option(help="With --key: refuse unless its certificate names you so.")
    ] = None,
    show_token: Annotated[
        bool, typer.Option("--show", help="Show the token too, for MLflow's own client.")
    ] = False,
    json: Json = False,
) -> None:
    """Log in at your identity provider, or with your enrolled key; the keyring keeps the token."""
    from registry.cli import login, sign_in
    from registry.trust.errors import Invalid

    if key is not None:
        if org is not None or role is not None:
            raise Invalid("with --key, organisation and role are those of its enrolment")
        return sign_in.sign_in(key, person, show_token, json)
    if person is not None:
        raise Invalid("--person goes with --key; a provider knows who you are")
    return login.login(org, role, show_token, json)


@app.command()
def logout(json: Json = False) -> None:
    """Revoke the token of your login and remove it from the keyring."""
    from registry.cli import login

    login.logout(json)


@app.command()
def whoami(json: Json = False) -> None:
    """Show who the registry takes you for."""
    from registry.cli import login

    login.whoami(json)


@app.command()
def submit(
    model: Annotated[str, typer.Argument(help="models:/NAME/VERSION, or a path to register.")],
    protocol: Annotated[str, typer.Option(help="Id or digest of a locked protocol.")],
    cohort: Annotated[str, typer.Option(help="Name of a locked cohort.")],
    name: Annotated[str | None, typer.Option(help="Model name, when registering a path.")] = None,
    development: Annotated[
        bool,
        typer.Option(
            "--development",
            help="On the protocol's development cohort: numbers to iterate with, no attempt spent.",
        ),
    ] = False,
    wait: Annotated[bool, typer.Option(help="Wait until the run is assessed.")] = False,
    declaration: Annotated[
        Path | None, typer.Option(help="File with what the protocol asks the maker to declare.")
    ] = None,
    json: Json = False,
) -> None:
    """Submit a registered model to a locked cohort (innovators)."""
    from registry.cli import submissions

    submissions.submit(
        model, protocol, cohort, name, wait, json,
        development=development, declaration=declaration,
    )  # fmt: skip


@app.command()
def report(
    id: Annotated[str, typer.Argument(help="Submission.")],  # noqa: A002
    out: Annotated[Path | None, typer.Option(help="Folder to write to.")] = None,
    drift: Annotated[
        bool,
        typer.Option("--drift", help="Also the page on drift: it shows single patients' values."),
    ] = False,
    pdf: Annotated[
        Path | None, typer.Option(help="File for the released report as PDF, once certified.")
    ] = None,
    json: Json = False,
) -> None:
    """Fetch a report, as far as you may read it."""
    from registry.cli import submissions

    if pdf is not None:
        submissions.report_pdf(id, pdf, json)
    if pdf is None or out is not None:
        submissions.report(id, out, json, drift=drift)


@app.command()
def decide(
    id: Annotated[str, typer.Argument(help="Submission.")],  # noqa: A002
    reason: Annotated[str, typer.Option(help="Why; it is signed and kept.")],
    key: Annotated[
        str,
        typer.Option(
            help="Your key file, its certificate beside it; or "
            "pkcs11:token=…;object=… for a key in a token."
        ),
    ],
    certify: Annotated[bool, typer.Option("--certify")] = False,
    conditional: Annotated[bool, typer.Option("--conditional")] = False,
    reject: Annotated[bool, typer.Option("--reject")] = False,
    json: Json = False,
) -> None:
    """Sign a decision on a report, on this machine, with your own key (assessors)."""
    chosen = [
        outcome
        for outcome, given in
        (("certify", certify), ("conditional", conditional), ("reject", reject))
        if given
    ]  # fmt: skip
    if len(chosen) != 1:
        raise typer.BadParameter("give exactly one of --certify, --conditional and --reject")
    from registry.cli import submissions

    submissions.decide(id, chosen[0], reason, key, json)


@app.command()
def pull(
    name: Annotated[str, typer.Argument(help="Certified model, NAME or ORGANISATION/NAME.")],
    to: Annotated[Path, typer.Option(help="Folder to make; absent or complete, never half.")],
    json: Json = False,
) -> None:
    """Fetch a certified model's bundle (hospitals)."""
    from registry.cli import hospital

    hospital.pull(name, to, json)


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="Folder that `pull` made.")],
    root: Root = None,
    state: State = None,
    acknowledge: Annotated[
        str | None,
        typer.Option(help="Your name: you read the intended use and its limits. Remembered."),
    ] = None,
    witness: WitnessKeys = None,
    witnesses: WitnessesNeeded = None,
    allow_demo: AllowDemo = False,
    skip_golden: Annotated[
        bool, typer.Option(help="Leave out the replay on this machine; say so in your records.")
    ] = False,
    status: Annotated[
        Path | None,
        typer.Option(help="Folder with a newer status, such as one on a stick: taken in first."),
    ] = None,
    no_status: NoStatus = False,
    grace_days: GraceDays = 0,
    json: Json = False,
) -> None:
    """Prove, offline, what a bundle is, that it is in force, and that it behaves as certified.

    Each kind of failure has an exit status of its own: docs/hospitals.md lists them.
    """
    from registry.cli import hospital

    asked = hospital.Asked(
        state,
        allow_demo,
        acknowledge,
        witness,
        witnesses,
        no_status=no_status,
        status=status,
        grace_days=grace_days,
    )
    hospital.verify(bundle, root, asked, not skip_golden, json)


@app.command()
def assess(
    table: Annotated[Path, typer.Argument(help="One row a case: CSV or Parquet.")],
    protocol: Annotated[str, typer.Option(help="A protocol file, or the id of a locked one.")],
    out: Annotated[Path, typer.Option(help="Folder for report.json and report.html.")],
    column: Annotated[
        list[str] | None, typer.Option(help="NAME=COLUMN, when the table uses another name.")
    ] = None,
    declaration: Annotated[
        Path | None, typer.Option(help="File with the development data, for protocols with drift.")
    ] = None,
    json: Json = False,
) -> None:
    """Score a table of predictions against a protocol. Needs no server."""
    from registry.cli import assessment

    assessment.assess(table, protocol, out, column or [], json, declaration=declaration)


life.attach(app)
cohort_use.attach(app)
serving.attach(app)
pilot.attach(app)


def main() -> None:
    """Run the command line; every expected error is one line on stderr."""
    os.environ.update(SILENCE)
    from registry.trust.errors import TouchstoneError

    try:
        app(options_first(sys.argv[1:]))
    except TouchstoneError as error:
        sys.stderr.write(f"error: {error.message}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
