//! `write` of a stream transport whose bytes pass a filter, and the beginning of its end.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::layout::{learn, loop_of};
use super::stream::StreamCore;
use super::stream_methods::{leave_queued, may_be_written, refuse, send_queued, write_copy};
use super::stream_turn::write_failed;
use super::transport_core::{NativeTransport, keep_as_needed, schedule};
use super::transport_methods::{boolean, copy_of, elsewhere, enter, none};
use crate::py::cpython::alloc;
use crate::py::cpython::attach::lock_attached;
use crate::py::cpython::cfunc::{add_methods, data_argument, fast_def, method_def};
use crate::py::cpython::payload::{Borrowed, bytes_of};
use crate::py::event_loop::core::LoopCore;
use crate::transport::{Passage, Refusal, SendChoice, Source, WriteChoice, WriteOutcome};

/// Adds `write` and `_shut` through a filter to a class of transports that all have one.
///
/// # Errors
/// `ImportError` if its slots are not where those of the other transport classes are.
#[pyfunction]
#[pyo3(name = "_install_filtered_methods")]
pub(crate) fn install(class: &Bound<'_, PyType>) -> PyResult<()> {
    learn(class)?;
    let methods = vec![
        fast_def(
            c"write",
            write,
            c"write($self, /, data)\n--\n\nWrite bytes, a bytearray or a memoryview.\n\n\
              They are encrypted at once; what the kernel does not take of that is queued. As \
              asyncio.WriteTransport.write.",
        ),
        method_def(
            c"_shut",
            shut,
            c"_shut($self, /)\n--\n\nSay to the peer that no more is sent; drop what comes from now on.\
              \n\nReturn None if it was closing already; whether the peer has said the same before.",
        ),
    ];
    add_methods(class, methods)
}

unsafe extern "C" fn write(
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
            let data = Bound::ref_from_ptr(py, &data);
            if ffi::PyBytes_CheckExact(data.as_ptr()) != 0 {
                write_bytes(slf, core, loop_, data, bytes_of(data.as_ptr()))
            } else {
                write_other(slf, core, loop_, data)
            }
        })
    }
}

/// Writes what may change when the call is over.
#[cold]
fn write_other(
    slf: *mut ffi::PyObject,
    core: &StreamCore,
    loop_: &Bound<'_, LoopCore>,
    data: &Bound<'_, PyAny>,
) -> PyResult<*mut ffi::PyObject> {
    let py = loop_.py();
    if !may_be_written(data) {
        let class = data.get_type().name()?;
        let said = format!("data: expecting a bytes-like instance, got {class}");
        return Err(alloc::type_error(py, said));
    }
    // A view with gaps cannot be borrowed: a copy has none.
    let Ok(borrowed) = Borrowed::new(data, false) else { return write_copy(py, slf, data) };
    write_bytes(slf, core, loop_, data, borrowed.bytes())
}

/// Writes the bytes of an object.
///
/// `slf`: the transport, which is alive during the call.
fn write_bytes(
    slf: *mut ffi::PyObject,
    core: &StreamCore,
    loop_: &Bound<'_, LoopCore>,
    object: &Bound<'_, PyAny>,
    data: &[u8],
) -> PyResult<*mut ffi::PyObject> {
    let py = loop_.py();
    let (stream, event_loop) = (&core.stream, &loop_.get().event_loop);
    if !event_loop.local.is_owner() {
        return elsewhere(py, slf, "write", &[&copy_of(py, object)?]);
    }
    let helped = match core.link().choose_write(data.len(), || loop_.get().flags.is_behind()) {
        WriteChoice::Send(choice) => choice == SendChoice::QueueForHelper,
        WriteChoice::HoldBack => false,
        WriteChoice::Nothing => return Ok(none()),
        WriteChoice::Refuse(refusal) => return refuse(py, slf, refusal),
    };
    if !stream.is_open() {
        return refuse(py, slf, Refusal::Dropped);
    }
    let was_queued = stream.state().bits().is_queued();
    let wrote = write_pieces(py, core, data, helped);
    let (Ok(WriteOutcome { sent, .. }) | Err((WriteOutcome { sent, .. }, _))) = &wrote;
    event_loop.metrics().bytes_out.add(*sent as u64);
    match wrote {
        Ok(WriteOutcome { queued: false, .. }) => Ok(none()),
        Ok(_) if helped => leave_queued(py, slf, core, loop_, was_queued),
        Ok(_) => send_queued(py, slf, core, loop_),
        Err((_, error)) => {
            // SAFETY: `slf` is alive during the call.
            let transport = unsafe { Bound::from_borrowed_ptr(py, slf) };
            write_failed(&transport, &error).map(|()| none())
        }
    }
}

