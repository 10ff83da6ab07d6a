"""Logging in: from the identity provider's word to one of our own tokens, for some hours.

    >>> started = logins.begin(None, None)                   # send the browser to started.address
    >>> given = logins.finish(started.cookie, state=…, code=…, issuer=…)
    >>> given.secret, given.role
    ('tst_…', 'innovator')

Rules
-----
1. A login's state is good once, for ten minutes, and only in the browser that began it.
2. What a person may be is decided by `claims`; the token is made by the database, which asks its
   own record again and makes no assessor, steward, auditor or administrator for anybody else.
3. A role whose claim is gone ends at once: live tokens of this person's logins are revoked first,
   whatever then becomes of this login.
4. Only some logins at a time wait for the provider: when it hangs, the registry does not.
5. One device code is asked about by one at a time: a provider that is asked twice about a code
   that it has just redeemed takes both for a theft, and ends the login.
"""

import datetime as dt
import hashlib
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from registry.database.record import Record, Row
from registry.identity.accounts import PREFIX, proof_of
from registry.identity.caller import Role
from registry.identity.claims import Outcome, Place, choose, decide, places_of
from registry.identity.oidc import Identity, Provider, Waiting
from registry.trust.errors import NotFound, Refused, Unauthenticated, Unavailable

FLOW_SECONDS = 600
_AT_ONCE = 8
_NEVER_BEGAN = "this login was not begun here, is over, or belongs to another browser; begin again"


@dataclass(frozen=True)
class Started:
    """Where to send the browser, and what it must bring back."""

    address: str
    cookie: str = field(repr=False)


@dataclass(frozen=True)
class StartedDevice:
    """What the command line shows, and the handle by which it asks."""

    user_code: str
    verification_uri: str
    verification_uri_complete: str | None
    interval: int
    expires_in: int
    handle: str = field(repr=False)


@dataclass(frozen=True)
class LoggedIn:
    """A token of ours; the secret is shown this once."""

    id: str
    secret: str = field(repr=False)
    organisation: str
    role: str
    person: str
    expires_at: dt.datetime


