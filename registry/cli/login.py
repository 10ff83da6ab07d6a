"""`login`, `logout` and `whoami`.

    $ touchstone login
    open   https://login.example.org/device
    code   BDRM-QXPT

Rules
-----
1. The token goes into the machine's keyring; where there is none it is shown once, with what to do.
2. `logout` revokes first: a token that can't be removed here opens nothing any more.
"""

import time
from typing import Any

from registry.cli.client import Client
from registry.cli.keychain import forget, keep, kept
from registry.cli.output import console, print_json, show
from registry.settings import Settings, read_settings
from registry.trust.errors import TooMany, Unauthenticated

_SLOWER_SECONDS = 5


def login(organisation: str | None, role: str | None, show_token: bool, as_json: bool) -> None:
    """The device flow: show address and code, wait, keep the token."""
    settings = read_settings()
    client = Client(settings, anonymous=True)
    device = client.post("/login/device", {"organisation": organisation, "role": role})
    if as_json:
        print_json({name: device[name] for name in device if name != "handle"})
    else:
        console.print(
            f"open   {device['verification_uri']}\ncode   {device['user_code']}\n"
            "waiting for you there …",
            markup=False,
            soft_wrap=True,
        )
    keep_and_show(settings, _wait(client, device), show_token, as_json)


def keep_and_show(
    settings: Settings, given: dict[str, Any], show_token: bool, as_json: bool
) -> None:
    """Keep a token that a login gave, and say whose it is."""
    stored = keep(settings.server, given["token"])
    until = given["expires_at"][:16].replace("T", " ")
    line = f"logged in: {given['person']} ({given['role']}, {given['organisation']}), until {until}"
    export = f"export TOUCHSTONE_TOKEN={given['token']} MLFLOW_TRACKING_TOKEN={given['token']}"
    if not stored:
        line += (
            "\nThis machine has no keyring, so the token is shown this once and kept nowhere:\n"
            f"{export}"
        )
    elif show_token:
        line += f"\n{export}"
    else:
        given = {name: given[name] for name in given if name != "token"}
        if settings.token is not None:
            line += "\nTOUCHSTONE_TOKEN is set in this shell and goes before the keyring"
    show({**given, "stored": stored}, as_json, line)


def _wait(client: Client, device: dict[str, Any]) -> Any:
    """Ask until the person has answered or the code has expired."""
    interval = int(device["interval"])
    ends = time.monotonic() + int(device["expires_in"])
    while time.monotonic() < ends:
        time.sleep(interval)
        try:
            answer = client.post("/login/device/token", {"handle": device["handle"]})
        except TooMany as error:
            interval += error.retry_after
            continue
        if not answer.get("waiting"):
            return answer
        if answer.get("slower"):
            interval += _SLOWER_SECONDS
    raise Unauthenticated("nobody entered the code in time; run `touchstone login` again")


def logout(as_json: bool) -> None:
    """Revoke the token of the login and remove it."""
    settings = read_settings()
    secret = kept(settings.server)
    if secret is None and settings.token is None:
        show({"revoked": None}, as_json, "you are not logged in here")
        return
    try:
        revoked = Client(settings, secret).post("/logout", {})
        line = "logged out: the token is revoked and removed"
    except Unauthenticated:  # over already
        revoked, line = {"revoked": None}, "the token was over already; it is removed"
    forget(settings.server)
    if settings.token is not None:
        line += "; TOUCHSTONE_TOKEN is still set in this shell"
    show(revoked, as_json, line)


def whoami(as_json: bool) -> None:
    """Who the registry takes the caller for."""
    settings = read_settings()
    me = Client(settings).get("/me")
    show(
        me,
        as_json,
        f"{me['person']}: {me['role']} of {me['organisation']} ({me['kind']}) at {settings.server}",
    )
