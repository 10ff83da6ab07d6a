"""False alarms of a watched pilot, and how soon a drop is found, by simulation.

    python -m bench.pilot                 # about two minutes on one core
    python -m bench.pilot --pilots 400

Every pilot is looked at after each patient until its end. `any` is the share of pilots in which
any question ever gave an alarm although each claim held: nominal .05 over the whole pilot, divided
among its five questions. The certified shares are those of a fresh cohort of 400 in each pilot, so
their own uncertainty is part of it. A star: above its limit by more than three standard errors.

Delay: positive patients until the alarm, its median and 90th percentile over pilots of 1,000
positives, beside log(5 / .05) / KL(p, m), the patients that Wald's test for that very alternative
would need on average (1945): no valid test for all alternatives is much quicker.
"""

import argparse
import math

import numpy as np
from rich.console import Console
from rich.table import Table

from serving.pilot.betting import log_wealth
from serving.pilot.certified import Certified, ReferenceSummary
from serving.pilot.sequential import ALPHA, watch
from tests.serving.pilot import made, simulated

QUESTIONS = 5


def certified(rng: np.random.Generator) -> Certified:
    """What is certified on a fresh cohort of 400 cases with the true shares."""
    summary = made.summary()
    summary["score"]["shares"] = [
        round(of / 400, 4) for of in rng.multinomial(400, made.SHARES).tolist()
    ]
    women = int(rng.binomial(400, 0.55))
    summary["attributes"] = {"sex": {"F": women / 400, "M": 1 - women / 400}}
    return Certified(
        certificate="sha256:" + "0" * 64, model="made", threshold=0.5, alpha=0.025, k=10,
        summary=ReferenceSummary.model_validate(summary),
    )  # fmt: skip


def false_alarms(pilots: int, console: Console) -> None:
    """Every claim holds: rates at their bounds, or scores as certified and calibrated."""
    table = Table(title=f"False alarms over the whole pilot, {pilots} pilots", box=None)
    for heading in ("condition", "patients", "any", "highest of one question"):
        table.add_column(heading)
    conditions = [
        (f"{each} cases a patient, rates at their bounds", patients, each, None)
        for patients in (250, 1000) for each in (1, 3)
    ] + [("scores as certified, calibrated", 1000, 1, 0.0)]  # fmt: skip
    for name, patients, each, off in conditions:
        rng = np.random.default_rng([6, patients, each])
        count: dict[str, int] = {}
        whole = 0
        for _ in range(pilots):
            of = certified(rng)
            seen = simulated.pilot(
                rng, patients, sensitivity=0.82, specificity=0.74, cases_each=each, off=off
            )
            # Where rates are at their bounds calibration follows from the made-up scores, and where
            # scores are as certified the rates do: then those are no claims that hold.
            held = {"score", "attribute sex"} | (
                {"sensitivity", "specificity"} if off is None else {"calibration"}
            )
            if off is None:
                held.discard("score")
            alarms = [found.name for found in watch(seen, of) if found.alarm and found.name in held]
            whole += bool(alarms)
            for one in alarms:
                count[one] = count.get(one, 0) + 1
        highest = max(count.items(), key=lambda of: of[1], default=("none", 0))
        table.add_row(
            name, str(patients), _share(whole, pilots, ALPHA),
            f"{_share(highest[1], pilots, ALPHA / QUESTIONS)} {highest[0]}",
        )  # fmt: skip
    console.print(table)


def delays(pilots: int, console: Console) -> None:
    """How many positive patients until the alarm, by the true sensitivity."""
    table = Table(title=f"Delay of an alarm on sensitivity, {pilots} pilots", box=None)
    for heading in ("bound", "true", "found in 1,000", "median", "90 %", "Wald's mean"):
        table.add_column(heading)
    limit = math.log(QUESTIONS / ALPHA)
    for bound, drop in ((0.82, 0.05), (0.82, 0.1), (0.82, 0.2), (0.9, 0.05), (0.9, 0.1)):
        rng = np.random.default_rng([7, int(100 * bound), int(100 * drop)])
        true = bound - drop
        until = []
        for _ in range(pilots):
            x = (rng.random(1000) < true).astype(float)
            path, _ = log_wealth(x[:, None], [bound])
            reached = np.flatnonzero(path >= limit)
            until.append(int(reached[0]) + 1 if len(reached) else 10**9)
        found = np.array(until)
        divergence = true * math.log(true / bound) + (1 - true) * math.log((1 - true) / (1 - bound))
        middle, late = (float(np.quantile(found, q, method="higher")) for q in (0.5, 0.9))
        table.add_row(
            f"{bound:g}", f"{true:.2f}", f"{(found <= 1000).mean():.2f}", _until(middle),
            _until(late), f"{limit / divergence:.0f}",
        )  # fmt: skip
    console.print(table)


def once(pilots: int, console: Console) -> None:
    """What looking every day does to a test that is made for one look: the reason for all this."""
    from scipy import special

    wrong = 0
    rng = np.random.default_rng(8)
    for _ in range(pilots):
        wrongs = np.cumsum(rng.random(400) >= 0.82)
        n = np.arange(1, 401)
        wrong += bool((special.bdtrc(wrongs - 1, n, 0.18)[19:] <= ALPHA).any())
    console.print(
        f"An exact binomial test at .05, repeated after each of 400 patients on the border: "
        f"{wrong / pilots:.3f} of pilots give a false alarm."
    )


def _share(count: int, of: int, nominal: float) -> str:
    rate = count / of
    over = rate > nominal + 3 * math.sqrt(nominal * (1 - nominal) / of)
    return f"{rate:.4f}{'*' if over else ''}"


def _until(patients: float) -> str:
    return "> 1000" if patients > 1000 else f"{patients:.0f}"


def main() -> None:
    """Print all three."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--pilots", type=int, default=1000)
    pilots = parser.parse_args().pilots
    console = Console(width=110)
    false_alarms(pilots, console)
    delays(pilots, console)
    once(pilots, console)


if __name__ == "__main__":
    main()