/// Writes all of the data, piece by piece. In between the lock is free for who reads.
fn write_pieces(
    py: Python<'_>,
    core: &StreamCore,
    mut data: &[u8],
    helped: bool,
) -> Result<WriteOutcome, (WriteOutcome, std::io::Error)> {
    let stream = &core.stream;
    let mut all = WriteOutcome::default();
    while let Some(filter) = stream.filter()
        && !data.is_empty()
    {
        let wrote = Passage::with(|passage| {
            let mut filter = lock_attached(py, filter);
            stream.write_through(&mut filter, data, helped, &mut passage.ciphertext)
        });
        match wrote {
            Ok(wrote) => {
                data = &data[wrote.taken..];
                all.taken += wrote.taken;
                all.sent += wrote.sent;
                all.queued |= wrote.queued;
                if wrote.taken == 0 {
                    break;
                }
            }
            Err(error) => return Err((all, error)),
        }
    }
    Ok(all)
}

unsafe extern "C" fn shut(slf: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the descriptor has checked the type.
    unsafe {
        enter(slf, |py, core: &StreamCore| {
            let loop_ = loop_of(py, slf);
            let transport = Bound::from_borrowed_ptr(py, slf);
            let shut = begin_end(&transport, core, loop_)?;
            // The peer's word is to be read, whether the program wants data or not.
            schedule(loop_, slf, core.link(), core.link().state().resume());
            keep_as_needed(core, loop_, &transport)?;
            Ok(shut.map_or_else(none, boolean))
        })
    }
}

/// Says that no more is sent, and lets what comes be dropped from now on. `None` if the transport is closing
/// already; whether the peer has said the same before.
///
/// # Errors
/// Those of the kernel, after which the connection is to be ended.
fn begin_end(
    slf: &Bound<'_, PyAny>,
    core: &StreamCore,
    loop_: &Bound<'_, LoopCore>,
) -> PyResult<Option<bool>> {
    let (py, stream) = (loop_.py(), &core.stream);
    let Some(filter) = stream.filter() else { return Ok(None) };
    if !core.link().ending().shut() {
        return Ok(None);
    }
    if stream.state().bits().is_dead() {
        // In a forked child: the keys are the parent's, and so is the last word.
        return Ok(Some(true));
    }
    let shut = Passage::with(|passage| {
        let mut locked = lock_attached(py, filter);
        if stream.state().bits().is_read_closed() && !locked.filter().is_peer_closed() {
            // As in asyncio, a peer that has ended without a word hears none.
            return Ok((WriteOutcome::default(), true));
        }
        stream.shut_through(&mut locked, &mut passage.ciphertext)
    });
    let (wrote, is_peer_closed) = match shut {
        Ok(shut) => shut,
        Err(error) => return write_failed(slf, &error).map(|()| None),
    };
    loop_.get().event_loop.metrics().bytes_out.add(wrote.sent as u64);
    if wrote.queued {
        send_queued(py, slf.as_ptr(), core, loop_)?;
    }
    Ok(Some(is_peer_closed))
}
