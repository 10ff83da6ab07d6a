"""Numbers as JSON has them.

    >>> days: Annotated[int, Strict(), Field(ge=1, le=366), AS_JSON]

3 and 3.0 are three; "3", true and 3.5 are refused.
"""

from typing import Any

from pydantic import BeforeValidator


def _whole(value: Any) -> Any:
    """3 for 3.0: JSON knows one kind of number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


AS_JSON = BeforeValidator(_whole)
