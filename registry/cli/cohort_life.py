"""`cohort sign`, `verify`, `retire`, `burn` and `keep`: the life of a sealed cohort.

A steward's signature is made here, with a key that no server sees. What is signed is built from
what the registry says of the cohort, shown first, and compared field by field with what another
steward has signed already.
"""

import datetime as dt
from typing import Any

from registry.cli.client import Client
from registry.cli.cohorts import day_of, on_facility_machine
from registry.cli.output import console, show
from registry.settings import Settings, read_settings
from registry.trust.errors import Invalid, NotFound, Tampered


def sign(cohort: str, version: str | None, key: str, as_json: bool) -> None:
    """Sign the lock of a sealed cohort."""
    from registry.trust.cohort_lock import LOCK_TYPE, lock_of, new_lock, parse_lock
    from registry.trust.dsse import add_signature, payload_of, unsigned
    from registry.trust.keys import key_id, signer_name
    from registry.trust.signer import open_signer

    client = Client(read_settings())
    row = find(client, cohort, version)
    row["until"] = day_of(row["until"])
    lock = lock_of(row, dt.datetime.now(dt.UTC))
    before = client.get(_address(row))
    with open_signer(key) as signer:
        person, organisation = signer_name(signer.certificate)
        if before["envelope"] is not None and before["record"] is None:
            begun = parse_lock(payload_of(before["envelope"]))
            if begun.said() != lock.said():
                raise Tampered("another steward signed other content than the registry shows you")
            mine = key_id(signer.certificate)
            since = [own["enrolled_at"] for own in client.items("/keys") if own["key"] == mine]
            if since and begun.date >= dt.datetime.fromisoformat(since[0]):
                lock = begun  # else a new statement, which the other signs again
        if not as_json:
            _print_signed(lock.model_dump(mode="json"), f"{person} of {organisation}")
            for warning in before["warnings"]:
                console.print(f"mind: {warning}", markup=False, soft_wrap=True)
        envelope = add_signature(unsigned(LOCK_TYPE, new_lock(lock)), signer)
    after = client.post(f"{_address(row)}/signatures", {"envelope": envelope})
    show(after, as_json, standing(after))


def standing(after: dict[str, Any]) -> str:
    """What a cohort is after a signature, and who is next."""
    named, names = f"{after['id']} {after['version']}", " and ".join(after["signed_by"])
    said = f"{named} is {after['state']}, signed by {names}"
    if after["state"] != "sealed":
        return said
    following = f"touchstone cohort sign {after['id']} --version {after['version']} --key …"
    return f"{said}\nNext, another steward: {following}"


def _print_signed(lock: dict[str, Any], who: str) -> None:
    """What the signature will stand under, before the key is used."""
    lines = [f"you sign, as {who}:"]
    shown = lock | {"until": lock["until"] or "as long as the store keeps every object"}
    lines += [f"  {name:10} {value}" for name, value in shown.items()]
    console.print("\n".join(lines), markup=False, soft_wrap=True)


def act(
    cohort: str, version: str | None, kind: str, reason: str, until: str | None, as_json: bool
) -> dict[str, Any]:
    """Retire, burn or keep a cohort version."""
    client = Client(read_settings())
    row = find(client, cohort, version)
    last_day = day_of(until)
    body = {"kind": kind, "reason": reason} | ({"until": str(last_day)} if last_day else {})
    after: dict[str, Any] = client.post(f"{_address(row)}/acts", body)
    kept = f", kept until {after['until']}" if after["until"] else ""
    show(after, as_json, f"{row['id']} {row['version']} is {after['state']}{kept}")
    return after


def verify_locked(cohort: str, version: str | None, as_json: bool) -> None:
    """Re-check lock, seal and content of a cohort on this machine."""
    from registry.storage.key_encryption import facility_keys
    from registry.storage.opening import open_store
    from registry.submissions.places import cohort_lock
    from registry.trust.canonical import sha256_bytes
    from validators.cohort.manifest import parse_manifest
    from validators.cohort.verify import check_listed, verify

    settings = read_settings()
    client = Client(settings)
    row = find(client, cohort, version)
    on_facility_machine(settings.home)
    life = client.get(_address(row))
    client.post("/audit/reads", {"cohort": cohort, "version": row["version"]})
    store = open_store(settings)
    beside = cohort_lock(row["id"], row["version"])
    data = store.get(row["manifest_path"])
    if sha256_bytes(data) != row["manifest_digest"]:
        raise Tampered(f"{row['manifest_path']} is not the manifest that was sealed")
    manifest = parse_manifest(data)
    if manifest.root != row["root"]:
        raise Tampered("the manifest's root is not the one that was sealed")
    try:
        record = store.get(beside)
    except NotFound:
        if life["record"] is not None:
            raise Tampered(f"{beside} is missing: two stewards signed it") from None
        stewards: tuple[str, ...] = ()
    else:
        if life["record"] not in (None, sha256_bytes(record)):
            raise Tampered(f"{beside} is another one than the log's")
        stewards = check_record(settings, record, row)
    check_listed(manifest, store.names(beside.rpartition("/")[0]))
    gone = next((a["at"][:10] for a in life["acts"] if a["kind"] == "destroy-keys"), None)
    verify(manifest, store, None if gone else facility_keys(settings, manifest))
    lock = f"locked by {' and '.join(stewards)}" if stewards else "not locked by two stewards"
    checked = (
        f"keys destroyed on {gone}; every object is what was sealed, and nobody can open it"
        if gone
        else "every object and every case is what was sealed"
    )
    show(
        {"id": cohort, "version": row["version"], "root": manifest.root, "verified": True,
         "state": life["state"], "locked_by": list(stewards), "keys_destroyed": gone},
        as_json,
        f"{cohort} {row['version']} ({life['state']}): {checked}\n{lock}\nroot {manifest.root}",
    )  # fmt: skip


def check_record(settings: Settings, record: bytes, row: dict[str, Any]) -> tuple[str, ...]:
    """Who locked the cohort of this row, checked offline against the facility's root."""
    from registry.trust.cohort_lock import checked, parse_record
    from registry.trust.keys import load_certificate

    lock, stewards = checked(parse_record(record), load_certificate(settings.root_certificate))
    if (lock.cohort, lock.version, lock.root, lock.manifest) != (
        row["id"], row["version"], row["root"], row["manifest_digest"],
    ):  # fmt: skip
        raise Tampered("the lock beside the manifest is another cohort's")
    return tuple(sorted(person.person for person in stewards))


def find(client: Client, cohort: str, version: str | None) -> dict[str, Any]:
    """The registry's row of a cohort, the latest without a version."""
    rows = [row for row in client.items("/cohorts")
            if row["id"] == cohort and version in (None, row["version"])]  # fmt: skip
    if not rows:
        raise Invalid(f"there is no cohort {cohort!r}; see `touchstone cohort list`")
    if "root" not in rows[-1]:
        raise Invalid("only the facility's own people can do this")
    return rows[-1]


def _address(row: dict[str, Any]) -> str:
    return f"/cohorts/{row['id']}/versions/{row['version']}"
