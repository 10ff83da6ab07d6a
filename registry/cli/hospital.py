"""`pull` and `verify`: what a hospital types. Needs nothing of the registry's parts."""

import datetime as dt
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from registry.cli.client import Client
from registry.cli.output import console, print_json, progress_bar, show
from registry.settings import read_settings
from registry.trust.errors import Invalid
from registry.trust.keys import load_certificate

if TYPE_CHECKING:
    from serving.bundle.policy import Policy

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


@dataclass(frozen=True)
class Asked:
    """What a hospital says on the command line beside bundle and root."""

    state: Path | None = None
    allow_demo: bool = False
    acknowledge: str | None = None
    witnesses: tuple[str, ...] = ()
    witnesses_needed: int | None = None

    def state_directory(self) -> Path:
        """Where this hospital's memory lies."""
        return self.state or read_settings().home / "hospital"

    def policy(self) -> "Policy":
        """The same, checked, with what is remembered."""
        from serving.bundle.acknowledged import acknowledged, check_name
        from serving.bundle.policy import Policy, witnesses_of

        witnesses, needed = witnesses_of(self.witnesses, self.witnesses_needed)
        return Policy(
            allow_demo=self.allow_demo,
            acknowledged=acknowledged(self.state_directory()),
            acknowledging=check_name(self.acknowledge) if self.acknowledge is not None else None,
            witnesses=witnesses,
            witnesses_needed=needed,
        )


def verify(bundle: Path, root: Path | None, asked: Asked, replay: bool, as_json: bool) -> None:
    """Every check in order, one line each; the first that fails ends it, with its own status."""
    from serving.bundle.acknowledged import remember
    from serving.bundle.exits import exit_status
    from serving.bundle.verify import verify as check

    pinned, policy = load_certificate(pinned_root(root)), asked.policy()
    now = dt.datetime.now(dt.UTC)
    with progress_bar(f"verifying {bundle}", as_json) as advance:
        result = check(bundle, pinned, now, policy, replay=replay, on_progress=advance)
    if result.certificate is not None and policy.acknowledging is not None:
        use = result.certificate.predicate.use
        remember(asked.state_directory(), use, policy.acknowledging, now)
    if as_json:
        print_json(result.as_json())
    else:
        for step in result.steps:
            mark, style = _MARKS[step.outcome]
            console.print(f"{mark}  {step.name}: {step.sentence}", markup=False, style=style,
                          soft_wrap=True)  # fmt: skip
    if result.error is not None:
        sys.stderr.write(f"error: {result.error.message}\n")
        sys.exit(exit_status(result.error.code))
