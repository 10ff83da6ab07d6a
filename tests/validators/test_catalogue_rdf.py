"""The RDF has what EUCAIM DCAT-AP v2.0 makes mandatory, or there is none."""

import datetime as dt
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pyshacl import validate
from rdflib import Graph, URIRef
from rdflib.compare import isomorphic
from rdflib.namespace import DCTERMS, RDF

from registry.trust.errors import Invalid, Refused
from tests.validators.test_catalogue import TABLE, manifest
from validators.cohort.catalogue import Entry, catalogue_entry
from validators.cohort.catalogue_facts import FacilityFacts, read_facts
from validators.cohort.catalogue_rdf import DCAT, EUCAIM, HEALTH, SPDX, condition_iri, graph_of, rdf
from validators.cohort.data_use import TERMS
from validators.contract.read import parse_document

ROOT = Path(__file__).parents[2]
SHAPES = ROOT / "docs" / "shapes" / "eucaim-dcat-ap-v2.ttl"
ISSUED = dt.date(2026, 11, 20)
DIGEST = "sha256:" + "ab" * 32
CONDITIONS = ["DUO:0000007", "DUO:0000046"]


def term(name: str, label: str) -> dict[str, str]:
    return {"iri": f"{EUCAIM}{name}", "label": label}


def facts() -> dict[str, Any]:
    """A complete file. Terms are those of EUCAIM's own examples."""
    return {
        "base": "https://tef.cancer-institute.eu/cohorts",
        "publisher": {"name": "Cancer Institute TEF",
                      "contact": {"email": "tef@cancer-institute.eu"}},
        "contact": {"email": "cohorts@cancer-institute.eu"},
        "hdab": {"name": "Health Data Agency", "contact": {"page": "https://hda.gov.eu/apply"}},
        "access_page": "https://negotiator.eucaim.cancerimage.eu/",
        "cohorts": {"cohort": {
            "description": "Lung nodules on chest CT, rated by four readers",
            "interoperability_level": term("SPEC1000011", "Tier 2"),
            "type": [term("SPEC1000019", "Annotated imaging dataset")],
            "birth_sex": [term("COM1001370", "Male")],
            "condition": term("CLIN1000075", "Prostate cancer"),
            "collection_method": [term("SPEC1000003", "Cohort")],
            "modality": [term("IMG1000022", "MR")],
            "manufacturer": [term("IMG1000047", "Siemens")],
            "body_part": [term("BP1000233", "Prostate")],
            "health_category": [{
                "iri": "https://hdeu-dcat.acceptance.data.health.europa.eu/resource/authority/"
                       "healthcategories/EHRS", "label": "Electronic health records"}],
            "imaging_studies": 700,
            "keywords": ["prostate", "MR"],
            "provenance": "Collected in routine care at three hospitals",
        }},
    }  # fmt: skip


def parsed(value: dict[str, Any]) -> FacilityFacts:
    return parse_document(FacilityFacts, value, "the facts")


def entry(**more: Any) -> Entry:
    return catalogue_entry(manifest(TABLE, **more), k=10)


def made(value: dict[str, Any] | None = None, found: Entry | None = None) -> Graph:
    given = parsed(facts() if value is None else value)
    return graph_of(found or entry(), given, CONDITIONS, DIGEST, ISSUED)


def conforms(graph: Graph) -> tuple[bool, str]:
    good, _, text = validate(graph, shacl_graph=Graph().parse(SHAPES), advanced=False)
    return bool(good), str(text)


def test_a_complete_entry_conforms():
    good, text = conforms(made())
    assert good, text


MANDATORY = [
    DCTERMS.identifier, DCTERMS.title, DCTERMS.description, DCAT.version,
    EUCAIM.interoperabilityLevel, DCAT.distribution, DCAT.contactPoint, DCAT.theme,
    HEALTH.healthCategory, DCTERMS.type, DCTERMS.accessRights,
    URIRef("http://data.europa.eu/r5r/applicableLegislation"), DCTERMS.publisher, HEALTH.hdab,
    HEALTH.hasStructuredData, HEALTH.numberOfUniqueIndividuals, HEALTH.numberOfRecords,
    EUCAIM.hasBirthSex, EUCAIM.hasCondition, EUCAIM.collectionMethod, EUCAIM.hasImageModality,
    EUCAIM.hasEquipmentManufacturer, EUCAIM.hasImageBodyPart, DCAT.keyword, DCTERMS.provenance,
]  # fmt: skip


