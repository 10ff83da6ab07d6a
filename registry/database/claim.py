"""A claim on one submission, held by a connection: it ends with the worker, however that ends.

    >>> with claims(dsn) as claim:
    ...     claim(submission)      # True: ours until the block is left or this process dies

Rules
-----
1. A claim is an advisory lock of the session: PostgreSQL gives it back when the connection ends,
   also when the worker was killed. There is no heartbeat to miss.
2. It keeps two workers from doing the same work twice; that nothing is written twice is the
   record's own rule.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg

from registry.database.record import named_queries
from registry.trust.errors import Unavailable


@contextmanager
def claims(dsn: str) -> Iterator[Callable[[str], bool]]:
    """A connection that claims; gives the function that tries to. Raises Unavailable."""
    try:
        connection = psycopg.connect(dsn, autocommit=True)
    except psycopg.OperationalError as error:
        raise Unavailable("the database is not reachable just now; try again") from error

    def claim(submission: str) -> bool:
        try:
            row = connection.execute(named_queries()["claim"], {"submission": submission})
            return bool(row.fetchone() == (True,))
        except psycopg.OperationalError as error:
            raise Unavailable("the database is not reachable just now; try again") from error

    try:
        yield claim
    finally:
        connection.close()
