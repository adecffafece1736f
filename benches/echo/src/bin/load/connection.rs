//! One connection to the echo server, with at most one request on it.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use crate::socket::Socket;

/// The payload of a request begins somewhere in the first bytes of the pattern, so that a response
/// to another request is told from the right one.
const OFFSETS: usize = 251;

/// The bytes that requests are cut from.
pub(crate) struct Pattern {
    bytes: Box<[u8]>,
    size: usize,
}

impl Pattern {
    /// For requests of `size` bytes.
    pub(crate) fn new(size: usize) -> Self {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut random_byte = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        };
        Self { bytes: (0..size + OFFSETS).map(|_| random_byte()).collect(), size }
    }

    fn payload(&self, offset: usize) -> &[u8] {
        &self.bytes[offset..offset + self.size]
    }
}

/// A request on its way.
struct Request {
    intended: Instant,
    offset: usize,
    sent: usize,
    received: usize,
}

pub(crate) struct Connection {
    pub(crate) socket: Socket,
    request: Option<Request>,
    /// When the requests should have begun for which the connection was not free yet.
    pub(crate) waiting: VecDeque<Instant>,
    /// The longest latency of its requests.
    pub(crate) worst: Duration,
    next_offset: usize,
}

impl Connection {
    /// `number` tells the connection's requests from those of others.
    pub(crate) fn new(socket: Socket, number: usize) -> Self {
        Self {
            socket,
            request: None,
            waiting: VecDeque::new(),
            worst: Duration::ZERO,
            next_offset: number * 31 % OFFSETS,
        }
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.request.is_some()
    }

    /// Since when a response is due, if one is.
    pub(crate) fn waits_since(&self) -> Option<Instant> {
        self.request.as_ref().map(|request| request.intended)
    }

    /// Begin a request: send what the socket takes.
    pub(crate) fn begin(&mut self, intended: Instant, pattern: &Pattern) -> io::Result<()> {
        let offset = self.next_offset;
        self.next_offset = (offset + 7) % OFFSETS;
        self.request = Some(Request { intended, offset, sent: 0, received: 0 });
        self.send(pattern)
    }

    /// Send what is left of the request, as far as the socket takes it.
    pub(crate) fn send(&mut self, pattern: &Pattern) -> io::Result<()> {
        let Some(request) = &mut self.request else { return Ok(()) };
        let payload = pattern.payload(request.offset);
        while request.sent < payload.len() {
            match self.socket.write(&payload[request.sent..]) {
                Ok(count) => request.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.socket.flush()
    }

    /// Whether a request waits for what the server says in the TLS handshake.
    pub(crate) fn waits_for_handshake(&self) -> bool {
        self.socket.is_tls() && self.request.as_ref().is_some_and(|request| request.sent == 0)
    }

    /// Read and check what has come. Returns when the request was intended that is now answered.
    ///
    /// # Errors
    ///
    /// As `read`; `InvalidData` for bytes other than those sent, `UnexpectedEof` if the server
    /// closed the connection.
    pub(crate) fn receive(
        &mut self,
        pattern: &Pattern,
        buffer: &mut [u8],
    ) -> io::Result<Option<Instant>> {
        let mut answered = None;
        loop {
            let count = match self.socket.read(buffer) {
                Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "closed by server")),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(answered),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let Some(request) = &mut self.request else {
                return Err(io::Error::new(ErrorKind::InvalidData, "more bytes than were sent"));
            };
            let expected = &pattern.payload(request.offset)[request.received..request.sent];
            if !expected.starts_with(&buffer[..count]) {
                return Err(io::Error::new(ErrorKind::InvalidData, "not the bytes that were sent"));
            }
            request.received += count;
            if request.received == pattern.size {
                answered = Some(request.intended);
                self.request = None;
            }
            // A TLS session may hold more, of which no event would tell.
            if count < buffer.len() && !self.socket.is_tls() {
                return Ok(answered);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::socket::Address;

    const SIZE: usize = 100;

    /// A connection, and the server's end of it, which blocks.
    fn connect() -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = Address::Tcp(listener.local_addr().expect("it is bound"));
        let socket = Socket::connect(&address).expect("it listens");
        let (server, _) = listener.accept().expect("somebody has connected");
        (Connection::new(socket, 3), server)
    }

    /// Receive until something comes of it.
    fn receive(connection: &mut Connection, pattern: &Pattern) -> io::Result<Option<Instant>> {
        let mut buffer = [0; 64];
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            match connection.receive(pattern, &mut buffer) {
                Ok(None) => std::thread::yield_now(),
                result => return result,
            }
        }
        panic!("nothing came");
    }

    #[test]
    fn an_echo_answers_the_request() {
        let (mut connection, mut server) = connect();
        let pattern = Pattern::new(SIZE);
        let intended = Instant::now();
        connection.begin(intended, &pattern).expect("the socket takes it");
        let mut bytes = [0; SIZE];
        server.read_exact(&mut bytes).expect("it was sent");
        server.write_all(&bytes[..10]).expect("the client reads");
        server.write_all(&bytes[10..]).expect("the client reads");
        assert_eq!(receive(&mut connection, &pattern).expect("all is well"), Some(intended));
        assert!(!connection.is_busy());
    }

    #[test]
    fn any_wrong_byte_is_an_error() {
        let (mut connection, mut server) = connect();
        let pattern = Pattern::new(SIZE);
        connection.begin(Instant::now(), &pattern).expect("the socket takes it");
        let mut bytes = [0; SIZE];
        server.read_exact(&mut bytes).expect("it was sent");
        bytes[SIZE - 1] ^= 1;
        server.write_all(&bytes).expect("the client reads");
        let error = receive(&mut connection, &pattern).expect_err("a byte is wrong");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }

    #[test]
    fn bytes_that_nobody_asked_for_are_an_error() {
        let (mut connection, mut server) = connect();
        server.write_all(b"x").expect("the client reads");
        let error = receive(&mut connection, &Pattern::new(SIZE)).expect_err("nothing was asked");
        assert_eq!(error.to_string(), "more bytes than were sent");
    }

    #[test]
    fn the_response_to_another_request_is_an_error() {
        let (mut connection, mut server) = connect();
        let pattern = Pattern::new(SIZE);
        connection.begin(Instant::now(), &pattern).expect("the socket takes it");
        let mut first = [0; SIZE];
        server.read_exact(&mut first).expect("it was sent");
        server.write_all(&first).expect("the client reads");
        receive(&mut connection, &pattern).expect("all is well");
        connection.begin(Instant::now(), &pattern).expect("the socket takes it");
        server.read_exact(&mut [0; SIZE]).expect("it was sent");
        server.write_all(&first).expect("the client reads");
        assert!(receive(&mut connection, &pattern).is_err());
    }

    #[test]
    fn a_server_that_closes_is_an_error() {
        let (mut connection, server) = connect();
        drop(server);
        let error = receive(&mut connection, &Pattern::new(SIZE)).expect_err("it has closed");
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    }
}
