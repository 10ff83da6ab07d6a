"""One server over TCP and one over a Unix socket for all tests of this folder."""

from collections.abc import Iterator

import pytest

from tests.serving.inference.serving import Server


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("tcp")
    with Server(
        directory, "--port", "0", "--seconds", "0.5", "--most-models", "2", "--places", "4"
    ) as running:
        yield running


@pytest.fixture(scope="package")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("unix")
    with Server(directory, "--socket", str(directory / "socket"), "--seconds", "0.5") as running:
        yield running
