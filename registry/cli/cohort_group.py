"""`cohort sign`, `retire`, `burn`, `keep`, `rewrap`, `erase` and `destroy-keys`.

As in `groups`, bodies import late.
"""

from pathlib import Path
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


@cohort_app.command("rewrap")
def cohort_rewrap(
    id: Annotated[str, typer.Argument(help="Name of the cohort.")],  # noqa: A002
    version: Annotated[str, typer.Argument(help="Its version.")],
    to_file: Annotated[bool, typer.Option("--to-file", help="Back to the key file.")] = False,
    json: Json = False,
) -> None:
    """Wrap a cohort's data keys by a KMS or a token (on the facility's machine)."""
    from registry.cli import cohort_keys

    cohort_keys.rewrap(id, version, to_file, json)


@cohort_app.command("erase")
def cohort_erase(
    id: Annotated[str, typer.Argument(help="Name of the cohort.")],  # noqa: A002
    patients: Annotated[Path, typer.Option(help="File: one id of the source a line.")],
    new_version: Annotated[str, typer.Option(help="Version without them.")],
    reason: Why = "patients were erased",
    version: Annotated[str | None, typer.Option(help="Version; the latest if left out.")] = None,
    json: Json = False,
) -> None:
    """Seal a new version without some patients, and retire the old one (stewards)."""
    from registry.cli import cohort_keys

    cohort_keys.erase_patients(id, version, patients, new_version, reason, json)


@cohort_app.command("destroy-keys")
def cohort_destroy_keys(
    id: Annotated[str, typer.Argument(help="Name of the cohort.")],  # noqa: A002
    version: Annotated[str, typer.Argument(help="Its version.")],
    reason: Why,
    json: Json = False,
) -> None:
    """Destroy the keys of a retired version that no certificate rests on (stewards)."""
    from registry.cli import cohort_keys

    cohort_keys.destroy(id, version, reason, json)
