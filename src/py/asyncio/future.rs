//! How `create_future` creates a future of asyncio's native class: like a call of the class, but with one
//! keyword dict, `{"loop": loop}`, that is shared by all futures and tasks of a running loop. A call would
//! create a dict each time.
//!
//! Must never: pass that dict to Python code, which could keep or change it.

use std::ptr;
use std::sync::OnceLock;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::state::{State, state};
use crate::py::cpython::alloc;
use crate::py::cpython::object::Ref;

/// asyncio's native class of futures, and what a call of it calls.
#[derive(Debug)]
struct Native {
    class: *mut ffi::PyTypeObject,
    new: ffi::newfunc,
    init: ffi::initproc,
}

// SAFETY: a type that is never freed, and its functions.
unsafe impl Send for Native {}
// SAFETY: as above.
unsafe impl Sync for Native {}

static NATIVE: OnceLock<Native> = OnceLock::new();

/// Learns the class of futures; of one that is not asyncio's native class they are made by calls.
pub(crate) fn learn(class: &Bound<'_, PyType>) {
    let kind = class.as_type_ptr();
    // SAFETY: a live type.
    let (name, new, init) =
        unsafe { (std::ffi::CStr::from_ptr((*kind).tp_name), (*kind).tp_new, (*kind).tp_init) };
    if let (Some(new), Some(init)) = (new, init)
        && name.to_bytes() == b"_asyncio.Future"
        && class.get_type().is(class.py().get_type::<PyType>())
    {
        let class = class.clone().into_ptr().cast();
        let _ = NATIVE.set(Native { class, new, init });
    }
}

/// The keywords of all futures and tasks of a loop.
///
/// # Errors
/// `MemoryError`.
pub(crate) fn keywords(loop_: &Bound<'_, PyAny>) -> PyResult<Ref> {
    let keywords = alloc::dict(loop_.py())?;
    keywords.set_item(state().keywords.name_loop.as_py(), loop_)?;
    Ok(keywords.into_any().into())
}

/// A new future of a loop: a new reference, or null with an exception set. `keywords`: those of the
/// loop, if it runs.
///
/// # Safety
/// The thread is attached; `loop_` and `keywords` are alive during the call.
#[inline(always)]
pub(crate) unsafe fn create(
    loop_: *mut ffi::PyObject,
    keywords: Option<*mut ffi::PyObject>,
) -> *mut ffi::PyObject {
    let state = state();
    let class = state.classes.future.get();
    if let Some(native) = NATIVE.get()
        && ptr::eq(native.class.cast(), class)
        && let Some(keywords) = keywords
    {
        // SAFETY: attached; the loop keeps the keywords as long as it runs.
        return unsafe { native.create(state, keywords) };
    }
    // SAFETY: attached; one keyword and its value, as the convention says.
    unsafe { ffi::PyObject_Vectorcall(class, &raw const loop_, 0, state.keywords.loop_.as_ptr()) }
}

impl Native {
    /// # Safety
    /// The thread is attached; `keywords` is a dict that stays alive during the call.
    #[inline(always)]
    unsafe fn create(&self, state: &State, keywords: *mut ffi::PyObject) -> *mut ffi::PyObject {
        let none = state.empty_tuple.as_ptr();
        // SAFETY: by the caller's word; the functions are called as `type.__call__` calls them.
        unsafe {
            let future = (self.new)(self.class, none, ptr::null_mut());
            if !future.is_null() && (self.init)(future, none, keywords) != 0 {
                ffi::Py_DECREF(future);
                return ptr::null_mut();
            }
            future
        }
    }
}
