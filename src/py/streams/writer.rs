//! What programs call for each message on `loop_pool`'s stream writers, and transports on their
//! protocols: plain C methods, added to the classes of `python/loop_pool/_loop/streams.py`.

use std::sync::OnceLock;

use pyo3::exceptions::PyStopIteration;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};

use super::reader::{self};
use super::reader_state::{self, held};
use crate::py::cpython::alloc;
use crate::py::cpython::cfunc::{add_methods, data_argument, fast_def, method_def, raise};
use crate::py::cpython::names::intern;
use crate::py::cpython::object::{Ref, make_immortal};
use crate::py::cpython::returned::Returned;
use crate::py::cpython::slots::{in_critical_section, slot, slot_offset};
use crate::py::event_loop::affinity::is_owner_of_slot;
use crate::py::transport::layout;
use crate::py::transport::stream::StreamCore;
use crate::py::transport::stream_methods;
use crate::py::transport::transport_core::NativeTransport;
use crate::py::transport::transport_methods::none;

/// Where writers and protocols keep what, in bytes from the start of the object.
struct Layout {
    protocol_class: *mut ffi::PyTypeObject,
    transport_class: *mut ffi::PyTypeObject,
    /// Of a writer.
    loop_: usize,
    protocol: usize,
    reader: usize,
    transport: usize,
    /// Of a protocol.
    lost: usize,
    paused: usize,
    reader_weakly: usize,
    /// What `drain` returns when there is nothing to wait for.
    ready: Ref,
}

// SAFETY: the classes live as long as the process.
unsafe impl Send for Layout {}
// SAFETY: as above.
unsafe impl Sync for Layout {}

static LAYOUT: OnceLock<Layout> = OnceLock::new();

#[inline(always)]
fn layout() -> &'static Layout {
    debug_assert!(LAYOUT.get().is_some());
    // SAFETY: the package learns the layout at import, before it makes a writer.
    unsafe { LAYOUT.get().unwrap_unchecked() }
}

/// Adds the methods to the class of writers and to that of their protocols; `transport` is the class of
/// native stream transports, which are called without a look-up.
///
/// # Errors
/// `ImportError` without the slots.
#[pyfunction]
#[pyo3(name = "_install_writer_methods", signature = (writer, protocol, transport, /))]
pub(crate) fn install(
    writer: &Bound<'_, PyType>,
    protocol: &Bound<'_, PyType>,
    transport: &Bound<'_, PyType>,
) -> PyResult<()> {
    let ready: Ref = Bound::new(writer.py(), StreamReady {})?.into_any().into();
    // SAFETY: it is alive. Every loop counts it at each `drain`.
    unsafe { make_immortal(ready.as_ptr()) };
    let found = Layout {
        protocol_class: protocol.clone().into_ptr().cast(),
        transport_class: transport.clone().into_ptr().cast(),
        loop_: slot_offset(writer, "_loop")?,
        protocol: slot_offset(writer, "_protocol")?,
        reader: slot_offset(writer, "_reader")?,
        transport: slot_offset(writer, "_transport")?,
        lost: slot_offset(protocol, "_connection_lost")?,
        paused: slot_offset(protocol, "_paused")?,
        reader_weakly: slot_offset(protocol, "_stream_reader_wr")?,
        ready,
    };
    LAYOUT.get_or_init(|| found);
    add_methods(
        writer,
        vec![
            fast_def(
                c"write",
                write,
                c"write($self, /, data)\n--\n\n\
                  Write bytes, a bytearray or a memoryview. As asyncio.StreamWriter.write.",
            ),
            method_def(
                c"drain",
                drain,
                c"drain($self, /)\n--\n\n\
                  Wait until it is appropriate to write more. As asyncio.StreamWriter.drain.",
            ),
        ],
    )?;
    add_methods(
        protocol,
        vec![fast_def(
            c"data_received",
            data_received,
            c"data_received($self, /, data)\n--\n\nFeed the reader, if anybody still has it.",
        )],
    )
}

/// What a slot holds that any thread may replace.
///
/// # Safety
/// `object` is alive, and `offset` that of one of its slots.
#[inline(always)]
unsafe fn held_now(object: *mut ffi::PyObject, offset: usize) -> Option<Ref> {
    // SAFETY: by our caller's word; counting runs no Python.
    unsafe { in_critical_section(object, || held(object, offset)) }
}

/// Whether a transport is a native stream transport, of no subclass.
///
/// # Safety
/// It is alive.
#[inline(always)]
unsafe fn is_native(transport: *mut ffi::PyObject) -> bool {
    // SAFETY: by our caller's word.
    std::ptr::eq(unsafe { ffi::Py_TYPE(transport) }, layout().transport_class)
}