class Logins:
    """Logins at one provider. `record` connects as touchstone_login."""

    def __init__(self, record: Record, provider: Provider) -> None:
        self._record = record
        self._provider = provider
        self._settings = provider.settings
        self._places = threading.BoundedSemaphore(_AT_ONCE)
        self._asked_about: set[bytes] = set()
        self._asking = threading.Lock()

    def begin(self, organisation: str | None, role: Role | None) -> Started:
        """Begin a login in a browser."""
        state, cookie, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(4))
        with self._turn():
            address = self._provider.address(state=state, nonce=nonce, verifier=verifier)
        with self._record.transaction() as now:
            now.one(
                "flow_begin",
                id=_hash(state),
                kind="browser",
                browser=_hash(cookie),
                nonce=nonce,
                verifier=verifier,
                device_code=None,
                **_wanted(organisation, role),
                seconds=FLOW_SECONDS,
            )
        return Started(address, cookie)

    def finish(
        self,
        cookie: str | None,
        *,
        state: str | None,
        code: str | None,
        issuer: str | None,
        error: str | None = None,
    ) -> LoggedIn:
        """End it with what the browser brought back."""
        if not state or not cookie:
            raise Unauthenticated(_NEVER_BEGAN, code="login_refused")
        with self._record.transaction() as now:
            flow = now.maybe("flow_take", id=_hash(state), kind="browser", browser=_hash(cookie))
        if flow is None:
            raise Unauthenticated(_NEVER_BEGAN, code="login_refused")
        with self._turn():
            self._provider.check_answerer(issuer)
            if error is not None or not code:
                raise Unauthenticated(
                    "the identity provider did not log you in; begin again", code="login_refused"
                )
            who = self._provider.redeem(code, verifier=flow["verifier"], nonce=flow["nonce"])
        return self._admit(who, flow)

    def begin_device(self, organisation: str | None, role: Role | None) -> StartedDevice:
        """Begin a login from the command line."""
        with self._turn():
            device = self._provider.begin_device()
        handle = secrets.token_urlsafe(32)
        with self._record.transaction() as now:
            now.one(
                "flow_begin",
                id=_hash(handle),
                kind="device",
                browser=None,
                nonce=None,
                verifier=None,
                device_code=device.device_code,
                **_wanted(organisation, role),
                seconds=device.expires_in,
            )
        return StartedDevice(
            device.user_code,
            device.verification_uri,
            device.verification_uri_complete,
            device.interval,
            device.expires_in,
            handle,
        )

    def poll(self, handle: str) -> LoggedIn | Waiting:
        """Ask whether the person has answered."""
        with self._record.transaction() as now:
            flow = now.maybe("flow_look", id=_hash(handle))
        if flow is None:
            raise Unauthenticated(
                "this login is over or was never begun; begin again", code="login_refused"
            )
        with self._alone(_hash(handle)) as alone:
            if not alone:
                return Waiting(slower=False)
            with self._turn():
                answer = self._provider.poll(flow["device_code"])
            if isinstance(answer, Waiting):
                return answer
            with self._record.transaction() as now:
                taken = now.maybe("flow_take", id=_hash(handle), kind="device", browser=None)
        if taken is None:
            raise Unauthenticated("this login was completed already", code="login_refused")
        return self._admit(answer, taken)

    @contextmanager
    def _alone(self, flow: bytes) -> Iterator[bool]:
        """Whether nobody else in this process is asking about this flow just now."""
        with self._asking:
            alone = flow not in self._asked_about
            self._asked_about.add(flow)
        try:
            yield alone
        finally:
            if alone:
                with self._asking:
                    self._asked_about.discard(flow)

    def _admit(self, who: Identity, flow: Row) -> LoggedIn:
        known = {"issuer": who.issuer, "subject": who.subject}
        with self._record.transaction() as now:
            standing = now.all("login_standing", **known, email=who.email)
        outcome = self._decide(who, standing)
        with self._record.transaction() as now:  # on its own: it stands even if the rest is refused
            now.one(
                "login_keep",
                **known,
                organisations=[organisation for organisation, _ in outcome.allowed],
                roles=[role for _, role in outcome.allowed],
            )
        if not standing and not outcome.allowed:
            raise Refused(
                "nobody here knows you yet; give your administrator these two: issuer "
                f"{who.issuer}, subject {who.subject}",
                code="not_linked",
            )
        organisation, role = choose(outcome, flow["organisation"], flow["role"])
        secret = PREFIX + secrets.token_urlsafe(32)
        with self._record.transaction() as now:
            made = now.one(
                "login_make",
                **known,
                email=who.email,
                name=who.name,
                organisation=organisation,
                role=role,
                secret_hash=hashlib.sha256(proof_of(secret)).digest(),
                seconds=self._settings.hours * 3600,
            )
        return LoggedIn(
            str(made["token"]), secret, organisation, role, made["person"], made["expires_at"]
        )

    def _decide(self, who: Identity, standing: list[Row]) -> Outcome:
        rows = [row for row in standing if row["role"] is not None]
        granted = {_place(row) for row in rows if row["in_force"]}
        return decide(
            granted=granted,
            withdrawn={_place(row) for row in rows} - granted,
            mapped=self._settings.mapped,
            claimed=places_of(who.groups, self._settings.groups),
            may_grant=self._settings.claim_grants,
        )

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._places.acquire(blocking=False):
            raise Unavailable("many logins are under way just now; try again in a moment")
        try:
            yield
        finally:
            self._places.release()


def logins_of(logins: Logins | None) -> Logins:
    """The logins, where there are any; NotFound at a registry without an identity provider."""
    if logins is None:
        raise NotFound(
            "this registry has no identity provider; use a token that your administrator gave you",
            code="no_identity_provider",
        )
    return logins


def _wanted(organisation: str | None, role: Role | None) -> dict[str, str | None]:
    return {"organisation": organisation, "role": role}


def _place(row: Row) -> Place:
    return (row["organisation"], row["role"])


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
