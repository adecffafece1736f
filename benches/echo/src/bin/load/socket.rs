//! The sockets that load goes through: TCP, unix, UDP, and TLS over TCP. None of them blocks.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{self, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mio::event::Source;
use mio::net::{TcpStream, UdpSocket, UnixStream};
use mio::{Interest, Registry, Token};
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};

/// The largest payload of a datagram over IPv4.
pub(crate) const LARGEST_DATAGRAM: usize = 65_507;
/// Sessions that a client remembers, of all servers together.
const SESSIONS: usize = 256;
/// A server that says nothing for so long in the handshake of an idle connection is given up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the server is, and how it is spoken to.
#[derive(Clone)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Udp(SocketAddr),
    Unix(PathBuf),
    Tls(SocketAddr, Arc<ClientConfig>),
}

/// What a TLS client needs: it trusts the certificate in this file. If it resumes, each connection
/// resumes a session of one before it, as soon as there is one.
///
/// # Errors
///
/// The file cannot be read, or holds no certificate.
pub(crate) fn trust(certificate: &Path, resumes: bool) -> io::Result<Arc<ClientConfig>> {
    let text = fs::read(certificate)?;
    let certificate = CertificateDer::from_pem_slice(&text).map_err(io::Error::other)?;
    let mut roots = RootCertStore::empty();
    roots.add(certificate).map_err(io::Error::other)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption =
        if resumes { Resumption::in_memory_sessions(SESSIONS) } else { Resumption::disabled() };
    Ok(Arc::new(config))
}

fn session(server: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<ClientConnection> {
    let name = ServerName::IpAddress(server.ip().into());
    ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)
}

/// One socket, connected or about to be.
pub(crate) enum Socket {
    Tcp(TcpStream),
    Udp(UdpSocket),
    Unix(UnixStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Socket {
    /// Connect, and wait for it. A TLS handshake is left to the first bytes.
    ///
    /// # Errors
    ///
    /// The server cannot be reached.
    pub(crate) fn connect(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(server) | Address::Tls(server, _) => {
                let stream = net::TcpStream::connect(server)?;
                stream.set_nonblocking(true)?;
                Self::over(TcpStream::from_std(stream), address)
            }
            Address::Unix(path) => {
                let stream = std::os::unix::net::UnixStream::connect(path)?;
                stream.set_nonblocking(true)?;
                Ok(Self::Unix(UnixStream::from_std(stream)))
            }
            Address::Udp(server) => {
                let local = SocketAddr::new(server.ip(), 0);
                let socket = UdpSocket::bind(local)?;
                socket.connect(*server)?;
                Ok(Self::Udp(socket))
            }
        }
    }

    /// As `connect`, without waiting where the kind of socket allows that.
    ///
    /// # Errors
    ///
    /// The server cannot be reached, as far as that is known at once.
    pub(crate) fn begin_to_connect(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(server) | Address::Tls(server, _) => {
                Self::over(TcpStream::connect(*server)?, address)
            }
            Address::Unix(_) | Address::Udp(_) => Self::connect(address),
        }
    }

    /// As `connect`, for a connection that will only exist: a TLS handshake is over, and what TLS
    /// needs at this end is freed.
    ///
    /// # Errors
    ///
    /// The server cannot be reached, or its handshake fails.
    pub(crate) fn connect_to_idle(address: &Address) -> io::Result<Self> {
        let Address::Tls(server, config) = address else { return Self::connect(address) };
        let mut stream = net::TcpStream::connect(server)?;
        stream.set_read_timeout(Some(HANDSHAKE_TIMEOUT))?;
        let mut session = session(*server, config)?;
        while session.is_handshaking() || session.wants_write() {
            session.complete_io(&mut stream)?;
        }
        stream.set_nonblocking(true)?;
        Ok(Self::Tcp(TcpStream::from_std(stream)))
    }

    fn over(stream: TcpStream, address: &Address) -> io::Result<Self> {
        let Address::Tls(server, config) = address else { return Ok(Self::Tcp(stream)) };
        Ok(Self::Tls(Box::new(StreamOwned::new(session(*server, config)?, stream))))
    }

    /// Send small segments at once, where the socket has such an option.
    ///
    /// # Errors
    ///
    /// As `setsockopt`.
    pub(crate) fn set_nodelay(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nodelay(true),
            Self::Tls(session) => session.sock.set_nodelay(true),
            Self::Unix(_) | Self::Udp(_) => Ok(()),
        }
    }

    pub(crate) fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Whether its TLS session was resumed; `None` before the end of the handshake, and without TLS.
    pub(crate) fn was_resumed(&self) -> Option<bool> {
        let Self::Tls(session) = self else { return None };
        session.conn.handshake_kind().map(|kind| kind == HandshakeKind::Resumed)
    }

    /// Whether a TLS session holds something that the socket did not take yet.
    pub(crate) fn wants_flush(&self) -> bool {
        matches!(self, Self::Tls(session) if session.conn.wants_write())
    }

    fn source(&mut self) -> &mut dyn Source {
        match self {
            Self::Tcp(stream) => stream,
            Self::Udp(socket) => socket,
            Self::Unix(stream) => stream,
            Self::Tls(session) => &mut session.sock,
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Udp(socket) => socket.recv(buffer),
            Self::Unix(stream) => stream.read(buffer),
            Self::Tls(session) => session.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Udp(socket) => socket.send(bytes),
            Self::Unix(stream) => stream.write(bytes),
            Self::Tls(session) => session.write(bytes),
        }
    }

    /// Send what a TLS session has encrypted and the socket did not take. No error if it does not
    /// take it yet: an event tells when it may.
    fn flush(&mut self) -> io::Result<()> {
        let Self::Tls(session) = self else { return Ok(()) };
        while session.conn.wants_write() {
            match session.conn.write_tls(&mut session.sock) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => drop(result?),
            }
        }
        Ok(())
    }
}

impl Source for Socket {
    fn register(&mut self, registry: &Registry, token: Token, wants: Interest) -> io::Result<()> {
        self.source().register(registry, token, wants)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, wants: Interest) -> io::Result<()> {
        self.source().reregister(registry, token, wants)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.source().deregister(registry)
    }
}
