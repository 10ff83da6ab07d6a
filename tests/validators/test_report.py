"""report.json and report.html: what they hold, that they repeat, that they need nothing else."""

import datetime as dt
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.trust.canonical import parse_canonical, sha256_bytes
from tests.validators.evidence_made import cases, protocol, report
from validators.evidence import Curves, Report
from validators.metrics.binary import share_right
from validators.metrics.figure import Figure, Series
from validators.protocol.schema import Disclosure, Endpoint, IntendedUse
from validators.report.build import STEP, code_digest, report_bytes, thin, thinned
from validators.report.disclosure import release
from validators.report.drawing import figure_plot
from validators.report.forest import Mark, Row, forest_plot, scale_for
from validators.report.html import report_html
from validators.report.label import model_label
from validators.report.schema import SCHEMA_FILE, report_schema, schema_text


class _Page(HTMLParser):
    """Every element, attribute and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_the_same_inputs_give_the_same_bytes() -> None:
    assert report_bytes(report()) == report_bytes(report())
    assert report_html(report()) == report_html(report())


def test_another_process_with_another_hash_seed_gives_the_same_bytes() -> None:
    program = (
        "from tests.validators.evidence_made import report\n"
        "from validators.report.build import report_bytes\n"
        "from validators.report.html import report_html\n"
        "from registry.trust.canonical import sha256_bytes\n"
        "print(sha256_bytes(report_bytes(report()) + report_html(report()).encode()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    here = sha256_bytes(report_bytes(report()) + report_html(report()).encode())
    assert done.stdout == here + "\n"


def test_noise_of_the_processor_does_not_reach_the_bytes() -> None:
    made = report()
    found = made.endpoints[0]
    assert found.estimate is not None
    noisy = found.model_copy(update={"estimate": float(np.nextafter(found.estimate, 1))})
    other = made.model_copy(update={"endpoints": (noisy, *made.endpoints[1:])})
    assert other != made
    assert report_bytes(other) == report_bytes(made)


def test_the_bytes_are_canonical_and_give_the_report_back() -> None:
    made = report(cases(failed=5))
    value = parse_canonical(report_bytes(made))
    assert Report.model_validate(value) == made


def test_the_published_schema_is_current() -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text(), (
        "run `python -m validators.report.schema` and commit the file"
    )


@pytest.mark.parametrize(
    "made",
    [
        report(),
        report(cases(failed=7), model=None),
        report(cases(patients=True), protocol(cluster="patient")),
    ],
    ids=["run", "table", "clustered"],
)
def test_a_report_follows_its_published_schema(made: Report) -> None:
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(report_bytes(made)), schema)


def test_the_schema_refuses_what_is_no_report() -> None:
    schema = report_schema()
    value = json.loads(report_bytes(report()))
    for broken in (
        {**value, "patients": ["LIDC-0001"]},
        {key: item for key, item in value.items() if key != "verdict"},
        {**value, "verdict": {**value["verdict"], "overall": "certified"}},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, schema)


def test_every_field_of_the_report_and_of_its_endpoints_is_described() -> None:
    schema = report_schema()
    for properties in (
        schema["properties"],
        schema["$defs"]["EndpointEvidence"]["properties"],
        schema["$defs"]["Digests"]["properties"],
    ):
        assert [name for name, field in properties.items() if "description" not in field] == []


def test_the_code_digest_changes_with_the_sources() -> None:
    assert code_digest() == code_digest()
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", code_digest())


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=300).map(sorted))
def test_a_thinned_curve_keeps_its_ends_and_stays_within_half_a_pixel(
    points: list[tuple[float, float]],
) -> None:
    kept = thin(points)
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    for x, y in points:
        assert any(abs(x - a) <= STEP and abs(y - b) <= STEP for a, b in kept)


def test_a_curve_of_many_points_is_thinned_to_about_a_thousand() -> None:
    steps = np.linspace(0, 1, 200_001)
    curve = tuple(zip(steps.tolist(), np.sqrt(steps).tolist(), strict=True))
    points = Series(label="groups", points=((0.2, 0.3), (0.2003, 0.3003)), style="points")
    band = Series(label="b", points=curve[:9], low=(0.0,) * 9, high=(1.0,) * 9)
    series = (Series(label="model", points=curve), points, band)
    figure = Figure(name="roc", title="t", x_label="x", y_label="y", series=series,
                    x_range=(0, 1), y_range=(0, 1))  # fmt: skip
    wide = Series(label="w", points=tuple((x, 500 * y) for x, y in curve))
    far = figure.model_copy(update={"series": (wide,), "y_range": None})
    found = thinned(Curves(figures=(figure, far)))
    assert found is not None
    assert len(found.figures[0].series[0].points) <= 1002
    assert found.figures[0].series[1:] == (points, band)
    assert 400 < len(found.figures[1].series[0].points) <= 1002


@pytest.mark.parametrize(
    "made", [report(cases(failed=9)), report(model=None)], ids=["run", "table"]
)
def test_the_page_needs_nothing_else_and_runs_nothing(made: Report) -> None:
    page = _Page(report_html(made))
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "form", "base"}
    for _, attributes in page.elements:
        assert "style" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        assert not attributes.keys() & {"src", "xlink:href", "srcset", "action"}
    links = [(tag, of["href"] or "") for tag, of in page.elements if "href" in of]
    anchors = {f"#{of['id']}" for _, of in page.elements if "id" in of}
    assert all(tag == "a" and to in anchors for tag, to in links)
    css = report_html(made).split("<style>")[1].split("</style>")[0]
    assert "@import" not in css
    assert re.findall(r"url\((?!#)", css) == []
    policy = dict(page.elements)["meta"]
    assert policy is not None
    metas = [attributes for tag, attributes in page.elements if tag == "meta"]
    content = next(a["content"] for a in metas if "http-equiv" in a) or ""
    assert content.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in content


def test_the_page_says_all_that_an_assessor_needs() -> None:
    made = report(cases(failed=9), protocol(cluster=None))
    text = _Page(report_html(made)).text
    digests = [value for value in made.digests.model_dump().values() if value]
    for wanted in (
        "Triage of nodules", "Rules that decide", "median of four readers", "timeout",
        "chosen on the development half", "Failed left out", "Made-up cases", made.statement,
        "seccomp: yes", "landlock abi: 6", "head", "female", *digests,
        sha256_bytes(report_bytes(made)),
    ):  # fmt: skip
        assert wanted in text, wanted
    for rule in made.verdict.rules:
        if rule.gating:
            assert rule.reason in text


def test_an_unsandboxed_run_is_said_first_and_loudly() -> None:
    alarm = "This model ran without a sandbox."
    levels: tuple[dict[str, int | bool | str], ...] = ({}, {"seccomp": False, "landlock_abi": 6})
    for level in levels:
        page = _Page(report_html(report(sandbox=level)))
        assert page.text.index(alarm) < page.text.index("Touchstone validation report")
        assert ("div", {"class": "alarm", "role": "alert"}) in page.elements
    assert alarm not in _Page(report_html(report())).text


def test_a_scored_table_says_that_it_certifies_nothing() -> None:
    text = _Page(report_html(report(model=None))).text
    assert "It certifies nothing" in text
    assert "without a sandbox" not in text
    assert "400 cases in the table" in text
    assert "It certifies nothing" not in _Page(report_html(report())).text


def test_text_from_outside_stays_text() -> None:
    nasty = "<script>alert(1)</script>&\"'"
    sites = np.where(np.arange(400) % 2 == 0, nasty, "]]></svg><img src=x>")
    rules = protocol(
        title=nasty, intended_use=IntendedUse(purpose=nasty, population=nasty, setting=nasty)
    )
    table = cases(attributes={"site": sites}, excluded={nasty: 3})
    page = report_html(report(table, rules, attribution=nasty))
    tags = {tag for tag, _ in _Page(page).elements}
    assert not tags & {"script", "img"}
    assert nasty in "".join(_Page(page).words)


def test_every_figure_is_well_formed_and_has_a_title_for_those_who_hear_it() -> None:
    page = report_html(report(cases(failed=9, excluded={"rated 3": 40})))
    figures = re.findall(r'<svg class="(?!hidden).*?</svg>', page, re.DOTALL)
    assert len(figures) == 1 + 1 + 3 + 6  # flow, endpoints; ROC, calibration, scores; six gaps
    for figure in figures:
        root = ElementTree.fromstring(figure)  # noqa: S314  our own text
        assert root.attrib["role"] == "img"
        assert root.find("title") is not None
        assert root.find("desc") is not None


def test_the_flow_adds_up() -> None:
    made = report(cases(failed=9, excluded={"rated 3": 40, "no contour": 2}))
    text = _Page(report_html(made)).text
    assert "442 cases considered" in text
    assert "42 excluded" in text
    assert "400 cases sealed in the cohort" in text
    assert "9 without a usable prediction" in text
    found = next(e for e in made.endpoints if e.metric == "sensitivity")
    assert found.estimate is not None
    right = round(found.estimate * made.case_flow.positives)
    assert f"{right} found" in text
    assert f"{made.case_flow.positives - right} missed" in text


def test_the_threshold_stands_on_the_curve_where_it_was_measured() -> None:
    table, curves = cases(), report().curves
    assert curves is not None
    roc = next(figure for figure in curves.figures if figure.name == "roc")
    at, across = roc.series[1], roc.series[2]
    up, down = (share_right(table, 0.5, of) for of in (table.positive, ~table.positive))
    assert at.points[0] == pytest.approx((1 - down.value, up.value))
    low, high = up.gating(0.025)
    assert (at.low[0], at.high[0]) == pytest.approx((low, high))
    assert [x for x, _ in across.points] == pytest.approx(
        [1 - end for end in reversed(down.gating(0.025))]
    )
    root = ElementTree.fromstring(figure_plot(roc))  # noqa: S314  our own text
    point = root.find("circle[@class='point']")
    assert point is not None
    # 52 and 14 are where the square of 300 begins.
    assert float(point.attrib["cx"]) == pytest.approx(52 + 300 * at.points[0][0], abs=0.01)
    assert float(point.attrib["cy"]) == pytest.approx(314 - 300 * at.points[0][1], abs=0.01)
    assert len(root.findall("polyline[@class='whisker']")) == 2
    assert f"{up.value:.3f} ({low:.3f} to" in (root.findtext("desc") or "")


def test_the_calibration_curve_is_drawn_with_its_band_and_groups() -> None:
    page = report_html(report())
    figure = next(of for of in re.findall(r"<svg class=\"figure.*?</svg>", page, re.DOTALL)
                  if "<title>Calibration</title>" in of)  # fmt: skip
    root = ElementTree.fromstring(figure)  # noqa: S314  our own text
    assert root.find("polygon[@class='band']") is not None
    assert len(root.findall("polyline[@class='whisker']")) == 10
    assert "cases in groups: 0." in (root.findtext("desc") or "")


def test_a_group_that_cannot_be_judged_is_seen_in_the_forest() -> None:
    rows = [
        Row("palms", None, None, None, "insufficient_evidence", absent="too few to tell"),
        Row("trunk", 0.05, -0.1, 0.2, "pass"),
    ]
    svg = forest_plot(
        rows, title="t", axis="gap", scale=scale_for([-0.1, 0.2]), marks=[Mark(0.1, "margin")]
    )
    root = ElementTree.fromstring(svg)  # noqa: S314  our own text
    texts = [element.text for element in root.iter("text")]
    assert "palms" in texts
    assert "too few to tell" in texts
    assert [e.attrib["class"] for e in root.findall("path")] == ["symbol pass"]


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=20))
def test_a_scale_holds_its_values_and_zero_with_few_ticks(values: list[float]) -> None:
    scale = scale_for(values)
    assert scale.low <= min([0.0, *values]) + 1e-9
    assert scale.high >= max([0.0, *values]) - 1e-9
    assert 2 <= len(scale.ticks()) <= 11


def test_a_report_of_100_000_cases_and_30_groups_takes_seconds() -> None:
    table = cases(100_000, failed=100)
    random = np.random.default_rng(3)
    centre = np.char.add("centre ", random.integers(0, 30, 100_000).astype(str))
    table = replace(table, attributes={**table.attributes, "centre": centre})
    started = time.monotonic()
    made = report(table, protocol(attributes=("centre", "sex")))
    page = report_html(made)
    seconds = time.monotonic() - started
    assert len({row.group for row in made.subgroups if row.attribute == "centre"}) == 30
    assert len(page) < 1_000_000
    assert seconds < 20, f"{seconds:.1f} s"


def test_a_band_is_released_with_its_endpoint_and_stands_on_the_label() -> None:
    """Without it a hospital could not see what was asked of a metric that has no goal."""
    band = Endpoint(metric="calibration_slope", role="secondary", band=(0.5, 2.0))
    rules = protocol(endpoints=(Endpoint(metric="sensitivity", goal=0.6), band))
    released = release(report(rules=rules), "certified", Disclosure())
    assert [found.get("band") for found in released["endpoints"]] == [None, [0.5, 2.0]]
    label = model_label(released, model="x 1", conditions=(), not_after=dt.datetime(2027, 1, 1))
    assert "- The band of calibration slope is 0.5 to 2." in label
    assert max(map(len, label.splitlines())) <= 80
