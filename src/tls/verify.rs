//! Verification of certificates: webpki's, but for certificates that are trusted themselves.
//!
//! OpenSSL accepts a certificate that is among the trusted ones, also if it is an authority's, such as the
//! self-signed ones that `openssl req -x509` makes; webpki refuses an authority's as that of a server or a
//! client. What else makes a certificate bad is so for these, too: webpki looks at the time first.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};

use super::identity::{RevocationCheck, Roots};
use super::provider::provider;
use super::settings_error::{NotNative, SettingsError};

/// A certificate is self-signed, and not among the trusted ones.
#[derive(Debug)]
pub(super) struct SelfSigned;

impl fmt::Display for SelfSigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("self-signed certificate")
    }
}

impl std::error::Error for SelfSigned {}

/// What is to be made of webpki's verdict on a certificate.
fn reviewed<T>(
    verdict: Result<T, Error>,
    certificate: &CertificateDer<'_>,
    roots: &Roots,
    accepted: impl FnOnce() -> T,
) -> Result<T, Error> {
    match verdict {
        Err(Error::InvalidCertificate(CertificateError::Other(OtherError(why))))
            if why.downcast_ref() == Some(&webpki::Error::CaUsedAsEndEntity) =>
        {
            if roots.has(certificate) {
                return Ok(accepted());
            }
            Err(unknown_issuer(certificate))
        }
        Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            Err(unknown_issuer(certificate))
        }
        verdict => verdict,
    }
}

/// The error about a certificate whose authority is not trusted.
fn unknown_issuer(certificate: &CertificateDer<'_>) -> Error {
    let is_self_signed = webpki::EndEntityCert::try_from(certificate)
        .is_ok_and(|certificate| certificate.issuer() == certificate.subject());
    let error = if is_self_signed {
        CertificateError::Other(OtherError(Arc::new(SelfSigned)))
    } else {
        CertificateError::UnknownIssuer
    };
    Error::InvalidCertificate(error)
}

/// Verifies servers. Whether one has the key of its certificate is always verified.
#[derive(Debug)]
pub(super) struct Servers {
    /// webpki, and what is trusted; `None` if any certificate will do.
    trusted: Option<(Arc<WebPkiServerVerifier>, Roots)>,
    /// Whether the name in the certificate counts.
    checks_name: bool,
}

impl Servers {
    /// Accepts the servers of these authorities, or all.
    ///
    /// # Errors
    /// If nothing can be verified with these.
    pub(super) fn new(roots: Option<Roots>, checks_name: bool) -> Result<Self, SettingsError> {
        let Some(roots) = roots else { return Ok(Self { trusted: None, checks_name }) };
        let (store, lists) = checked(&roots)?;
        let builder = WebPkiServerVerifier::builder_with_provider(store, Arc::clone(provider()));
        let builder = builder.with_crls(lists).enforce_revocation_expiration();
        let builder = if roots.check == RevocationCheck::Leaf {
            builder.only_check_end_entity_revocation()
        } else {
            builder
        };
        let webpki = builder.build().map_err(|error| invalid(&error))?;
        Ok(Self { trusted: Some((webpki, roots)), checks_name })
    }
}

/// What something is verified with: rustls would take no authority for an error, and no list for the wish
/// to look nothing up.
fn checked(
    roots: &Roots,
) -> Result<(Arc<RootCertStore>, Vec<CertificateRevocationListDer<'static>>), SettingsError> {
    if roots.store.is_empty() {
        return Err(NotNative::NoRoots.into());
    }
    let lists = match roots.check {
        RevocationCheck::None => Vec::new(),
        _ if roots.revoked.is_empty() => return Err(NotNative::NoLists.into()),
        RevocationCheck::Leaf | RevocationCheck::Chain => roots.revoked.clone(),
    };
    Ok((Arc::new(roots.store.clone()), lists))
}

fn invalid(error: &VerifierBuilderError) -> SettingsError {
    SettingsError::Invalid(error.to_string())
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let accepted = ServerCertVerified::assertion;
        let Some((webpki, roots)) = &self.trusted else { return Ok(accepted()) };
        let verdict =
            webpki.verify_server_cert(end_entity, intermediates, name, ocsp_response, now);
        match verdict {
            // webpki looks at the name last: all else was found good.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.checks_name => Ok(accepted()),
            Err(_) => {
                reviewed(verdict, end_entity, roots, accepted)?;
                if self.checks_name {
                    verify_server_name(&ParsedCertificate::try_from(end_entity)?, name)?;
                }
                Ok(accepted())
            }
            Ok(verified) => Ok(verified),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &provider().signature_verification_algorithms;
        verify_tls12_signature(message, cert, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &provider().signature_verification_algorithms;
        verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Verifies clients as `inner` does.
#[derive(Debug)]
pub(super) struct Clients {
    inner: Arc<dyn ClientCertVerifier>,
    roots: Roots,
}

impl Clients {
    /// Accepts clients of these authorities, and those without a certificate if it need not have one.
    ///
    /// # Errors
    /// If nothing can be verified with these.
    pub(super) fn new(roots: Roots, is_required: bool) -> Result<Self, SettingsError> {
        let (store, lists) = checked(&roots)?;
        let builder = WebPkiClientVerifier::builder_with_provider(store, Arc::clone(provider()));
        let builder = builder.with_crls(lists).enforce_revocation_expiration();
        let builder = if roots.check == RevocationCheck::Leaf {
            builder.only_check_end_entity_revocation()
        } else {
            builder
        };
        let builder = if is_required { builder } else { builder.allow_unauthenticated() };
        let inner = builder.build().map_err(|error| invalid(&error))?;
        Ok(Self { inner, roots })
    }
}

impl ClientCertVerifier for Clients {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verdict = self.inner.verify_client_cert(end_entity, intermediates, now);
        reviewed(verdict, end_entity, &self.roots, ClientCertVerified::assertion)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
