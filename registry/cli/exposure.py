"""`attempts` and `cohort exposure`."""

from registry.cli.client import Client
from registry.cli.output import console, print_json
from registry.settings import read_settings


def attempts(protocol: str, as_json: bool) -> None:
    """What is left of one's own attempts and trials."""
    found = Client(read_settings()).get(f"/protocols/{protocol}/attempts")
    if as_json:
        print_json(found)
        return
    cohort, rest = found["cohort"], found["attempts"]
    lines = [
        f"{found['protocol']['id']} {found['protocol']['version']} on {cohort['id']} "
        f"{cohort['version']}",
        f"attempts {rest['left']} left of {rest['allowed']} ({rest['spent']} spent, "
        f"{rest['under_way']} under way)",
    ]
    if found["development"]:
        trials = found["development"]
        lines.append(f"trials   {trials['left']} left of {trials['allowed']} on {trials['cohort']}")
    lines.append(found["advice"])
    console.print("\n".join(lines), markup=False, soft_wrap=True)


def exposure(cohort: str, version: str | None, as_json: bool) -> None:
    """How far a cohort has been used."""
    query = {} if version is None else {"version": version}
    found = Client(read_settings()).get(f"/cohorts/{cohort}/exposure", **query)
    if as_json:
        print_json(found)
        return
    console.print(
        f"{found['cohort']} {found['version']}: {found['level'].upper()}\n"
        f"families      {found['families']} of {found['organisations']} organisations\n"
        f"attempts      {found['attempts']} ({found['returned']} more given back), "
        f"{found['passes']} passes\n"
        f"trials        {found['trials']}\n"
        f"false passes  {found['expected_false_passes']:.3f} expected at most\n"
        f"answers told  {found['bits']:.1f} bits; worth {found['cases_factor']:.2f} times the cases"
        f"\n{found['advice']}",
        markup=False, soft_wrap=True,
    )  # fmt: skip
