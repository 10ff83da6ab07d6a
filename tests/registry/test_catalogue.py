"""The catalogue over a real facility: what innovators may know of a cohort that they never see."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from rdflib import Graph
from rdflib.namespace import RDF

from registry.api.app import create_api
from registry.api.catalogue import chosen
from registry.facility import Facility
from registry.settings import Databases
from registry.submissions import use
from registry.submissions.catalogue import catalogue, with_shown_totals
from registry.submissions.lock import cohort as cohort_row
from registry.submissions.lock import cohorts, load_manifest, lock_protocol
from registry.submissions.use import Statement
from registry.trust.canonical import sha256_bytes
from registry.trust.errors import Refused
from tests.registry.api_stage import listening
from tests.registry.development_example import sealed
from tests.registry.facility_example import Example, facility_example
from tests.registry.locked import no_restriction
from tests.registry.role import token_of
from tests.validators.test_catalogue_rdf import DCAT, conforms, facts
from validators.cohort.catalogue_facts import FacilityFacts, check_complete
from validators.cohort.manifest import (
    Manifest,
    description_of,
    manifest_bytes,
    manifest_path,
    parse_manifest,
    reference_path,
    root_of,
    shard_path,
)
from validators.contract.read import parse_document
from validators.report.suppression import CLASSES


@pytest.fixture(scope="module")
def life(database: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    with facility_example(database, tmp_path_factory.mktemp("catalogue")) as made:
        made.body["cluster"] = None
        use.declare(made.api, made.people["Sam"], "nodules", Statement(
            codes=["DUO:0000042", "DUO:0000020"], words="<b>together</b>"))  # fmt: skip
        sealed(made, "large", first=1, every=18)
        yield made


@pytest.fixture(scope="module")
def told(life: Example, tmp_path_factory: pytest.TempPathFactory) -> Facility:
    """The facility with a complete file of facts."""
    value = facts()
    value["cohorts"] = {"large": value["cohorts"]["cohort"]}
    path = tmp_path_factory.mktemp("facts") / "catalogue.yaml"
    path.write_text(yaml.safe_dump(value))
    return dataclasses.replace(
        life.api, settings=dataclasses.replace(life.api.settings, catalogue=path)
    )


def read(facility: Facility, life: Example, form: Any, name: str = "large") -> bytes:
    return catalogue(facility, life.people["Eva"], name, form).data


def test_json_has_counts_that_a_report_might_show_and_no_small_one(life: Example) -> None:
    found = json.loads(read(life.api, life, "json"))
    manifest = load_manifest(life.api, cohort_row(life.api, life.people["Sam"], "large"))
    assert found["cases"] == {"count": manifest.counts.cases, "about": None}
    assert found["attributes"]
    withheld = 0
    for attribute, groups in found["attributes"].items():
        for name, group in groups.items():
            for side in CLASSES:
                assert group[side] is None or group[side] >= found["minimum_group"]
                if group[side] is not None:
                    assert group[side] == getattr(manifest.attributes[attribute][name], side)
                withheld += group[side] is None
    assert withheld
    assert found["root"] == manifest.root
    assert "patients" not in json.dumps(found["attributes"])
    assert not set(manifest.case_digests) & set(json.dumps(found).split('"'))


def test_the_page_needs_nothing_else_and_escapes_what_people_wrote(life: Example) -> None:
    page = read(life.api, life, "html", "nodules").decode()
    assert page.startswith("<!doctype html>")
    assert "<script" not in page
    assert "src=" not in page.replace("img-src", "")
    assert "&lt;b&gt;together&lt;/b&gt;" in page
    assert "general research use" in page
    assert page == read(life.api, life, "html", "nodules").decode()


def test_rdf_is_refused_until_the_facility_has_said_enough(life: Example, told: Facility) -> None:
    for form in ("turtle", "jsonld"):
        with pytest.raises(Refused) as refused:
            read(life.api, life, form)
        assert refused.value.code == "catalogue_incomplete"
        assert "\n" not in refused.value.message
        assert read(told, life, form)
    with pytest.raises(Refused, match="say nothing of the cohort nodules"):
        read(told, life, "turtle", "nodules")


def test_rdf_of_a_real_cohort_conforms(life: Example, told: Facility) -> None:
    graph = Graph().parse(data=read(told, life, "turtle"), format="turtle")
    good, text = conforms(graph)
    assert good, text
    assert len(list(graph.subjects(RDF.type, DCAT.Dataset))) == 1
    row = cohort_row(life.api, life.people["Sam"], "large")
    assert row["manifest_digest"].removeprefix("sha256:") in read(told, life, "turtle").decode()
    assert str(row["root"]) in read(told, life, "jsonld").decode()


def test_a_version_with_one_case_less_shows_no_total_of_its_own(life: Example) -> None:
    """The manifest of a version without one patient: its numbers are the earlier one's."""
    row = cohort_row(life.api, life.people["Sam"], "large")
    manifest = load_manifest(life.api, row)
    value = json.loads(manifest_bytes(manifest))
    counts = value["counts"]
    counts["cases"] -= 1
    counts["positives"] -= 1
    counts["patients"] -= 1
    before = json.loads(read(life.api, life, "json"))
    smaller = _remade(value)
    life.sql(
        "INSERT INTO touchstone.cohort SELECT id, '2', %s, %s, %s, title, positives - 1, negatives,"
        " patients - 1, contract_digest, locked_by FROM touchstone.cohort WHERE id = 'large'",
        smaller.root, _kept(life, smaller), manifest_path("large", "2"),
    )  # fmt: skip
    after = json.loads(read(life.api, life, "json"))
    assert after["version"] == "2"
    assert after["positives"] == {"count": None, "about": before["positives"]["count"]}
    assert after["patients"] == {"count": None, "about": before["patients"]["count"]}
    first = json.loads(catalogue(life.api, life.people["Eva"], "large", "json", "1").data)
    assert first["cases"] == before["cases"]


