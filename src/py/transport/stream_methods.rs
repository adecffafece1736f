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
    self, boolean, copy_of, elsewhere, enter, leave_to_helper, none, pause_if_above,
};
use crate::py::cpython::alloc;
use crate::py::cpython::cfunc::{Arguments, add_methods, fast_def};
use crate::py::cpython::names::intern;
use crate::py::cpython::object::Ref;
use crate::py::cpython::payload::{Borrowed, Payload, bytes_of};
use crate::py::event_loop::core::LoopCore;
use crate::transport::{Batch, Refusal, SendChoice, Source, WriteChoice};

/// Adds the methods to a transport class: those of its read side, of its write side, or of both.
///
/// # Errors
/// `ImportError` if its slots are not where those of the other transport classes are.
#[pyfunction]
#[pyo3(name = "_install_stream_methods", signature = (class, /, *, reads, writes))]
pub(crate) fn install(class: &Bound<'_, PyType>, reads: bool, writes: bool) -> PyResult<()> {
    learn(class)?;
    let mut methods = transport_methods::common(is_closing);
    if reads {
        methods.extend(transport_methods::reading::<StreamCore>());
    }
    if writes {
        methods.push(transport_methods::writing(get_write_buffer_size));
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
            let data = if count == 1 && kwnames.is_null() {
                *args
            } else {
                named_data(py, slf, &Arguments::new(args, count, kwnames))?
            };
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

/// The argument of `write`, given by its name, or missing.
#[cold]
#[inline(never)]
fn named_data(
    py: Python<'_>,
    slf: *mut ffi::PyObject,
    arguments: &Arguments<'_>,
) -> PyResult<*mut ffi::PyObject> {
    // SAFETY: `slf` is alive during the call.
    let transport = unsafe { Bound::from_borrowed_ptr(py, slf) };
    arguments.named(&transport, "write", ["data"], 1).map(|[data]| data)
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
            Payload::Copy(borrowed.bytes().into())
        })
    }
}

