"""Which identity provider people log in at, and what its groups stand for.

| variable | meaning | default |
|---|---|---|
| TOUCHSTONE_OIDC_ISSUER | the provider's issuer; without it there is no login | none |
| TOUCHSTONE_OIDC_CLIENT_ID | our name at the provider | needed |
| TOUCHSTONE_OIDC_CLIENT_SECRET_FILE | file with our secret; without it, a public client | none |
| TOUCHSTONE_OIDC_SCOPES | what to ask for | openid profile email |
| TOUCHSTONE_OIDC_GROUP_CLAIM | the claim that names groups | eduperson_entitlement |
| TOUCHSTONE_OIDC_GROUPS | file that maps its values (below) | none |
| TOUCHSTONE_OIDC_CLAIM_GRANTS | roles that a claim alone may grant | innovator,clinician |
| TOUCHSTONE_LOGIN_HOURS | how long a login lasts, 1 to 12 | 8 |
| TOUCHSTONE_PUBLIC_URL | our address as browsers know it | http://127.0.0.1:8400 |

The file of groups (YAML or JSON):

    groups:
      - value: "urn:geant:lifescience-ri.eu:group:sme-a#aai.lifescience-ri.eu"
        organisation: sme-a
        role: innovator

Rules
-----
1. https for the provider and for us, except on the loopback interface.
2. Read once at the start; a mistake in it stops the start with a sentence.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from registry.identity.caller import Role
from registry.identity.claims import CLAIM_MAY_GRANT, Place
from registry.trust.errors import Invalid

CALLBACK = "/api/v1/login/callback"
_PREFIX = "TOUCHSTONE_OIDC_"


class Group(BaseModel):
    """One value of the group claim, and the place it stands for."""

    model_config = ConfigDict(extra="forbid", strict=True)
    value: Annotated[str, Field(min_length=1, max_length=1000)]
    organisation: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$")]
    role: Role


class GroupsFile(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", strict=True)
    groups: Annotated[list[Group], Field(max_length=10000)]


@dataclass(frozen=True)
class OidcSettings:
    """The provider, read from the environment."""

    issuer: str
    client_id: str
    client_secret: str | None = field(default=None, repr=False)
    scopes: str = "openid profile email"
    group_claim: str = "eduperson_entitlement"
    groups: Mapping[str, frozenset[Place]] = field(default_factory=dict)
    claim_grants: frozenset[Role] = CLAIM_MAY_GRANT
    hours: int = 8
    public_url: str = "http://127.0.0.1:8400"

    @property
    def redirect_uri(self) -> str:
        """The one address that the provider sends browsers back to."""
        return self.public_url + CALLBACK

    @property
    def mapped(self) -> frozenset[Place]:
        """Every place that the file of groups names."""
        return frozenset().union(*self.groups.values())


def read_oidc(environment: Mapping[str, str]) -> OidcSettings | None:
    """The settings; None where no provider is named. Raises Invalid for a mistake in them."""
    issuer = environment.get(_PREFIX + "ISSUER")
    if not issuer:
        return None
    client_id = environment.get(_PREFIX + "CLIENT_ID")
    if not client_id:
        raise Invalid("TOUCHSTONE_OIDC_ISSUER is set without TOUCHSTONE_OIDC_CLIENT_ID")
    secret_file = environment.get(_PREFIX + "CLIENT_SECRET_FILE")
    groups_file = environment.get(_PREFIX + "GROUPS")
    scopes = environment.get(_PREFIX + "SCOPES", "openid profile email")
    if "openid" not in scopes.split():
        raise Invalid("TOUCHSTONE_OIDC_SCOPES must hold `openid`")
    public = environment.get("TOUCHSTONE_PUBLIC_URL", "http://127.0.0.1:8400").rstrip("/")
    return OidcSettings(
        issuer=secure(issuer, "TOUCHSTONE_OIDC_ISSUER"),
        client_id=client_id,
        client_secret=_text(Path(secret_file)).strip() if secret_file else None,
        scopes=scopes,
        group_claim=environment.get(_PREFIX + "GROUP_CLAIM", "eduperson_entitlement"),
        groups=read_groups(Path(groups_file)) if groups_file else {},
        claim_grants=_grants(environment.get(_PREFIX + "CLAIM_GRANTS", "innovator,clinician")),
        hours=_hours(environment.get("TOUCHSTONE_LOGIN_HOURS", "8")),
        public_url=secure(public, "TOUCHSTONE_PUBLIC_URL"),
    )


def read_groups(path: Path) -> dict[str, frozenset[Place]]:
    """What each value of the group claim stands for."""
    try:
        read = GroupsFile.model_validate(yaml.safe_load(_text(path)))
    except (yaml.YAMLError, ValidationError) as error:
        what = error.errors()[0] if isinstance(error, ValidationError) else None
        where = ".".join(map(str, what["loc"])) + ": " + what["msg"] if what else "not YAML"
        raise Invalid(f"the file of groups {path} can't be read ({where})") from error
    places: dict[str, frozenset[Place]] = {}
    for group in read.groups:
        known = places.get(group.value, frozenset())
        places[group.value] = known | {(group.organisation, group.role)}
    return places


def is_loopback(address: str) -> bool:
    """Whether an address stays on this machine."""
    host = urlsplit(address).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def secure(address: str, what: str) -> str:
    """The address, if it is https or stays on this machine; Invalid otherwise."""
    try:
        parts = urlsplit(address)
        whole = bool(parts.hostname) and not (parts.username or parts.password or parts.fragment)
    except ValueError:
        whole = False
    if not whole:
        raise Invalid(f"{what} is not a web address")
    if parts.scheme == "https" or (parts.scheme == "http" and is_loopback(address)):
        return address
    raise Invalid(f"{what} must begin with https:// (http only on this machine itself)")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"{path}, which the settings name, can't be read") from error


def _grants(given: str) -> frozenset[Role]:
    names = {name.strip() for name in given.split(",") if name.strip()}
    chosen = frozenset(role for role in CLAIM_MAY_GRANT if role in names)
    if beyond := names - chosen:
        raise Invalid(
            f"TOUCHSTONE_OIDC_CLAIM_GRANTS names {', '.join(sorted(beyond))}; a claim grants only "
            f"{' and '.join(sorted(CLAIM_MAY_GRANT))}"
        )
    return chosen


def _hours(given: str) -> int:
    if given.isdigit() and 1 <= int(given) <= 12:
        return int(given)
    raise Invalid("TOUCHSTONE_LOGIN_HOURS is a whole number from 1 to 12")
