//! The native half of `loop_pool`'s stream readers: what has come, and who waits for it.
//!
//! A reader is an instance of `StreamReader` in `python/loop_pool/_loop/streams.py`, which inherits asyncio's
//! and keeps its Python references in slots, where the collector sees them. Slots and buffer are
//! touched in the critical section of the reader, in which no Python runs: so it is a lock that the
//! interpreter knows, and any thread may call. What is read is taken out by `stream_read`.

use std::cell::UnsafeCell;
use std::sync::OnceLock;

use pyo3::Borrowed;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple, PyType};

use crate::py::cpython::alloc;
use crate::py::cpython::object::Ref;
use crate::py::cpython::payload::bytes_of;
use crate::py::cpython::returned::Returned;
use crate::py::cpython::slots::{in_critical_section, slot, slot_offset};
use crate::transport::{Buffer, ReaderState};

/// A `bytes` object that came whole. Dropped by attached threads, outside of critical sections.
#[derive(Debug)]
pub(crate) struct Chunk(pub(crate) Ref);

// SAFETY: a bytes object's memory stays where it is and does not change while it is referenced.
unsafe impl Buffer for Chunk {
    #[inline(always)]
    fn bytes(&self) -> &[u8] {
        // SAFETY: made of a bytes object, which the reference keeps alive.
        unsafe { bytes_of(self.0.as_ptr()) }
    }
}

/// The native half of a stream reader. Use `loop_pool.start_server`.
#[pyclass(frozen, subclass, module = "loop_pool._core")]
pub(crate) struct StreamReaderCore {
    state: UnsafeCell<ReaderState<Chunk>>,
}

// SAFETY: `with` alone touches the cell, in the critical section of the object.
unsafe impl Sync for StreamReaderCore {}

/// Where a reader keeps what, in bytes from the start of the object.
#[derive(Debug)]
pub(crate) struct Layout {
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

pub(crate) static LAYOUT: OnceLock<Layout> = OnceLock::new();

#[inline(always)]
pub(crate) fn layout() -> &'static Layout {
    debug_assert!(LAYOUT.get().is_some());
    // SAFETY: the package learns the layout at import, before it makes a reader.
    unsafe { LAYOUT.get().unwrap_unchecked() }
}

/// A reader in whose critical section this thread is: what it has received, and the slots that change.
pub(crate) struct Held<'s> {
    pub(crate) state: &'s mut ReaderState<Chunk>,
    reader: *mut ffi::PyObject,
}

