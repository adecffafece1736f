//! Memory for what a filter wants sent: one for a thread, not for a connection.

/// More memory than this is given back after use.
const KEPT: usize = 1024 * 1024;

/// What a [`Filter`](super::Filter) wants sent, oldest first. It is used for one connection at a time, and emptied
/// in between; its memory stays.
#[derive(Debug, Default)]
pub struct Ciphertext {
    /// All of it has been written once, so that no byte is cleared twice.
    memory: Vec<u8>,
    filled: usize,
}

impl Ciphertext {
    /// What is to be sent.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.memory[..self.filled]
    }

    /// Bytes to be sent.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.filled
    }

    /// Whether nothing is to be sent.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Forgets what was to be sent, and keeps the memory.
    #[inline]
    pub fn clear(&mut self) {
        self.filled = 0;
    }

    /// Forgets what was to be sent, and keeps no more memory than is usual.
    pub fn forget(&mut self) {
        self.filled = 0;
        if self.memory.len() > KEPT {
            self.memory = Vec::new();
        }
    }

    /// All the memory behind what is to be sent.
    #[inline]
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.memory[self.filled..]
    }

    /// Makes room for so many bytes at least.
    pub fn reserve(&mut self, bytes: usize) {
        let needed = self.filled + bytes;
        if self.memory.len() < needed {
            self.memory.resize(needed.next_power_of_two(), 0);
        }
    }

    /// Appends these bytes.
    #[inline]
    pub fn extend(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        self.room()[..bytes.len()].copy_from_slice(bytes);
        self.filled(bytes.len());
    }

    /// Takes over the first bytes of [`room`](Self::room).
    #[inline]
    pub fn filled(&mut self, bytes: usize) {
        debug_assert!(self.filled + bytes <= self.memory.len());
        self.filled += bytes;
    }
}
