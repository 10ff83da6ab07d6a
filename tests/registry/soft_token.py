"""A PKCS #11 token in software (SoftHSM2): found on the system or beside the Python of the tests.

    >>> with soft_token(home, "ada") as token:
    ...     open_signer("pkcs11:token=ada;object=signing", token.environment())

`requirements/install.sh dev` puts it into `.venv/softhsm` where it can; without it these tests are
skipped, and say why.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PIN = "1234-for-tests"
OWN = Path(sys.prefix) / "softhsm"
FOLDERS = (
    *sorted(OWN.glob("usr/lib/*/softhsm")),
    *(Path(folder) for folder in (
        "/usr/lib/softhsm", "/usr/lib/x86_64-linux-gnu/softhsm",
        "/usr/lib/aarch64-linux-gnu/softhsm", "/usr/lib64", "/usr/lib64/pkcs11",
        "/usr/local/lib/softhsm",
    )),
)  # fmt: skip


@dataclass(frozen=True)
class SoftToken:
    """Tokens in one folder, and the module and tool that lead to them."""

    module: Path
    tool: Path

    def make(self, label: str) -> None:
        """An empty token of this name."""
        self.run("--init-token", "--free", "--label", label, "--so-pin", PIN, "--pin", PIN)
        self.look_again()

    def run(self, *arguments: str) -> None:
        """The tool that comes with SoftHSM."""
        subprocess.run(
            [str(self.tool), "--module", str(self.module), *arguments],
            check=True,
            capture_output=True,
        )

    def look_again(self) -> None:
        """Have the module read its folder anew: it is loaded once a process."""
        import pkcs11

        pkcs11.lib(str(self.module)).reinitialize()

    @contextmanager
    def session(self, label: str) -> Iterator[Any]:
        """A session that may write."""
        import pkcs11

        token = pkcs11.lib(str(self.module)).get_token(token_label=label)
        with token.open(rw=True, user_pin=PIN) as session:
            yield session

    def environment(self) -> dict[str, str]:
        """What the settings say of it."""
        return {"TOUCHSTONE_PKCS11_MODULE": str(self.module), "TOUCHSTONE_PKCS11_PIN": PIN}


@contextmanager
def soft_token(home: Path, *labels: str) -> Iterator[SoftToken]:
    """Fresh tokens in `home`; skips the test where there is no SoftHSM2."""
    module = next((one for f in FOLDERS if (one := f / "libsofthsm2.so").exists()), None)
    tool = next((one for one in (OWN / "usr/bin/softhsm2-util",) if one.exists()), None)
    tool = tool or (Path(found) if (found := shutil.which("softhsm2-util")) else None)
    if module is None or tool is None:
        pytest.skip("no token software on this machine: install softhsm2 to test keys in a token")
    (home / "tokens").mkdir()
    settings = home / "softhsm2.conf"
    settings.write_text(f"directories.tokendir = {home / 'tokens'}\nobjectstore.backend = file\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(settings))  # the module reads it when it is initialised
        token = SoftToken(module, tool)
        for label in labels:
            token.make(label)
        yield token
