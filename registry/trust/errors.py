"""The one family of errors that may reach a person.

Rules
-----
1. A message is one line that says what was wrong, where, and what to do.
   A sign that does not show, or that moves a terminal's cursor, is written as "?": a name that
   came with a file may not paint a line of its own.
2. It never holds a patient-level value: no input, reference, prediction or single attribute.
3. `code` is stable and snake_case: programs match on it, people read the message.
4. `status` is the HTTP status; the command line exits with 1 for every one of them, but for what
   `verify` finds (`serving.bundle.exits`).

    >>> raise Refused("…", code="alias_reserved")

A programming fault is not a TouchstoneError; it keeps its traceback.
"""


class TouchstoneError(Exception):
    """Something a person can act on. Raise one of the subclasses."""

    status = 400
    default_code = "error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        one_line = "".join(
            sign if sign.isprintable() else "?" for sign in " ".join(message.split())
        )
        super().__init__(one_line)
        self.message = one_line
        self.code = code or self.default_code


class Invalid(TouchstoneError):
    """What was given is not well formed: a file, a field, an argument."""

    status = 422
    default_code = "invalid"


class NotFound(TouchstoneError):
    """There is no such thing, or the caller may not know that there is."""

    status = 404
    default_code = "not_found"


class Unauthenticated(TouchstoneError):
    """No token, or one that is wrong, expired or revoked."""

    status = 401
    default_code = "unauthenticated"


class Refused(TouchstoneError):
    """Well formed, and against the rules."""

    status = 403
    default_code = "refused"


class Conflict(TouchstoneError):
    """It can't be done in the present state: it exists already, or has moved on."""

    status = 409
    default_code = "conflict"


class Tampered(TouchstoneError):
    """A digest or signature does not match: the thing is not what it claims to be."""

    status = 409
    default_code = "tampered"


class Unavailable(TouchstoneError):
    """A part that this needs is not running or not reachable; trying again may help."""

    status = 503
    default_code = "unavailable"


class TooMany(TouchstoneError):
    """Asked too often; `retry_after` is how many seconds to wait."""

    status = 429
    default_code = "too_many_requests"

    def __init__(
        self, message: str, *, code: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message, code=code)
        self.retry_after = max(1, retry_after or 1)
