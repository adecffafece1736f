//! A TLS connection's state between the calls of its object.

use crate::tls::{Ciphertext, Failure, Session};
use crate::transport::Passage;

/// One connection's state.
pub(super) struct Connected {
    pub(super) session: Session,
    /// Plaintext that nobody has read yet, from `read` on.
    plaintext: Vec<u8>,
    read: usize,
    /// What is to be sent and was not asked for yet: a client's first message.
    pub(super) first: Option<Ciphertext>,
    /// That the program sends no more has been said.
    pub(super) is_closed: bool,
    /// That the peer sends no more has been read.
    pub(super) is_end_read: bool,
}

impl Connected {
    pub(super) fn new(session: Session, first: Option<Ciphertext>) -> Self {
        let (plaintext, read) = (Vec::new(), 0);
        Self { session, plaintext, read, first, is_closed: false, is_end_read: false }
    }

    pub(super) fn unread(&self) -> &[u8] {
        &self.plaintext[self.read..]
    }

    /// Whether a read would bring something of what was decrypted, if only the end.
    pub(super) fn has_more(&self) -> bool {
        !self.unread().is_empty() || (self.session.is_peer_closed() && !self.is_end_read)
    }

    /// Takes ciphertext of any length. What it says is left in the passage, and so is what is to be answered. Says whether the peer has said by this that it sends no more.
    pub(super) fn receive(
        session: &mut Session,
        passage: &mut Passage,
        mut data: &[u8],
    ) -> Result<bool, Failure> {
        let (memory, plaintext, to_send) = passage.begin();
        let mut is_end = false;
        loop {
            let start = session.restore(memory);
            let count = data.len().min(memory.len() - start);
            let end = start + count;
            memory[start..end].copy_from_slice(&data[..count]);
            let received = session.receive(&mut memory[..end], to_send, plaintext)?;
            is_end |= received.is_end;
            data = &data[count..];
            if data.is_empty() {
                return Ok(is_end);
            }
        }
    }

    /// As `receive`, and keeps the plaintext to be read later.
    pub(super) fn keep(&mut self, passage: &mut Passage, data: &[u8]) -> Result<(), Failure> {
        let received = Self::receive(&mut self.session, passage, data);
        if self.unread().is_empty() {
            self.plaintext.clear();
            self.read = 0;
        }
        self.plaintext.extend_from_slice(&passage.plaintext);
        received.map(|_| ())
    }

    /// Takes up to `limit` bytes of what was decrypted.
    pub(super) fn take(&mut self, limit: usize) -> Vec<u8> {
        let count = limit.min(self.unread().len());
        if self.read == 0 && count == self.plaintext.len() {
            // An idle connection keeps nothing.
            return std::mem::take(&mut self.plaintext);
        }
        let taken = self.unread()[..count].to_vec();
        self.read += count;
        if self.unread().is_empty() {
            self.plaintext = Vec::new();
            self.read = 0;
        }
        taken
    }
}
