//! What waits in a loop's queues: a handle, a C task's step without one, or a native object.
//!
//! In: one of the constructors. Out: its [`Kind`]. A queue holds many of these and moves each twice, so
//! that a kind is packed into three words, and told by which of them are set: nobody but this file
//! knows how. Must never: be taken apart by anyone else.

use pyo3::ffi;
use pyo3::prelude::*;

use crate::py::asyncio::handle::{self};
use crate::py::asyncio::state::state;
use crate::py::cpython::object::{Ref, prefetch};

/// Something to run on the loop's thread: a [`Kind`], as
///
/// | kind | `what` | `arg` | `context` |
/// |---|---|---|---|
/// | `Handle` | the handle | | |
/// | `Native` | the object | the mark | |
/// | `Step` | the step callback | | set |
/// | `Step`, `is_first` | likewise | the mark | set |
/// | `Wakeup` | the wakeup callback | the future | set |
///
/// The mark is `None`, which is no future.
#[derive(Debug)]
pub(crate) struct Callback {
    what: Ref,
    arg: Option<Ref>,
    context: Option<Ref>,
}

/// What a callback is.
#[derive(Clone, Copy)]
pub(crate) enum Kind<'a> {
    /// A handle of asyncio's, or a native subclass's.
    Handle,
    /// A native object with I/O to do, which [`Hooks`](super::hooks::Hooks) know.
    Native,
    /// A C task's step callback. Like a wakeup it stands without a handle, because the C code that posts
    /// it drops what `call_soon` returns: nobody could cancel or see it.
    Step {
        context: &'a Ref,
        /// It is the first of a task, which the loop shows until then.
        is_first: bool,
    },
    /// A C task's wakeup callback.
    Wakeup {
        context: &'a Ref,
        /// What it is woken by, and called with.
        future: &'a Ref,
    },
}

// SAFETY: references may be counted from any attached thread; `Ref` says who may drop one.
unsafe impl Send for Callback {}

impl Callback {
    #[inline(always)]
    pub(crate) fn from_handle(handle: Ref) -> Self {
        Self { what: handle, arg: None, context: None }
    }

    #[inline(always)]
    pub(crate) fn from_step(step: Ref, context: Ref, is_first: bool) -> Self {
        let arg = if is_first { Some(mark()) } else { None };
        Self { what: step, arg, context: Some(context) }
    }

    /// `future` is not `None`, with which no C task is woken.
    #[inline(always)]
    pub(crate) fn from_wakeup(wakeup: Ref, future: Ref, context: Ref) -> Self {
        debug_assert!(!is_mark(&future));
        Self { what: wakeup, arg: Some(future), context: Some(context) }
    }

    #[inline(always)]
    pub(crate) fn from_native(object: Ref) -> Self {
        Self { what: object, arg: Some(mark()), context: None }
    }

    #[inline(always)]
    pub(crate) fn kind(&self) -> Kind<'_> {
        match (&self.context, &self.arg) {
            (None, None) => Kind::Handle,
            (None, Some(_)) => Kind::Native,
            (Some(context), None) => Kind::Step { context, is_first: false },
            (Some(context), Some(arg)) if is_mark(arg) => Kind::Step { context, is_first: true },
            (Some(context), Some(future)) => Kind::Wakeup { context, future },
        }
    }

    /// The handle, the native object, or the callback, as its kind says.
    #[inline(always)]
    pub(crate) fn what(&self) -> &Ref {
        &self.what
    }

    /// The handle, of one that was made [`from_handle`](Self::from_handle).
    #[inline(always)]
    pub(crate) fn handle(&self) -> *mut ffi::PyObject {
        self.what.as_ptr()
    }

    /// Drops a handle that has run.
    #[inline(always)]
    pub(crate) fn drop_handle(self) {
        let Self { what, arg, context } = self;
        debug_assert!(arg.is_none() && context.is_none());
        std::mem::forget((arg, context)); // `None`
        what.drop_inline();
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
        if matches!(self.kind(), Kind::Handle) {
            let (handle, state) = (self.handle(), state());
            // SAFETY: a live object.
            let kind = unsafe { ffi::Py_TYPE(handle) };
            if [state.soon.class, state.timer.class, state.threadsafe.class].contains(&kind) {
                // SAFETY: the type was checked, and with it the layout. The address is not followed.
                let context = unsafe { handle::context_address(handle) };
                prefetch(std::ptr::without_provenance(context));
            }
        }
    }
}

/// The mark.
#[inline(always)]
fn mark() -> Ref {
    // SAFETY: `None` is immortal, and whoever makes a callback is attached.
    unsafe { Ref::from_borrowed(ffi::Py_None()) }
}

/// Whether an argument is the mark.
#[inline(always)]
fn is_mark(arg: &Ref) -> bool {
    // SAFETY: immortal.
    std::ptr::eq(arg.as_ptr(), unsafe { ffi::Py_None() })
}
