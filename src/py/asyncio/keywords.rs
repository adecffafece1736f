//! The names of keywords, as asyncio's classes and functions are called with them, made once.
//!
//! In: nothing, and the tuple by which `_asyncio` passes a context, once it is seen. Out: tuples for
//! calls, and whether a call's one keyword is `context`.

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

use pyo3::ffi;
use pyo3::prelude::*;

use crate::py::cpython::alloc;
use crate::py::cpython::names::intern;
use crate::py::cpython::object::Ref;

/// Names, and tuples of them.
#[derive(Debug)]
pub(crate) struct Keywords {
    pub(crate) name_loop: Ref,
    name_context: Ref,
    /// `("loop",)`
    pub(crate) loop_: Ref,
    /// `("context",)`
    pub(crate) context: Ref,
    /// `("loop", "context")`
    pub(crate) task: Ref,
    /// `("loop", "context", "name")`
    pub(crate) named_task: Ref,
    /// The tuple by which `_asyncio` passes a context, once it has been seen.
    seen_context: AtomicPtr<ffi::PyObject>,
}

impl Keywords {
    pub(super) fn new(py: Python<'_>) -> PyResult<Self> {
        let [loop_, context, name] =
            [intern!(py, "loop"), intern!(py, "context"), intern!(py, "name")];
        Ok(Self {
            name_loop: loop_.clone().into_any().into(),
            name_context: context.clone().into_any().into(),
            loop_: alloc::tuple(py, [loop_])?.into_any().into(),
            context: alloc::tuple(py, [context])?.into_any().into(),
            task: alloc::tuple(py, [loop_, context])?.into_any().into(),
            named_task: alloc::tuple(py, [loop_, context, name])?.into_any().into(),
            seen_context: AtomicPtr::default(),
        })
    }

    /// Whether the names of a call's keywords are `context` alone.
    ///
    /// # Safety
    /// `names` is a tuple of strings; the thread is attached.
    #[inline(always)]
    pub(super) unsafe fn is_context(&self, names: *mut ffi::PyObject) -> bool {
        ptr::eq(names, self.seen_context.load(Relaxed))
            // SAFETY: handed on to our caller.
            || unsafe { self.is_context_by_name(names) }
    }

    /// # Safety
    /// As for [`is_context`](Self::is_context).
    unsafe fn is_context_by_name(&self, names: *mut ffi::PyObject) -> bool {
        // SAFETY: handed on to our caller.
        unsafe {
            if ffi::PyTuple_GET_SIZE(names) != 1 {
                return false;
            }
            let name = ffi::PyTuple_GET_ITEM(names, 0);
            if ptr::eq(name, self.name_context.as_ptr()) {
                return true;
            }
            if ffi::PyUnicode_EqualToUTF8(name, c"context".as_ptr()) == 0 {
                return false;
            }
            // `_asyncio` passes one tuple for ever, whose string is not interned: know it again.
            let known = &self.seen_context;
            if known.compare_exchange(ptr::null_mut(), names, Relaxed, Relaxed).is_ok() {
                ffi::Py_INCREF(names);
            }
            true
        }
    }
}
