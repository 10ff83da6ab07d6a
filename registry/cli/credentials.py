"""Whose token the command line uses.

    >>> find_token(read_settings())

Rules
-----
1. In this order: a file that is named, the environment, what `touchstone login` left in the
   machine's keyring for this server.
2. A machine without a keyring is a machine without a token there, not an error.
"""

from registry.cli.keychain import kept
from registry.settings import Settings


def find_token(settings: Settings) -> str | None:
    """The caller's token for the server of `settings`; None where there is none."""
    return settings.token or kept(settings.server)
