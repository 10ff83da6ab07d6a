"""The model label: one page for people, made of released numbers only."""

import datetime as dt
from collections.abc import Sequence
from typing import Any


def model_label(
    released: dict[str, Any],
    *,
    model: str,
    conditions: Sequence[str],
    not_after: dt.datetime,
    intended_use: dict[str, Any],
) -> str:
    """Markdown: what it is for, how well it did, for whom not enough is known, until when."""
    lines = [f"# {model}", "", "INVESTIGATIONAL: for a clinical pilot in shadow mode.", ""]
    lines += [f"Certificate ends on {not_after:%Y-%m-%d}.", "", "## Intended use", ""]
    lines += [f"- {key.replace('_', ' ')}: {value}" for key, value in intended_use.items() if value]
    lines += ["", "## Performance on the locked cohort", ""]
    lines += [_endpoint(row) for row in released.get("endpoints", [])]
    lines += ["", "## Groups", ""]
    lines += [_group(row) for row in released.get("subgroups", [])] or ["- none were asked for"]
    lines += ["", "## Conditions", ""]
    lines += [f"- {condition}" for condition in conditions] or ["- none"]
    lines += ["", "Standalone performance; no human-factors evidence.", ""]
    if released.get("attribution"):
        lines += [f"Data: {released['attribution']}", ""]
    return "\n".join(lines)


def _endpoint(row: dict[str, Any]) -> str:
    goal = f", goal {row['goal']}" if row.get("goal") is not None else ""
    return f"- {row['metric'].replace('_', ' ')}: {_number(row)}{goal}: {_said(row)}"


def _group(row: dict[str, Any]) -> str:
    return f"- {row['attribute']} = {row['group']}, {row['metric']}: {_number(row)}: {_said(row)}"


def _number(row: dict[str, Any]) -> str:
    if row.get("estimate") is None:
        return "withheld (too few cases)"
    interval = row.get("interval")
    if not interval:
        return str(row["estimate"])
    return f"{row['estimate']} ({interval['low']} to {interval['high']})"


def _said(row: dict[str, Any]) -> str:
    return str(row.get("outcome", "")).replace("_", " ")
