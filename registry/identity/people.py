"""People who log in at the identity provider, and what the record grants them.

    >>> add_person(record, admin, issuer, NewPerson(name="Ada", subject="8f2c…@lifescience-ri.eu",
    ...                                             organisation="tef", role="assessor"))

Rules
-----
1. A person is linked by the provider's subject. An e-mail address, verified by the provider, is
   good once, and introduces only an innovator or a clinician: addresses change hands.
2. Adding a person who is known grants one more role. A grant is withdrawn, never removed, and its
   live logins end with it.
3. A granted role is a door, not a key: an assessor still signs with an enrolled key.
"""

import uuid
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from registry.database.record import Record, Row
from registry.identity.accounts import note
from registry.identity.caller import Caller, Role
from registry.identity.policy import KIND_OF_ROLE, require
from registry.trust.errors import Conflict, NotFound, Refused

SLUG = r"^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$"
_LINE = r"^[^\x00-\x1f\x7f]+$"


class NewPerson(BaseModel):
    """What `person add` needs: a name, where and as what, and how the provider knows them."""

    model_config = ConfigDict(extra="forbid", strict=True)
    name: Annotated[
        str,
        Field(min_length=1, max_length=200, pattern=_LINE, description="As the log shows it."),
    ]
    organisation: Annotated[str, Field(pattern=SLUG, description="Where.")]
    role: Role
    subject: Annotated[
        str | None,
        Field(min_length=1, max_length=255, pattern=_LINE, description="The provider's `sub`."),
    ] = None
    email: Annotated[
        str | None,
        Field(max_length=320, pattern=r"^[!-~]+@[!-~]+$", description="Verified; good once."),
    ] = None

    @model_validator(mode="after")
    def _one_way(self) -> "NewPerson":
        if (self.subject is None) == (self.email is None):
            raise ValueError("give either the subject or the e-mail address")
        return self


def add_person(record: Record, caller: Caller, issuer: str, new: NewPerson) -> str:
    """Link a person, or grant one more role to one who is known by the same; returns the id."""
    require(caller, "person.add")
    if new.subject is None and new.role not in ("innovator", "clinician"):
        raise Refused(
            "an address introduces an innovator or a clinician; give this person's --subject "
            "(they see it when they try to log in)"
        )
    with record.transaction(caller) as now:
        organisation = now.maybe("organisation_by_id", id=new.organisation)
        if organisation is None:
            raise NotFound(
                f"there is no organisation {new.organisation!r}; add it with `touchstone org add`"
            )
        if organisation["kind"] not in KIND_OF_ROLE[new.role]:
            raise Refused(f"{new.role} is not a role of a {organisation['kind']}")
        known = now.maybe("person_named", name=new.name)
        if known is None:
            person = str(uuid.uuid4())
            now.do(
                "person_add",
                id=person,
                name=new.name,
                issuer=issuer,
                subject=new.subject,
                email=new.email,
                added_by=caller.person,
            )
        elif known["issuer"] == issuer and (
            known["subject"] == new.subject if new.subject else known["email"] == new.email
        ):
            person = str(known["id"])
        else:
            raise Conflict(
                f"somebody else is named {known['name']!r}; decisions and the log name people, so "
                "add what tells them apart"
            )
        now.do(
            "person_grant",
            person=person,
            organisation=new.organisation,
            role=new.role,
            granted_by=caller.person,
        )
        note(
            now,
            caller,
            "person-granted",
            person,
            {"organisation": new.organisation, "role": new.role, "person": new.name},
        )
    return person


def withdraw(record: Record, caller: Caller, person: str, organisation: str, role: str) -> None:
    """Withdraw a role; this person's live logins in it end in the same moment."""
    require(caller, "person.add")
    with record.transaction(caller) as now:
        done = now.do(
            "person_withdraw",
            person=_id(person),
            organisation=organisation,
            role=role,
            withdrawn_by=caller.person,
        )
        if not done:
            raise NotFound("this person holds no such role; see `touchstone person list`")
        note(
            now,
            caller,
            "person-withdrawn",
            person,
            {"organisation": organisation, "role": role},
        )


def list_people(
    record: Record, caller: Caller, after: tuple[str, ...] | None = None, limit: int = 1000
) -> list[Row]:
    """Who is linked, with what they hold and held: by name, those behind the place `after`."""
    require(caller, "person.list")
    name, last = after or (None, None)
    with record.transaction(caller) as now:
        return now.all("people", after_name=name, after_id=last, limit=limit)


def person_place(row: Row) -> tuple[str, ...]:
    """Where a person stands in the list."""
    return (row["name"], str(row["id"]))


def list_tokens(
    record: Record, caller: Caller, after: tuple[str, ...] | None = None, limit: int = 1000
) -> list[Row]:
    """The caller's own tokens; everybody's for an administrator or auditor. Never a secret.

    The newest first, those behind the place `after`.
    """
    require(caller, "token.list", owner=caller.organisation)
    created_at, last = after or (None, None)
    with record.transaction(caller) as now:
        return now.all("tokens", **_reach(caller), after_created_at=created_at, after_id=last,
                       limit=limit)  # fmt: skip


def token_place(row: Row) -> tuple[str, ...]:
    """Where a token stands in the list."""
    return (row["created_at"].isoformat(), str(row["id"]))


def revoke_token(record: Record, caller: Caller, token: str) -> None:
    """Revoke one's own token, or anybody's as an administrator; in effect at once."""
    require(caller, "token.revoke", owner=caller.organisation)
    everybody = caller.role == "admin"
    with record.transaction(caller) as now:
        row = now.maybe("token_of", id=_id(token), **{**_reach(caller), "everybody": everybody})
        if row is None:
            raise NotFound("there is no such token among those you may revoke")
        if row["revoked_at"] is not None:
            return
        now.do("token_revoke", id=row["id"])
        note(
            now,
            caller,
            "token-revoked",
            str(row["id"]),
            {"organisation": row["organisation"], "role": row["role"], "person": row["person"]},
        )


def _reach(caller: Caller) -> dict[str, Any]:
    return {
        "everybody": caller.role in ("admin", "auditor"),
        "organisation": caller.organisation,
        "person": caller.person,
    }


def _id(given: str) -> uuid.UUID:
    try:
        return uuid.UUID(given)
    except ValueError:
        raise NotFound("there is nothing of this id") from None
