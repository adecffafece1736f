"""Chains of certificates with something that is unusual."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from . import certificates as x
from .keys import LEAF, MIDDLE, OTHER, ROOT

STRICT, PARTIAL = ssl.VERIFY_X509_STRICT, ssl.VERIFY_X509_PARTIAL_CHAIN
LEAF_LISTS, CHAIN_LISTS = ssl.VERIFY_CRL_CHECK_LEAF, ssl.VERIFY_CRL_CHECK_CHAIN
ROOT_NAME, MIDDLE_NAME, LEAF_NAME = x.name("root"), x.name("middle"), x.name("leaf")
OTHER_NAME = x.name("other")
PAST, FUTURE = {"end": "20210101"}, {"begin": "20480101"}
UNKNOWN = "1.3.6.1.4.1.99999.1"
PROXY = x.sequence(x.sequence(x.oid("1.3.6.1.5.5.7.21.1")))
ADDRESSES = x.sequence(x.sequence(x.octets(b"\x00\x01"), x.NULL))
P192 = x.Key(
    other=x.sequence(
        x.sequence(x.oid("1.2.840.10045.2.1"), x.oid("1.2.840.10045.3.1.1")),
        x.bits(
            bytes.fromhex(
                "04188da80eb03090f67cbf20eb43a18800f4ff0afd82ff1012"
                "07192b95ffc8da78631011ed6b24cdd573f977a11e794811"
            )
        ),
    )
)

type Change = dict[str, Any]
"""Arguments of `certificates.certificate` that are others than usual."""


@dataclass(frozen=True)
class Case:
    """What a peer sends, and how it is verified."""

    sent: Sequence[bytes]
    trusted: Sequence[bytes]
    lists: Sequence[bytes] = ()
    flags: int = 0
    host: str = "localhost"
    common_names: bool = True
    """Whether a name in the subject may be the host's."""
    key: x.Key = LEAF


CA_USAGE = x.usage("keyCertSign", "cRLSign")
ROOT_EXTENSIONS = (x.basic(), CA_USAGE, x.identifier(ROOT))
MIDDLE_EXTENSIONS = (x.basic(), CA_USAGE, x.identifier(MIDDLE), x.authority(ROOT))
LEAF_EXTENSIONS = (
    x.usage("digitalSignature", "keyEncipherment"),
    x.uses(x.SERVER, x.CLIENT),
    x.identifier(LEAF),
    x.authority(MIDDLE),
)
SAN = x.alternative("localhost", x.general("ip", b"\x7f\0\0\1"))


def root(**change: Any) -> bytes:
    arguments = {
        "subject": ROOT_NAME, "key": ROOT, "issuer": ROOT_NAME, "by": ROOT,
        "extensions": ROOT_EXTENSIONS,
    }  # fmt: skip
    return x.certificate(**arguments | {"serial": 11} | change)


def middle(**change: Any) -> bytes:
    arguments = {
        "subject": MIDDLE_NAME, "key": MIDDLE, "issuer": ROOT_NAME, "by": ROOT,
        "extensions": MIDDLE_EXTENSIONS,
    }  # fmt: skip
    return x.certificate(**arguments | {"serial": 12} | change)


def leaf(**change: Any) -> bytes:
    arguments = {
        "subject": LEAF_NAME, "key": LEAF, "issuer": MIDDLE_NAME, "by": MIDDLE,
        "extensions": (*LEAF_EXTENSIONS, SAN),
    }  # fmt: skip
    return x.certificate(**arguments | {"serial": 13} | change)


def alone(**change: Any) -> bytes:
    """A certificate that signed itself."""
    usual = {"issuer": LEAF_NAME, "by": LEAF, "extensions": (SAN,)}
    return leaf(**usual | change)


def chain(
    leaf_: Change | None = None,
    middle_: Change | None = None,
    root_: Change | None = None,
    **options: Any,
) -> Case:
    """The usual chain of three, with changes."""
    sent = leaf(**leaf_ or {}), middle(**middle_ or {})
    return Case(**{"sent": sent, "trusted": [root(**root_ or {})]} | options)


def names(*sans: bytes | str, host: str = "localhost", **options: Any) -> Case:
    """A certificate with such names for a host."""
    return chain({"extensions": (*LEAF_EXTENSIONS, x.alternative(*sans))}, host=host, **options)


def with_leaf(*extensions: bytes, base: Sequence[bytes] = (SAN,), **options: Any) -> Case:
    return chain({"extensions": (*base, *extensions)}, **options)


def with_middle(*extensions: bytes, **options: Any) -> Case:
    return chain(middle_={"extensions": extensions}, **options)


def with_root(*extensions: bytes, **options: Any) -> Case:
    return chain(root_={"extensions": extensions}, **options)


def constrained(*extensions: bytes, **change: Any) -> Case:
    """A chain whose authority may certify some names alone."""
    return chain(change, {"extensions": (*MIDDLE_EXTENSIONS, *extensions)})


def below(permitted: Sequence[bytes], *sans: bytes | str, excluded: Sequence[bytes] = ()) -> Case:
    """A leaf for localhost and other names, below such name constraints."""
    return constrained(
        x.constraints(permitted, excluded),
        extensions=(*LEAF_EXTENSIONS, x.alternative("localhost", *sans)),
    )


def utf8_mail(address: str) -> bytes:
    """A mail address in UTF-8, which is another kind of name (SmtpUTF8Mailbox)."""
    return x.tlv(0xA0, x.oid("1.3.6.1.5.5.7.8.9"), x.tlv(0xA0, x.tlv(0x0C, address.encode())))


