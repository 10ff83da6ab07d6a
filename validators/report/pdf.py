"""`report.pdf`: the released report for people, as PDF/A-2b that a screen reader can read too.

    >>> data = report_pdf(released, NamedRun("lumen/nodule-net 3", "Test facility"), issued, until)
    >>> data[:5]
    b'%PDF-'

Rules
-----
1. It is made of the released report alone, so it can say nothing that was withheld.
2. Every text is data: the program (`report.typ`) is a constant, and reads JSON that it is handed.
   Text of outsiders that is put into such a program runs there, and can read files. Its root is an
   empty folder all the same.
3. A sign that the fonts don't have, or that can't be seen (a mark that turns the direction of
   writing, say), is written as ⟨U+202E⟩: nothing looks like what it is not, and no name stops a
   report. A word that is longer than a digest may be broken.
4. The same report gives the same bytes, anywhere: no clock, no font but those in the program.
5. PDF/A-2b (ISO 19005-2) for keeping, PDF/UA-1 (ISO 14289-1) for reading aloud.
"""

import datetime as dt
import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from registry.trust.errors import Unavailable
from validators.report.pdf_data import NamedRun, pdf_data

__all__ = ["NamedRun", "report_pdf"]

STANDARDS: tuple[Literal["a-2b"], Literal["ua-1"]] = ("a-2b", "ua-1")
_PROGRAM = Path(__file__).parent / "report.typ"
_UNSEEN = re.compile(
    # Latin, Greek, Cyrillic and the punctuation and signs that both the program's fonts and a
    # reader tell apart; the test prints every one of them.
    "[^\n\u0020-\u007e\u00a1-\u00ac\u00ae-\u017f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03ce"
    "\u0401-\u040c\u040e-\u044f\u0451-\u045c\u045e-\u045f\u1e9e\u2010-\u2014\u2018-\u201e\u2020-"
    "\u2022\u2026\u2030\u2032\u2033\u2039\u203a\u20ac\u2190-\u2193\u2212\u2248\u2260\u2264\u2265"
    "\u27e8\u27e9]"
)
_LONG, _BREAK = re.compile(r"\S{72,}"), "\u200b"


def report_pdf(
    released: Mapping[str, Any], run: NamedRun, issued: dt.datetime, not_after: dt.datetime
) -> bytes:
    """The PDF of a report released for `certified`. Raises Unavailable without Typst."""
    return compiled(legible(pdf_data(released, run, not_after)), issued)


def compiled(data: Any, issued: dt.datetime) -> bytes:
    """The document over `data`, dated `issued`."""
    try:
        import typst
    except ImportError as error:
        raise Unavailable(
            "a report as PDF needs Typst: install touchstone-tef[server]", code="no_typst"
        ) from error
    with tempfile.TemporaryDirectory() as nothing:
        compiler = typst.Compiler(
            _PROGRAM.read_bytes(),
            root=nothing,
            ignore_system_fonts=True,
            sys_inputs={"data": json.dumps(data, sort_keys=True)},
            package_path=nothing,
            package_cache_path=nothing,
        )
        made = compiler.compile(
            format="pdf",
            pdf_standards=list(STANDARDS),
            timestamp=issued.astimezone(dt.UTC).replace(microsecond=0),
        )
    if not isinstance(made, bytes):
        raise Unavailable("Typst gave no document", code="no_typst")
    return made


def legible(value: Any) -> Any:
    """`value` with every text in signs that can be seen (rule 3)."""
    if isinstance(value, str):
        seen = _UNSEEN.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", value)
        return _LONG.sub(lambda found: _BREAK.join(re.findall(".{1,36}", found[0])), seen)
    if isinstance(value, dict):
        return {key: legible(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [legible(item) for item in value]
    return value
