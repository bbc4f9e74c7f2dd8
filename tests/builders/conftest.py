"""A Hub and a client process, shared by the tests of this folder: starting a client takes seconds."""

from collections.abc import Iterator

import pytest
from hub.fixtures import Client, Worker
from hub.server import Hub


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hub, Worker]]:
    """A Hub and a client process. Take `shop` and `worker` instead, which forget what other tests did."""
    with Hub() as hub, Worker(Client(hub, tmp_path_factory.mktemp("home"))) as worker:
        yield hub, worker


@pytest.fixture
def shop(served: tuple[Hub, Worker]) -> Hub:
    """The Hub with nothing broken, and the client with nothing cached."""
    hub, worker = served
    hub.mend()
    worker.empty()
    hub.forget()
    return hub


@pytest.fixture
def worker(served: tuple[Hub, Worker]) -> Worker:
    """The client process."""
    return served[1]
