//! What can be chosen, as plain values: the attributes of Python's `ssl.SSLContext` that rustls has.

use std::path::PathBuf;

use super::identity::Identity;
use super::roots::Roots;

/// A version of TLS, or of what came before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 1.0: only as a limit.
    Tls10,
    /// 1.1: only as a limit.
    Tls11,
    /// 1.2.
    Tls12,
    /// 1.3.
    Tls13,
}

/// What clients and servers choose alike.
#[derive(Clone, Debug)]
pub struct Common {
    /// The lowest version. What rustls does not have below it is not offered.
    pub minimum: Version,
    /// The highest version.
    pub maximum: Version,
    /// Protocols for ALPN, the preferred first; none: it is not used.
    pub alpn: Vec<Vec<u8>>,
    /// Ciphers in OpenSSL's words, if they are not left to the library.
    pub ciphers: Option<String>,
    /// A file for the secrets of all connections.
    pub key_log: Option<PathBuf>,
}

impl Default for Common {
    fn default() -> Self {
        Self {
            minimum: Version::Tls12,
            maximum: Version::Tls13,
            alpn: Vec::new(),
            ciphers: None,
            key_log: None,
        }
    }
}

/// Which clients a server accepts.
#[derive(Clone, Debug, Default)]
pub enum Clients {
    /// All; none is asked for a certificate (`CERT_NONE`).
    #[default]
    All,
    /// Those without a certificate, and those with one of these authorities (`CERT_OPTIONAL`).
    Verified(Roots),
    /// Those with a certificate of these authorities (`CERT_REQUIRED`).
    Certified(Roots),
}

/// What a server chooses.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// As a client does.
    pub common: Common,
    /// The certificate for clients that ask for no name, or for one that is not in `by_name`.
    pub identity: Identity,
    /// Certificates by the name that a client asks for; the case does not count.
    pub by_name: Vec<(String, Identity)>,
    /// Which clients are accepted.
    pub clients: Clients,
    /// How many tickets a client of TLS 1.3 gets, each for one other session; 0: sessions are not resumed,
    /// in TLS 1.2 neither. They are not if clients are verified.
    pub tickets: usize,
}

impl ServerOptions {
    /// With this certificate, and what is usual besides.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        let (common, clients) = (Common::default(), Clients::All);
        Self { common, identity, by_name: Vec::new(), clients, tickets: 2 }
    }
}

/// Which servers a client accepts.
#[derive(Clone, Debug)]
pub enum Servers {
    /// Those that prove to be the one that was asked for.
    Named(Roots),
    /// Those with any certificate of these authorities (`check_hostname` off).
    AnyName(Roots),
    /// All (`CERT_NONE`): the connection is private, but nobody knows with whom.
    All,
}

/// What a client chooses.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// As a server does.
    pub common: Common,
    /// Which servers are accepted.
    pub servers: Servers,
    /// The certificate for servers that ask for one.
    pub identity: Option<Identity>,
    /// How many servers' sessions are remembered, to be resumed; 0: none. None are if servers are verified.
    pub sessions: usize,
}

impl ClientOptions {
    /// For these servers, and what is usual besides.
    #[must_use]
    pub fn new(servers: Servers) -> Self {
        Self { common: Common::default(), servers, identity: None, sessions: 256 }
    }
}
