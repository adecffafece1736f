//! New Python objects, created so that a failed allocation raises `MemoryError`.
//!
//! pyo3's own constructors panic in that case (`PyDict::new`, `PyTuple::new`, `PyBytes::new`, conversions
//! of numbers and text, the text of an exception when it is raised), and a panic in the run loop would end
//! it. `clippy.toml` lists the functions that must not be used.

use std::ptr::NonNull;

use pyo3::exceptions::{PyOSError, PyOverflowError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{
    PyBytes, PyDict, PyFloat, PyInt, PyList, PyMemoryView, PySlice, PyString, PyTuple,
};
use pyo3::{PyTypeInfo, types::PyType};

use super::object::Ref;

/// What holds a reference: of it a second one is made without memory.
pub(crate) trait Holds {
    fn held(&self) -> *mut ffi::PyObject;
}

impl<T> Holds for Bound<'_, T> {
    #[inline(always)]
    fn held(&self) -> *mut ffi::PyObject {
        self.as_ptr()
    }
}

impl<T> Holds for Py<T> {
    #[inline(always)]
    fn held(&self) -> *mut ffi::PyObject {
        self.as_ptr()
    }
}

impl Holds for Ref {
    #[inline(always)]
    fn held(&self) -> *mut ffi::PyObject {
        self.as_ptr()
    }
}

impl<H: Holds> Holds for &H {
    #[inline(always)]
    fn held(&self) -> *mut ffi::PyObject {
        (*self).held()
    }
}

impl Ref {
    /// Takes over the result of a C call, or the exception that stands in for it.
    ///
    /// # Safety
    /// `object` is a strong reference which the caller gives away, or null with an exception set.
    #[inline(always)]
    pub(crate) unsafe fn from_owned_or_err(
        py: Python<'_>,
        object: *mut ffi::PyObject,
    ) -> PyResult<Self> {
        match NonNull::new(object) {
            // SAFETY: handed on to our caller.
            Some(object) => Ok(unsafe { Self::from_owned(object) }),
            None => Err(raised(py)),
        }
    }
}

/// The result of a constructor of the interpreter's, whose type is known.
///
/// # Errors
/// The exception that is set, if it is null.
///
/// # Safety
/// `made` is a new reference to a `T`, or null with an exception set.
unsafe fn taken<T>(py: Python<'_>, made: *mut ffi::PyObject) -> PyResult<Bound<'_, T>> {
    // SAFETY: by our caller's word.
    unsafe { Ok(Bound::from_owned_ptr_or_err(py, made)?.cast_into_unchecked()) }
}

/// The exception that is set, taken. pyo3's own `fetch` goes on with a panic that it finds there, which
/// would end the run of a loop in whose callback it came about.
#[cold]
#[allow(clippy::disallowed_methods, reason = "nothing is set")]
pub(crate) fn raised(py: Python<'_>) -> PyErr {
    raised_if_any(py).unwrap_or_else(|| PyErr::fetch(py)) // which says that there is none
}

/// As [`raised`], where none may be set.
pub(crate) fn raised_if_any(py: Python<'_>) -> Option<PyErr> {
    // SAFETY: the thread is attached; the result is a new reference or null.
    let error = unsafe { Bound::from_owned_ptr_or_opt(py, ffi::PyErr_GetRaisedException()) };
    error.map(PyErr::from_value)
}

/// An empty dict.
///
/// # Errors
/// `MemoryError`.
pub(crate) fn dict(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    // SAFETY: as the interpreter promises.
    unsafe { taken(py, ffi::PyDict_New()) }
}

/// A tuple of objects.
///
/// # Errors
/// `MemoryError`.
#[allow(clippy::needless_pass_by_value, reason = "an array is written where it is given")]
pub(crate) fn tuple<const N: usize>(
    py: Python<'_>,
    items: [impl Holds; N],
) -> PyResult<Bound<'_, PyTuple>> {
    tuple_of(py, &items)
}

/// A tuple of as many objects as there are.
///
/// # Errors
/// `MemoryError`.
pub(crate) fn tuple_of<'py>(
    py: Python<'py>,
    items: &[impl Holds],
) -> PyResult<Bound<'py, PyTuple>> {
    // SAFETY: a new tuple is nobody else's, and has a place for each; the objects are alive.
    unsafe {
        let made: Bound<'_, PyTuple> = taken(py, ffi::PyTuple_New(items.len().cast_signed()))?;
        for (place, item) in (0..).zip(items) {
            ffi::PyTuple_SET_ITEM(made.as_ptr(), place, ffi::Py_NewRef(item.held()));
        }
        Ok(made)
    }
}

/// A list of objects.
///
/// # Errors
/// `MemoryError`.
pub(crate) fn list<'py>(py: Python<'py>, items: &[impl Holds]) -> PyResult<Bound<'py, PyList>> {
    // SAFETY: as for a tuple.
    unsafe {
        let made: Bound<'_, PyList> = taken(py, ffi::PyList_New(items.len().cast_signed()))?;
        for (place, item) in (0..).zip(items) {
            ffi::PyList_SET_ITEM(made.as_ptr(), place, ffi::Py_NewRef(item.held()));
        }
        Ok(made)
    }
}

