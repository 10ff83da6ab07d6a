"""`cohort` and `protocol`."""

import datetime as dt
from pathlib import Path

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
    from registry.cli.seen import known, lines
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
            known=known(read_settings()),
        )
    report = read_quality(staged)
    gone = report["signed_off"]["fell_away"]
    following = f"touchstone cohort seal {out} --id NAME"
    if report["review"] or report["outside_the_allow_list"]:
        following = f"touchstone cohort quality {out}"
    show(
        {"staged": str(out), "meta": staged.meta, "quality": report},
        as_json,
        f"{out}: {staged.cases} cases staged. "
        + (f"{gone} rows that were signed off fell away. " if gone else "")
        + f"Next: {following}"
        + "".join(f"\nleft out: {n} x {why}" for why, n in report["left_out"].items())
        + "".join(f"\n{line}" for line in lines(report["seen_before"])),
    )


def show_quality(folder: Path, as_json: bool) -> None:
    """The quality report of staged cases, in lines."""
    from registry.cli.seen import lines as seen_lines
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
    if (before := report.get("signed_off")) and any(before.values()):
        lines.append(
            f"signed off before this ingest: {before['kept']} rows still stand, "
            f"{before['fell_away']} fell away"
        )
    lines += seen_lines(report.get("seen_before"))
    lines += [f"masks: {count} x {what}" for what, count in report.get("masks", {}).items()]
    for name, of in report["attributes"].items():
        small = sum(group["small"] for group in of["groups"].values())
        lines.append(
            f"{name}: {len(of['groups'])} groups, {small} of them small, {of['unknown']} unknown"
        )
    lines.append(f"the page: {folder / 'quality.html'}")
    lines.append(between or f"next: touchstone cohort seal {folder} --id NAME")
    show(report, False, "\n".join(lines))


def seal_staged(staged: Path, cohort: str, version: str, until: str | None, as_json: bool) -> None:
    """Seal on this machine, then put what lies in the store up for two stewards' signatures."""
    from registry.cli.seen import lines, link
    from registry.storage.key_encryption import key_encryption
    from registry.storage.opening import open_store
    from validators.cohort.ingest import open_staged
    from validators.cohort.key_store import create_keys
    from validators.cohort.manifest import manifest_bytes
    from validators.cohort.seal import seal

    settings = read_settings()
    last_day = day_of(until)
    client = Client(settings)
    on_facility_machine(settings.home)
    store = open_store(settings)
    with progress_bar(f"sealing {cohort}", as_json) as advance:
        keys = create_keys(settings.cohort_keys, cohort, version, key_encryption(settings))
        manifest = seal(
            staged, store, cohort_id=cohort, version=version, keys=keys, progress=advance
        )
    path = f"cohorts/{cohort}/{version}/manifest.json"
    store.put(path, manifest_bytes(manifest))
    with progress_bar("linking", as_json) as advance:
        total = manifest.counts.cases
        seen = link(settings, open_staged(staged), cohort, version, lambda n: advance(n, total))
    body = {"manifest_path": path} | ({"until": last_day.isoformat()} if last_day else {})
    sealed = client.post("/cohorts", body)
    show(
        {**sealed, "seen_before": seen},
        as_json,
        "".join(f"{line}\n" for line in [*lines(seen, cohort), *sealed.get("warnings", ())])
        + f"{cohort} {version} sealed: {manifest.counts.cases} cases of "
        f"{manifest.counts.patients} patients\nroot {manifest.root}\nNext: two stewards, each "
        f"with their own key: touchstone cohort sign {cohort} --version {version} --key …",
    )


def day_of(text: str | None) -> dt.date | None:
    """A day written as 2031-12-31."""
    try:
        return dt.date.fromisoformat(text) if text else None
    except ValueError as error:
        raise Invalid(f"{text!r} is not a day such as 2031-12-31") from error


def on_facility_machine(home: Path) -> None:
    """Raise Invalid unless `home` is the facility's data directory."""
    if not (home / "root.pem").exists():
        raise Invalid(
            f"{home} is not the facility's data directory; set TOUCHSTONE_HOME to it "
            "(sealing happens where the data is)"
        )


def list_locked(as_json: bool) -> None:
    """Every cohort."""
    found = Client(read_settings()).items("/cohorts")
    if as_json:
        print_items("cohorts", found)
        return
    rows = list(found)
    columns = {"id": "cohort", "version": "version", "state": "state", "positives": "positives",
               "negatives": "negatives", "patients": "patients", "title": "title"}  # fmt: skip
    show_table(rows, columns, f"{len(rows)} cohorts")


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
