//! `add_reader`, `add_writer` and their removal, as a program calls them: asyncio's methods, and a fast
//! path for the usual form, a descriptor passed as an integer.
//!
//! The fast path does what asyncio's `_ensure_fd_no_transport` and `_add_reader` do, without a Python
//! frame. All other forms go through asyncio: keywords, objects with a `fileno()`, debug mode, missing
//! arguments.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyInt;

use super::readers;
use super::sock;
use crate::py::asyncio::arguments::Parsed;
use crate::py::asyncio::handle;
use crate::py::asyncio::state::state;
use crate::py::cpython::alloc;
use crate::py::cpython::cfunc::{Arguments, fast_def, raise};
use crate::py::cpython::descriptor;
use crate::py::event_loop::callback::Callback;
use crate::py::event_loop::core::LoopCore;
use crate::reactor::Direction;

/// The methods, for `hot::install`.
pub(crate) fn definitions() -> Vec<ffi::PyMethodDef> {
    vec![
        fast_def(
            c"add_reader",
            add_reader,
            c"add_reader($self, fd, callback, *args)\n--\n\n\
              Call callback(*args) whenever the descriptor is readable. Any thread.\n\n\
              As asyncio.loop.add_reader.",
        ),
        fast_def(
            c"add_writer",
            add_writer,
            c"add_writer($self, fd, callback, *args)\n--\n\n\
              Call callback(*args) whenever the descriptor is writable. Any thread.\n\n\
              As asyncio.loop.add_writer.",
        ),
        fast_def(
            c"remove_reader",
            remove_reader,
            c"remove_reader($self, fd)\n--\n\n\
              Stop watching whether the descriptor is readable; return whether it was watched.\n\n\
              As asyncio.loop.remove_reader.",
        ),
        fast_def(
            c"remove_writer",
            remove_writer,
            c"remove_writer($self, fd)\n--\n\n\
              Stop watching whether the descriptor is writable; return whether it was watched.\n\n\
              As asyncio.loop.remove_writer.",
        ),
    ]
}

/// Calls asyncio's method of that name with the same arguments.
#[cold]
fn long_way(
    loop_: &Bound<'_, LoopCore>,
    name: &str,
    args: &Arguments<'_>,
) -> PyResult<*mut ffi::PyObject> {
    let py = loop_.py();
    let method = state().classes.selector_loop.as_py().bind(py).getattr(alloc::text(py, name)?)?;
    let mut values = vec![loop_.as_ptr()];
    values.extend_from_slice(args.positional);
    let given = values.len();
    if !args.kwnames.is_null() {
        // SAFETY: names are a tuple; their values follow the positional arguments.
        let named = unsafe { ffi::PyTuple_GET_SIZE(args.kwnames) }.unsigned_abs();
        // SAFETY: as above.
        values.extend((0..named).map(|index| unsafe { *args.values.add(index) }));
    }
    // SAFETY: the arguments are alive during the call, and as many as is said.
    let result =
        unsafe { ffi::PyObject_Vectorcall(method.as_ptr(), values.as_ptr(), given, args.kwnames) };
    if result.is_null() { Err(alloc::raised(py)) } else { Ok(result) }
}

/// The descriptor, if it is given by its number and the short way serves.
#[inline(always)]
fn number<'a, 'py>(
    loop_: &Bound<'py, LoopCore>,
    fd: &'a *mut ffi::PyObject,
) -> Option<&'a Bound<'py, PyAny>> {
    // SAFETY: an argument is alive during the call.
    let fd = unsafe { Bound::<PyAny>::ref_from_ptr(loop_.py(), fd) };
    (fd.is_exact_instance_of::<PyInt>() && !loop_.get().flags.is_debug()).then_some(fd)
}

/// # Safety
/// As the vectorcall convention says; `slf` is a live `LoopCore`.
unsafe fn add(
    direction: Direction,
    name: &str,
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    raise(|py| {
        // SAFETY: handed on to our caller.
        let (loop_, args) = unsafe {
            let slf = Bound::<PyAny>::ref_from_ptr(py, &slf);
            (slf.cast_unchecked::<LoopCore>(), Arguments::new(args, count, kwnames))
        };
        if args.kwnames.is_null()
            && let [fd, _, ..] = args.positional
            && let Some(fd) = number(loop_, fd)
        {
            sock::ensure_no_transport(loop_, fd)?;
            let fd = descriptor::descriptor(fd)?;
            let parsed = Parsed::new(py, name, ["fd", "callback"], &args)?;
            let scheduled = parsed.scheduled(py, parsed.required[1])?;
            // SAFETY: the loop is alive and the references are real.
            let handle = unsafe { handle::new_soon(py, slf, scheduled, false)? };
            readers::register(loop_, direction, fd, Callback::from_handle(handle), None)?;
            return Ok(py.None().into_ptr());
        }
        long_way(loop_, name, &args)
    })
}

/// # Safety
/// As for [`add`].
unsafe fn remove(
    direction: Direction,
    name: &str,
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    raise(|py| {
        // SAFETY: handed on to our caller.
        let (loop_, args) = unsafe {
            let slf = Bound::<PyAny>::ref_from_ptr(py, &slf);
            (slf.cast_unchecked::<LoopCore>(), Arguments::new(args, count, kwnames))
        };
        if args.kwnames.is_null()
            && let [fd] = args.positional
            && let Some(fd) = number(loop_, fd)
        {
            sock::ensure_no_transport(loop_, fd)?;
            let removed = readers::remove(loop_, direction, fd)?;
            return Ok(removed.into_pyobject(py)?.to_owned().into_any().into_ptr());
        }
        long_way(loop_, name, &args)
    })
}

/// A method of the given name, by the function that does its work.
macro_rules! method {
    ($name:ident, $work:ident, $direction:expr) => {
        unsafe extern "C" fn $name(
            slf: *mut ffi::PyObject,
            args: *const *mut ffi::PyObject,
            count: ffi::Py_ssize_t,
            kwnames: *mut ffi::PyObject,
        ) -> *mut ffi::PyObject {
            // SAFETY: called by the interpreter as the convention says; the method descriptor has
            // checked the loop.
            unsafe { $work($direction, stringify!($name), slf, args, count, kwnames) }
        }
    };
}

method!(add_reader, add, Direction::Read);
method!(add_writer, add, Direction::Write);
method!(remove_reader, remove, Direction::Read);
method!(remove_writer, remove, Direction::Write);
