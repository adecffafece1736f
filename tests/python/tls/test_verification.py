"""Certificates are verified as OpenSSL verifies them: the same verdict, code, words and alert."""

from __future__ import annotations

import functools
import random
import ssl
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from loop_pool import tls

from . import chains
from .chain_cases import CASES
from .chains import Case
from .verdicts import outcome

SIDES = ("server", "client")
"""Whose certificates are verified."""
TRIALS = 100


STRICTER = {
    "date with fractions": (13, 1),
    "date with an offset": (13, 1),
    "root by its usage": (0, 79),
    "length of one that is no authority": (0, 20),
    "leaf for servers of old": (0, 26),
    "wildcard under an exclusion": (0, 48),
    "two extensions of a kind, trusted": (0, 1),
    "resources that nobody has": (0, 46),
    "OCSP not checked, critical": (0, 34),
    "extensions in version 2": (0, 1),
    "strict: extensions in version 2": (93, 1),
    "strict: number of the issuer without its name": (0, 1),
    "permitted host, in a name of another kind with a dot": (0, 47),
    "excluded host with a dot": (0, 48),
    "excluded other host, in a name with a dot": (0, 47),
    "excluded dot": (48, 47),
    "permitted mail, in UTF-8": (0, 47),
    "excluded mail, in UTF-8": (48, 47),
    "excluded address of mail, in UTF-8": (0, 47),
    "permitted mail of no user": (0, 53),
    "excluded mail of no user": (48, 53),
    "permitted mail of a quoted user": (0, 53),
    "permitted mail, with an at alone": (0, 53),
    "permitted mail of nobody": (47, 53),
    "excluded mail in capitals": (0, 48),
    "permitted host of a URI with a user": (0, 53),
    "permitted host of a URI with a question": (0, 53),
    "excluded host, and a URI of an address": (0, 53),
    "permitted addresses by a mask with holes": (0, 53),
    "common name with a space, under a constraint": (0, 53),
    "common name with a wildcard, under a constraint": (0, 47),
    "leaf for servers of old by Netscape": (0, 26),
    "authority for servers of old": (0, 26),
    "root for servers of old": (0, 26),
    "resources that are broken": (20, 46),
    "list, and a place for all reasons": (0, 3),
    "list of a place that the issuer has itself": (0, 44),
    "list by MD5": (0, 8),
    "list of what has changed, broken": (0, 3),
}
"""Where OpenSSL 3.5 accepts a certificate, or refuses it for another reason: its code, and ours.
`src/tls/README.md` has the same list, in words."""


@pytest.fixture(scope="module", autouse=True)
def contexts() -> None:
    """Nothing here depends on which module the other tests run with."""


@functools.cache
def made(name: str) -> Case:
    return CASES[name]()


@pytest.mark.parametrize("verified", SIDES)
@pytest.mark.parametrize("name", CASES)
def test_the_verdict_is_that_of_openssl(name: str, verified: str, tmp_path: Path) -> None:
    expected, found = (outcome(each, made(name), verified, tmp_path) for each in (ssl, tls))
    if expected.code == found.code:
        assert found == expected
    else:
        assert found.code, "stricter, and not laxer"
        assert (expected.code, found.code) == STRICTER[name]


@pytest.mark.parametrize("verified", SIDES)
@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("good", None),
        ("leaf ended", None),
        ("another host", None),
        ("authority not sent", None),
        ("leaf with a short key", None),
        ("leaf revoked", None),
        ("broken signature of the leaf", None),
        # To verify the handshake, rustls reads more of such a certificate than its key.
        ("leaf of version 1", 1),
        ("policy, critical", 1),
    ],
)
def test_the_verdict_is_that_of_openssl_with_tls_1_2_too(
    name: str, code: int | None, verified: str, tmp_path: Path
) -> None:
    expected, found = (
        outcome(each, made(name), verified, tmp_path, ssl.TLSVersion.TLSv1_2) for each in (ssl, tls)
    )
    if code is None:
        assert found == expected
    else:
        assert (expected.code, found.code) == (0, code)


def test_there_are_enough_chains_and_each_difference_is_of_one() -> None:
    assert len(CASES) >= 60
    assert set(STRICTER) <= set(CASES)


def chance(seed: int) -> Iterator[Case]:
    return (case for _, case in chains.mixed(random.Random(seed)))


@pytest.mark.parametrize("verified", SIDES)
def test_chains_by_chance_are_not_accepted_unless_openssl_does(
    verified: str, tmp_path: Path
) -> None:
    counts = {"good": 0, "same": 0}
    for number, case in enumerate(islice(chance(20), TRIALS)):
        expected, found = (outcome(each, case, verified, tmp_path) for each in (ssl, tls))
        assert found.code or not expected.code, (number, expected, found)
        counts["good"] += not found.code
        counts["same"] += found.code == expected.code
    assert counts["good"] >= TRIALS // 20
    assert counts["same"] >= TRIALS * 0.9
