"""A catalogue's entry as RDF: EUCAIM DCAT-AP v2.0, which builds on HealthDCAT-AP release 7.

    >>> turtle = rdf(entry, facts, conditions, manifest_digest, issued, "turtle")

Rules
-----
1. Every property that EUCAIM DCAT-AP v2.0 makes mandatory is there, or nothing is written: Refused
   names what is missing. docs/shapes/eucaim-dcat-ap-v2.ttl checks it.
2. The distribution's SPDX checksum is the digest of the cohort's manifest; the root of its tree is
   a secondary identifier (adms:identifier). Access is remote processing: nobody sees a case.
3. The same entry gives the same bytes: no blank nodes, no clock.
4. Where a total is withheld for an earlier version's sake, the earlier one's stands: the profile
   takes approximate counts.
"""

import datetime as dt
import json
from typing import Any, Literal

from rdflib import Graph, Namespace, URIRef
from rdflib import Literal as Text
from rdflib.namespace import DCTERMS, FOAF, RDF, RDFS, SKOS, XSD

from registry.trust.errors import Refused
from validators.cohort.catalogue import Entry
from validators.cohort.catalogue_facts import (
    Agent,
    CohortFacts,
    Concept,
    Contact,
    FacilityFacts,
    check_complete,
)
from validators.cohort.data_use import TERMS

ADMS = Namespace("http://www.w3.org/ns/adms#")
CV = Namespace("http://data.europa.eu/m8g/")
DCAT = Namespace("http://www.w3.org/ns/dcat#")  # rdflib's own lacks what DCAT 3 added
DCATAP = Namespace("http://data.europa.eu/r5r/")
EUCAIM = Namespace("https://hyperontology.eucaim.cancerimage.eu/#")
HEALTH = Namespace("http://healthdataportal.eu/ns/health#")
SPDX = Namespace("http://spdx.org/rdf/terms#")
VCARD = Namespace("http://www.w3.org/2006/vcard/ns#")
_AUTHORITY = "http://publications.europa.eu/resource/authority/"
_EUCAIM_VOCABULARIES = "https://eucaim.github.io/eucaim_dcat_ap/releases/controlled-vocabularies/"
_PREFIXES = {
    "adms": ADMS, "cv": CV, "dcat": DCAT, "dcatap": DCATAP, "dct": DCTERMS, "eucaim": EUCAIM,
    "foaf": FOAF, "healthdcatap": HEALTH, "rdfs": RDFS, "skos": SKOS, "spdx": SPDX,
    "vcard": VCARD, "xsd": XSD,
}  # fmt: skip
Format = Literal["turtle", "jsonld"]


