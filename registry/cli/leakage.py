"""`cohort leakage`: what a staged or sealed cohort shares with another, or with a list."""

import csv
import io
from pathlib import Path

from registry.cli.cohorts import on_facility_machine
from registry.cli.output import console, print_json, progress_bar
from registry.settings import read_settings
from registry.trust.canonical import canonical


def search_cohort(first: Path, against: Path, out: Path, as_json: bool) -> None:
    """Write `leakage.json` (counts) and `pairs.csv` (case ids, for the facility alone).

    Either side is a staged folder or COHORT/VERSION, as sealed here; `against` may be a list.
    """
    from registry.cli.seen import link_index, sealed_side
    from validators.assess import write_files
    from validators.cohort.ingest import open_staged
    from validators.leakage.staged import read_side, search

    settings = read_settings()
    on_facility_machine(settings.home)
    index = link_index(settings)
    mine, theirs = sealed_side(settings, first), sealed_side(settings, against)
    cohort = index.read(*mine) if mine else open_staged(first)
    other = index.read(*theirs) if theirs else read_side(against)
    with progress_bar(f"comparing with {against.name}", as_json) as advance:
        name = " ".join(theirs) if theirs else against.name
        found = search(cohort, other, index.key, against=name, progress=advance)
    pairs = io.StringIO()
    writer = csv.writer(pairs)
    writer.writerow(["search", "case", "other", "distance"])
    writer.writerows([pair.search, pair.case, pair.other, pair.distance] for pair in found.pairs)
    evidence = found.evidence.model_dump(mode="json")
    write_files(
        out, {"pairs.csv": pairs.getvalue().encode(), "leakage.json": canonical(evidence)}, 0o600
    )
    if as_json:
        print_json({**evidence, "files": [str(out / "leakage.json"), str(out / "pairs.csv")]})
        return
    for finding in found.evidence.findings:
        mark = finding.outcome.replace("_", " ")
        console.print(f"{mark:18} {finding.reason}", markup=False)
    if found.pairs:
        console.print(f"{len(found.pairs)} pairs to look at: {out / 'pairs.csv'}", markup=False)
