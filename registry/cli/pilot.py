"""`pilot` for hospitals: outcomes, report, forget, key, share; `pilots` for the facility.

`attach` puts the commands on the application; what each needs is imported when it runs. Only
`share --send` and `pilots` speak with the registry.
"""

import contextlib
import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from registry.cli.groups import Json, State

if TYPE_CHECKING:
    from serving.pilot.log import PredictionLog

pilot_app = typer.Typer(help="Watch a certified model in your hospital.", no_args_is_help=True)
Bundle = Annotated[Path, typer.Argument(help="Folder that `pull` made, verified before.")]
_COLUMNS = {
    "hospital": "hospital", "model": "model", "version": "version", "last_month": "until",
    "patients": "patients", "alarms": "alarms", "in_force": "in force",
    "submission": "submission",
}  # fmt: skip


def attach(app: typer.Typer) -> None:
    """Add the group `pilot` and the command `pilots` to `app`."""
    app.add_typer(pilot_app, name="pilot")
    app.command()(pilots)


def pilot_state(state: Path | None) -> Path:
    """Where a pilot's log lies: what serves writes there, the commands here read it."""
    from registry.settings import read_settings

    return (state or read_settings().home / "hospital") / "pilot"


@contextlib.contextmanager
def pilot_log(state: Path | None) -> "Iterator[PredictionLog]":
    """The log that a server writes; what waits is written at the end."""
    from serving.pilot.log import PredictionLog

    log = PredictionLog(pilot_state(state))
    try:
        yield log
    finally:
        log.close()


@pilot_app.command("outcomes")
def outcomes(
    bundle: Bundle,
    file: Annotated[Path, typer.Argument(help="CSV or Parquet: case, reference, patient, groups.")],
    state: State = None,
    json: Json = False,
) -> None:
    """Take what became of the cases; ids are hashed before anything is written."""
    from registry.cli.output import show
    from serving.pilot.certified import read_certified
    from serving.pilot.outcomes import take_outcomes

    now = dt.datetime.now(dt.UTC)
    taken = take_outcomes(pilot_state(state), read_certified(bundle), file, now)
    left = f"; not taken: {', '.join(taken.left_out)}" if taken.left_out else ""
    show(
        {"rows": taken.rows, "references": taken.references, "attributes": taken.attributes,
         "left_out": taken.left_out},
        json,
        f"{taken.rows} cases, {taken.references} with an outcome; groups: "
        f"{', '.join(taken.attributes) or 'none'}{left}",
    )  # fmt: skip


@pilot_app.command("report")
def report(
    bundle: Bundle,
    to: Annotated[Path, typer.Option(help="HTML file to write; it needs nothing else.")],
    evidently: Annotated[
        Path | None,
        typer.Option(help="Also Evidently's page: it shows single patients' values."),
    ] = None,
    state: State = None,
    json: Json = False,
) -> None:
    """Write the pilot's page: volumes, drift, performance, alarms, what to do."""
    from registry.cli.output import show
    from serving.pilot.certified import read_certified
    from serving.pilot.page import evidently_page, pilot_page
    from serving.pilot.reading import read_pilot
    from serving.pilot.summary import summarise

    place, certified = pilot_state(state), read_certified(bundle)
    found = summarise(place, certified)
    _write(to, pilot_page(found).encode())
    if evidently is not None:
        _write(evidently, evidently_page(read_pilot(place, certified), found).html)
    alarms = [of.name for of in found.alarms]
    show(
        {"page": str(to), "answers": found.answers, "outcomes": found.performance.n,
         "alarms": alarms},
        json,
        f"{to}: {found.answers} answers, {found.performance.n} outcomes, "
        + (f"ALARM: {', '.join(alarms)}" if alarms else "no alarm"),
    )  # fmt: skip


@pilot_app.command("forget")
def forget(
    bundle: Bundle,
    days: Annotated[int, typer.Option(min=1, help="Delete whole days older than this.")],
    state: State = None,
    json: Json = False,
) -> None:
    """Delete old predictions and outcomes; the daily tests and their alarms go on."""
    from registry.cli.output import show
    from serving.pilot.certified import read_certified
    from serving.pilot.retention import forget as delete

    today = dt.datetime.now(dt.UTC).date()
    gone = delete(pilot_state(state), read_certified(bundle), today, days)
    show(
        {"before": gone.before, "predictions": gone.predictions, "outcomes": gone.outcomes},
        json,
        f"deleted what lay before {gone.before}: {gone.predictions} days of predictions, "
        f"{gone.outcomes} of outcomes",
    )


@pilot_app.command("key")
def key(
    hospital: Annotated[str, typer.Argument(help="Short name of your hospital's organisation.")],
    state: State = None,
    json: Json = False,
) -> None:
    """Make the key that signs what you share. The facility pins it when it is first used."""
    from registry.cli.output import show
    from registry.trust.keys import issue, new_root, save_identity

    identity = issue(new_root(hospital, demo=False), "pilot", organisation=hospital)
    path = save_identity(identity, pilot_state(state), "pilot")
    show({"key": str(path)}, json, f"{path}: keep a copy; another key needs two assessors")


