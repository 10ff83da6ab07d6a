"""`serve`, and `service update`, `rollback` and `show`: a hospital's server and its versions.

`attach` puts the commands on the application; what each needs is imported when it runs.
"""

import contextlib
import os
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from registry.cli.groups import Json, Root, State
from registry.cli.output import show

if TYPE_CHECKING:
    from registry.cli.hospital import Asked

AllowDemo = Annotated[
    bool, typer.Option(help="Take a root that a demo made for itself: not for patients.")
]
NoStatus = Annotated[
    bool,
    typer.Option("--no-status", help="Leave out, knowingly, whether it is still in force."),
]
GraceDays = Annotated[
    int,
    typer.Option(
        min=0,
        max=90,
        envvar="TOUCHSTONE_GRACE_DAYS",
        help="Days that you go on with a status that was not renewed.",
    ),
]
WitnessKeys = Annotated[
    list[str] | None,
    typer.Option(
        "--witness", help="Key of a witness of the log that you believe (NAME+ID+KEY); repeat."
    ),
]
WitnessesNeeded = Annotated[
    int | None,
    typer.Option("--witnesses", help="How many of them must have seen it; all, if left out."),
]
Folder = Annotated[Path, typer.Argument(help="Service folder; made where there is none.")]
service_app = typer.Typer(
    help="A service folder: which certified version a hospital's server answers with.",
    no_args_is_help=True,
)


class PilotMode(StrEnum):
    """What answers may be used for."""

    shadow = "shadow"
    assistive = "assistive"


def attach(app: typer.Typer) -> None:
    """Add `serve` and the group `service` to `app`."""
    app.command()(serve)
    app.add_typer(service_app, name="service")


def serve(
    directory: Annotated[Path, typer.Argument(help="Folder that `pull` made, or service folder.")],
    root: Root = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8500,
    socket: Annotated[
        Path | None, typer.Option(help="Unix socket, in place of address and port.")
    ] = None,
    token: Annotated[
        Path | None, typer.Option(help="File with the token that callers must send.")
    ] = None,
    mode: Annotated[
        PilotMode, typer.Option(help="`assistive` only where the certificate allows it.")
    ] = PilotMode.shadow,
    pilot: Annotated[
        bool,
        typer.Option(help="Keep a pseudonymised log of predictions; needs the extra `monitor`."),
    ] = False,
    state: State = None,
    witness: WitnessKeys = None,
    witnesses: WitnessesNeeded = None,
    allow_demo: AllowDemo = False,
    no_status: NoStatus = False,
    grace_days: GraceDays = 0,
    status_from: Annotated[
        str | None,
        typer.Option(
            envvar="TOUCHSTONE_STATUS_FROM",
            help="Web address or folder to fetch the status from before each look.",
        ),
    ] = None,
    every: Annotated[
        float, typer.Option(min=1.0, help="Seconds between two looks at your copy of the status.")
    ] = 900.0,
    json: Json = False,
) -> None:
    """Verify a bundle, then serve it; Ctrl-C stops it.

    A model that the facility suspended or revoked stops answering, as soon as your copy of the
    status says so: keep it fresh by --status-from, or by `touchstone status fetch`.
    """
    from functools import partial

    from registry.cli.hospital import Asked, pinned_root
    from registry.cli.pilot import pilot_log
    from registry.trust.keys import load_certificate
    from serving.server import Settings
    from serving.server import serve as run

    settings = Settings(
        host=host,
        port=port,
        socket=socket,
        token=token,
        mode=mode.value,
        every=every,
        collector=os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"),
    )
    asked = Asked(
        state,
        allow_demo,
        witnesses=witness,
        witnesses_needed=witnesses,
        no_status=no_status,
        grace_days=grace_days,
        status_from=status_from,
    )
    pinned = load_certificate(pinned_root(root))
    with pilot_log(state) if pilot else contextlib.nullcontext() as log:
        run(
            directory,
            pinned,
            settings,
            policy_of=partial(asked.policy, pinned),
            standing_of=asked.standing_of(pinned),
            remember=asked.remember_of(pinned),
            on_prediction=None if log is None else log.record,
        )
    show({"stopped": True}, json, "stopped")


@service_app.command()
def update(
    service: Folder,
    bundle: Annotated[Path, typer.Argument(help="Folder that `pull` made.")],
    root: Root = None,
    state: State = None,
    witness: WitnessKeys = None,
    witnesses: WitnessesNeeded = None,
    allow_demo: AllowDemo = False,
    no_status: NoStatus = False,
    grace_days: GraceDays = 0,
    json: Json = False,
) -> None:
    """Verify another version and switch to it, without a refused request where one runs."""
    from registry.cli.hospital import Asked

    order = {"do": "update", "directory": str(bundle.resolve())}
    asked = Asked(
        state,
        allow_demo,
        witnesses=witness,
        witnesses_needed=witnesses,
        no_status=no_status,
        grace_days=grace_days,
    )
    _ordered(service, order, root, asked, json, "answers now")


@service_app.command()
def rollback(
    service: Folder,
    root: Root = None,
    state: State = None,
    witness: WitnessKeys = None,
    witnesses: WitnessesNeeded = None,
    allow_demo: AllowDemo = False,
    no_status: NoStatus = False,
    grace_days: GraceDays = 0,
    json: Json = False,
) -> None:
    """Go back to the version before, verified anew."""
    from registry.cli.hospital import Asked

    asked = Asked(
        state,
        allow_demo,
        witnesses=witness,
        witnesses_needed=witnesses,
        no_status=no_status,
        grace_days=grace_days,
    )
    _ordered(service, {"do": "rollback"}, root, asked, json, "answers again")


@service_app.command("show")
def show_service(service: Folder, json: Json = False) -> None:
    """The versions of a service folder, the one that answers first."""
    from serving.hospital.service import Service

    versions = Service(service).versions()
    lines = [f"{v.title}  {v.certificate}  {v.directory}" for v in versions]
    show({"versions": [asdict(version) for version in versions]}, json, "\n".join(lines))


def _ordered(
    folder: Path,
    order: dict[str, Any],
    root: Path | None,
    asked: "Asked",
    json: bool,
    outcome: str,
) -> None:
    from serving.hospital.control import order as ordered
    from serving.hospital.service import Service
    from serving.listening import to_stderr

    service = Service(folder)
    version = ordered(service, order, to_stderr)
    running = version is not None
    if version is None:
        version = _offline(service, order, root, asked)
    said = outcome if running else "will answer when the service folder is served"
    show(asdict(version) | {"running": running}, json, f"{version.title} {said}")


def _offline(service: Any, order: dict[str, Any], root: Path | None, asked: "Asked") -> Any:
    """Carried out here, where no server runs: verified and replayed all the same."""
    from functools import partial

    from registry.cli.hospital import pinned_root
    from registry.trust.keys import load_certificate
    from serving.listening import prepare, to_stderr
    from serving.server import Deployer, Settings, now

    pinned = load_certificate(pinned_root(root))
    deploy = Deployer(
        pinned,
        Settings(),
        asked.standing_of(pinned),
        now,
        partial(asked.policy, pinned),
        asked.remember_of(pinned),
    )
    prepare()
    with service.held(made=order["do"] == "update"):
        if order["do"] == "update":
            return service.update(Path(order["directory"]), deploy, None, to_stderr)
        return service.roll_back(deploy, None, to_stderr)
