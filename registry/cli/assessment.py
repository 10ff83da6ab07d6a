"""`assess`: the validators alone, for anyone."""

from pathlib import Path
from typing import TYPE_CHECKING

from registry.cli.output import console, print_json
from registry.settings import read_settings
from registry.trust.errors import Invalid, Tampered

if TYPE_CHECKING:
    from validators.protocol.schema import Protocol


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

    rules = protocol_named(protocol)
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


def protocol_named(protocol: str) -> "Protocol":
    """The protocol in a file (as written, or as `protocol show` prints it), or the one that is
    locked on the server. Raises Tampered where it does not have the digest that it names."""
    from validators.contract.read import read_document
    from validators.protocol.read import parse_protocol, read_protocol

    path = Path(protocol)
    if path.exists():
        value = read_document(path)
        if not isinstance(value, dict) or "digest" not in value:
            return read_protocol(path)
    elif "/" in protocol or protocol.endswith((".yaml", ".yml", ".json")):
        raise Invalid(f"there is no protocol file {protocol}")
    else:
        from registry.cli.client import Client

        value = Client(read_settings()).get(f"/protocols/{protocol}")
    said = value.pop("digest")  # as `protocol show` prints it
    rules = parse_protocol(value)
    if rules.digest != said:
        raise Tampered(f"{protocol} is not the protocol whose digest it names")
    return rules


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
