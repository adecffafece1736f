//! Memory for what a filter wants sent: one for a thread, not for a connection.

use std::mem::MaybeUninit;

/// More memory than this is given back after use.
const KEPT: usize = 1024 * 1024;

/// What a [`Filter`](super::Filter) wants sent, oldest first. It is used for one connection at a time, and emptied
/// in between; its memory stays, unless it is [taken](Self::take).
#[derive(Debug, Default)]
pub struct Ciphertext {
    /// As long as what is to be sent.
    memory: Vec<u8>,
    /// So many bytes of the memory are initialised, at least what is to be sent: so no byte is cleared twice.
    written: usize,
}

impl Ciphertext {
    /// What is to be sent.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.memory
    }

    /// Bytes to be sent.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.memory.len()
    }

    /// Whether nothing is to be sent.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.memory.is_empty()
    }

    /// Bytes of its memory.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.memory.capacity()
    }

    /// Forgets what was to be sent, and keeps the memory.
    #[inline]
    pub fn clear(&mut self) {
        self.memory.clear();
    }

    /// Forgets what was to be sent, and keeps no more memory than is usual.
    pub fn forget(&mut self) {
        self.clear();
        if self.memory.capacity() > KEPT {
            *self = Self::default();
        }
    }

    /// What is initialised of the memory behind what is to be sent.
    #[inline]
    pub fn room(&mut self) -> &mut [u8] {
        let count = self.written - self.memory.len();
        let spare = self.memory.spare_capacity_mut()[..count].as_mut_ptr();
        // SAFETY: so many bytes were initialised, and the memory has stayed where it is since.
        unsafe { std::slice::from_raw_parts_mut(spare.cast(), count) }
    }

    /// Makes [`room`](Self::room) for so many bytes at least.
    pub fn reserve(&mut self, bytes: usize) {
        let (filled, needed) = (self.memory.len(), self.memory.len() + bytes);
        if self.written < needed {
            self.grow(needed);
            let rest = self.written - filled..needed - filled;
            self.memory.spare_capacity_mut()[rest].fill(MaybeUninit::new(0));
            self.written = needed;
        }
    }

    /// Appends these bytes.
    #[inline]
    pub fn extend(&mut self, bytes: &[u8]) {
        self.grow(self.memory.len() + bytes.len());
        self.memory.extend_from_slice(bytes);
        self.written = self.written.max(self.memory.len());
    }

    /// Takes over the first bytes of [`room`](Self::room).
    ///
    /// # Panics
    /// If there is no such room.
    #[inline]
    pub fn filled(&mut self, bytes: usize) {
        assert!(bytes <= self.written - self.memory.len());
        // SAFETY: so many are initialised.
        unsafe { self.memory.set_len(self.memory.len() + bytes) };
    }

    /// Room for so many bytes behind what is to be sent. To be written, and then taken over by
    /// [`filled_spare`](Self::filled_spare).
    #[inline]
    pub fn spare(&mut self, bytes: usize) -> &mut [MaybeUninit<u8>] {
        self.grow(self.memory.len() + bytes);
        // Whoever has it may leave anything there.
        self.written = self.memory.len();
        &mut self.memory.spare_capacity_mut()[..bytes]
    }

    /// Takes over the first bytes of [`spare`](Self::spare).
    ///
    /// # Safety
    /// They were written since.
    #[inline]
    pub unsafe fn filled_spare(&mut self, bytes: usize) {
        debug_assert!(self.memory.len() + bytes <= self.memory.capacity());
        // SAFETY: by the caller's word.
        unsafe { self.memory.set_len(self.memory.len() + bytes) };
        self.written = self.written.max(self.memory.len());
    }

    /// Takes what is to be sent, with its memory.
    #[must_use]
    pub fn take(&mut self) -> Vec<u8> {
        self.written = 0;
        std::mem::take(&mut self.memory)
    }

    /// Takes memory that was [taken](Self::take), and is not needed any more, if it has none that is as large.
    pub fn give_back(&mut self, memory: Vec<u8>) {
        if self.memory.is_empty() && memory.capacity() > self.memory.capacity() {
            self.written = memory.len();
            self.memory = memory;
            self.memory.clear();
        }
    }

    /// Gives the memory a capacity of so many bytes at least.
    #[inline]
    fn grow(&mut self, needed: usize) {
        if self.memory.capacity() < needed {
            self.memory.reserve(needed - self.memory.len());
            // What is behind the bytes to be sent was not moved.
            self.written = self.memory.len();
        }
    }
}
