"""`submit`, `status`, `report` and `decide`."""

import datetime as dt
import json
import re
from pathlib import Path
from typing import Any

from registry.cli.client import Client
from registry.cli.output import console, print_items, print_json, progress_bar, show, show_table
from registry.settings import read_settings
from registry.trust.canonical import parse_canonical, sha256_bytes
from registry.trust.errors import Conflict, Invalid, NotFound, Refused, Tampered

NOTICE = "development cohort; it decides nothing"
_WAITING = ("registered", "intake", "queued", "running", "assessed")
_PILOTED = ("certified", "conditional", "suspended", "revoked", "expired")
_MODEL_URI = re.compile(r"models:/([^/@]+)/([1-9][0-9]{0,8})\Z")


def submit(
    model: str,
    protocol: str,
    cohort: str,
    name: str | None,
    wait: bool,
    as_json: bool,
    *,
    development: bool,
    declaration: Path | None = None,
) -> None:
    """Submit; registers a path first. A declaration is read before anything is sent."""
    declared = {} if declaration is None else {"declaration": _declared(declaration)}
    settings = read_settings()
    client = Client(settings)
    match = _MODEL_URI.match(model)
    if match:
        model_name, version = match[1], int(match[2])
    elif model.startswith("models:"):
        raise Invalid(f"{model!r} is not models:/NAME/VERSION with a version number")
    elif Path(model).exists():
        from registry.mlflow_gate.register import register_path

        if settings.is_local:
            raise Invalid("registering a path needs a running registry: name it with --server")
        path = Path(model)
        model_name = name or re.sub(r"[^A-Za-z0-9._-]", "-", path.stem)
        version = register_path(path, model_name, settings.server, client.token)
    else:
        raise Invalid(f"there is no file {model}, and it is not models:/NAME/VERSION")
    asked = {"model": model_name, "version": version, "protocol": protocol, "cohort": cohort}
    asked |= {"development": True} if development else {}
    shown = client.post("/submissions", asked | declared)
    if wait:
        shown = wait_for(client, shown["id"], as_json)
    if as_json:
        print_json(shown)
    else:
        _print_one(shown)


def _declared(path: Path) -> dict[str, Any]:
    from validators.declaration import read_declaration

    return read_declaration(path).model_dump(mode="json")


def wait_for(client: Client, submission: str, as_json: bool) -> dict[str, Any]:
    """Poll until nobody but people can take the submission on."""
    with progress_bar("waiting for the run", as_json) as advance:
        for shown in client.watch(f"/submissions/{submission}"):
            if shown["state"] not in _WAITING:
                return dict(shown)
            advance(_WAITING.index(shown["state"]), len(_WAITING))
    raise AssertionError("a watch never ends by itself")


def status(submission: str | None, watch: bool, as_json: bool) -> None:
    """One submission, or all that the caller may see."""
    client = Client(read_settings())
    if watch and submission is None:
        raise Invalid("--watch follows one submission; name it")
    if submission is not None:
        shown = (
            wait_for(client, submission, as_json)
            if watch
            else client.get(f"/submissions/{submission}")
        )
        if "report_digest" in shown and shown["state"] in _PILOTED:  # the facility's people see it
            shown = dict(shown) | {"pilots": _pilots_of(client, submission)}
        if as_json:
            print_json(shown)
        else:
            _print_one(shown)
        return
    found = client.items("/submissions")
    if as_json:
        print_items("submissions", found)
        return
    rows = list(found)
    flat = [
        row | {"name": f"{row['model']['name']} {row['model']['version']}",
               "on": row["cohort"]["id"], "by": row["protocol"]["id"]}
        for row in rows
    ]  # fmt: skip
    columns = {"id": "submission", "name": "model", "by": "protocol", "on": "cohort",
               "state": "state", "outcome": "outcome"}  # fmt: skip
    show_table(flat, columns, f"{len(rows)} submissions")


def _pilots_of(client: Client, submission: str) -> list[dict[str, Any]]:
    """The last report of each hospital on its pilot of this model."""
    last = {row["hospital"]: row for row in client.items("/pilots", submission=submission)}
    return [
        {key: row[key] for key in ("hospital", "last_month", "patients", "alarms")}
        for _, row in sorted(last.items())
    ]


