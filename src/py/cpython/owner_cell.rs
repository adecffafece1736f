//! A value of a loop that the thread which owns the loop reaches without a lock.

use std::cell::UnsafeCell;

/// A value that the loop's owner alone touches.
pub(crate) struct OwnerCell<T>(UnsafeCell<T>);

// SAFETY: `with` demands a claim on the loop, which one thread at a time has.
unsafe impl<T: Send> Sync for OwnerCell<T> {}

impl<T> OwnerCell<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Calls `f` with the value.
    ///
    /// # Safety
    /// The caller owns the loop that the cell is of, and `f` neither reaches the cell again nor runs
    /// Python.
    #[inline(always)]
    pub(crate) unsafe fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        // SAFETY: one owner, and no second reference, by the caller's word.
        f(unsafe { &mut *self.0.get() })
    }
}
