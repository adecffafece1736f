//! TLS 1.2 and 1.3 as a filter on bytes, by rustls.
//!
//! In: settings made once ([`ServerSettings`], [`ClientSettings`]), ciphertext that a transport has read,
//! plaintext that a program wants to send. Out: plaintext, ciphertext to be sent, [`Failure`]s as values.
//! A [`Session`] is one connection's state, and is used by one thread at a time; settings are shared by all
//! connections and all threads. `README.md` says how both are used and what is measured.
//!
//! Must never: read or write a socket, wait, keep memory for a connection that is idle, or use Python.

mod engine;
mod failure;
mod filter;
mod hmac;
mod identity;
mod key_log;
mod negotiated;
mod options;
mod provider;
mod records;
mod refusal;
mod roots;
mod session;
mod settings;
mod settings_error;
mod verify;
mod x509;

pub use failure::{CertificateFailure, Failure};
pub use filter::TlsFilter;
pub use identity::Identity;
pub use negotiated::{Cipher, Negotiated};
pub use options::{ClientOptions, Clients, Common, ServerOptions, Servers, Version};
pub use roots::Roots;
pub use session::{MIN_SCRATCH, Received, Session, WRITE_LIMIT};
pub use settings::{ClientSettings, ServerSettings};
pub use settings_error::{NotNative, SettingsError};
pub use x509::{RevocationCheck, Rules};

pub use crate::transport::Ciphertext;

#[cfg(all(test, not(loom)))]
mod tests;