def _print_one(shown: dict[str, Any]) -> None:
    model, attempts = shown["model"], shown["attempts"]
    lines = [
        f"{shown['id']}  {model['name']} {model['version']}",
        f"  state     {shown['state']}: {shown['meaning']}",
    ]
    if shown["overdue"]:
        lines.append(f"  overdue   since {shown['deadline'][:16]}")
    if shown["outcome"]:
        lines.append(f"  outcome   {shown['outcome'].replace('_', ' ')}")
    if shown["failure"]:
        lines.append(f"  failure   {shown['failure']['code']}: {shown['failure']['message']}")
        if shown["failure"]["fault"] == "facility":
            back = "" if shown["development"] else "; an attempt that was spent came back"
            lines.append(f"  fault     the facility's{back}")
    if trials := shown["trials"]:
        lines.append(f"  trials    {trials['spent']} of {trials['allowed']} spent; {NOTICE}")
    else:
        lines.append(f"  attempts  {attempts['spent']} of {attempts['allowed']} spent")
    if shown.get("cohort_state") in ("retired", "burned"):
        lines.append(f"  cohort    {shown['cohort']['id']} was {shown['cohort_state']}")
    for other in shown.get("alike") or []:
        kind = "the same family as" if other["same_family"] else "much like"
        lines.append(f"  alike     {kind} {other['model']} of {other['organisation']} "
                     f"({other['share']:.0%} of the weights; {other['submission']})")  # fmt: skip
    for used in shown.get("compute") or []:
        own = used["processor_seconds"]
        lines.append(f"  took      {used['run']}: {used['seconds']:.1f} s in {used['parts']} parts"
                     + ("" if own is None else f", {own:.1f} s of processors"))  # fmt: skip
    for pilot in shown.get("pilots") or []:
        said = f"ALARM: {', '.join(pilot['alarms'])}" if pilot["alarms"] else "no alarm"
        lines.append(f"  pilot     {pilot['hospital']} until {pilot['last_month']}: {said} "
                     f"({pilot['patients']} patients)")  # fmt: skip
    if shown["declaration"]:
        lines.append(f"  declared  {shown['declaration']}")
    if shown.get("held_for_review"):
        lines.append(f"  held      for review: {shown['held_for_review']}")
    console.print("\n".join(lines), markup=False)


def report(submission: str, out: Path | None, as_json: bool, *, drift: bool = False) -> None:
    """report.json, and report.html for those who may read it, into `out` or on the screen.

    drift: Evidently's page on single patients too, which must not leave the facility.
    """
    client = Client(read_settings())
    if drift and out is None:
        raise Invalid("--drift writes a page for the facility's people; name a folder with --out")
    data = client.get_bytes(f"/submissions/{submission}/report")
    value = parse_canonical(data)
    if out is None:
        if as_json:
            print_json(value)
        elif "notice" in value:
            _print_trial(value)
        else:
            console.print(json.dumps(value, indent=2, ensure_ascii=False), markup=False)
        return
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / "report.json"]
    paths[0].write_bytes(data)
    try:
        page = client.get_bytes(f"/submissions/{submission}/report.html")
    except Refused:
        pass  # a submitter's released report has no page of its own
    else:
        paths.append(out / "report.html")
        paths[1].write_bytes(page)
    if drift:
        paths.append(out / "drift.html")
        paths[-1].write_bytes(
            client.get_bytes(f"/submissions/{submission}/report.html", drift="true")
        )
    show({"files": [str(path) for path in paths], "digest": sha256_bytes(data)}, as_json,
         "\n".join(str(path) for path in paths))  # fmt: skip
    if not as_json:
        _print_predecessor(value)


def report_pdf(submission: str, to: Path, as_json: bool) -> None:
    """report.pdf, as it lies in the bundle, into the file `to`."""
    data = Client(read_settings()).get_bytes(f"/submissions/{submission}/report.pdf")
    to.write_bytes(data)
    show({"files": [str(to)], "digest": sha256_bytes(data)}, as_json, str(to))


def _print_trial(value: dict[str, Any]) -> None:
    """What the ladder told of a run on the development cohort, a line a metric and group."""
    rows = [
        {
            "metric": row["metric"],
            "group": f"{row['attribute']} {row['group']}" if "group" in row else "all",
            "value": "withheld" if row["value"] is None else f"{row['value']:g}",
            "step": None if row["step"] is None else f"{row['step']:g}",
            "new": "new" if row["improved"] else None,
            "goal": _asked(row),
        }
        for row in (*value["endpoints"], *value["subgroups"])
    ]
    columns = {"metric": "metric", "group": "group", "value": "best so far", "step": "step",
               "new": "", "goal": "asked for"}  # fmt: skip
    show_table(rows, columns, value["notice"])
    failed = "Some" if value["failures"] == "some" else "No"
    console.print(f"{failed} predictions failed. {value['disclosure']['note']}", markup=False)


def _asked(row: dict[str, Any]) -> str | None:
    """The goal, band, or floor of a row, as its protocol has it."""
    if band := row.get("band"):
        return f"{band[0]:g} to {band[1]:g}"
    limit = row.get("goal", row.get("floor"))
    return None if limit is None else f"{limit:g}"


