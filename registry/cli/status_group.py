"""The command group `status`. As in `main`, bodies import late.

`touchstone status` and `touchstone status ID`, which name none of its commands, show how far
submissions have come.
"""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from registry.cli.groups import Json, Root, State

_SUBMISSIONS = "submissions"


class _Group(TyperGroup):
    """What is no command of the group is a submission."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = [_SUBMISSIONS, *args]
        return super().parse_args(ctx, args)


status_app = typer.Typer(
    help="How far submissions have come (`status`, `status ID`), and the status that hospitals "
    "fetch: which certificates are in force.",
    cls=_Group,
)
Holders = Annotated[
    list[Path] | None,
    typer.Option(help="Certificate of a holder of the status' root; once for each, two or more."),
]
Assessors = Annotated[
    list[Path] | None,
    typer.Option(help="Certificate of an assessor; once for each, two or more."),
]
Machine = Annotated[
    Path | None,
    typer.Option(help="status.pub of the server; the one in the data directory if left out."),
]


@status_app.command(_SUBMISSIONS)
def status_submissions(
    id: Annotated[str | None, typer.Argument(help="Submission; all if left out.")] = None,  # noqa: A002
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow it until only people can take it on.")
    ] = False,
    json: Json = False,
) -> None:
    """Show how far submissions have come; the name may be left out."""
    from registry.cli import submissions

    submissions.status(id, watch, json)


@status_app.command("init")
def status_init(
    out: Annotated[Path, typer.Option(help="Folder to write the first root to.")],
    holder: Holders = None,
    assessor: Assessors = None,
    machine: Machine = None,
    root: Annotated[
        str | None, typer.Option(help="The root's key; the one in your key folder if left out.")
    ] = None,
    json: Json = False,
) -> None:
    """Make the status' first root, signed by the facility's root key: offline, once."""
    from registry.cli import status

    status.init(out, holder or [], assessor or [], machine, root, json)


@status_app.command("rotate")
def status_rotate(
    folder: Annotated[Path, typer.Argument(help="Folder with every root so far (`export`).")],
    holder: Holders = None,
    assessor: Assessors = None,
    machine: Machine = None,
    json: Json = False,
) -> None:
    """Make the next root, with other people or another machine key; who is not named stays."""
    from registry.cli import status

    status.rotate(folder, holder, assessor, machine, json)


@status_app.command("sign")
def status_sign(
    key: Annotated[str, typer.Option(help="Your key file, or pkcs11:… for a key in a token.")],
    folder: Annotated[
        Path | None,
        typer.Argument(help="Folder with a new root, to sign that (its holders); left out: the "
                       "list of certificates in force, from the server (assessors)."),
    ] = None,
    root: Root = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Sign, on this machine, the list of certificates in force, or a new root."""
    from registry.cli import status

    if folder is not None:
        status.sign_root(folder, key, json)
    else:
        status.sign_list(key, root, json)


@status_app.command("publish")
def status_publish(
    folder: Annotated[Path, typer.Argument(help="Folder with every root, signed.")],
    json: Json = False,
) -> None:
    """Hand new roots to the server (stewards, assessors)."""
    from registry.cli import status

    status.publish(folder, json)


@status_app.command("export")
def status_export(
    to: Annotated[Path, typer.Option(help="Folder to write to, such as one on a stick.")],
    json: Json = False,
) -> None:
    """Write the present status as plain files: for a stick, or any web server."""
    from registry.cli import status

    status.export(to, json)


@status_app.command("fetch")
def status_fetch(
    source: Annotated[
        str | None,
        typer.Option("--from", help="A folder or web address; the registry's if left out."),
    ] = None,
    root: Root = None,
    state: State = None,
    json: Json = False,
) -> None:
    """Bring your copy of the status up to date, checked; whole, or as it was (hospitals)."""
    from registry.cli import status

    status.fetch(state, source, root, json)


@status_app.command("show")
def status_show(
    root: Root = None,
    state: State = None,
    json: Json = False,
) -> None:
    """Show what your copy of the status says, and until when (hospitals). Needs no network."""
    from registry.cli import status

    status.show_copy(state, root, json)
