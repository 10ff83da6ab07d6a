"""`cohort rewrap`, `erase` and `destroy-keys`: what is done with a cohort's data keys.

All of it happens on the facility's machine. Who, when and why is in the registry's log before a
key is touched.
"""

import datetime as dt
from pathlib import Path

from registry.cli.client import Client
from registry.cli.cohort_life import find
from registry.cli.cohorts import on_facility_machine
from registry.cli.output import progress_bar, show
from registry.settings import read_settings
from registry.trust.errors import Invalid, Tampered


def rewrap(cohort: str, version: str, to_file: bool, as_json: bool) -> None:
    """Wrap the data keys by what TOUCHSTONE_KEY_ENCRYPTION names, or by the key file."""
    from registry.storage.key_encryption import key_encryption
    from validators.cohort.key_store import rewrap_keys

    settings = read_settings()
    on_facility_machine(settings.home)
    named = key_encryption(settings)
    if named is None and not to_file:
        raise Invalid("name what wraps the keys in TOUCHSTONE_KEY_ENCRYPTION, or say --to-file")
    new = None if to_file else named
    rewrap_keys(settings.cohort_keys, cohort, version, new, before=named)
    by = new.name if new else "the key file"
    show({"id": cohort, "version": version, "by": by}, as_json,
         f"the keys of {cohort} {version} are wrapped by {by}")  # fmt: skip


def erase_patients(
    cohort: str, version: str | None, patients: Path, new_version: str, reason: str, as_json: bool
) -> None:
    """Seal a new version without these patients, put it up for two signatures, retire the old."""
    from registry.cli.seen import link_index
    from registry.storage.key_encryption import facility_keys, key_encryption
    from registry.storage.opening import open_store
    from registry.trust.canonical import sha256_bytes
    from validators.cohort.erase import erase
    from validators.cohort.key_store import create_keys
    from validators.cohort.manifest import manifest_bytes, manifest_path, parse_manifest

    settings = read_settings()
    client = Client(settings)
    row = find(client, cohort, version)
    on_facility_machine(settings.home)
    try:
        named = {line.strip() for line in patients.read_text().splitlines() if line.strip()}
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"{patients} can't be read: one id of the source a line") from error
    client.post("/audit/reads", {"cohort": cohort, "version": row["version"]})
    store = open_store(settings)
    data = store.get(row["manifest_path"])
    if sha256_bytes(data) != row["manifest_digest"]:
        raise Tampered(f"{row['manifest_path']} is not the manifest that was sealed")
    old = parse_manifest(data)
    old_keys = facility_keys(settings, old)
    keys = create_keys(settings.cohort_keys, cohort, new_version, key_encryption(settings),
                       after=old_keys)  # fmt: skip
    with progress_bar(f"sealing {cohort} {new_version}", as_json) as advance:
        manifest = erase(old, store, old_keys, store, keys, patients=named, progress=advance)
    path = manifest_path(cohort, new_version)
    store.put(path, manifest_bytes(manifest))
    link_index(settings).erase(cohort, row["version"], new_version, named)
    client.post("/cohorts", {"manifest_path": path})
    life = client.get(f"/cohorts/{cohort}/versions/{row['version']}")
    if life["state"] == "locked":
        life = client.post(
            f"/cohorts/{cohort}/versions/{row['version']}/acts",
            {"kind": "retire", "reason": reason},
        )
    show(
        {"id": cohort, "version": new_version, "root": manifest.root, "erased": len(named),
         "cases": manifest.counts.cases, "old": row["version"], "old_state": life["state"]},
        as_json,
        f"{cohort} {new_version} sealed without {len(named)} patients: {manifest.counts.cases} "
        f"cases\n{cohort} {row['version']} is {life['state']}\nNext: two stewards sign "
        f"{new_version}; when no certificate rests on {row['version']} any more: "
        f"touchstone cohort destroy-keys {cohort} {row['version']} --reason …",
    )  # fmt: skip


def destroy(cohort: str, version: str, reason: str, as_json: bool) -> None:
    """Destroy the data keys of a version on which no certificate rests. There is no way back."""
    from registry.cli.seen import link_index
    from validators.cohort.key_store import destroy_keys

    settings = read_settings()
    client = Client(settings)
    row = find(client, cohort, version)
    on_facility_machine(settings.home)
    life = client.post(
        f"/cohorts/{row['id']}/versions/{version}/acts", {"kind": "destroy-keys", "reason": reason}
    )
    date = next(act["at"][:10] for act in life["acts"] if act["kind"] == "destroy-keys")
    destroy_keys(settings.cohort_keys, cohort, version, date)
    link_index(settings).destroy(cohort, version)
    show(
        {"id": cohort, "version": version, "keys_destroyed": str(dt.date.fromisoformat(date))},
        as_json,
        f"the keys of {cohort} {version} are destroyed, and what found its patients again; destroy "
        "the backups of both too",
    )