def decide(submission: str, outcome: str, reason: str, key: str, as_json: bool) -> None:
    """Fetch the report, recompute its digest, show what is signed, sign here, send signatures."""
    from registry.cli.status import sign_along
    from registry.trust.certificate import STATEMENT_TYPE
    from registry.trust.decision import DECISION_TYPE, Decision, DecisionOutcome, new_decision
    from registry.trust.dsse import add_signature, signature_over, unsigned
    from registry.trust.keys import signer_name
    from registry.trust.signer import open_signer

    client = Client(read_settings())
    shown = client.get(f"/submissions/{submission}")
    if "report_digest" not in shown:
        raise Refused("only an assessor of the facility decides, with the assessor's own token")
    kind: DecisionOutcome = outcome  # type: ignore[assignment]
    try:
        report_bytes = client.get_bytes(f"/submissions/{submission}/report")
    except (Conflict, NotFound) as error:
        if kind != "reject" or shown["report_digest"] is None:
            raise
        # Whoever rejects needs no report: where the store lost it, nothing else ends the review.
        if not as_json:
            console.print(f"without a report: {error.message}", markup=False, soft_wrap=True)
        digest, overall = shown["report_digest"], shown["verdict"]
    else:
        digest = sha256_bytes(report_bytes)
        if digest != shown["report_digest"]:
            raise Tampered("the report that came is not the one on record; nothing was signed")
        overall = parse_canonical(report_bytes)["verdict"]["overall"]
        if not as_json:
            _print_held(parse_canonical(report_bytes))
            _print_predecessor(parse_canonical(report_bytes))
    statement = None
    if kind != "reject":
        statement = client.get_bytes(f"/submissions/{submission}/statement") or None
        if statement is None:
            raise Refused(
                f"the verdict is {overall}: it can't be turned into `{kind}` by anyone; "
                "sign --reject",
                code="verdict_stands",
            )
        _check_statement(statement, submission, digest, overall)
    with open_signer(key) as signer:
        person, organisation = signer_name(signer.certificate)
        decision = Decision(
            submission=submission,
            report=digest,
            statement=sha256_bytes(statement) if statement else None,
            outcome=kind,
            reason=reason,
            person=person,
            organisation=organisation,
            decided_at=dt.datetime.now(dt.UTC),
        )
        if not as_json:
            _print_signed(decision, overall, statement)
        body: dict[str, Any] = {
            "envelope": add_signature(unsigned(DECISION_TYPE, new_decision(decision)), signer)
        }
        if statement:
            body["statement_signature"] = signature_over(STATEMENT_TYPE, statement, signer)
        shown = client.post(f"/submissions/{submission}/decisions", body)
        if statement:
            expected = {sha256_bytes(statement): None}
            shown["status"] = sign_along(client, signer, submission, expected, as_json)
    show(shown, as_json, f"signed as {person}: {kind}. The submission is {shown['state']}: "
         f"{shown['meaning']}")  # fmt: skip


def _print_held(report: dict[str, Any]) -> None:
    """What an assessor must not overlook before certifying."""
    from validators.leakage.evidence import LeakageEvidence, held_reasons

    if leakage := report.get("leakage"):
        for reason in held_reasons(LeakageEvidence.model_validate(leakage)):
            console.print(f"held for review: {reason}", markup=False, soft_wrap=True)


def _print_predecessor(report: dict[str, Any]) -> None:
    """How the model differs from its certified version, where there was one."""
    from validators.report.words import predecessor_in_words

    if section := report.get("predecessor"):
        for line in predecessor_in_words(section):
            console.print(line, markup=False, soft_wrap=True)


def _check_statement(statement: bytes, submission: str, report: str, overall: str) -> None:
    """Raise Tampered unless the statement is about the report that was read, and follows from
    its own numbers."""
    from registry.trust.certificate import check_verdict, parse_statement

    _, predicate = parse_statement(statement)
    check_verdict(predicate)
    if (predicate.submission, predicate.full_report, predicate.overall) != (
        submission, report, overall,
    ):  # fmt: skip
        raise Tampered("the statement is not about this report; nothing was signed")


def _print_signed(decision: Any, overall: str, statement: bytes | None) -> None:
    """What the signature will stand under, before the key is used."""
    from registry.trust.certificate import parse_statement

    lines = [
        f"you sign, as {decision.person} of {decision.organisation}:",
        f"  submission {decision.submission}",
        f"  report     {decision.report}, verdict {overall.replace('_', ' ')}",
        f"  decision   {decision.outcome}: {decision.reason}",
    ]
    if statement is not None:
        _, predicate = parse_statement(statement)
        model = predicate.model
        lines.append(
            f"  model      {model.organisation}/{model.name} {model.version}, {model.digest}"
        )
        lines.append(f"  until      {predicate.not_after:%Y-%m-%d}")
        lines += [f"  condition  {condition}" for condition in predicate.conditions]
    console.print("\n".join(lines), markup=False, soft_wrap=True)