/// A copy of bytes.
///
/// # Errors
/// `MemoryError`.
pub(crate) fn bytes<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let count = bytes.len().cast_signed();
    // SAFETY: so many bytes are there to be copied.
    unsafe { taken(py, ffi::PyBytes_FromStringAndSize(bytes.as_ptr().cast(), count)) }
}

/// A string.
///
/// # Errors
/// `MemoryError`.
pub(crate) fn text<'py>(py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyString>> {
    let count = text.len().cast_signed();
    // SAFETY: so many bytes of UTF-8 are there.
    unsafe { taken(py, ffi::PyUnicode_FromStringAndSize(text.as_ptr().cast(), count)) }
}

/// The one string of that text that the interpreter looks names up by.
///
/// # Errors
/// `MemoryError`.
pub(crate) fn interned<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyString>> {
    let mut made = text(py, name)?.into_ptr();
    // SAFETY: our reference is exchanged for one to the string that is kept.
    unsafe {
        ffi::PyUnicode_InternInPlace(&raw mut made);
        taken(py, made)
    }
}

/// A name of the file system, as `os.fsdecode` gives it.
///
/// # Errors
/// `MemoryError`.
pub(crate) fn path<'py>(py: Python<'py>, name: &[u8]) -> PyResult<Bound<'py, PyString>> {
    let count = name.len().cast_signed();
    // SAFETY: so many bytes are there.
    unsafe { taken(py, ffi::PyUnicode_DecodeFSDefaultAndSize(name.as_ptr().cast(), count)) }
}

/// An integer.
///
/// # Errors
/// `MemoryError`; `OverflowError` above 2**63 - 1, which nothing here counts to.
pub(crate) fn int(py: Python<'_>, number: impl TryInto<i64>) -> PyResult<Bound<'_, PyInt>> {
    let Ok(number) = number.try_into() else {
        return Err(error::<PyOverflowError>(py, "the number is too large"));
    };
    // SAFETY: as the interpreter promises.
    unsafe { taken(py, ffi::PyLong_FromLongLong(number)) }
}

/// A number of seconds, say.
///
/// # Errors
/// `MemoryError`.
#[inline(always)]
pub(crate) fn float(py: Python<'_>, number: f64) -> PyResult<Bound<'_, PyFloat>> {
    // SAFETY: as the interpreter promises.
    unsafe { taken(py, ffi::PyFloat_FromDouble(number)) }
}

/// The part of `object` from `start` to `end`, as a view of memory.
///
/// # Errors
/// `MemoryError`; `TypeError` if there is no view of it.
pub(crate) fn view_of<'py>(
    object: &Bound<'py, PyAny>,
    start: usize,
    end: usize,
) -> PyResult<Bound<'py, PyAny>> {
    let py = object.py();
    let (start, end) = (int(py, start)?, int(py, end)?);
    // SAFETY: three objects, of which the step may be left out.
    let part: Bound<'_, PySlice> =
        unsafe { taken(py, ffi::PySlice_New(start.as_ptr(), end.as_ptr(), std::ptr::null_mut()))? };
    PyMemoryView::from(object)?.get_item(part)
}

/// An exception with a text. It is made here and now: one that is made as it is raised would panic.
/// Is the `MemoryError` instead if there is no memory for it.
#[cold]
pub(crate) fn error<E: PyTypeInfo>(py: Python<'_>, message: impl AsRef<str>) -> PyErr {
    match text(py, message.as_ref()) {
        Ok(message) => error_with(&py.get_type::<E>(), (message,)),
        Err(error) => error,
    }
}

/// As [`error`].
#[cold]
pub(crate) fn type_error(py: Python<'_>, message: impl AsRef<str>) -> PyErr {
    error::<PyTypeError>(py, message)
}

/// As [`error`].
#[cold]
pub(crate) fn value_error(py: Python<'_>, message: impl AsRef<str>) -> PyErr {
    error::<PyValueError>(py, message)
}

/// As [`error`].
#[cold]
pub(crate) fn runtime_error(py: Python<'_>, message: impl AsRef<str>) -> PyErr {
    error::<PyRuntimeError>(py, message)
}

/// An `OSError` of a number and a text, or of the subclass that stands for the number.
#[cold]
pub(crate) fn os_error(py: Python<'_>, number: i32, message: &Bound<'_, PyAny>) -> PyErr {
    match int(py, number) {
        Ok(number) => error_with(&py.get_type::<PyOSError>(), (number, message)),
        Err(error) => error,
    }
}

/// An exception of any class, made here and now: what calling the class gives, or raises.
pub(crate) fn error_with<'py>(
    class: &Bound<'py, PyType>,
    arguments: impl pyo3::call::PyCallArgs<'py>,
) -> PyErr {
    class.call1(arguments).map_or_else(|error| error, PyErr::from_value)
}
