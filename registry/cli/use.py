"""`cohort conditions` and `cohort agreement`."""

from typing import Any

from registry.cli.client import Client
from registry.cli.output import console, print_items, print_json, show_table
from registry.settings import read_settings
from registry.trust.errors import Invalid, Refused

NO_RESTRICTION = "DUO:0000004"


def conditions(
    cohort: str, version: str | None, codes: list[str], words: str, until: str | None,
    nothing: bool, confirm: bool, as_json: bool,
) -> None:  # fmt: skip
    """Show what is declared, declare it, or say the same as another steward did."""
    if nothing and codes:
        raise Invalid("--none says that there are no conditions, so no --code goes with it")
    if confirm and (nothing or codes or words or until):
        raise Invalid("--confirm says what is declared already, so nothing else goes with it")
    client, path = Client(read_settings()), f"/cohorts/{cohort}/conditions"
    query = f"?version={version}" if version else ""
    given = [NO_RESTRICTION] if nothing else [_code(code) for code in codes]
    if confirm:
        said = client.get(path + query)
        waiting = _unsettled(said)
        if client.get("/me")["person"] == said["declared_by"]:
            raise Refused(f"{said['declared_by']} declared it: another steward confirms it",
                          code="four_eyes")  # fmt: skip
        found = client.post(path + query, waiting)
    elif given:
        found = client.post(path + query, {"codes": given, "words": words, "until": until})
    elif words or until:
        raise Invalid("--words and --until go with --code or --none")
    else:
        found = client.get(path, **({"version": version} if version else {}))
    if as_json:
        print_json(found)
        return
    lines = [f"{found['cohort']} {found['version']}"]
    lines += [f"  {one['code']}  {one['label']}" for one in found["codes"]]
    lines += [f"  {found['words']}"] if found["words"] else []
    lines += [f"  until {found['until']}"] if found["until"] else []
    if not found["declared"]:
        lines.append("  nothing is declared: no protocol may use it")
    elif found["declared_by"]:
        lines.append(f"  declared by {found['declared_by']}")
    if found["declared"] and not found["settled"]:
        lines.append("  does not count yet: another steward confirms it (--confirm)")
    console.print("\n".join(lines), markup=False, soft_wrap=True)


def _unsettled(found: dict[str, Any]) -> dict[str, Any]:
    """The statement that waits for another steward; Refused where none does."""
    if found["settled"] or not found["declared"]:
        raise Refused(f"nothing declared of {found['cohort']} {found['version']} waits for you")
    codes = [one["code"] for one in found["codes"]]
    return {"codes": codes, "words": found["words"], "until": found["until"]}


def _code(given: str) -> str:
    """DUO_0000007 and 0000007 mean DUO:0000007."""
    digits = given.upper().removeprefix("DUO").lstrip(":_")
    return f"DUO:{digits}" if digits.isdigit() else given


def ask(cohort: str, body: dict[str, Any], as_json: bool) -> None:
    """Begin an agreement."""
    found = Client(read_settings()).post(f"/cohorts/{cohort}/agreements", body)
    _shown(found, as_json)


def move(agreement: str, state: str, as_json: bool) -> None:
    """Move an agreement."""
    name = state.lower().replace("-", "_").replace(" ", "_")
    _shown(Client(read_settings()).post(f"/agreements/{agreement}/move", {"state": name}), as_json)


def _shown(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    can = ", ".join(found["next"]) or "nothing more"
    console.print(
        f"{found['id']}\n{found['protocol_id']} on {found['cohort_id']} "
        f"{found['cohort_version']}: {found['state'].replace('_', ' ')}\n"
        f"from {found['valid_from']} until {found['valid_until']}; "
        f"{'may be used' if found['usable'] else 'may not be used'} today\ncan follow: {can}",
        markup=False, soft_wrap=True,
    )  # fmt: skip


def listed(cohort: str, version: str | None, as_json: bool) -> None:
    """The agreements on a cohort."""
    query = {} if version is None else {"version": version}
    found = Client(read_settings()).items(f"/cohorts/{cohort}/agreements", **query)
    if as_json:
        print_items("agreements", found)
        return
    rows = list(found)
    columns = {"id": "agreement", "cohort_version": "version", "protocol_id": "protocol",
               "state": "state", "valid_from": "from", "valid_until": "until",
               "usable": "usable today"}  # fmt: skip
    show_table(rows, columns, f"{len(rows)} agreements on {cohort}")
