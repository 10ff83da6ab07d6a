"""No packet and no file outside the run's folder: a whole run where both would be seen.

The program runs in a network namespace without interfaces and with a /tmp of its own, with an
empty HOME and `CI` unset (some packages send telemetry only where it is). The kernel counts what
anybody tried to send, also in vain, and the last attempt, made on purpose, shows that it does.
"""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

COUNTING = """
import json, os, socket, subprocess, sys
from pathlib import Path

def counted():
    lines = [line.split() for line in Path("/proc/net/snmp").read_text().splitlines()]
    names = {}
    for head, row in zip(lines[::2], lines[1::2]):
        names |= {head[0] + name: int(value) for name, value in zip(head[1:], row[1:])}
    sent = ("Ip:OutRequests", "Ip:OutNoRoutes", "Udp:OutDatagrams", "Tcp:ActiveOpens")
    devices = Path("/proc/net/dev").read_text().splitlines()[2:]
    packets = sum(int(line.split(":")[1].split()[n]) for line in devices for n in (1, 9))
    return {name: names[name] for name in sent} | {"packets": packets}

def sockets():
    found = {}
    for name in ("tcp", "tcp6", "udp", "udp6", "raw", "packet"):
        path = Path("/proc/net") / name
        found[name] = len(path.read_text().splitlines()) - 1 if path.exists() else 0
    return found

checkout = Path(sys.argv[1])  # may lie in /tmp itself

def files():
    found = []
    for place, folders, names in os.walk("/tmp"):
        here = [Path(place, name) for name in [*folders, *names]]
        found += [str(path) for path in here
                  if path != Path("/tmp/run") and not checkout.is_relative_to(path)]
        folders[:] = [name for name in folders
                      if Path(place, name) not in (checkout, Path("/tmp/run"))]
    return sorted(found)
"""
"""What was sent, which sockets are open and which files are there."""
PROGRAM = (
    COUNTING
    + """
before = {"counted": counted(), "files": files()}
from serving.client import predict
from serving.inference.remote import RemoteSandbox
from serving.sandbox import Sandbox
from tests.registry.test_rehearsal import body
from tests.serving import hostile
from tests.serving.inference.serving import TOKEN, Server, shard

run = Path("/tmp/run")
files_of = {"model.onnx": hostile.honest()}
failed = []
with Sandbox.start() as sandbox:
    sandbox.load(files_of)
    failed.append(predict(sandbox, [shard(64)], hostile.contract(), order_seed="x").failed_by_code)
    level = sandbox.level
with Server(run / "server", "--socket", str(run / "server" / "socket")) as server:
    with RemoteSandbox.start(server.address, TOKEN) as remote:
        remote.load(files_of)
        found = predict(remote, [shard(64)], hostile.contract(), order_seed="x")
        failed.append(found.failed_by_code)
(run / "model.onnx").write_bytes(hostile.honest())
(run / "protocol.yaml").write_text(json.dumps(body()).replace("1e-05", "0.00001"))
words = ["try", "model.onnx", "--protocol", "protocol.yaml", "--out", "out", "--json"]
tried = subprocess.run([sys.executable, "-B", "-m", "registry.cli.main", *words], cwd=run,
                       capture_output=True, text=True)
after = {"counted": counted(), "files": files()}
opened = sockets()
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
    try:
        line.sendto(b"x", ("192.0.2.1", 53))
    except OSError:
        pass
print(json.dumps({"before": before, "after": after, "sockets": opened, "failed": failed,
                  "tried": [tried.returncode, tried.stderr[-500:]], "seccomp": level["seccomp"],
                  "page": (run / "out" / "report.html").exists(), "control": counted()}))
"""
)


def alone() -> list[str]:
    """The words before a command that give it no network and an empty /tmp, or skip."""
    tool = shutil.which("unshare")
    if tool is None:
        pytest.skip("there is no unshare on this machine")
    inside = "mount -t tmpfs none /tmp && mkdir -p /tmp/home /tmp/run/server"
    if ROOT.is_relative_to("/tmp"):  # the checkout itself must still be seen
        root = shlex.quote(str(ROOT))
        inside = f"mount --bind {root} /mnt && {inside} && mkdir -p {root}"
        inside += f" && mount --bind /mnt {root} && umount /mnt && cd {root}"
    inside += ' && exec "$@"'
    words = [tool, "--net", "--mount", "sh", "-c", inside, "sh"]
    for form in (words, [tool, "--map-root-user", *words[1:]]):
        done = subprocess.run([*form, "true"], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return form
    pytest.skip(f"the kernel gives no namespaces here: {done.stderr.strip()}")


def test_a_run_a_server_and_a_rehearsal_send_nothing_and_leave_nothing() -> None:
    done = subprocess.run(
        [*alone(), sys.executable, "-B", "-c", PROGRAM, str(ROOT)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
        env={"PATH": "/usr/bin:/bin", "HOME": "/tmp/home", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["failed"] == [{}, {}]
    assert found["tried"][0] == 0, found["tried"]
    assert found["page"], "`touchstone try` wrote its page"
    assert found["seccomp"]
    assert found["after"] == found["before"]
    assert found["after"]["files"] == ["/tmp/home"]
    assert set(found["sockets"].values()) == {0}
    assert found["control"] != found["after"]["counted"], "an attempt in vain is counted"
