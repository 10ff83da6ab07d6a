"""The hospital's part: pull, verify with the cable out, refuse a damaged bundle, serve, predict."""

import shutil
from pathlib import Path
from typing import Any

import httpx

from demo.stage import TOUCHSTONE, CommandFailed, Person, running
from demo.story import MODELS, Story

DEMO = ("--allow-demo",)
"""The story's root is one that it made for itself: a hospital that says nothing refuses it."""


def hospital(story: Story, who: str, port: int) -> None:
    """Pull, verify offline, replay, serve, predict; and a damaged bundle."""
    stage, clara = story.stage, story.people["Clara"]
    bundle, root = story.home / "hospital" / MODELS[who], story.home / "hospital" / "root.pem"
    state = story.home / "hospital" / "state"
    clara.environment |= {"TOUCHSTONE_ROOT": str(root), "TOUCHSTONE_STATE": str(state)}
    with stage.step(f"The hospital pulls {MODELS[who]} and fetches the status") as say:
        root.parent.mkdir()
        shutil.copyfile(story.keys / "root.pem", root)  # by post, in a real one's case
        pulled = stage.touchstone(clara, "pull", MODELS[who], "--to", bundle)
        status = stage.touchstone(clara, "status", "fetch")
        say(f"{pulled['files']} files; status good until {status['use_until'][:10]}")
    offline = stage.person(
        "Clara, cable pulled", TOUCHSTONE_ROOT=str(root), TOUCHSTONE_STATE=str(state)
    )
    offline.environment.pop("TOUCHSTONE_SERVER")
    stage.refused(
        "a bundle under a demo's root is verified, and nobody allowed it",
        lambda: stage.touchstone(offline, "verify", bundle),
    )
    with stage.step("The hospital verifies it offline and replays the golden vectors") as say:
        result = stage.touchstone(offline, "verify", bundle, *DEMO, "--acknowledge", "Clara")
        say("; ".join(step["name"] for step in result["steps"]))
    damaged = bundle.with_name("damaged")
    shutil.copytree(bundle, damaged)
    target = next(path for path in (damaged / "model").iterdir())
    flip_one_bit(target)
    stage.refused(
        f"a bundle with one bit of model/{target.name} flipped is verified",
        lambda: stage.touchstone(offline, "verify", damaged, *DEMO),
    )
    url = f"http://127.0.0.1:{port}"
    with stage.step("The hospital serves it with BentoML and asks for a prediction") as say:
        command = [
            *TOUCHSTONE, "serve", str(bundle), *DEMO, "--port", str(port),
        ]  # fmt: skip
        with running(command, offline.environment, story.home / "serve.log", lambda: _up(url)):
            answer = httpx.post(f"{url}/v1/predict", json=one_case(), timeout=30, trust_env=False)
            if answer.is_error:
                raise CommandFailed(answer.text)
            body = answer.json()
            say(f"{body['outputs']}, investigational: {body['investigational']}")
    suspended(story, who, bundle, clara)


def suspended(story: Story, who: str, bundle: Path, clara: Person) -> None:
    """What the facility stops, the hospital's next look refuses, until two assessors lift it."""
    stage, name = story.stage, story.submissions[who]["id"]
    stick = story.home / "hospital" / "stick"
    with stage.step("A steward suspends the certificate; the status comes on a stick") as say:
        stage.touchstone(story.people["Sam"], "suspend", name, "--reason", "a reader asked")
        stage.touchstone(story.people["Sam"], "status", "export", "--to", stick)
        status = stage.touchstone(clara, "status", "fetch", "--from", stick)
        say(f"the hospital knows of {len(status['stopped'])} that were stopped")
    stage.refused(
        "a bundle whose certificate is suspended is verified",
        lambda: stage.touchstone(clara, "verify", bundle, *DEMO, "--skip-golden"),
    )
    with stage.step("Two assessors lift it; the hospital fetches and verifies again") as say:
        for person in ("Ada", "Ben"):
            key = story.keys / f"{person.lower()}.key"
            stage.touchstone(story.people[person], "resume", name, "--reason", "looked into",
                             "--key", key)  # fmt: skip
        stage.touchstone(clara, "status", "fetch")
        result = stage.touchstone(clara, "verify", bundle, *DEMO, "--skip-golden")
        say(next(step["sentence"] for step in result["steps"] if step["name"] == "standing"))


def one_case() -> dict[str, Any]:
    """A made-up nodule: a disc of 12 mm, average descriptors. Nobody's data."""
    image = [[[1.0 if (x - 32) ** 2 + (y - 32) ** 2 < 36 else 0.0 for x in range(64)]
              for y in range(64)]]  # fmt: skip
    return {"inputs": {"image": [image], "descriptors": [[4, 1, 6, 4, 4, 2, 2, 5]]}}


def flip_one_bit(path: Path) -> None:
    """Damage a file in the smallest way there is."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)


def _up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/ready", timeout=2, trust_env=False).is_success
    except httpx.TransportError:
        return False
