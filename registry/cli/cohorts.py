"""`cohort` and `protocol`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from registry.cli.client import Client
from registry.cli.output import print_items, progress_bar, show, show_table
from registry.settings import read_settings
from registry.trust.errors import Invalid, Refused


def ingest_source(
    source: Path,
    contract: Path,
    out: Path,
    half: str,
    reference: Path | None,
    keep: tuple[str, ...],
    as_json: bool,
) -> None:
    """Read a source into a staging folder."""
    from validators.cohort.ingest import ingest
    from validators.cohort.quality import read_quality
    from validators.protocol.read import read_contract

    with progress_bar(f"reading {source.name}", as_json) as advance:
        staged = ingest(
            source,
            out,
            contract=read_contract(contract),
            half=half,
            reference=reference,
            keep=keep,
            progress=advance,
        )
    report = read_quality(staged)
    following = f"touchstone cohort seal {out} --id NAME"
    if report["review"] or report["outside_the_allow_list"]:
        following = f"touchstone cohort quality {out}"
    show(
        {"staged": str(out), "meta": staged.meta, "quality": report},
        as_json,
        f"{out}: {staged.cases} cases staged. Next: {following}",
    )


def show_quality(folder: Path, as_json: bool) -> None:
    """The quality report of staged cases, in lines."""
    from validators.cohort.clearance import check_clear
    from validators.cohort.ingest import open_staged
    from validators.cohort.quality import read_quality

    staged = open_staged(folder)
    report = read_quality(staged)
    try:
        check_clear(staged)
        between = None
    except Refused as refusal:
        between = str(refusal)
    if as_json:
        show({**report, "between_it_and_the_seal": between}, True, "")
        return
    lines = [f"{report['cases']} cases of {report['patients']} patients, "
             f"{report['positives']} positive, {report['negatives']} negative"]  # fmt: skip
    for words, part in (("left out", "left_out"), ("noted", "noted"), ("look at", "review"),
                        ("not to be sealed", "outside_the_allow_list")):  # fmt: skip
        lines += [f"{words}: {count} x {what}" for what, count in report[part].items() if count]
    for name, of in report["attributes"].items():
        small = sum(group["small"] for group in of["groups"].values())
        lines.append(
            f"{name}: {len(of['groups'])} groups, {small} of them small, {of['unknown']} unknown"
        )
    lines.append(f"the page: {folder / 'quality.html'}")
    lines.append(between or f"next: touchstone cohort seal {folder} --id NAME")
    show(report, False, "\n".join(lines))


def seal_staged(staged: Path, cohort: str, version: str, as_json: bool) -> None:
    """Seal on this machine, then ask the registry to lock what lies in its store."""
    from registry.storage.opening import open_store
    from validators.cohort.keys import create_keys
    from validators.cohort.manifest import manifest_bytes
    from validators.cohort.seal import seal

    settings = read_settings()
    client = Client(settings)
    on_facility_machine(settings.home)
    store = open_store(settings)
    with progress_bar(f"sealing {cohort}", as_json) as advance:
        keys = create_keys(settings.cohort_keys, cohort, version)
        manifest = seal(
            staged, store, cohort_id=cohort, version=version, keys=keys, progress=advance
        )
    path = f"cohorts/{cohort}/{version}/manifest.json"
    store.put(path, manifest_bytes(manifest))
    locked = client.post("/cohorts", {"manifest_path": path})
    show(
        locked,
        as_json,
        f"{cohort} {version} locked: {manifest.counts.cases} cases of "
        f"{manifest.counts.patients} patients\nroot {manifest.root}",
    )


def on_facility_machine(home: Path) -> None:
    """Raise Invalid unless `home` is the facility's data directory."""
    if not (home / "root.pem").exists():
        raise Invalid(
            f"{home} is not the facility's data directory; set TOUCHSTONE_HOME to it "
            "(sealing happens where the data is)"
        )


def verify_locked(cohort: str, version: str | None, as_json: bool) -> None:
    """Re-check seal and content of a locked cohort."""
    from registry.storage.opening import open_store
    from registry.trust.canonical import sha256_bytes
    from registry.trust.errors import Tampered
    from validators.cohort.keys import open_keys
    from validators.cohort.manifest import parse_manifest
    from validators.cohort.verify import verify

    settings = read_settings()
    client = Client(settings)
    row = _find(client.items("/cohorts"), cohort, version)
    on_facility_machine(settings.home)
    client.post("/audit/reads", {"cohort": cohort, "version": row["version"]})
    store = open_store(settings)
    data = store.get(row["manifest_path"])
    if sha256_bytes(data) != row["manifest_digest"]:
        raise Tampered(f"{row['manifest_path']} is not the manifest that was locked")
    manifest = parse_manifest(data)
    if manifest.root != row["root"]:
        raise Tampered("the manifest's root is not the one that was locked")
    verify(manifest, store, open_keys(settings.cohort_keys, manifest))
    show(
        {"id": cohort, "version": row["version"], "root": manifest.root, "verified": True},
        as_json,
        f"{cohort} {row['version']}: every object and every case is what was locked\n"
        f"root {manifest.root}",
    )


def _find(rows: Iterable[dict[str, Any]], cohort: str, version: str | None) -> dict[str, Any]:
    fitting = [row for row in rows if row["id"] == cohort and version in (None, row["version"])]
    if not fitting:
        raise Invalid(f"there is no locked cohort {cohort!r}; see `touchstone cohort list`")
    if "root" not in fitting[-1]:
        raise Invalid("only the facility's own people can verify a cohort")
    return fitting[-1]


def list_locked(as_json: bool) -> None:
    """Every locked cohort."""
    found = Client(read_settings()).items("/cohorts")
    if as_json:
        print_items("cohorts", found)
        return
    rows = list(found)
    columns = {"id": "cohort", "version": "version", "positives": "positives",
               "negatives": "negatives", "patients": "patients", "title": "title"}  # fmt: skip
    show_table(rows, columns, f"{len(rows)} locked cohorts")


def protocol_lock(file: Path, as_json: bool) -> None:
    """Lock a protocol from a file."""
    from validators.protocol.read import read_protocol

    protocol = read_protocol(file)
    locked = Client(read_settings()).post("/protocols", protocol.model_dump(mode="json"))
    show(locked, as_json, f"{locked['id']} {locked['version']} locked\n{locked['digest']}")


def protocol_show(name: str, as_json: bool) -> None:
    """One locked protocol, whole."""
    import yaml

    value = Client(read_settings()).get(f"/protocols/{name}")
    show(value, as_json, yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


def protocol_list(as_json: bool) -> None:
    """Every locked protocol."""
    found = Client(read_settings()).items("/protocols")
    if as_json:
        print_items("protocols", found)
        return
    rows = list(found)
    columns = {"id": "protocol", "version": "version", "attempts": "attempts",
               "locked_by": "locked by", "digest": "digest"}  # fmt: skip
    show_table(rows, columns, f"{len(rows)} locked protocols")
