"""Who at this hospital acknowledged which intended use: one small file in the state directory.

    >>> remember(state, predicate.use, "Dr Clara Weiss", now)
    >>> acknowledged(state)[predicate.use]
    'Dr Clara Weiss'

An act is added, under the folder's lock, and never taken back here; whoever may write the file may
remove one.
"""

import contextlib
import datetime as dt
import json
import re
from pathlib import Path

from registry.trust.canonical import canonical, is_digest
from registry.trust.errors import Invalid, Unavailable
from serving.bundle.memory import state_held
from serving.whole_file import put_whole

FILE = "acknowledged.json"
_NAME = re.compile(r"[^\x00-\x1f\x7f]{3,200}\Z")
_MOST_BYTES = 1 << 20


def acknowledged(state: Path) -> dict[str, str]:
    """{digest of a use: who acknowledged it}; empty where nobody did."""
    return {use: str(act["by"]) for use, act in _read(state).items()}


def check_name(who: str) -> str:
    """`who`, if it can be a person's name; Invalid otherwise."""
    if not _NAME.match(who) or not who.strip():
        raise Invalid(
            "--acknowledge needs the name of the person who read the intended use",
            code="acknowledge_name",
        )
    return who.strip()


def remember(state: Path, use: str, who: str, at: dt.datetime) -> None:
    """Keep that `who` acknowledged the use with this digest at the time `at`."""
    act = {"by": check_name(who), "at": f"{at.astimezone(dt.UTC):%Y-%m-%dT%H:%M:%SZ}"}
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    with state_held(state):
        put_whole(state / FILE, canonical(_read(state) | {use: act}))


def _read(state: Path) -> dict[str, dict[str, str]]:
    data = b""
    try:
        with contextlib.suppress(FileNotFoundError), (state / FILE).open("rb") as stream:
            data = stream.read(_MOST_BYTES)
    except OSError as error:
        raise Unavailable(
            f"{state / FILE} can't be read ({error.strerror})", code="state"
        ) from error
    if not data:
        return {}
    try:
        acts = json.loads(data)
        good = all(is_digest(use) and isinstance(act["by"], str) for use, act in acts.items())
    except (ValueError, TypeError, KeyError, AttributeError):
        good = False
    if not good:
        raise Invalid(
            f"{state / FILE} is not a list of acknowledged uses: move it away and acknowledge anew",
            code="state_damaged",
        )
    return dict(acts)
