//! A module attribute that is tracked when it is replaced: asyncio's `Task` and `Future`, which programs
//! replace.

use std::sync::atomic::{
    AtomicPtr,
    Ordering::{Acquire, Release},
};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyModule, PyString};

use crate::py::cpython::object::Ref;

/// A module's attribute, followed when it is replaced: programs put other classes in the place of
/// asyncio's `Task` and `Future`, and `BaseEventLoop` looks them up at each use. A look-up would
/// count a reference to an object that all loops share; this costs one load.
#[derive(Debug)]
pub(crate) struct TrackedAttribute {
    /// The module's dict, alive as long as the process.
    pub(super) module: *mut ffi::PyObject,
    name: Ref,
    value: AtomicPtr<ffi::PyObject>,
}

impl TrackedAttribute {
    pub(super) fn new(module: &Bound<'_, PyAny>, name: &Bound<'_, PyString>) -> PyResult<Self> {
        Ok(Self {
            module: module.cast::<PyModule>()?.dict().into_ptr(),
            name: name.clone().into_any().into(),
            value: AtomicPtr::new(module.getattr(name)?.into_ptr()),
        })
    }

    /// The present value, borrowed; it is never freed.
    #[inline(always)]
    pub(crate) fn get(&self) -> *mut ffi::PyObject {
        self.value.load(Acquire)
    }

    /// # Safety
    /// `dict`, `key` and `new_value` are live objects, and the thread attached.
    pub(super) unsafe fn replaced(
        &self,
        dict: *mut ffi::PyObject,
        key: *mut ffi::PyObject,
        new_value: *mut ffi::PyObject,
    ) {
        // SAFETY: handed on to our caller. The reference is given to the static: a class that was
        // current once may be in use by any thread, so it is never released.
        unsafe {
            if std::ptr::eq(dict, self.module)
                && !new_value.is_null()
                && ffi::PyUnicode_Check(key) != 0
                && ffi::PyUnicode_Compare(key, self.name.as_ptr()) == 0
            {
                ffi::Py_INCREF(new_value);
                self.value.store(new_value, Release);
            }
        }
    }
}
