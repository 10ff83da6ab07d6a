"""What wraps the cohorts' data keys, by the settings: the key file, a KMS, or a token (PKCS #11).

    >>> keys = create_keys(settings.cohort_keys, "lidc-nodules", "1", key_encryption(settings))

| variable | meaning | default |
|---|---|---|
| TOUCHSTONE_KEY_ENCRYPTION | `kms:KEY-ID`, or `pkcs11:token=…;object=…` | a key file |
| TOUCHSTONE_KMS_ENDPOINT | address of a KMS that speaks AWS's protocol | AWS's own |
| TOUCHSTONE_KMS_REGION | its region | us-east-1 |
| TOUCHSTONE_KMS_CREDENTIALS | file of two lines: access key, secret key | none |
| TOUCHSTONE_PKCS11_MODULE, …_PIN | as for signing keys (`registry.trust.signer`) | none |

Rules
-----
1. The wrapping key never leaves KMS or token. What goes there is a data key of 32 bytes.
2. Cohort, version and purpose are bound: in KMS as the encryption context, which its own log and
   policies see; in a token as associated data of AES-GCM under an AES key (CKM_AES_GCM).
3. Keys wrapped by the key file open as before; `touchstone cohort rewrap` changes what wraps them.
"""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from registry.settings import Settings
from registry.storage.s3_settings import checked_endpoint, credential_lines
from registry.trust.errors import Invalid, Refused, Unavailable
from registry.trust.signer import open_session, parse_uri
from validators.cohort.key_store import open_keys
from validators.cohort.keys import CohortKeys, Context, KeyEncryption, bound
from validators.cohort.manifest import Manifest

_NONCE, _TAG = 12, 128


def key_encryption(
    settings: Settings, environment: Mapping[str, str] = os.environ
) -> KeyEncryption | None:
    """What the settings name; None for the key file. Invalid for what can't be meant."""
    name = settings.key_encryption
    if name is None:
        return None
    if name.startswith("kms:") and name != "kms:":
        return _Kms(name, environment)
    if name.startswith("pkcs11:"):
        parse_uri(name)
        return _Token(name, environment)
    raise Invalid("TOUCHSTONE_KEY_ENCRYPTION is kms:KEY-ID or pkcs11:token=NAME;object=NAME")


def facility_keys(settings: Settings, manifest: Manifest) -> CohortKeys:
    """The keys of a sealed cohort, still wrapped, as this facility keeps them."""
    return open_keys(settings.cohort_keys, manifest, key_encryption(settings))


class _Kms:
    """A key in AWS's KMS, or in a server that speaks its protocol."""

    def __init__(self, name: str, environment: Mapping[str, str]) -> None:
        self.name = name
        self._key = name.removeprefix("kms:")
        self._client = _client(environment)

    def wrap(self, secret: bytes, context: Context) -> bytes:
        answer = self._ask("encrypt", Plaintext=secret, context=context)
        return bytes(answer["CiphertextBlob"])

    def unwrap(self, wrapped: bytes, context: Context) -> bytes:
        answer = self._ask("decrypt", CiphertextBlob=wrapped, context=context)
        return bytes(answer["Plaintext"])

    def _ask(self, verb: str, context: Context, **values: Any) -> Mapping[str, Any]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer: Mapping[str, Any] = getattr(self._client, verb)(
                KeyId=self._key, EncryptionContext=dict(context), **values
            )
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code.startswith(("InvalidCiphertext", "IncorrectKey")):
                raise Refused(
                    "a cohort's data key can't be unwrapped: it was wrapped by another key, or for "
                    "another cohort, version or purpose"
                ) from error
            raise Unavailable(
                f"the KMS refuses to {verb} with {self.name} ({code[:40]}); check the key's state "
                "and the rights of TOUCHSTONE_KMS_CREDENTIALS"
            ) from error
        except BotoCoreError as error:
            raise Unavailable(
                f"the KMS did not answer ({type(error).__name__}); check TOUCHSTONE_KMS_ENDPOINT"
            ) from error
        return answer


class _Token:
    """An AES key in a smart card or HSM. A session lasts for one wrap or unwrap."""

    def __init__(self, name: str, environment: Mapping[str, str]) -> None:
        self.name = name
        self._environment = environment

    def wrap(self, secret: bytes, context: Context) -> bytes:
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._use("encrypt", secret, nonce, context)

    def unwrap(self, wrapped: bytes, context: Context) -> bytes:
        return self._use("decrypt", wrapped[_NONCE:], wrapped[:_NONCE], context)

    def _use(self, verb: str, data: bytes, nonce: bytes, context: Context) -> bytes:
        uri = parse_uri(self.name)
        with open_session(uri, self._environment) as session:
            from pkcs11 import Attribute, GCMParams, Mechanism, ObjectClass
            from pkcs11.exceptions import (
                EncryptedDataInvalid,
                EncryptedDataLenRange,
                GeneralError,
            )

            named = {Attribute.LABEL: uri.object, Attribute.ID: uri.id}
            keys = list(
                session.get_objects(
                    {Attribute.CLASS: ObjectClass.SECRET_KEY}
                    | {name: value for name, value in named.items() if value is not None}
                )
            )
            if len(keys) != 1:
                raise Invalid(f"{len(keys)} secret keys in the token fit TOUCHSTONE_KEY_ENCRYPTION")
            try:
                return bytes(
                    getattr(keys[0], verb)(
                        data,
                        mechanism=Mechanism.AES_GCM,
                        mechanism_param=GCMParams(nonce, bound(context), _TAG),
                    )
                )
            except (EncryptedDataInvalid, EncryptedDataLenRange, GeneralError) as error:
                raise Refused(
                    "a cohort's data key can't be unwrapped: it was wrapped by another token, or "
                    "for another cohort, version or purpose"
                ) from error


def _client(environment: Mapping[str, str]) -> Any:
    """A client that knows the settings and nothing of the account that it runs under."""
    import botocore.session
    from botocore.config import Config

    from registry.storage.s3_client import NOT_FROM_ELSEWHERE

    file = environment.get("TOUCHSTONE_KMS_CREDENTIALS")
    if not file:
        raise Invalid("TOUCHSTONE_KMS_CREDENTIALS names a file: the access key, the secret key")
    access, secret = credential_lines(Path(file), "TOUCHSTONE_KMS_CREDENTIALS")
    endpoint = environment.get("TOUCHSTONE_KMS_ENDPOINT")
    return botocore.session.Session(session_vars=NOT_FROM_ELSEWHERE).create_client(
        "kms",
        endpoint_url=checked_endpoint(endpoint, "TOUCHSTONE_KMS_ENDPOINT") if endpoint else None,
        region_name=environment.get("TOUCHSTONE_KMS_REGION", "us-east-1"),
        aws_access_key_id=access,
        aws_secret_access_key=secret,
        config=Config(connect_timeout=5, read_timeout=30, retries={"total_max_attempts": 3}),
    )
