//! What a peer's certificates are verified by, as plain values that become a store.

use std::sync::Arc;

use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject;

use super::identity::certificates;
use super::settings_error::{NotNative, SettingsError};
use super::x509::{Rules, Store};

/// The certificates that are trusted: of authorities, and of single servers and clients. The authorities' lists of
/// certificates that are not any more. And what is asked of a chain.
#[derive(Clone, Debug, Default)]
pub struct Roots(Store);

impl Roots {
    /// Trusts all certificates in the contents of a PEM file. Returns how many there were.
    ///
    /// # Errors
    /// If it is no PEM, or one of them is not to be read.
    pub fn add_pem(&mut self, pem: &[u8]) -> Result<usize, SettingsError> {
        let certificates = certificates(pem)?;
        for certificate in &certificates {
            self.add(certificate)?;
        }
        Ok(certificates.len())
    }

    /// Trusts a certificate, in DER.
    ///
    /// # Errors
    /// [`NotNative::Unreadable`].
    pub fn add(&mut self, certificate: &[u8]) -> Result<(), SettingsError> {
        readable(self.0.add(0, certificate))
    }

    /// Trusts a certificate that is not an authority's, in DER, where the order among others is not known.
    ///
    /// # Errors
    /// [`NotNative::Unreadable`], and [`NotNative::SameName`] if one that was added before has its subject.
    pub fn add_other(&mut self, certificate: &[u8]) -> Result<(), SettingsError> {
        if self.0.has_name_of(certificate) {
            return Err(NotNative::SameName.into());
        }
        self.add(certificate)
    }

    /// Trusts a certificate out of a folder, the first, second ... of those in which OpenSSL looks for what it does not
    /// know yet; counted from 0. `hash`: the number that its file is named by. If it is not OpenSSL's hash of the subject, the
    /// certificate is left out, as OpenSSL does not find it.
    ///
    /// # Errors
    /// [`NotNative::Unreadable`].
    pub fn add_from_folder(
        &mut self,
        folder: usize,
        hash: u32,
        certificate: &[u8],
    ) -> Result<(), SettingsError> {
        readable(self.0.add_by_hash(folder + 1, hash, certificate))
    }

    /// Adds all lists of revoked certificates in the contents of a PEM file. Returns how many there were.
    ///
    /// # Errors
    /// If it is no PEM, or one of them is not to be read.
    pub fn add_revoked_pem(&mut self, pem: &[u8]) -> Result<usize, SettingsError> {
        let mut count = 0;
        for list in CertificateRevocationListDer::pem_slice_iter(pem) {
            let list = list.map_err(|error| SettingsError::Invalid(format!("CRL: {error}")))?;
            self.add_revoked(&list)?;
            count += 1;
        }
        Ok(count)
    }

    /// Adds a list of revoked certificates, in DER.
    ///
    /// # Errors
    /// [`NotNative::Unreadable`].
    pub fn add_revoked(&mut self, list: &[u8]) -> Result<(), SettingsError> {
        readable(self.0.add_list(list))
    }

    /// What is asked of a chain.
    pub fn rules(&mut self) -> &mut Rules {
        &mut self.0.rules
    }

    pub(super) fn into_store(self) -> Arc<Store> {
        Arc::new(self.0)
    }
}

fn readable(is_read: bool) -> Result<(), SettingsError> {
    if is_read { Ok(()) } else { Err(NotNative::Unreadable.into()) }
}