def test_the_list_shows_others_no_total_that_the_catalogue_withholds(life: Example) -> None:
    """After the test above: two versions of `large` that differ by one patient."""
    rows = cohorts(life.api, life.people["Eva"])
    assert [row["version"] for row in rows if row["id"] == "large"] == ["1", "2"]
    for who in ("Sam", "Ada", "Aud", "Ann"):
        assert with_shown_totals(life.api, life.people[who], rows) == rows
    secret = token_of(life.api.databases, "sme-a", "innovator", "Eva")
    with listening(create_api(life.api)) as address:
        listed = httpx.get(f"{address}/api/v1/cohorts", trust_env=False,
                           headers={"Authorization": f"Bearer {secret}"}).json()  # fmt: skip
    assert [item["version"] for item in listed["items"]] == [row["version"] for row in rows]
    for item in listed["items"]:
        shown = json.loads(catalogue(life.api, life.people["Eva"], item["id"], "json",
                                     item["version"]).data)  # fmt: skip
        for name in ("positives", "negatives", "patients"):
            assert item[name] == shown[name]["count"]
    found = {(item["id"], item["version"]): item["patients"] for item in listed["items"]}
    assert found["large", "1"] is not None
    assert found["large", "2"] is None


def _remade(value: dict[str, Any]) -> Any:
    """A second version's manifest, sound in itself: one positive case fewer everywhere."""
    value["version"] = "2"
    for groups in value["attributes"].values():
        largest = max(groups.values(), key=lambda group: group["positives"])
        largest["cases"] -= 1
        largest["positives"] -= 1
        largest["patients"] -= 1
    value["case_digests"] = value["case_digests"][1:]
    shards = [entry for entry in value["objects"] if entry["kind"] == "inputs"]
    for number, entry in enumerate(shards):
        entry["path"] = shard_path("large", "2", number)
    shards[0]["cases"] -= 1
    value["objects"][-1]["path"] = reference_path("large", "2")
    value["objects"][-1]["cases"] -= 1
    made = Manifest.model_validate(value)
    root = root_of(description_of(made), made.objects, made.case_digests)
    return parse_manifest(manifest_bytes(made.model_copy(update={"root": root})))


