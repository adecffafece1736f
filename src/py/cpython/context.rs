//! Contexts: copying the current one, and entering one.

use pyo3::ffi;
use pyo3::prelude::*;

use super::object::Ref;

/// A copy of the current context.
#[inline(always)]
pub(crate) fn copy_context(py: Python<'_>) -> PyResult<Ref> {
    // SAFETY: attached (`py`); the result is a new reference or null with an exception.
    unsafe { Ref::from_owned_or_err(py, ffi::PyContext_CopyCurrent()) }
}

/// A context that the thread has entered, and leaves again, also by a panic.
pub(crate) struct Entered(*mut ffi::PyObject);

impl Entered {
    /// Enters it. `None`: an exception is set; it is no context, or somebody is in it.
    ///
    /// # Safety
    /// The object is alive until the context is left; the thread is attached.
    #[inline(always)]
    pub(crate) unsafe fn new(context: *mut ffi::PyObject) -> Option<Self> {
        // SAFETY: by our caller's word; entering refuses what is not a context.
        (unsafe { ffi::PyContext_Enter(context) } == 0).then(|| Self(context))
    }

    /// Leaves it; if that fails, an exception is set.
    #[inline(always)]
    pub(crate) fn leave(self) -> bool {
        // SAFETY: by the word of who entered it.
        unsafe { ffi::PyContext_Exit(std::mem::ManuallyDrop::new(self).0) == 0 }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        // SAFETY: as in `leave`.
        if unsafe { ffi::PyContext_Exit(self.0) } != 0 {
            // SAFETY: likewise. The panic says more.
            unsafe { ffi::PyErr_Clear() };
        }
    }
}