@pilot_app.command("announce")
def announce(
    reason: Annotated[str, typer.Option(help="Why; it is kept.")],
    key: Annotated[
        str | None, typer.Option(help="The new key; the one of `pilot key` if left out.")
    ] = None,
    state: State = None,
    json: Json = False,
) -> None:
    """Announce another key after you lost yours: it counts once two assessors agreed."""
    from registry.cli.client import Client
    from registry.cli.output import show
    from registry.settings import read_settings
    from registry.trust.keys import pem_of
    from registry.trust.signer import open_signer

    with open_signer(key or str(pilot_state(state) / "pilot.key")) as signer:
        body = {"certificate": pem_of(signer.certificate).decode(), "reason": reason}
    answer = Client(read_settings()).post("/pilots/keys", body)
    show(answer, json, f"announced: read {answer['key']} out to two assessors of the facility")


@pilot_app.command("agree")
def agree(
    key: Annotated[str, typer.Argument(help="Digest, as the hospital read it out to you.")],
    json: Json = False,
) -> None:
    """Agree that a hospital reports by another key (assessors, after asking it by another way)."""
    from registry.cli.client import Client
    from registry.cli.output import show
    from registry.settings import read_settings

    answer = Client(read_settings()).post(f"/pilots/keys/{key}/agreements", {})
    said = "it counts from now on" if answer["pinned"] else "another assessor agrees next"
    show(
        answer, json, f"{answer['hospital']} ({answer['announced_by']}: {answer['reason']}): {said}"
    )


@pilot_app.command("share")
def share(
    bundle: Bundle,
    preview: Annotated[
        bool, typer.Option("--preview", help="Only show, in full, what would be sent.")
    ] = False,
    send: Annotated[
        str | None, typer.Option(help="Send it: the digest that --preview showed.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Key to sign with; the one of `pilot key` if left out.")
    ] = None,
    state: State = None,
    json: Json = False,
) -> None:
    """Tell the facility how the pilot goes: aggregates of whole months, seen by you before."""
    from registry.trust.errors import Refused, TouchstoneError, Unavailable

    if preview == (send is not None):
        raise typer.BadParameter("look first with --preview, then give its digest to --send")
    from registry.cli.output import print_json, show
    from registry.trust.canonical import digest_of
    from registry.trust.signer import open_signer
    from serving.pilot.certified import read_certified
    from serving.pilot.share import mark_shared, shared, signed

    place, certified = pilot_state(state), read_certified(bundle)
    made = shared(place, certified, dt.datetime.now(dt.UTC).date())
    whole = made.model_dump(mode="json")
    digest = digest_of(whole)
    if preview:
        if json:
            print_json({"digest": digest, "report": whole})
        else:
            _preview(whole, digest)
        return
    if send != digest:
        raise Refused(
            f"what would be sent now is {digest}, which is not what you saw: look again with "
            "--preview",
            code="not_previewed",
        )
    with open_signer(key or str(place / "pilot.key")) as signer:
        envelope = signed(made, signer)
        # Before it is sent: were we killed in between, the next report could tell of a few.
        undo = mark_shared(place, certified, made)
        try:
            answer = _sent(envelope, signer)
        except Unavailable:
            raise  # nobody knows whether it was kept; the next report tells of its months too
        except TouchstoneError:
            undo()
            raise
    show(answer, json, f"sent: {made.patients} patients until {made.last_month}")


def pilots(json: Json = False) -> None:
    """List what hospitals report of their pilots (facility; hospitals their own)."""
    from registry.cli.client import Client
    from registry.cli.output import print_items, show_table
    from registry.settings import read_settings

    rows = Client(read_settings()).items("/pilots")
    if json:
        print_items("pilots", rows)
        return
    shown = [row | {"alarms": ", ".join(row["alarms"]) or "none"} for row in rows]
    show_table(shown, _COLUMNS, "pilots; an alarm is answered by people: touchstone suspend ID")


def _preview(whole: dict[str, Any], digest: str) -> None:
    import json

    from registry.cli.output import console

    console.print(json.dumps(whole, indent=2, ensure_ascii=False), markup=False, soft_wrap=True)
    console.print(
        "This is all that would be sent, signed with your hospital's key. To send it:\n"
        f"touchstone pilot share … --send {digest}",
        markup=False, soft_wrap=True,
    )  # fmt: skip


def _sent(envelope: dict[str, Any], signer: Any) -> dict[str, Any]:
    from registry.cli.client import Client
    from registry.settings import read_settings
    from registry.trust.keys import pem_of

    answer: dict[str, Any] = Client(read_settings()).post(
        "/pilots",
        {"envelope": envelope, "certificate": pem_of(signer.certificate).decode()},
    )
    return answer


def _write(path: Path, data: bytes) -> None:
    from registry.trust.errors import Unavailable

    try:
        path.write_bytes(data)
    except OSError as error:
        raise Unavailable(f"{path} can't be written ({error.strerror})") from error
