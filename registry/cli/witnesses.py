"""`audit witness…`: who co-signs the log, and co-signatures that travel as files."""

from pathlib import Path

from registry.cli.client import Client
from registry.cli.output import console, print_json, show, show_table
from registry.settings import read_settings
from registry.trust.errors import Invalid


def show_witnesses(as_json: bool) -> None:
    """The facility's witnesses."""
    found = Client(read_settings()).get("/audit/witnesses")
    if as_json:
        print_json(found)
        return
    columns = {"name": "witness", "url": "asked at", "size": "co-signed", "seen_at": "when",
               "behind": "behind", "answered_at": "last answer", "trouble": "trouble"}  # fmt: skip
    rows = [
        {**row, "url": row["url"] or "by files", "seen_at": _time(row["seen_at"]),
         "answered_at": _time(row["answered_at"]), "trouble": row["trouble"] or ""}
        for row in found["witnesses"]
    ]  # fmt: skip
    title = (
        f"{len(rows)} witnesses; a certificate needs {found['needed']}; the newest checkpoint is "
        f"of {found['size']} events"
    )
    show_table(rows, columns, title)
    console.print(f"the log's key, for a witness: {found['verifier_key']}", markup=False,
                  soft_wrap=True)  # fmt: skip


def write_request(name: str, out: Path, old: int | None, as_json: bool) -> None:
    """What the witness is to be given, into a file."""
    query = {"witness": name} | ({} if old is None else {"old": str(old)})
    data = Client(read_settings()).get_bytes("/audit/witness-request", **query)
    size = int(data.partition(b"\n\n")[2].split(b"\n")[1])
    try:
        out.write_bytes(data)
    except OSError as error:
        raise Invalid(f"{out} can't be written: {error.strerror}") from error
    show(
        {"request": str(out), "witness": name, "size": size},
        as_json,
        f"{out}: a checkpoint of {size} events for {name}. What comes back: "
        f"touchstone audit witness-answer {name} FILE --size {size}",
    )


def hand_in(name: str, answer: Path, size: int, as_json: bool) -> None:
    """Take in the lines in a file: alone, or below the checkpoint that they are on."""
    try:
        lines = answer.read_bytes().rpartition(b"\n\n")[2].decode()
    except OSError as error:
        raise Invalid(f"{answer} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Invalid(f"{answer} is not text") from error
    body = {"witness": name, "size": size, "lines": lines}
    taken = Client(read_settings()).post("/audit/witness-answers", body)
    show(
        taken,
        as_json,
        f"{name} saw the log of {size} events at {_time(taken['seen_at'])} UTC",
    )


def _time(text: str | None) -> str:
    return (text or "")[:19].replace("T", " ")
