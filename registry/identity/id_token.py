"""Whether an ID token is from our provider, for us, for this login, and of now.

    >>> claims = verify(token, keys, Expected(issuer=…, client_id=…, nonce=…, access_token=…), now)

Rules
-----
1. Only algorithms with a public key; the header's word alone chooses none: the key must fit.
2. The key is the provider's published one with the header's `kid`; what else the header points to
   is not followed.
3. `iss`, `aud`, `azp`, `exp`, `iat`, `nbf`, `nonce`, `at_hash` and `sub` are all checked; clocks
   may differ by a minute.
4. No word of the token reaches the error: it names the check, not the value.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from authlib.oidc.core import CodeIDToken
from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, Key, RSAKey

from registry.trust.errors import Unauthenticated

ALGORITHMS = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512",
)  # fmt: skip
SKEW_SECONDS = 60
OLDEST_SECONDS = 600
_MOST_BYTES = 64 << 10
_LEAST_RSA_BITS = 2048


class UnknownKey(Unauthenticated):
    """The token is signed with a key that was not published when we last looked."""

    default_code = "login_refused"


@dataclass(frozen=True)
class Expected:
    """What this login was begun with. The device flow knows no nonce."""

    issuer: str
    client_id: str
    nonce: str | None
    access_token: str | None = field(repr=False)


def keys_of(document: Any) -> list[Key]:
    """The public signing keys in a key set; others, broken and secret ones are left out."""
    listed = document.get("keys") if isinstance(document, dict) else None
    keys: list[Key] = []
    for one in listed if isinstance(listed, list) else ():
        if not isinstance(one, dict) or one.get("use", "sig") != "sig":
            continue
        if one.get("kty") not in ("RSA", "EC") or "d" in one:
            continue
        try:
            key = JWKRegistry.import_key(one)
        except (JoseError, ValueError, TypeError, KeyError):
            continue
        if not isinstance(key, RSAKey) or key.public_key.key_size >= _LEAST_RSA_BITS:
            keys.append(key)
    return keys


def verify(token: object, keys: Sequence[Key], expected: Expected, now: int) -> dict[str, Any]:
    """The claims of a good token; Unauthenticated, UnknownKey when its key is not among `keys`."""
    if not isinstance(token, str) or len(token) > _MOST_BYTES:
        raise _refused("it is no ID token")
    try:
        read_as = _registry(ALGORITHMS)
        header = jws.extract_compact(token.encode("ascii"), registry=read_as).headers()
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm not in ALGORITHMS:
            raise _refused("its algorithm is not allowed")
        key = _key(keys, kid)
        if not _fits(key, algorithm):
            raise _refused("its algorithm is not its key's")
        read = jwt.decode(token, key, algorithms=[algorithm], registry=_registry([algorithm]))
        claims = CodeIDToken(
            read.claims,
            read.header,
            {
                "iss": {"essential": True, "value": expected.issuer},
                "aud": {"essential": True, "value": expected.client_id},
                "sub": {"essential": True},
                "exp": {"essential": True},
                "iat": {"essential": True},
            },
            {
                "nonce": expected.nonce,
                "client_id": expected.client_id,
                "access_token": expected.access_token,
            },
        )
        claims.validate(now=now, leeway=SKEW_SECONDS)
    except JoseError as error:
        claim = getattr(error, "claim", None)
        raise _refused(f"{claim or error.error} does not hold") from None
    except (ValueError, TypeError, KeyError):
        raise _refused("it is not well formed") from None
    if claims["iat"] < now - OLDEST_SECONDS - SKEW_SECONDS:
        raise _refused("iat is of another time")
    subject = claims["sub"]
    if not 0 < len(subject) <= 255 or not subject.isprintable():
        raise _refused("sub does not hold")
    return dict(claims)


def _key(keys: Sequence[Key], kid: object) -> Key:
    """The published key of this name; a token without a name needs there to be one key alone."""
    named = [key for key in keys if kid is None or key.kid == kid]
    if len(named) != 1:
        raise UnknownKey("the identity provider's token is refused: it has no published key")
    return named[0]


def _fits(key: Key, algorithm: str) -> bool:
    if key.alg not in (None, algorithm):
        return False
    if algorithm.startswith("ES"):
        curve = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}[algorithm]
        return isinstance(key, ECKey) and key.curve_name == curve
    return isinstance(key, RSAKey)


def _registry(algorithms: Sequence[str]) -> jws.JWSRegistry:
    registry = jws.JWSRegistry(algorithms=list(algorithms), strict_check_header=False)
    registry.max_header_length = 4096  # some providers put a certificate chain there; unread
    return registry


def _refused(why: str) -> Unauthenticated:
    return Unauthenticated(f"the identity provider's token is refused: {why}", code="login_refused")
