"""`login --key` and `person confirm`: for assessors and stewards, with the key that is enrolled.

    $ touchstone login --key ada.key
    logged in: Ada (assessor, tef), until 2026-11-24 21:00

The key signs here; the registry sees a statement and a signature. What is signed names the address
that was asked, so that no other registry can use it.
"""

import datetime as dt

from registry.cli.client import Client
from registry.cli.login import keep_and_show
from registry.cli.output import show
from registry.settings import read_settings
from registry.trust.errors import Invalid


def sign_in(key: str, person: str | None, show_token: bool, as_json: bool) -> None:
    """Ask for a challenge, sign it, keep the token."""
    from registry.trust.keys import key_id, signer_name
    from registry.trust.sign_in import check_server, new_sign_in
    from registry.trust.signer import open_signer

    settings = read_settings()
    client = Client(settings, anonymous=True)
    with open_signer(key) as signer:
        name, organisation = signer_name(signer.certificate)
        if person not in (None, name):
            raise Invalid(f"the certificate of this key is {name}'s, not {person}'s")
        challenge = client.post(
            "/login/key",
            {"person": name, "organisation": organisation, "key": key_id(signer.certificate)},
        )
        # In this very process there is nobody between, and no address was typed.
        server = challenge["server"] if settings.is_local else settings.server
        check_server(server, challenge["server"])
        envelope = new_sign_in(
            signer,
            nonce=challenge["nonce"],
            server=server,
            date=dt.datetime.now(dt.UTC).replace(microsecond=0),
        )
    given = client.post("/login/key/token", {"envelope": envelope})
    keep_and_show(settings, given, show_token, as_json)


def confirm(subject: str, as_json: bool) -> None:
    """Say that a login at the identity provider is one's own."""
    confirmed = Client(read_settings()).post("/login/confirmation", {"subject": subject})
    show(confirmed, as_json, f"{subject} may log in as you from now on")
