"""What report.html shows of the further questions: comparators, hospitals, disturbance, drift."""

import re
from xml.etree import ElementTree

import pytest

from tests.validators.evidence_made import (
    asking_everything,
    cases_for_everything,
    drifted,
    everything,
    report,
)
from validators.evidence import Report
from validators.metrics.tasks import measures_of
from validators.protocol.tasks import ClassSettings, SegmentationSettings, TimeToEventSettings
from validators.report.html import report_html
from validators.report.words import interval, metric_in_words, number, rule_in_words

ALL = everything(failed=12, failed_perturbed=15)
ANCHORS = {"comparisons", "within", "sites", "robustness", "drift", "leakage"}


def text_of(page: str) -> str:
    body = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", body).replace("&#39;", "'").split())


def anchors_of(page: str) -> set[str]:
    return set(re.findall(r'<h2 id="([a-z]+)"', page))


def test_only_parts_with_content_appear() -> None:
    assert not anchors_of(report_html(report())) & ANCHORS
    assert anchors_of(report_html(ALL)) >= ANCHORS
    text = text_of(report_html(report()))
    for absent in ("indeterminate answers", "Sampling", "A pilot also needs", "Held for review"):
        assert absent not in text


def test_a_comparison_stands_with_its_difference_interval_and_margin() -> None:
    text = text_of(report_html(ALL))
    for found in ALL.endpoints:
        if (of := found.comparison) is not None:
            assert of.difference is not None
            assert of.interval is not None
            assert f"{of.difference:.3f} {of.interval.low:.3f} to {of.interval.high:.3f}" in text
            assert of.interval.method in text
    assert "mean of 3 readers" in text
    assert "clinic model another model" in text


def test_a_comparison_is_no_second_row_of_the_endpoint_that_it_compares() -> None:
    page = report_html(ALL)
    endpoints = page.split('<h2 id="endpoints">')[1].split("<h2")[0]
    assert endpoints.count('<th scope="row">AUC</th>') == 1


def test_every_hospital_is_shown_with_what_the_others_give_and_what_another_could_expect() -> None:
    text = text_of(report_html(ALL))
    across = ALL.sites[0].across
    assert across is not None
    assert "asks another question than the value of all cases together" in text
    assert f"Mean of {across.sites} hospitals {across.mean:.3f}" in text
    assert f"{across.prediction.low:.3f} to {across.prediction.high:.3f} (prediction" in text
    assert "τ²" in text
    assert "I²" in text
    for row in ALL.sites[0].rows:
        assert row.without is not None
        assert f"{row.site} {row.n}" in text
        assert f"{row.without:.3f}" in text


@pytest.mark.parametrize(
    ("reversal", "said"),
    [("shown", "reverses, shown by both intervals"), ("estimated", "reverses, not shown"),
     ("none", "")],
)  # fmt: skip
def test_a_sign_that_reverses_within_hospitals_is_flagged(reversal: str, said: str) -> None:
    first = ALL.subgroups[0]
    assert first.within_sites is not None
    within = first.within_sites.model_copy(update={"reversal": reversal})
    made = ALL.model_copy(
        update={"subgroups": (first.model_copy(update={"within_sites": within}),)}
    )
    page = report_html(made)
    part = page.split('<h2 id="within">')[1].split("<h2")[0]
    assert part.count('class="flag"') == (1 if said else 0)
    assert said in part


def test_each_perturbed_run_says_what_was_done_and_what_it_cost() -> None:
    text = text_of(report_html(ALL))
    assert "Noise, severity 3, on image CT · 40 HU · 15 of 900 predictions failed" in text
    assert "Blur, severity 2, on image CT · 0.75 pixels · this run was not made" in text
    drop = ALL.robustness[0].drops[0]
    assert drop.drop is not None
    assert drop.interval is not None
    assert f"{number(drop.drop)} {interval(drop.interval)} 0.2" in text


def test_drift_and_leakage_are_shown_with_their_flags() -> None:
    text = text_of(report_html(ALL))
    assert "⚠ shifted Declared / cohort: a 120 / 300, b 80 / 600" in text
    assert "not computed fewer than two cells are left" in text
    assert "Declared, and not in this cohort: smoking" in text
    assert text.index("Held for review") < text.index("Touchstone validation report")
    assert "⚠ held for review auc is shown to exceed 0.8" in text


