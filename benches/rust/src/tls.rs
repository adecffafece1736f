//! TLS between two ends in memory: handshakes, messages, and data in bulk.

use std::hint::black_box;

use loop_pool::tls::{
    Ciphertext, ClientOptions, ClientSettings, Identity, MIN_SCRATCH, Roots, ServerOptions,
    ServerSettings, Servers, Session, Version,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

/// The kind of a server's key.
#[derive(Clone, Copy, Debug)]
pub enum Key {
    /// ECDSA with the curve P-256.
    Ecdsa,
    /// RSA with 2048 bits.
    Rsa,
}

struct End {
    session: Session,
    scratch: Vec<u8>,
    plaintext: Vec<u8>,
    /// Bytes of plaintext that have come.
    count: usize,
}

impl End {
    fn new(session: Session) -> Self {
        Self { session, scratch: vec![0; MIN_SCRATCH], plaintext: Vec::new(), count: 0 }
    }

    /// Takes what the other end has written, and writes its own answer.
    fn take(&mut self, ciphertext: &[u8], to: &mut Ciphertext) {
        for piece in ciphertext.chunks(MIN_SCRATCH / 2) {
            let at = self.session.restore(&mut self.scratch);
            let end = at + piece.len();
            self.scratch[at..end].copy_from_slice(piece);
            self.plaintext.clear();
            let ciphertext = &mut self.scratch[..end];
            let received = self.session.receive(ciphertext, to, &mut self.plaintext);
            self.count += received.expect("the other end keeps to the protocol").plaintext;
            black_box(&self.plaintext);
        }
    }
}

/// Settings of a server with such a key, and of a client that trusts it.
fn settings(key: Key, version: Version, resumes: bool) -> (ClientSettings, ServerSettings) {
    let algorithm = match key {
        Key::Ecdsa => &rcgen::PKCS_ECDSA_P256_SHA256,
        Key::Rsa => &rcgen::PKCS_RSA_SHA256,
    };
    let new_key = || KeyPair::generate_for(algorithm).expect("randomness");
    let mut params = CertificateParams::new([]).expect("no names are good names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, new_key()).expect("a certificate");
    let key = new_key();
    let params = CertificateParams::new(["localhost".to_owned()]).expect("a good name");
    let certificate = params.signed_by(&key, &authority).expect("a certificate").pem();
    let identity = Identity::from_pem(certificate.as_bytes(), key.serialize_pem().as_bytes());
    let mut roots = Roots::default();
    roots.add_pem(authority.pem().as_bytes()).expect("it was just made");
    let mut server = ServerOptions::new(identity.expect("they were just made"));
    // Who verifies resumes nothing.
    let servers = if resumes { Servers::All } else { Servers::Named(roots) };
    let mut client = ClientOptions::new(servers);
    for common in [&mut server.common, &mut client.common] {
        (common.minimum, common.maximum) = (version, version);
    }
    if !resumes {
        (server.tickets, client.sessions) = (0, 0);
    }
    let server = ServerSettings::new(server).expect("usual options");
    (ClientSettings::new(client).expect("usual options"), server)
}

/// Makes a connection.
fn connect(
    client: &ClientSettings,
    server: &ServerSettings,
    (to_server, to_client): (&mut Ciphertext, &mut Ciphertext),
) -> (End, End) {
    let session = Session::client(client, Some("localhost"), to_server).expect("randomness");
    let mut client = End::new(session);
    let mut server = End::new(Session::server(server).expect("randomness"));
    while !to_server.is_empty() {
        server.take(to_server.bytes(), to_client);
        to_server.clear();
        client.take(to_client.bytes(), to_server);
        to_client.clear();
    }
    assert!(!client.session.is_handshaking() && !server.session.is_handshaking());
    (client, server)
}

/// A whole handshake: the work of both ends.
///
/// # Panics
/// When it fails, which is a bug.
pub fn handshake(key: Key, version: Version, resumes: bool) -> impl FnMut() {
    let (client, server) = settings(key, version, resumes);
    let (mut to_server, mut to_client) = (Ciphertext::default(), Ciphertext::default());
    move || {
        drop(black_box(connect(&client, &server, (&mut to_server, &mut to_client))));
    }
}

/// A client sends so many bytes, which come back: the work of both ends.
///
/// # Panics
/// When bytes get lost, which is a bug.
pub fn echo(version: Version, size: usize) -> impl FnMut() {
    let (client, server) = settings(Key::Ecdsa, version, false);
    let (mut out, mut back) = (Ciphertext::default(), Ciphertext::default());
    let (mut client, mut server) = connect(&client, &server, (&mut out, &mut back));
    let data = vec![7; size];
    move || {
        for from_client in [true, false] {
            let (from, to) =
                if from_client { (&mut client, &mut server) } else { (&mut server, &mut client) };
            to.count = 0;
            let mut rest = &data[..];
            while !rest.is_empty() {
                let taken = from.session.send(rest, &mut out).expect("it is open");
                rest = &rest[taken..];
                to.take(out.bytes(), &mut back);
                out.clear();
            }
            assert_eq!((to.count, back.len()), (size, 0));
        }
    }
}
