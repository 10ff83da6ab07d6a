"""Where `touchstone login` keeps a token: the keyring of this machine.

    >>> keep("http://127.0.0.1:8400", "tst_…")
    True

Rules
-----
1. One token a server. What can't be kept safely is not kept: no file of our own.
2. A keyring that is missing, locked or forgets is told by what it does, not by its name.
3. This is the one place that asks the keyring; `credentials` decides whose token is used.
"""

from contextlib import suppress

SERVICE = "touchstone"


def keep(server: str, secret: str) -> bool:
    """Keep a token; False where this machine has nowhere to keep it."""
    import keyring
    from keyring.errors import KeyringError

    with suppress(KeyringError, RuntimeError, OSError):
        keyring.set_password(SERVICE, server, secret)
        return keyring.get_password(SERVICE, server) == secret
    return False


def kept(server: str) -> str | None:
    """The token that is kept for a server."""
    import keyring
    from keyring.errors import KeyringError

    with suppress(KeyringError, RuntimeError, OSError):
        return keyring.get_password(SERVICE, server) or None
    return None


def forget(server: str) -> None:
    """Remove it."""
    import keyring
    from keyring.errors import KeyringError

    with suppress(KeyringError, RuntimeError, OSError):
        keyring.delete_password(SERVICE, server)
