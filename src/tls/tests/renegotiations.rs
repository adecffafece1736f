//! Peers that begin a handshake anew in the middle of a connection, which rustls does not: so a peer is made of
//! rustls's keys and its cipher.

use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::crypto::cipher::{MessageEncrypter, OutboundPlainMessage};
use rustls::server::UnbufferedServerConnection;
use rustls::{
    ConnectionTrafficSecrets, ContentType, ExtractedSecrets, ProtocolVersion, SupportedCipherSuite,
};

use super::super::engine::{Engine, process};
use super::*;

/// Encrypts whatever it is told to, as the peer that has finished a handshake.
struct Peer {
    cipher: Box<dyn MessageEncrypter>,
    sequence: u64,
}

impl Peer {
    /// Of what a connection gives away of itself.
    fn new(secrets: ExtractedSecrets, suite: SupportedCipherSuite) -> Self {
        let (sequence, secrets) = secrets.tx;
        let (ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv }) = secrets
        else {
            panic!("another cipher")
        };
        let cipher = match suite {
            SupportedCipherSuite::Tls12(suite) => {
                let (fixed, explicit) = iv.as_ref().split_at(4);
                suite.aead_alg.encrypter(key, fixed, explicit)
            }
            SupportedCipherSuite::Tls13(suite) => suite.aead_alg.encrypter(key, iv),
        };
        let mut peer = Self { cipher, sequence: 0 };
        // The cipher takes numbers in order, from zero on.
        while peer.sequence < sequence {
            peer.record(ContentType::ApplicationData, b"sent before");
        }
        peer
    }

    /// A record.
    fn record(&mut self, typ: ContentType, payload: &[u8]) -> Vec<u8> {
        let version = ProtocolVersion::TLSv1_2;
        let message = OutboundPlainMessage { typ, version, payload: payload.into() };
        let record = self.cipher.encrypt(message, self.sequence).unwrap().encode();
        self.sequence += 1;
        record
    }
}

/// Finishes the handshake between one end and a bare connection of rustls's.
fn shake<E: Engine>(end: &mut End, peer: &mut E) {
    let mut to_end = Ciphertext::default();
    loop {
        let mut bytes = end.give();
        let processed = process(peer, &mut bytes, &mut to_end, &mut |_| ());
        assert!(processed.error.is_none() && processed.used == bytes.len());
        if to_end.is_empty() && end.out.is_empty() {
            break;
        }
        let _ = end.take(to_end.bytes()).unwrap();
        to_end.clear();
    }
    assert!(!end.session.is_handshaking() && !peer.state().is_handshaking());
}

/// A server, and a client that can send anything.
fn server_and_peer(version: Version) -> (End, Peer) {
    let (_, client, mut server) = options(version);
    server.tickets = 0;
    let (client, server) = settings(client, server);
    let mut config = (*client.named).clone();
    config.enable_secret_extraction = true;
    let name = "localhost".try_into().unwrap();
    let mut peer = UnbufferedClientConnection::new(Arc::new(config), name).unwrap();
    let mut end = End::new(Session::server(&server).unwrap(), Ciphertext::default());
    shake(&mut end, &mut peer);
    let (secrets, rest) = peer.dangerous_into_kernel_connection().unwrap();
    (end, Peer::new(secrets, rest.negotiated_cipher_suite()))
}

/// A client, and a server that can send anything.
fn client_and_peer(version: Version) -> (End, Peer) {
    let (_, client, mut server) = options(version);
    server.tickets = 0;
    let (client, server) = settings(client, server);
    let mut config = (*server.0).clone();
    config.enable_secret_extraction = true;
    let mut peer = UnbufferedServerConnection::new(Arc::new(config)).unwrap();
    let mut out = Ciphertext::default();
    let session = Session::client(&client, Some("localhost"), &mut out).unwrap();
    let mut end = End::new(session, out);
    shake(&mut end, &mut peer);
    let (secrets, rest) = peer.dangerous_into_kernel_connection().unwrap();
    (end, Peer::new(secrets, rest.negotiated_cipher_suite()))
}

/// The first message of a client, without the header of its record.
fn hello(version: Version) -> Vec<u8> {
    pair(version).client.give()[5..].to_vec()
}

#[test]
fn a_peer_that_renegotiates_is_told_not_to_and_ended_if_it_goes_on() {
    let ends: [(End, Peer, Vec<u8>); 2] = {
        let (server, client) = server_and_peer(Version::Tls12);
        let (other, peer) = client_and_peer(Version::Tls12);
        [(server, client, hello(Version::Tls12)), (other, peer, vec![0; 4])]
    };
    for (mut end, mut peer, message) in ends {
        let record = peer.record(ContentType::Handshake, &message);
        assert_eq!(end.take(&record).unwrap(), Received::default());
        assert!(!end.give().is_empty(), "it is told");
        // What it has goes on.
        let record = peer.record(ContentType::ApplicationData, b"data");
        assert_eq!(end.take(&record).unwrap().plaintext, 4);
        let record = peer.record(ContentType::Handshake, &message);
        let failed = end.take(&record);
        assert!(matches!(failed, Err(Failure::Protocol(_))), "{failed:?}");
    }
}

#[test]
fn a_handshake_in_a_connection_of_tls_1_3_ends_it() {
    let (mut end, mut peer) = server_and_peer(Version::Tls13);
    let record = peer.record(ContentType::Handshake, &hello(Version::Tls13));
    let failed = end.take(&record);
    assert!(matches!(failed, Err(Failure::Protocol(_))), "{failed:?}");
    assert!(!end.out.is_empty(), "an alert says so");
}

#[test]
fn a_peer_that_says_it_has_new_keys_has_to_use_them() {
    // A key update, to which no change of ours is to answer.
    let message = [24, 0, 0, 1, 0];
    let (mut end, mut peer) = server_and_peer(Version::Tls13);
    let record = peer.record(ContentType::Handshake, &message);
    assert_eq!(end.take(&record).unwrap(), Received::default());
    // The peer goes on with its old keys.
    let record = peer.record(ContentType::ApplicationData, b"data");
    assert_eq!(end.take(&record), Err(Failure::BadRecord));
}

#[test]
fn what_a_peer_must_not_send_ends_the_connection() {
    for (typ, payload) in [
        (ContentType::Alert, &[2, 80][..]),
        (ContentType::Alert, &[1]),
        (ContentType::ChangeCipherSpec, &[1]),
        (ContentType::Handshake, &[99, 0, 0, 0]),
        (ContentType::Unknown(77), &[1, 2, 3]),
    ] {
        for version in VERSIONS {
            let (mut end, mut peer) = server_and_peer(version);
            let record = peer.record(typ, payload);
            let failed = end.take(&record);
            assert!(failed.is_err(), "{version:?} {typ:?}: {failed:?}");
            assert!(end.plaintext.is_empty());
            if payload == [2, 80] {
                assert_eq!(failed, Err(Failure::Alert(80)));
            }
        }
    }
}
