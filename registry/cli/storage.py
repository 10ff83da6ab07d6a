"""`storage`: make the S3 buckets, and look whether anybody has meddled with them."""

from typing import Annotated

import typer

from registry.trust.errors import Invalid, Tampered

storage_app = typer.Typer(help="The S3 buckets, where they are used.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
_NONE = "objects lie in the data directory; set TOUCHSTONE_S3_ENDPOINT to keep them in S3"


@storage_app.command("prepare")
def prepare_buckets(json: Json = False) -> None:
    """Make both buckets, with versioning and Object Lock. Safe to repeat."""
    from registry.cli.output import show
    from registry.settings import read_settings
    from registry.storage.s3_check import prepare

    settings = read_settings().s3
    if settings is None:
        raise Invalid(_NONE)
    made = prepare(settings)
    names = [settings.objects.name, settings.artifacts.name]
    show(
        {"buckets": names, "made": made},
        json,
        "\n".join(f"{name}: {'made' if name in made else 'was there'}, locked" for name in names),
    )


@storage_app.command("check")
def check_buckets(json: Json = False) -> None:
    """Check locks and rights, and list what somebody wrote or deleted again."""
    from registry.cli.output import show
    from registry.settings import read_settings
    from registry.storage.s3_check import check

    settings = read_settings().s3
    if settings is None:
        raise Invalid(_NONE)
    findings = check(settings)
    lines = []
    for one in findings:
        lines.append(f"{one.bucket}: {one.fault or 'locked'}")
        lines += [f"  written or deleted again: {key}" for key in one.meddled]
    show(
        {
            "buckets": [
                {"bucket": one.bucket, "fault": one.fault, "meddled": list(one.meddled)}
                for one in findings
            ]
        },
        json,
        "\n".join(lines) or "this process has no credential for either bucket",
    )
    if any(one.fault or one.meddled for one in findings):
        raise Tampered(
            "the S3 buckets are not as they must be; what was written first is still read, "
            "but find out who has the credential"
        )
