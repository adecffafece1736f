//! The methods of a stream transport that a program calls for each message: plain C methods, added
//! to the classes of `python/loop_pool/_transports.py` as `hot` adds the loop's.

use std::sync::Arc;

use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView, PyType};

use super::arguments::{method_def, one_def, raise};
use super::callback::Callback;
use super::core::LoopCore;
use super::hot::add_methods;
use super::object::Ref;
use super::payload::{Borrowed, Payload, bytes_of};
use super::stream::{self, CLOSING, EMPTY_WAITER, LOST, PROTOCOL_PAUSED, StreamCore, WRITE_EOF};
use super::stream_turn::write_failed;
use super::transport::{core_of, learn, loop_of};
use crate::event_loop::Job;
use crate::transport::{Schedule, Source};

/// Adds the methods to a transport class: those of its read side, of its write side, or of both.
///
/// # Errors
/// `ImportError` if its slots are not where those of the other transport classes are.
#[pyfunction]
#[pyo3(name = "_install_stream_methods", signature = (class, /, *, reads, writes))]
pub(super) fn install(class: &Bound<'_, PyType>, reads: bool, writes: bool) -> PyResult<()> {
    learn(class)?;
    let mut methods = vec![method_def(
        c"is_closing",
        is_closing,
        c"is_closing($self, /)\n--\n\nWhether the transport is closing or closed. Any thread.",
    )];
    if reads {
        methods.extend([
            method_def(
                c"is_reading",
                is_reading,
                c"is_reading($self, /)\n--\n\nWhether it is receiving. Any thread.",
            ),
            method_def(
                c"pause_reading",
                pause_reading,
                c"pause_reading($self, /)\n--\n\nDeliver nothing until resume_reading() is called.",
            ),
            method_def(
                c"resume_reading",
                resume_reading,
                c"resume_reading($self, /)\n--\n\nUndo pause_reading(); what was read ahead of the \
                  pause is delivered first.",
            ),
        ]);
    }
    if writes {
        methods.extend([
            one_def(
                c"write",
                write,
                c"write($self, data, /)\n--\n\nWrite bytes, a bytearray or a memoryview.\n\n\
                  What the kernel does not take at once is queued: bytes by reference, anything \
                  else as a copy. As asyncio.WriteTransport.write.",
            ),
            method_def(
                c"get_write_buffer_size",
                get_write_buffer_size,
                c"get_write_buffer_size($self, /)\n--\n\nReturn the bytes queued. Any thread.",
            ),
        ]);
    }
    add_methods(class, methods)
}

