//! What a handshake came to.

use rustls::{CipherSuite, CommonState, HandshakeKind, ProtocolVersion, SupportedCipherSuite};

use super::options::Version;

/// A cipher, as `ssl.SSLObject.cipher` gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cipher {
    /// OpenSSL's name.
    pub name: &'static str,
    /// The bits of its key.
    pub bits: u16,
    /// Its number in IANA's register.
    pub number: u16,
}

/// What both sides agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// The version.
    pub version: Version,
    /// The cipher.
    pub cipher: Cipher,
    /// The protocol of ALPN.
    pub alpn: Option<Vec<u8>>,
    /// Whether it goes on from an earlier session, without certificates.
    pub is_resumed: bool,
}

impl Negotiated {
    /// `None` before the handshake is finished.
    pub(super) fn of(state: &CommonState) -> Option<Self> {
        if state.is_handshaking() {
            return None;
        }
        let version = match state.protocol_version()? {
            ProtocolVersion::TLSv1_2 => Version::Tls12,
            _ => Version::Tls13,
        };
        Some(Self {
            version,
            cipher: cipher(state.negotiated_cipher_suite()?),
            alpn: state.alpn_protocol().map(<[u8]>::to_vec),
            is_resumed: state.handshake_kind() == Some(HandshakeKind::Resumed),
        })
    }
}

fn cipher(suite: SupportedCipherSuite) -> Cipher {
    let (name, bits) = match suite.suite() {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => ("TLS_AES_128_GCM_SHA256", 128),
        CipherSuite::TLS13_AES_256_GCM_SHA384 => ("TLS_AES_256_GCM_SHA384", 256),
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => ("TLS_CHACHA20_POLY1305_SHA256", 256),
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => {
            ("ECDHE-ECDSA-AES128-GCM-SHA256", 128)
        }
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => {
            ("ECDHE-ECDSA-AES256-GCM-SHA384", 256)
        }
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => {
            ("ECDHE-ECDSA-CHACHA20-POLY1305", 256)
        }
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => ("ECDHE-RSA-AES128-GCM-SHA256", 128),
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => ("ECDHE-RSA-AES256-GCM-SHA384", 256),
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => {
            ("ECDHE-RSA-CHACHA20-POLY1305", 256)
        }
        _ => ("unknown", 0),
    };
    Cipher { name, bits, number: suite.suite().into() }
}
