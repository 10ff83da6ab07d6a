"""How often: failed tokens, logins and requests, each within a moving window.

    >>> throttle = Throttle(Limits())
    >>> with throttle.from_address("192.0.2.7"):
    ...     caller = throttle.authenticate(secret, look_up)

| variable | what it limits | default |
|---|---|---|
| TOUCHSTONE_LIMIT_FAILURES | wrong tokens, by address and by the token's beginning | 30/minute |
| TOUCHSTONE_LIMIT_LOGINS | logins begun or ended, by address | 60/minute |
| TOUCHSTONE_LIMIT_POLLS | questions about device logins, by address | 120/minute |
| TOUCHSTONE_LIMIT_REQUESTS | requests, by token | 60000/minute |
| TOUCHSTONE_TRUSTED_PROXIES | proxies of ours in front, each adding to X-Forwarded-For | 0 |

Rules
-----
1. Who failed too often is refused before the database is asked, with the seconds to wait.
2. A token that was good a moment ago is let by: whoever shares an address with a guesser works on.
   It is still looked up; being let by is not being let in.
3. The address is the socket's peer, unless as many proxies as the settings say added to
   X-Forwarded-For: then it is the last that one of ours wrote. An IPv6 network of 64 bits is one.
4. Counted in this process, at a constant price: several registries allow as many times as much.
"""

import hashlib
import ipaddress
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from limits import RateLimitItem, parse
from limits.storage import MovingWindowSupport, Storage
from limits.strategies import MovingWindowRateLimiter

from registry.identity.caller import Caller
from registry.trust.errors import Invalid, TooMany, Unauthenticated

_PREFIX_LENGTH = 12
_REMEMBERED = 20_000
_SWEEP_SECONDS = 30.0
_address: ContextVar[str] = ContextVar("touchstone_address", default="")


@dataclass(frozen=True)
class Limits:
    """How often, in the words of the `limits` library, and how many proxies are ours."""

    failures: str = "30/minute"
    logins: str = "60/minute"
    polls: str = "120/minute"
    requests: str = "60000/minute"
    trusted_proxies: int = 0


def read_limits(environment: Mapping[str, str]) -> Limits:
    """The limits that the environment sets; Invalid for one that can't be read."""
    given = {}
    for name in ("failures", "logins", "polls", "requests"):
        variable = f"TOUCHSTONE_LIMIT_{name.upper()}"
        if variable in environment:
            try:
                if parse(environment[variable]).amount < 1:
                    raise ValueError("none at all")
            except ValueError as error:
                raise Invalid(f"{variable} reads like 30/minute; it is not so") from error
            given[name] = environment[variable]
    proxies = environment.get("TOUCHSTONE_TRUSTED_PROXIES", "0")
    if not proxies.isdigit() or int(proxies) > 10:
        raise Invalid("TOUCHSTONE_TRUSTED_PROXIES is a whole number from 0 to 10")
    return Limits(**given, trusted_proxies=int(proxies))


