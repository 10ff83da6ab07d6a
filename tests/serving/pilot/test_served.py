"""From `touchstone serve --pilot` to the page: what was answered is in the log, and no name is."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx

from tests.serving import certified
from tests.serving.hospital_made import REPOSITORY, write
from tests.serving.test_server import inputs

TOUCHSTONE = [sys.executable, "-P", "-m", "registry.cli.main"]


def test_what_a_server_answered_is_in_the_log_and_on_the_page(tmp_path: Path) -> None:
    bundle = write(certified.facility(), certified.model(), tmp_path / "nodule-3")
    known = ["--state", str(tmp_path / "state")]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    server = subprocess.Popen(
        [*TOUCHSTONE, "serve", bundle, "--root", tmp_path / "root.pem", *known, "--port", "0",
         "--pilot", "--no-status"],
        stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    try:
        assert server.stderr is not None
        url = next(
            found[1] for line in server.stderr if (found := re.search(r"on (http\S+):", line))
        )
        for number in range(0, 12, 2):
            body = {"inputs": inputs(), "cases": [f"ACC-{n:03d}" for n in (number, number + 1)]}
            assert httpx.post(url + "/v1/predict", json=body, timeout=30).status_code == 200
    finally:
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=30)
    assert server.returncode == 0

    table = tmp_path / "outcomes.csv"
    table.write_text("case,reference\n" + "".join(f"ACC-{n:03d},{n % 2}\n" for n in range(12)))

    def touchstone(*arguments: object) -> str:
        made = subprocess.run(
            [*TOUCHSTONE, *map(str, arguments), *known], capture_output=True, text=True,
            env=environment, timeout=120, check=False,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        return made.stdout

    taken = json.loads(touchstone("pilot", "outcomes", bundle, table, "--json"))
    assert 12 in taken.values(), taken
    page = tmp_path / "page.html"
    touchstone("pilot", "report", bundle, "--to", page)
    assert "12" in page.read_text()
    stored = b"".join(
        path.read_bytes() for path in (tmp_path / "state").rglob("*") if path.is_file()
    )
    assert b"ACC-0" not in stored
