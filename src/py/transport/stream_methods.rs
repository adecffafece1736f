//! `write`, which a program calls on a stream transport for each message.

use pyo3::exceptions::PyAssertionError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView, PyType};

use super::layout::{learn, loop_of};
use super::stream::StreamCore;
use super::stream_turn::write_failed;
use super::transport_core::{NativeTransport, note_work, schedule};
use super::transport_methods::{
    self, copy_of, elsewhere, enter, leave_to_helper, none, pause_if_above,
};
use crate::py::cpython::alloc;
use crate::py::cpython::cfunc::{add_methods, data_argument, fast_def};
use crate::py::cpython::names::intern;
use crate::py::cpython::object::Ref;
use crate::py::cpython::payload::{Borrowed, Payload, bytes_of};
use crate::py::event_loop::core::LoopCore;
use crate::transport::{Refusal, SendChoice, Source, WriteChoice};

/// Adds the methods to a transport class: those of its read side, of its write side, or of both.
///
/// # Errors
/// `ImportError` if its slots are not where those of the other transport classes are.
#[pyfunction]
#[pyo3(name = "_install_stream_methods", signature = (class, /, *, reads, writes))]
pub(crate) fn install(class: &Bound<'_, PyType>, reads: bool, writes: bool) -> PyResult<()> {
    learn(class)?;
    let mut methods = transport_methods::common::<StreamCore>();
    if reads {
        methods.extend(transport_methods::reading::<StreamCore>());
    }
    if writes {
        methods.push(transport_methods::writing::<StreamCore>());
        methods.push(fast_def(
            c"write",
            write,
            c"write($self, /, data)\n--\n\nWrite bytes, a bytearray or a memoryview.\n\n\
              What the kernel does not take at once is queued: bytes by reference, anything \
              else as a copy. As asyncio.WriteTransport.write.",
        ));
    }
    add_methods(class, methods)
}

