"""Certificates of any kind, also those that no library makes: DER, and RSA by hand."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

# -- DER


def tlv(tag: int, *contents: bytes) -> bytes:
    """A value with its tag and its length."""
    content = b"".join(contents)
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    size = length.to_bytes((length.bit_length() + 7) // 8)
    return bytes([tag, 0x80 | len(size)]) + size + content


def sequence(*contents: bytes) -> bytes:
    return tlv(0x30, *contents)


def octets(content: bytes) -> bytes:
    return tlv(0x04, content)


def integer(value: int) -> bytes:
    return tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, signed=True))


def boolean(value: bool) -> bytes:
    return tlv(0x01, b"\xff" if value else b"\x00")


def bits(content: bytes, unused: int = 0) -> bytes:
    return tlv(0x03, bytes([unused]), content)


def oid(dotted: str) -> bytes:
    first, second, *rest = map(int, dotted.split("."))
    encoded = bytearray([40 * first + second])
    for number in rest:
        groups = [number & 0x7F]
        while number := number >> 7:
            groups.append(0x80 | number & 0x7F)
        encoded += bytes(reversed(groups))
    return tlv(0x06, bytes(encoded))


NULL = tlv(0x05)


def time(text: str) -> bytes:
    """A date up to 2049: `YYYYMMDD`, or what stands in a GeneralizedTime."""
    if len(text) > 8:
        return tlv(0x18, text.encode())
    return tlv(0x17, f"{text[2:]}000000Z".encode())


def name(common: str | None, *, organization: str | None = None) -> bytes:
    """A distinguished name of up to two parts."""
    parts = [("2.5.4.10", organization), ("2.5.4.3", common)]
    return sequence(
        *(tlv(0x31, sequence(oid(kind), tlv(0x0C, text.encode()))) for kind, text in parts if text)
    )


def name_hash(name: bytes) -> str:
    """OpenSSL's hash of a short name in small letters, by which it finds files in folders."""
    return f"{int.from_bytes(hashlib.sha1(name[2:]).digest()[:4], 'little'):08x}"


# -- keys

_DIGESTS = {
    "md5": ("1.2.840.113549.2.5", "1.2.840.113549.1.1.4"),
    "sha1": ("1.3.14.3.2.26", "1.2.840.113549.1.1.5"),
    "sha224": ("2.16.840.1.101.3.4.2.4", "1.2.840.113549.1.1.14"),
    "sha256": ("2.16.840.1.101.3.4.2.1", "1.2.840.113549.1.1.11"),
    "sha384": ("2.16.840.1.101.3.4.2.2", "1.2.840.113549.1.1.12"),
    "sha512": ("2.16.840.1.101.3.4.2.3", "1.2.840.113549.1.1.13"),
}
"""Of each digest itself, and of RSA with it."""


@dataclass(frozen=True)
class Key:
    """An RSA key, or only the public half of another."""

    p: int = 0
    q: int = 0
    other: bytes | None = None

    @cached_property
    def modulus(self) -> int:
        return self.p * self.q

    @cached_property
    def private(self) -> int:
        return pow(65537, -1, (self.p - 1) * (self.q - 1))

    @cached_property
    def public(self) -> bytes:
        """The SubjectPublicKeyInfo."""
        if self.other is not None:
            return self.other
        key = sequence(integer(self.modulus), integer(65537))
        return sequence(sequence(oid("1.2.840.113549.1.1.1"), NULL), bits(key))

    @cached_property
    def identifier(self) -> bytes:
        return hashlib.sha1(self.public).digest()

    @cached_property
    def pem(self) -> str:
        p, q, d = self.p, self.q, self.private
        numbers = [0, p * q, 65537, d, p, q, d % (p - 1), d % (q - 1), pow(q, -1, p)]
        text = ssl.DER_cert_to_PEM_cert(sequence(*map(integer, numbers)))
        return text.replace("CERTIFICATE", "RSA PRIVATE KEY")

    def sign(self, data: bytes, algorithm: str) -> bytes:
        size = (self.modulus.bit_length() + 7) // 8
        kind, _, digest = algorithm.rpartition("-")
        hashed = hashlib.new(digest, data).digest()
        if kind == "pss":
            block = _pss(hashed, digest, size)
        else:
            info = sequence(sequence(oid(_DIGESTS[digest][0]), NULL), octets(hashed))
            block = b"\x00\x01" + b"\xff" * (size - len(info) - 3) + b"\x00" + info
        # By the two halves, as it is four times as fast.
        message = int.from_bytes(block)
        one, two = (pow(message, self.private % (n - 1), n) for n in (self.p, self.q))
        return (two + self.q * ((one - two) * pow(self.q, -1, self.p) % self.p)).to_bytes(size)


def _pss(hashed: bytes, digest: str, size: int) -> bytes:
    """The block of RSA-PSS, with a salt of zeros, for keys of whole bytes."""
    salt = bytes(len(hashed))
    inner = hashlib.new(digest, bytes(8) + hashed + salt).digest()
    plain = bytes(size - len(salt) - len(inner) - 2) + b"\x01" + salt
    mask = b"".join(
        hashlib.new(digest, inner + count.to_bytes(4)).digest() for count in range(size)
    )
    masked = bytearray(one ^ two for one, two in zip(plain, mask, strict=False))
    masked[0] &= 0x7F
    return bytes(masked) + inner + b"\xbc"


