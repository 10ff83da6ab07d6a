"""Who may do what: one table, deny by default.

    >>> require(caller, "submission.decide")

Rules
-----
1. What is not in the table is refused.
2. A role acts only in an organisation of the kind it belongs to.
3. `own` means: only on what belongs to the caller's organisation. The rooms ask `may_see_all`.
4. `admin` manages accounts, and can neither lock, review, sign nor read a report. `auditor` reads
   all and writes nothing.
5. One action a line, so that a change is a line in a review; tests/registry/policy.txt is the
   whole table, and each action is used by a room.
"""

from typing import Literal, get_args

from registry.identity.caller import Caller, Kind, Role
from registry.trust.errors import Refused

Reach = Literal["own", "all"]
Action = Literal[
    "agreement.move",
    "agreement.read",
    "audit.read",
    "certificate.resume",
    "certificate.revoke",
    "certificate.suspend",
    "certified.pull",
    "cohort.burn",
    "cohort.destroy_keys",
    "cohort.list",
    "cohort.lock",
    "cohort.read_life",
    "cohort.retire",
    "cohort.verify",
    "conditions.declare",
    "exposure.read",
    "key.enrol",
    "key.found",
    "key.list",
    "key.revoke",
    "login.confirm",
    "mlflow.use",
    "notice.read",
    "organisation.add",
    "person.add",
    "person.list",
    "pilot.agree",
    "pilot.read",
    "pilot.report",
    "protocol.lock",
    "protocol.read",
    "quota.read",
    "quota.set",
    "report.read_full",
    "report.read_released",
    "status.publish",
    "status.sign",
    "submission.add",
    "submission.cancel",
    "submission.decide",
    "submission.read",
    "submission.withdraw",
    "token.add",
    "token.list",
    "token.revoke",
    "witness.answer",
    "witness.read",
]

KIND_OF_ROLE: dict[Role, tuple[Kind, ...]] = {
    "innovator": ("sme",),
    "steward": ("facility",),
    "assessor": ("facility",),
    "clinician": ("hospital",),
    "auditor": ("facility",),
    "admin": ("facility",),
}

POLICY: dict[Role, dict[Action, Reach]] = {
    "innovator": {
        "token.list": "own",
        "token.revoke": "own",
        "cohort.list": "all",
        "protocol.read": "all",
        "submission.add": "own",
        "submission.read": "own",
        "report.read_released": "own",
        "submission.withdraw": "own",
        "notice.read": "own",
        "quota.read": "own",
        "mlflow.use": "own",
        "audit.read": "own",
    },
    "steward": {
        "login.confirm": "own",
        "token.list": "own",
        "token.revoke": "own",
        "cohort.burn": "all",
        "cohort.destroy_keys": "all",
        "cohort.lock": "all",
        "agreement.read": "all",
        "agreement.move": "all",
        "conditions.declare": "all",
        "exposure.read": "all",
        "cohort.list": "all",
        "cohort.read_life": "all",
        "cohort.retire": "all",
        "key.enrol": "all",
        "key.list": "all",
        "key.revoke": "all",
        "protocol.lock": "all",
        "protocol.read": "all",
        "submission.read": "all",
        "submission.cancel": "all",
        "status.publish": "all",
        "report.read_full": "all",
        "cohort.verify": "all",
        "certificate.suspend": "all",
        "pilot.read": "all",
        "notice.read": "all",
        "quota.read": "all",
        "witness.answer": "all",
        "witness.read": "all",
    },
    "assessor": {
        "login.confirm": "own",
        "token.list": "own",
        "token.revoke": "own",
        "agreement.read": "all",
        "exposure.read": "all",
        "cohort.burn": "all",
        "cohort.list": "all",
        "cohort.read_life": "all",
        "key.enrol": "all",
        "key.list": "all",
        "key.revoke": "all",
        "protocol.read": "all",
        "submission.read": "all",
        "report.read_full": "all",
        "submission.decide": "all",
        "status.publish": "all",
        "status.sign": "all",
        "cohort.verify": "all",
        "certificate.suspend": "all",
        "certificate.resume": "all",
        "certificate.revoke": "all",
        "pilot.agree": "all",
        "pilot.read": "all",
        "notice.read": "all",
        "quota.read": "all",
    },
    "clinician": {
        "token.list": "own",
        "token.revoke": "own",
        "protocol.read": "all",
        "certified.pull": "all",
        "pilot.read": "own",
        "pilot.report": "own",
        "notice.read": "own",
        "audit.read": "own",
    },
    "auditor": {
        "token.list": "all",
        "token.revoke": "own",
        "person.list": "all",
        "agreement.read": "all",
        "exposure.read": "all",
        "cohort.list": "all",
        "cohort.read_life": "all",
        "key.list": "all",
        "protocol.read": "all",
        "submission.read": "all",
        "report.read_full": "all",
        "pilot.read": "all",
        "notice.read": "all",
        "quota.read": "all",
        "audit.read": "all",
        "cohort.verify": "all",
        "witness.read": "all",
    },
    "admin": {
        "organisation.add": "all",
        "token.add": "all",
        "token.list": "all",
        "token.revoke": "all",
        "person.add": "all",
        "person.list": "all",
        "cohort.list": "all",
        "key.enrol": "all",
        "key.found": "all",
        "key.list": "all",
        "key.revoke": "all",
        "quota.read": "all",
        "quota.set": "all",
    },
}


def reach(caller: Caller, action: Action) -> Reach | None:
    """How far `caller` may go with `action`; None where not at all."""
    if caller.kind not in KIND_OF_ROLE[caller.role]:
        return None
    return POLICY[caller.role].get(action)


def require(caller: Caller, action: Action, *, owner: str | None = None) -> None:
    """Raise Refused unless the table allows it; `owner` is whose thing it is."""
    allowed = reach(caller, action)
    if allowed is None:
        able = ", ".join(role for role in POLICY if action in POLICY[role])
        raise Refused(f"the role {caller.role} may not do {action}; it takes: {able}")
    if allowed == "own" and owner is not None and owner != caller.organisation:
        raise Refused(f"{action} reaches only what belongs to {caller.organisation}")


def table() -> str:
    """The whole table as text: every role, action, and own or other organisation, one a line."""
    lines = []
    for action in sorted(get_args(Action)):
        for role in POLICY:
            allowed = POLICY[role].get(action)
            own = "yes" if allowed else "no"
            other = "yes" if allowed == "all" else "no"
            lines.append(f"{action:<22}{role:<11}own {own:<5}other {other}".rstrip())
    return "\n".join(lines) + "\n"