/// Writes a copy of what cannot be borrowed.
fn write_copy(
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
    let flags = &loop_.get().flags;
    // What is written to a pipe at once may have to arrive so.
    let batch = if core.stream.channel().is_pipe() { Batch::NONE } else { flags.batch() };
    let offset = match core.link().choose_write(data.len(), batch, || flags.is_behind()) {
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
        WriteChoice::Cork => {
            cork_batch(slf, core, loop_, keep());
            return Ok(none());
        }
        WriteChoice::HoldBack => {
            hold_back(core, loop_, keep());
            return Ok(none());
        }
        WriteChoice::SendHeldFirst => {
            return send_held_first(py, slf, core, loop_, keep());
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
    // SAFETY: `slf` is alive during the call.
    let transport = unsafe { Bound::from_borrowed_ptr(py, slf) };
    if !flush(&transport, core, loop_)? {
        return Ok(none());
    }
    tell_queued(&transport, core, loop_).map(|()| none())
}

/// Tells the protocol to pause if too much is queued, and a turn to go on if so little that somebody waits
/// for that.
fn tell_queued(
    transport: &Bound<'_, PyAny>,
    core: &StreamCore,
    loop_: &Bound<'_, LoopCore>,
) -> PyResult<()> {
    let paused = pause_if_above(loop_, transport, core);
    schedule(loop_, transport.as_ptr(), core.link(), core.link().look_below());
    paused
}

/// Sends what is queued and can be; what that leads to is for a turn. Says whether the stream may still be
/// written to.
fn flush(
    transport: &Bound<'_, PyAny>,
    core: &StreamCore,
    loop_: &Bound<'_, LoopCore>,
) -> PyResult<bool> {
    let (stream, event_loop) = (&core.stream, &loop_.get().event_loop);
    if let Some(flushed) = stream.flush(&**event_loop.shared()) {
        event_loop.metrics().bytes_out.add(flushed.bytes);
        drop(flushed.spent);
        if let Some(error) = flushed.failure {
            write_failed(transport, &error)?;
            return Ok(false);
        }
        schedule(loop_, transport.as_ptr(), core.link(), stream.state().end_turn());
    }
    if core.stream.queued() > 0 {
        // The kernel is full: what is written now is queued as ever.
        core.link().uncork();
    }
    Ok(true)
}

/// Holds back the first data of this batch of callbacks, at the end of which they are sent.
#[cold]
fn cork_batch(
    slf: *mut ffi::PyObject,
    core: &StreamCore,
    loop_: &Bound<'_, LoopCore>,
    payload: Payload,
) {
    // SAFETY: `slf` is alive during the call.
    let transport = unsafe { Ref::from_borrowed(slf) };
    // SAFETY: runs no Python.
    let corked = unsafe {
        loop_.get().event_loop.local.if_owner(|local| local.extension.held.push(transport))
    };
    if corked.is_some() {
        core.link().cork_batch();
    }
    hold_back(core, loop_, payload);
}

/// Sends what is held back, as there would be too much of it; then holds back these data, unless the
/// kernel has had enough.
#[cold]
fn send_held_first(
    py: Python<'_>,
    slf: *mut ffi::PyObject,
    core: &StreamCore,
    loop_: &Bound<'_, LoopCore>,
    payload: Payload,
) -> PyResult<*mut ffi::PyObject> {
    // SAFETY: `slf` is alive during the call.
    let transport = unsafe { Bound::from_borrowed_ptr(py, slf) };
    if !flush(&transport, core, loop_)? {
        return Ok(none());
    }
    if core.stream.queued() > 0 {
        return queue(py, slf, core, loop_, payload, 0);
    }
    hold_back(core, loop_, payload);
    Ok(none())
}

/// Sends what is held back, where it shows how much that is. Owner only.
#[cold]
fn send_held_back(
    py: Python<'_>,
    slf: *mut ffi::PyObject,
    core: &StreamCore,
    loop_: &Bound<'_, LoopCore>,
) -> PyResult<()> {
    // SAFETY: `slf` is alive during the call.
    let transport = unsafe { Bound::from_borrowed_ptr(py, slf) };
    if flush(&transport, core, loop_)? { tell_queued(&transport, core, loop_) } else { Ok(()) }
}

/// Whoever asks whether to go on writing is told of what is held back too: nothing above the high mark stays
/// so.
///
/// # Safety
/// `slf` is a live stream transport, and `core` its native half.
#[inline(always)]
pub(crate) unsafe fn before_drain(
    py: Python<'_>,
    slf: *mut ffi::PyObject,
    core: &StreamCore,
) -> PyResult<()> {
    if core.link().ending().is_corked() && core.link().pauses() {
        // SAFETY: by our caller's word.
        let loop_ = unsafe { loop_of(py, slf) };
        if loop_.get().event_loop.local.is_owner() {
            return send_held_back(py, slf, core, loop_);
        }
    }
    Ok(())
}

/// `is_closing`, as a C method. asyncio's `StreamWriter.drain` asks this first.
unsafe extern "C" fn is_closing(
    slf: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the descriptor has checked the type.
    unsafe {
        enter(slf, |py, core: &StreamCore| {
            before_drain(py, slf, core)?;
            Ok(boolean(core.link().ending().is_closing()))
        })
    }
}

/// `get_write_buffer_size`, as a C method: what the kernel takes of what is held back counts as sent.
unsafe extern "C" fn get_write_buffer_size(
    slf: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the descriptor has checked the type; a size fits.
    unsafe {
        enter(slf, |py, core: &StreamCore| {
            let loop_ = loop_of(py, slf);
            if core.link().ending().is_corked() && loop_.get().event_loop.local.is_owner() {
                send_held_back(py, slf, core, loop_)?;
            }
            Ok(ffi::PyLong_FromSize_t(core.link().queued()))
        })
    }
}

/// Queues data that are sent when the turn has read, or the batch has ended; others send them if the loop
/// gets stuck before.
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
    let stream = &core.stream;
    let was_queued = stream.state().bits().is_queued();
    drop(stream.enqueue(payload, 0));
    if was_queued {
        // Another thread may have written all that by now, and have found nothing more to do.
        schedule(loop_, slf, core.link(), stream.state().end_turn());
    } else {
        leave_to_helper(loop_, slf, stream);
    }
    // SAFETY: `slf` is alive during the call.
    let transport = unsafe { Bound::from_borrowed_ptr(py, slf) };
    tell_queued(&transport, core, loop_).map(|()| none())
}

/// Refuses to write: by an error, or in silence.
#[cold]
fn refuse(
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
