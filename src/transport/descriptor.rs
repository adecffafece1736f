//! The number of a descriptor, and whether it still refers to the same file.

use std::os::fd::RawFd;

use crate::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// A descriptor that somebody else may close: the kernel then gives its number to the next one that is
/// opened, which is a stranger's. So each call looks first at the object that closes it, which overwrites
/// its own copy of the number before.
#[derive(Debug)]
pub struct Descriptor {
    number: RawFd,
    /// The address of that copy; 0: nobody else closes the descriptor.
    copy: AtomicUsize,
}

impl Descriptor {
    pub(super) fn new(number: RawFd) -> Self {
        Self { number, copy: AtomicUsize::new(0) }
    }

    /// The number, whatever it stands for by now.
    #[inline]
    pub fn number(&self) -> RawFd {
        self.number
    }

    /// Notes where the object that closes the descriptor keeps its number.
    ///
    /// # Safety
    /// The address is valid as long as this is used, by a holder of a claim on the state too.
    pub unsafe fn is_closed_by(&self, copy: *const RawFd) {
        self.copy.store(copy.expose_provenance(), Relaxed);
    }

    /// Whether the number still stands for the descriptor.
    #[inline]
    pub fn is_held(&self) -> bool {
        let copy = std::ptr::with_exposed_provenance::<RawFd>(self.copy.load(Relaxed));
        // SAFETY: valid, by the word of whoever noted it. Another thread may write there at this moment,
        // as the interpreter does, a number at once.
        copy.is_null() || unsafe { copy.read_volatile() } == self.number
    }

    /// The number for a system call: one that the kernel refuses (`EBADF`), if it is a stranger's by now.
    #[inline]
    pub fn for_call(&self) -> RawFd {
        if self.is_held() { self.number } else { -1 }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_was_overwritten_is_not_used() {
        let descriptor = Descriptor::new(7);
        assert_eq!((descriptor.for_call(), descriptor.is_held()), (7, true));
        let mut copy: RawFd = 7;
        let at = &raw mut copy;
        // SAFETY: the copy outlives the descriptor's use.
        unsafe {
            descriptor.is_closed_by(at);
            assert_eq!((descriptor.for_call(), descriptor.is_held()), (7, true));
            at.write(-1);
        }
        assert_eq!((descriptor.for_call(), descriptor.is_held()), (-1, false));
        assert_eq!(descriptor.number(), 7);
    }
}
