"""The report as PDF: for keeping, the same bytes, and deaf to what names say."""

import datetime as dt
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pikepdf
import pytest

from registry.trust.canonical import sha256_bytes
from tests.validators import evidence_made as made
from validators.protocol.schema import Disclosure
from validators.report.disclosure import release
from validators.report.pdf import _UNSEEN, NamedRun, compiled, legible, report_pdf
from validators.report.pdf_data import pdf_data

ROOT = Path(__file__).parents[2]
ISSUED = dt.datetime(2026, 11, 28, 12, 0, tzinfo=dt.UTC)
UNTIL = ISSUED + dt.timedelta(days=365)
RUN = NamedRun("lumen/nodule-net 3", "CN=Test facility")
HOSTILE = (
    '#read("/etc/passwd")', '#import "@preview/x:1.0.0"', "`raw`", "$x^2$", "*bold* _it_ <tag>",
    "@ref", "= heading", "\\u{41} \\#", '"); #panic("in', "]#[", "{{1+1}}", "\u202eevil\u2066",
    "名前 \U0001f600", "a\x00b\x1b[31m", "w" * 300,
)  # fmt: skip


def released(**names: str) -> dict[str, Any]:
    return release(made.report(), "certified", Disclosure()) | names


def pages_of(data: bytes) -> list[str]:
    """The text of each page, by the fonts' own tables of characters."""
    with pikepdf.open(io.BytesIO(data)) as document:
        return [_text(page) for page in document.pages]


def _text(page: pikepdf.Page) -> str:
    fonts = {
        str(name): _table(bytes(font.ToUnicode.read_bytes()))
        for name, font in page.resources.Font.items()
    }
    said, current, across = "", {}, b""
    for operands, operator in pikepdf.parse_content_stream(page):
        if str(operator) == "Tf":
            current = fonts[str(operands[0])]
        elif str(operator) in ("Tj", "TJ"):
            parts = operands[0] if str(operator) == "TJ" else operands
            across = b"".join(bytes(of) for of in parts if isinstance(of, pikepdf.String))
            pairs = (across[i : i + 2].hex() for i in range(0, len(across), 2))
            said += "".join(current.get(pair, "") for pair in pairs)
        elif str(operator) == "ET":
            said += " "
    return said


def _table(cmap: bytes) -> dict[str, str]:
    text = cmap.decode("latin-1")
    found = {}
    for block in re.findall(r"beginbfchar(.*?)endbfchar", text, re.DOTALL):
        for code, target in re.findall(r"<([0-9a-fA-F]+)>\s*<([0-9a-fA-F]+)>", block):
            found[code.lower()] = bytes.fromhex(target).decode("utf-16-be")
    return found


@pytest.fixture(scope="module")
def plain() -> bytes:
    return report_pdf(released(), RUN, ISSUED, UNTIL)


def test_it_says_it_is_for_keeping_and_for_reading_aloud(plain: bytes) -> None:
    with pikepdf.open(io.BytesIO(plain)) as document:
        with document.open_metadata() as about:
            assert about["pdfaid:part"] == "2"
            assert about["pdfaid:conformance"] == "B"
            assert about["pdfuaid:part"] == "1"
            assert "lumen/nodule-net 3" in str(about["dc:title"])
            assert str(about["xmp:CreateDate"]).startswith("2026-11-28T12:00:00")
        assert document.Root.ViewerPreferences.DisplayDocTitle
        assert str(document.Root.Lang).startswith("en")
        assert "/JavaScript" not in str(document.Root.get("/Names", ""))
        for page in document.pages:
            for font in page.resources.Font.values():
                (inner,) = font.DescendantFonts
                assert {"/FontFile2", "/FontFile3"} & set(inner.FontDescriptor.keys())


def test_its_text_holds_model_verdict_conditions_and_numbers(plain: bytes) -> None:
    said = re.sub(r"\s+", " ", " ".join(pages_of(plain)))
    assert "lumen/nodule-net 3" in said
    assert "Passed" in said
    assert "INVESTIGATIONAL" in said
    auc = next(of for of in released()["endpoints"] if of["metric"] == "auc")
    assert f"{auc['estimate']:.2f}" in said
    assert f"{auc['interval']['low']:.2f} to {auc['interval']['high']:.2f}" in said
    assert made.ROOT in said


def test_everything_that_a_protocol_can_ask_is_printed() -> None:
    report = made.report(made.cases_for_everything(), made.asking_everything())
    said = " ".join(pages_of(report_pdf(
        release(report, "certified", Disclosure()), RUN, ISSUED, UNTIL)))  # fmt: skip
    for words in ("In another hospital", "Under disturbance", "less that of clinic model"):
        assert words in said


def test_a_withheld_group_is_printed_as_withheld() -> None:
    tiny = release(made.report(made.cases(60)), "certified", Disclosure())
    assert any(of["outcome"] == "suppressed" for of in tiny["subgroups"])
    assert "withheld" in " ".join(pages_of(report_pdf(tiny, RUN, ISSUED, UNTIL)))


def test_hostile_names_are_printed_and_change_nothing_else() -> None:
    names = " | ".join(HOSTILE)
    hostile = released(title=names, attribution=names, reference_standard=names, statement=names)
    hostile["intended_use"] = dict.fromkeys(hostile["intended_use"], names)
    hostile["subgroups"] = [of | {"group": names[:60]} for of in hostile["subgroups"]]
    data = report_pdf(hostile, NamedRun(names, names), ISSUED, UNTIL)
    said = re.sub(r"[\s\u200b]+", "", "".join(pages_of(data)))
    assert '#read("/etc/passwd")' in said
    assert "⟨U+202E⟩evil" in said
    assert "$x^2$" in said
    assert "root:x:0" not in said
    assert not re.search("[\u202a-\u202e\u2066-\u2069]", said)


def test_nothing_hostile_reaches_the_program_but_as_data(monkeypatch: pytest.MonkeyPatch) -> None:
    import typst

    programs: list[bytes] = []
    real = typst.Compiler

    def watched(program: bytes, **how: Any) -> Any:
        programs.append(program)
        assert not list(Path(how["root"]).iterdir())
        return real(program, **how)

    monkeypatch.setattr(typst, "Compiler", watched)
    report_pdf(released(title=HOSTILE[0]), RUN, ISSUED, UNTIL)
    assert programs == [(ROOT / "validators" / "report" / "report.typ").read_bytes()]


def test_every_sign_that_is_let_through_has_a_glyph() -> None:
    """PDF/A refuses a sign without one, so a name could stop a report."""
    import typst

    signs = "".join(chr(code) for code in range(0x20, 0x3000) if not _UNSEEN.match(chr(code)))
    data = legible(pdf_data(released(), RUN, UNTIL))
    data["limits"] = [" ".join(signs)]
    assert compiled(data, ISSUED)
    with pytest.raises(typst.TypstError):
        compiled(data | {"limits": ["名前"]}, ISSUED)


def test_the_same_bytes_twice_and_in_another_process(plain: bytes) -> None:
    assert report_pdf(released(), RUN, ISSUED, UNTIL) == plain
    program = (
        "from tests.validators.test_report_pdf import *\n"
        "print(sha256_bytes(report_pdf(released(), RUN, ISSUED, UNTIL)))"
    )
    elsewhere = {"TZ": "Asia/Tokyo", "LC_ALL": "C"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                          check=True, cwd=ROOT, env=elsewhere)  # fmt: skip
    assert done.stdout.strip() == sha256_bytes(plain)
