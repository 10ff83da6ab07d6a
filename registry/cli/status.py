"""`status …`: its root made and signed offline, its list signed by assessors, fetched by hospitals.

What an assessor signs is shown first, as the difference to the list that stands; and that list is
believed because two assessors signed it under the root pinned here, not because a server says so.
"""

import datetime as dt
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from registry.cli.client import Client
from registry.cli.output import console, show
from registry.settings import read_settings
from registry.trust.errors import Conflict, Invalid, NotFound, Tampered, TouchstoneError
from registry.trust.keys import load_certificate
from registry.trust.signer import Signer, open_signer

_GUIDE = (
    "each of two holders signs: touchstone status sign {0} --key …; "
    "then touchstone status publish {0}"
)


def init(
    out: Path,
    holders: list[Path],
    assessors: list[Path],
    machine: Path | None,
    root: str | None,
    as_json: bool,
) -> None:
    """The first root and the X.509 root's signature over it."""
    from registry.status.machine_key import read_public
    from registry.trust.canonical import canonical
    from registry.trust.keys import check_leaf
    from registry.trust.status import ENDORSEMENT, endorsed, file_name, new_root

    settings = read_settings()
    place = out / file_name("root", 1)
    if place.exists():
        raise Conflict(f"{place} exists; a first root is made once")
    now = dt.datetime.now(dt.UTC)
    key = read_public(_read(machine or settings.status_key.with_suffix(".pub")))
    made = new_root(
        1, now, holders=map(load_certificate, holders), assessors=map(load_certificate, assessors),
        machine=key,
    )  # fmt: skip
    with open_signer(root or str(settings.keys / "root.key")) as signer:
        for path in (*holders, *assessors):
            check_leaf(load_certificate(path), signer.certificate, now)
        envelope = canonical(endorsed(made, signer))
    out.mkdir(parents=True, exist_ok=True)
    (out / ENDORSEMENT).write_bytes(envelope)
    place.write_bytes(made.to_bytes())
    show({"root": str(place), "version": 1}, as_json, f"{place}: {_GUIDE.format(out)}")


def rotate(
    folder: Path,
    holders: list[Path] | None,
    assessors: list[Path] | None,
    machine: Path | None,
    as_json: bool,
) -> None:
    """The next root, unsigned yet."""
    from registry.status.machine_key import read_public
    from registry.trust.status import file_name, holder_certificate, new_root

    roots = _roots_in(folder)
    last = roots[-1].signed

    def people(role: str, given: list[Path] | None) -> list[Any]:
        if given:
            return [load_certificate(path) for path in given]
        kept = [holder_certificate(last.keys[name]) for name in last.roles[role].keyids]
        return [leaf for leaf in kept if leaf is not None]

    online = last.keys[last.roles["timestamp"].keyids[0]].keyval["public"]
    made = new_root(
        len(roots) + 1,
        dt.datetime.now(dt.UTC),
        holders=people("root", holders),
        assessors=people("targets", assessors),
        machine=read_public(_read(machine) if machine else online.encode()),
    )
    place = folder / file_name("root", len(roots) + 1)
    place.write_bytes(made.to_bytes())
    show({"root": str(place), "version": len(roots) + 1}, as_json,
         f"{place}: two holders of the root before it, and two of its own, sign; "
         f"{_GUIDE.format(folder)}")  # fmt: skip


def sign_root(folder: Path, key: str, as_json: bool) -> None:
    """One holder's signature under the newest root in a folder."""
    from registry.trust.keys import signer_name
    from registry.trust.status import file_name, key_name, signed_by

    roots = _roots_in(folder)
    newest, number = roots[-1], len(roots)
    with open_signer(key) as signer:
        public: Any = signer.certificate.public_key()
        named = {
            name for one in roots[-2:] for name in one.signed.roles["root"].keyids
        }  # of this root, and of the one before
        if key_name(public) not in named:
            raise Invalid("this key holds neither this root nor the one before it")
        signed_by(newest, signer)
        person, _ = signer_name(signer.certificate)
    place = folder / file_name("root", number)
    place.write_bytes(newest.to_bytes())
    many = len(newest.signatures)
    show({"root": str(place), "signatures": many}, as_json,
         f"{place}: signed by {person}, {many} signatures")  # fmt: skip


