//! Why settings cannot be had.

use std::{fmt, io};

/// Why options do not become settings.
#[derive(Debug)]
pub enum SettingsError {
    /// They are good, but rustls cannot do it: OpenSSL may.
    NotNative(NotNative),
    /// They are wrong, which is said in words.
    Invalid(String),
    /// A file could not be opened.
    Io(io::Error),
}

/// What rustls cannot do. Each has its reason as a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotNative {
    /// TLS 1.0 or 1.1 are asked for, and neither 1.2 nor 1.3.
    OldVersions,
    /// Ciphers are named: rustls has those of TLS 1.3, and ECDHE with an AEAD of TLS 1.2.
    Ciphers,
    /// The private key needs a password.
    EncryptedKey,
    /// The private key is of a kind or a size that is not known; rustls says more.
    Key(String),
    /// A trusted certificate, or a list of revoked ones, is none to AWS-LC.
    Unreadable,
    /// Trusted certificates have the same name, and which of them OpenSSL finds first is not known.
    SameName,
}

impl fmt::Display for NotNative {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OldVersions => f.write_str("rustls has neither TLS 1.0 nor TLS 1.1"),
            Self::Ciphers => f.write_str("rustls takes no list of OpenSSL's ciphers"),
            Self::EncryptedKey => f.write_str("rustls reads no private key that has a password"),
            Self::Key(why) => write!(f, "rustls cannot use this private key: {why}"),
            Self::Unreadable => {
                f.write_str("AWS-LC cannot read a trusted certificate, or a list of revoked ones")
            }
            Self::SameName => f.write_str("trusted certificates of several kinds have one name"),
        }
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotNative(why) => why.fmt(f),
            Self::Invalid(what) => f.write_str(what),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SettingsError {}

impl From<NotNative> for SettingsError {
    fn from(why: NotNative) -> Self {
        Self::NotNative(why)
    }
}

impl From<io::Error> for SettingsError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<rustls::Error> for SettingsError {
    fn from(error: rustls::Error) -> Self {
        Self::Invalid(error.to_string())
    }
}