def _kept(life: Example, manifest: Any) -> str:
    data = manifest_bytes(manifest)
    life.api.store.put(manifest_path(manifest.id, manifest.version), data)
    return sha256_bytes(data)


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", "json"), ("*/*", "json"), ("text/html,application/xhtml+xml", "html"),
        ("text/turtle", "turtle"), ("text/html;q=0.5, application/ld+json;q=0.9", "jsonld"),
        ("text/turtle;q=0", "json"), ("text/turtle;q=x, text/html", "html"), ("image/png", "json"),
    ],
)  # fmt: skip
def test_the_form_is_what_was_asked_for(accept: str, form: str) -> None:
    assert chosen(accept) == form


def test_over_http_the_form_follows_the_accept_header_or_the_query(
    life: Example, told: Facility
) -> None:
    secret = token_of(life.api.databases, "sme-a", "innovator", "Eva")
    with listening(create_api(told)) as address:
        http = httpx.Client(
            base_url=f"{address}/api/v1/cohorts", trust_env=False,
            headers={"Authorization": f"Bearer {secret}"},
        )  # fmt: skip
        for media in ("text/html", "text/turtle", "application/ld+json", "application/json"):
            answer = http.get("/large/catalogue?version=1", headers={"Accept": media})
            assert answer.status_code == 200, answer.text
            assert answer.headers["content-type"].startswith(media)
            assert "accept" in answer.headers["vary"].lower()
            form = {v: k for k, v in MEDIA.items()}[media]
            same = http.get(f"/large/catalogue?version=1&format={form}")
            assert same.content == answer.content
            assert answer.headers["etag"] == same.headers["etag"]
        refused = http.get("/nodules/catalogue?format=turtle")
        assert (refused.status_code, refused.json()["code"]) == (403, "catalogue_incomplete")
        assert http.get("/none/catalogue").status_code == 404


MEDIA = {"html": "text/html", "turtle": "text/turtle", "jsonld": "application/ld+json",
         "json": "application/json"}  # fmt: skip


@pytest.mark.parametrize("who", ["Clara"])
def test_who_may_not_list_cohorts_reads_no_catalogue(life: Example, who: str) -> None:
    with pytest.raises(Refused):
        catalogue(life.api, life.people[who], "large", "json")


def test_no_restriction_is_published_once_another_steward_has_confirmed_it(life: Example) -> None:
    def published() -> tuple[bool, list[str]]:
        said = json.loads(read(life.api, life, "json", "nodules"))["conditions"]
        return said["declared"], [one["code"] for one in said["codes"]]

    use.declare(life.api, life.people["Sam"], "nodules", Statement(codes=["DUO:0000004"]))
    assert published() == (False, [])
    no_restriction(life.api, life.people, "nodules")
    assert published() == (True, ["DUO:0000004"])


def test_a_protocol_with_a_larger_group_raises_the_catalogues(life: Example) -> None:
    no_restriction(life.api, life.people, "nodules")
    lock_protocol(life.api, life.people["Sam"], life.body | {
        "id": "strict", "disclosure": {"minimum_group": 30, "decimals": 2}})  # fmt: skip
    assert json.loads(read(life.api, life, "json", "nodules"))["minimum_group"] == 30


def test_the_facts_that_the_docs_show_are_read_and_complete() -> None:
    text = (Path(__file__).parents[2] / "docs" / "facility.md").read_text()
    block = next(part for part in text.split("```yaml")[1:] if "hdab:" in part)
    shown = parse_document(FacilityFacts, yaml.safe_load(block.split("```")[0]), "the example")
    assert check_complete(shown, "lidc-nodules").modality[0].label