def test_the_use_says_sampling_pilot_and_what_it_needs() -> None:
    text = text_of(report_html(ALL))
    for wanted in (
        "Sampling Enriched; all positives of two years",
        "Clinical pilot Assistive: a clinician sees the result and decides",
        "A pilot also needs approval by an ethics committee",
        "Indeterminate answers Scores from 0.45 to below 0.55",
        f"{ALL.case_flow.indeterminate} indeterminate answers",
        "counted as positive",
    ):
        assert wanted in text


def test_every_figure_of_the_further_parts_is_well_formed() -> None:
    page = report_html(ALL)
    for part in ("comparisons", "sites", "robustness"):
        inside = page.split(f'<h2 id="{part}">')[1].split("<h2")[0]
        figures = re.findall(r"<svg.*?</svg>", inside, re.DOTALL)
        assert figures
        for figure in figures:
            root = ElementTree.fromstring(figure)  # noqa: S314  our own text
            assert root.find("title") is not None
            assert root.find("desc") is not None


def test_hospitals_and_comparators_named_in_html_stay_text() -> None:
    nasty = "<script>alert(1)</script>"
    sites = ALL.sites[0]
    row = sites.rows[0].model_copy(update={"site": nasty, "note": nasty})
    made = ALL.model_copy(
        update={"sites": (sites.model_copy(update={"rows": (row, *sites.rows[1:])}),)}
    )
    assert "<script" not in report_html(made)


def test_a_report_without_a_summary_of_hospitals_still_shows_them() -> None:
    made = report(cases_for_everything(hospitals=3), asking_everything())
    assert made.sites[0].across is None
    text = text_of(report_html(made))
    assert "hospital 2" in text
    assert "Mean of" not in text


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("endpoint:auc", "AUC"),
        ("endpoint:auc against clinic_model", "AUC against clinic model"),
        ("subgroup:age_band=over 60:sensitivity", "sensitivity where age band is over 60"),
        ("sites:auc", "AUC in another hospital like these"),
        ("robustness:noise_3_image:sensitivity",
         "drop of sensitivity under noise of severity 3 on image"),
        ("robustness:bias_field_5_t2_image:auc",
         "drop of AUC under bias field of severity 5 on t2 image"),
        ("indeterminate_share", "share of indeterminate answers"),
        ("failure_rate", "failure rate"),
    ],
)  # fmt: skip
def test_each_kind_of_rule_has_words(rule: str, said: str) -> None:
    assert rule_in_words(rule) == said


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("ppv", "PPV at the declared prevalence"),
        ("brier", "Brier score"),
        ("macro_auc", "mean one-vs-rest AUC"),
        ("sensitivity_pirads_4", "sensitivity, pirads 4"),
        ("dice_gland", "Dice, gland"),
        ("false_positives_per_scan", "false positives per scan"),
        ("harrell_c", "Harrell's C"),
        ("auc_at_36", "AUC at 36"),
        ("mae", "mean absolute error"),
    ],
)
def test_a_metric_is_called_what_its_task_type_calls_it(metric: str, said: str) -> None:
    assert metric_in_words(metric) == said


def test_no_metric_of_any_task_type_is_left_without_words() -> None:
    structures = ({"name": "gland", "tolerance": 1.0},)
    settings = {
        "binary": None,
        "ordinal": ClassSettings(names=("low", "mid", "high")),
        "segmentation": SegmentationSettings.model_validate(
            {"structures": structures, "maximum_distance": 50.0}
        ),
        "time_to_event": TimeToEventSettings(
            unit="months", horizons=(12.0, 36.0), maximum_follow_up=60.0
        ),
    }
    for task, of in settings.items():
        for name in measures_of(task, of):
            assert "_" not in metric_in_words(name), (task, name)


def test_the_same_report_gives_the_same_page() -> None:
    assert isinstance(ALL, Report)
    assert report_html(ALL) == report_html(everything(failed=12, failed_perturbed=15))
    assert drifted() == drifted()
