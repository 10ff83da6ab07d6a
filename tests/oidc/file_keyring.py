"""A keyring in a file, for a machine of the tests: found through PYTHON_KEYRING_BACKEND."""

import json
import os
from pathlib import Path

from keyring.backend import KeyringBackend
from keyring.errors import PasswordDeleteError


class FileKeyring(KeyringBackend):
    """Passwords in the JSON file that TESTS_KEYRING names."""

    priority = 1  # type: ignore[assignment]

    def _read(self) -> dict[str, str]:
        path = Path(os.environ["TESTS_KEYRING"])
        known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        return known

    def _write(self, known: dict[str, str]) -> None:
        Path(os.environ["TESTS_KEYRING"]).write_text(json.dumps(known))

    def get_password(self, service: str, username: str) -> str | None:
        return self._read().get(f"{service} {username}")

    def set_password(self, service: str, username: str, password: str) -> None:
        self._write({**self._read(), f"{service} {username}": password})

    def delete_password(self, service: str, username: str) -> None:
        known = self._read()
        if f"{service} {username}" not in known:
            raise PasswordDeleteError("not there")
        del known[f"{service} {username}"]
        self._write(known)
