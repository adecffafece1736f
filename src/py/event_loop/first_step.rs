//! Which task's first step `create_task` is running.

use std::ptr;

use pyo3::ffi;

/// The task that `create_task` is starting at once, if it is. Owner's.
#[derive(Clone, Copy)]
pub(crate) struct FirstStep {
    /// The task, while its first step runs and the registry does not know it; or null.
    pub(crate) unregistered: *mut ffi::PyObject,
    /// Its constructor has not begun the step yet.
    pub(crate) constructing: bool,
}

// SAFETY: the pointer is compared, and followed only while the task's creator holds it.
unsafe impl Send for FirstStep {}

impl FirstStep {
    pub(crate) const NONE: Self = Self { unregistered: ptr::null_mut(), constructing: false };
}
