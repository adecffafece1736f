"""The kinds of sockets and protocols that tests of transports run with."""

from __future__ import annotations

from typing import Any

import pytest

from ..support import BufferedRecorder, Recorder


@pytest.fixture(params=["tcp", "unix"])
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of the sockets."""
    return request.param


@pytest.fixture(params=[Recorder, BufferedRecorder], ids=["plain", "buffered"])
def recorder(request: pytest.FixtureRequest) -> Any:
    """The kind of the protocol."""
    return request.param
