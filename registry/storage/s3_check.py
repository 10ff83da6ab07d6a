"""Is an S3 bucket as it must be, and make one that is.

    >>> prepare(settings.s3)                       # as the identity that may make buckets
    >>> check_locked(client, "objects")            # at every opening
    >>> check_apart(settings.s3)                   # MLflow's credential opens no cohort
    >>> found = meddled(client, "objects")

Rules
-----
1. Versioning and Object Lock are on, or nothing is opened.
2. The artifacts' credential is refused by the objects' bucket. That is asked of the server itself,
   with that credential, not read from a configuration.
3. Preparing changes no bucket's content and may be repeated.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from registry.storage.s3_bucket import LockedBucket, printable
from registry.storage.s3_client import bucket_client, client_of, code_of, speaking
from registry.storage.s3_settings import BucketSettings, S3Settings
from registry.trust.errors import Refused, TouchstoneError, Unavailable

_OWN = ("BucketAlreadyOwnedByYou", "BucketAlreadyExists")
_DENIED = ("AccessDenied", "403", "Forbidden")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finding:
    """What a check found about one bucket; `fault` is None where all is well."""

    bucket: str
    fault: str | None
    meddled: tuple[str, ...] = ()


def check_locked(client: Any, bucket: str) -> None:
    """Raise Unavailable unless the bucket keeps every version and locks what it is told to."""
    with speaking("the settings", bucket):
        versioning = client.get_bucket_versioning(Bucket=bucket).get("Status")
        try:
            lock = client.get_object_lock_configuration(Bucket=bucket)
        except ClientError as error:
            if code_of(error) != "ObjectLockConfigurationNotFoundError":
                raise
            lock = {}
    if versioning != "Enabled" or not lock.get("ObjectLockConfiguration"):
        raise Unavailable(
            f"the S3 bucket {bucket} does not lock its objects; Object Lock is chosen when a "
            "bucket is made: name a new one and make it with `touchstone storage prepare`"
        )


def check_apart(settings: S3Settings) -> None:
    """Raise Refused if the artifacts' credential can list or read the objects' bucket."""
    bucket = settings.objects.name
    stranger = bucket_client(settings, settings.artifacts)
    open_to_it = _granted(bucket, lambda: stranger.list_object_versions(Bucket=bucket, MaxKeys=1))
    if not open_to_it and settings.objects.credential is not None:
        own = bucket_client(settings, settings.objects)
        with speaking("the list of everything", bucket):
            some = own.list_object_versions(Bucket=bucket, MaxKeys=1).get("Versions", [])
        if some:
            names = {"Bucket": bucket, "Key": some[0]["Key"], "VersionId": some[0]["VersionId"]}
            open_to_it = _granted(bucket, lambda: stranger.head_object(**names))
    if open_to_it:
        raise Refused(
            f"the artifacts' credential opens the bucket {bucket}: MLflow would reach cohorts; "
            "give TOUCHSTONE_S3_ARTIFACTS_CREDENTIALS an identity with rights on the artifacts' "
            "bucket alone",
            code="storage_not_apart",
        )


def prepare(settings: S3Settings) -> list[str]:
    """Make both buckets, with versioning, Object Lock and a default lock; those that were made."""
    if settings.prepare is None:
        raise Unavailable(
            "preparing needs the credential of an identity that may make buckets; set "
            "TOUCHSTONE_S3_PREPARE_CREDENTIALS (only here: no server or worker needs it)"
        )
    client = client_of(settings, settings.prepare)
    made = []
    for bucket in (settings.objects, settings.artifacts):
        with speaking("the making of it", bucket.name):
            try:
                client.create_bucket(Bucket=bucket.name, ObjectLockEnabledForBucket=True)
                made.append(bucket.name)
            except ClientError as error:
                if code_of(error) not in _OWN:
                    raise
        check_locked(client, bucket.name)
        _set_defaults(client, bucket)
    return made


def check(settings: S3Settings) -> list[Finding]:
    """Both buckets, as far as this process has credentials for them."""
    findings = []
    for bucket in (settings.objects, settings.artifacts):
        if bucket.credential is None:
            continue
        client = bucket_client(settings, bucket)
        try:
            check_locked(client, bucket.name)
            if bucket is settings.artifacts:
                check_apart(settings)
            findings.append(Finding(bucket.name, None, meddled(client, bucket.name)))
        except TouchstoneError as error:
            findings.append(Finding(bucket.name, error.message))
    return findings


def meddled(client: Any, bucket: str) -> tuple[str, ...]:
    """The keys that have a second version or a delete marker; this store makes neither."""
    versions = LockedBucket(client, bucket, days=1).below("")
    return tuple(printable(one.key) for one in versions if one.followed)


def _granted(bucket: str, attempt: Callable[[], Any]) -> bool:
    with speaking("the check that objects and artifacts are apart", bucket):
        try:
            attempt()
        except ClientError as error:
            if code_of(error) in _DENIED:
                return False
            raise
    return True


def _set_defaults(client: Any, bucket: BucketSettings) -> None:
    """What is written past this program is locked too, and cut-off uploads are cleared away."""
    with speaking("the default lock", bucket.name):
        client.put_object_lock_configuration(
            Bucket=bucket.name,
            ObjectLockConfiguration={
                "ObjectLockEnabled": "Enabled",
                "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": bucket.retention_days}},
            },
        )
    try:
        client.put_bucket_lifecycle_configuration(
            Bucket=bucket.name,
            LifecycleConfiguration={
                "Rules": [
                    {
                        "ID": "cut-off-uploads",
                        "Status": "Enabled",
                        "Filter": {"Prefix": ""},
                        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 2},
                    }
                ]
            },
        )
    except (ClientError, BotoCoreError) as error:  # not every server clears them by itself
        _log.warning("the bucket %s keeps the parts of cut-off uploads: %s",
                     bucket.name, type(error).__name__)  # fmt: skip