/// Runs the body of a method with its transport's native half.
///
/// # Safety
/// `slf` is a live instance of a class that was given the methods, as the descriptor has checked.
#[inline(always)]
unsafe fn enter(
    slf: *mut ffi::PyObject,
    body: impl FnOnce(Python<'_>, &StreamCore) -> PyResult<*mut ffi::PyObject>,
) -> *mut ffi::PyObject {
    // SAFETY: handed on to our caller.
    raise(|py| unsafe { body(py, stream::cast(core_of(slf)?)) })
}

fn none() -> *mut ffi::PyObject {
    // SAFETY: immortal.
    unsafe { ffi::Py_None() }
}

fn boolean(value: bool) -> *mut ffi::PyObject {
    // SAFETY: immortal.
    unsafe { if value { ffi::Py_True() } else { ffi::Py_False() } }
}

/// Whether the calling thread may change the transport now: it is the loop's, or nobody runs the
/// loop. If not, the call is posted to the loop's thread, or refused in debug mode.
#[cold]
fn elsewhere(
    py: Python<'_>,
    slf: *mut ffi::PyObject,
    method: &str,
    argument: Option<&Bound<'_, PyAny>>,
) -> PyResult<*mut ffi::PyObject> {
    // SAFETY: `slf` is alive during the call.
    let transport = unsafe { Bound::from_borrowed_ptr(py, slf) };
    match argument {
        Some(argument) => transport.call_method1("_elsewhere", (method, argument))?,
        None => transport.call_method1("_elsewhere", (method,))?,
    };
    Ok(none())
}

/// Whether the calling thread may change the transport now.
#[inline(always)]
pub(super) fn is_here(loop_: &LoopCore) -> bool {
    loop_.event_loop.is_owner() || !loop_.event_loop.is_owned()
}

fn schedule(loop_: &Bound<'_, LoopCore>, slf: *mut ffi::PyObject, needed: Schedule) {
    if needed == Schedule::Needed {
        // SAFETY: the transport is alive during the call.
        let transport = unsafe { Ref::from_borrowed(slf) };
        loop_.get().schedule(Callback::from_native(transport));
    }
}

unsafe extern "C" fn is_closing(
    slf: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the descriptor has checked the type.
    unsafe { enter(slf, |_, core| Ok(boolean(core.has(CLOSING)))) }
}

unsafe extern "C" fn is_reading(
    slf: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the descriptor has checked the type.
    unsafe {
        enter(slf, |_, core| {
            let paused = core.stream.state().bits().is_paused();
            Ok(boolean(!core.has(CLOSING) && !paused))
        })
    }
}

unsafe extern "C" fn get_write_buffer_size(
    slf: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the descriptor has checked the type; a size fits.
    unsafe { enter(slf, |_, core| Ok(ffi::PyLong_FromSize_t(core.stream.queued()))) }
}

unsafe extern "C" fn pause_reading(
    slf: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the descriptor has checked the type.
    unsafe {
        enter(slf, |py, core| {
            let loop_ = loop_of(py, slf);
            if !is_here(loop_.get()) {
                return elsewhere(py, slf, "pause_reading", None);
            }
            let state = core.stream.state();
            if !core.has(CLOSING) && !state.bits().is_paused() {
                state.pause();
                if loop_.get().is_debug() {
                    Bound::from_borrowed_ptr(py, slf)
                        .call_method1(intern!(py, "_log"), ("%r pauses reading",))?;
                }
            }
            Ok(none())
        })
    }
}

unsafe extern "C" fn resume_reading(
    slf: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the descriptor has checked the type.
    unsafe {
        enter(slf, |py, core| {
            let loop_ = loop_of(py, slf);
            if !is_here(loop_.get()) {
                return elsewhere(py, slf, "resume_reading", None);
            }
            let state = core.stream.state();
            if !core.has(CLOSING) && state.bits().is_paused() {
                schedule(loop_, slf, state.resume());
                if loop_.get().is_debug() {
                    Bound::from_borrowed_ptr(py, slf)
                        .call_method1(intern!(py, "_log"), ("%r resumes reading",))?;
                }
            }
            Ok(none())
        })
    }
}

unsafe extern "C" fn write(
    slf: *mut ffi::PyObject,
    data: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the descriptor has checked the type; the argument is alive during the call.
    unsafe {
        enter(slf, |py, core| {
            let loop_ = loop_of(py, slf);
            if ffi::PyBytes_CheckExact(data) != 0 {
                write_bytes(py, slf, core, loop_, data, bytes_of(data), || {
                    Payload::Bytes(Ref::from_borrowed(data))
                })
            } else {
                write_other(py, slf, core, loop_, &Bound::from_borrowed_ptr(py, data))
            }
        })
    }
}

/// Writes what may change when the call is over.
#[cold]
fn write_other(
    py: Python<'_>,
    slf: *mut ffi::PyObject,
    core: &StreamCore,
    loop_: &Bound<'_, LoopCore>,
    data: &Bound<'_, PyAny>,
) -> PyResult<*mut ffi::PyObject> {
    if !(data.is_instance_of::<PyBytes>()
        || data.is_instance_of::<PyByteArray>()
        || data.is_instance_of::<PyMemoryView>())
    {
        return Err(PyTypeError::new_err(format!(
            "data argument must be a bytes, bytearray, or memoryview object, not {}",
            data.get_type().name()?.repr()?
        )));
    }
    // A view with gaps cannot be borrowed: a copy has none.
    let Ok(lent) = Borrowed::new(data, false) else { return write_copy(py, slf, data) };
    // SAFETY: `slf` and the data are alive during the call.
    unsafe {
        write_bytes(py, slf, core, loop_, data.as_ptr(), lent.bytes(), || {
            Payload::Copy(lent.bytes().into())
        })
    }
}

/// Writes a copy of what cannot be borrowed.
fn write_copy(
    py: Python<'_>,
    slf: *mut ffi::PyObject,
    data: &Bound<'_, PyAny>,
) -> PyResult<*mut ffi::PyObject> {
    let copy = py.get_type::<PyBytes>().call1((data,))?;
    // SAFETY: `slf` is alive during the call.
    let transport = unsafe { Bound::from_borrowed_ptr(py, slf) };
    transport.call_method1(intern!(py, "write"), (copy,))?;
    Ok(none())
}

/// Sends what the kernel takes of `data`, and queues the rest as `keep` makes it.
///
/// # Safety
/// `slf` is a live stream transport, and `object` a live object whose memory is `data`.
#[inline(always)]
unsafe fn write_bytes(
    py: Python<'_>,
    slf: *mut ffi::PyObject,
    core: &StreamCore,
    loop_: &Bound<'_, LoopCore>,
    object: *mut ffi::PyObject,
    data: &[u8],
    keep: impl FnOnce() -> Payload,
) -> PyResult<*mut ffi::PyObject> {
    let event_loop = &loop_.get().event_loop;
    if !event_loop.is_owner() && event_loop.is_owned() {
        // SAFETY: by our caller's word.
        let object = unsafe { Bound::from_borrowed_ptr(py, object) };
        let copy = py.get_type::<PyBytes>().call1((object,))?;
        return elsewhere(py, slf, "write", Some(&copy));
    }
    if core.flags() & (WRITE_EOF | EMPTY_WAITER | LOST) != 0 {
        return refuse(py, slf, core, data.is_empty());
    }
    if data.is_empty() {
        return Ok(none());
    }
    if loop_.get().is_behind() {
        return leave_to_helper(py, slf, core, loop_, keep());
    }
    let stream = &core.stream;
    let mut offset = 0;
    if !stream.state().bits().is_queued() {
        match stream.send(data) {
            Ok(count) => {
                event_loop.metrics().bytes_out.add(count as u64);
                if count == data.len() {
                    return Ok(none());
                }
                offset = count;
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => {
                // SAFETY: by our caller's word.
                let transport = unsafe { Bound::from_borrowed_ptr(py, slf) };
                write_failed(&transport, &error)?;
                return Ok(none());
            }
        }
    }
    queue(py, slf, core, loop_, keep(), offset)
}

/// Queues what the kernel did not take, and asks to be told when it has room.
#[cold]
fn queue(
    py: Python<'_>,
    slf: *mut ffi::PyObject,
    core: &StreamCore,
    loop_: &Bound<'_, LoopCore>,
    payload: Payload,
    offset: usize,
) -> PyResult<*mut ffi::PyObject> {
    let stream = &core.stream;
    let event_loop = &loop_.get().event_loop;
    drop(stream.enqueue(payload, offset));
    // SAFETY: `slf` is alive during the call.
    let transport = unsafe { Bound::from_borrowed_ptr(py, slf) };
    if let Some(flushed) = stream.flush(&**event_loop.shared()) {
        event_loop.metrics().bytes_out.add(flushed.bytes);
        drop(flushed.spent);
        if let Some(error) = flushed.failure {
            write_failed(&transport, &error)?;
            return Ok(none());
        }
        schedule(loop_, slf, stream.state().end_turn());
    }
    pause_if_above(&transport, core)?;
    schedule(loop_, slf, core.look_below());
    Ok(none())
}

fn pause_if_above(transport: &Bound<'_, PyAny>, core: &StreamCore) -> PyResult<()> {
    if core.is_above_high_water() && !core.has(PROTOCOL_PAUSED) {
        transport.call_method0(intern!(transport.py(), "_pause_protocol"))?;
    }
    Ok(())
}

/// Queues data without trying to send them, and offers that to an idle thread: more callbacks wait
/// than the loop gets to soon. What nobody takes is sent when they have run.
#[cold]
fn leave_to_helper(
    py: Python<'_>,
    slf: *mut ffi::PyObject,
    core: &StreamCore,
    loop_: &Bound<'_, LoopCore>,
    payload: Payload,
) -> PyResult<*mut ffi::PyObject> {
    let stream = &core.stream;
    let was_queued = stream.state().bits().is_queued();
    drop(stream.enqueue(payload, 0));
    if !was_queued && let Some(token) = stream.token() {
        let source: Arc<dyn Source> = stream.clone();
        let owner = Arc::clone(loop_.get().event_loop.shared());
        if !super::run::offer_one(loop_.get(), Job { owner, token, source }) {
            schedule(loop_, slf, stream.state().end_turn());
        }
    }
    // SAFETY: `slf` is alive during the call.
    let transport = unsafe { Bound::from_borrowed_ptr(py, slf) };
    pause_if_above(&transport, core)?;
    schedule(loop_, slf, core.look_below());
    Ok(none())
}

/// Why nothing may be written now.
#[cold]
fn refuse(
    py: Python<'_>,
    slf: *mut ffi::PyObject,
    core: &StreamCore,
    empty: bool,
) -> PyResult<*mut ffi::PyObject> {
    if core.has(WRITE_EOF) {
        return Err(PyRuntimeError::new_err("Cannot call write() after write_eof()"));
    }
    if core.has(EMPTY_WAITER) {
        return Err(PyRuntimeError::new_err("unable to write; sendfile is in progress"));
    }
    if !empty {
        // SAFETY: `slf` is alive during the call.
        unsafe { Bound::from_borrowed_ptr(py, slf) }.call_method0(intern!(py, "_lost_write"))?;
    }
    Ok(none())
}
