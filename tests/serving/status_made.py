"""A facility's status, made as the facility makes it, with its people's and its machine's keys."""

import dataclasses
import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from tuf.api.metadata import Metadata, Root

from registry.trust.canonical import canonical, sha256_bytes
from registry.trust.keys import Identity, issue, new_root
from registry.trust.status import (
    DOWNGRADE,
    ENDORSEMENT,
    TIMESTAMP,
    Listed,
    Stop,
    endorsed,
    file_name,
    key_name,
    moment_of,
    new_downgrade,
    new_snapshot,
    new_targets,
    new_timestamp,
    signed_by,
    until,
    with_signature,
)
from registry.trust.status import new_root as new_status_root

NOW = dt.datetime.now(dt.UTC)
STATEMENT = sha256_bytes(b"a statement")
OTHER = sha256_bytes(b"another one")
AUTHORITY = new_root("tef", demo=True)
PEOPLE = {
    name: issue(AUTHORITY, name, organisation="tef")
    for name in ("Sam", "Uma", "Ada", "Ben", "Cleo")
}
MACHINE = ec.generate_private_key(ec.SECP256R1())
Change = Callable[[Metadata[Any]], object]


def stop(at: dt.datetime, state: Any = "suspended") -> Stop:
    """A stop at a moment."""
    return Stop(state, moment_of(at), "readings drift")


@dataclass(frozen=True)
class Made:
    """What a status is made of; `files` signs all of it."""

    at: dt.datetime = NOW
    authority: Identity = AUTHORITY
    machine: ec.EllipticCurvePrivateKey = MACHINE
    roots: tuple[Metadata[Root], ...] = ()
    listed: Mapping[str, Listed] = field(default_factory=lambda: {STATEMENT: Listed(11)})
    stops: Mapping[str, Stop] = field(default_factory=dict)
    versions: Mapping[str, int] = field(default_factory=dict)
    targets_at: dt.datetime | None = None
    signers: tuple[Identity, ...] = (PEOPLE["Ada"], PEOPLE["Ben"])
    change: Mapping[str, Change] = field(default_factory=dict)

    def but(self, **changes: Any) -> "Made":
        """The same with something else."""
        return dataclasses.replace(self, **changes)

    def version(self, role: str) -> int:
        """The version of a part."""
        return self.versions.get(role, 1)

    def _changed(self, role: str, metadata: Any) -> Any:
        if role in self.change:
            self.change[role](metadata)
        return metadata

    def _by_machine(self, metadata: Any) -> Any:
        name = key_name(self.machine.public_key())
        signature = self.machine.sign(metadata.signed_bytes, ec.ECDSA(hashes.SHA256()))
        return with_signature(metadata, name, signature)

    def files(self) -> dict[str, bytes]:
        """Every file, signed."""
        roots = self.roots or (first_root(self.authority, self.machine),)
        files = {file_name("root", n): one.to_bytes() for n, one in enumerate(roots, 1)}
        files[ENDORSEMENT] = canonical(endorsed(roots[0], self.authority))
        targets = new_targets(
            self.version("targets"), until("targets", self.targets_at or self.at), self.listed,
            self.machine.public_key(),
        )  # fmt: skip
        self._changed("targets", targets)
        for signer in self.signers:
            signed_by(targets, signer)
        downgrade = new_downgrade(self.version(DOWNGRADE), until(DOWNGRADE, self.at), self.stops)
        self._by_machine(self._changed(DOWNGRADE, downgrade))
        parts = {
            file_name("targets", self.version("targets")): targets.to_bytes(),
            file_name(DOWNGRADE, self.version(DOWNGRADE)): downgrade.to_bytes(),
        }
        snapshot = new_snapshot(self.version("snapshot"), until("snapshot", self.at), parts)
        self._by_machine(self._changed("snapshot", snapshot))
        named = file_name("snapshot", self.version("snapshot"))
        timestamp = new_timestamp(
            self.version("timestamp"), until("timestamp", self.at), (named, snapshot.to_bytes())
        )
        self._by_machine(self._changed("timestamp", timestamp))
        return {**files, **parts, named: snapshot.to_bytes(), TIMESTAMP: timestamp.to_bytes()}


def first_root(
    authority: Identity = AUTHORITY, machine: ec.EllipticCurvePrivateKey = MACHINE
) -> Metadata[Root]:
    """Version 1: Sam and Uma hold the root, Ada and Ben list what is in force."""
    return root(1, ("Sam", "Uma"), ("Ada", "Ben"), ("Sam", "Uma"), machine=machine)


def root(
    version: int,
    holders: tuple[str, ...],
    assessors: tuple[str, ...],
    signers: tuple[str, ...],
    *,
    at: dt.datetime = NOW,
    machine: ec.EllipticCurvePrivateKey = MACHINE,
    change: Change | None = None,
) -> Metadata[Root]:
    """A version of the root, signed by these."""
    made = new_status_root(
        version, at, holders=[PEOPLE[name].certificate for name in holders],
        assessors=[PEOPLE[name].certificate for name in assessors], machine=machine.public_key(),
    )  # fmt: skip
    if change is not None:
        change(made)
    for name in signers:
        signed_by(made, PEOPLE[name])
    return made
