"""`protocol power`: how many cases the goals need."""

from pathlib import Path

from registry.cli.output import console, print_json, show_table
from registry.trust.errors import Invalid


def protocol_power(
    file: Path, expect: list[str], power: float, design_effect: float, as_json: bool
) -> None:
    """Say what a protocol file needs. Reads nothing but that file."""
    from validators.protocol.planning import plan, unplanned
    from validators.protocol.read import read_protocol

    protocol = read_protocol(file)
    needs = plan(protocol, _expected(expect), power=power, design_effect=design_effect)
    left = unplanned(protocol)
    rows = [
        {
            "question": need.question,
            "expected": need.expected,
            "count": need.count,
            "of": need.of,
            "simulated_power": round(need.simulated_power, 3),
        }
        for need in needs
    ]
    if as_json:
        print_json({"power": power, "design_effect": design_effect, "needs": rows,
                    "not_planned": list(left)})  # fmt: skip
        return
    columns = {"question": "question", "expected": "true value", "count": "needed", "of": "of",
               "simulated_power": "passes in simulation"}  # fmt: skip
    show_table(rows, columns, f"cases for a power of {power:g}, each question alone")
    if left:
        console.print(f"not planned, simulate from development data: {'; '.join(left)}",
                      markup=False)  # fmt: skip


def _expected(pairs: list[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            equals = ""
        if not equals or not 0 < found.get(name, 0) <= 1:
            raise Invalid(f"--expect takes METRIC=VALUE, such as sensitivity=0.9; got {pair!r}")
    return found