class Throttle:
    """The counters of one process."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._window = MovingWindowRateLimiter(_Windows(clock))
        self._failures, self._logins, self._polls, self._requests = (
            parse(text) for text in (limits.failures, limits.logins, limits.polls, limits.requests)
        )
        self._proxies = limits.trusted_proxies
        self._good: OrderedDict[bytes, float] = OrderedDict()
        self._lock = threading.Lock()

    @contextmanager
    def from_address(self, scope: Mapping[str, Any]) -> Iterator[None]:
        """What follows is asked from the address of this ASGI request."""
        token = _address.set(address_of(scope, self._proxies))
        try:
            yield
        finally:
            _address.reset(token)

    def authenticate(self, secret: str, look_up: Callable[[str], Caller]) -> Caller:
        """`look_up`, unless this failed too often; TooMany then, and for too many requests."""
        digest = hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
        places = (("address", _address.get()), ("token", secret[:_PREFIX_LENGTH]))
        if not self._was_good(digest):
            for place in places:
                if not self._window.test(self._failures, *place):
                    raise self._too_many(self._failures, place, "wrong tokens")
        try:
            caller = look_up(secret)
        except Unauthenticated:
            with self._lock:
                self._good.pop(digest, None)
            for place in places:
                self._window.hit(self._failures, *place)
            raise
        self._remember(digest)
        self._take(self._requests, ("requests", caller.token_id), "requests with this token")
        return caller

    def login(self) -> None:
        """One login begun or ended; TooMany when this address did that too often."""
        self._take(self._logins, ("login", _address.get()), "logins from your address")

    def poll(self) -> None:
        """One question about a device login."""
        self._take(self._polls, ("poll", _address.get()), "questions from your address")

    def _take(self, item: RateLimitItem, place: tuple[str, str], what: str) -> None:
        if not self._window.hit(item, *place):
            raise self._too_many(item, place, what)

    def _too_many(self, item: RateLimitItem, place: tuple[str, str], what: str) -> TooMany:
        again = self._window.get_window_stats(item, *place).reset_time - self._clock()
        seconds = max(1, math.ceil(again))
        return TooMany(f"too many {what}; try again in {seconds} s", retry_after=seconds)

    def _was_good(self, digest: bytes) -> bool:
        with self._lock:
            return self._clock() - self._good.get(digest, -math.inf) < self._failures.get_expiry()

    def _remember(self, digest: bytes) -> None:
        with self._lock:
            self._good[digest] = self._clock()
            self._good.move_to_end(digest)
            if len(self._good) > _REMEMBERED:
                self._good.popitem(last=False)


def address_of(scope: Mapping[str, Any], proxies: int) -> str:
    """The address that asks, as it is counted."""
    client = scope.get("client")
    given = client[0] if client else ""
    if proxies:
        chain = [
            part.strip()
            for name, value in scope.get("headers", ())
            if name.lower() == b"x-forwarded-for"
            for part in value.decode("latin-1").split(",")
        ]
        if len(chain) >= proxies:
            given = chain[-proxies]
    try:
        address = ipaddress.ip_address(given.partition("%")[0])
    except ValueError:
        return "elsewhere"
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        return str(mapped or ipaddress.ip_network((address, 64), strict=False))
    return str(address)


class _Windows(Storage, MovingWindowSupport):
    """Times of events by key, for the moving window alone; old ones go as new ones come.

    The library's own storage starts a thread every ten milliseconds to look through every key,
    and pushes into the front of lists: a price that grows with use.
    """

    STORAGE_SCHEME = ["touchstone-memory"]

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock
        self._times: dict[str, tuple[float, deque[float]]] = {}
        self._swept = clock()
        self._lock = threading.Lock()

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Add `amount` events, if no more than `limit` then lie within the window."""
        now = self._clock()
        with self._lock:
            self._sweep(now)
            times = self._recent(key, expiry, now)
            if len(times) + amount > limit:
                return False
            times.extend([now] * amount)
            return True

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """The oldest event in the window, and how many there are."""
        now = self._clock()
        with self._lock:
            if key not in self._times:
                return now, 0
            times = self._recent(key, expiry, now)
            return (times[0] if times else now), len(times)

    def _recent(self, key: str, expiry: int, now: float) -> deque[float]:
        _, times = self._times.setdefault(key, (float(expiry), deque()))
        while times and times[0] <= now - expiry:
            times.popleft()
        return times

    def _sweep(self, now: float) -> None:
        if now - self._swept < _SWEEP_SECONDS:
            return
        self._swept = now
        over = [key for key, (expiry, times) in self._times.items()
                if not times or times[-1] <= now - expiry]  # fmt: skip
        for key in over:
            del self._times[key]

    def reset(self) -> int | None:
        """Forget everything."""
        with self._lock:
            many = len(self._times)
            self._times.clear()
            return many

    def clear(self, key: str) -> None:
        """Forget one key."""
        with self._lock:
            self._times.pop(key, None)

    def check(self) -> bool:
        """Whether it works."""
        return True

    @property
    def base_exceptions(self) -> type[Exception]:
        """What it raises: nothing of its own."""
        return ValueError

    def get(self, key: str) -> int:
        """Counters without a window are not kept here."""
        raise NotImplementedError

    def get_expiry(self, key: str) -> float:
        """Counters without a window are not kept here."""
        raise NotImplementedError

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Counters without a window are not kept here."""
        raise NotImplementedError
