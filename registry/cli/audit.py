"""`audit`: read the log, compute it again, and prove what is in it."""

import base64
import datetime as dt
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from registry.cli.client import Client
from registry.cli.output import console, print_items, print_json, show, show_table
from registry.settings import read_settings
from registry.trust.errors import Invalid, Refused, Tampered
from registry.trust.keys import load_certificate, parse_certificate

if TYPE_CHECKING:
    from cryptography import x509

PAGE = "5000"


def list_events(after: int, limit: int | None, as_json: bool) -> None:
    """The log from one event on, up to its end or to so many."""
    size = PAGE if limit is None else str(min(limit + 1, int(PAGE)))
    client = Client(read_settings())
    found = client.items("/audit/events", after=str(after), limit=size)
    wanted = itertools.islice(found, limit)
    if as_json:
        print_items("events", wanted)
        return
    columns = {"seq": "event", "at": "when", "actor": "who", "organisation": "whose",
               "kind": "what", "subject": "about"}  # fmt: skip
    rows = [{**event, "at": event["at"][:19].replace("T", " ")} for event in wanted]
    show_table(rows, columns, f"{len(rows)} events")
    if rows and next(found, None) is not None:
        console.print(f"more: touchstone audit list --after {rows[-1]['seq']}")


def verify(root: Path | None, against: list[Path], as_json: bool) -> None:
    """Download everything and compute it again, here."""
    from registry.audit.recompute import Finding, recompute

    client = Client(read_settings())
    authority = _root(root)
    log = client.get("/audit/log")
    if log["reach"] != "all":
        raise Refused(
            "computing the whole log again takes an auditor's token; your own events you can prove "
            "(`touchstone audit prove`)"
        )
    certificate = parse_certificate(log["certificate"].encode())
    try:
        stored = {
            int(found["size"]): str(found["note"]).encode()
            for found in client.items("/audit/checkpoints", limit=PAGE)
        }
        indexed = [int(row["size"]) for row in client.items("/audit/checkpoint-index", limit=PAGE)]
    except (KeyError, ValueError, TypeError) as error:
        raise Tampered("the server's list of checkpoints is not one") from error
    outcome = recompute(
        client.items("/audit/events", limit=PAGE),
        stored,
        certificate,
        authority,
        dt.datetime.now(dt.UTC),
        against=[_note_in(path) for path in against],
    )
    gone = tuple(
        Finding(size, size, "gone from the object store", "checkpoint")
        for size in indexed if size not in stored
    )  # fmt: skip
    outcome = replace(outcome, findings=(*outcome.findings, *gone))
    if as_json:
        print_json(outcome.as_json())
    else:
        for finding in outcome.findings:
            console.print(f"FAIL  {finding.place}: {finding.what}", markup=False,
                          style="bold red", soft_wrap=True)  # fmt: skip
    if outcome.findings:
        raise Tampered(
            f"the log does not hold; first bad: {outcome.findings[0].place}", code="log_broken"
        )
    if not as_json:
        console.print(
            f"{outcome.events} events of the log {outcome.origin}: chain and tree hold, and "
            f"{outcome.checkpoints} checkpoints are signed, each extending the one before\n"
            f"root {outcome.root.hex()}",
            markup=False, soft_wrap=True,
        )  # fmt: skip


def prove(name: str, out: Path | None, as_json: bool) -> None:
    """Fetch a proof and write it to a file."""
    from registry.trust.log_proof import LONGEST

    data = Client(read_settings()).get_bytes(f"/audit/proofs/{name}")
    if len(data) > LONGEST:
        raise Invalid(f"the proof is longer than {LONGEST} bytes")
    path = out or Path(f"proof-{name}.json")
    try:
        path.write_bytes(data)
    except OSError as error:
        raise Invalid(f"{path} can't be written: {error.strerror}") from error
    events = len(json.loads(data)["entries"])
    show(
        {"proof": str(path), "events": events},
        as_json,
        f"{path}: {events} events. Anybody checks it with: "
        f"touchstone audit check {path} --root root.pem",
    )


def check(proof: Path, root: Path | None, witness: list[str], as_json: bool) -> None:
    """What a proof shows. Needs no server: the file, the root and this program."""
    from registry.trust.checkpoint import parse_witness_key, witnessed_at
    from registry.trust.log_proof import check_proof

    proven = check_proof(_read(proof), _root(root), dt.datetime.now(dt.UTC))
    seen = {}
    for key in witness:
        name, public = parse_witness_key(key)
        seen[name] = witnessed_at(proven.note, name, public).isoformat()
    if as_json:
        print_json({
            "ok": True,
            "origin": proven.checkpoint.origin,
            "size": proven.checkpoint.size,
            "root": proven.checkpoint.root.hex(),
            "events": [event.as_json() for event in proven.events],
            "witnessed": seen,
        })  # fmt: skip
        return
    for event in proven.events:
        console.print(
            f"{event.seq}  {event.at}  {event.actor}  {event.kind}  "
            f"{event.subject}  {event.detail}",
            markup=False, soft_wrap=True,
        )  # fmt: skip
    witnesses = "; ".join(f"seen by {name} at {when}" for name, when in seen.items())
    console.print(
        f"in the log {proven.checkpoint.origin} of {proven.checkpoint.size} events, which this "
        f"root knows{'; ' + witnesses if witnesses else ''}",
        markup=False, soft_wrap=True,
    )  # fmt: skip


def certify(asked: Path, key: Path, out: Path, as_json: bool) -> None:
    """The certificate of a log's key, made where the root's key is."""
    from registry.audit.log_key import read_request
    from registry.trust.keys import load_identity, pem_of
    from registry.trust.log_key import certify as issue

    certificate = issue(read_request(_read(asked)), load_identity(key))
    try:
        out.write_bytes(pem_of(certificate))
    except OSError as error:
        raise Invalid(f"{out} can't be written: {error.strerror}") from error
    show(
        {"certificate": str(out), "subject": certificate.subject.rfc4514_string()},
        as_json,
        f"{out}: {certificate.subject.rfc4514_string()}. Put it beside the log's key as log.pem.",
    )


def _root(given: Path | None) -> "x509.Certificate":
    """The root that the caller pinned; on the facility's own machine, the facility's."""
    settings = read_settings()
    path = given or (settings.root_certificate if settings.root_certificate.exists() else None)
    if path is None:
        raise Invalid(
            "name the facility's root certificate that you pinned: --root FILE or TOUCHSTONE_ROOT"
        )
    return load_certificate(path)


def _note_in(path: Path) -> bytes:
    """The checkpoint in a file: a note, a proof, or a certificate that carries one."""
    data = _read(path)
    if not data.startswith(b"{"):
        return data
    try:
        value = json.loads(data)
        if "payload" in value:
            value = json.loads(base64.b64decode(value["payload"]))["predicate"]["log"]
        return str(value["checkpoint"]).encode()
    except (ValueError, KeyError, TypeError) as error:
        raise Invalid(f"{path} holds no checkpoint") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Invalid(f"{path} can't be read: {error.strerror}") from error