def publish(folder: Path, as_json: bool) -> None:
    """Hand every root in a folder to the server."""
    import json

    from registry.trust.status import ENDORSEMENT

    body = {
        "roots": [one.to_bytes().decode() for one in _roots_in(folder)],
        "endorsement": json.loads(_read(folder / ENDORSEMENT)),
    }
    found = Client(read_settings()).post("/status/roots", body)
    more = "" if found["stands"] else "; its assessors sign next: touchstone status sign"
    show(found, as_json, f"root {found['version']} of the status is published{more}")


def sign_list(key: str, root: Path | None, as_json: bool) -> None:
    """Read the difference, sign the list, send the signature."""
    from registry.cli.hospital import pinned_root

    client = Client(read_settings())
    with open_signer(key) as signer:
        found = _sign(client, signer, pinned_root(root), None, None, as_json)
    if found is None:
        show({"published": False, "due": False}, as_json, "there is nothing to sign")
        return
    show(found, as_json, _said(found))


def sign_along(
    client: Client,
    signer: Signer,
    submission: str,
    expected: Mapping[str, str | None],
    as_json: bool,
) -> dict[str, Any] | None:
    """After a decision or a resumption: the signature over the list too, if nothing else changes.

    expected: {statement: what is lifted} that this person has just signed for. Leaves the list to
    `touchstone status sign` where it holds more, where no root is pinned here, or no status exists.
    """
    root = os.environ.get("TOUCHSTONE_ROOT")
    later = "more has changed than this: read it"
    try:
        if root is not None:
            found = _sign(client, signer, Path(root), submission, expected, as_json)
            if found is not None:
                return found
        elif client.get("/status/draft", submission=submission)["due"]:
            later = "with --root, the facility's root that you pinned"
    except NotFound as error:
        if error.code == "status_not_set_up":
            return None
        later = error.message
    except TouchstoneError as error:  # what was decided is decided
        later = error.message
    if not as_json:
        console.print(f"not signed along: `touchstone status sign` ({later})", markup=False)
    return None


def _sign(
    client: Client,
    signer: Signer,
    root: Path,
    submission: str | None,
    expected: Mapping[str, str | None] | None,
    as_json: bool,
) -> dict[str, Any] | None:
    from tuf.api.metadata import Metadata, Targets

    from registry.trust.status import key_name, listed_in

    draft = client.get("/status/draft", **({"submission": submission} if submission else {}))
    if not draft["due"]:
        return None
    metadata: Metadata[Targets] = Metadata.from_bytes(draft["metadata"].encode())
    if not isinstance(metadata.signed, Targets):
        raise Tampered("what came is not a list of certificates; nothing was signed")
    before = _standing(client, root)
    new = listed_in(metadata.signed)
    old = {} if before is None else before.listed
    gone = sorted(old.keys() - new.keys())
    changed = {digest: one.lifts for digest, one in new.items() if old.get(digest) != one}
    version = 0 if before is None else before.seen["targets"].version
    if metadata.signed.version != version + 1:
        raise Tampered("the list that came does not follow the one that stands: nothing was signed")
    machines = sorted((metadata.signed.delegations or _Nobody).keys)
    same = before is not None and machines == list(before.stopped_by)
    if expected is not None and (dict(changed) != dict(expected) or not same):
        return None
    if not as_json:
        lines = [
            f"you sign the status' list {metadata.signed.version}, good until "
            f"{metadata.signed.expires:%Y-%m-%d}: {len(new)} certificates in force"
        ]
        about = draft["about"]
        lines += [f"  in force   {about.get(digest, 'in review')} {digest}"
                  + (f", lifting the stop of {lifts}" if lifts else "")
                  for digest, lifts in changed.items()]  # fmt: skip
        lines += [f"  left out   {about.get(digest, 'unknown')} {digest}" for digest in gone]
        lines += [] if same else [f"  stopped by the machine key {name}" for name in machines]
        console.print("\n".join(lines), markup=False, soft_wrap=True)
    public: Any = signer.certificate.public_key()
    body = {
        "metadata": draft["metadata"],
        "key": key_name(public),
        "signature": signer.sign(metadata.signed_bytes).hex(),
    }
    found: dict[str, Any] = client.post("/status/signatures", body)
    return found


class _Nobody:
    keys: Mapping[str, Any] = {}


