//! Why a connection failed, in terms that Python's `ssl` has exceptions for.

use std::fmt;

use rustls::{AlertDescription, Error, InvalidMessage, PeerIncompatible};

/// Why a connection cannot go on. The same is said of it from then on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The peer's certificate is not accepted: `ssl.SSLCertVerificationError`.
    Certificate(CertificateFailure),
    /// The peer gave no certificate, and has to.
    NoCertificate,
    /// The peer has ended the connection with an alert of this number.
    Alert(u8),
    /// The stream ended without the peer's word that it sends no more: `ssl.SSLEOFError`.
    Truncated {
        /// Whether the handshake had not been finished.
        in_handshake: bool,
    },
    /// What came is no TLS, such as a request of plain HTTP.
    NotTls,
    /// A record is not what the peer's keys encrypted.
    BadRecord,
    /// No version of TLS is enabled on both sides.
    NoSharedVersion,
    /// No cipher, group or signature is enabled on both sides.
    NoSharedCipher,
    /// No protocol was agreed on by ALPN.
    NoSharedProtocol,
    /// The peer has not kept to the protocol; what it did is named.
    Protocol(String),
    /// Something is to be sent after it was said that nothing more will be.
    Closed,
    /// Nothing that the peer did: no randomness, no clock, used up keys.
    Internal(String),
}

/// Why a certificate is not accepted, as OpenSSL numbers and words it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFailure {
    /// `verify_code` of Python's exception: `X509_V_ERR_*`.
    pub code: i32,
    /// Its `verify_message`.
    pub message: String,
}

impl Failure {
    /// What Python's exception has as its `reason`.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Certificate(_) => "CERTIFICATE_VERIFY_FAILED",
            Self::NoCertificate => "PEER_DID_NOT_RETURN_A_CERTIFICATE",
            Self::Alert(code) => alert_reason(*code),
            Self::Truncated { .. } => "UNEXPECTED_EOF_WHILE_READING",
            Self::NotTls => "WRONG_VERSION_NUMBER",
            Self::BadRecord => "DECRYPTION_FAILED_OR_BAD_RECORD_MAC",
            Self::NoSharedVersion => "UNSUPPORTED_PROTOCOL",
            Self::NoSharedCipher => "NO_SHARED_CIPHER",
            Self::NoSharedProtocol => "NO_APPLICATION_PROTOCOL",
            Self::Protocol(_) => "UNEXPECTED_MESSAGE",
            Self::Closed => "PROTOCOL_IS_SHUTDOWN",
            Self::Internal(_) => "INTERNAL_ERROR",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate(failure) => {
                write!(f, "certificate verify failed: {}", failure.message)
            }
            Self::NoCertificate => f.write_str("peer did not return a certificate"),
            Self::Alert(code) => write!(f, "the peer sent the alert {code}"),
            Self::Truncated { in_handshake: true } => f.write_str("the handshake was cut off"),
            Self::Truncated { in_handshake: false } => {
                f.write_str("EOF occurred in violation of protocol")
            }
            Self::NotTls => f.write_str("wrong version number"),
            Self::BadRecord => f.write_str("decryption failed or bad record mac"),
            Self::NoSharedVersion => f.write_str("unsupported protocol"),
            Self::NoSharedCipher => f.write_str("no shared cipher"),
            Self::NoSharedProtocol => f.write_str("no application protocol"),
            Self::Protocol(what) | Self::Internal(what) => f.write_str(what),
            Self::Closed => f.write_str("protocol is shutdown"),
        }
    }
}

impl std::error::Error for Failure {}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::InvalidCertificate(why) => Self::Certificate((&why).into()),
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::AlertReceived(alert) => Self::Alert(alert.into()),
            Error::InvalidMessage(
                InvalidMessage::InvalidContentType
                | InvalidMessage::UnknownProtocolVersion
                | InvalidMessage::MessageTooLarge,
            ) => Self::NotTls,
            Error::DecryptError => Self::BadRecord,
            Error::PeerIncompatible(
                PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
                | PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled,
            ) => Self::NoSharedVersion,
            Error::PeerIncompatible(_) => Self::NoSharedCipher,
            Error::NoApplicationProtocol => Self::NoSharedProtocol,
            Error::EncryptError
            | Error::FailedToGetCurrentTime
            | Error::FailedToGetRandomBytes
            | Error::General(_)
            | Error::Other(_) => Self::Internal(error.to_string()),
            error => Self::Protocol(error.to_string()),
        }
    }
}

/// OpenSSL's name of an alert that came.
fn alert_reason(code: u8) -> &'static str {
    match AlertDescription::from(code) {
        AlertDescription::UnexpectedMessage => "SSLV3_ALERT_UNEXPECTED_MESSAGE",
        AlertDescription::BadRecordMac => "SSLV3_ALERT_BAD_RECORD_MAC",
        AlertDescription::RecordOverflow => "TLSV1_ALERT_RECORD_OVERFLOW",
        AlertDescription::HandshakeFailure => "SSLV3_ALERT_HANDSHAKE_FAILURE",
        AlertDescription::BadCertificate => "SSLV3_ALERT_BAD_CERTIFICATE",
        AlertDescription::UnsupportedCertificate => "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        AlertDescription::CertificateRevoked => "SSLV3_ALERT_CERTIFICATE_REVOKED",
        AlertDescription::CertificateExpired => "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        AlertDescription::CertificateUnknown => "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        AlertDescription::IllegalParameter => "SSLV3_ALERT_ILLEGAL_PARAMETER",
        AlertDescription::UnknownCA => "TLSV1_ALERT_UNKNOWN_CA",
        AlertDescription::AccessDenied => "TLSV1_ALERT_ACCESS_DENIED",
        AlertDescription::DecodeError => "TLSV1_ALERT_DECODE_ERROR",
        AlertDescription::DecryptError => "TLSV1_ALERT_DECRYPT_ERROR",
        AlertDescription::ProtocolVersion => "TLSV1_ALERT_PROTOCOL_VERSION",
        AlertDescription::InsufficientSecurity => "TLSV1_ALERT_INSUFFICIENT_SECURITY",
        AlertDescription::InternalError => "TLSV1_ALERT_INTERNAL_ERROR",
        AlertDescription::UserCanceled => "TLSV1_ALERT_USER_CANCELLED",
        AlertDescription::NoRenegotiation => "TLSV1_ALERT_NO_RENEGOTIATION",
        AlertDescription::MissingExtension => "TLSV13_ALERT_MISSING_EXTENSION",
        AlertDescription::UnrecognisedName => "TLSV1_UNRECOGNIZED_NAME",
        AlertDescription::CertificateRequired => "TLSV13_ALERT_CERTIFICATE_REQUIRED",
        AlertDescription::NoApplicationProtocol => "TLSV1_ALERT_NO_APPLICATION_PROTOCOL",
        _ => "TLSV1_ALERT_UNKNOWN",
    }
}
