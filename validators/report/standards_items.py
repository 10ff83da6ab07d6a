"""The headings of the guidelines and laws that a report is mapped to, in our own short words.

Each item: its number where we are sure of it (else none), what it is about, and the parts of a
report (`validators.report.standards.PARTS`) that hold evidence on it. No part: a report of this
kind can't hold any, and the item is never covered.
"""

from typing import NamedTuple


class Item(NamedTuple):
    """One heading. `parts` are names of what a report may hold on it."""

    number: str
    title: str
    parts: tuple[str, ...] = ()


class Standard(NamedTuple):
    """One document: `level` says how finely it is mapped."""

    name: str
    source: str
    level: str
    items: tuple[Item, ...]


FUTURE_AI = Standard(
    "FUTURE-AI",
    "Lekadir et al., BMJ 2025;388:e081554, doi:10.1136/bmj-2024-081554",
    "its 30 recommendations, by principle",
    (
        Item("Fairness 1", "sources of bias, named early"),
        Item("Fairness 2", "attributes of people and data, collected", ("groups",)),
        Item("Fairness 3", "biases, evaluated", ("groups", "within")),
        Item("Universality 1", "clinical settings and how they differ", ("use",)),
        Item("Universality 2", "community standards, used"),
        Item("Universality 3", "evaluation on outside data or several sites", ("locked", "sites")),
        Item("Universality 4", "validity at the place of use"),
        Item("Traceability 1", "management of risks"),
        Item("Traceability 2", "documentation, technical and clinical", ("computed",)),
        Item("Traceability 3", "quality control of inputs and outputs", ("failures",)),
        Item("Traceability 4", "regular audits and updates"),
        Item("Traceability 5", "a log of use"),
        Item("Traceability 6", "governance and accountability"),
        Item("Usability 1", "intended use and what users need", ("use",)),
        Item("Usability 2", "interaction with and oversight by people"),
        Item("Usability 3", "training of users"),
        Item("Usability 4", "experience of users, evaluated"),
        Item("Usability 5", "clinical utility and safety", ("net_benefit",)),
        Item("Robustness 1", "sources of variation in data, named early", ("robustness",)),
        Item("Robustness 2", "training on representative data"),
        Item("Robustness 3", "robustness to variation, evaluated", ("robustness", "sites")),
        Item("Explainability 1", "the need for explanations"),
        Item("Explainability 2", "explanations, evaluated with users"),
        Item("General 1", "many disciplines and parties, involved"),
        Item("General 2", "protection of data and security", ("sandbox",)),
        Item("General 3", "measures against the risks found"),
        Item("General 4", "a plan of evaluation", ("endpoints", "goals")),
        Item("General 5", "regulation, identified and followed", ("regulation",)),
        Item("General 6", "ethics of the application"),
        Item("General 7", "effects on society"),
    ),
)

TRIPOD_AI = Standard(
    "TRIPOD+AI",
    "Collins et al., BMJ 2024;385:e078378, doi:10.1136/bmj-2023-078378",
    "its 27 items, without their letters",
    (
        Item("1", "title"),
        Item("2", "abstract"),
        Item("3", "background and health inequalities", ("use",)),
        Item("4", "objectives", ("endpoints",)),
        Item("5", "sources of data", ("sampling", "attribution")),
        Item("6", "participants and setting", ("use", "excluded")),
        Item("7", "preparation of data"),
        Item("8", "outcome, and how it was assessed", ("reference",)),
        Item("9", "predictors"),
        Item("10", "sample size"),
        Item("11", "missing data", ("failures",)),
        Item("12", "analytical methods", ("endpoints", "uncertainty")),
        Item("13", "imbalance of classes", ("sampling",)),
        Item("14", "fairness", ("groups",)),
        Item("15", "output of the model, and thresholds", ("threshold",)),
        Item("16", "differences from the development data", ("drift",)),
        Item("17", "ethical approval"),
        Item("18", "open science: funding, protocol, registration, data, code", ("computed",)),
        Item("19", "involvement of patients and the public"),
        Item("20", "flow and description of participants", ("flow",)),
        Item("21", "development of the model"),
        Item("22", "specification of the model"),
        Item("23", "performance, with intervals, also in groups", ("uncertainty", "groups")),
        Item("24", "updating of the model"),
        Item("25", "interpretation"),
        Item("26", "limitations", ("limits",)),
        Item("27", "use in care, and next steps"),
    ),
)

