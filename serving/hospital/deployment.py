"""One verified bundle at work, and the stage on which one of them answers.

    stage = Stage(first)
    with stage.use() as deployment:      # a request: this certificate and no other answers it
        deployment.require_in_force()
        scores = await deployment.worker.score(inputs)
    stage.switch(second)                 # new requests go to the second; the first is drained

Rules
-----
1. A request is answered by one deployment from its first byte to its last, so that the certificate
   it names is the one whose model answered.
2. A deployment that was replaced answers what it had begun, and is closed then.
3. Shadow is the mode of every deployment, unless its certificate allows `assistive` and the
   hospital asked for it.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from registry.trust.certificate import Predicate
from registry.trust.errors import Refused, TouchstoneError
from serving.bundle.verify import VerifyResult
from serving.hospital.watching import Clock, Watch
from serving.worker import Worker
from validators.contract.schema import Contract

Mode = Literal["shadow", "assistive"]
DRAIN_SECONDS = 420.0
"""How long a replaced deployment may take to answer what it had begun."""
_USE = {
    "shadow": "investigational, in shadow: kept for later comparison, not shown where patients "
    "are cared for",
    "assistive": "investigational: a suggestion to the clinician, who decides",
}


@dataclass
class Deployment:
    """A verified bundle, the process that runs its model, and the watch over its certificate."""

    verified: VerifyResult
    worker: Worker
    watch: Watch
    mode: Mode
    clock: Clock
    under_way: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        allowed = self.predicate.pilot_mode
        if self.mode == "assistive" and allowed != "assistive":
            raise Refused(
                f"the certificate allows a pilot in {allowed} mode alone: serve without "
                "--mode assistive",
                code="mode_refused",
            )

    @property
    def predicate(self) -> Predicate:
        """What the two assessors stated."""
        assert self.verified.certificate is not None
        return self.verified.certificate.predicate

    @property
    def contract(self) -> Contract:
        """What the model takes and gives."""
        return self.worker.contract

    @property
    def statement(self) -> str:
        """The digest that names the certificate."""
        assert self.verified.statement is not None
        return self.verified.statement

    @property
    def title(self) -> str:
        """organisation/name version, for people."""
        model = self.predicate.model
        return f"{model.organisation}/{model.name} {model.version}"

    @property
    def names(self) -> frozenset[str]:
        """The names that a request may call the model by."""
        model = self.predicate.model
        return frozenset({model.name, f"{model.organisation}.{model.name}"})

    def marks(self) -> dict[str, Any]:
        """What every answer says beside its scores."""
        return {
            "model": self.title,
            "certificate": self.statement,
            "investigational": True,
            "mode": self.mode,
            "use": _USE[self.mode],
            "demo": self.verified.demo_root,
        }

    def require_in_force(self) -> None:
        """Raise Refused where nothing may be predicted now, with why and what to do."""
        if self.clock() >= self.predicate.not_after:
            raise Refused(
                f"the certificate expired on {self.predicate.not_after:%Y-%m-%d}: pull a newer "
                "one; nothing is predicted without",
                code="certificate_expired",
            )
        self.watch.require()

    @property
    def in_force(self) -> bool:
        """Whether something may be predicted now."""
        try:
            self.require_in_force()
        except TouchstoneError:
            return False
        return True


class Stage:
    """Holds the deployment that answers, and lets it be replaced."""

    def __init__(self, first: Deployment) -> None:
        self._lock = threading.Lock()
        self._active = first
        self._closed = False

    @property
    def active(self) -> Deployment:
        """The deployment that answers now: for health and labels, which may be replaced mid-way."""
        return self._active

    @contextlib.contextmanager
    def use(self) -> Iterator[Deployment]:
        """The deployment that answers one request, kept alive for as long as that takes."""
        with self._lock:
            deployment = self._active
            deployment.under_way += 1
        try:
            yield deployment
        finally:
            with self._lock:
                deployment.under_way -= 1

    def switch(self, new: Deployment) -> None:
        """Let `new` answer from now on; returns when the one before is drained and closed."""
        with self._lock:
            if self._closed:  # the server is stopping; the new version comes up at its next start
                new.worker.close()
                return
            old, self._active = self._active, new
        deadline = time.monotonic() + DRAIN_SECONDS
        while old.under_way and time.monotonic() < deadline:
            time.sleep(0.02)
        old.worker.close()

    def check(self) -> None:
        """Ask anew how the certificate that answers stands."""
        self._active.watch.check()

    def close(self) -> None:
        """Bury the process of the deployment that answers."""
        with self._lock:
            self._closed = True
        self._active.worker.close()
