"""Every test of TLS runs on contexts of `ssl` and of `loop_pool.tls`."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Any

import pytest

from .. import support
from .authority import Authority


@pytest.fixture(autouse=True, params=["openssl", "rustls"])
def contexts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module that makes the contexts of the test, also those of `self_signed`."""
    from loop_pool import tls

    module: Any = ssl if request.param == "openssl" else tls
    monkeypatch.setattr(support, "contexts", module)
    return module


@pytest.fixture
def by_openssl(contexts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contexts of `ssl` in any case, whose connections are asyncio's `sslproto`."""
    monkeypatch.setattr(support, "contexts", ssl)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who signs certificates for the tests."""
    return Authority(tmp_path_factory.mktemp("authority"))
