//! The native half of `loop_pool`'s stream readers: what has come, and who is told of it.
//!
//! A reader is an instance of `StreamReader` in `python/loop_pool/_streams.py`, which inherits asyncio's
//! and keeps its Python references in slots, where the collector sees them. Slots and buffer are
//! touched in the critical section of the reader, in which no Python runs: so it is a lock that the
//! interpreter knows, and any thread may call. What is read is taken out by `stream_read`.

use std::cell::UnsafeCell;
use std::sync::OnceLock;

use pyo3::exceptions::{PyAssertionError, PyNotImplementedError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple, PyType};

use super::alloc;
use super::arguments::{Arguments, fast_def, method_def, raise};
use super::handle::{in_critical_section, slot};
use super::hot::add_methods;
use super::names::intern;
use super::object::Ref;
use super::payload::{Borrowed, bytes_of};
use super::reader_methods;
use super::returned::Returned;
use super::state::slot_offset;
use super::stream_read::StreamRead;
use super::stream_waiter::{self, Callbacks, Outcome};
use super::transport_methods::none;
use crate::transport::{Buffer, ReadBuffer};

/// A `bytes` object that came whole. Dropped by attached threads, outside of critical sections.
#[derive(Debug)]
pub(super) struct Chunk(pub(super) Ref);

// SAFETY: a bytes object's memory stays where it is and does not change while it is referenced.
unsafe impl Buffer for Chunk {
    #[inline(always)]
    fn bytes(&self) -> &[u8] {
        // SAFETY: made of a bytes object, which the reference keeps alive.
        unsafe { bytes_of(self.0.as_ptr()) }
    }
}

/// What a reader knows of its stream.
#[derive(Debug, Default)]
pub(super) struct Received {
    pub(super) buffer: ReadBuffer<Chunk>,
    /// Bytes; the transport is paused above twice as many.
    pub(super) limit: usize,
    pub(super) eof: bool,
    /// The transport was paused by the reader.
    pub(super) paused: bool,
}

/// The native half of a stream reader. Use `loop_pool.start_server`.
#[pyclass(frozen, subclass, module = "loop_pool._core")]
pub(super) struct StreamReaderCore {
    received: UnsafeCell<Received>,
}

// SAFETY: `with` alone touches the cell, in the critical section of the object.
unsafe impl Sync for StreamReaderCore {}

/// Where a reader keeps what, in bytes from the start of the object.
#[derive(Debug)]
struct Layout {
    class: *mut ffi::PyTypeObject,
    exception: usize,
    loop_: usize,
    transport: usize,
    waiter: usize,
    woken: usize,
}

// SAFETY: the class lives as long as the process.
unsafe impl Send for Layout {}
// SAFETY: as above.
unsafe impl Sync for Layout {}

static LAYOUT: OnceLock<Layout> = OnceLock::new();

#[inline(always)]
fn layout() -> &'static Layout {
    debug_assert!(LAYOUT.get().is_some());
    // SAFETY: the package learns the layout at import, before it makes a reader.
    unsafe { LAYOUT.get().unwrap_unchecked() }
}