unsafe extern "C" fn write(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the descriptor has checked the type; the arguments are alive during the call.
    raise(|py| unsafe {
        let data = data_argument(py, slf, (args, count, kwnames), "write")?;
        let Some(transport) = held_now(slf, layout().transport) else {
            // As an attribute that is missing, or `None`.
            let writer = Bound::from_borrowed_ptr(py, slf);
            let transport = writer.getattr(intern!(py, "_transport"))?;
            transport.call_method1(intern!(py, "write"), (Bound::from_borrowed_ptr(py, data),))?;
            return Ok(none());
        };
        if is_native(transport.as_ptr()) {
            let args = [data];
            let written =
                stream_methods::write(transport.as_ptr(), args.as_ptr(), 1, std::ptr::null_mut());
            return Ref::from_owned_or_err(py, written).map(|_| none());
        }
        let mut vector = [std::ptr::null_mut(), transport.as_ptr(), data];
        let written = ffi::PyObject_VectorcallMethod(
            intern!(py, "write").as_ptr(),
            vector.as_mut_ptr().add(1),
            2 | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET,
            std::ptr::null_mut(),
        );
        Ref::from_owned_or_err(py, written).map(|_| none())
    })
}

unsafe extern "C" fn drain(slf: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the descriptor has checked the type.
    raise(|py| unsafe {
        if is_drained(py, slf)? {
            return Ok(layout().ready.clone_ref(py).into_ptr());
        }
        let writer = Bound::from_borrowed_ptr(py, slf);
        Ok(writer.call_method0(intern!(py, "_drain_later"))?.into_ptr())
    })
}

/// Whether `drain` has nothing to wait for and nothing to raise. On another thread than the loop's
/// nobody knows: what was written there is on its way.
///
/// # Safety
/// `writer` is a live writer.
unsafe fn is_drained(py: Python<'_>, writer: *mut ffi::PyObject) -> PyResult<bool> {
    let layout = layout();
    // SAFETY: the classes are checked before slots are looked at; a bool is not counted, so an
    // unlocked read is enough.
    unsafe {
        if !is_owner_of_slot(writer, layout.loop_) {
            return Ok(false);
        }
        let (reader, protocol, transport) = in_critical_section(writer, || {
            let held = |offset| held(writer, offset);
            (held(layout.reader), held(layout.protocol), held(layout.transport))
        });
        let (Some(protocol), Some(transport)) = (protocol, transport) else { return Ok(false) };
        if ffi::PyObject_TypeCheck(protocol.as_ptr(), layout.protocol_class) == 0 {
            return Ok(false);
        }
        let is_false = |offset| std::ptr::eq(*slot(protocol.as_ptr(), offset), ffi::Py_False());
        if !is_false(layout.lost) || !is_false(layout.paused) {
            return Ok(false);
        }
        if let Some(reader) = &reader
            && (!reader_state::is_reader(reader.as_ptr())
                || reader_state::exception(reader.as_ptr()).is_some())
        {
            return Ok(false);
        }
        if is_native(transport.as_ptr()) {
            let core: &StreamCore = layout::cast(layout::core_of(transport.as_ptr())?);
            return Ok(!core.link().ending().is_closing());
        }
        let closing = transport.as_py().call_method0(py, intern!(py, "is_closing"))?;
        Ok(std::ptr::eq(closing.as_ptr(), ffi::Py_False()))
    }
}

unsafe extern "C" fn data_received(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the descriptor has checked the type; the arguments are alive during the call.
    raise(|py| unsafe {
        let data = data_argument(py, slf, (args, count, kwnames), "data_received")?;
        let Some(weakly) = held_now(slf, layout().reader_weakly) else { return Ok(none()) };
        let mut reader = std::ptr::null_mut();
        if ffi::compat::PyWeakref_GetRef(weakly.as_ptr(), &raw mut reader) < 0 {
            return Err(alloc::raised(py));
        }
        let Some(reader) = std::ptr::NonNull::new(reader) else { return Ok(none()) };
        let reader = Ref::from_owned(reader);
        if reader_state::is_reader(reader.as_ptr()) {
            reader::feed(py, reader.as_ptr(), data)?;
        } else {
            let data = Bound::from_borrowed_ptr(py, data);
            reader.as_py().call_method1(py, intern!(py, "feed_data"), (data,))?;
        }
        Ok(none())
    })
}

/// What `drain` returns when there is nothing to wait for: a coroutine that ends at once, and may be
/// awaited any number of times.
#[pyclass(frozen, module = "loop_pool._core")]
pub(crate) struct StreamReady {}

#[pymethods]
#[allow(clippy::unused_self, reason = "methods of Python")]
impl StreamReady {
    #[getter]
    fn __name__(&self) -> Returned<&'static str> {
        Returned("drain")
    }

    #[getter]
    fn __qualname__(&self) -> Returned<&'static str> {
        Returned("StreamWriter.drain")
    }

    fn __repr__(slf: &Bound<'_, Self>) -> Returned<String> {
        Returned(format!("<coroutine object StreamWriter.drain at {:p}>", slf.as_ptr()))
    }

    fn __await__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(&self) -> Option<Py<PyAny>> {
        None
    }

    fn send(&self, _value: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        Err(PyStopIteration::new_err(()))
    }

    #[pyo3(signature = (*exception))]
    fn throw(&self, exception: &Bound<'_, PyTuple>) -> PyResult<Py<PyAny>> {
        let thrown = exception.get_item(0).map_err(|_| {
            alloc::type_error(exception.py(), "throw expected at least 1 argument, got 0")
        })?;
        Err(PyErr::from_value(thrown))
    }

    fn close(&self) {}
}