@pytest.mark.parametrize("name", MANDATORY, ids=str)
def test_the_shapes_notice_each_mandatory_property_that_is_missing(name):
    graph = made()
    dataset = next(graph.subjects(RDF.type, DCAT.Dataset))
    assert (dataset, name, None) in graph
    graph.remove((dataset, name, None))
    good, text = conforms(graph)
    assert not good, text


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        (DCAT.Distribution, DCAT.accessURL),
        (DCAT.Distribution, DCTERMS.rights),
        (DCAT.Distribution, URIRef("http://data.europa.eu/r5r/applicableLegislation")),
        (SPDX.Checksum, SPDX.algorithm),
        (DCAT.Catalog, DCTERMS.publisher),
        (URIRef("http://data.europa.eu/m8g/ContactPoint"), URIRef("http://data.europa.eu/m8g/email")),
        (URIRef("http://www.w3.org/2006/vcard/ns#Kind"),
         URIRef("http://www.w3.org/2006/vcard/ns#hasEmail")),
    ],
    ids=str,
)  # fmt: skip
def test_the_shapes_notice_what_is_missing_further_in(subject, name):
    graph = made()
    for node in list(graph.subjects(RDF.type, subject)):
        graph.remove((node, name, None))
    assert not conforms(graph)[0]


def test_two_conditions_or_a_term_of_another_ontology_are_noticed():
    graph = made()
    dataset = next(graph.subjects(RDF.type, DCAT.Dataset))
    graph.add((dataset, EUCAIM.hasCondition, EUCAIM.CLIN1000076))
    assert not conforms(graph)[0]
    value = facts()
    value["cohorts"]["cohort"]["modality"] = [
        {"iri": "http://snomed.info/id/77477000", "label": "CT"}
    ]
    assert not conforms(made(value))[0]


def test_a_health_category_of_another_vocabulary_is_noticed() -> None:
    for host, fine in (("hdeu-dcat.data", True), ("hdeu-dcat.acceptance.data", True),
                       ("hdeu-dcat.other", False)):  # fmt: skip
        value = facts()
        value["cohorts"]["cohort"]["health_category"][0]["iri"] = (
            f"https://{host}.health.europa.eu/resource/authority/healthcategories/EHRS"
        )
        assert conforms(made(value))[0] is fine


def test_checksum_is_the_manifests_and_the_root_is_an_identifier():
    graph = made()
    values = [str(v) for v in graph.objects(None, SPDX.checksumValue)]
    assert values == ["ab" * 32]
    found = entry()
    notation = URIRef("http://www.w3.org/2004/02/skos/core#notation")
    assert found.root in {str(v) for v in graph.objects(None, notation)}


def test_nothing_that_is_withheld_is_in_the_rdf():
    turtle = rdf(entry(), parsed(facts()), CONDITIONS, DIGEST, ISSUED, "turtle").decode()
    for secret in ("maker", "female", "300", "120"):
        assert secret not in turtle


def test_an_erased_patient_leaves_the_earlier_count():
    after = manifest({
        "sex": {"female": (119, 300), "male": (80, 200)},
        "maker": {"A": (149, 400), "B": (46, 60), "C": (4, 40)},
    }, "2")  # fmt: skip
    found = catalogue_entry(after, k=10, earlier=[manifest(TABLE)])
    counts = {
        int(str(v)) for v in made(found=found).objects(None, HEALTH.numberOfUniqueIndividuals)
    }
    assert counts == {700}
    assert conforms(made(found=found))[0]


