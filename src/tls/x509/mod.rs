//! Certificates verified as OpenSSL 3 verifies them, by AWS-LC.
//!
//! In: what is trusted ([`Store`], made once, shared by all connections and threads), a peer's certificates in DER, what
//! they are for. Out: the chain that was found good, or the [`Code`] by which OpenSSL would refuse them.
//!
//! ```text
//!   peer's certificates      Store
//!           |                  |
//!           +--> chain::build -+     which certificates: OpenSSL's search, step by step
//!                     |
//!             extensions::check      what OpenSSL 3 asks of each, and AWS-LC does not
//!                     |
//!              library::confirm      AWS-LC's X509_verify_cert, on just this chain: names, lists, dates, signatures
//!                     |
//!           extensions, constraints  what AWS-LC lets pass of it, and OpenSSL does not
//! ```
//!
//! A chain is accepted only if both the checks here and AWS-LC accept it: where the two differ, the stricter one counts.
//! `../README.md` lists where either is stricter than OpenSSL.
//!
//! Must never: keep anything of a verification, ask a socket or a file, unwind into C. AWS-LC calls nothing of ours.

mod certificate;
mod chain;
mod code;
mod constraints;
mod extensions;
mod library;
mod store;

use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

pub(super) use code::Code;
pub(super) use store::Store;
pub use store::{RevocationCheck, Rules};

use certificate::{Certificate, forget_errors};
use chain::Built;

/// What a certificate is to be good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It is a server's, and we are its client.
    Server,
    /// It is a client's, and we are its server.
    Client,
}

/// Verifies a peer by the certificate that it gave, and those that came with it.
///
/// `host`: the name or the address that has to be in it, if any has to. Returns the chain in DER, from the peer's
/// certificate to a trusted one.
///
/// # Errors
/// The code by which OpenSSL would refuse it.
pub(super) fn verify(
    store: &Store,
    leaf: &CertificateDer<'_>,
    others: &[CertificateDer<'_>],
    purpose: Purpose,
    host: Option<&ServerName<'_>>,
    now: UnixTime,
) -> Result<Vec<Vec<u8>>, Code> {
    let verdict = verdict(store, leaf, others, purpose, host, now);
    // AWS-LC leaves there what it found wrong, whatever came of it.
    forget_errors();
    verdict
}

fn verdict(
    store: &Store,
    leaf: &CertificateDer<'_>,
    others: &[CertificateDer<'_>],
    purpose: Purpose,
    host: Option<&ServerName<'_>>,
    now: UnixTime,
) -> Result<Vec<Vec<u8>>, Code> {
    let now = i64::try_from(now.as_secs()).map_err(|_| Code::UNSPECIFIED)?;
    let leaf = Certificate::from_der(leaf).ok_or(Code::UNSPECIFIED)?;
    if !leaf.has_strong_key() {
        return Err(Code::EE_KEY_TOO_SMALL);
    }
    let mut sent = vec![leaf.clone()];
    for other in others {
        sent.push(Certificate::from_der(other).ok_or(Code::UNSPECIFIED)?);
    }
    let built = chain::build(store, &leaf, sent, store.rules.partial_chain, now);
    built.verdict?;
    extensions::check(&built, purpose, store.rules.strict)?;
    extensions::check_strength(&built)?;
    library::confirm(store, &built, purpose, host, now)?;
    extensions::check_lists(&built, store.rules.revocation)?;
    constraints::check(&built)?;
    built.certificates.iter().map(Certificate::to_der).collect()
}

/// A certificate's key with the kind of it, in DER; `None` if AWS-LC does not read it.
pub(super) fn public_key(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let key = Certificate::from_der(certificate)?.public_key();
    forget_errors();
    key
}

/// Whether OpenSSL lets a server of TLS 1.2 sign with the key in this certificate: one that is not of RSA only if it is for
/// signatures. Of TLS 1.3, and of clients, it does not ask it.
pub(super) fn may_sign_handshakes(certificate: &CertificateDer<'_>) -> bool {
    let may_sign = Certificate::from_der(certificate)
        .is_some_and(|each| each.has_rsa_key() || extensions::may_sign_data(&each));
    forget_errors();
    may_sign
}

/// The chain that OpenSSL sends for a certificate of our own of which only itself is known: what the store has above it.
/// In DER, from this certificate on.
pub(super) fn complete(store: &Store, own: &CertificateDer<'_>, now: UnixTime) -> Vec<Vec<u8>> {
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let Some(own) = Certificate::from_der(own) else { return Vec::new() };
    let Built { certificates, .. } = chain::build(store, &own, Vec::new(), false, now);
    let chain = certificates.iter().filter_map(|each| each.to_der().ok()).collect();
    forget_errors();
    chain
}
