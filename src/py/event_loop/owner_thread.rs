//! The interpreter's state of the thread that runs a loop, for those who look at its stack.
//!
//! In: the thread, as a run begins and ends. Out: a pointer that is good while the loop is known to be
//! inside a callback. Must never: be followed at any other time.

use std::sync::atomic::{
    AtomicPtr,
    Ordering::{Acquire, Release},
};

use pyo3::ffi;

/// The thread that runs the loop, or none.
#[derive(Debug, Default)]
pub(crate) struct OwnerThread(AtomicPtr<ffi::PyThreadState>);

impl OwnerThread {
    /// The calling thread runs the loop from now on. Owner only, attached.
    pub(super) fn begin(&self) {
        // SAFETY: by our caller's word the thread is attached.
        self.0.store(unsafe { ffi::PyThreadState_Get() }, Release);
    }

    /// No thread runs it any more. Owner only.
    pub(super) fn end(&self) {
        self.0.store(std::ptr::null_mut(), Release);
    }

    /// The thread, or null. It is there while the loop is inside a callback.
    pub(super) fn get(&self) -> *mut ffi::PyThreadState {
        self.0.load(Acquire)
    }
}
