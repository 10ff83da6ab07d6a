"""Run a part of a test as another account of the machine, in a forked process."""

import os
import pickle
import pwd
import traceback
from collections.abc import Callable
from typing import Any

ORDINARY = "daemon"  # an account that every Unix has, and that owns nothing


def as_account(name: str | None, function: Callable[[], Any]) -> Any:
    """What `function` returns when called as account `name`; here and now if that is None.

    Needs root. What the function raises is raised here, with the child's traceback as its note.
    """
    if name is None:
        return function()
    return in_child(function, before=lambda: _become(pwd.getpwnam(name)))


def in_child(function: Callable[[], Any], before: Callable[[], None] = lambda: None) -> Any:
    """What `function` returns when called in a forked process, after `before`."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            try:
                before()
                answer = (True, function())
            except BaseException as error:
                error.add_note(traceback.format_exc())
                answer = (False, error)
            with os.fdopen(writing, "wb") as stream:
                pickle.dump(answer, stream)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        said = stream.read()
    _, status = os.waitpid(child, 0)
    if not said:
        raise ChildDied(os.waitstatus_to_exitcode(status))
    succeeded, result = pickle.loads(said)  # noqa: S301 - from our own child
    if not succeeded:
        raise result
    return result


class ChildDied(Exception):
    """The forked process ended without an answer; its exit status (negative: a signal)."""


def _become(account: pwd.struct_passwd) -> None:
    os.setgroups([])
    os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
    os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
    os.umask(0o022)
