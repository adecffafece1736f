//! Conversion of errors to Python exceptions.

use std::sync::OnceLock;

use pyo3::exceptions::{PyKeyboardInterrupt, PyOSError, PySystemExit};
use pyo3::prelude::*;

use super::alloc;
use super::names::intern;
use crate::error::LoopError;

/// What makes an exception of an error that is not the kernel's, if it knows it.
type Converter = fn(Python<'_>, &(dyn std::error::Error + 'static)) -> Option<PyErr>;

static CONVERTER: OnceLock<Converter> = OnceLock::new();

/// Sets what makes exceptions of errors that are not the kernel's. Once, at import.
#[cfg(feature = "tls")]
pub(crate) fn set_converter(converter: Converter) {
    let _ = CONVERTER.set(converter);
}

/// An error as Python raises it: the kernel's as the subclass of `OSError` for its number, with its text.
pub(crate) fn os_error(py: Python<'_>, error: &std::io::Error) -> PyErr {
    let Some(number) = error.raw_os_error() else {
        let known = error.get_ref().and_then(|inner| CONVERTER.get()?(py, inner));
        return known.unwrap_or_else(|| alloc::error::<PyOSError>(py, error.to_string()));
    };
    let text = py
        .import(intern!(py, "os"))
        .and_then(|os| os.call_method1(intern!(py, "strerror"), (alloc::int(py, number)?,)));
    match text {
        Ok(text) => alloc::os_error(py, number, &text),
        Err(error) => error,
    }
}

impl From<LoopError> for PyErr {
    fn from(error: LoopError) -> Self {
        // SAFETY: an exception is made by an attached thread.
        let py = unsafe { Python::assume_attached() };
        match error {
            LoopError::Closed | LoopError::Running => alloc::runtime_error(py, error.to_string()),
            LoopError::Io(_, error) => os_error(py, &error),
        }
    }
}

/// Whether the exception is one that ends the program, and not only the connection.
pub(crate) fn ends_the_program(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PySystemExit>(py) || error.is_instance_of::<PyKeyboardInterrupt>(py)
}

/// The outcome of two steps that were both made: the first error, or the one that ends the program,
/// with the other as its context.
pub(crate) fn both(py: Python<'_>, first: PyResult<()>, second: PyResult<()>) -> PyResult<()> {
    match (first, second) {
        (Err(first), Err(second)) => Err(chain(py, first, second)),
        (first, second) => first.and(second),
    }
}

#[cold]
pub(crate) fn chain(py: Python<'_>, first: PyErr, second: PyErr) -> PyErr {
    let second_wins = ends_the_program(py, &second) && !ends_the_program(py, &first);
    let (kept, other) = if second_wins { (second, first) } else { (first, second) };
    if kept.context(py).is_none() && !kept.value(py).is(other.value(py)) {
        kept.set_context(py, Some(other));
    }
    kept
}
