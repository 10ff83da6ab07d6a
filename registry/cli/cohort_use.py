"""Using cohorts that nobody sees: `try`, `attempts`, and
`cohort dummy | exposure | conditions | agreement | catalogue`.

`attach` puts the commands on the application; what each needs is imported when it runs.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from registry.cli.groups import Json, cohort_app

Protocol = Annotated[str, typer.Option(help="A protocol file, or the id of a locked one.")]
Version = Annotated[str | None, typer.Option(help="Version; the latest if left out.")]
Cohort = Annotated[str, typer.Argument(help="Name of the cohort.")]

agreement_app = typer.Typer(help="Agreements on the use of a cohort.", no_args_is_help=True)


class Form(StrEnum):
    """Forms of a catalogue's entry."""

    html = "html"
    json = "json"
    turtle = "turtle"
    jsonld = "jsonld"


def attach(app: typer.Typer) -> None:
    """Add the commands to `app` and to its group `cohort`."""
    app.command("try")(try_model)
    app.command("attempts")(attempts)
    cohort_app.command("dummy")(dummy)
    cohort_app.command("exposure")(exposure)
    cohort_app.command("conditions")(conditions)
    cohort_app.command("catalogue")(catalogue)
    cohort_app.add_typer(agreement_app, name="agreement")


def try_model(
    model: Annotated[Path, typer.Argument(help="A model directory of MLflow, or one .onnx file.")],
    protocol: Protocol,
    cases: Annotated[
        Path | None, typer.Option(help="Folder that `cohort dummy` made; made now if left out.")
    ] = None,
    number: Annotated[int | None, typer.Option(help="How many cases, where made now.")] = None,
    seed: Annotated[str, typer.Option(help="Of the cases, where made now.")] = "1",
    out: Annotated[Path, typer.Option(help="Folder for what comes out.")] = Path("try-out"),
    json: Json = False,
) -> None:
    """Run a model on made-up cases as the facility would, and show all it says. Needs no server."""
    from registry.cli import look_alike

    if not look_alike.try_model(model, protocol, cases, number, seed, out, json):
        raise typer.Exit(1)


def dummy(
    protocol: Annotated[str, typer.Argument(help="A protocol file, or the id of a locked one.")],
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    cases: Annotated[
        int | None, typer.Option(help="How many; as many as the protocol needs if left out.")
    ] = None,
    seed: Annotated[str, typer.Option(help="The same seed gives the same cohort.")] = "1",
    group: Annotated[
        list[str] | None, typer.Option(help="ATTRIBUTE=GROUP,GROUP: names of its groups.")
    ] = None,
    json: Json = False,
) -> None:
    """Make a public look-alike of a protocol's cohort. All made up; needs no server."""
    from registry.cli import look_alike

    look_alike.dummy(protocol, out, cases, seed, group or [], json)


def attempts(
    protocol: Annotated[str, typer.Option(help="Id or digest of a locked protocol.")],
    json: Json = False,
) -> None:
    """Show how many attempts your models have left, before you submit (innovators)."""
    from registry.cli import exposure as command

    command.attempts(protocol, json)


def exposure(id: Cohort, version: Version = None, json: Json = False) -> None:  # noqa: A002
    """Show how much a locked cohort has been used, and whether to rotate it (stewards)."""
    from registry.cli import exposure as command

    command.exposure(id, version, json)


def conditions(
    id: Cohort,  # noqa: A002
    code: Annotated[
        list[str] | None,
        typer.Option(help="DUO code, such as DUO:0000007; one permission, any modifiers."),
    ] = None,
    none: Annotated[
        bool, typer.Option("--none", help="Say that there are no conditions (DUO:0000004).")
    ] = False,
    confirm: Annotated[
        bool, typer.Option("--confirm", help="Say, as another steward, that there are none.")
    ] = False,
    words: Annotated[str, typer.Option(help="What the codes mean here.")] = "",
    until: Annotated[str | None, typer.Option(help="Last day, such as 2030-12-31.")] = None,
    version: Version = None,
    json: Json = False,
) -> None:
    """Show what a cohort may be used for; with --code or --none, declare it (stewards).

    "No conditions" counts once another steward has confirmed it (--confirm).
    """
    from registry.cli import use

    use.conditions(id, version, code or [], words, until, none, confirm, json)


def catalogue(
    id: Cohort,  # noqa: A002
    format: Annotated[Form, typer.Option(help="RDF is EUCAIM DCAT-AP v2.0.")] = Form.json,  # noqa: A002
    out: Annotated[Path | None, typer.Option(help="File to write; stdout if left out.")] = None,
    version: Version = None,
    json: Json = False,
) -> None:
    """Show what may be known of a cohort without seeing it; small counts are withheld."""
    from registry.cli import catalogue as command

    command.catalogue(id, version, "json" if json else format.value, out)


@agreement_app.command("add")
def agreement_add(
    cohort: Annotated[str, typer.Argument(help="Name of the cohort.")],
    protocol: Annotated[str, typer.Option(help="Id of the protocol that is to use it.")],
    purpose: Annotated[str, typer.Option(help="What for, in one line.")],
    valid_from: Annotated[str, typer.Option("--from", help="First day, such as 2026-12-01.")],
    valid_until: Annotated[str, typer.Option("--until", help="Last day.")],
    reference: Annotated[str, typer.Option(help="What the Negotiator calls it.")] = "",
    version: Version = None,
    json: Json = False,
) -> None:
    """Ask for the use of a cohort; it begins under review (stewards)."""
    from registry.cli import use

    body = {"protocol": protocol, "purpose": purpose, "valid_from": valid_from,
            "valid_until": valid_until, "reference": reference, "version": version}  # fmt: skip
    use.ask(cohort, body, json)


@agreement_app.command("move")
def agreement_move(
    id: Annotated[str, typer.Argument(help="Agreement.")],  # noqa: A002
    to: Annotated[str, typer.Option(help="State, such as approved or resource-made-available.")],
    json: Json = False,
) -> None:
    """Move an agreement to the next state (stewards)."""
    from registry.cli import use

    use.move(id, to, json)


@agreement_app.command("list")
def agreement_list(
    cohort: Annotated[str, typer.Argument(help="Name of the cohort.")],
    version: Version = None,
    json: Json = False,
) -> None:
    """List the agreements on a cohort."""
    from registry.cli import use

    use.listed(cohort, version, json)
