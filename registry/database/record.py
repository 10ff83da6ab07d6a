"""The connection to the record, and the named queries that are asked of it.

    >>> record = Record(dsn)
    >>> with record.transaction(caller) as now:
    ...     row = now.one("submission_by_id", id=submission)
    ...     now.do("submission_move", id=submission, state="queued")

Rules
-----
1. SQL lives in `sql/*.sql` under a name (`-- name: x`); outside this room it is asked by name.
2. What belongs together is one transaction: it happens whole or not at all.
3. A rule that the database refuses comes out as an error for people, never as a traceback.
4. A lost connection is `Unavailable`: nothing was written, trying again is safe.
5. What happens in the name of a claimed request is marked so in the same commit (`requests`).
6. A transaction on behalf of a person begins by showing the person's proof to the database, which
   then shows and takes only what is theirs (0004_tenancy.sql). Without one it is nobody's.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any, LiteralString, cast

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import JsonbDumper
from psycopg_pool import ConnectionPool, PoolTimeout

from registry.identity.caller import Caller
from registry.trust.errors import Conflict, Invalid, NotFound, Refused, Unauthenticated, Unavailable

Row = dict[str, Any]
_NOT_KNOWN = "TS401"
_WRITES = re.compile(r"\b(INSERT INTO|(?<!FOR )UPDATE|DELETE FROM|append_event)\b")
_FOLDER = Path(__file__).parent / "sql"
_CODES = {
    "attempts_left": "attempts_spent",
    "family_stops_at_pass": "family_passed",
    "trials_left": "trials_spent",
    "held_for_review": "held_for_review",
    "quota_left": "quota_used_up",
    "storage_left": "quota_storage",
    "agreement_in_force": "no_agreement",
    "cohort_open": "cohort_closed",
}
_ALREADY = {
    "organisation": "this organisation exists already",
    "decision": "you have signed a decision on this submission already",
    "cohort": "this cohort version, or one with the same root, is sealed already",
    "cohort_signature": "you have signed this lock already",
    "cohort_lock": "this cohort version is locked already",
    "pilot_key_announced": "this key was announced already",
    "pilot_key_agreed": "you agreed to this key already; another assessor does next",
    "pilot_key": "another key of your hospital was pinned just now; sign with that one",
    "pilot_report": "your hospital has reported on this month already",
    "protocol": "this protocol version is locked already with another text; raise its version",
    "submission": "this model version is submitted to this cohort by this protocol already",
    "certificate": "this submission is certified already",
    "person": "this person is linked already, by another name or address",
    "person_role": "this person holds this role already",
    "enrolment": "this statement of enrolment is loaded already",
    "signer": "this key is enrolled already",
    "revoked_key": "this key is revoked already",
}


@cache
def named_queries() -> dict[str, LiteralString]:
    """Every query of `sql/*.sql` by its name."""
    queries: dict[str, LiteralString] = {}
    for path in sorted(_FOLDER.glob("*.sql")):
        parts = re.split(r"^-- name: ([a-z_]+)$", path.read_text(), flags=re.MULTILINE)
        for name, body in zip(parts[1::2], parts[2::2], strict=True):
            if name in queries:
                raise ValueError(f"two queries are named {name}")
            queries[name] = cast(LiteralString, body.strip())
    return queries


@cache
def writes(query: str) -> bool:
    """Whether a query changes anything, be it through a function that adds to the log."""
    return _WRITES.search(query) is not None


class Transaction:
    """Named queries inside one transaction."""

    def __init__(self, connection: psycopg.Connection[Row]) -> None:
        self._connection = connection
        self.wrote = False

    def all(self, query: str, /, **values: Any) -> list[Row]:
        """Every row that the query gives."""
        return self._execute(query, values).fetchall()

    def maybe(self, query: str, /, **values: Any) -> Row | None:
        """The one row, or None."""
        return self._execute(query, values).fetchone()

    def one(self, query: str, /, **values: Any) -> Row:
        """The one row; NotFound without one."""
        row = self.maybe(query, **values)
        if row is None:
            raise NotFound("there is no such thing")
        return row

    def do(self, query: str, /, **values: Any) -> int:
        """Write; returns how many rows were touched."""
        self.wrote = True
        return self._execute(query, values).rowcount

    def _execute(self, query: str, values: Row) -> psycopg.Cursor[Row]:
        text = named_queries()[query]
        self.wrote = self.wrote or writes(text)
        return self._connection.execute(text, values)


class Record:
    """A pool of connections as one database role."""

    def __init__(self, dsn: str, *, size: int = 8) -> None:
        self._pool = ConnectionPool[psycopg.Connection[Row]](
            dsn,
            min_size=0,
            max_size=size,
            timeout=10,
            open=True,
            check=ConnectionPool.check_connection,
            kwargs={"row_factory": dict_row},
            configure=_dicts_are_json,
            reconnect_timeout=5,
        )

    def close(self) -> None:
        """Give every connection back."""
        self._pool.close()

    @contextmanager
    def transaction(self, caller: Caller | None = None) -> Iterator[Transaction]:
        """One transaction, in the name of `caller`: the log and the rows know nobody else.

        Raises Unauthenticated once the caller's token is revoked or expired.
        """
        try:
            with self._pool.connection() as connection:
                now = Transaction(connection)
                if caller is not None and caller.proof is not None:
                    now.one("enter", proof=caller.proof)
                yield now
                mark = before_commit.get()
                if mark is not None and now.wrote and caller is not None:
                    mark(now)
        except psycopg.errors.IntegrityError as error:
            raise _for_people(error) from error
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
            raise Unavailable("the database is not migrated yet; try again in a moment") from error
        except psycopg.errors.InsufficientPrivilege as error:
            raise Refused("the database refuses this to the role that asked") from error
        except (psycopg.OperationalError, PoolTimeout) as error:
            raise Unavailable(
                "the database is not reachable just now; nothing was written, try again"
            ) from error
        except psycopg.DataError as error:
            raise Invalid("the record can't keep a value like this; use plain text and numbers "
                          "of an ordinary size") from error  # fmt: skip
        except psycopg.DatabaseError as error:
            if error.sqlstate == _NOT_KNOWN:
                raise Unauthenticated(error.diag.message_primary or "unknown token") from error
            raise


def _dicts_are_json(connection: psycopg.Connection[Row]) -> None:
    connection.adapters.register_dumper(dict, JsonbDumper)


def _for_people(error: psycopg.errors.IntegrityError) -> Refused | Conflict | Unavailable:
    """The refusal in the words of the rule that was broken (0002_rules.sql writes them)."""
    message = error.diag.message_primary or "the record refuses this"
    if code := _CODES.get(error.diag.constraint_name or ""):
        return Refused(message, code=code)
    if error.diag.constraint_name == "family_one_by_one":
        return Unavailable(message, code="family_at_work")
    if isinstance(error, psycopg.errors.RestrictViolation):
        return Refused(message, code="against_the_record")
    if isinstance(error, psycopg.errors.UniqueViolation):
        return Conflict(_ALREADY.get(error.diag.table_name or "", "this exists already"))
    if isinstance(error, psycopg.errors.ForeignKeyViolation):
        return Conflict(f"what this refers to is not there ({error.diag.table_name})")
    return Refused(f"the record refuses this value: {message}")


before_commit: ContextVar[Callable[[Transaction], None] | None] = ContextVar(
    "before_commit", default=None
)
