//! The methods of our stream readers that return a coroutine: they only parse their arguments.

use std::ptr;

use pyo3::ffi;
use pyo3::prelude::*;

use super::stream_read::StreamRead;
use crate::py::cpython::alloc;
use crate::py::cpython::cfunc::{Arguments, fast_def, method_def, raise};
use crate::py::cpython::object::Ref;
use crate::transport::Wanted;

/// The methods of readers that make a [`StreamRead`].
pub(crate) fn methods() -> Vec<ffi::PyMethodDef> {
    vec![
        fast_def(
            c"read",
            read,
            c"read($self, /, n=-1)\n--\n\n\
              Read up to n bytes, or all that comes. As asyncio.StreamReader.read.",
        ),
        fast_def(
            c"readexactly",
            readexactly,
            c"readexactly($self, /, n)\n--\n\n\
              Read exactly n bytes. As asyncio.StreamReader.readexactly.",
        ),
        fast_def(
            c"readuntil",
            readuntil,
            c"readuntil($self, /, separator=b'\\n')\n--\n\n\
              Read up to and with a separator, or the first of several. As \
              asyncio.StreamReader.readuntil.",
        ),
        method_def(
            c"readline",
            readline,
            c"readline($self, /)\n--\n\nRead a line. As asyncio.StreamReader.readline.",
        ),
        method_def(c"__anext__", anext, c"__anext__($self, /)\n--\n\nRead the next line."),
        fast_def(
            c"_wait_for_data",
            wait_for_data,
            c"_wait_for_data($self, /, func_name)\n--\n\nWait until something has come.",
        ),
    ]
}

/// Runs a method that takes one argument, of which `by_default` may stand in.
///
/// # Safety
/// As the vectorcall convention says; `slf` is a live reader.
#[inline(always)]
unsafe fn enter(
    slf: *mut ffi::PyObject,
    (args, count, kwnames): (*const *mut ffi::PyObject, ffi::Py_ssize_t, *mut ffi::PyObject),
    (method, name, required): (&str, &str, usize),
    wanted: impl FnOnce(Python<'_>, Option<*mut ffi::PyObject>) -> PyResult<(Wanted, Option<Ref>)>,
) -> *mut ffi::PyObject {
    // SAFETY: by our caller's word.
    raise(|py| unsafe {
        let given = if count == 1 && kwnames.is_null() {
            *args
        } else {
            let reader = Bound::from_borrowed_ptr(py, slf);
            let arguments = Arguments::new(args, count, kwnames);
            let [given] = arguments.named(&reader, method, [name], required)?;
            given
        };
        let (wanted, given) = wanted(py, (!given.is_null()).then_some(given))?;
        StreamRead::create(py, slf, wanted, given)
    })
}

/// A number of bytes. One that is too large counts as the largest.
///
/// # Safety
/// `number` is a live object.
#[inline(always)]
unsafe fn size(py: Python<'_>, number: *mut ffi::PyObject) -> PyResult<isize> {
    // SAFETY: by our caller's word.
    match unsafe { ffi::PyNumber_AsSsize_t(number, ptr::null_mut()) } {
        -1 => alloc::raised_if_any(py).map_or(Ok(-1), Err),
        size => Ok(size),
    }
}

unsafe extern "C" fn read(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the descriptor has checked the type; the arguments are alive during the call.
    unsafe {
        enter(slf, (args, count, kwnames), ("read", "n", 0), |py, n| {
            let n = n.map_or(Ok(-1), |n| size(py, n))?;
            Ok((usize::try_from(n).map_or(Wanted::All, Wanted::AtMost), None))
        })
    }
}

unsafe extern "C" fn readexactly(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as above.
    unsafe {
        enter(slf, (args, count, kwnames), ("readexactly", "n", 1), |py, n| {
            Ok((Wanted::Exactly(n.map_or(Ok(0), |n| size(py, n))?), None))
        })
    }
}

unsafe extern "C" fn readuntil(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as above.
    unsafe {
        enter(slf, (args, count, kwnames), ("readuntil", "separator", 0), |py, separator| {
            let separator = match separator {
                Some(separator) => Ref::from_borrowed(separator),
                None => alloc::bytes(py, b"\n")?.into_any().into(),
            };
            Ok((Wanted::Until, Some(separator)))
        })
    }
}

unsafe extern "C" fn wait_for_data(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as above.
    unsafe {
        enter(slf, (args, count, kwnames), ("_wait_for_data", "func_name", 1), |py, name| {
            let name = match name {
                Some(name) => Ref::from_borrowed(name),
                None => py.None().into_bound(py).into(),
            };
            Ok((Wanted::Arrival, Some(name)))
        })
    }
}

unsafe extern "C" fn readline(
    slf: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    raise(|py| StreamRead::create(py, slf, Wanted::Line, None))
}

unsafe extern "C" fn anext(slf: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    raise(|py| StreamRead::create(py, slf, Wanted::Next, None))
}