def listed(*lists: bytes, flags: int = LEAF_LISTS, **change: Any) -> Case:
    return chain(lists=lists, flags=flags, **change)


def of_middle(
    serials: Sequence[int] = (), extensions: Sequence[bytes] = (), **change: Any
) -> bytes:
    """The list of the authority that issued the leaf."""
    usual = {"issuer": MIDDLE_NAME, "by": MIDDLE, "serials": serials, "extensions": extensions}
    return x.revoked_list(**usual | change)


def of_root(serials: Sequence[int] = (), **change: Any) -> bytes:
    return x.revoked_list(**{"issuer": ROOT_NAME, "by": ROOT, "serials": serials} | change)


def points(*marks: bytes) -> bytes:
    """The extension by which a list says for what it is."""
    return x.extension("2.5.29.28", x.sequence(*marks), critical=True)


def by_point(*marks: bytes, reasons: bytes | None = None) -> Change:
    """A leaf that says where its lists are, and for what `reasons` they are."""
    where = x.tlv(0xA0, x.tlv(0xA0, x.general("uri", "http://localhost/")))
    parts = [where] if reasons is None else [where, x.tlv(0x81, reasons)]
    place = x.extension("2.5.29.31", x.sequence(x.sequence(*parts, *marks)))
    return {"extensions": (*LEAF_EXTENSIONS, SAN, place)}


def deep(lengths: Sequence[int | None], **options: Any) -> Case:
    """A chain of as many authorities below the root, each with so many that may follow it."""
    issuer, by, sent = ROOT_NAME, ROOT, []
    for place, length in enumerate(lengths):
        subject = x.name(f"authority {place}")
        extensions = (x.basic(length=length), CA_USAGE, x.identifier(MIDDLE), x.authority(by))
        sent.insert(0, middle(subject=subject, issuer=issuer, by=by, extensions=extensions))
        issuer, by = subject, MIDDLE
    return Case([leaf(issuer=issuer, by=by), *sent], [root()], **options)


def crossed(*, sends: str, trusts: str) -> Case:
    """Two certificates of one root: its own, and one of an older root that has ended."""
    old = root(subject=x.name("old"), issuer=x.name("old"), key=OTHER, by=OTHER,
               extensions=(x.basic(), CA_USAGE, x.identifier(OTHER)), **PAST)  # fmt: skip
    cross = root(issuer=x.name("old"), by=OTHER,
                 extensions=(*ROOT_EXTENSIONS, x.authority(OTHER)), serial=20)  # fmt: skip
    every = {"c": cross, "o": old, "r": root(), "m": middle(), "l": leaf()}
    return Case(*([every[one] for one in word] for word in (sends, trusts)))


def twins(*, trusts: str, identifiers: bool = True) -> Case:
    """Roots of one name with other keys or dates."""
    own = ROOT_EXTENSIONS if identifiers else ROOT_EXTENSIONS[:2]
    every = {
        "r": root(extensions=own),
        "e": root(extensions=own, **PAST),
        "w": root(key=OTHER, by=OTHER, extensions=(*own[:2], x.identifier(OTHER))[: len(own)]),
        "f": root(extensions=own, **FUTURE),
    }
    middle_ = middle(extensions=MIDDLE_EXTENSIONS if identifiers else MIDDLE_EXTENSIONS[:3])
    return Case([leaf(), middle_], [every[one] for one in trusts])


def strict(case: Case) -> Case:
    return replace(case, flags=case.flags | STRICT)


def mixed(random: Any) -> Iterator[tuple[str, Case]]:
    """Chains with several things that are unusual, by chance."""
    change: list[Change] = [
        PAST, FUTURE, {"algorithm": "sha1"}, {"broken": True}, {"version": 1, "extensions": None},
        {"inner": "sha512"},
    ]  # fmt: skip
    pieces = [
        x.basic(), x.basic(ca=False), x.basic(length=0), x.basic(critical=False), CA_USAGE,
        x.usage("digitalSignature"), x.usage("digitalSignature", "keyCertSign"), x.uses(x.SERVER),
        x.uses(x.CLIENT), x.uses(x.SERVER, x.CLIENT), SAN, x.alternative("example.org"),
        x.authority(MIDDLE), x.authority(ROOT), x.identifier(MIDDLE), x.identifier(ROOT),
        x.identifier(LEAF), x.extension(UNKNOWN, x.NULL),
        x.extension(UNKNOWN, x.NULL, critical=True),
        x.constraints([x.general("dns", "localhost")]), x.constraints([x.general("dns", "org")]),
        x.extension("1.3.6.1.5.5.7.1.14", PROXY),
    ]  # fmt: skip

    def changed(usual: Sequence[bytes]) -> Change:
        extensions = [each for each in usual if random.random() < 0.8]
        extensions += random.sample(pieces, random.choice((0, 0, 1, 2)))
        # The same one twice is another case.
        kinds = {each[2 : 2 + 8]: each for each in extensions}
        made: Change = {"extensions": tuple(kinds.values())}
        return made | (random.choice(change) if random.random() < 0.2 else {})

    number = 0
    while True:
        all_of_it = [
            leaf(**changed((*LEAF_EXTENSIONS, SAN))),
            middle(**changed(MIDDLE_EXTENSIONS)),
            root(**changed(ROOT_EXTENSIONS)),
        ]
        trusted = random.sample(all_of_it, random.choice((1, 1, 2)))
        others = random.sample([*all_of_it[1:], root(), middle()], random.choice((1, 2, 3)))
        flags = random.choice((0, STRICT, PARTIAL, STRICT | PARTIAL))
        number += 1
        yield f"number {number}", Case([all_of_it[0], *others], trusted, flags=flags)
