"""What this facility has sealed before, for `cohort ingest`, `quality`, `seal` and `leakage`.

All of it happens on the facility's machine, where the linking key is; the registry is asked only
what a cohort is used for, and where it does not answer, the use is `unknown`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from registry.settings import Settings
from registry.trust.errors import Invalid, TouchstoneError
from validators.cohort.ingest import Staged
from validators.leakage.key_file import open_linking_key
from validators.leakage.link_index import LinkIndex
from validators.leakage.links import links_of
from validators.leakage.pictures import pictures_of
from validators.leakage.seen import Known, seen_before


def link_index(settings: Settings) -> LinkIndex:
    """The index of this facility; its linking key is made where there is none."""
    return LinkIndex(settings.links, open_linking_key(settings.linking_key))


def known(settings: Settings) -> Known | None:
    """What was sealed here; None where this is not the facility's machine."""
    if not settings.root_certificate.exists():
        return None
    return Known(link_index(settings), lambda: _uses(settings))


def link(
    settings: Settings,
    staged: Staged,
    cohort: str,
    version: str,
    progress: Callable[[int], None],
) -> dict[str, Any]:
    """Keep what finds these cases again, and report what other versions have of them."""
    index = link_index(settings)
    patients = staged.table()["patient"].to_pylist()
    links = links_of(index.key, patients, pictures_of(staged.blocks(), progress))
    index.keep(cohort, version, links)
    others = Known(index, lambda: _uses(settings))
    return seen_before(links, others, besides=(cohort, version)).report()


def lines(seen: dict[str, Any] | None, cohort: str | None = None) -> list[str]:
    """A line for each version that has something of the cases, and for each not compared.

    cohort: the one they belong to, whose earlier versions have the same patients by right.
    """
    if seen is None:
        return ["not held against sealed cohorts: this is not the facility's machine"]
    said = []
    for of in seen["versions"]:
        if of["cohort"] != cohort:
            said.append(
                f"sealed before in {of['cohort']} {of['version']} (use: {of['use']}): "
                f"{of['patients']} patients with {of['cases']} cases, {of['same_pixels']} cases "
                f"with the same pixels, {of['pairs_that_look_alike']} pairs that look alike"
            )
    for of in seen["not_compared"]:
        said.append(f"not compared with {of['cohort']} {of['version']}: {of['reason']}")
    return said


def sealed_side(settings: Settings, name: Path) -> tuple[str, str] | None:
    """COHORT/VERSION, or COHORT where one version of it is kept; None for anything else.

    Raises Invalid for a cohort of several versions.
    """
    if name.exists():
        return None
    text = str(name)
    fitting = [one for one in link_index(settings).versions() if text in (one[0], "/".join(one))]
    if len(fitting) > 1:
        raise Invalid(f"{text} has several versions; name one: {text}/{fitting[-1][1]}")
    return fitting[0] if fitting else None


def _uses(settings: Settings) -> dict[str, str] | None:
    """`development` or `gating` by cohort, as locked protocols say; None without an answer."""
    from registry.cli.client import Client

    uses: dict[str, str] = {}
    try:
        client = Client(settings)
        for row in client.items("/protocols"):
            body = client.get(f"/protocols/{row['digest']}")
            for role, part in (("gating", "cohort"), ("development", "development_cohort")):
                if body.get(part):
                    uses[body[part]["id"]] = role
    except TouchstoneError:
        return None
    return uses
