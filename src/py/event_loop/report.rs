//! Reports errors of callbacks and of native objects to the exception handler.

use pyo3::ffi;
use pyo3::prelude::*;

use super::core::LoopCore;
use super::registry;
use crate::py::asyncio::handle::{self, Scheduled};
use crate::py::cpython::alloc;
use crate::py::cpython::error::{self};
use crate::py::cpython::names::intern;
use crate::py::cpython::object::Ref;

/// Hands the exception that is set to the loop's exception handler, as `Handle._run` does.
///
/// # Errors
/// The exception itself if it is `SystemExit` or `KeyboardInterrupt`.
#[cold]
pub(crate) fn report(
    loop_: &Bound<'_, LoopCore>,
    handle: Option<*mut ffi::PyObject>,
    scheduled: Scheduled,
) -> PyResult<()> {
    let py = loop_.py();
    let error = alloc::raised(py);
    if error::ends_the_program(py, &error) {
        let is_contained = is_contained(loop_, scheduled.callback.as_py().bind(py));
        return if is_contained { Ok(()) } else { Err(error) };
    }
    let Scheduled { callback, args, context } = scheduled;
    let callback_object = callback.clone_ref(py);
    let args_object = args.clone_ref(py);
    let handle = match handle {
        // SAFETY: the caller of the callback holds the handle.
        Some(handle) => unsafe { Ref::from_borrowed(handle) },
        // SAFETY: the loop is alive and the references are real.
        None => unsafe {
            handle::new_soon(py, loop_.as_ptr(), Scheduled { callback, args, context }, false)?
        },
    };
    loop_.call_method1(
        intern!(py, "_report_callback_exception"),
        (handle.as_py(), callback_object.as_py(), args_object.as_py(), error),
    )?;
    Ok(())
}

/// Whether this callback is the step of a task that does not end the program.
#[cold]
pub(crate) fn is_contained(loop_: &Bound<'_, LoopCore>, callback: &Bound<'_, PyAny>) -> bool {
    // A task of Python's has its step as a method.
    let owner = || callback.getattr(intern!(callback.py(), "__self__")).ok();
    let task = registry::task_of(callback).or_else(owner);
    task.is_some_and(|task| loop_.get().contains(task.as_ptr()))
}

/// Hands the error of a native object's turn to the exception handler.
///
/// # Errors
/// The error itself if it ends the program, and what the handler lets through.
#[cold]
pub(crate) fn report_native(
    loop_: &Bound<'_, LoopCore>,
    object: &Bound<'_, PyAny>,
    error: PyErr,
) -> PyResult<()> {
    let py = loop_.py();
    if error::ends_the_program(py, &error) {
        return Err(error);
    }
    let error = error.into_value(py);
    loop_.call_method1(intern!(py, "_report_native_exception"), (object, error)).map(drop)
}
