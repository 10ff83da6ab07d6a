# mypy: disallow-untyped-calls=False
"""What a search may ask: MLflow turns each comparison and each order into a join.

    >>> check_question("metrics.auc > 0.9 AND tags.team = 'lung'", ["metrics.auc DESC"])

Rules
-----
1. A filter has at most 4000 characters and 20 comparisons, an order at most 5 columns: 400
   comparisons took a backend of PostgreSQL 16 GB before it was killed, with all others.
2. What MLflow can't read (a page token, an attribute that its tables lack) is the asker's error,
   said in a sentence, and not one of the server.
"""

import functools
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

from mlflow.exceptions import MlflowException

from registry.trust.errors import Invalid

MOST_CHARACTERS = 4000
MOST_COMPARISONS = 20
MOST_ORDERS = 5
MOST_IDS = 200
# Counted in the raw text, inside quotes too: counting too many refuses, too few would not.
_COMPARISON = re.compile(r"[<>=!]+|\b(?:r|i)?like\b|\bin\b|\bis\b|\bbetween\b", re.IGNORECASE)
_UNREADABLE = (ValueError, TypeError, AttributeError, KeyError, IndexError, OverflowError)


def check_question(
    filter_string: str | None,
    order_by: Sequence[Any] | None = None,
    datasets: Sequence[Any] | None = None,
    experiment_ids: Sequence[Any] | None = None,
) -> None:
    """Raise Invalid for a question that would cost too much to answer."""
    text = filter_string or ""
    comparisons = len(_COMPARISON.findall(text)) + len(datasets or ())
    if len(text) > MOST_CHARACTERS or comparisons > MOST_COMPARISONS:
        raise Invalid(
            f"this filter is too long: at most {MOST_COMPARISONS} comparisons in "
            f"{MOST_CHARACTERS} characters; ask for less at once",
            code="question_too_large",
        )
    if len(order_by or ()) > MOST_ORDERS:
        raise Invalid(f"order by at most {MOST_ORDERS} columns", code="question_too_large")
    if len(experiment_ids or ()) > MOST_IDS:
        raise Invalid(f"ask for at most {MOST_IDS} experiments at once", code="question_too_large")


def bounded(search: Callable[..., Any]) -> Callable[..., Any]:
    """A store's method that searches, under the rules above."""
    signature = inspect.signature(search)
    asked_for = {"filter_string", "order_by", "datasets", "experiment_ids"}

    @functools.wraps(search)
    def asked(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        question = {name: value for name, value in given.items() if name in asked_for}
        check_question(question.pop("filter_string", None), **question)
        try:
            return search(*args, **kwargs)
        except MlflowException as error:
            if isinstance(error.__cause__ or error.__context__, _UNREADABLE):
                raise _unreadable() from error
            raise
        except _UNREADABLE as error:
            raise _unreadable() from error

    return asked


def _unreadable() -> Invalid:
    return Invalid(
        "this can't be read as a search; check filter, order_by and page_token",
        code="question_unreadable",
    )