def algorithm_of(algorithm: str) -> bytes:
    """The AlgorithmIdentifier of `sha256`, `pss-sha256` and the like."""
    kind, _, digest = algorithm.rpartition("-")
    if kind != "pss":
        return sequence(oid(_DIGESTS[digest][1]), NULL)
    hashed = sequence(oid(_DIGESTS[digest][0]), NULL)
    mask = sequence(oid("1.2.840.113549.1.1.8"), hashed)
    length = hashlib.new(digest).digest_size
    parameters = sequence(tlv(0xA0, hashed), tlv(0xA1, mask), tlv(0xA2, integer(length)))
    return sequence(oid("1.2.840.113549.1.1.10"), parameters)


# -- extensions


def extension(dotted: str, content: bytes, *, critical: bool = False) -> bytes:
    marks = [boolean(True)] if critical else []
    return sequence(oid(dotted), *marks, octets(content))


def basic(ca: bool = True, length: int | None = None, *, critical: bool = True) -> bytes:
    """Basic constraints."""
    parts = [boolean(True)] if ca else []
    if length is not None:
        parts.append(integer(length))
    return extension("2.5.29.19", sequence(*parts), critical=critical)


USAGES = [
    "digitalSignature",
    "nonRepudiation",
    "keyEncipherment",
    "dataEncipherment",
    "keyAgreement",
    "keyCertSign",
    "cRLSign",
    "encipherOnly",
]


def usage(*names: str, critical: bool = True) -> bytes:
    """Key usage."""
    byte = sum(0x80 >> USAGES.index(each) for each in names)
    unused = (byte & -byte).bit_length() - 1 if byte else 0
    return extension("2.5.29.15", bits(bytes([byte]) if byte else b"", unused), critical=critical)


SERVER, CLIENT = "1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"
ANY_USE, MICROSOFT_SGC = "2.5.29.37.0", "1.3.6.1.4.1.311.10.3.3"


def uses(*dotted: str) -> bytes:
    """Extended key usage."""
    return extension("2.5.29.37", sequence(*map(oid, dotted)))


def general(kind: str, value: str | bytes) -> bytes:
    """A GeneralName: `dns`, `ip`, `email`, `directory`, `id`."""
    tag = {"email": 0x81, "dns": 0x82, "directory": 0xA4, "uri": 0x86, "ip": 0x87, "id": 0x88}
    return tlv(tag[kind], value.encode("latin-1") if isinstance(value, str) else value)


def alternative(*names: bytes | str, critical: bool = False) -> bytes:
    """Alternative names of the subject; texts are names of DNS."""
    all_names = (general("dns", each) if isinstance(each, str) else each for each in names)
    return extension("2.5.29.17", sequence(*all_names), critical=critical)


def identifier(key: Key, *, critical: bool = False) -> bytes:
    """The subject's key identifier."""
    return extension("2.5.29.14", octets(key.identifier), critical=critical)


def authority(
    key: Key | None, *, issuer: bytes = b"", serial: int | None = None, critical: bool = False
) -> bytes:
    """The authority's key identifier; `issuer` is a distinguished name."""
    parts = [] if key is None else [tlv(0x80, key.identifier)]
    if issuer:
        parts.append(tlv(0xA1, tlv(0xA4, issuer)))
    if serial is not None:
        parts.append(tlv(0x82, integer(serial)[2:]))
    return extension("2.5.29.35", sequence(*parts), critical=critical)


def constraints(
    permitted: Sequence[bytes] = (), excluded: Sequence[bytes] = (), minimum: int = 0
) -> bytes:
    """Name constraints."""
    least = [tlv(0x80, integer(minimum)[2:])] if minimum else []
    parts = [
        tlv(tag, *(sequence(each, *least) for each in names))
        for tag, names in ((0xA0, permitted), (0xA1, excluded))
        if names
    ]
    return extension("2.5.29.30", sequence(*parts), critical=True)


# -- certificates and lists of revoked ones


def signed(content: bytes, key: Key, algorithm: str, *, broken: bool = False) -> bytes:
    signature = key.sign(content, algorithm)
    if broken:
        signature = signature[:-1] + bytes([signature[-1] ^ 1])
    return sequence(content, algorithm_of(algorithm), bits(signature))


def certificate(
    subject: bytes,
    key: Key,
    issuer: bytes,
    by: Key,
    extensions: Sequence[bytes] | None = (),
    *,
    serial: int = 1,
    begin: str = "20200101",
    end: str = "20490101",
    version: int = 3,
    algorithm: str = "sha256",
    inner: str | None = None,
    broken: bool = False,
) -> bytes:
    """A certificate in DER. `inner`: the algorithm that is signed; `broken`: the signature is."""
    parts = [] if version == 1 else [tlv(0xA0, integer(version - 1))]
    parts += [
        integer(serial),
        algorithm_of(inner or algorithm),
        issuer,
        sequence(time(begin), time(end)),
        subject,
        key.public,
    ]
    if extensions:
        parts.append(tlv(0xA3, sequence(*extensions)))
    return signed(sequence(*parts), by, algorithm, broken=broken)


def revoked_list(
    issuer: bytes,
    by: Key,
    serials: Sequence[int] = (),
    extensions: Sequence[bytes] = (),
    *,
    begin: str = "20200101",
    end: str = "20490101",
    algorithm: str = "sha256",
    broken: bool = False,
) -> bytes:
    """A list of revoked certificates in DER."""
    parts = [integer(1), algorithm_of(algorithm), issuer, time(begin), time(end)]
    if serials:
        parts.append(sequence(*(sequence(integer(each), time(begin)) for each in serials)))
    if extensions:
        parts.append(tlv(0xA0, sequence(*extensions)))
    return signed(sequence(*parts), by, algorithm, broken=broken)


def pem(der: bytes, kind: str = "CERTIFICATE") -> str:
    return ssl.DER_cert_to_PEM_cert(der).replace("CERTIFICATE", kind)
