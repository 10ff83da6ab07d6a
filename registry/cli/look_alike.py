"""`cohort dummy` and `try`: a made-up cohort, and a model run on it, on one's own machine."""

from pathlib import Path

from registry.cli.assessment import protocol_named
from registry.cli.output import console, print_json, progress_bar, show
from registry.trust.errors import Invalid


def dummy(
    protocol: str, out: Path, cases: int | None, seed: str, groups: list[str], as_json: bool
) -> None:
    """Make a look-alike cohort in a folder."""
    from validators.cohort.look_alike import make_look_alike
    from validators.cohort.look_alike_folder import write_look_alike

    rules = protocol_named(protocol)
    cohort = make_look_alike(rules, cases=cases, seed=seed, groups=_groups(groups))
    meta = write_look_alike(cohort, out, rules)
    show(
        {"folder": str(out)} | meta,
        as_json,
        f"{out}: {meta['cases']} made-up cases, {meta['positives']} positive\n{meta['note']}\n"
        f"Next: touchstone try MODEL --protocol {protocol} --cases {out}",
    )


def try_model(
    model: Path, protocol: str, folder: Path | None, number: int | None, seed: str,
    out: Path, as_json: bool,
) -> bool:  # fmt: skip
    """Run a model on a look-alike cohort; returns whether the facility would come to a verdict."""
    from registry.pipeline.rehearsal import rehearse
    from validators.cohort.look_alike import LookAlike, make_look_alike
    from validators.cohort.look_alike_folder import open_look_alike

    rules = protocol_named(protocol)
    cohort: LookAlike
    if folder is None or rules.contract is None:
        cohort = make_look_alike(rules, cases=number, seed=seed)
    else:
        cohort = open_look_alike(folder, rules.contract)
    with progress_bar(f"trying {model.name}", as_json) as advance:
        found = rehearse(model, rules, cohort, out, advance)
    if as_json:
        print_json(found.as_json())
        return found.would_run
    for line in _lines(found):
        console.print(line, markup=False, soft_wrap=True)
    return found.would_run


def _lines(found: object) -> list[str]:
    from registry.pipeline.rehearsal import Rehearsal

    assert isinstance(found, Rehearsal)
    lines = [found.note, ""]
    if found.model:
        lines.append(f"model    {found.model}")
    if found.sandbox:
        level = ", ".join(f"{name} {value}" for name, value in found.sandbox.items())
        lines.append(f"sandbox  {level}")
    lines += [f"warning  {text}" for text in found.warnings]
    for stage in found.stages:
        code = f" ({stage.code})" if stage.code else ""
        lines.append(f"{stage.name:8} {stage.outcome}{code}: {stage.message}")
    if found.seconds_a_case is not None:
        lines.append(f"time     {1000 * found.seconds_a_case:.2f} ms a case, "
                     f"{found.restarts} restarts")  # fmt: skip
    for drop in found.drops[:1]:
        lines.append(f"drop     the largest: {drop['metric']} from {drop['clean']:.3f} to "
                     f"{drop['changed']:.3f} under {drop['perturbation']}; at most "
                     f"{drop['maximum_drop']:g} is asked for (made up)")  # fmt: skip
    for code, times in found.failed_by_code.items():
        lines.append(f"failed   {times} cases: {code}")
    lines += [f"         {one['case']}: {one['code']}" for one in found.failed_cases]
    for reason in found.reasons:
        lines.append(f"log      {reason['times']} x {reason['code']}: "
                     f"{reason['text'] or 'no further words'}")  # fmt: skip
    for rule in found.rules:
        lines.append(f"made up  {rule['outcome'].replace('_', ' ')}: {rule['id']}: "
                     f"{rule['reason']}")  # fmt: skip
    if found.verdict:
        lines += ["", f"verdict on made-up data: {found.verdict.replace('_', ' ')}", found.note]
    lines += found.files
    answer = "come to a verdict" if found.would_run else "NOT come to a verdict"
    lines += ["", f"On its locked cohort the facility would {answer} with this file, as far as "
              "made-up cases can tell."]  # fmt: skip
    return lines


def _groups(pairs: list[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for pair in pairs:
        name, equals, values = pair.partition("=")
        if not equals or not name or not values or name in groups:
            raise Invalid(f"--group takes ATTRIBUTE=GROUP,GROUP once each; got {pair!r}")
        groups[name] = [value.strip() for value in values.split(",")]
    return groups
