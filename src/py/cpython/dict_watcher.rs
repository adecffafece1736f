//! A function that the interpreter calls before a dict changes.

use std::ffi::c_int;

use pyo3::ffi;
use pyo3::prelude::*;

use super::alloc;

/// Called with the event, the dict, the key (null if all change) and what will stand there (null:
/// nothing). Attached; it must run no Python.
pub(crate) type Changes = unsafe extern "C" fn(
    c_int,
    *mut ffi::PyObject,
    *mut ffi::PyObject,
    *mut ffi::PyObject,
) -> c_int;

// Public C API since 3.12; pyo3 does not bind it.
unsafe extern "C" {
    fn PyDict_AddWatcher(callback: Changes) -> c_int;
}

/// One of the few watchers that an interpreter has. It is kept for ever.
#[derive(Debug)]
pub(crate) struct DictWatcher(c_int);

impl DictWatcher {
    /// # Errors
    /// `RuntimeError` if the program has taken them all.
    pub(crate) fn new(py: Python<'_>, changes: Changes) -> PyResult<Self> {
        // SAFETY: the function is static; an exception is set if the number is negative.
        let number = unsafe { PyDict_AddWatcher(changes) };
        if number < 0 { Err(alloc::raised(py)) } else { Ok(Self(number)) }
    }

    /// Has the changes of a dict told as well.
    ///
    /// # Errors
    /// Those of the interpreter.
    ///
    /// # Safety
    /// `dict` is a live dict.
    pub(crate) unsafe fn watch(&self, py: Python<'_>, dict: *mut ffi::PyObject) -> PyResult<()> {
        // SAFETY: by our caller's word; the watcher is ours.
        if unsafe { ffi::PyDict_Watch(self.0, dict) } < 0 { Err(alloc::raised(py)) } else { Ok(()) }
    }
}
