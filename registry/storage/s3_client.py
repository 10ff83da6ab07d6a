"""A client of the S3 server, and its errors in this house's words.

    >>> client = client_of(settings.s3, settings.s3.objects)
    >>> with speaking("the object a/b", bucket):
    ...     client.get_object(…)

Rules
-----
1. What S3 answers becomes one line that names the object and what to do. No credential, and no
   text of the server, is in it.
2. A request is tried four times, with growing pauses; it waits at most 5 s for a connection and
   60 s for an answer.
3. The credential is given; nothing is looked for in AWS's own variables and files.
4. A forked process gets connections of its own: on a shared one it would read another's answers.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import botocore.loaders
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from registry.storage.s3_settings import BucketSettings, Credential, S3Settings
from registry.trust.errors import NotFound, TouchstoneError, Unavailable

_MISSING = ("NoSuchKey", "NoSuchVersion", "404", "NotFound")
_DENIED = ("AccessDenied", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch", "Forbidden")
_LOADER = botocore.loaders.create_loader()  # reads S3's description once, not for every client
# Rule 3: no profile, and no files of the account that this happens to run under.
NOT_FROM_ELSEWHERE = {
    "profile": (None, None, None, None),
    "config_file": (None, None, os.devnull, None),
    "credentials_file": (None, None, os.devnull, None),
}
TAKEN = ("PreconditionFailed", "412", "ConditionalRequestConflict")


def client_of(settings: S3Settings, credential: Credential | None) -> Any:
    """A client for one identity; Unavailable where none was given."""
    if credential is None:
        raise Unavailable(
            "this process has no credential for the S3 bucket that it needs; set "
            "TOUCHSTONE_S3_OBJECTS_CREDENTIALS or TOUCHSTONE_S3_ARTIFACTS_CREDENTIALS"
        )
    return _OfThisProcess(lambda: _client(settings, credential))


class _OfThisProcess:
    """A client that is made anew in a forked process."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._made = (os.getpid(), make())

    def __getattr__(self, name: str) -> Any:
        process, client = self._made
        if process != os.getpid():
            client = self._make()
            self._made = (os.getpid(), client)
        return getattr(client, name)


def _client(settings: S3Settings, credential: Credential) -> Any:
    with speaking("the S3 client", "-"):
        session = botocore.session.Session(session_vars=NOT_FROM_ELSEWHERE)
        session.register_component("data_loader", _LOADER)
        return session.create_client(
            "s3",
            endpoint_url=settings.endpoint,
            region_name=settings.region,
            aws_access_key_id=credential.access_key,
            aws_secret_access_key=credential.secret_key,
            verify=str(settings.ca_file) if settings.ca_file else True,
            config=Config(
                connect_timeout=5,
                read_timeout=60,
                retries={"mode": "standard", "total_max_attempts": 4},
                max_pool_connections=32,
                s3={"addressing_style": "path"},
                signature_version="s3v4",
            ),
        )


def bucket_client(settings: S3Settings, bucket: BucketSettings) -> Any:
    """A client for one bucket's own identity."""
    return client_of(settings, bucket.credential)


def code_of(error: ClientError) -> str:
    """S3's name for what went wrong, letters and digits alone."""
    return re.sub(r"[^A-Za-z0-9]", "", str(error.response.get("Error", {}).get("Code", "")))[:60]


@contextmanager
def speaking(what: str, bucket: str) -> Iterator[None]:
    """S3's errors while doing something with `what`, as ours."""
    try:
        yield
    except ClientError as error:
        raise _sentence(code_of(error), what, bucket) from error
    except BotoCoreError as error:
        raise Unavailable(
            f"the S3 server did not answer for {what} ({type(error).__name__}); is it running, "
            "and are TOUCHSTONE_S3_ENDPOINT and TOUCHSTONE_S3_CA_FILE right?"
        ) from error


def _sentence(code: str, what: str, bucket: str) -> TouchstoneError:
    if code in _MISSING:
        return NotFound(f"there is no {what.removeprefix('the ')}")
    if code == "NoSuchBucket":
        return Unavailable(
            f"there is no S3 bucket {bucket}; make it with `touchstone storage prepare`"
        )
    if code in _DENIED:
        return Unavailable(
            f"the S3 server refuses this process {what} in the bucket {bucket} ({code}); check "
            "its credential and the rights of that identity"
        )
    return Unavailable(f"the S3 server could not handle {what} ({code or 'no code'}); try again")