/// Calls `f` with a reader, in its critical section.
///
/// # Safety
/// `reader` is a live reader, the thread attached, and `f` runs no Python and drops no reference.
#[inline(always)]
pub(crate) unsafe fn with<R>(reader: *mut ffi::PyObject, f: impl FnOnce(&mut Held<'_>) -> R) -> R {
    // SAFETY: a reader inherits `StreamReaderCore`. One thread at a time is in the section, and by the
    // caller's word `f` does not come here again.
    unsafe {
        let object = Borrowed::from_ptr(Python::assume_attached(), reader);
        let state = object.cast_unchecked::<StreamReaderCore>().get().state.get();
        in_critical_section(reader, || f(&mut Held { state: &mut *state, reader }))
    }
}

impl Held<'_> {
    /// What stands in a slot: borrowed, null or `None` where it holds nothing.
    #[inline(always)]
    fn slot(&self, offset: usize) -> *mut *mut ffi::PyObject {
        // SAFETY: the reader is alive, by the word of who called `with`, and the offset one of its slots.
        unsafe { slot(self.reader, offset) }
    }

    /// The transport.
    pub(crate) fn transport(&self) -> Option<Ref> {
        // SAFETY: as above; the thread is attached, and in the section.
        unsafe { held(self.reader, layout().transport) }
    }

    /// Whether somebody waits.
    #[inline(always)]
    pub(crate) fn is_awaited(&self) -> bool {
        // SAFETY: as above.
        unsafe {
            let waiter = *self.slot(layout().waiter);
            !waiter.is_null() && !std::ptr::eq(waiter, ffi::Py_None())
        }
    }

    /// Notes who waits, where nobody does.
    #[inline(always)]
    pub(crate) fn set_waiter(&mut self, waiter: Ref) {
        // SAFETY: as above. What was there is null or `None`, which is not counted.
        unsafe { *self.slot(layout().waiter) = waiter.into_ptr() };
    }

    /// Takes who waits: whoever it is, or only this one.
    #[inline(always)]
    pub(crate) fn take_waiter(&mut self, only: Option<*mut ffi::PyObject>) -> Option<Ref> {
        // SAFETY: as above; the reference passes from the slot to the caller.
        unsafe {
            let place = self.slot(layout().waiter);
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
}

/// Whether the object is one of our readers, and of no subclass, which may have methods of its own.
///
/// # Safety
/// It is alive.
#[inline(always)]
pub(crate) unsafe fn is_reader(object: *mut ffi::PyObject) -> bool {
    // SAFETY: by our caller's word.
    std::ptr::eq(unsafe { ffi::Py_TYPE(object) }, layout().class)
}

/// What a slot holds, if that is neither nothing nor `None`.
///
/// # Safety
/// `object` is alive, `offset` that of one of its slots, and the thread attached. What may be replaced
/// meanwhile is read in the object's critical section.
#[inline(always)]
pub(crate) unsafe fn held(object: *mut ffi::PyObject, offset: usize) -> Option<Ref> {
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
pub(crate) unsafe fn exception(reader: *mut ffi::PyObject) -> Option<Ref> {
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
pub(crate) unsafe fn loop_of(reader: *mut ffi::PyObject) -> Option<Ref> {
    // SAFETY: by our caller's word; counting runs no Python.
    unsafe { in_critical_section(reader, || held(reader, layout().loop_)) }
}

/// A future of the loop that is done, if the loop is one of `loop_pool.EventLoop` itself, whose methods
/// nobody has overridden.
///
/// # Safety
/// `reader` is a live reader.
#[inline(always)]
pub(crate) unsafe fn woken(reader: *mut ffi::PyObject) -> Option<Ref> {
    // SAFETY: by our caller's word; counting runs no Python.
    unsafe { in_critical_section(reader, || held(reader, layout().woken)) }
}

#[pymethods]
impl StreamReaderCore {
    /// The arguments are those of the subclass's `__init__`.
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self { state: UnsafeCell::default() }
    }

    #[getter(_limit)]
    fn limit(slf: &Bound<'_, Self>) -> Returned<usize> {
        // SAFETY: it is alive, and nothing is dropped.
        Returned(unsafe { with(slf.as_ptr(), |held| held.state.limit()) })
    }

    #[setter(_limit)]
    fn set_limit(slf: &Bound<'_, Self>, limit: usize) {
        // SAFETY: as above.
        unsafe { with(slf.as_ptr(), |held| held.state.set_limit(limit)) };
    }

    #[getter(_eof)]
    fn eof(slf: &Bound<'_, Self>) -> bool {
        // SAFETY: as above.
        unsafe { with(slf.as_ptr(), |held| held.state.eof()) }
    }

    #[setter(_eof)]
    fn set_eof(slf: &Bound<'_, Self>, eof: bool) {
        // SAFETY: as above.
        unsafe { with(slf.as_ptr(), |held| held.state.set_eof(eof)) };
    }

    #[getter(_paused)]
    fn paused(slf: &Bound<'_, Self>) -> bool {
        // SAFETY: as above.
        unsafe { with(slf.as_ptr(), |held| held.state.is_paused()) }
    }

    #[setter(_paused)]
    fn set_paused(slf: &Bound<'_, Self>, paused: bool) {
        // SAFETY: as above.
        unsafe { with(slf.as_ptr(), |held| held.state.set_paused(paused)) };
    }

    /// A copy of what has been received and not been read.
    fn _copy_buffer<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyBytes>> {
        // SAFETY: as above; making bytes runs no Python.
        let copy = unsafe { with(slf.as_ptr(), |held| held.state.bytes().to_vec()) };
        alloc::bytes(slf.py(), &copy)
    }

    /// Forgets what has been received and not been read.
    fn _clear_buffer(slf: &Bound<'_, Self>) {
        // SAFETY: as above; what is to be dropped is returned.
        let spent = unsafe { with(slf.as_ptr(), |held| held.state.clear()) };
        drop(spent);
    }
}

/// Learns where the class of readers keeps what.
///
/// # Errors
/// `ImportError` without the slots.
pub(super) fn learn(class: &Bound<'_, PyType>) -> PyResult<()> {
    let found = Layout {
        class: class.clone().into_ptr().cast(),
        exception: slot_offset(class, "_exception")?,
        loop_: slot_offset(class, "_loop")?,
        transport: slot_offset(class, "_transport")?,
        waiter: slot_offset(class, "_waiter")?,
        woken: slot_offset(class, "_woken")?,
    };
    LAYOUT.get_or_init(|| found);
    Ok(())
}
