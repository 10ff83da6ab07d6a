"""The catalogue's entry of a cohort, as page, JSON or RDF.

>>> app.include_router(router(facility, caller_of))
"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Response

from registry.api.exposure import CohortName, CohortVersion
from registry.facility import Facility
from registry.identity.caller import Caller
from registry.submissions import catalogue
from registry.submissions.catalogue import MEDIA_TYPES, Format

_EXAMPLE = {
    "schema_id": "touchstone/catalogue/v1", "id": "lidc-nodules", "version": "1",
    "minimum_group": 10, "cases": {"count": 889, "about": None},
    "attributes": {"sex": {"female": {"positives": 120, "negatives": 300, "cases": 420}}},
}  # fmt: skip
_FORMS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "In the form that was asked for.",
        "content": {
            "application/json": {"schema": {"type": "object"}, "example": _EXAMPLE},
            "text/html": {"schema": {"type": "string"}, "example": "<!doctype html>…"},
            "text/turtle": {"schema": {"type": "string"}, "example": "@prefix dcat: …"},
            "application/ld+json": {"schema": {"type": "object"}, "example": {"@graph": []}},
        },
    }
}


def chosen(accept: str) -> Format:
    """The best of our forms by an Accept header; JSON where none is named."""
    best: tuple[float, Format] = (0.0, "json")
    for part in accept.split(","):
        media, *parameters = (piece.strip().lower() for piece in part.split(";"))
        weight = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        form = next((f for f, known in MEDIA_TYPES.items() if known == media), None)
        try:
            quality = float(weight)
        except ValueError:
            continue
        if form is not None and best[0] < quality <= 1.0:
            best = (quality, form)
    return best[1]


def router(facility: Facility, caller_of: Any) -> APIRouter:
    """`/cohorts/{cohort}/catalogue`."""
    routes = APIRouter(prefix="/api/v1", tags=["cohorts"])
    Who = Annotated[Caller, Depends(caller_of)]  # noqa: N806

    @routes.get(
        "/cohorts/{cohort}/catalogue", summary="Read a cohort's catalogue entry", responses=_FORMS,
        response_class=Response, operation_id="read_catalogue",
    )  # fmt: skip
    def read(
        caller: Who,
        cohort: CohortName,
        version: CohortVersion = None,
        form: Annotated[
            Format | None,
            Query(alias="format", description="In place of the Accept header.", examples=["json"]),
        ] = None,
        accept: Annotated[str, Header(description="The media type that you want.")] = "",
    ) -> Response:
        """What may be known without seeing it: counts with small ones withheld, conditions of use.

        JSON, a page, or EUCAIM DCAT-AP v2.0 as Turtle or JSON-LD. RDF is refused
        (`catalogue_incomplete`) until the facility has named publisher, contact and Health Data
        Access Body.
        """
        found = catalogue.catalogue(facility, caller, cohort, form or chosen(accept), version)
        return Response(found.data, media_type=found.media_type, headers={"Vary": "Accept"})

    return routes
