//! `call_soon` on behalf of objects that are used on another loop than their own: what the Python half,
//! `_loop.cross_loop_checks` and `_loop.cross_loop_wakeups`, has to say and do about it. Cold: errors, and debug mode.

use pyo3::ffi;
use pyo3::prelude::*;

use super::core::LoopCore;
use super::registry;
use crate::py::asyncio::arguments::Parsed;
use crate::py::cpython::names::intern;

/// Where the errors of objects that belong to another loop are explained.
const CHECKS: &str = "loop_pool._loop.cross_loop_checks";

/// Where the wake-ups of another loop's tasks are delivered.
const WAKEUPS: &str = "loop_pool._loop.cross_loop_wakeups";

/// In debug mode: delivers the wake-ups of a future of this loop that another thread has ended; whether
/// the call is one.
///
/// # Errors
/// `RuntimeError`, as `_check_thread`, when they have been delivered.
#[cold]
pub(crate) fn wakes_from_elsewhere(
    loop_: &Bound<'_, LoopCore>,
    callback: *mut ffi::PyObject,
    parsed: &Parsed<'_, 1>,
) -> PyResult<bool> {
    let (&[future], Some(context)) = (parsed.rest, parsed.context) else { return Ok(false) };
    if loop_.get().event_loop.local.is_owner() {
        return Ok(false);
    }
    let py = loop_.py();
    // SAFETY: arguments are alive during the call.
    let [callback, future, context] =
        [callback, future, context].map(|object| unsafe { Bound::from_borrowed_ptr(py, object) });
    py.import(WAKEUPS)?
        .call_method1(intern!(py, "wake"), (loop_, callback, future, context))?
        .extract()
}

/// Lets the error that a task's step is about to throw into its coroutine say more, if it is of a future
/// of another loop.
#[cold]
pub(crate) fn explain_step(py: Python<'_>, step: *mut ffi::PyObject) {
    // SAFETY: an argument is alive during the call.
    let step = unsafe { Bound::from_borrowed_ptr(py, step) };
    let explained = py
        .import(CHECKS)
        .and_then(|module| module.call_method1(intern!(py, "explain_step"), (&step,)));
    if let Err(error) = explained {
        error.write_unraisable(py, Some(&step));
    }
}

/// Lets a task go in silence whose first step was refused: whoever made it has the error.
#[cold]
pub(crate) fn forget_refused_task(py: Python<'_>, callback: *mut ffi::PyObject) {
    // SAFETY: an argument is alive during the call.
    let callback = unsafe { Bound::from_borrowed_ptr(py, callback) };
    if let Some(task) = registry::task_of(&callback) {
        let quiet = task.setattr(intern!(py, "_log_destroy_pending"), false);
        if let Err(error) = quiet {
            error.write_unraisable(py, Some(&callback));
        }
    }
}
