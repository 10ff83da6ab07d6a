"""Encrypt one object so that the same content under the same key is the same bytes.

    >>> sealed = encrypt(key, "cohorts/a/1/inputs/00000", plain)
    >>> decrypt(key, "cohorts/a/1/inputs/00000", sha256_bytes(plain), sealed) == plain
    True

Rules
-----
1. AES-256-GCM with a key of its own an object: HKDF of the cohort's data key over path and the
   digest of the plain bytes. Cohort, version and path are also associated data.
2. The nonce is fixed, and safe so: a key is only ever used for the one content it is derived
   from, so no pair of key and nonce meets two contents. What this gives away is only that two
   objects at one path are equal, which the manifest's digests say anyway. A random nonce would
   make a seal that was killed and run again collide with a write-once store.
3. The plain bytes are checked against their digest too: GCM alone does not commit to a key. The
   digest is their SHA-256; `lock` and `unlock` leave it to a caller whose digest also names every
   plain byte (`validators.cohort.contents.shard_digests`).
"""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from registry.trust.canonical import canonical, sha256_bytes
from registry.trust.errors import Tampered
from validators.cohort.keys import InputKey, ReferenceKey

Buffer = bytes | bytearray
_NONCE = bytes(12)
_TAG = 16


def encrypt(key: InputKey | ReferenceKey, path: str, plain: Buffer) -> bytearray:
    """The sealed bytes of `plain`: as long as it, and 16 bytes of tag."""
    return lock(key, path, sha256_bytes(plain), plain)


def decrypt(key: InputKey | ReferenceKey, path: str, digest: str, sealed: Buffer) -> bytearray:
    """The plain bytes with this digest. Raises Tampered, naming the path, when they are not."""
    plain = unlock(key, path, digest, sealed)
    check_digest(path, sha256_bytes(plain), digest)
    return plain


def lock(key: InputKey | ReferenceKey, path: str, digest: str, plain: Buffer) -> bytearray:
    """Encrypt `plain`, of which the caller has just computed the digest that names all of it."""
    sealed = bytearray(len(plain) + _TAG)
    _cipher(key, path, digest).encrypt_into(_NONCE, plain, _associated(key, path), sealed)
    return sealed


def unlock(key: InputKey | ReferenceKey, path: str, digest: str, sealed: Buffer) -> bytearray:
    """Decrypt; the caller computes the digest of what comes out and checks it.

    Raises Tampered, naming the path.
    """
    plain = bytearray(max(0, len(sealed) - _TAG))
    try:
        _cipher(key, path, digest).decrypt_into(_NONCE, sealed, _associated(key, path), plain)
    except (InvalidTag, ValueError) as error:
        raise Tampered(
            f"{path} can't be decrypted: it was changed, or sealed with another key"
        ) from error
    return plain


def check_digest(path: str, found: str, digest: str) -> None:
    """Raise Tampered, naming the path, unless what came out is what the digest names."""
    if found != digest:
        raise Tampered(f"{path} does not hold what was sealed")


def _cipher(key: InputKey | ReferenceKey, path: str, digest: str) -> AESGCM:
    return AESGCM(key.derive("object", path, digest))


def _associated(key: InputKey | ReferenceKey, path: str) -> bytes:
    return canonical([key.cohort, key.version, path])
