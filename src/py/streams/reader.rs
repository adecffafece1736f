//! Feeds a stream reader, and wakes the waiter.

use pyo3::exceptions::{PyAssertionError, PyNotImplementedError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::reader_methods;
use super::reader_state::{self, Chunk, Held, StreamReaderCore, with};
use super::stream_future;
use super::stream_read::StreamRead;
use super::stream_waiter::{Callbacks, Outcome};
use crate::py::cpython::alloc;
use crate::py::cpython::cfunc::{add_methods, data_argument, fast_def, method_def, raise};
use crate::py::cpython::names::intern;
use crate::py::cpython::object::Ref;
use crate::py::cpython::payload::{Borrowed, bytes_of};
use crate::py::transport::transport_methods::none;
use crate::transport::FeedOutcome;

/// Adds the methods to the class of readers.
///
/// # Errors
/// `TypeError` if it is no subclass of `StreamReaderCore`; `ImportError` without the slots.
#[pyfunction]
#[pyo3(name = "_install_reader_methods", signature = (class, /))]
pub(crate) fn install(class: &Bound<'_, PyType>) -> PyResult<()> {
    if !class.is_subclass_of::<StreamReaderCore>()? {
        return Err(alloc::type_error(
            class.py(),
            "the methods belong to a subclass of StreamReaderCore",
        ));
    }
    reader_state::learn(class)?;
    stream_future::install(&class.py().get_type::<StreamRead>())?;
    let mut methods = reader_methods::methods();
    methods.extend([
        fast_def(
            c"feed_data",
            feed_data,
            c"feed_data($self, /, data)\n--\n\n\
              Append bytes, and wake who waits for them. As asyncio.StreamReader's.",
        ),
        method_def(
            c"at_eof",
            at_eof,
            c"at_eof($self, /)\n--\n\nWhether the stream has ended and nothing is left of it.",
        ),
    ]);
    add_methods(class, methods)
}

/// Who waited, and was taken out of the reader's slot.
struct Waiting {
    waiter: Ref,
    /// Of a `StreamRead`, whose wait is settled already.
    callbacks: Option<Callbacks>,
}

/// Takes who waits, and ends the wait of a `StreamRead`.
///
/// # Safety
/// `reader` is the one that is held.
#[inline(always)]
unsafe fn take_waiting(
    py: Python<'_>,
    held: &mut Held<'_>,
    reader: *mut ffi::PyObject,
) -> Option<Waiting> {
    // SAFETY: by our caller's word. What is settled has no reference in it.
    unsafe {
        let waiter = held.take_waiter(None)?;
        let callbacks = match waiter.as_py().bind(py).cast_exact::<StreamRead>() {
            // One that does not wait any more has nobody to tell.
            Ok(read) if std::ptr::eq(read.get().reader(), reader) => {
                Some(read.get().waiter.wait(held).settle(Outcome::Woken).unwrap_or_default())
            }
            _ => None,
        };
        Some(Waiting { waiter, callbacks })
    }
}

/// Tells who waited to look again.
#[inline]
fn wake(py: Python<'_>, waiting: Waiting) -> PyResult<()> {
    let waiter = waiting.waiter.as_py().bind(py);
    if let Some(callbacks) = waiting.callbacks {
        // SAFETY: only a `StreamRead` has them.
        return stream_future::tell(unsafe { waiter.cast_unchecked() }, callbacks);
    }
    if !waiter.call_method0(intern!(py, "cancelled"))?.is_truthy()? {
        waiter.call_method1(intern!(py, "set_result"), (py.None(),))?;
    }
    Ok(())
}

/// Appends what has come to a reader, wakes who waits for it, and pauses the transport if it is too
/// much.
///
/// # Errors
/// `AssertionError` after the end; `TypeError` for what are no bytes; what the transport raises.
///
/// # Safety
/// `reader` is a live reader and `data` a live object.
#[inline]
pub(crate) unsafe fn feed(
    py: Python<'_>,
    reader: *mut ffi::PyObject,
    data: *mut ffi::PyObject,
) -> PyResult<()> {
    // SAFETY: by our caller's word.
    unsafe {
        if ffi::PyBytes_CheckExact(data) != 0 {
            let keep = || Some(Chunk(Ref::from_borrowed(data)));
            return feed_bytes(py, reader, bytes_of(data), keep);
        }
        let data = Bound::from_borrowed_ptr(py, data);
        if !data.is_truthy()? {
            return feed_bytes(py, reader, &[], || None);
        }
        let borrowed = Borrowed::new(&data, false)?;
        feed_bytes(py, reader, borrowed.bytes(), || None)
    }
}

/// # Safety
/// As for [`feed`]; `keep` runs no Python.
#[inline(always)]
unsafe fn feed_bytes(
    py: Python<'_>,
    reader: *mut ffi::PyObject,
    data: &[u8],
    keep: impl FnOnce() -> Option<Chunk>,
) -> PyResult<()> {
    // SAFETY: by our caller's word; what is to be dropped is returned.
    let (fed, waiting, too_fast) = unsafe {
        with(reader, |held| {
            let fed = held.state.feed(data, keep);
            let FeedOutcome::Fed { pauses, .. } = fed else { return (fed, None, None) };
            let transport = if pauses { held.transport() } else { None };
            (fed, take_waiting(py, held, reader), transport)
        })
    };
    match fed {
        FeedOutcome::Fed { spent, .. } => drop(spent),
        FeedOutcome::Nothing => return Ok(()),
        FeedOutcome::AfterEof => {
            return Err(alloc::error::<PyAssertionError>(py, "feed_data after feed_eof"));
        }
    }
    if let Some(waiting) = waiting {
        wake(py, waiting)?;
    }
    match too_fast {
        // SAFETY: by our caller's word.
        Some(transport) => unsafe { pause(py, reader, &transport) },
        None => Ok(()),
    }
}

/// Pauses the transport, or forgets it if it cannot be paused.
///
/// # Safety
/// As for [`feed`].
#[cold]
unsafe fn pause(py: Python<'_>, reader: *mut ffi::PyObject, transport: &Ref) -> PyResult<()> {
    match transport.as_py().call_method0(py, intern!(py, "pause_reading")) {
        Ok(_) => {
            // SAFETY: by our caller's word.
            unsafe { with(reader, |held| held.state.set_paused(true)) };
            Ok(())
        }
        Err(error) if error.is_instance_of::<PyNotImplementedError>(py) => {
            // SAFETY: by our caller's word.
            let reader = unsafe { Bound::from_borrowed_ptr(py, reader) };
            reader.setattr(intern!(py, "_transport"), py.None())
        }
        Err(error) => Err(error),
    }
}

unsafe extern "C" fn feed_data(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the descriptor has checked the type; the arguments are alive during the call.
    raise(|py| unsafe {
        let data = data_argument(py, slf, (args, count, kwnames), "feed_data")?;
        feed(py, slf, data).map(|()| none())
    })
}

unsafe extern "C" fn at_eof(slf: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the descriptor has checked the type; a bool is not counted.
    unsafe {
        let ended = with(slf, |held| held.state.at_eof());
        if ended { ffi::Py_True() } else { ffi::Py_False() }
    }
}
