//! A coroutine that has not begun, as it lies in a run queue.
//!
//! In: a reference that the layer above gives away. Out: the same reference. Must never: lose one, or look
//! at what it refers to.

/// A coroutine that has not begun: a reference that the layer above has given away, which it gets
/// back as it is.
#[derive(Debug)]
#[must_use = "a coroutine that is dropped here is lost"]
pub struct Unstarted(usize);

impl Unstarted {
    /// Of a reference that is given away.
    pub fn new(reference: usize) -> Self {
        Self(reference)
    }

    /// The reference, which stays given away.
    #[must_use]
    pub fn reference(&self) -> usize {
        self.0
    }

    /// The reference, to be owned again.
    #[must_use]
    pub fn into_reference(self) -> usize {
        let reference = self.0;
        std::mem::forget(self);
        reference
    }
}

impl Drop for Unstarted {
    fn drop(&mut self) {
        debug_assert!(false, "a coroutine was lost");
    }
}
