//! Where a filter puts what has come.

use std::mem::MaybeUninit;

/// Memory for plaintext that a [`Filter`](super::Filter) hands on, oldest first: a thread's, or an object of its user's.
pub trait Plaintext {
    /// Bytes that it has.
    fn len(&self) -> usize;

    /// Whether it has none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// So many bytes are about to come, as far as the filter knows before it has looked into them.
    fn hint(&mut self, bytes: usize);

    /// Room for so many bytes at least, behind those that it has. To be written, and then taken over by
    /// [`filled`](Self::filled).
    fn spare(&mut self, bytes: usize) -> &mut [MaybeUninit<u8>];

    /// Takes over the first bytes of [`spare`](Self::spare).
    ///
    /// # Safety
    /// They were written since.
    unsafe fn filled(&mut self, bytes: usize);

    /// Appends bytes.
    fn append(&mut self, bytes: &[u8]) {
        let room = self.spare(bytes.len())[..bytes.len()].as_mut_ptr();
        // SAFETY: there is room for so many, and nobody else has it.
        unsafe {
            room.cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            self.filled(bytes.len());
        }
    }
}

impl Plaintext for Vec<u8> {
    fn len(&self) -> usize {
        self.len()
    }

    fn hint(&mut self, bytes: usize) {
        self.reserve(bytes);
    }

    fn spare(&mut self, bytes: usize) -> &mut [MaybeUninit<u8>] {
        self.reserve(bytes);
        self.spare_capacity_mut()
    }

    unsafe fn filled(&mut self, bytes: usize) {
        debug_assert!(self.len() + bytes <= self.capacity());
        // SAFETY: by the caller's word.
        unsafe { self.set_len(self.len() + bytes) };
    }
}
