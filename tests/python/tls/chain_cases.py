"""Chains that are verified here and by OpenSSL: each has one thing that is unusual."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from . import certificates as x
from .chains import (
    ADDRESSES,
    CA_USAGE,
    CHAIN_LISTS,
    FUTURE,
    LEAF_EXTENSIONS,
    LEAF_NAME,
    MIDDLE_EXTENSIONS,
    MIDDLE_NAME,
    OTHER_NAME,
    P192,
    PARTIAL,
    PAST,
    PROXY,
    ROOT_EXTENSIONS,
    ROOT_NAME,
    SAN,
    UNKNOWN,
    Case,
    alone,
    below,
    by_point,
    chain,
    constrained,
    crossed,
    deep,
    leaf,
    listed,
    middle,
    names,
    of_middle,
    of_root,
    points,
    root,
    strict,
    twins,
    utf8_mail,
    with_leaf,
    with_middle,
    with_root,
)
from .keys import LEAF, MIDDLE, OTHER, ROOT, WEAK

DNS, URI, MAIL = (partial(x.general, kind) for kind in ("dns", "uri", "email"))
NETSCAPE_SGC = "2.16.840.1.113730.4.1"

CASES: dict[str, Callable[[], Case]] = {
    "good": chain,
    "good, in another order and twice": lambda: Case(
        [leaf(), root(), middle(), middle(), leaf()], [root()]
    ),
    "good, with others": lambda: Case(
        [leaf(), root(subject=OTHER_NAME, key=OTHER, issuer=OTHER_NAME, by=OTHER), middle()],
        [root()],
    ),
    # -- dates
    "leaf ended": lambda: chain(PAST),
    "leaf to come": lambda: chain(FUTURE),
    "authority ended": lambda: chain(middle_=PAST),
    "authority to come": lambda: chain(middle_=FUTURE),
    "root ended": lambda: chain(root_=PAST),
    "root to come": lambda: chain(root_=FUTURE),
    "leaf and root ended": lambda: chain(PAST, root_=PAST),
    "date with fractions": lambda: chain({"begin": "20200101000000.5Z"}),
    "date with an offset": lambda: chain({"begin": "20200101000000+0100"}),
    # -- names of hosts
    "another host": lambda: names("example.org"),
    "host in capitals": lambda: names("LOCALHOST"),
    "wildcard": lambda: names("*.example.org", host="a.example.org"),
    "wildcard for two labels": lambda: names("*.example.org", host="a.b.example.org"),
    "wildcard for no label": lambda: names("*.example.org", host="example.org"),
    "wildcard of a part": lambda: names("a*.example.org", host="ab.example.org"),
    "wildcard behind a part": lambda: names("*a.example.org", host="ba.example.org"),
    "wildcard of one label behind": lambda: names("*.org", host="a.org"),
    "wildcard in the second label": lambda: names("a.*.org", host="a.example.org"),
    "two wildcards": lambda: names("*.*.org", host="a.example.org"),
    "only a wildcard": lambda: names("*"),
    "wildcard of an IDNA label": lambda: names("xn--*.example.org", host="xn--a.example.org"),
    "wildcard for an IDNA label": lambda: names("*.example.org", host="xn--mnchen-3ya.example.org"),
    "IDNA label": lambda: names("xn--mnchen-3ya.de", host="xn--mnchen-3ya.de"),
    "host with a dot at its end": lambda: names("localhost."),
    "host with a NUL": lambda: names("localhost\0.example.org"),
    "host with a dot before it": lambda: names(".localhost"),
    "host that is a part": lambda: names("host"),
    "name with an underscore": lambda: names("a_b.example.org", host="a_b.example.org"),
    "wildcard for an underscore": lambda: names("*.example.org", host="a_b.example.org"),
    "host among many": lambda: names("a.org", "b.org", "localhost"),
    "address": lambda: names(x.general("ip", b"\x7f\0\0\1"), host="127.0.0.1"),
    "another address": lambda: names(x.general("ip", b"\x7f\0\0\2"), host="127.0.0.1"),
    "address of IPv6": lambda: names(x.general("ip", bytes(15) + b"\1"), host="::1"),
    "another address of IPv6": lambda: names(x.general("ip", bytes(15) + b"\2"), host="::1"),
    "address as a name": lambda: names("127.0.0.1", host="127.0.0.1"),
    "address as the common name": lambda: chain(
        {"subject": x.name("127.0.0.1"), "extensions": LEAF_EXTENSIONS}, host="127.0.0.1"
    ),
    "address of a wrong length": lambda: names(x.general("ip", b"\x7f\0\0\1\0"), host="127.0.0.1"),
    "common name": lambda: chain({"subject": x.name("localhost"), "extensions": LEAF_EXTENSIONS}),
    "common name, which does not count": lambda: chain(
        {"subject": x.name("localhost"), "extensions": LEAF_EXTENSIONS}, common_names=False
    ),
    "common name with a wildcard": lambda: chain(
        {"subject": x.name("*.example.org"), "extensions": LEAF_EXTENSIONS}, host="a.example.org"
    ),
    "common name beside others": lambda: chain(
        {"subject": x.name("localhost"), "extensions": (*LEAF_EXTENSIONS, x.alternative("x.org"))}
    ),
    "common name beside an address": lambda: chain(
        {
            "subject": x.name("localhost"),
            "extensions": (*LEAF_EXTENSIONS, x.alternative(x.general("ip", b"\x7f\0\0\1"))),
        }
    ),
    "no alternative names": names,
    "no names at all": lambda: chain({"subject": x.name(None), "extensions": LEAF_EXTENSIONS}),
    # -- what is trusted
    "signed by itself": lambda: Case([alone()], [root()]),
    "signed by itself, and trusted": lambda: Case([alone()], [alone()]),
    "signed by itself, trusted and ended": lambda: Case([alone(**PAST)], [alone(**PAST)]),
    "authority of itself, trusted": lambda: Case(
        *[[alone(extensions=(SAN, x.basic(), CA_USAGE))]] * 2
    ),
    "authority of itself for all uses": lambda: Case(*[[alone(extensions=(SAN, x.basic()))]] * 2),
    "signed by itself without the right to": lambda: Case(
        *[[alone(extensions=(SAN, x.usage("digitalSignature")))]] * 2
    ),
    "signed by itself, other than the trusted": lambda: Case([alone()], [alone(serial=99)]),
    "signed by itself, for another use": lambda: Case(
        *[[alone(extensions=(SAN, x.uses("1.3.6.1.5.5.7.3.4")))]] * 2
    ),
    "signed by itself, for another host": lambda: Case([alone()], [alone()], host="example.org"),
    "leaf trusted": lambda: Case([leaf(), middle()], [leaf()]),
    "leaf trusted, part of a chain": lambda: Case([leaf(), middle()], [leaf()], flags=PARTIAL),
    "leaf trusted and ended": lambda: Case([leaf(**PAST)], [leaf(**PAST)], flags=PARTIAL),
    "authority trusted": lambda: Case([leaf(), middle()], [middle()]),
    "authority trusted, part of a chain": lambda: Case([leaf()], [middle()], flags=PARTIAL),
    "authority trusted and ended": lambda: Case([leaf()], [middle(**PAST)], flags=PARTIAL),
    "authority and root trusted": lambda: Case([leaf()], [middle(), root()]),
    "authority and ended root trusted": lambda: Case([leaf()], [middle(), root(**PAST)]),
    "authority and ended root, part": lambda: Case(
        [leaf()], [middle(), root(**PAST)], flags=PARTIAL
    ),
    "root not trusted": lambda: Case([leaf(), middle(), root()], [alone()]),
    "root not sent, not trusted": lambda: Case([leaf(), middle()], [alone()]),
    "nothing trusted": lambda: Case([leaf(), middle()], []),
    "authority not sent": lambda: Case([leaf()], [root()]),
    "old root beside the new, which is trusted": lambda: crossed(sends="lmc", trusts="r"),
    "old root ended, alone trusted": lambda: crossed(sends="lmc", trusts="o"),
    "old and new root trusted": lambda: crossed(sends="lmc", trusts="or"),
    "new and old root trusted": lambda: crossed(sends="lmc", trusts="ro"),
    "all roots sent": lambda: crossed(sends="lmcro", trusts="or"),
    "old root sent": lambda: crossed(sends="lmco", trusts="r"),
    "crossed one trusted": lambda: crossed(sends="lm", trusts="c"),
    "crossed one and its root trusted": lambda: crossed(sends="lm", trusts="co"),
    "crossed one and the new root trusted": lambda: crossed(sends="lm", trusts="cr"),
    "roots of one name, the ended first": lambda: twins(trusts="er"),
    "roots of one name, the ended last": lambda: twins(trusts="re"),
    "roots of one name, another key first": lambda: twins(trusts="wr"),
    "roots of one name, another key last": lambda: twins(trusts="rw"),
    "roots of one name without identifiers": lambda: twins(trusts="rw", identifiers=False),
    "roots of one name without identifiers, wrong first": lambda: twins(
        trusts="wr", identifiers=False
    ),
    "roots of one name, none is good now": lambda: twins(trusts="fe"),
    # -- authorities
    "authority that is none": lambda: with_middle(x.basic(ca=False), *MIDDLE_EXTENSIONS[1:]),
    "authority that says nothing": with_middle,
    "authority by its usage": lambda: with_middle(CA_USAGE, x.identifier(MIDDLE)),
    "authority that may not sign": lambda: with_middle(x.basic(), x.usage("cRLSign")),
    "authority that may do nothing": lambda: with_middle(x.basic(), x.usage()),
    "root that is none": lambda: with_root(x.basic(ca=False)),
    "root that says nothing": with_root,
    "root by its usage": lambda: with_root(CA_USAGE),
    "root that may not sign": lambda: with_root(x.basic(), x.usage("cRLSign")),
    "root without usage": lambda: with_root(x.basic()),
    "authority by Netscape's extension": lambda: with_middle(
        x.extension("2.16.840.1.113730.1.1", x.bits(b"\x04", 2))
    ),
    "leaf as an authority": lambda: Case(
        [leaf(issuer=LEAF_NAME, by=LEAF, subject=OTHER_NAME, key=OTHER), leaf(), middle()],
        [root()],
        key=OTHER,
    ),
    "no authority below": lambda: deep([0]),
    "one authority below none": lambda: deep([0, None]),
    "one authority below one": lambda: deep([1, None]),
    "two authorities below one": lambda: deep([1, None, None]),
    "none below the second": lambda: deep([None, 0, None]),
    "no authority below the root": lambda: with_root(x.basic(length=0), CA_USAGE),
    "one authority below the root": lambda: with_root(x.basic(length=1), CA_USAGE),
    "length of one that is no authority": lambda: with_leaf(x.basic(ca=False, length=0)),
    "negative length": lambda: with_root(x.basic(length=-1), CA_USAGE),
    "leaf that issued itself by name": lambda: Case(
        [leaf(subject=MIDDLE_NAME), middle()], [root(extensions=(x.basic(length=0), CA_USAGE))]
    ),
    # -- uses
    "leaf for servers": lambda: with_leaf(x.uses(x.SERVER)),
    "leaf for clients": lambda: with_leaf(x.uses(x.CLIENT)),
    "leaf for any use": lambda: with_leaf(x.uses(x.ANY_USE)),
    "leaf for no use": lambda: with_leaf(x.uses()),
    "leaf for servers of old": lambda: with_leaf(x.uses(x.MICROSOFT_SGC)),
    "leaf for servers of old by Netscape": lambda: with_leaf(x.uses(NETSCAPE_SGC)),
    "authority for servers of old": lambda: with_middle(*MIDDLE_EXTENSIONS, x.uses(NETSCAPE_SGC)),
    "root for servers of old": lambda: with_root(*ROOT_EXTENSIONS, x.uses(NETSCAPE_SGC)),
    "authority for servers": lambda: with_middle(*MIDDLE_EXTENSIONS, x.uses(x.SERVER)),
    "authority for clients": lambda: with_middle(*MIDDLE_EXTENSIONS, x.uses(x.CLIENT)),
    "root for clients": lambda: with_root(*ROOT_EXTENSIONS, x.uses(x.CLIENT)),
    "leaf that may sign certificates alone": lambda: with_leaf(x.usage("keyCertSign")),
    "leaf that may do nothing": lambda: with_leaf(x.usage()),
    "leaf that may encipher keys": lambda: with_leaf(x.usage("keyEncipherment")),
    "leaf that may agree on keys": lambda: with_leaf(x.usage("keyAgreement")),
    "leaf that may encipher data": lambda: with_leaf(x.usage("dataEncipherment")),
    "leaf for mail by Netscape's extension": lambda: with_leaf(
        x.extension("2.16.840.1.113730.1.1", x.bits(b"\x20", 5))
    ),
    # -- names that an authority may certify
    "permitted host": lambda: constrained(x.constraints([x.general("dns", "localhost")])),
    "permitted other host": lambda: constrained(x.constraints([x.general("dns", "org")])),
    "excluded host": lambda: constrained(x.constraints((), [x.general("dns", "localhost")])),
    "excluded other host": lambda: constrained(x.constraints((), [x.general("dns", "org")])),
    "permitted address": lambda: constrained(
        x.constraints([x.general("ip", b"\x7f\0\0\0\xff\0\0\0")])
    ),
    "permitted other address": lambda: constrained(
        x.constraints([x.general("ip", b"\x0a\0\0\0\xff\0\0\0")])
    ),
    "excluded address": lambda: constrained(
        x.constraints((), [x.general("ip", b"\x7f\0\0\0\xff\0\0\0")])
    ),
    "permitted subject": lambda: constrained(x.constraints([x.general("directory", LEAF_NAME)])),
    "permitted other subject": lambda: constrained(
        x.constraints([x.general("directory", OTHER_NAME)])
    ),
    "permitted other host, as a common name": lambda: constrained(
        x.constraints([x.general("dns", "example.org")]),
        subject=x.name("a.example.com"),
        extensions=LEAF_EXTENSIONS,
    ),
    "permitted mail": lambda: constrained(x.constraints([x.general("email", "example.org")])),
    "constraint of a kind that is not known": lambda: constrained(
        x.constraints([x.general("id", b"\x2a\x03")]),
        extensions=(*LEAF_EXTENSIONS, x.alternative("localhost", x.general("id", b"\x2a\x03"))),
    ),
    "constraint with a minimum": lambda: constrained(
        x.constraints([x.general("dns", "localhost")], minimum=1)
    ),
    "constraint of the root": lambda: with_root(
        *ROOT_EXTENSIONS, x.constraints([x.general("dns", "org")])
    ),
    "wildcard under an exclusion": lambda: chain(
        {"extensions": (*LEAF_EXTENSIONS, x.alternative("*.example.org"))},
        {
            "extensions": (
                *MIDDLE_EXTENSIONS,
                x.constraints((), [x.general("dns", "a.example.org")]),
            )
        },
        host="b.example.org",
    ),
    # -- such names that AWS-LC sees otherwise
    "permitted host, in a name with a dot": lambda: below([DNS("localhost")], "localhost."),
    "permitted host with a dot": lambda: below([DNS("localhost.")]),
    "permitted part, in a name with a dot": lambda: below(
        [DNS("localhost"), DNS(".example.org")], "a.example.org."
    ),
    "permitted host, in a name of another kind with a dot": lambda: below(
        [DNS("localhost")], URI("http://example.org./")
    ),
    "permitted other host, in a name with a dot": lambda: below(
        [DNS("localhost")], "a.example.org."
    ),
    "permitted host of a URI, in a name with a dot": lambda: below(
        [URI("example.org")], URI("http://example.org.")
    ),
    "permitted host of a URI, in a name with a dot and a port": lambda: below(
        [URI("example.org")], URI("http://example.org.:80/")
    ),
    "permitted host of a URI with a dot": lambda: below(
        [URI("example.org.")], URI("http://example.org")
    ),
    "permitted host of a URI": lambda: below([URI("example.org")], URI("http://example.org/a./")),
    "excluded host with a dot": lambda: below([], "a.org", excluded=[DNS("org.")]),
    "excluded other host, in a name with a dot": lambda: below(
        [], "localhost.", excluded=[DNS("org")]
    ),
    "excluded dot": lambda: below([], "a.", excluded=[DNS(".")]),
    "name with a dot, under a constraint for mail": lambda: below([MAIL("a.org")], "localhost."),
    "permitted host of the root, in a name with a dot": lambda: chain(
        {"extensions": (*LEAF_EXTENSIONS, x.alternative("localhost", "localhost."))},
        root_={"extensions": (*ROOT_EXTENSIONS, x.constraints([DNS("localhost")]))},
    ),
    "constraint of the leaf, with a dot": lambda: with_leaf(x.constraints([DNS("org.")])),
    "permitted other mail, in UTF-8": lambda: below([MAIL("example.org")], utf8_mail("a@a.org")),
    "permitted mail, in UTF-8": lambda: below([MAIL("example.org")], utf8_mail("a@example.org")),
    "excluded mail, in UTF-8": lambda: below([], utf8_mail("a@a.org"), excluded=[MAIL("a.org")]),
    "excluded address of mail, in UTF-8": lambda: below(
        [], utf8_mail("a@a.org"), excluded=[MAIL("a@a.org")]
    ),
    "mail in UTF-8, under a constraint for hosts": lambda: below(
        [DNS("localhost")], utf8_mail("a@a.org")
    ),
    "permitted mail of no user": lambda: below([MAIL("example.org")], MAIL("@example.org")),
    "excluded mail of no user": lambda: below(
        [], MAIL("@example.org"), excluded=[MAIL("example.org")]
    ),
    "permitted mail of a quoted user": lambda: below(
        [MAIL("example.org")], MAIL('"a@b"@example.org')
    ),
    "permitted mail, with an at alone": lambda: below(
        [MAIL("@example.org")], MAIL("a@example.org")
    ),
    "permitted mail of nobody": lambda: below([MAIL("")], MAIL("a@b")),
    "excluded mail in capitals": lambda: below(
        [], MAIL("a@example.org"), excluded=[MAIL("A@example.org")]
    ),
    "permitted host of a URI with a user": lambda: below(
        [URI("example.org")], URI("http://a@example.org/")
    ),
    "permitted host of a URI with a question": lambda: below(
        [URI("example.org")], URI("http://example.org?x")
    ),
    "excluded host, and a URI of an address": lambda: below(
        [], URI("http://[::1]/"), excluded=[URI("example.org")]
    ),
    "permitted addresses by a mask with holes": lambda: constrained(
        x.constraints([x.general("ip", b"\x7f\0\0\1\xff\0\xff\0")])
    ),
    "common name with a space, under a constraint": lambda: constrained(
        x.constraints([DNS("example.org")]),
        subject=x.name("a b.example.com"),
        extensions=LEAF_EXTENSIONS,
    ),
    "common name with a wildcard, under a constraint": lambda: constrained(
        x.constraints([DNS("example.org")]),
        subject=x.name("*.example.com"),
        extensions=LEAF_EXTENSIONS,
    ),
    # -- other extensions
    "unknown extension": lambda: with_leaf(x.extension(UNKNOWN, x.NULL)),
    "unknown critical extension": lambda: with_leaf(x.extension(UNKNOWN, x.NULL, critical=True)),
    "unknown critical extension above": lambda: with_middle(
        *MIDDLE_EXTENSIONS, x.extension(UNKNOWN, x.NULL, critical=True)
    ),
    "unknown critical extension of the root": lambda: with_root(
        *ROOT_EXTENSIONS, x.extension(UNKNOWN, x.NULL, critical=True)
    ),
    "the same extension twice": lambda: with_leaf(
        x.uses(x.SERVER, x.CLIENT), x.uses(x.SERVER, x.CLIENT)
    ),
    "extension that is broken": lambda: with_leaf(x.extension("2.5.29.15", x.NULL)),
    "proxy": lambda: with_leaf(x.extension("1.3.6.1.5.5.7.1.14", PROXY), base=LEAF_EXTENSIONS),
    "critical proxy": lambda: with_leaf(
        x.extension("1.3.6.1.5.5.7.1.14", PROXY, critical=True), base=LEAF_EXTENSIONS
    ),
    "proxy with a name of its own": lambda: with_leaf(x.extension("1.3.6.1.5.5.7.1.14", PROXY)),
    "two extensions of a kind, trusted": lambda: Case(
        *[[leaf(extensions=(SAN, x.uses(x.SERVER), x.uses(x.SERVER)))]] * 2, flags=PARTIAL
    ),
    "resources that nobody has": lambda: with_leaf(x.extension("1.3.6.1.5.5.7.1.7", ADDRESSES)),
    "resources that are broken": lambda: with_leaf(x.extension("1.3.6.1.5.5.7.1.7", x.NULL)),
    "OCSP not checked, critical": lambda: with_leaf(
        x.extension("1.3.6.1.5.5.7.48.1.5", x.NULL, critical=True)
    ),
    "policy, critical": lambda: with_leaf(
        x.extension("2.5.29.32", x.sequence(x.sequence(x.oid(UNKNOWN))), critical=True)
    ),
    "identifier of another key": lambda: with_leaf(x.authority(OTHER)),
    "number of another issuer": lambda: with_leaf(x.authority(None, issuer=ROOT_NAME, serial=99)),
    "name of another issuer": lambda: with_leaf(x.authority(None, issuer=OTHER_NAME, serial=12)),
    "name and number of the issuer": lambda: with_leaf(
        x.authority(None, issuer=ROOT_NAME, serial=12)
    ),
    # -- versions
    "leaf of version 1": lambda: chain(
        {"version": 1, "extensions": None, "subject": x.name("localhost")}
    ),
    "authority of version 1": lambda: chain(middle_={"version": 1, "extensions": None}),
    "root of version 1": lambda: chain(root_={"version": 1, "extensions": None}),
    "strict: root of version 1": lambda: strict(chain(root_={"version": 1, "extensions": None})),
    "extensions in version 2": lambda: chain({"version": 2}),
    # -- keys and digests
    "leaf with a short key": lambda: chain({"key": WEAK}, key=WEAK),
    "authority with a short key": lambda: chain({"by": WEAK}, {"key": WEAK}),
    "root with a short key": lambda: chain(middle_={"by": WEAK}, root_={"key": WEAK, "by": WEAK}),
    "root with a key of P-192": lambda: chain(root_={"key": P192}),
    "leaf by SHA-1": lambda: chain({"algorithm": "sha1"}),
    "authority by SHA-1": lambda: chain(middle_={"algorithm": "sha1"}),
    "root by SHA-1": lambda: chain(root_={"algorithm": "sha1"}),
    "leaf by MD5": lambda: chain({"algorithm": "md5"}),
    "authority by MD5": lambda: chain(middle_={"algorithm": "md5"}),
    "root by MD5": lambda: chain(root_={"algorithm": "md5"}),
    "leaf by SHA-224": lambda: chain({"algorithm": "sha224"}),
    "leaf by SHA-512": lambda: chain({"algorithm": "sha512"}),
    "leaf by RSA-PSS": lambda: chain({"algorithm": "pss-sha256"}),
    "leaf by RSA-PSS of SHA-384": lambda: chain({"algorithm": "pss-sha384"}),
    "leaf by RSA-PSS of SHA-1": lambda: chain({"algorithm": "pss-sha1"}),
    "authority trusted, by SHA-1": lambda: Case(
        [leaf()], [middle(algorithm="sha1")], flags=PARTIAL
    ),
    "leaf trusted, with a short key": lambda: Case(
        *[[leaf(key=WEAK)]] * 2, flags=PARTIAL, key=WEAK
    ),
    # -- signatures
    "broken signature of the leaf": lambda: chain({"broken": True}),
    "broken signature of the authority": lambda: chain(middle_={"broken": True}),
    "broken signature of the root": lambda: chain(root_={"broken": True}),
    "signed by another key": lambda: chain({"by": OTHER}),
    "two algorithms": lambda: chain({"inner": "sha512"}),
    "strict: two algorithms": lambda: strict(chain({"inner": "sha512"})),
    # -- lists of revoked certificates
    "no list": listed,
    "list of others": lambda: listed(of_middle([99])),
    "leaf revoked": lambda: listed(of_middle([13])),
    "leaf revoked among many": lambda: listed(of_middle([99, 13, 5, 12])),
    "leaf revoked, not looked up": lambda: listed(of_middle([13]), flags=0),
    "authority revoked": lambda: listed(of_middle(), of_root([12]), flags=CHAIN_LISTS),
    "authority revoked, not looked up": lambda: listed(of_middle(), of_root([12])),
    "no list of the root": lambda: listed(of_middle(), flags=CHAIN_LISTS),
    "nobody revoked": lambda: listed(of_middle(), of_root(), flags=CHAIN_LISTS),
    "root revoked": lambda: listed(of_middle(), of_root([11]), flags=CHAIN_LISTS),
    "lists of part of a chain": lambda: Case(
        [leaf()], [middle()], [of_middle()], flags=PARTIAL | CHAIN_LISTS
    ),
    "list ended": lambda: listed(of_middle(**PAST)),
    "list to come": lambda: listed(of_middle(**FUTURE)),
    "list ended, and one that is good": lambda: listed(of_middle([13], **PAST), of_middle()),
    "list of another issuer": lambda: listed(of_root([13])),
    "broken list": lambda: listed(of_middle(broken=True)),
    "list by another key": lambda: listed(of_middle(by=OTHER)),
    "list of one that may not sign any": lambda: listed(
        of_middle(), middle_={"extensions": (x.basic(), x.usage("keyCertSign"))}
    ),
    "list with the identifier of another key": lambda: listed(
        of_middle(extensions=[x.authority(OTHER)])
    ),
    "list with the identifier of the key": lambda: listed(
        of_middle([13], extensions=[x.authority(MIDDLE)])
    ),
    "list with an unknown critical extension": lambda: listed(
        of_middle(extensions=[x.extension(UNKNOWN, x.NULL, critical=True)])
    ),
    "list of what has changed": lambda: listed(
        of_middle(extensions=[x.extension("2.5.29.27", x.integer(1), critical=True)])
    ),
    "list for others": lambda: listed(of_middle([13], [points(x.tlv(0x84, b"\xff"))])),
    "list of authorities alone": lambda: listed(of_middle([13], [points(x.tlv(0x82, b"\xff"))])),
    "list of users alone": lambda: listed(of_middle([13], [points(x.tlv(0x81, b"\xff"))])),
    "list of attributes alone": lambda: listed(of_middle([13], [points(x.tlv(0x85, b"\xff"))])),
    "list of some reasons": lambda: listed(of_middle([13], [points(x.tlv(0x83, b"\x01\x40"))])),
    "list, and a place for it": lambda: listed(of_middle(), leaf_=by_point()),
    "list, and a place for some reasons": lambda: listed(
        of_middle(), leaf_=by_point(reasons=b"\1\x40")
    ),
    "leaf revoked, and a place for some reasons": lambda: listed(
        of_middle([13]), leaf_=by_point(reasons=b"\1\x40")
    ),
    "list, and a place for all reasons": lambda: listed(
        of_middle(), leaf_=by_point(reasons=b"\7\x7f\x80")
    ),
    "place for some reasons, not looked up": lambda: listed(
        flags=0, leaf_=by_point(reasons=b"\1\x40")
    ),
    "list, and an authority's place for some reasons": lambda: listed(
        of_middle(),
        of_root(),
        flags=CHAIN_LISTS,
        middle_={"extensions": (*MIDDLE_EXTENSIONS, by_point(reasons=b"\1\x40")["extensions"][-1])},
    ),
    "list of a place that the issuer has itself": lambda: listed(
        of_middle(
            extensions=[points(x.tlv(0xA0, x.tlv(0xA0, x.general("uri", "http://localhost/"))))]
        ),
        leaf_=by_point(x.tlv(0xA2, x.general("directory", MIDDLE_NAME))),
    ),
    "list by MD5": lambda: listed(of_middle(algorithm="md5")),
    "list of what has changed, broken": lambda: listed(
        of_middle(extensions=[x.extension("2.5.29.27", x.NULL)])
    ),
    # -- strictly by RFC 5280
    "strict: good": lambda: strict(chain()),
    "strict: no identifier of the issuer's key": lambda: strict(
        chain({"extensions": (*LEAF_EXTENSIONS[:3], SAN)})
    ),
    "strict: no identifier of an authority's key": lambda: strict(
        with_middle(x.basic(), CA_USAGE, x.authority(ROOT))
    ),
    "strict: no identifier of the root's key": lambda: strict(with_root(*ROOT_EXTENSIONS[:2])),
    "strict: issuer by name and number alone": lambda: strict(
        chain(
            {
                "extensions": (
                    *LEAF_EXTENSIONS[:3],
                    SAN,
                    x.authority(None, issuer=ROOT_NAME, serial=12),
                )
            }
        )
    ),
    "strict: number of the issuer without its name": lambda: strict(
        chain({"extensions": (*LEAF_EXTENSIONS[:3], SAN, x.authority(MIDDLE, serial=12))})
    ),
    "strict: constraints are not critical": lambda: strict(
        with_middle(x.basic(critical=False), *MIDDLE_EXTENSIONS[1:])
    ),
    "strict: constraints of the root are not critical": lambda: strict(
        with_root(x.basic(critical=False), *ROOT_EXTENSIONS[1:])
    ),
    "strict: no usage of an authority": lambda: strict(
        with_middle(x.basic(), *MIDDLE_EXTENSIONS[2:])
    ),
    "strict: no usage of the root": lambda: strict(with_root(x.basic(), x.identifier(ROOT))),
    "strict: root by its usage": lambda: strict(with_root(*ROOT_EXTENSIONS[1:])),
    "strict: leaf that may sign": lambda: strict(
        chain(
            {
                "extensions": (
                    x.usage("digitalSignature", "keyCertSign"),
                    *LEAF_EXTENSIONS[1:],
                    SAN,
                )
            }
        )
    ),
    "strict: leaf that is an authority": lambda: strict(
        chain({"extensions": (x.basic(), *LEAF_EXTENSIONS[1:], SAN)})
    ),
    "strict: length without the right to sign": lambda: strict(
        with_root(x.basic(length=3), x.usage("cRLSign"), x.identifier(ROOT))
    ),
    "strict: length without usage": lambda: strict(
        with_root(x.basic(length=3), x.identifier(ROOT))
    ),
    "strict: critical identifier of the issuer's key": lambda: strict(
        chain({"extensions": (*LEAF_EXTENSIONS[:3], SAN, x.authority(MIDDLE, critical=True))})
    ),
    "strict: critical identifier": lambda: strict(
        chain(
            {
                "extensions": (
                    *LEAF_EXTENSIONS[:2],
                    SAN,
                    x.identifier(LEAF, critical=True),
                    x.authority(MIDDLE),
                )
            }
        )
    ),
    "critical identifier": lambda: with_leaf(x.identifier(LEAF, critical=True)),
    "strict: no subject": lambda: strict(chain({"subject": x.name(None)})),
    "strict: no subject, names are critical": lambda: strict(
        chain(
            {
                "subject": x.name(None),
                "extensions": (*LEAF_EXTENSIONS, x.alternative("localhost", critical=True)),
            }
        )
    ),
    "strict: no names at all": lambda: strict(
        chain({"subject": x.name(None), "extensions": LEAF_EXTENSIONS})
    ),
    "strict: no alternative names": lambda: strict(names()),
    "strict: no issuer": lambda: strict(chain({"issuer": x.name(None)}, {"subject": x.name(None)})),
    "strict: extensions in version 2": lambda: strict(chain({"version": 2})),
    "strict: signed by itself, and trusted": lambda: strict(Case([alone()], [alone()])),
    "strict: leaf trusted": lambda: strict(Case(*[[leaf(extensions=(SAN,))]] * 2, flags=PARTIAL)),
    "strict: short key and no identifier": lambda: strict(
        chain({"key": WEAK, "extensions": (SAN,)}, key=WEAK)
    ),
}