def rdf(
    entry: Entry, facts: FacilityFacts | None, conditions: list[str], manifest_digest: str,
    issued: dt.date, form: Format,
) -> bytes:  # fmt: skip
    """The catalogue with this one cohort in it, as Turtle or JSON-LD.

    conditions: DUO codes. Raises Refused where the facts are incomplete or the totals are withheld.
    """
    graph = graph_of(entry, facts, conditions, manifest_digest, issued)
    if form == "turtle":
        return graph.serialize(format="turtle").encode()
    context = {name: str(space) for name, space in _PREFIXES.items()}
    value = json.loads(graph.serialize(format="json-ld", context=context))
    return (
        json.dumps(_sorted(value), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    ).encode()


def graph_of(
    entry: Entry, facts: FacilityFacts | None, conditions: list[str], manifest_digest: str,
    issued: dt.date,
) -> Graph:  # fmt: skip
    """The graph of rule 1."""
    said = check_complete(facts, entry.id)
    assert facts is not None  # for `said` is complete
    assert facts.publisher is not None
    assert facts.hdab is not None
    assert facts.contact is not None
    if entry.patients.known is None:
        raise Refused(f"the cohort {entry.id} is too small to say how many patients it has",
                      code="catalogue_incomplete")  # fmt: skip
    graph = Graph(bind_namespaces="none")
    for name, space in _PREFIXES.items():
        graph.bind(name, space)
    base = URIRef(f"{str(facts.base).rstrip('/')}/{entry.id}/{entry.version}")
    catalogue = URIRef(f"{str(facts.base).rstrip('/')}/")
    publisher = _agent(graph, URIRef(f"{catalogue}#publisher"), facts.publisher)
    _describe_catalogue(graph, catalogue, facts.publisher, publisher, said, base)
    put = _Writer(graph, base)
    put.kind(DCAT.Dataset)
    put.literal(DCTERMS.identifier, str(base), XSD.anyURI)
    put.words(DCTERMS.title, entry.title)
    put.words(DCTERMS.description, said.description)
    put.literal(DCAT.version, entry.version)
    put.literal(DCTERMS.issued, issued.isoformat(), XSD.date)
    put.node(DCTERMS.publisher, publisher)
    hdab = _agent(graph, URIRef(f"{catalogue}#hdab"), facts.hdab)
    put.node(HEALTH.hdab, hdab)
    put.node(DCAT.contactPoint, _contact(graph, URIRef(f"{base}#contact"), facts.contact))
    put.node(DCAT.theme, URIRef(f"{_AUTHORITY}data-theme/HEAL"))
    put.node(DCTERMS.accessRights, URIRef(f"{_AUTHORITY}access-right/{said.access_rights}"))
    for law in said.legislation:
        put.node(DCATAP.applicableLegislation, URIRef(law))
    for keyword in said.keywords:
        put.words(DCAT.keyword, keyword)
    put.literal(HEALTH.hasStructuredData, "false", XSD.boolean)
    put.count(HEALTH.numberOfUniqueIndividuals, entry.patients.known)
    put.count(HEALTH.numberOfRecords, said.imaging_studies)
    _classify(put, said)
    provenance = URIRef(f"{base}#provenance")
    put.node(DCTERMS.provenance, provenance)
    graph.add((provenance, RDF.type, DCTERMS.ProvenanceStatement))
    graph.add((provenance, RDFS.label, Text(said.provenance, lang="en")))
    root = URIRef(f"{base}#root")
    put.node(ADMS.identifier, root)
    graph.add((root, RDF.type, ADMS.Identifier))
    graph.add((root, SKOS.notation, Text(entry.root)))
    graph.add((root, ADMS.schemaAgency, Text("Merkle tree hash of the sealed cohort (RFC 9162)")))
    put.node(DCAT.distribution, _distribution(graph, base, facts, said, conditions,
                                              manifest_digest))  # fmt: skip
    return graph


class _Writer:
    """Statements about one subject."""

    def __init__(self, graph: Graph, subject: URIRef) -> None:
        self.graph, self.subject = graph, subject

    def kind(self, kind: URIRef) -> None:
        self.node(RDF.type, kind)

    def node(self, name: URIRef, value: URIRef) -> None:
        self.graph.add((self.subject, name, value))

    def words(self, name: URIRef, text: str) -> None:
        self.graph.add((self.subject, name, Text(text, lang="en")))

    def literal(self, name: URIRef, text: str, kind: URIRef | None = None) -> None:
        self.graph.add((self.subject, name, Text(text, datatype=kind)))

    def count(self, name: URIRef, number: int) -> None:
        self.literal(name, str(number), XSD.nonNegativeInteger)

    def concept(self, name: URIRef, concept: Concept) -> None:
        node = URIRef(concept.iri)
        self.node(name, node)
        self.graph.add((node, SKOS.prefLabel, Text(concept.label, lang="en")))


def _classify(put: _Writer, said: CohortFacts) -> None:
    """What kind of data, of whom, and how it was taken."""
    put.concept(EUCAIM.interoperabilityLevel, said.interoperability_level)
    put.concept(EUCAIM.hasCondition, said.condition)
    for name, concepts in (
        (DCTERMS.type, said.type),
        (EUCAIM.hasBirthSex, said.birth_sex),
        (EUCAIM.collectionMethod, said.collection_method),
        (EUCAIM.hasImageModality, said.modality),
        (EUCAIM.hasEquipmentManufacturer, said.manufacturer),
        (EUCAIM.hasImageBodyPart, said.body_part),
        (HEALTH.healthCategory, said.health_category),
        (HEALTH.healthTheme, said.health_theme),
    ):
        for concept in concepts:
            put.concept(name, concept)


def _describe_catalogue(
    graph: Graph, catalogue: URIRef, agent: Agent, publisher: URIRef, said: CohortFacts,
    dataset: URIRef,
) -> None:  # fmt: skip
    put = _Writer(graph, catalogue)
    put.kind(DCAT.Catalog)
    put.words(DCTERMS.title, f"Locked test cohorts of {agent.name}")
    put.words(
        DCTERMS.description,
        "Cohorts on which models are validated; no case of them is ever shown or handed out.",
    )
    put.node(DCTERMS.publisher, publisher)
    for law in said.legislation:
        put.node(DCATAP.applicableLegislation, URIRef(law))
    put.node(DCAT.dataset, dataset)


def _agent(graph: Graph, node: URIRef, agent: Agent) -> URIRef:
    put = _Writer(graph, node)
    put.kind(FOAF.Agent)
    put.literal(FOAF.name, agent.name)
    if agent.description:
        put.words(DCTERMS.description, agent.description)
    point = URIRef(f"{node}-contact")
    put.node(CV.contactPoint, point)
    contact = _Writer(graph, point)
    contact.kind(CV.ContactPoint)
    if agent.contact.email:
        contact.literal(CV.email, agent.contact.email)
    if agent.contact.page:
        contact.node(CV.contactPage, URIRef(agent.contact.page))
    return node


def _contact(graph: Graph, node: URIRef, contact: Contact) -> URIRef:
    put = _Writer(graph, node)
    put.kind(VCARD.Kind)
    if contact.email:
        put.node(VCARD.hasEmail, URIRef(f"mailto:{contact.email}"))
    if contact.page:
        put.node(VCARD.hasURL, URIRef(contact.page))
    return node


def _distribution(
    graph: Graph, base: URIRef, facts: FacilityFacts, said: CohortFacts, conditions: list[str],
    manifest_digest: str,
) -> URIRef:  # fmt: skip
    node = URIRef(f"{base}#distribution")
    put = _Writer(graph, node)
    put.kind(DCAT.Distribution)
    put.words(
        DCTERMS.description,
        "The sealed cohort. Models are run on it at the facility; the checksum is that of its "
        "manifest, which names every object by its digest.",
    )
    put.node(DCAT.accessURL, URIRef(str(facts.access_page)))
    for law in said.legislation:
        put.node(DCATAP.applicableLegislation, URIRef(law))
    rights = [f"{_EUCAIM_VOCABULARIES}access-conditions/#REMOTE_PROCESSING"]
    rights += [condition_iri(code) for code in conditions]
    for right in rights:
        put.node(DCTERMS.rights, URIRef(right))
        graph.add((URIRef(right), RDF.type, DCTERMS.RightsStatement))
    checksum = URIRef(f"{base}#checksum")
    put.node(SPDX.checksum, checksum)
    value = _Writer(graph, checksum)
    value.kind(SPDX.Checksum)
    value.node(SPDX.algorithm, SPDX.checksumAlgorithm_sha256)
    graph.add((SPDX.checksumAlgorithm_sha256, RDF.type, SPDX.ChecksumAlgorithm))
    # Lower case, as the profile asks; rdflib would write the canonical upper case of xsd:hexBinary.
    digest = Text(manifest_digest.removeprefix("sha256:"), datatype=XSD.hexBinary, normalize=False)
    graph.add((checksum, SPDX.checksumValue, digest))
    return node


def condition_iri(code: str) -> str:
    """The term of EUCAIM's Data Use Conditions vocabulary that stands for a DUO code."""
    if code == "DUO:0000029":
        name = "RETURN_TO_DATABASE_OR_RESOURCE"
    else:
        words = TERMS[code].upper().replace(",", "").replace("-", " ").split()
        name = "_".join(word for word in words if word != "OR")
    return f"{_EUCAIM_VOCABULARIES}data-use-conditions/#{name}"


def _sorted(value: Any) -> Any:
    """JSON-LD with its sets in one order."""
    if isinstance(value, dict):
        return {key: _sorted(item) for key, item in value.items()}
    if isinstance(value, list):
        return sorted(
            (_sorted(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True)
        )
    return value