/// Adds the methods to the class of readers.
///
/// # Errors
/// `TypeError` if it is no subclass of `StreamReaderCore`; `ImportError` without the slots.
#[pyfunction]
#[pyo3(name = "_install_reader_methods", signature = (class, /))]
pub(super) fn install(class: &Bound<'_, PyType>) -> PyResult<()> {
    if !class.is_subclass_of::<StreamReaderCore>()? {
        return Err(alloc::type_error(
            class.py(),
            "the methods belong to a subclass of StreamReaderCore",
        ));
    }
    let found = Layout {
        class: class.clone().into_ptr().cast(),
        exception: slot_offset(class, "_exception")?,
        loop_: slot_offset(class, "_loop")?,
        transport: slot_offset(class, "_transport")?,
        waiter: slot_offset(class, "_waiter")?,
        woken: slot_offset(class, "_woken")?,
    };
    LAYOUT.get_or_init(|| found);
    stream_waiter::install(&class.py().get_type::<StreamRead>())?;
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

/// Calls `f` with what a reader has received, in its critical section.
///
/// # Safety
/// `reader` is a live reader, the thread attached, and `f` runs no Python and drops no reference.
#[inline(always)]
pub(super) unsafe fn with<R>(reader: *mut ffi::PyObject, f: impl FnOnce(&mut Received) -> R) -> R {
    // SAFETY: a reader inherits `StreamReaderCore`; `Bound` is laid out as its pointer. One thread at a
    // time is in the section, and by the caller's word `f` does not come here again.
    unsafe {
        let core = (*(&raw const reader).cast::<Bound<'_, StreamReaderCore>>()).get();
        in_critical_section(reader, || f(&mut *core.received.get()))
    }
}

/// Whether the object is one of our readers, and of no subclass, which may have methods of its own.
///
/// # Safety
/// It is alive.
#[inline(always)]
pub(super) unsafe fn is_reader(object: *mut ffi::PyObject) -> bool {
    // SAFETY: by our caller's word.
    std::ptr::eq(unsafe { ffi::Py_TYPE(object) }, layout().class)
}

/// What a slot holds, if that is neither nothing nor `None`.
///
/// # Safety
/// `object` is alive, `offset` that of one of its slots, and the thread attached. What may be replaced
/// meanwhile is read in the object's critical section.
#[inline(always)]
pub(super) unsafe fn held(object: *mut ffi::PyObject, offset: usize) -> Option<Ref> {
    // SAFETY: by our caller's word.
    unsafe {
        let value = *slot(object, offset);
        let is_set = !value.is_null() && !std::ptr::eq(value, ffi::Py_None());
        is_set.then(|| Ref::from_borrowed(value))
    }
}

/// The exception that the stream has ended with.
///
/// # Safety
/// `reader` is a live reader.
pub(super) unsafe fn exception(reader: *mut ffi::PyObject) -> Option<Ref> {
    // SAFETY: by our caller's word; counting runs no Python.
    unsafe {
        // Most have none, and then a look is enough.
        if std::ptr::eq(*slot(reader, layout().exception), ffi::Py_None()) {
            return None;
        }
        in_critical_section(reader, || held(reader, layout().exception))
    }
}

/// The loop; `None` if `__init__` has not run.
///
/// # Safety
/// `reader` is a live reader.
pub(super) unsafe fn loop_of(reader: *mut ffi::PyObject) -> Option<Ref> {
    // SAFETY: by our caller's word; counting runs no Python.
    unsafe { in_critical_section(reader, || held(reader, layout().loop_)) }
}

/// A future of the loop that is done, if the loop is one of `loop_pool.EventLoop` itself, whose methods
/// nobody has overridden.
///
/// # Safety
/// `reader` is a live reader.
#[inline(always)]
pub(super) unsafe fn woken(reader: *mut ffi::PyObject) -> Option<Ref> {
    // SAFETY: by our caller's word; counting runs no Python.
    unsafe { in_critical_section(reader, || held(reader, layout().woken)) }
}

/// The transport. In the reader's critical section.
///
/// # Safety
/// `reader` is a live reader.
pub(super) unsafe fn transport(reader: *mut ffi::PyObject) -> Option<Ref> {
    // SAFETY: by our caller's word.
    unsafe { held(reader, layout().transport) }
}

/// Whether somebody waits. In the reader's critical section.
///
/// # Safety
/// `reader` is a live reader.
#[inline(always)]
pub(super) unsafe fn is_awaited(reader: *mut ffi::PyObject) -> bool {
    // SAFETY: by our caller's word.
    unsafe {
        let waiter = *slot(reader, layout().waiter);
        !waiter.is_null() && !std::ptr::eq(waiter, ffi::Py_None())
    }
}

/// Notes who waits, where nobody does. In the reader's critical section.
///
/// # Safety
/// `reader` is a live reader.
#[inline(always)]
pub(super) unsafe fn set_waiter(reader: *mut ffi::PyObject, waiter: Ref) {
    // SAFETY: by our caller's word. What was there is null or `None`, which is not counted.
    unsafe { *slot(reader, layout().waiter) = waiter.into_ptr() };
}

/// Takes who waits: whoever it is, or only this one. In the reader's critical section.
///
/// # Safety
/// `reader` is a live reader.
#[inline(always)]
pub(super) unsafe fn take_waiter(
    reader: *mut ffi::PyObject,
    only: Option<*mut ffi::PyObject>,
) -> Option<Ref> {
    // SAFETY: by our caller's word; the reference passes from the slot to the caller.
    unsafe {
        let place = slot(reader, layout().waiter);
        let waiter = *place;
        if waiter.is_null()
            || std::ptr::eq(waiter, ffi::Py_None())
            || only.is_some_and(|only| !std::ptr::eq(only, waiter))
        {
            return None;
        }
        *place = ffi::Py_None();
        std::ptr::NonNull::new(waiter).map(|waiter| Ref::from_owned(waiter))
    }
}

/// Who waited, and was taken out of the reader's slot.
struct Waiting {
    waiter: Ref,
    /// Of a `StreamRead`, whose wait is settled already.
    callbacks: Option<Callbacks>,
}

/// Takes who waits, and ends the wait of a `StreamRead`. In the reader's critical section.
///
/// # Safety
/// `reader` is a live reader, and the thread attached.
#[inline(always)]
unsafe fn take_waiting(py: Python<'_>, reader: *mut ffi::PyObject) -> Option<Waiting> {
    // SAFETY: by our caller's word. What is settled has no reference in it.
    unsafe {
        let waiter = take_waiter(reader, None)?;
        let callbacks = match waiter.as_py().bind(py).cast_exact::<StreamRead>() {
            // One that does not wait any more has nobody to tell.
            Ok(read) if std::ptr::eq(read.get().reader(), reader) => {
                Some(read.get().waiter.settle(Outcome::Woken).unwrap_or_default())
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
        return stream_waiter::tell(unsafe { waiter.cast_unchecked() }, callbacks);
    }
    if !waiter.call_method0(intern!(py, "cancelled"))?.is_truthy()? {
        waiter.call_method1(intern!(py, "set_result"), (py.None(),))?;
    }
    Ok(())
}

/// What came of bytes that were fed.
struct Fed {
    spent: Option<Chunk>,
    waiting: Option<Waiting>,
    /// The transport, if it is to pause.
    pause: Option<Ref>,
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
pub(super) unsafe fn feed(
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
        let lent = Borrowed::new(&data, false)?;
        feed_bytes(py, reader, lent.bytes(), || None)
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
    let fed = unsafe {
        with(reader, |received| {
            if received.eof {
                return None;
            }
            if data.is_empty() {
                return Some(Fed { spent: None, waiting: None, pause: None });
            }
            let spent = received.buffer.feed(data, keep);
            let length = received.buffer.bytes().len();
            let is_too_much = !received.paused && length > received.limit.saturating_mul(2);
            let pause = if is_too_much { transport(reader) } else { None };
            Some(Fed { spent, waiting: take_waiting(py, reader), pause })
        })
    };
    let Some(fed) = fed else {
        return Err(alloc::error::<PyAssertionError>(py, "feed_data after feed_eof"));
    };
    drop(fed.spent);
    if let Some(waiting) = fed.waiting {
        wake(py, waiting)?;
    }
    match fed.pause {
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
            unsafe { with(reader, |received| received.paused = true) };
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

#[pymethods]
impl StreamReaderCore {
    /// The arguments are those of the subclass's `__init__`.
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self { received: UnsafeCell::default() }
    }

    #[getter(_limit)]
    fn limit(slf: &Bound<'_, Self>) -> Returned<usize> {
        // SAFETY: it is alive, and nothing is dropped.
        Returned(unsafe { with(slf.as_ptr(), |received| received.limit) })
    }

    #[setter(_limit)]
    fn set_limit(slf: &Bound<'_, Self>, limit: usize) {
        // SAFETY: as above.
        unsafe { with(slf.as_ptr(), |received| received.limit = limit) };
    }

    #[getter(_eof)]
    fn eof(slf: &Bound<'_, Self>) -> bool {
        // SAFETY: as above.
        unsafe { with(slf.as_ptr(), |received| received.eof) }
    }

    #[setter(_eof)]
    fn set_eof(slf: &Bound<'_, Self>, eof: bool) {
        // SAFETY: as above.
        unsafe { with(slf.as_ptr(), |received| received.eof = eof) };
    }

    #[getter(_paused)]
    fn paused(slf: &Bound<'_, Self>) -> bool {
        // SAFETY: as above.
        unsafe { with(slf.as_ptr(), |received| received.paused) }
    }

    #[setter(_paused)]
    fn set_paused(slf: &Bound<'_, Self>, paused: bool) {
        // SAFETY: as above.
        unsafe { with(slf.as_ptr(), |received| received.paused = paused) };
    }

    /// A copy of what has been received and not been read.
    fn _copy_buffer<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyBytes>> {
        // SAFETY: as above; making bytes runs no Python.
        let copy = unsafe { with(slf.as_ptr(), |received| received.buffer.bytes().to_vec()) };
        alloc::bytes(slf.py(), &copy)
    }

    /// Forgets what has been received and not been read.
    fn _clear_buffer(slf: &Bound<'_, Self>) {
        // SAFETY: as above; what is to be dropped is returned.
        let spent = unsafe {
            with(slf.as_ptr(), |received| received.buffer.advance(received.buffer.bytes().len()))
        };
        drop(spent);
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
        let data = if count == 1 && kwnames.is_null() {
            *args
        } else {
            let reader = Bound::from_borrowed_ptr(py, slf);
            let arguments = Arguments::new(args, count, kwnames);
            let [data] = arguments.named(&reader, "feed_data", ["data"], 1)?;
            data
        };
        feed(py, slf, data).map(|()| none())
    })
}

unsafe extern "C" fn at_eof(slf: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the descriptor has checked the type; a bool is not counted.
    unsafe {
        let ended = with(slf, |received| received.eof && received.buffer.bytes().is_empty());
        if ended { ffi::Py_True() } else { ffi::Py_False() }
    }
}
