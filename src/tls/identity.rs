//! Certificates and keys, out of PEM.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::provider::provider;
use super::settings_error::{NotNative, SettingsError};
use super::x509::{self, Store};

/// A certificate with those that lead from it to a root, and its private key.
#[derive(Clone, Debug)]
pub struct Identity(Arc<CertifiedKey>);

impl Identity {
    /// Out of the contents of PEM files; both may be the same, and hold other things besides.
    ///
    /// # Errors
    /// If there is none, if they do not fit each other, or if rustls has no use for a key of this kind.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, SettingsError> {
        let chain = certificates(chain)?;
        if chain.is_empty() {
            return Err(SettingsError::Invalid("there is no certificate in the file".into()));
        }
        let key = match PrivateKeyDer::from_pem_slice(key) {
            Ok(key) => key,
            Err(_) if is_encrypted(key) => return Err(NotNative::EncryptedKey.into()),
            Err(error) => return Err(SettingsError::Invalid(format!("private key: {error}"))),
        };
        let key = provider()
            .key_provider
            .load_private_key(key)
            .map_err(|error| NotNative::Key(error.to_string()))?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            // rustls does not know how to tell of some kinds of keys, and those are not refused.
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
                Ok(Self(Arc::new(certified)))
            }
            Err(error) => Err(SettingsError::Invalid(error.to_string())),
        }
    }

    /// The certificate without its chain, in DER.
    #[must_use]
    pub fn certificate(&self) -> Option<&[u8]> {
        self.0.cert.first().map(|certificate| &certificate[..])
    }

    /// The same, if its chain has more than one certificate; else with the chain that OpenSSL would send: what the
    /// store has above it.
    pub(super) fn completed(self, store: &Store) -> Self {
        let CertifiedKey { cert, key, .. } = &*self.0;
        let [own] = &cert[..] else { return self };
        let chain: Vec<_> = x509::complete(store, own, UnixTime::now())
            .into_iter()
            .map(CertificateDer::from)
            .collect();
        // One that is trusted itself has no more, and one that AWS-LC does not read has none.
        if chain.len() < 2 {
            self
        } else {
            Self(Arc::new(CertifiedKey::new(chain, Arc::clone(key))))
        }
    }
}

pub(super) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, SettingsError> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| SettingsError::Invalid(format!("certificate: {error}")))
}

/// Whether a key needs a password: in either of the two ways to say so.
fn is_encrypted(pem: &[u8]) -> bool {
    let says = |what: &[u8]| pem.windows(what.len()).any(|window| window == what);
    says(b"BEGIN ENCRYPTED PRIVATE KEY") || says(b"Proc-Type: 4,ENCRYPTED")
}

/// Chooses a server's certificate by the name that the client asks for.
#[derive(Debug)]
pub(super) struct ByName {
    /// For names that are not in the map, and clients that give none.
    pub(super) default: Identity,
    /// In lower case.
    pub(super) by_name: HashMap<String, Identity>,
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls gives names in lower case.
        let named = hello.server_name().and_then(|name| self.by_name.get(name));
        Some(Arc::clone(&named.unwrap_or(&self.default).0))
    }
}

/// A client's certificate, whatever authorities the server names.
#[derive(Debug)]
pub(super) struct Always(pub(super) Identity);

impl ResolvesClientCert for Always {
    fn resolve(
        &self,
        _: &[&[u8]],
        schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        let CertifiedKey { key, .. } = &*self.0.0;
        key.choose_scheme(schemes).is_some().then(|| Arc::clone(&self.0.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
