"""`key …`: make, found, request, approve, enrol, list, revoke.

A statement travels as one file, by whatever way people trust: its envelope and the certificates
that it names. Signing needs no server; the server, and each hospital, checks every signature.
"""

import datetime as dt
import json
from pathlib import Path
from typing import Any

from registry.cli.output import console, print_items, show, show_table
from registry.cli.people import admin_client
from registry.settings import read_settings
from registry.trust.errors import Invalid


def new(stem: str, person: str, org: str, as_json: bool) -> None:
    """A key and certificate under the root in the key folder."""
    from registry.trust.keys import issue, load_identity, save_identity

    settings = read_settings()
    root_key = settings.keys / "root.key"
    if not root_key.exists():
        raise Invalid(
            f"there is no root key in {settings.keys}; `touchstone init` makes one for a demo"
        )
    identity = issue(load_identity(root_key), person, organisation=org)
    path = save_identity(identity, settings.keys, stem)
    show(
        {"key": str(path), "certificate": str(path.with_suffix(".pem"))},
        as_json,
        f"key {path}\ncertificate {path.with_suffix('.pem')}",
    )


def found(people: list[str], out: Path, root: str | None, as_json: bool) -> None:
    """The founding statement, signed here with the root's key."""
    from registry.trust.enrolment import Register, enrolled, founded, person_of
    from registry.trust.keys import load_certificate, pem_of, signer_name
    from registry.trust.signer import open_signer

    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    leaves, first = [], []
    for entry in people:
        role, equals, path = entry.partition("=")
        if role not in ("assessor", "steward") or not equals:
            raise Invalid(f"{entry!r} is not ROLE=CERTIFICATE, such as assessor=ada.pem")
        leaf = load_certificate(Path(path))
        leaves.append(leaf)
        first.append(person_of(leaf, role, now))  # type: ignore[arg-type]
    if len(first) < 2:
        raise Invalid("name two people or more: each later key is approved by two of them")
    _, facility = signer_name(leaves[0])
    with open_signer(root or str(read_settings().keys / "root.key")) as signer:
        envelope = founded(signer, facility, first, now)
        enrolled(Register(envelope, (), tuple(leaves)), signer.certificate)
    _write(out, {"envelope": envelope, "certificates": [pem_of(x).decode() for x in leaves]})
    names = ", ".join(f"{person.person} ({person.role})" for person in first)
    show(
        {"statement": str(out), "people": [p.model_dump(mode="json") for p in first]},
        as_json,
        f"{out}: founded by {names}. Hand it in with `touchstone key enrol {out}`.",
    )


def request_for(certificate: Path, role: str, out: Path, as_json: bool) -> None:
    """The statement that two others are asked to sign."""
    from registry.trust.enrolment import person_of, request
    from registry.trust.keys import load_certificate, pem_of

    leaf = load_certificate(certificate)
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    person = person_of(leaf, role, now)  # type: ignore[arg-type]
    _write(out, {"envelope": request(person), "certificates": [pem_of(leaf).decode()]})
    show(
        person.model_dump(mode="json") | {"statement": str(out)},
        as_json,
        f"{out}: {person.person} ({person.role}, {person.organisation}), key {person.key}. "
        "Two others approve it with `touchstone key approve`.",
    )


def approve(statement: Path, key: str, as_json: bool) -> None:
    """Show whom the statement names, check that the certificate is theirs, and sign."""
    from registry.trust.dsse import add_signature, payload_of
    from registry.trust.enrolment import certificate_digest, parse_enrolment
    from registry.trust.keys import key_id, parse_certificate, signer_name
    from registry.trust.signer import open_signer

    value = _read(statement)
    person = parse_enrolment(payload_of(value["envelope"]))
    leaf = parse_certificate(value["certificates"][0].encode())
    if (certificate_digest(leaf), key_id(leaf), signer_name(leaf)) != (
        person.certificate, person.key, person.name,
    ):  # fmt: skip
        raise Invalid("the statement and the certificate beside it do not name the same person")
    if not as_json:
        console.print(
            f"signing: {person.person} of {person.organisation} becomes {person.role} "
            f"with the key {person.key}", markup=False, soft_wrap=True,
        )  # fmt: skip
    with open_signer(key) as signer:
        name = signer_name(signer.certificate)
        if name == person.name:
            raise Invalid("nobody approves their own key; two others do")
        value["envelope"] = add_signature(value["envelope"], signer)
    _write(statement, value)
    show(
        person.model_dump(mode="json") | {"approved_by": name[0],
                                          "signatures": len(value["envelope"]["signatures"])},
        as_json,
        f"approved by {name[0]}; {len(value['envelope']['signatures'])} signature(s) of 2",
    )  # fmt: skip


def enrol(statement: Path, as_json: bool) -> None:
    """Hand in a founding statement or an approved enrolment."""
    from registry.trust.enrolment import FOUNDING_TYPE

    value = _read(statement)
    client = admin_client(read_settings())
    if value["envelope"].get("payloadType") == FOUNDING_TYPE:
        answer: dict[str, Any] = client.post("/keys/founding", value)
        names = ", ".join(f"{row['person']} ({row['role']})" for row in answer["keys"])
    else:
        certificate = value["certificates"][0]
        answer = client.post("/keys", {"envelope": value["envelope"], "certificate": certificate})
        names = f"{answer['person']} ({answer['role']})"
    show(answer, as_json, f"enrolled: {names}")


def listing(as_json: bool) -> None:
    """Every key that was ever enrolled."""
    found = admin_client(read_settings()).items("/keys")
    if as_json:
        print_items("keys", found)
        return
    rows = list(found)
    columns = {"person": "person", "organisation": "organisation", "role": "role", "key": "key",
               "enrolled_at": "enrolled", "revoked_at": "revoked"}  # fmt: skip
    show_table(rows, columns, f"{len(rows)} keys")


def revoke(key: str, reason: str, as_json: bool) -> None:
    """Take a key away."""
    answer = admin_client(read_settings()).post(f"/keys/{key}/revocation", {"reason": reason})
    show(answer, as_json, f"revoked: the key of {answer['person']}")


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
        if not isinstance(value["envelope"], dict) or not value["certificates"]:
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Invalid(
            f"{path} is not a statement of `touchstone key request` or `found`"
        ) from error
    return dict(value)


def _write(path: Path, value: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(value, indent=1) + "\n")
    except OSError as error:
        raise Invalid(f"{path} can't be written ({error.strerror})") from error
