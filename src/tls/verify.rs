//! rustls' questions about certificates, answered by [`x509`].

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    verify_tls12_signature, verify_tls13_signature, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::provider::provider;
use super::refusal::refusal;
use super::x509::{self, Code, Purpose, Store};

/// Whether a peer has the key of its certificate: rustls' own check, which is always made. `$may_sign`: whether the
/// certificate lets its key sign a handshake of TLS 1.2.
macro_rules! verify_signatures {
    ($may_sign:expr) => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let may_sign: fn(&CertificateDer<'_>) -> bool = $may_sign;
            if !may_sign(cert) {
                return Err(refusal(Code::INVALID_PURPOSE, None));
            }
            let algorithms = &provider().signature_verification_algorithms;
            verify_tls12_signature(message, cert, signature, algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            signed_by(message, cert, signature)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            provider().signature_verification_algorithms.supported_schemes()
        }
    };
}

/// Verifies a signature of TLS 1.3 by the key in a certificate. Of the certificate, rustls would read more than the key,
/// by rules of its own. There is no such function for TLS 1.2.
fn signed_by(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let algorithms = &provider().signature_verification_algorithms;
    let Some(key) = x509::public_key(certificate) else {
        return verify_tls13_signature(message, certificate, signature, algorithms);
    };
    let key = SubjectPublicKeyInfoDer::from(key);
    verify_tls13_signature_with_raw_key(message, &key, signature, algorithms)
}

/// Verifies servers.
#[derive(Debug)]
pub(super) struct Servers {
    /// What is trusted; `None` if any certificate will do.
    pub(super) store: Option<Arc<Store>>,
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
        let Some(store) = &self.store else { return Ok(ServerCertVerified::assertion()) };
        let host = self.checks_name.then_some(name);
        x509::verify(store, end_entity, intermediates, Purpose::Server, host, now)
            .map(|_| ServerCertVerified::assertion())
            .map_err(|code| refusal(code, host))
    }

    verify_signatures!(x509::may_sign_handshakes);
}

/// Verifies clients, if they have a certificate.
#[derive(Debug)]
pub(super) struct Clients {
    pub(super) store: Arc<Store>,
    /// Whether they have to have one.
    pub(super) is_required: bool,
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        self.is_required
    }

    /// None: as OpenSSL, which names authorities only if it is told to, and Python does not.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        x509::verify(&self.store, end_entity, intermediates, Purpose::Client, None, now)
            .map(|_| ClientCertVerified::assertion())
            .map_err(|code| refusal(code, None))
    }

    verify_signatures!(|_| true);
}

/// The chain by which a peer with these certificates is verified now, in DER; `None` if it is not.
pub(super) fn verified_chain(
    store: &Store,
    certificates: &[&[u8]],
    purpose: Purpose,
) -> Option<Vec<Vec<u8>>> {
    let mut all = certificates.iter().map(|der| CertificateDer::from(*der));
    let (leaf, others) = (all.next()?, all.collect::<Vec<_>>());
    x509::verify(store, &leaf, &others, purpose, None, UnixTime::now()).ok()
}
