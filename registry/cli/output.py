"""How the command line speaks: JSON for programs, a few plain lines for people."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table

console = Console(highlight=False)


def show(value: Any, as_json: bool, line: str) -> None:
    """One JSON object, or one line; what would move a terminal's cursor is written as "?"."""
    if as_json:
        print_json(value)
    else:
        plain = "".join(sign if sign.isprintable() or sign == "\n" else "?" for sign in line)
        console.print(plain, markup=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """One JSON object on stdout, whatever the terminal's width."""
    print(json.dumps(value, default=str, ensure_ascii=False))


def print_items(name: str, rows: Iterable[dict[str, Any]]) -> None:
    """One JSON object that holds a list, written item by item as they come: {"name": [...]}."""
    print(f"{{{json.dumps(name)}: [", end="")
    for number, row in enumerate(rows):
        print(", " if number else "", end="")
        print(json.dumps(row, default=str, ensure_ascii=False), end="")
    print("]}")


def show_table(rows: Sequence[dict[str, Any]], columns: dict[str, str], title: str) -> None:
    """A table of rows; `columns` maps a key to its heading."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in columns.values():
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(str(row.get(key) if row.get(key) is not None else "") for key in columns))
    console.print(table)


@contextmanager
def progress_bar(what: str, as_json: bool) -> Iterator[Any]:
    """A progress bar that shows itself for work over a second; yields `advance(done, total)`."""
    if as_json or not console.is_terminal:
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    ) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
