"""Who is asking, organisations and tokens.

>>> app.include_router(router(facility, caller_of))
"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from registry.facility import Facility
from registry.identity import accounts
from registry.identity.caller import Caller


def router(facility: Facility, caller_of: Any) -> APIRouter:
    """`/me`, `/organisations` and `/tokens`."""
    routes = APIRouter(prefix="/api/v1", tags=["accounts"])
    Who = Annotated[Caller, Depends(caller_of)]  # noqa: N806

    @routes.get("/me")
    def me(caller: Who) -> dict[str, str]:
        return {
            "organisation": caller.organisation,
            "kind": caller.kind,
            "role": caller.role,
            "person": caller.person,
        }

    @routes.post("/organisations", status_code=201)
    def add_organisation(caller: Who, new: accounts.NewOrganisation) -> dict[str, str]:
        from registry.mlflow_gate.schema import ensure_workspace

        accounts.add_organisation(facility.record, caller, new)
        if new.kind == "sme":
            ensure_workspace(facility.databases.mlflow, new.id)
        return {"id": new.id, "kind": new.kind, "name": new.name}

    @routes.post("/tokens", status_code=201)
    def add_token(caller: Who, new: accounts.NewToken) -> dict[str, str]:
        token = accounts.add_token(facility.record, caller, new, facility.root)
        return {
            "id": token.id,
            "token": token.secret,
            "organisation": new.organisation,
            "role": new.role,
            "person": new.person,
            "expires_at": token.expires_at.isoformat(),
        }

    return routes
