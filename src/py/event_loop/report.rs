//! Reports errors of callbacks and of native objects to the exception handler.

use pyo3::ffi;
use pyo3::prelude::*;

use super::core::LoopCore;
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
    if error.is_instance_of::<pyo3::exceptions::PySystemExit>(py)
        || error.is_instance_of::<pyo3::exceptions::PyKeyboardInterrupt>(py)
    {
        return Err(error);
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
