//! What waits in a loop's queues: a handle, or a C task's step without one.

use pyo3::ffi;
use pyo3::prelude::*;

use crate::py::asyncio::handle::{self};
use crate::py::asyncio::state::state;
use crate::py::cpython::object::{Ref, prefetch};

/// Something to run on the loop's thread. Three words.
///
/// | `context` | `arg` | `what` is |
/// |---|---|---|
/// | none | none | a handle |
/// | set | none | a C task's step callback |
/// | set | `None` | likewise, the first of its task |
/// | set | set | a C task's wakeup callback, `arg` the future that is done |
/// | none | set | a native object with I/O to do; `arg` is `None` |
///
/// The task's callbacks stand without a handle because the C code that posts them drops what `call_soon`
/// returns: nobody could cancel or see it.
#[derive(Debug)]
pub(crate) struct Callback {
    pub(super) what: Ref,
    pub(super) arg: Option<Ref>,
    pub(super) context: Option<Ref>,
}

// SAFETY: references may be counted from any attached thread; `Ref` says who may drop one.
unsafe impl Send for Callback {}

impl Callback {
    #[inline(always)]
    pub(crate) fn from_handle(handle: Ref) -> Self {
        Self { what: handle, arg: None, context: None }
    }

    #[inline(always)]
    pub(crate) fn from_task(step: Ref, arg: Option<Ref>, context: Ref) -> Self {
        Self { what: step, arg, context: Some(context) }
    }

    /// An entry for the first step of a task that the loop shows until then.
    #[inline(always)]
    pub(crate) fn from_young_task(step: Ref, context: Ref) -> Self {
        // SAFETY: `None` is immortal, and whoever makes an entry is attached.
        let mark = unsafe { Ref::from_borrowed(ffi::Py_None()) };
        Self { what: step, arg: Some(mark), context: Some(context) }
    }

    /// An entry for a native object that [`Hooks::run_native`](super::hooks::Hooks) knows.
    #[inline(always)]
    pub(crate) fn from_native(object: Ref) -> Self {
        // SAFETY: `None` is immortal, and whoever makes an entry is attached.
        let mark = unsafe { Ref::from_borrowed(ffi::Py_None()) };
        Self { what: object, arg: Some(mark), context: None }
    }

    /// The handle, of a callback made by [`from_handle`](Self::from_handle).
    #[inline(always)]
    pub(crate) fn handle(&self) -> *mut ffi::PyObject {
        self.what.as_ptr()
    }

    pub(crate) fn objects(&self) -> impl Iterator<Item = &Py<PyAny>> {
        [Some(&self.what), self.arg.as_ref(), self.context.as_ref()]
            .into_iter()
            .flatten()
            .map(Ref::as_py)
    }

    #[inline(always)]
    pub(crate) fn clone_ref(&self, py: Python<'_>) -> Self {
        Self {
            what: self.what.clone_ref(py),
            arg: self.arg.as_ref().map(|arg| arg.clone_ref(py)),
            context: self.context.as_ref().map(|context| context.clone_ref(py)),
        }
    }

    /// Begins to fetch its object, for a run soon.
    #[inline(always)]
    pub(crate) fn prefetch(&self) {
        prefetch(self.what.as_ptr().cast());
    }

    /// Begins to fetch the context of a handle, which is at hand itself.
    #[inline(always)]
    pub(crate) fn prefetch_context(&self) {
        if self.context.is_none() && self.arg.is_none() {
            let (handle, state) = (self.handle(), state());
            // SAFETY: a live object.
            let kind = unsafe { ffi::Py_TYPE(handle) };
            if [state.handle_type, state.timer_type, state.threadsafe_type].contains(&kind) {
                // SAFETY: the type was checked, and with it the layout. The address is not followed.
                let context = unsafe { handle::context_address(handle) };
                prefetch(std::ptr::without_provenance(context));
            }
        }
    }
}
