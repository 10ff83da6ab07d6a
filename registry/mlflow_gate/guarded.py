# mypy: disallow-untyped-calls=False
"""What both guarded stores share: deny what is not named, know the caller, hide the database.

    >>> @only(AbstractStore, {"get_run", "search_runs", …})
    ... class GuardedTrackingStore(WorkspaceAwareSqlAlchemyStore): …

Rules
-----
1. A store's public method that is not named is refused, also one that a later MLflow adds.
2. A named one runs for a caller who may use MLflow, inside that caller's own workspace.
3. A search is bounded by `questions`, and by the time that the database gives it.
4. What the database refuses arrives as a sentence; SQL stays in the log.
"""

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

from mlflow.exceptions import MlflowException
from mlflow.utils.workspace_context import get_request_workspace
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, SQLAlchemyError

from registry.identity.caller import Caller, current_caller
from registry.identity.policy import require
from registry.mlflow_gate.questions import bounded
from registry.mlflow_gate.refusal import in_mlflow_words
from registry.trust.errors import (
    Conflict,
    Invalid,
    Refused,
    TouchstoneError,
    Unauthenticated,
    Unavailable,
)

_TOO_LONG = "57014"  # query_canceled: see server.STATEMENT_SECONDS
_log = logging.getLogger(__name__)
_Store = TypeVar("_Store", bound=type[Any])


def caller_in_own_workspace() -> Caller:
    """The caller; refused without one, without the right, or in another's workspace."""
    caller = current_caller.get()
    if caller is None:
        raise Unauthenticated("MLflow is used with a token of an innovator")
    require(caller, "mlflow.use", owner=get_request_workspace() or "")
    return caller


def only(interface: type, allowed: frozenset[str]) -> Callable[[_Store], _Store]:
    """Class decorator: of the public methods of `interface` and the class, keep `allowed`."""

    def guard(store: _Store) -> _Store:
        public = {name for name in (*dir(interface), *dir(store)) if not name.startswith("_")}
        for name in sorted(public):
            method = getattr(store, name, None)
            if callable(method) and not isinstance(method, type):
                setattr(store, name, _kept(method) if name in allowed else _refused(name))
        missing = allowed - public
        if missing:
            raise TypeError(f"MLflow no longer has {', '.join(sorted(missing))}")
        return store

    return guard


def _kept(method: Callable[..., Any]) -> Callable[..., Any]:
    if method.__name__.startswith(("search_", "get_metric_history")):
        method = bounded(method)

    @functools.wraps(method)
    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            caller_in_own_workspace()
            return method(self, *args, **kwargs)
        except TouchstoneError as error:
            raise in_mlflow_words(error) from error

    return checked


def _refused(name: str) -> Callable[..., Any]:
    def refused(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise in_mlflow_words(
            Refused(f"MLflow's {name.replace('_', ' ')} is not offered here", code="not_offered")
        )

    refused.__name__ = name
    return refused


def speaking(
    sessions: Callable[..., AbstractContextManager[Any]],
) -> Callable[..., AbstractContextManager[Any]]:
    """MLflow's session maker, whose database errors come out as sentences."""

    @contextmanager
    def session(*args: Any, **kwargs: Any) -> Iterator[Any]:
        try:
            with sessions(*args, **kwargs) as opened:
                yield opened
        except MlflowException as error:
            if isinstance(error.__cause__, SQLAlchemyError):
                raise in_mlflow_words(_sentence(error.__cause__)) from error
            raise

    return session


def _sentence(error: SQLAlchemyError) -> TouchstoneError:
    cause = error.orig if isinstance(error, DBAPIError) else None
    if getattr(cause, "sqlstate", None) == "TS403":
        return Refused(cause.diag.message_primary, code="against_the_record")  # type: ignore[union-attr]
    if getattr(cause, "sqlstate", None) == _TOO_LONG:
        return Invalid("this takes the database too long; ask for less at once", code="too_slow")
    _log.warning("the database refused MLflow: %s", type(cause or error).__name__)
    if isinstance(error, OperationalError):
        return Unavailable("the database is not reachable just now; nothing was written, try again")
    if isinstance(error, IntegrityError):
        return Conflict("this exists already, or what it refers to is not there")
    return Invalid("the registry can't store this; a value is too long or of the wrong kind")
