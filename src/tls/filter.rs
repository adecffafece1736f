//! A session as the filter of a stream.

use std::any::Any;
use std::io;

use super::session::{MIN_SCRATCH, Session};
use crate::transport::{Ciphertext, FILTER_MEMORY, Filter, Plaintext};

const _: () = assert!(FILTER_MEMORY >= MIN_SCRATCH);

/// A session whose ciphertext a transport reads and writes. Its errors are [`Failure`](super::Failure)s inside an
/// [`io::Error`].
#[derive(Debug)]
pub struct TlsFilter(Session);

impl TlsFilter {
    /// Of a session that has received nothing.
    #[must_use]
    pub fn new(session: Session) -> Self {
        Self(session)
    }

    /// The session.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.0
    }
}

impl Filter for TlsFilter {
    fn restore(&self, memory: &mut [u8]) -> usize {
        self.0.restore(memory)
    }

    fn receive(
        &mut self,
        read: &mut [u8],
        plaintext: &mut dyn Plaintext,
        answers: &mut Ciphertext,
    ) -> io::Result<()> {
        self.0.receive(read, answers, plaintext).map(drop).map_err(io::Error::other)
    }

    fn receive_end(&mut self, _: &mut Ciphertext) -> io::Result<()> {
        // As in asyncio, which does not tell OpenSSL: a protocol that has to know counts its bytes.
        if !self.0.is_handshaking() {
            return self.0.check().map_err(io::Error::other);
        }
        self.0.receive_end().map_err(io::Error::other)
    }

    fn send(&mut self, data: &[u8], to: &mut Ciphertext) -> io::Result<usize> {
        self.0.send(data, to).map_err(io::Error::other)
    }

    fn send_all(&mut self, data: &[u8], to: &mut Ciphertext) -> io::Result<()> {
        let taken = self.0.send_all(data, to).map_err(io::Error::other)?;
        if taken < data.len() { Err(io::ErrorKind::NotConnected.into()) } else { Ok(()) }
    }

    fn close(&mut self, to: &mut Ciphertext) {
        self.0.close(to);
    }

    fn is_open(&self) -> bool {
        !self.0.is_handshaking()
    }

    fn is_peer_closed(&self) -> bool {
        self.0.is_peer_closed()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}
