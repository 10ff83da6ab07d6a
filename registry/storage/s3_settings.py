"""Where the S3 server is, and which credential opens which bucket.

    >>> storage = read_s3(os.environ)          # None: objects lie in the data directory

| variable | meaning | default |
|---|---|---|
| TOUCHSTONE_S3_ENDPOINT | address of the S3 server; turns S3 on | none |
| TOUCHSTONE_S3_REGION | the server's name for its region | us-east-1 |
| TOUCHSTONE_S3_CA_FILE | certificates to trust in place of the system's | the system's |
| TOUCHSTONE_S3_OBJECTS_BUCKET | cohorts, predictions, reports, bundles, checkpoints | none |
| TOUCHSTONE_S3_ARTIFACTS_BUCKET | what SMEs upload through MLflow | none |
| …_OBJECTS_CREDENTIALS, …_ARTIFACTS_… | file of two lines: access key, secret key | none |
| …_OBJECTS_ACCESS_KEY and …_OBJECTS_SECRET_KEY, …_ARTIFACTS_… | in place of the files | none |
| TOUCHSTONE_S3_PREPARE_… | the same, for `touchstone storage prepare` alone | none |
| TOUCHSTONE_S3_RETENTION_DAYS | how long an object is locked | 3650 |
| TOUCHSTONE_S3_ARTIFACTS_RETENTION_DAYS | how long an artifact is locked | 365 |

Rules
-----
1. Objects and artifacts lie in two buckets, under two credentials.
2. A process has only the credentials that it needs: a worker's need not be a server's.
3. Plain HTTP is for loopback alone.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from registry.trust.errors import Invalid

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]\Z")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_PREFIX = "TOUCHSTONE_S3_"


@dataclass(frozen=True)
class Credential:
    """One identity of the S3 server."""

    access_key: str
    secret_key: str = field(repr=False)


@dataclass(frozen=True)
class BucketSettings:
    """One bucket, who opens it, and how long it keeps what is written."""

    name: str
    credential: Credential | None
    retention_days: int


@dataclass(frozen=True)
class S3Settings:
    """The S3 server and its two buckets."""

    endpoint: str
    region: str
    ca_file: Path | None
    objects: BucketSettings
    artifacts: BucketSettings
    prepare: Credential | None = None

    def environment(self) -> dict[str, str]:
        """The variables that hand these to a child process (never the one that prepares)."""
        values = {
            "ENDPOINT": self.endpoint,
            "REGION": self.region,
            "RETENTION_DAYS": str(self.objects.retention_days),
            "ARTIFACTS_RETENTION_DAYS": str(self.artifacts.retention_days),
        }
        if self.ca_file:
            values["CA_FILE"] = str(self.ca_file)
        for name, bucket in (("OBJECTS", self.objects), ("ARTIFACTS", self.artifacts)):
            values[f"{name}_BUCKET"] = bucket.name
            if bucket.credential:
                values[f"{name}_ACCESS_KEY"] = bucket.credential.access_key
                values[f"{name}_SECRET_KEY"] = bucket.credential.secret_key
        return {_PREFIX + name: value for name, value in values.items()}


def read_s3(environment: Mapping[str, str]) -> S3Settings | None:
    """What the environment says of S3; None without TOUCHSTONE_S3_ENDPOINT.

    Raises Invalid for settings that can't be meant.
    """
    given = {
        name.removeprefix(_PREFIX): value.strip()
        for name, value in environment.items()
        if name.startswith(_PREFIX) and value.strip()
    }
    if "ENDPOINT" not in given:
        return None
    ca_file = given.get("CA_FILE")
    settings = S3Settings(
        endpoint=checked_endpoint(given["ENDPOINT"]),
        region=given.get("REGION", "us-east-1"),
        ca_file=Path(ca_file).absolute() if ca_file else None,
        objects=_bucket(given, "OBJECTS", "RETENTION_DAYS", 3650),
        artifacts=_bucket(given, "ARTIFACTS", "ARTIFACTS_RETENTION_DAYS", 365),
        prepare=_credential(given, "PREPARE"),
    )
    objects, artifacts = settings.objects.credential, settings.artifacts.credential
    if settings.objects.name == settings.artifacts.name:
        raise Invalid(
            "objects and artifacts need a bucket each: what MLflow reaches holds no cohort; "
            "name two in TOUCHSTONE_S3_OBJECTS_BUCKET and TOUCHSTONE_S3_ARTIFACTS_BUCKET"
        )
    if objects and artifacts and objects.access_key == artifacts.access_key:
        raise Invalid(
            "objects and artifacts need a credential each: what MLflow holds opens no cohort; "
            "give TOUCHSTONE_S3_ARTIFACTS_CREDENTIALS another identity"
        )
    return settings


def checked_endpoint(value: str, variable: str = _PREFIX + "ENDPOINT") -> str:
    """The address of a server that is given secrets: https, or loopback. Invalid for any other."""
    address = urlsplit(value)
    if address.scheme not in ("http", "https") or not address.hostname or address.username:
        raise Invalid(
            f"{variable} is an address like https://s3.example:9000, "
            "without a name or password in it"
        )
    if address.scheme == "http" and address.hostname not in _LOOPBACK:
        raise Invalid(
            f"{variable} sends reports in the clear to {address.hostname}; use https "
            "(TOUCHSTONE_S3_CA_FILE names a certificate authority of your own)"
        )
    return value.rstrip("/")


def _bucket(given: Mapping[str, str], name: str, days: str, default: int) -> BucketSettings:
    bucket = given.get(f"{name}_BUCKET", "")
    if not _BUCKET.match(bucket):
        raise Invalid(
            f"{_PREFIX}{name}_BUCKET names a bucket: 3 to 63 lower-case letters, digits, - and ."
        )
    retention = given.get(days, str(default))
    if not re.fullmatch(r"[1-9][0-9]{0,4}", retention):
        raise Invalid(f"{_PREFIX}{days} is a number of days, 1 or more")
    return BucketSettings(bucket, _credential(given, name), int(retention))


def _credential(given: Mapping[str, str], name: str) -> Credential | None:
    file = given.get(f"{name}_CREDENTIALS")
    if file:
        lines = credential_lines(Path(file), f"{_PREFIX}{name}_CREDENTIALS")
        return Credential(lines[0], lines[1])
    access, secret = given.get(f"{name}_ACCESS_KEY"), given.get(f"{name}_SECRET_KEY")
    if (access is None) != (secret is None):
        raise Invalid(f"{_PREFIX}{name}_ACCESS_KEY and {_PREFIX}{name}_SECRET_KEY go together")
    return Credential(access, secret) if access and secret else None


def credential_lines(file: Path, variable: str) -> list[str]:
    """Access key and secret key; Invalid for a file that others may read or that holds more."""
    try:
        if file.stat().st_mode & 0o007:
            raise Invalid(f"{file} ({variable}) can be read by everybody; run chmod 600 on it")
        lines = file.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"{file} ({variable}) can't be read: {type(error).__name__}") from error
    if len(lines) != 2:
        raise Invalid(f"{file} ({variable}) holds two lines: the access key, then the secret key")
    return lines