/// `write` of a transport, as a C method.
///
/// # Safety
/// As the vectorcall convention says; `slf` is an instance of a class that was given the method.
pub(crate) unsafe extern "C" fn write(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the descriptor has checked the type; the arguments are alive during the call.
    unsafe {
        enter(slf, |py, core: &StreamCore| {
            let loop_ = loop_of(py, slf);
            let data = data_argument(py, slf, (args, count, kwnames), "write")?;
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
    if !may_be_written(data) {
        if core.stream.channel().is_pipe() {
            return Err(alloc::error::<PyAssertionError>(py, data.repr()?.to_string()));
        }
        return Err(alloc::type_error(
            py,
            format!(
                "data argument must be a bytes, bytearray, or memoryview object, not {}",
                data.get_type().name()?.repr()?
            ),
        ));
    }
    // A view with gaps cannot be borrowed: a copy has none.
    let Ok(borrowed) = Borrowed::new(data, false) else { return write_copy(py, slf, data) };
    // SAFETY: `slf` and the data are alive during the call.
    unsafe {
        write_bytes(py, slf, core, loop_, data.as_ptr(), borrowed.bytes(), || {
            Payload::Own(borrowed.bytes().into())
        })
    }
}

/// Whether data are of a class that asyncio's transports write.
pub(crate) fn may_be_written(data: &Bound<'_, PyAny>) -> bool {
    data.is_instance_of::<PyBytes>()
        || data.is_instance_of::<PyByteArray>()
        || data.is_instance_of::<PyMemoryView>()
}

/// Writes a copy of what cannot be borrowed.
pub(super) fn write_copy(
    py: Python<'_>,
    slf: *mut ffi::PyObject,
    data: &Bound<'_, PyAny>,
) -> PyResult<*mut ffi::PyObject> {
    let copy = copy_of(py, data)?;
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
    if !event_loop.local.is_owner() {
        // SAFETY: by our caller's word.
        let object = unsafe { Bound::from_borrowed_ptr(py, object) };
        let copy = copy_of(py, &object)?;
        return elsewhere(py, slf, "write", &[&copy]);
    }
    let offset = match core.link().choose_write(data.len(), || loop_.get().flags.is_behind()) {
        WriteChoice::Send(SendChoice::Now) => match core.stream.send(data) {
            Ok(count) => {
                event_loop.metrics().bytes_out.add(count as u64);
                if count == data.len() {
                    return Ok(none());
                }
                count
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => 0,
            Err(error) => {
                // SAFETY: by our caller's word.
                let transport = unsafe { Bound::from_borrowed_ptr(py, slf) };
                write_failed(&transport, &error)?;
                return Ok(none());
            }
        },
        WriteChoice::Send(SendChoice::Queue) => 0,
        WriteChoice::Send(SendChoice::QueueForHelper) => {
            return queue_for_helper(py, slf, core, loop_, keep());
        }
        WriteChoice::HoldBack => {
            hold_back(core, loop_, keep());
            return Ok(none());
        }
        WriteChoice::Nothing => return Ok(none()),
        WriteChoice::Refuse(refusal) => return refuse(py, slf, refusal),
    };
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
    drop(core.stream.enqueue(payload, offset));
    send_queued(py, slf, core, loop_)
}

/// Goes on when something was queued: sends what the kernel takes.
#[cold]
pub(crate) fn send_queued(
    py: Python<'_>,
    slf: *mut ffi::PyObject,
    core: &StreamCore,
    loop_: &Bound<'_, LoopCore>,
) -> PyResult<*mut ffi::PyObject> {
    let stream = &core.stream;
    let event_loop = &loop_.get().event_loop;
    // SAFETY: `slf` is alive during the call.
    let transport = unsafe { Bound::from_borrowed_ptr(py, slf) };
    if let Some(flushed) = stream.flush(&**event_loop.shared()) {
        event_loop.metrics().bytes_out.add(flushed.bytes);
        core.drop_spent(flushed.spent);
        if let Some(error) = flushed.failure {
            write_failed(&transport, &error)?;
            return Ok(none());
        }
        schedule(loop_, slf, core.link(), stream.state().end_turn());
    }
    let paused = pause_if_above(loop_, &transport, core);
    schedule(loop_, slf, core.link(), core.link().look_below());
    paused.map(|()| none())
}

/// Queues data that the turn sends when it has read; others do if it gets stuck before.
#[cold]
fn hold_back(core: &StreamCore, loop_: &Bound<'_, LoopCore>, payload: Payload) {
    drop(core.stream.enqueue(payload, 0));
    if let Some(token) = core.link().token() {
        note_work(loop_, token);
    }
}

/// Queues data without trying to send them.
#[cold]
fn queue_for_helper(
    py: Python<'_>,
    slf: *mut ffi::PyObject,
    core: &StreamCore,
    loop_: &Bound<'_, LoopCore>,
    payload: Payload,
) -> PyResult<*mut ffi::PyObject> {
    let was_queued = core.stream.state().bits().is_queued();
    drop(core.stream.enqueue(payload, 0));
    leave_queued(py, slf, core, loop_, was_queued)
}

/// Goes on when something was queued that a helper is to send. `was_queued`: it came behind something else.
#[cold]
pub(super) fn leave_queued(
    py: Python<'_>,
    slf: *mut ffi::PyObject,
    core: &StreamCore,
    loop_: &Bound<'_, LoopCore>,
    was_queued: bool,
) -> PyResult<*mut ffi::PyObject> {
    let stream = &core.stream;
    if was_queued {
        // Another thread may have written all that by now, and have found nothing more to do.
        schedule(loop_, slf, core.link(), stream.state().end_turn());
    } else {
        leave_to_helper(loop_, slf, stream);
    }
    // SAFETY: `slf` is alive during the call.
    let transport = unsafe { Bound::from_borrowed_ptr(py, slf) };
    let paused = pause_if_above(loop_, &transport, core);
    schedule(loop_, slf, core.link(), core.link().look_below());
    paused.map(|()| none())
}

/// Refuses to write: by an error, or in silence.
#[cold]
pub(super) fn refuse(
    py: Python<'_>,
    slf: *mut ffi::PyObject,
    refusal: Refusal,
) -> PyResult<*mut ffi::PyObject> {
    match refusal {
        Refusal::AfterEof => Err(alloc::runtime_error(py, "Cannot call write() after write_eof()")),
        Refusal::DuringSendfile => {
            Err(alloc::runtime_error(py, "unable to write; sendfile is in progress"))
        }
        Refusal::Dropped => {
            // SAFETY: `slf` is alive during the call.
            let transport = unsafe { Bound::from_borrowed_ptr(py, slf) };
            transport.call_method0(intern!(py, "_lost_write"))?;
            Ok(none())
        }
    }
}
