"""Two steps of `verify` that need no file: the verdict computed again, and the use acknowledged.

Rules
-----
1. The verdict follows from the certificate's own rules and numbers.
2. An intended use is acknowledged by a person by name, once for all versions that share it:
   purpose, population, setting, limits, pilot mode, conditions, what a pilot needs. A change asks
   anew.
"""

from typing import Literal

from registry.trust.certificate import Predicate, check_verdict
from registry.trust.errors import Refused
from serving.bundle.policy import Policy

Found = tuple[Literal["ok", "warning"], str]


def verdict_again(predicate: Predicate) -> Found:
    """What the verdict is, computed here. Raises Tampered (verdict_disagrees)."""
    found = check_verdict(predicate)
    text = (
        f"{found.overall} by {found.by_numbers + found.by_word} gating rules, computed here again "
        f"from the numbers of {found.by_numbers}"
    )
    if found.by_word:
        text += f"; the numbers of {found.by_word} are withheld, and the signers answer for them"
    return ("ok" if found.by_numbers else "warning"), text


def acknowledged_use(predicate: Predicate, policy: Policy) -> Found:
    """Who acknowledged which use; Refused (not_acknowledged), saying what there is to read."""
    use = predicate.intended_use
    parts = [use.purpose, use.population, use.setting]
    parts += [f"limits: {use.limits}"] if use.limits else []
    parts += [f"in {predicate.pilot_mode} mode", *predicate.conditions]
    parts += predicate.regulatory_references
    said = "; ".join(part.strip().rstrip(".") for part in parts if part.strip())
    who = policy.acknowledged.get(predicate.use) or policy.acknowledging
    if who is None:
        raise Refused(
            f"nobody here has acknowledged the intended use ({said}): read it and the label, then "
            "verify again with --acknowledge and your name",
            code="not_acknowledged",
        )
    return "ok", f"acknowledged by {who}: {said}"
