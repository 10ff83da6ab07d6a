"""The catalogue gives no small group away: alone, against an earlier version, against reports."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from validators.cohort.catalogue import Entry, Group, Total, catalogue_entry
from validators.cohort.manifest import Counts, Manifest
from validators.protocol.schema import Protocol
from validators.report.suppression import CLASSES, Cell, withheld

K = 10
DIGEST = "sha256:" + "1" * 64
Table = dict[str, dict[str, tuple[int, int]]]


def manifest(
    table: Table, version: str = "1", patients: int | None = None, **flow: int
) -> Manifest:
    """A manifest with these counts; its root is not that of a real one."""
    groups = next(iter(table.values()))
    positives = sum(p for p, _ in groups.values())
    negatives = sum(n for _, n in groups.values())
    return Manifest.model_construct(
        id="cohort", version=version, title="A cohort", licence="CC BY 4.0", citation="",
        reference_standard="pathology", contract_digest=DIGEST, root=DIGEST, case_flow=flow,
        counts=Counts(cases=positives + negatives, patients=patients or positives + negatives,
                      positives=positives, negatives=negatives),
        attributes={
            name: {g: Counts(cases=p + n, patients=p + n, positives=p, negatives=n)
                   for g, (p, n) in rows.items()}
            for name, rows in table.items()
        },
    )  # fmt: skip


TABLE: Table = {
    "sex": {"female": (120, 300), "male": (80, 200)},
    "maker": {"A": (150, 400), "B": (46, 60), "C": (4, 40)},
}


def protocol(*attributes: str, k: int = 10, crossed: tuple[str, ...] = ()) -> Protocol:
    rules: list[dict[str, Any]] = [{"attribute": a, "margin": 0.2} for a in attributes]
    if crossed:
        rules.append({"attribute": crossed[0], "crossed_with": list(crossed[1:]), "margin": 0.2})
    return Protocol.model_validate({
        "id": "p", "version": "1", "threshold": 0.5, "reference_standard": "r",
        "intended_use": {"purpose": "p", "population": "p", "setting": "s"},
        "endpoints": [{"metric": "auc", "goal": 0.8}], "subgroups": rules,
        "disclosure": {"minimum_group": k},
    })  # fmt: skip


def shown(entry: Entry) -> set[tuple[str, str, str]]:
    return {
        (attribute, name, side)
        for attribute, groups in entry.attributes.items() for name, group in groups.items()
        for side in CLASSES if getattr(group, side) is not None
    }  # fmt: skip


def test_small_groups_and_those_that_give_them_away_are_withheld():
    entry = catalogue_entry(manifest(TABLE), k=K)
    assert entry.cases == Total(700)
    assert entry.attributes["sex"]["female"] == Group(120, 300)
    assert entry.attributes["maker"]["C"].positives is None
    assert entry.attributes["maker"]["B"].positives is None  # else 200 - 150 - 46
    assert entry.attributes["maker"]["C"].negatives == 40
    assert entry.attributes["maker"]["C"].cases is None


def test_k_is_the_largest_of_the_facilitys_and_the_protocols():
    assert catalogue_entry(manifest(TABLE), k=20, protocols=[protocol("sex")]).minimum_group == 20
    assert catalogue_entry(manifest(TABLE), k=10, protocols=[protocol(k=50)]).minimum_group == 50
    with pytest.raises(ValueError, match="below 10"):
        catalogue_entry(manifest(TABLE), k=9)


def test_where_a_class_is_small_no_group_is_shown():
    entry = catalogue_entry(manifest({"sex": {"f": (4, 100), "m": (5, 100)}}), k=K)
    assert entry.attributes == {}
    assert entry.positives == Total(None)
    assert entry.negatives == entry.cases == Total(None)  # they would give it away


def test_exclusions_below_k_are_withheld():
    entry = catalogue_entry(manifest(TABLE, unreadable=3, indeterminate=40), k=K)
    assert entry.excluded == {"unreadable": None, "indeterminate": 40}


def test_a_patient_taken_out_can_not_be_found_by_holding_two_versions_against_each_other():
    before = manifest(TABLE)
    after = manifest({
        "sex": {"female": (119, 300), "male": (80, 200)},
        "maker": {"A": (149, 400), "B": (46, 60), "C": (4, 40)},
    }, "2")  # fmt: skip
    old, new = catalogue_entry(before, k=K), catalogue_entry(after, k=K, earlier=[before])
    assert new.positives == Total(None, 200)  # the earlier one's, which is public
    assert new.cases == Total(None, 700)
    assert new.negatives == Total(None)
    for attribute, name, side in shown(old) & shown(new):
        change = abs(getattr(old.attributes[attribute][name], side)
                     - getattr(new.attributes[attribute][name], side))  # fmt: skip
        assert change == 0 or change >= K
    assert new.attributes["sex"]["female"].positives is None
    assert new.attributes["sex"]["male"].positives is None
    assert new.attributes["maker"]["A"].positives is None


def test_a_version_with_many_new_cases_shows_its_numbers():
    after = manifest({
        "sex": {"female": (220, 500), "male": (180, 300)},
        "maker": {"A": (350, 700), "B": (46, 60), "C": (4, 40)},
    }, "2")  # fmt: skip
    entry = catalogue_entry(after, k=K, earlier=[manifest(TABLE)])
    assert entry.cases == Total(1200)
    assert entry.attributes["sex"]["male"] == Group(180, 300)


def test_a_total_that_is_withheld_can_not_be_added_up_from_groups():
    before = manifest({"sex": {"f": (100, 300), "m": (100, 300)}})
    after = manifest({"sex": {"f": (120, 300), "m": (75, 300)}}, "2")  # 195: five fewer in all
    entry = catalogue_entry(after, k=K, earlier=[before])
    assert entry.positives == Total(None, 200)
    assert entry.attributes["sex"]["f"].positives is None
    assert entry.attributes["sex"]["m"].positives is None


def test_crossed_attributes_are_left_out():
    entry = catalogue_entry(manifest(TABLE), k=K, protocols=[protocol(crossed=("sex", "maker"))])
    assert entry.attributes == {}
    entry = catalogue_entry(
        manifest(TABLE | {"site": {"x": (100, 300), "y": (100, 200)}}), k=K,
        protocols=[protocol("site", crossed=("sex", "maker"))],
    )  # fmt: skip
    assert set(entry.attributes) == {"site"}


def test_what_a_report_may_show_is_never_withheld_here_in_vain():
    """A fine attribute nested in one that reports show: the coarse count would give it away."""
    table: Table = {
        "band": {"young": (60, 300), "old": (140, 200)},
        "age": {"a": (4, 150), "b": (56, 150), "c": (100, 100), "d": (40, 100)},
    }
    alone = catalogue_entry(manifest(table), k=K)
    assert alone.attributes["age"]["a"].positives is None
    both = catalogue_entry(manifest(table), k=K, protocols=[protocol("band")])
    if "age" in both.attributes:
        hidden = {(a, g, s) for a, groups in both.attributes.items() for g in groups
                  for s in CLASSES} - shown(both)  # fmt: skip
        assert not any(place[0] == "band" for place in hidden)
    else:
        assert set(both.attributes) <= {"band"}


tables = st.fixed_dictionaries({
    "a": st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=2, max_size=4),
    "b": st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=2, max_size=4),
})  # fmt: skip


def levelled(rows: dict[str, list[tuple[int, int]]]) -> Table | None:
    """Both attributes divide one cohort: the last group of the second takes up the rest."""
    totals = [sum(r[i] for r in rows["a"]) for i in (0, 1)]
    rest = [totals[i] - sum(r[i] for r in rows["b"][:-1]) for i in (0, 1)]
    if min(rest) < 0 or min(totals) < 1:
        return None
    second = [*rows["b"][:-1], (rest[0], rest[1])]
    return {"a": {f"a{n}": r for n, r in enumerate(rows["a"])},
            "b": {f"b{n}": r for n, r in enumerate(second)}}  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(tables, st.sampled_from([(), ("a",), ("b",), ("a", "b")]))
def test_with_all_that_a_report_shows_every_small_count_stays_uncertain(rows, asked):
    table = levelled(rows)
    if table is None:
        return
    entry = catalogue_entry(manifest(table), k=K, protocols=[protocol(*asked)] if asked else [])
    if min(entry_totals(table)) < K:  # then no total is known either
        assert entry.attributes == {}
        return
    cells = {a: {g: Cell(*c) for g, c in groups.items()} for a, groups in table.items()}
    reported = {a: cells[a] for a in asked}
    hidden_there = withheld(reported, K)
    for attribute, groups in cells.items():
        for side in CLASSES:
            known = {name: getattr(cell, side) for name, cell in groups.items()
                     if (attribute, name, side) in shown(entry)
                     or (attribute in asked and (attribute, name, side) not in hidden_there
                         and min(entry_totals(table)) >= K)}  # fmt: skip
            total = sum(getattr(cell, side) for cell in groups.values())
            for name, cell in groups.items():
                if getattr(cell, side) < K:
                    assert name not in known
                    unknown = [other for other in groups if other not in known]
                    assert len(unknown) >= 2  # alone it would be the total less the others
                    assert total - sum(known.values()) >= K - 1


def entry_totals(table: Table) -> tuple[int, int]:
    groups = table["a"].values()
    return sum(p for p, _ in groups), sum(n for _, n in groups)
