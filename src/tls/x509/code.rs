//! OpenSSL's numbers and words for what is wrong with a certificate.

use std::fmt;

/// One of OpenSSL's `X509_V_ERR_*`: `verify_code` of Python's exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Code(pub(crate) i32);

impl Code {
    pub(super) const UNSPECIFIED: Self = Self(1);
    pub(super) const UNABLE_TO_GET_ISSUER: Self = Self(2);
    pub(super) const UNABLE_TO_GET_CRL: Self = Self(3);
    pub(super) const SELF_SIGNED: Self = Self(18);
    pub(super) const SELF_SIGNED_IN_CHAIN: Self = Self(19);
    pub(super) const UNABLE_TO_GET_ISSUER_LOCALLY: Self = Self(20);
    pub(super) const CHAIN_TOO_LONG: Self = Self(22);
    pub(super) const PATH_LENGTH_EXCEEDED: Self = Self(25);
    pub(in crate::tls) const INVALID_PURPOSE: Self = Self(26);
    pub(super) const UNHANDLED_CRITICAL_EXTENSION: Self = Self(34);
    pub(super) const PROXY_NOT_ALLOWED: Self = Self(40);
    pub(super) const UNNESTED_RESOURCE: Self = Self(46);
    pub(super) const PERMITTED_VIOLATION: Self = Self(47);
    pub(in crate::tls) const HOSTNAME_MISMATCH: Self = Self(62);
    pub(in crate::tls) const IP_ADDRESS_MISMATCH: Self = Self(64);
    pub(super) const EE_KEY_TOO_SMALL: Self = Self(66);
    pub(super) const CA_KEY_TOO_SMALL: Self = Self(67);
    pub(super) const CA_MD_TOO_WEAK: Self = Self(68);
    pub(super) const SIGNATURE_ALGORITHM_INCONSISTENCY: Self = Self(78);
    pub(super) const INVALID_CA: Self = Self(79);
    pub(super) const PATHLEN_INVALID_FOR_NON_CA: Self = Self(80);
    pub(super) const PATHLEN_WITHOUT_KEY_CERT_SIGN: Self = Self(81);
    pub(super) const KEY_CERT_SIGN_INVALID_FOR_NON_CA: Self = Self(82);
    pub(super) const ISSUER_NAME_EMPTY: Self = Self(83);
    pub(super) const SUBJECT_NAME_EMPTY: Self = Self(84);
    pub(super) const MISSING_AUTHORITY_KEY_IDENTIFIER: Self = Self(85);
    pub(super) const MISSING_SUBJECT_KEY_IDENTIFIER: Self = Self(86);
    pub(super) const EMPTY_SUBJECT_ALT_NAME: Self = Self(87);
    pub(super) const EMPTY_SUBJECT_SAN_NOT_CRITICAL: Self = Self(88);
    pub(super) const CA_BCONS_NOT_CRITICAL: Self = Self(89);
    pub(super) const CA_CERT_MISSING_KEY_USAGE: Self = Self(92);
    pub(super) const EXTENSIONS_REQUIRE_VERSION_3: Self = Self(93);

    /// The code for one of AWS-LC's, which numbers some errors in another way.
    pub(super) fn of_library(code: i32) -> Self {
        Self(match code {
            24 => 79, // X509_V_ERR_INVALID_CA
            65 => 69, // X509_V_ERR_INVALID_CALL
            66 => 70, // X509_V_ERR_STORE_LOOKUP
            68 => 66, // X509_V_ERR_EE_KEY_TOO_SMALL
            69 => 67, // X509_V_ERR_CA_KEY_TOO_SMALL
            70 => 68, // X509_V_ERR_CA_MD_TOO_WEAK
            72 => 94, // X509_V_ERR_EC_KEY_EXPLICIT_PARAMS
            2..=23 | 25..=54 | 62..=64 => code,
            _ => 1,
        })
    }

    /// OpenSSL's words, which are `verify_message` of Python's exception.
    pub(crate) fn text(self) -> &'static str {
        match self.0 {
            0 => "ok",
            1 => "unspecified certificate verification error",
            2 => "unable to get issuer certificate",
            3 => "unable to get certificate CRL",
            4 => "unable to decrypt certificate's signature",
            5 => "unable to decrypt CRL's signature",
            6 => "unable to decode issuer public key",
            7 => "certificate signature failure",
            8 => "CRL signature failure",
            9 => "certificate is not yet valid",
            10 => "certificate has expired",
            11 => "CRL is not yet valid",
            12 => "CRL has expired",
            13 => "format error in certificate's notBefore field",
            14 => "format error in certificate's notAfter field",
            15 => "format error in CRL's lastUpdate field",
            16 => "format error in CRL's nextUpdate field",
            17 => "out of memory",
            18 => "self-signed certificate",
            19 => "self-signed certificate in certificate chain",
            20 => "unable to get local issuer certificate",
            21 => "unable to verify the first certificate",
            22 => "certificate chain too long",
            23 => "certificate revoked",
            24 => "issuer certificate doesn't have a public key",
            25 => "path length constraint exceeded",
            26 => "unsuitable certificate purpose",
            27 => "certificate not trusted",
            28 => "certificate rejected",
            29 => "subject issuer mismatch",
            30 => "authority and subject key identifier mismatch",
            31 => "authority and issuer serial number mismatch",
            32 => "key usage does not include certificate signing",
            33 => "unable to get CRL issuer certificate",
            34 => "unhandled critical extension",
            35 => "key usage does not include CRL signing",
            36 => "unhandled critical CRL extension",
            40 => "proxy certificates not allowed, please set the appropriate flag",
            41 => "invalid or inconsistent certificate extension",
            44 => "different CRL scope",
            45 => "unsupported extension feature",
            46 => "RFC 3779 resource not subset of parent's resources",
            47 => "permitted subtree violation",
            48 => "excluded subtree violation",
            49 => "name constraints minimum and maximum not supported",
            51 => "unsupported name constraint type",
            52 => "unsupported or invalid name constraint syntax",
            53 => "unsupported or invalid name syntax",
            54 => "CRL path validation error",
            62 => "hostname mismatch",
            64 => "IP address mismatch",
            66 => "EE certificate key too weak",
            67 => "CA certificate key too weak",
            68 => "CA signature digest algorithm too weak",
            69 => "invalid certificate verification context",
            70 => "issuer certificate lookup error",
            78 => "cert info signature and signature algorithm mismatch",
            79 => "invalid CA certificate",
            80 => "Path length invalid for non-CA cert",
            81 => "Path length given without key usage keyCertSign",
            82 => "Key usage keyCertSign invalid for non-CA cert",
            83 => "Issuer name empty",
            84 => "Subject name empty",
            85 => "Missing Authority Key Identifier",
            86 => "Missing Subject Key Identifier",
            87 => "Empty Subject Alternative Name extension",
            88 => "Subject empty and Subject Alt Name extension not critical",
            89 => "Basic Constraints of CA cert not marked critical",
            92 => "CA cert does not include key usage extension",
            93 => "Using cert extension requires at least X509v3",
            94 => "Certificate public key has explicit ECC parameters",
            _ => "unknown certificate verification error",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for Code {}