def _standing(client: Client, root: Path) -> Any:
    """The status that stands, checked under the pinned root; None before the first."""
    from serving.bundle.status import checked
    from serving.bundle.status_copy import collect

    read = _reader(client)
    if read("timestamp.json") is None:
        return None
    return checked(collect(read), load_certificate(root), dt.datetime.now(dt.UTC))


def _said(found: Mapping[str, Any]) -> str:
    if found["published"]:
        return f"list {found['version']} of the status is published"
    return (
        f"signed by {', '.join(found['signed_by'])}; {found['needed']} are needed, another "
        "assessor signs next"
    )


def export(to: Path, as_json: bool) -> None:
    """The present status as plain files."""
    from serving.bundle.status_copy import collect, export_log
    from serving.bundle.status_copy import export as write

    read = _reader(Client(read_settings(), anonymous=True))
    files = collect(read)
    many = export_log(read, to)
    write(files, to)
    show({"directory": str(to), "files": sorted(files), "log_files": many}, as_json,
         f"{to}: {len(files)} files, and {many} of the log")  # fmt: skip


def fetch(state: Path | None, source: str | None, root: Path | None, as_json: bool) -> None:
    """From the registry, another web server, or a folder."""
    from registry.cli.hospital import pinned_root, state_directory
    from serving.bundle.status_copy import fetch as bring
    from serving.bundle.status_copy import reader_of

    certificate, now = load_certificate(pinned_root(root)), dt.datetime.now(dt.UTC)
    to = state_directory(state)
    if source is None:
        status = bring(to, certificate, now, _reader(Client(read_settings(), anonymous=True)))
    else:
        with reader_of(source) as read:
            status = bring(to, certificate, now, read)
    _show_status(status, as_json)


def show_copy(state: Path | None, root: Path | None, as_json: bool) -> None:
    """What the copy says."""
    from registry.cli.hospital import pinned_root, state_directory
    from serving.bundle.status_copy import kept

    certificate = load_certificate(pinned_root(root))
    status, _ = kept(state_directory(state), certificate, dt.datetime.now(dt.UTC))
    _show_status(status, as_json)


def _show_status(status: Any, as_json: bool) -> None:
    at = dt.datetime.now(dt.UTC)
    ended = at > status.use_until()
    stopped = [digest for digest in status.stops if not _lifted(status, digest)]
    people = " and ".join(person for person, _ in status.signers)
    lines = [
        f"status of {status.signed_at:%Y-%m-%d %H:%M} UTC, "
        + (f"ended on {status.use_until():%Y-%m-%d}: fetch a newer one" if ended
           else f"good until {status.use_until():%Y-%m-%d}"),
        f"  in force   {len(status.listed)} certificates, listed by {people}",
        *(f"  {status.stops[digest].state:<10} {digest}: {status.stops[digest].reason}"
          for digest in stopped),
    ]  # fmt: skip
    value = {
        "signed_at": status.signed_at.isoformat(),
        "use_until": status.use_until().isoformat(),
        "ended": ended,
        "versions": {role: seen.version for role, seen in sorted(status.seen.items())},
        "in_force": sorted(digest for digest in status.listed if digest not in stopped),
        "stopped": {digest: status.stops[digest].state for digest in stopped},
        "signed_by": [list(person) for person in status.signers],
    }
    show(value, as_json, "\n".join(lines))


def _lifted(status: Any, digest: str) -> bool:
    return bool(status.standing(digest).state == "in_force")


def _reader(client: Client) -> Any:
    def read(name: str) -> bytes | None:
        try:
            return client.get_bytes(f"/status/files/{name}")
        except NotFound:
            return None

    return read


def _roots_in(folder: Path) -> list[Any]:
    from tuf.api.exceptions import RepositoryError
    from tuf.api.metadata import Metadata, Root
    from tuf.api.serialization import DeserializationError

    from registry.trust.status import file_name

    roots: list[Any] = []
    while (path := folder / file_name("root", len(roots) + 1)).exists():
        try:
            roots.append(Metadata.from_bytes(path.read_bytes()))
        except (DeserializationError, RepositoryError, ValueError) as error:
            raise Invalid(f"{path} is not TUF metadata") from error
        if not isinstance(roots[-1].signed, Root):
            raise Invalid(f"{path} is not a root")
    if not roots:
        raise Invalid(f"{folder} holds no root of a status: there is no 1.root.json")
    return roots


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Invalid(f"{path} can't be read ({error.strerror})") from error
