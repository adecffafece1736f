//! A session as the filter of a stream.

use std::any::Any;
use std::io;

use super::session::{MIN_SCRATCH, Session};
use crate::transport::{Ciphertext, FILTER_MEMORY, Filter, Received};

const _: () = assert!(FILTER_MEMORY >= MIN_SCRATCH);

/// A session whose ciphertext a transport reads and writes. Its errors are [`Failure`](super::Failure)s inside an
/// [`io::Error`].
#[derive(Debug)]
pub struct TlsFilter {
    session: Session,
    /// The end of the stream counts as the peer's word that it sends no more.
    suppresses_eof: bool,
}

impl TlsFilter {
    /// Of a session that has received nothing. `suppresses_eof`: once the handshake is finished, the end of the
    /// stream counts as the peer's word that it sends no more (`OP_IGNORE_UNEXPECTED_EOF`).
    #[must_use]
    pub fn new(session: Session, suppresses_eof: bool) -> Self {
        Self { session, suppresses_eof }
    }

    /// The session.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }
}

impl Filter for TlsFilter {
    fn restore(&self, memory: &mut [u8]) -> usize {
        self.session.restore(memory)
    }

    fn receive(
        &mut self,
        read: &mut [u8],
        plaintext: &mut Vec<u8>,
        answers: &mut Ciphertext,
    ) -> io::Result<Received> {
        let mut take = |record: &[u8]| plaintext.extend_from_slice(record);
        let received = self.session.receive(read, answers, &mut take).map_err(io::Error::other)?;
        Ok(Received { is_open: received.is_handshaken, is_end: received.is_end })
    }

    fn receive_end(&mut self) -> io::Result<()> {
        if self.suppresses_eof && !self.session.is_handshaking() {
            return self.session.check().map_err(io::Error::other);
        }
        self.session.receive_end().map_err(io::Error::other)
    }

    fn send(&mut self, data: &[u8], to: &mut Ciphertext) -> io::Result<usize> {
        self.session.send(data, to).map_err(io::Error::other)
    }

    fn close(&mut self, to: &mut Ciphertext) {
        self.session.close(to);
    }

    fn is_peer_closed(&self) -> bool {
        self.session.is_peer_closed()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
