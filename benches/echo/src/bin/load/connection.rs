//! One connection to the echo server, with at most one request on it.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use mio::net::TcpStream;

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
    pub(crate) stream: TcpStream,
    request: Option<Request>,
    /// When the requests should have begun for which the connection was not free yet.
    pub(crate) waiting: VecDeque<Instant>,
    /// The longest latency of its requests.
    pub(crate) worst: Duration,
    next_offset: usize,
}

impl Connection {
    /// `number` tells the connection's requests from those of others.
    pub(crate) fn new(stream: TcpStream, number: usize) -> Self {
        Self {
            stream,
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
            match self.stream.write(&payload[request.sent..]) {
                Ok(count) => request.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
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
            let count = match self.stream.read(buffer) {
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
            if count < buffer.len() {
                return Ok(answered);
            }
        }
    }
}
