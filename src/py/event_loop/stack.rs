//! Reads the calls of a loop's thread inside a callback, from another thread.
//!
//! In: a loop, and the number of a callback. Out: its calls at one instant, read while all threads are
//! paused.
//!
//! Must never: run Python or free an object while the threads are paused.

// The frames of a running thread must not be read by another: in a free-threaded interpreter their
// memory may be freed meanwhile, so `sys._current_frames` does not help (python/cpython#152355). So
// they are read while every thread of the interpreter is paused. In the public C API only
// `PyUnstable_GC_VisitObjects` calls back in that state; the objects themselves do not matter. This
// also makes the result exact: a loop that is in the callback at that instant stays there until
// everything has been read, because it cannot leave it unattached.
//
// A thread that runs native code attached is paused only when that code returns, and delays all
// threads that have paused for it. So the stack of a running thread is only requested after that
// thread has proved that it can be interrupted (`python/loop_pool/_pool/stuck.py`).

use std::ffi::{c_int, c_void};

use pyo3::ffi;
use pyo3::prelude::*;

use super::core::LoopCore;
use crate::event_loop::CallbackEpoch;
use crate::py::cpython::alloc;
use crate::py::cpython::object::Ref;
use crate::py::cpython::returned::Returned;

unsafe extern "C" {
    // Unstable C API since 3.12; pyo3 does not bind it.
    fn PyUnstable_GC_VisitObjects(
        visit: unsafe extern "C" fn(*mut ffi::PyObject, *mut c_void) -> c_int,
        argument: *mut c_void,
    );
}

/// A code object and the line that is being run.
type Call = (Ref, c_int);

/// The same, for Python.
type Shown<'py> = (Bound<'py, PyAny>, c_int);

struct Look<'a> {
    core: &'a LoopCore,
    epoch: CallbackEpoch,
    /// Innermost first; `None` while the loop has not been seen inside the callback.
    calls: Option<Vec<Call>>,
}

/// Whether a loop's thread waits in the kernel, or runs; `None` if it is not inside the callback of
/// that number any more. Any thread.
#[pyfunction]
#[pyo3(name = "_is_blocked")]
pub(crate) fn is_blocked(loop_: &Bound<'_, LoopCore>, callback: u64) -> Option<bool> {
    let shared = loop_.get().event_loop.shared();
    let runner = shared.awake_runner()?;
    let inside = shared.progress.present() == Some(CallbackEpoch::from_number(callback));
    inside.then(|| runner.is_blocked().unwrap_or(false))
}

/// The calls that a loop is in, the outermost first: code objects, and the lines being run. `None` if
/// it is not inside the callback of that number any more. Any thread.
///
/// # Errors
/// `MemoryError`.
#[pyfunction]
#[pyo3(name = "_stack")]
pub(crate) fn stack<'py>(
    loop_: &Bound<'py, LoopCore>,
    callback: u64,
) -> PyResult<Returned<Option<Vec<Shown<'py>>>>> {
    let py = loop_.py();
    let mut look =
        Look { core: loop_.get(), epoch: CallbackEpoch::from_number(callback), calls: None };
    if look.core.event_loop.shared().progress.present() != Some(look.epoch) {
        return Ok(Returned(None));
    }
    // SAFETY: the thread is attached; `visit` is called before this returns, with what we give it.
    unsafe { PyUnstable_GC_VisitObjects(visit, (&raw mut look).cast()) };
    if let Some(error) = alloc::raised_if_any(py) {
        return Err(error); // out of memory
    }
    let shown = |(code, line): Call| {
        // SAFETY: it is an object, and our reference passes over.
        (unsafe { Bound::from_owned_ptr(py, code.into_ptr()) }, line)
    };
    Ok(Returned(look.calls.map(|calls| calls.into_iter().rev().map(shown).collect())))
}

/// Called with some object, while no other thread of the interpreter runs. One call is enough.
unsafe extern "C" fn visit(_: *mut ffi::PyObject, look: *mut c_void) -> c_int {
    // SAFETY: `stack` gives a `Look` that nobody else uses.
    let look = unsafe { &mut *look.cast::<Look<'_>>() };
    let inside = look.core.event_loop.shared().progress.present() == Some(look.epoch);
    let thread = look.core.thread.get();
    if inside && !thread.is_null() {
        // SAFETY: the loop is inside a callback, so its thread is there, and stands still.
        look.calls = Some(unsafe { calls_of(thread) });
    }
    0
}

/// # Safety
/// The calling thread is attached, and the other one stands still.
unsafe fn calls_of(thread: *mut ffi::PyThreadState) -> Vec<Call> {
    let mut calls = Vec::with_capacity(64);
    // SAFETY: by the caller's word; as below. Each call returns a new reference or null.
    let mut frame = unsafe { ffi::PyThreadState_GetFrame(thread) };
    while !frame.is_null() {
        // SAFETY: `frame` is a frame. The thread that is in it keeps it, so giving up our reference
        // frees nothing; a code object is never null.
        unsafe {
            let line = ffi::PyFrame_GetLineNumber(frame);
            let code = ffi::PyFrame_GetCode(frame).cast();
            calls.push((Ref::from_owned(std::ptr::NonNull::new_unchecked(code)), line));
            let back = ffi::PyFrame_GetBack(frame);
            ffi::Py_DECREF(frame.cast());
            frame = back;
        }
    }
    calls
}
