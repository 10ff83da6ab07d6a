"""`cohort sign`, `retire`, `burn` and `keep`. As in `groups`, bodies import late."""

from typing import Annotated

import typer

from registry.cli.groups import Json, cohort_app

__all__ = ["cohort_app"]
Why = Annotated[str, typer.Option("--reason", help="Why; it is kept in the log.")]


@cohort_app.command("sign")
def cohort_sign(
    id: Annotated[str, typer.Argument(help="Name of the cohort.")],  # noqa: A002
    key: Annotated[str, typer.Option(help="Your key: a file, or pkcs11:… for a card.")],
    version: Annotated[str | None, typer.Option(help="Version; the latest if left out.")] = None,
    json: Json = False,
) -> None:
    """Sign a sealed cohort's lock with your key (stewards; two lock it)."""
    from registry.cli import cohort_life

    cohort_life.sign(id, version, key, json)


@cohort_app.command("retire")
def cohort_retire(
    id: Annotated[str, typer.Argument(help="Name of the cohort.")],  # noqa: A002
    reason: Why,
    version: Annotated[str | None, typer.Option(help="Version; the latest if left out.")] = None,
    json: Json = False,
) -> None:
    """Take no new submission or protocol on a cohort any more (stewards)."""
    from registry.cli import cohort_life

    cohort_life.act(id, version, "retire", reason, None, json)


@cohort_app.command("burn")
def cohort_burn(
    id: Annotated[str, typer.Argument(help="Name of the cohort.")],  # noqa: A002
    reason: Why,
    version: Annotated[str | None, typer.Option(help="Version; the latest if left out.")] = None,
    json: Json = False,
) -> None:
    """Say that something of a cohort was disclosed: nothing of it is opened any more."""
    from registry.cli import cohort_life

    cohort_life.act(id, version, "burn", reason, None, json)


@cohort_app.command("keep")
def cohort_keep(
    id: Annotated[str, typer.Argument(help="Name of the cohort.")],  # noqa: A002
    until: Annotated[str, typer.Option(help="A later day than the one it is kept until.")],
    reason: Why = "kept longer",
    version: Annotated[str | None, typer.Option(help="Version; the latest if left out.")] = None,
    json: Json = False,
) -> None:
    """Have the store keep a cohort from everybody until a later day (stewards)."""
    from registry.cli import cohort_life

    cohort_life.act(id, version, "keep", reason, until, json)
