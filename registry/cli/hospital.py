"""`pull` and `verify`: what a hospital types. Needs nothing of the registry's parts."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from registry.cli.client import Client
from registry.cli.output import console, print_json, progress_bar, show
from registry.settings import read_settings
from registry.trust.errors import Invalid, Tampered, TouchstoneError
from registry.trust.keys import load_certificate

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography import x509

    from serving.bundle.policy import Policy
    from serving.bundle.standing import StandingOf
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
    told = ("organisation", "model", "version", "not_after")
    if not isinstance(listing, dict) or not {"files", *told} <= set(listing):
        raise Tampered("what the server lists is no certified model: is TOUCHSTONE_SERVER right?")
    with progress_bar(f"pulling {name}", as_json) as advance:
        download(
            listing["files"],
            lambda path, start: client.stream("/certified/file", start, name=name, path=path),
            to,
            on_progress=advance,
        )
    shown = {key: listing[key] for key in told}
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


def state_directory(state: Path | None) -> Path:
    """Where this hospital's memory and its copy of the status lie."""
    return state or read_settings().home / "hospital"


@dataclass(frozen=True)
class Asked:
    """What a hospital says on the command line beside bundle and root."""

    state: Path | None = None
    allow_demo: bool = False
    acknowledge: str | None = None
    witnesses: Sequence[str] | None = None
    witnesses_needed: int | None = None
    no_status: bool = False
    status: Path | None = None
    status_from: str | None = None
    grace_days: int = 0

    def state_directory(self) -> Path:
        """Where this hospital's memory lies."""
        return state_directory(self.state)

    def policy(self, root: x509.Certificate) -> Policy:
        """The same, checked, with what is remembered. The log's tree comes with the status, so
        that who leaves the one out can't hold the log against the one seen before either."""
        from serving.bundle.acknowledged import acknowledged, check_name
        from serving.bundle.memory import LOG, seen_checkpoint
        from serving.bundle.policy import Policy, witnesses_of

        witnesses, needed = witnesses_of(self.witnesses or (), self.witnesses_needed)
        state = self.state_directory()
        return Policy(
            allow_demo=self.allow_demo,
            acknowledged=acknowledged(state),
            acknowledging=check_name(self.acknowledge) if self.acknowledge is not None else None,
            witnesses=witnesses,
            witnesses_needed=needed,
            last_checkpoint=None if self.no_status else seen_checkpoint(state, root),
            tiles=None if self.no_status else state / LOG,
        )

    def status_asked(self, root: x509.Certificate) -> StatusAsked | None:
        """Where the status is; None where the hospital left it out knowingly."""
        from serving.bundle.status_step import StatusAsked

        if self.no_status:
            return None
        return StatusAsked(root, self.state_directory(), self.status, self._grace())

    def standing_of(self, root: x509.Certificate) -> StandingOf | None:
        """The same question, to be asked on a schedule."""
        from serving.bundle.status_copy import standing_from

        if self.no_status:
            return None
        return standing_from(self.state_directory(), root, self._grace(), self.status_from)

    def remember_of(self, root: x509.Certificate) -> Callable[[bytes], None] | None:
        """What keeps the log's last checkpoint; None where the status, and the log with it, was
        left out."""
        from serving.bundle.memory import open_memory

        if self.no_status:
            return None
        state = self.state_directory()

        def remember(checkpoint: bytes) -> None:
            memory = open_memory(state, root, dt.datetime.now(dt.UTC))
            memory.remember(checkpoint=checkpoint)

        return remember

    def _grace(self) -> dt.timedelta:
        return dt.timedelta(days=self.grace_days)


def verify(bundle: Path, root: Path | None, asked: Asked, replay: bool, as_json: bool) -> None:
    """Every check in order, one line each; the first that fails ends it, with its own status."""
    from serving.bundle.exits import exit_status

    pinned = load_certificate(pinned_root(root))
    try:
        error = _verified(bundle, pinned, asked, replay, as_json)
    except TouchstoneError as found:  # what is remembered can't be read, or kept
        error = found
    if error is not None:
        sys.stderr.write(f"error: {error.message}\n")
        sys.exit(exit_status(error.code))


def _verified(
    bundle: Path, root: x509.Certificate, asked: Asked, replay: bool, as_json: bool
) -> TouchstoneError | None:
    from serving.bundle.acknowledged import remember
    from serving.bundle.verify import verify as check

    policy, now = asked.policy(root), dt.datetime.now(dt.UTC)
    with progress_bar(f"verifying {bundle}", as_json) as advance:
        result = check(
            bundle,
            root,
            now,
            policy,
            replay=replay,
            status=asked.status_asked(root),
            on_progress=advance,
        )
    if result.certificate is not None and policy.acknowledging is not None:
        use = result.certificate.predicate.use
        remember(asked.state_directory(), use, policy.acknowledging, now)
    remember_log = asked.remember_of(root)
    if result.checkpoint is not None and remember_log is not None:
        remember_log(result.checkpoint)
    if as_json:
        print_json(result.as_json())
    else:
        for step in result.steps:
            mark, style = _MARKS[step.outcome]
            console.print(f"{mark}  {step.name}: {step.sentence}", markup=False, style=style,
                          soft_wrap=True)  # fmt: skip
    return result.error
