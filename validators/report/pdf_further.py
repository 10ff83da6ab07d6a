"""The parts of the PDF between the whole cohort and its groups: what only some protocols ask for.

Hospitals, perturbed inputs, the certified version before, the declared development data.
"""

from collections.abc import Iterator

from validators.report.pdf_words import (
    Json,
    Released,
    interval_text,
    number_text,
    outcome_cells,
)
from validators.report.words import metric_in_words, perturbation_in_words, sentence


def further_parts(released: Released, decimals: int) -> Iterator[Json]:
    """A title, a note and a table each; a row without an outcome decides nothing."""
    if released["sites"]:
        yield {
            "title": "In another hospital",
            "note": "What another hospital like those in the cohort could expect.",
            "head": ["measure", "mean", "prediction interval", "floor", "outcome"],
            "rows": [
                {
                    "cells": [
                        sentence(metric_in_words(of["metric"])),
                        number_text(of["mean"], decimals),
                        interval_text(of["prediction"], decimals),
                        "–" if of["floor"] is None else f"{of['floor']:g}",
                    ],
                    **outcome_cells(of["outcome"]),
                }
                for of in released["sites"]
            ],
        }
    drops = [(run, drop) for run in released["robustness"] for drop in run["drops"]]
    if drops:
        yield {
            "title": "Under disturbance of the inputs",
            "note": "The drop is the value before less the value after.",
            "head": ["measure and disturbance", "drop", "interval", "most", "outcome"],
            "rows": [
                {
                    "cells": [
                        f"{sentence(metric_in_words(drop['metric']))} under "
                        f"{perturbation_in_words(run['perturbation'])}",
                        number_text(drop["drop"], decimals),
                        interval_text(drop["interval"], decimals),
                        f"{drop['maximum_drop']:g}",
                    ],
                    **outcome_cells(drop["outcome"]),
                }
                for run, drop in drops
            ],
        }
    if "predecessor" in released:
        yield _predecessor(released["predecessor"], decimals)
    if released["drift"]:
        yield {
            "title": "Against the declared development data",
            "note": "Whether the cohort differs from what the maker said of its own patients.",
            "head": ["attribute", "outcome"],
            "rows": [
                {
                    "cells": [str(of["attribute"]).replace("_", " ")],
                    "outcome": "shifted" if of["shifted"] else "no shift",
                    "kind": "open" if of["shifted"] else "plain",
                }
                for of in released["drift"]
            ],
        }


def _predecessor(found: Released, decimals: int) -> Json:
    """The certified version before; without rows where nothing was compared."""
    of = found["certified"]
    said = f"Version {of['version']} of the same model held the certificate {of['certificate']}."
    if found["not_compared"]:
        said += f" Nothing was compared: {found['not_compared']}."
    else:
        said += (
            " On the same cases, each version at its own threshold; the difference is the new "
            "version less the certified one."
        )
    changed = found["changed"]
    if changed is not None and changed["to_positive"] is not None:
        said += (
            f" {changed['to_positive']} cases changed from negative to positive, "
            f"{changed['to_negative']} from positive to negative."
        )
    return {
        "title": "Against the certified version",
        "note": f"{said} {found['statement']}",
        "head": ["measure", "certified", "new", "difference", "95 % interval"],
        "rows": [
            {
                "cells": [
                    sentence(metric_in_words(row["metric"])),
                    number_text(row["certified"], decimals),
                    number_text(row["new"], decimals),
                    number_text(row["difference"], decimals),
                    interval_text(row["interval"], decimals),
                ]
            }
            for row in found["endpoints"]
        ],
    }
