"""`pull`, `verify` and `serve`: what a hospital types. Needs nothing of the registry's parts."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING

from registry.cli.client import Client
from registry.cli.output import console, print_json, progress_bar, show
from registry.settings import read_settings
from registry.trust.errors import Invalid
from registry.trust.keys import load_certificate

if TYPE_CHECKING:
    from serving.bundle.status_step import StatusAsked

_MARKS = {
    "ok": ("ok  ", None),
    "warning": ("NOTE", "bold yellow"),
    "skipped": ("SKIP", "bold yellow"),
    "failed": ("FAIL", "bold red"),
}


def pull(name: str, to: Path, as_json: bool) -> None:
    """Fetch every file of a bundle; the folder is complete afterwards, or absent."""
    from serving.bundle.pack import download

    client = Client(read_settings())
    listing = client.get("/certified", name=name)
    with progress_bar(f"pulling {name}", as_json) as advance:
        download(
            listing["files"],
            lambda path, start: client.stream("/certified/file", start, name=name, path=path),
            to,
            on_progress=advance,
        )
    shown = {key: listing[key] for key in ("organisation", "model", "version", "not_after")}
    show(
        shown | {"directory": str(to), "files": len(listing["files"])},
        as_json,
        f"{to}: {listing['organisation']}/{listing['model']} {listing['version']}, "
        f"{len(listing['files'])} files. Unverified until `touchstone verify {to}` has passed.",
    )


def pinned_root(root: Path | None) -> Path:
    """The root that the hospital pinned; never one that came with the bundle."""
    if root is None:
        raise Invalid(
            "name the facility's root certificate that you pinned: --root FILE or TOUCHSTONE_ROOT"
        )
    return root


def status_asked(
    root: Path | None, state: Path | None, folder: Path | None, grace_days: int, *, left_out: bool
) -> StatusAsked | None:
    """Where the status is; None where the hospital left it out knowingly."""
    from serving.bundle.status_step import StatusAsked

    if left_out:
        return None
    if state is None and folder is None:
        raise Invalid(
            "name your state folder (--state DIR, filled by `touchstone status fetch --to DIR`), "
            "or leave out with --no-status whether the certificate is still in force"
        )
    grace = dt.timedelta(days=grace_days)
    return StatusAsked(load_certificate(pinned_root(root)), state, folder, grace)


def verify(
    bundle: Path,
    root: Path | None,
    replay: bool,
    as_json: bool,
    *,
    status: StatusAsked | None = None,
) -> None:
    """Every check in order, one line each; the first that fails ends it."""
    from serving.bundle.verify import verify as check

    with progress_bar(f"verifying {bundle}", as_json) as advance:
        result = check(
            bundle,
            load_certificate(pinned_root(root)),
            dt.datetime.now(dt.UTC),
            replay=replay,
            status=status,
            on_progress=advance,
        )
    if as_json:
        print_json(result.as_json())
    else:
        for step in result.steps:
            mark, style = _MARKS[step.outcome]
            console.print(f"{mark}  {step.name}: {step.sentence}", markup=False, style=style,
                          soft_wrap=True)  # fmt: skip
    result.raise_if_failed()


def serve(bundle: Path, root: Path | None, host: str, port: int, as_json: bool) -> None:
    """Verify, then serve in the foreground."""
    from serving.server import serve as run

    run(bundle, load_certificate(pinned_root(root)), host=host, port=port)
    show({"stopped": True}, as_json, "stopped")
