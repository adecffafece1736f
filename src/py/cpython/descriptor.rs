//! The file descriptor of a Python object.

use std::os::fd::RawFd;

use pyo3::exceptions::{PyAttributeError, PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyInt;

use super::alloc;
use super::names::intern;

/// The descriptor of an integer or of an object with `fileno()`, by the rules of `selectors`.
pub(crate) fn descriptor(object: &Bound<'_, PyAny>) -> PyResult<RawFd> {
    let py = object.py();
    let invalid = |_| alloc::value_error(py, format!("Invalid file object: {}", repr_of(object)));
    if object.is_instance_of::<PyInt>() {
        return number_of(object);
    }
    let number = object
        .call_method0(intern!(py, "fileno"))
        .and_then(|number| py.get_type::<PyInt>().call1((number,)))
        .map_err(|error| {
            if error.is_instance_of::<PyAttributeError>(py)
                || error.is_instance_of::<PyTypeError>(py)
                || error.is_instance_of::<PyValueError>(py)
            {
                invalid(error)
            } else {
                error
            }
        })?;
    number_of(&number)
}

/// The descriptor of that number.
#[inline]
pub(crate) fn number_of(number: &Bound<'_, PyAny>) -> PyResult<RawFd> {
    match number.extract() {
        Ok(fd @ 0..) => Ok(fd),
        _ => Err(no_descriptor(number)?),
    }
}

/// What is wrong with a number that no descriptor has.
#[cold]
pub(crate) fn no_descriptor(number: &Bound<'_, PyAny>) -> PyResult<PyErr> {
    let py = number.py();
    if number.lt(0)? {
        return Ok(alloc::value_error(py, format!("Invalid file descriptor: {number}")));
    }
    // As the kernel's interface has it: no descriptor has such a number.
    let text = format!("descriptor {number} is greater than the maximum");
    Ok(alloc::error::<PyOverflowError>(py, text))
}

pub(crate) fn repr_of(object: &Bound<'_, PyAny>) -> String {
    object.repr().map_or_else(|_| "<unrepresentable>".to_owned(), |repr| repr.to_string())
}
