"""Limits that bite whoever guesses, spare whoever shares an address with them, and let go again."""

import threading
import time
from typing import Any

import pytest

from registry.identity.caller import Caller
from registry.identity.rate import Limits, Throttle, address_of, read_limits
from registry.trust.errors import Invalid, TooMany, Unauthenticated

GOOD = "tst_" + "a" * 43
ADA = Caller("tef", "facility", "assessor", "Ada", "token-of-ada")


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def look_up(secret: str) -> Caller:
    if secret != GOOD:
        raise Unauthenticated("this token is not known here")
    return ADA


def at(address: str) -> dict[str, Any]:
    return {"client": (address, 5000), "headers": []}


def throttle(**limits: str) -> tuple[Throttle, Clock]:
    clock = Clock()
    return Throttle(Limits(**limits), clock), clock  # type: ignore[arg-type]


def guess(rate: Throttle, address: str, secret: str) -> None:
    with rate.from_address(at(address)), pytest.raises(Unauthenticated):
        rate.authenticate(secret, look_up)


def test_an_address_that_fails_too_often_waits_and_may_then_try_again() -> None:
    rate, clock = throttle(failures="5/minute")
    for number in range(5):
        guess(rate, "192.0.2.1", f"tst_{number:043}")
        clock.now += 1
    asked = []
    with rate.from_address(at("192.0.2.1")), pytest.raises(TooMany) as told:
        rate.authenticate("tst_" + "z" * 43, asked.append)  # type: ignore[arg-type]
    assert not asked, "the database is not asked"
    assert told.value.status == 429
    assert told.value.retry_after == 55
    guess(rate, "192.0.2.2", "tst_" + "y" * 43)
    clock.now += told.value.retry_after + 1
    guess(rate, "192.0.2.1", "tst_" + "z" * 43)


def test_one_token_is_not_guessed_from_many_addresses() -> None:
    rate, _ = throttle(failures="5/minute")
    for number in range(5):
        guess(rate, f"192.0.2.{number}", f"tst_known123{number:034}")
    with rate.from_address(at("198.51.100.1")), pytest.raises(TooMany):
        rate.authenticate("tst_known123" + "9" * 34, look_up)


def test_whoever_works_at_the_guessers_address_works_on() -> None:
    rate, _ = throttle(failures="5/minute")
    with rate.from_address(at("192.0.2.1")):
        assert rate.authenticate(GOOD, look_up) == ADA
    for number in range(5):
        guess(rate, "192.0.2.1", f"tst_{number:043}")
    with rate.from_address(at("192.0.2.1")):
        assert rate.authenticate(GOOD, look_up) == ADA
        with pytest.raises(Unauthenticated):  # let by is not let in
            rate.authenticate(GOOD, lambda _: look_up("revoked by now"))
        with pytest.raises(TooMany):
            rate.authenticate(GOOD, look_up)


def test_requests_are_counted_by_token_and_logins_by_address() -> None:
    rate, clock = throttle(requests="3/second", logins="2/minute", polls="1/minute")
    with rate.from_address(at("192.0.2.1")):
        for _ in range(3):
            rate.authenticate(GOOD, look_up)
        with pytest.raises(TooMany, match="requests with this token"):
            rate.authenticate(GOOD, look_up)
        clock.now += 2
        rate.authenticate(GOOD, look_up)
        rate.login()
        rate.login()
        with pytest.raises(TooMany, match="logins from your address"):
            rate.login()
        rate.poll()
        with pytest.raises(TooMany, match="questions"):
            rate.poll()
    with rate.from_address(at("192.0.2.9")):
        rate.login()


@pytest.mark.parametrize(
    ("client", "forwarded", "proxies", "counted"),
    [
        ("192.0.2.1", None, 0, "192.0.2.1"),
        ("192.0.2.1", "203.0.113.9", 0, "192.0.2.1"),
        ("192.0.2.1", "203.0.113.9", 1, "203.0.113.9"),
        ("192.0.2.1", "1.1.1.1, 203.0.113.9", 1, "203.0.113.9"),
        ("192.0.2.1", "1.1.1.1, 203.0.113.9, 10.0.0.2", 2, "203.0.113.9"),
        ("192.0.2.1", None, 1, "192.0.2.1"),
        ("192.0.2.1", "not an address", 1, "elsewhere"),
        ("2001:db8:1:2:3:4:5:6", None, 0, "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", None, 0, "192.0.2.1"),
    ],
)
def test_the_address_is_the_peer_unless_a_proxy_of_ours_says_otherwise(
    client: str, forwarded: str | None, proxies: int, counted: str
) -> None:
    headers = [(b"x-forwarded-for", forwarded.encode())] if forwarded else []
    assert address_of({"client": (client, 1), "headers": headers}, proxies) == counted


def test_settings_that_cannot_be_read_stop_the_start() -> None:
    assert read_limits({"TOUCHSTONE_LIMIT_LOGINS": "7/hour"}).logins == "7/hour"
    for name, value in (
        ("TOUCHSTONE_LIMIT_LOGINS", "often"),
        ("TOUCHSTONE_LIMIT_FAILURES", "0/minute"),
        ("TOUCHSTONE_TRUSTED_PROXIES", "-1"),
    ):
        with pytest.raises(Invalid, match=name):
            read_limits({name: value})


def test_counting_costs_microseconds_also_for_a_token_that_asks_a_lot() -> None:
    rate = Throttle(Limits())
    with rate.from_address(at("192.0.2.1")):
        start = time.thread_time()
        for _ in range(20_000):
            rate.authenticate(GOOD, look_up)
        each = (time.thread_time() - start) / 20_000
    print(f"{each * 1e6:.1f} µs of processor time a request")
    assert each < 100e-6


def test_many_threads_get_no_more_than_the_limit() -> None:
    rate, _ = throttle(requests="500/hour")
    taken = []

    def work() -> None:
        with rate.from_address(at("192.0.2.1")):
            for _ in range(100):
                try:
                    rate.authenticate(GOOD, look_up)
                    taken.append(1)
                except TooMany:
                    pass

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 500