CLAIM = Standard(
    "CLAIM 2024",
    "Tejani et al., Radiology: Artificial Intelligence 2024;6:e240300, doi:10.1148/ryai.240300",
    "its 44 items, put together by heading and subject; their numbers are left out",
    (
        Item("", "Title and abstract"),
        Item("", "Introduction: intended use and clinical role", ("use",)),
        Item("", "Introduction: aims and hypotheses", ("endpoints", "goals")),
        Item("", "Methods, design: prospective or not; goal of the study"),
        Item("", "Methods, data: sources", ("attribution", "sampling")),
        Item("", "Methods, data: inclusion and exclusion", ("excluded",)),
        Item("", "Methods, data: preparation, selection, de-identification, acquisition"),
        Item("", "Methods, data: missing data", ("failures",)),
        Item("", "Methods, reference standard: definition and why", ("reference",)),
        Item("", "Methods, reference standard: who annotated, and how far they agree"),
        Item("", "Methods, partitions: how made, and disjoint", ("leakage",)),
        Item("", "Methods, testing data: intended sample size"),
        Item("", "Methods, model: description, software, initial parameters"),
        Item("", "Methods, training: details, choice of the model, ensembles"),
        Item("", "Methods, evaluation: metrics", ("endpoints",)),
        Item("", "Methods, evaluation: uncertainty and significance", ("uncertainty",)),
        Item("", "Methods, evaluation: robustness or sensitivity analysis", ("robustness",)),
        Item("", "Methods, evaluation: explainability"),
        Item("", "Methods, evaluation: on external data", ("locked",)),
        Item("", "Methods, evaluation: registration of a trial"),
        Item("", "Results, data: who was included and left out", ("flow",)),
        Item("", "Results, data: characteristics of the cases"),
        Item("", "Results, performance: metrics and their precision", ("uncertainty",)),
        Item("", "Results, performance: analysis of failures", ("failures",)),
        Item("", "Discussion: limitations", ("limits",)),
        Item("", "Discussion: implications for practice"),
        Item("", "Other: protocol, availability of data and code", ("computed",)),
        Item("", "Other: funding"),
    ),
)

STARD_AI = Standard(
    "STARD-AI",
    "Sounderajah et al., The STARD-AI reporting guideline, Nature Medicine 2025, "
    "doi:10.1038/s41591-025-03953-8; on STARD 2015, BMJ 2015;351:h5527",
    "its headings; numbers of items are left out",
    (
        Item("", "Title and abstract"),
        Item("", "Introduction: background and intended use of the index test", ("use",)),
        Item("", "Methods, design of the study"),
        Item("", "Methods, participants: eligibility and how they were found", ("sampling",)),
        Item("", "Methods, data: source, partitions, annotation", ("attribution", "leakage")),
        Item("", "Methods, index test: version and how it was run", ("computed",)),
        Item("", "Methods, index test: threshold, set beforehand", ("threshold",)),
        Item("", "Methods, reference standard", ("reference",)),
        Item("", "Methods, analysis: accuracy and its comparison", ("endpoints", "comparison")),
        Item("", "Methods, analysis: indeterminate results", ("indeterminate",)),
        Item("", "Methods, analysis: missing data", ("failures",)),
        Item("", "Methods, analysis: bias and fairness", ("groups",)),
        Item("", "Methods, analysis: intended sample size"),
        Item("", "Results, participants: flow", ("flow",)),
        Item("", "Results, participants: characteristics and severity"),
        Item("", "Results, test: accuracy with its precision", ("uncertainty",)),
        Item("", "Results, test: harms"),
        Item("", "Discussion: limitations and implications", ("limits",)),
        Item("", "Other: protocol", ("computed",)),
        Item("", "Other: registration, funding"),
    ),
)

AI_ACT = Standard(
    "EU AI Act, Annex IV",
    "Regulation (EU) 2024/1689, Annex IV, technical documentation under Article 11(1)",
    "its nine points, and those letters of point 2 that evaluation touches",
    (
        Item("1", "general description: purpose, provider, version", ("use", "computed")),
        Item("2(a) to (c)", "development, design, architecture"),
        Item("2(d)", "data: provenance, scope, characteristics", ("sampling", "drift")),
        Item("2(e)", "human oversight"),
        Item("2(f)", "changes determined beforehand"),
        Item("2(g)", "validation and testing: data, metrics, discrimination",
             ("uncertainty", "groups", "robustness", "computed")),
        Item("2(h)", "cybersecurity", ("sandbox",)),
        Item("3", "monitoring, functioning, control: accuracy, also for groups; limits",
             ("uncertainty", "groups", "limits")),
        Item("4", "why the metrics are appropriate", ("goals",)),
        Item("5", "risk management"),
        Item("6", "changes through the lifecycle"),
        Item("7", "standards applied"),
        Item("8", "EU declaration of conformity"),
        Item("9", "monitoring after placing on the market"),
    ),
)  # fmt: skip

MDR = Standard(
    "MDR, Annexes I and XIV",
    "Regulation (EU) 2017/745, Annex I (general safety and performance requirements), Annex XIV",
    "those headings that touch on clinical evaluation",
    (
        Item("I.1", "performance as intended", ("endpoints",)),
        Item("I.3", "risk management"),
        Item("I.5", "errors in use"),
        Item("I.8", "risks against benefits", ("net_benefit",)),
        Item("I.15", "accuracy of diagnostic and measuring devices", ("uncertainty",)),
        Item("I.17.1", "software: repeatability, reliability, performance",
             ("repeatability", "failures")),
        Item("I.17.2", "software: state of the art, lifecycle, security"),
        Item("I.23", "label and instructions for use"),
        Item("XIV.A.1(a)", "plan of the clinical evaluation", ("goals",)),
        Item("XIV.A.1(b), (c)", "existing clinical data, found and appraised"),
        Item("XIV.A.1(d)", "new clinical data from investigations"),
        Item("XIV.A.1(e)", "analysis of the clinical data"),
        Item("XIV.A.2", "evaluation in depth; favourable and unfavourable data",
             ("uncertainty", "failures")),
        Item("XIV.A.3", "equivalence with another device"),
        Item("XIV.B", "clinical follow-up after placing on the market"),
    ),
)  # fmt: skip

STANDARDS = (FUTURE_AI, TRIPOD_AI, CLAIM, STARD_AI, AI_ACT, MDR)
