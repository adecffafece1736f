//! Verification of certificates: webpki's, but for certificates that are trusted themselves.
//!
//! OpenSSL accepts a certificate that is among the trusted ones, also if it is an authority's, such as the
//! self-signed ones that `openssl req -x509` makes; webpki refuses an authority's as that of a server or a
//! client. What else makes a certificate bad is so for these, too: webpki looks at the time first.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};

use super::identity::Roots;
use super::provider::provider;

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
    /// What is trusted, or `None` if any certificate will do.
    pub(super) roots: Option<Roots>,
    /// Whether the name in the certificate counts.
    pub(super) checks_name: bool,
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let accepted = ServerCertVerified::assertion;
        let Some(roots) = &self.roots else { return Ok(accepted()) };
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let verdict = verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &roots.store,
            intermediates,
            now,
            provider().signature_verification_algorithms.all,
        );
        reviewed(verdict, end_entity, roots, || ())?;
        if self.checks_name {
            verify_server_name(&certificate, name)?;
        }
        Ok(accepted())
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
    pub(super) inner: Arc<dyn ClientCertVerifier>,
    pub(super) roots: Roots,
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