def test_turtle_and_json_ld_say_the_same_and_the_same_each_time():
    arguments = (entry(), parsed(facts()), CONDITIONS, DIGEST, ISSUED)
    turtle, linked = rdf(*arguments, "turtle"), rdf(*arguments, "jsonld")
    assert isomorphic(
        Graph().parse(data=turtle, format="turtle"), Graph().parse(data=linked, format="json-ld")
    )
    json.loads(linked)
    program = (
        "import sys; from tests.validators.test_catalogue_rdf import *; "
        "a = (entry(), parsed(facts()), CONDITIONS, DIGEST, ISSUED); "
        "sys.stdout.buffer.write(rdf(*a, 'turtle') + rdf(*a, 'jsonld'))"
    )
    for seed in ("1", "2"):
        again = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, check=True, cwd=ROOT,
            env={"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed},
        )  # fmt: skip
        assert again.stdout == turtle + linked


@pytest.mark.parametrize("name", ["publisher", "contact", "hdab", "base", "access_page"])
def test_without_one_of_these_there_is_no_rdf(name):
    value = facts()
    del value[name]
    with pytest.raises(Refused, match=f"needs {name}") as refused:
        made(value)
    assert refused.value.code == "catalogue_incomplete"
    assert "\n" not in refused.value.message


def test_without_facts_of_the_cohort_there_is_no_rdf():
    value = facts()
    value["cohorts"] = {}
    with pytest.raises(Refused, match="say nothing of the cohort"):
        made(value)
    with pytest.raises(Refused, match="TOUCHSTONE_CATALOGUE"):
        graph_of(entry(), None, [], DIGEST, ISSUED)


@pytest.mark.parametrize(
    "name", ["TBD", "To be determined", "Placeholder", "unknown", "N/A", "???", "xxx", "none"]
)
def test_a_placeholder_for_the_access_body_is_refused(name, tmp_path):
    value = facts()
    value["hdab"]["name"] = name
    (tmp_path / "facts.yaml").write_text(yaml.safe_dump(value))
    with pytest.raises(Invalid, match=r"hdab\.name.*is a placeholder") as refused:
        read_facts(tmp_path / "facts.yaml")
    assert "\n" not in refused.value.message


@pytest.mark.parametrize("address", ["https://example.org/x", "https://hdab.invalid/", "nowhere"])
def test_a_page_that_nobody_finds_is_refused(address):
    value = facts()
    value["access_page"] = address
    with pytest.raises(Invalid, match="access_page"):
        parsed(value)


def test_a_contact_reaches_somebody():
    value = facts()
    value["contact"] = {}
    with pytest.raises(Invalid, match=r"contact\.email.*e-mail address or a page"):
        parsed(value)


def test_every_code_has_its_term_in_eucaims_vocabulary():
    found = {condition_iri(code).rpartition("#")[2] for code in TERMS}
    assert found == {
        "DISEASE_SPECIFIC_RESEARCH", "GENERAL_RESEARCH_USE", "HEALTH_MEDICAL_BIOMEDICAL_RESEARCH",
        "NO_RESTRICTION", "POPULATION_ORIGINS_ANCESTRY_RESEARCH_ONLY", "CLINICAL_CARE_USE",
        "COLLABORATION_REQUIRED", "ETHICS_APPROVAL_REQUIRED", "GENETIC_STUDIES_ONLY",
        "GEOGRAPHICAL_RESTRICTION", "INSTITUTION_SPECIFIC_RESTRICTION",
        "NO_GENERAL_METHODS_RESEARCH", "NON_COMMERCIAL_USE_ONLY",
        "NOT_FOR_PROFIT_ORGANISATION_USE_ONLY", "NOT_FOR_PROFIT_NON_COMMERCIAL_USE_ONLY",
        "POPULATION_ORIGINS_ANCESTRY_RESEARCH_PROHIBITED", "PROJECT_SPECIFIC_RESTRICTION",
        "PUBLICATION_MORATORIUM", "PUBLICATION_REQUIRED", "RESEARCH_SPECIFIC_RESTRICTIONS",
        "RETURN_TO_DATABASE_OR_RESOURCE", "TIME_LIMIT_ON_USE", "USER_SPECIFIC_RESTRICTION",
    }  # fmt: skip
