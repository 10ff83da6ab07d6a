"""Who may do what: one table, deny by default.

    >>> require(caller, "submission.decide")

Rules
-----
1. What is not in the table is refused.
2. A role acts only in an organisation of the kind it belongs to.
3. `own` means: only on what belongs to the caller's organisation. The rooms ask `may_see_all`.
4. `admin` manages accounts and can lock, review, sign and read nothing else.
"""

from typing import Literal

from registry.identity.caller import Caller, Kind, Role
from registry.trust.errors import Refused

Reach = Literal["own", "all"]
Action = Literal[
    "organisation.add",
    "token.add",
    "token.list",
    "token.revoke",
    "person.add",
    "person.list",
    "cohort.lock",
    "cohort.list",
    "protocol.lock",
    "protocol.read",
    "submission.add",
    "submission.read",
    "report.read_released",
    "report.read_full",
    "submission.decide",
    "submission.withdraw",
    "submission.cancel",
    "certificate.suspend",
    "certificate.resume",
    "certificate.revoke",
    "notice.read",
    "quota.read",
    "quota.set",
    "certified.pull",
    "mlflow.use",
    "audit.read",
    "cohort.verify",
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
        "token.list": "own",
        "token.revoke": "own",
        "cohort.lock": "all",
        "cohort.list": "all",
        "protocol.lock": "all",
        "protocol.read": "all",
        "submission.read": "all",
        "submission.cancel": "all",
        "report.read_full": "all",
        "cohort.verify": "all",
        "certificate.suspend": "all",
        "notice.read": "all",
        "quota.read": "all",
    },
    "assessor": {
        "token.list": "own",
        "token.revoke": "own",
        "cohort.list": "all",
        "protocol.read": "all",
        "submission.read": "all",
        "report.read_full": "all",
        "submission.decide": "all",
        "cohort.verify": "all",
        "certificate.suspend": "all",
        "certificate.resume": "all",
        "certificate.revoke": "all",
        "notice.read": "all",
        "quota.read": "all",
    },
    "clinician": {
        "token.list": "own",
        "token.revoke": "own",
        "protocol.read": "all",
        "certified.pull": "all",
        "notice.read": "own",
        "audit.read": "own",
    },
    "auditor": {
        "token.list": "all",
        "token.revoke": "own",
        "person.list": "all",
        "cohort.list": "all",
        "protocol.read": "all",
        "submission.read": "all",
        "report.read_full": "all",
        "notice.read": "all",
        "quota.read": "all",
        "audit.read": "all",
        "cohort.verify": "all",
    },
    "admin": {
        "organisation.add": "all",
        "token.add": "all",
        "token.list": "all",
        "token.revoke": "all",
        "person.add": "all",
        "person.list": "all",
        "cohort.list": "all",
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
    """The whole table as text, for the test that prints it."""
    actions = sorted({action for row in POLICY.values() for action in row})
    lines = [f"{'':24}" + "".join(f"{role:>11}" for role in POLICY)]
    for action in actions:
        cells = "".join(f"{POLICY[role].get(action, '-'):>11}" for role in POLICY)
        lines.append(f"{action:24}{cells}")
    return "\n".join(lines)
