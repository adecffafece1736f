//! The code of a certificate that is refused, on its way through rustls.
//!
//! rustls has one kind of error for each alert that tells the peer why, and no room for OpenSSL's codes. So the error is
//! chosen by the alert that OpenSSL would send, and the code goes where the error has a field for something else.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{ServerName, UnixTime};
use rustls::{AlertDescription, CertificateError, Error, OtherError};

use super::failure::CertificateFailure;
use super::x509::Code;

/// rustls' error for a code. `host`: the name or address that had to be in the certificate.
#[cold]
pub(super) fn refusal(code: Code, host: Option<&ServerName<'_>>) -> Error {
    let as_time = || UnixTime::since_unix_epoch(Duration::from_secs(code.0.unsigned_abs().into()));
    Error::InvalidCertificate(match alert(code) {
        AlertDescription::BadCertificate => CertificateError::NotValidForNameContext {
            expected: host.map_or_else(nobody, ServerName::to_owned),
            presented: vec![code.0.to_string()],
        },
        AlertDescription::CertificateExpired => {
            CertificateError::ExpiredContext { time: as_time(), not_after: as_time() }
        }
        AlertDescription::UnknownCA => CertificateError::ExpiredRevocationListContext {
            time: as_time(),
            next_update: as_time(),
        },
        AlertDescription::CertificateRevoked => CertificateError::Revoked,
        AlertDescription::UnsupportedCertificate => CertificateError::InvalidPurpose,
        AlertDescription::DecryptError => {
            CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext {
                signature_algorithm_id: code.0.to_be_bytes().to_vec(),
                public_key_algorithm_id: Vec::new(),
            }
        }
        _ => CertificateError::Other(OtherError(Arc::new(code))),
    })
}

/// Whoever is named in an error about something else.
fn nobody() -> ServerName<'static> {
    ServerName::from(Ipv4Addr::UNSPECIFIED)
}

/// The alert that OpenSSL sends.
fn alert(code: Code) -> AlertDescription {
    match code.0 {
        4..=6 | 9 | 11 | 13..=16 | 27..=29 | 62..=64 | 66..=68 | 94 => {
            AlertDescription::BadCertificate
        }
        7 | 8 => AlertDescription::DecryptError,
        10 | 12 => AlertDescription::CertificateExpired,
        23 => AlertDescription::CertificateRevoked,
        2 | 3 | 18..=22 | 25 | 33 | 79 => AlertDescription::UnknownCA,
        26 => AlertDescription::UnsupportedCertificate,
        _ => AlertDescription::CertificateUnknown,
    }
}

impl From<&CertificateError> for CertificateFailure {
    fn from(error: &CertificateError) -> Self {
        let of_time = |time: &UnixTime| time.as_secs().try_into().unwrap_or(1);
        let (code, host) = match error {
            CertificateError::NotValidForNameContext { expected, presented } => {
                let code = presented.first().and_then(|code| code.parse().ok());
                (code.unwrap_or(1), Some(expected))
            }
            CertificateError::ExpiredContext { time, .. }
            | CertificateError::ExpiredRevocationListContext { time, .. } => (of_time(time), None),
            CertificateError::Revoked => (23, None),
            CertificateError::InvalidPurpose => (26, None),
            CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext {
                signature_algorithm_id: code,
                ..
            } => (code.as_slice().try_into().map_or(1, i32::from_be_bytes), None),
            CertificateError::Other(why) => {
                (why.0.downcast_ref().map_or(1, |code: &Code| code.0), None)
            }
            // What rustls itself finds wrong: the signature of the handshake.
            CertificateError::BadSignature => (7, None),
            _ => return Self { code: 1, message: error.to_string() },
        };
        let code = Code(code);
        let what = match code {
            Code::HOSTNAME_MISMATCH => Some("Hostname"),
            Code::IP_ADDRESS_MISMATCH => Some("IP address"),
            _ => None,
        };
        let message = match (what, host) {
            // Python's words, not OpenSSL's.
            (Some(what), Some(host)) => {
                format!("{what} mismatch, certificate is not valid for '{}'.", host.to_str())
            }
            _ => code.text().to_owned(),
        };
        Self { code: code.0, message }
    }
}
