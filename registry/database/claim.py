"""A claim on a piece of work, held by a connection: it ends with the worker, however that ends.

    >>> with claims(dsn) as claims_of_ours:
    ...     claims_of_ours.claim(submission)      # True: ours until the block is left, we let go of
    ...                                           # it, or this process dies

Rules
-----
1. A claim is an advisory lock of the session: PostgreSQL gives it back when the connection ends,
   also when the worker was killed. The server asks after a silent host by itself.
2. It keeps two workers from doing the same work twice; that nothing is written twice is the
   record's own rule.
3. A database that goes down takes every claim with it, while those who held them still work. So
   who is about to judge what happened to its work asks first (`check`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import LiteralString

import psycopg

from registry.database.record import named_queries
from registry.trust.errors import Unavailable

_LOST_HOST: LiteralString = (
    "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3"
)
"""A host that is gone without a word holds its claims for no more than 25 seconds."""


class Claims:
    """What one connection has claimed. Calls of several threads come one after the other."""

    def __init__(self, connection: psycopg.Connection[tuple[bool]]) -> None:
        self._connection = connection

    def claim(self, work: str) -> bool:
        """Whether the work is ours from now on, and not another's. Raises Unavailable."""
        return self._ask("claim", work)

    def let_go(self, work: str) -> None:
        """Give back one claim. Raises Unavailable."""
        self._ask("unclaim", work)

    def check(self) -> None:
        """Raise Unavailable where the connection is lost, and with it every claim."""
        try:
            self._connection.execute("SELECT 1")
        except psycopg.OperationalError as error:
            raise Unavailable("the database was lost, and with it the claim; try again") from error

    def _ask(self, query: str, work: str) -> bool:
        try:
            row = self._connection.execute(named_queries()[query], {"submission": work})
            return row.fetchone() == (True,)
        except psycopg.OperationalError as error:
            raise Unavailable("the database is not reachable just now; try again") from error


@contextmanager
def claims(dsn: str) -> Iterator[Claims]:
    """A connection that claims. Raises Unavailable."""
    try:
        connection = psycopg.connect(dsn, autocommit=True)
        connection.execute(_LOST_HOST)
    except psycopg.OperationalError as error:
        raise Unavailable("the database is not reachable just now; try again") from error
    try:
        yield Claims(connection)
    finally:
        connection.close()
