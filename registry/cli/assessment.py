"""`assess`: the validators alone, for anyone."""

from pathlib import Path

from registry.cli.output import console, print_json
from registry.settings import read_settings
from registry.trust.errors import Invalid


def assess(
    table: Path,
    protocol: str,
    out: Path,
    columns: list[str],
    as_json: bool,
    *,
    declaration: Path | None = None,
) -> None:
    """Score a table against a protocol file, or against one that is locked on the server."""
    from validators.assess import assess as score
    from validators.declaration import read_declaration
    from validators.protocol.read import parse_protocol, read_protocol

    if Path(protocol).exists():
        rules = read_protocol(Path(protocol))
    elif "/" in protocol or protocol.endswith((".yaml", ".yml", ".json")):
        raise Invalid(f"there is no protocol file {protocol}")
    else:
        from registry.cli.client import Client

        value = Client(read_settings()).get(f"/protocols/{protocol}")
        value.pop("digest")
        rules = parse_protocol(value)
    declared = None if declaration is None else read_declaration(declaration)
    report = score(table, rules, out, _mapping(columns), declared)
    if as_json:
        print_json(
            {
                "verdict": report.verdict.overall,
                "reason": report.verdict.reason,
                "rules": [rule.model_dump(mode="json") for rule in report.verdict.rules],
                "files": [str(out / "report.json"), str(out / "report.html")],
            }
        )
        return
    for rule in report.verdict.rules:
        mark = rule.outcome.replace("_", " ")
        console.print(f"{mark:22} {rule.id}: {rule.reason}", markup=False)
    console.print(f"verdict: {report.verdict.overall.replace('_', ' ')}\n{out / 'report.html'}",
                  markup=False)  # fmt: skip


def _mapping(columns: list[str]) -> dict[str, str]:
    mapping: dict[str, str] = {}
    for pair in columns:
        name, equals, column = pair.partition("=")
        if not equals or not name or not column:
            raise Invalid(f"--column takes NAME=COLUMN, such as score=adae_score; got {pair!r}")
        if name in mapping:
            raise Invalid(f"--column names {name} twice")
        mapping[name] = column
    return mapping
