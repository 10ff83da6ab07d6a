"""What a steward reads who signs a cohort's lock."""

import pytest

from registry.cli.cohort_life import _print_signed, standing


def test_the_first_signature_says_who_is_next_and_the_second_nothing() -> None:
    after = {"id": "few", "version": "2", "state": "sealed", "signed_by": ["Sam"]}
    assert standing(after).splitlines() == [
        "few 2 is sealed, signed by Sam",
        "Next, another steward: touchstone cohort sign few --version 2 --key …",
    ]
    after |= {"state": "locked", "signed_by": ["Sam", "Uma"]}
    assert standing(after) == "few 2 is locked, signed by Sam and Uma"


@pytest.mark.parametrize(
    ("until", "said"), [(None, "as long as the store keeps every object"), ("2036-12-31",) * 2]
)
def test_the_day_that_is_signed_is_in_words(
    capsys: pytest.CaptureFixture[str], until: str | None, said: str
) -> None:
    _print_signed({"cohort": "few", "until": until}, "Sam of tef")
    assert said in capsys.readouterr().out
