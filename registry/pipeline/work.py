"""One submission under way: what every step is given.

    >>> with work.start_sandbox() as sandbox:
    ...     sandbox.load(work.model_files())

Rules
-----
1. A sandbox for the model is watched over: it dies when the submission is stopped. Where it is:
   `where`.
2. A step notes in `trace` when the model is about to have a hand in what happens.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from registry.database.record import Row
from registry.facility import Facility
from registry.pipeline.watch import Watch
from registry.pipeline.where import start_model
from registry.submissions import places
from registry.submissions.submit import protocol_of
from registry.trust.errors import Refused, Tampered
from registry.trust.model_files import model_digest
from serving.calls import Model
from serving.sandbox.process import Sandbox
from validators.contract.schema import Contract
from validators.protocol.schema import Protocol

Progress = Callable[[int, int], None]


@dataclass
class Trace:
    """What a step did before it failed: whether the model had been opened, or its answers read."""

    model_had_a_hand: bool = False


@dataclass(frozen=True)
class Work:
    """One submission under way."""

    facility: Facility
    row: Row
    watch: Watch
    allow_unsandboxed: bool = False
    progress: Progress = lambda done, total: None
    trace: Trace = field(default_factory=Trace)

    @property
    def id(self) -> str:
        """The submission's id."""
        return str(self.row["id"])

    @property
    def protocol(self) -> Protocol:
        """The locked protocol."""
        return protocol_of(self.row)

    @property
    def asked(self) -> Protocol:
        """What of the protocol is asked on the submission's cohort."""
        return self.protocol.for_development() if self.row["development"] else self.protocol

    @property
    def contract(self) -> Contract:
        """The protocol's contract; a protocol that gates has one."""
        contract = self.protocol.contract
        if contract is None:
            raise Refused("the protocol has no contract")
        return contract

    def start_sandbox(self) -> Model:
        """A fresh process for the model, which dies when the submission is stopped."""
        return self.watch.over(self.start_own_sandbox())

    def start_own_sandbox(self) -> Model:
        """A fresh process for the canary."""
        return start_model(self.facility, allow_unsandboxed=self.allow_unsandboxed)

    def start_inspection(self) -> Sandbox:
        """A fresh process on this host, which looks at a file that nobody has taken in yet."""
        sandbox = Sandbox.start(allow_unsandboxed=self.allow_unsandboxed)
        self.watch.over(sandbox)
        return sandbox

    def output_of(self, step: str) -> dict[str, Any] | None:
        """What an earlier step wrote down, if it has run."""
        with self.facility.record.transaction() as now:
            row = now.maybe("step_output", submission=self.id, name=step)
        return None if row is None else dict(row["output"])

    def model_files(self) -> dict[str, bytes]:
        """The model's files from the store, checked against the digest in the record."""
        prefix = places.model(self.row["model_digest"])
        store = self.facility.store
        files = {path.removeprefix(prefix): store.get(path) for path in store.list(prefix)}
        if model_digest(files) != self.row["model_digest"]:
            raise Tampered("the stored model is not the one that passed intake")
        return files
