//! Certificates and keys, out of PEM.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::provider::provider;
use super::settings_error::{NotNative, SettingsError};

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
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, SettingsError> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| SettingsError::Invalid(format!("certificate: {error}")))
}

/// Whether a key needs a password: in either of the two ways to say so.
fn is_encrypted(pem: &[u8]) -> bool {
    let says = |what: &[u8]| pem.windows(what.len()).any(|window| window == what);
    says(b"BEGIN ENCRYPTED PRIVATE KEY") || says(b"Proc-Type: 4,ENCRYPTED")
}

/// The certificates that are trusted: of authorities, and of single servers and clients. And the authorities' lists
/// of certificates that are not any more.
#[derive(Clone, Debug)]
pub struct Roots {
    pub(super) store: RootCertStore,
    /// The same ones, as they are.
    all: HashSet<Vec<u8>>,
    pub(super) revoked: Vec<CertificateRevocationListDer<'static>>,
    pub(super) check: RevocationCheck,
}

/// Which certificates of a chain must not be revoked. One that is in no list's domain is refused too, and so
/// is a list that is out of date.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RevocationCheck {
    /// None is looked up.
    #[default]
    None,
    /// The peer's own (`VERIFY_CRL_CHECK_LEAF`).
    Leaf,
    /// All but the root's (`VERIFY_CRL_CHECK_CHAIN`).
    Chain,
}

impl Default for Roots {
    /// None.
    fn default() -> Self {
        let (revoked, check) = (Vec::new(), RevocationCheck::None);
        Self { store: RootCertStore::empty(), all: HashSet::new(), revoked, check }
    }
}

impl Roots {
    /// Trusts all certificates in the contents of a PEM file. Those that rustls cannot read are left out,
    /// as is usual for the stores of operating systems. Returns how many were added.
    ///
    /// # Errors
    /// If it is no PEM.
    pub fn add_pem(&mut self, pem: &[u8]) -> Result<usize, SettingsError> {
        let before = self.store.len();
        for certificate in certificates(pem)? {
            if self.store.add(certificate.clone()).is_ok() {
                self.all.insert(certificate.to_vec());
            }
        }
        Ok(self.store.len() - before)
    }

    /// Adds all lists of revoked certificates in the contents of a PEM file. Returns how many there were.
    ///
    /// # Errors
    /// If it is no PEM.
    pub fn add_revoked_pem(&mut self, pem: &[u8]) -> Result<usize, SettingsError> {
        let before = self.revoked.len();
        for list in CertificateRevocationListDer::pem_slice_iter(pem) {
            let list = list.map_err(|error| SettingsError::Invalid(format!("CRL: {error}")))?;
            self.revoked.push(list);
        }
        Ok(self.revoked.len() - before)
    }

    /// Says which certificates are looked up in these lists.
    pub fn check_revoked(&mut self, check: RevocationCheck) {
        self.check = check;
    }

    /// Whether this very certificate is trusted.
    pub(super) fn has(&self, certificate: &CertificateDer<'_>) -> bool {
        self.all.contains(certificate.as_ref())
    }
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
