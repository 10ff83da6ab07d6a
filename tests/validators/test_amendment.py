"""An amendment after exposure never asks for less."""

from typing import Any

import pytest

from validators.protocol.amendment import looser
from validators.protocol.read import parse_protocol

BODY: dict[str, Any] = {
    "id": "amended", "version": "1", "reference_standard": "simulated", "threshold": 0.5,
    "intended_use": {"purpose": "test", "population": "none", "setting": "none"},
    "cohort": {"id": "c", "positives": 100, "negatives": 200},
    "alpha": 0.05, "attempts": 2,
    "endpoints": [
        {"metric": "sensitivity", "goal": 0.8},
        {"metric": "auc", "goal": 0.9, "role": "secondary"},
        {"metric": "specificity", "goal": 0.7, "role": "secondary"},
    ],
    "subgroups": [{"attribute": "sex", "metric": "sensitivity", "margin": 0.1, "floor": 0.7}],
}  # fmt: skip


def changed(*path: Any, to: Any) -> dict[str, Any]:
    """The body with one value changed, added, or (`to` is None) taken out."""
    import copy

    body = copy.deepcopy(BODY)
    here: Any = body
    for step in path[:-1]:
        here = here[step]
    if to is None:
        del here[path[-1]]
    else:
        here[path[-1]] = to
    return body


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (changed("endpoints", 0, "goal", to=0.75), "goal 0.75 is looser than 0.8"),
        (changed("endpoints", 2, to=None), "endpoints specificity: it decides no more"),
        (changed("endpoints", 1, "rule", to="reported"), "endpoints auc: it decides no more"),
        (changed("endpoints", 1, "if_insufficient", to="conditional"), "blocks no more"),
        (changed("endpoints", to=[BODY["endpoints"][i] for i in (0, 2, 1)]), "the order"),
        (changed("subgroups", 0, "margin", to=0.2), "the margin is wider"),
        (changed("subgroups", 0, "margin", to=None), "the margin is wider or gone"),
        (changed("subgroups", 0, "floor", to=0.6), "the floor is looser"),
        (changed("subgroups", 0, "minimum", to=5), "the minimum of a group is lower"),
        (changed("subgroups", to=[]), "subgroups sex sensitivity: it decides no more"),
        (changed("threshold", to=0.4), "threshold is another one"),
        (changed("intended_use", "prevalence", to=0.3), "prevalence is another one"),
        (changed("decision_thresholds", to=[0.1]), "the first of decision_thresholds"),
        (changed("attempts", to=3), "3 attempts are more than 2"),
        (changed("alpha", to=0.06), "alpha of an attempt 0.03 exceeds 0.025"),
        (changed("attempts", to=1), "alpha of an attempt 0.05 exceeds 0.025"),
        (changed("cohort", "positives", to=50), "cohort.positives is lower"),
        (changed("cohort", to=None), "cohort.positives is lower"),
        (changed("failed_cases", to={"maximum_rate": 0.1}), "maximum_rate is higher"),
        (changed("disclosure", to={"decimals": 3}), "decimals is higher"),
    ],
)
def test_less_is_named(body, words):
    found = looser(parse_protocol(BODY), parse_protocol(body | {"version": "2"}))
    assert any(words in line for line in found), found


@pytest.mark.parametrize(
    "body",
    [
        BODY,
        changed("endpoints", 0, "goal", to=0.85),
        changed("title", to="other words"),
        changed("subgroups", 0, "margin", to=0.05),
        changed("subgroups", to=[*BODY["subgroups"],
                                 {"attribute": "site", "metric": "auc", "margin": 0.1}]),
        changed("alpha", to=0.04),
        changed("cohort", "negatives", to=300),
    ],
)  # fmt: skip
def test_the_same_or_more_is_free(body):
    assert looser(parse_protocol(BODY), parse_protocol(body | {"version": "2"})) == ()


def test_a_ceiling_is_eased_upward():
    ceiling = {"metric": "failure_rate", "goal": 0.05}
    first = changed("endpoints", to=[*BODY["endpoints"], ceiling])
    eased = changed("endpoints", to=[*BODY["endpoints"], ceiling | {"goal": 0.1}])
    found = looser(parse_protocol(first), parse_protocol(eased | {"version": "2"}))
    assert found == ("endpoints failure_rate: the goal 0.1 is looser than 0.05",)
    assert not looser(parse_protocol(eased), parse_protocol(first | {"version": "2"}))
