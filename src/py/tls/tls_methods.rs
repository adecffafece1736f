//! The TLS fast path: passes messages between transport, OpenSSL and program without a Python frame of
//! asyncio.
//!
//! In: encrypted bytes of a native transport (`data_received`), data of a program (`write`). Out: data for
//! the program's protocol, encrypted bytes for the transport below, through Python's own `_ssl`. The
//! classes are those of `python/loop_pool/_loop/tls.py`, which inherit from asyncio's.
//!
//! Must never: decide anything that asyncio's protocol decides; unusual cases are left to its methods.

// The ordinary state is read from slots by the identity of their values: the state after the handshake, `False`,
// and the number zero, each of which is a single object in the process. So the check needs no reference and cannot
// fail.
//
// Threads: OpenSSL's objects may be used by one thread at a time, and their locks are Python's, which do not cover
// what two objects share. So each function first checks whether the calling thread owns the loop, and otherwise
// passes the call to `_elsewhere` of `python/loop_pool/_loop/thread_affinity.py`.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyInt, PyTuple, PyType};

use super::tls_connection::{TlsConnection, native};
use super::tls_receive::data_received;
use super::tls_types::{
    KNOWN, Layout, TlsTypes, call, fail, holds, is_empty, known, length_of, take, unless_again,
    writes_at_once,
};
use crate::py::cpython::alloc;
use crate::py::cpython::cfunc::{add_methods, data_argument, fast_def, method_def, raise};
use crate::py::cpython::names::intern;
use crate::py::cpython::object::Ref;
use crate::py::cpython::payload::{Borrowed, bytes_of};
use crate::py::cpython::slots::slot_offset;
use crate::py::event_loop::affinity::is_owner_of_slot;
use crate::py::transport::stream_methods::may_be_written;
use crate::py::transport::transport_methods::{copy_of, elsewhere, none};

/// Adds the native methods to the class of TLS protocols and to that of the transports over them.
///
/// # Errors
/// `ImportError` if the attributes of which they read are no slots.
#[pyfunction]
#[pyo3(name = "_install_tls_methods", signature = (protocol, transport, wrapped, again, record, /))]
pub(crate) fn install(
    protocol: &Bound<'_, PyType>,
    transport: &Bound<'_, PyType>,
    wrapped: Bound<'_, PyAny>,
    again: Bound<'_, PyTuple>,
    record: Bound<'_, PyInt>,
) -> PyResult<()> {
    let py = protocol.py();
    let at = |name: &str| slot_offset(protocol, name);
    let layout = Layout {
        app_protocol: at("_app_protocol")?,
        app_protocol_buffer_updated: at("_app_protocol_buffer_updated")?,
        app_protocol_get_buffer: at("_app_protocol_get_buffer")?,
        app_protocol_is_buffer: at("_app_protocol_is_buffer")?,
        app_reading_paused: at("_app_reading_paused")?,
        app_writing_paused: at("_app_writing_paused")?,
        incoming: at("_incoming")?,
        incoming_high_water: at("_incoming_high_water")?,
        loop_: at("_loop")?,
        openssl: at("_openssl")?,
        outgoing: at("_outgoing")?,
        outgoing_high_water: at("_outgoing_high_water")?,
        ssl_reading_paused: at("_ssl_reading_paused")?,
        ssl_writing_paused: at("_ssl_writing_paused")?,
        state: at("_state")?,
        transport: at("_transport")?,
        write_buffer_size: at("_write_buffer_size")?,
    };
    let in_transport = slot_offset(transport, "_ssl_protocol")?;
    let loop_ = slot_offset(transport, "_loop")?;
    let zero = alloc::int(py, 0)?.into_any().unbind();
    KNOWN.get_or_init(|| TlsTypes {
        layout,
        protocol_type: protocol.clone().unbind(),
        protocol: in_transport,
        loop_,
        wrapped: wrapped.unbind(),
        again: again.unbind(),
        record: record.into_any().unbind(),
        zero,
    });
    add_methods(
        protocol,
        vec![
            fast_def(
                c"data_received",
                data_received,
                c"data_received($self, /, data)\n--\n\n\
                  Take encrypted bytes of the transport below.",
            ),
            method_def(
                c"_process_outgoing",
                process_outgoing,
                c"_process_outgoing($self, /)\n--\n\n\
                  Give the transport below what is encrypted.",
            ),
        ],
    )?;
    add_methods(
        transport,
        vec![fast_def(
            c"write",
            write,
            c"write($self, /, data)\n--\n\nWrite bytes, a bytearray or a memoryview.\n\n\
              As asyncio.WriteTransport.write: they are encrypted at once.",
        )],
    )
}

unsafe extern "C" fn write(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    raise(|py| {
        // SAFETY: the descriptor has checked the type; the arguments are alive during the call.
        unsafe {
            let transport = Bound::from_borrowed_ptr(py, slf);
            let data = data_argument(py, slf, (args, count, kwnames), "write")?;
            if !is_owner_of_slot(slf, known().loop_) {
                return write_elsewhere(&transport, &Bound::from_borrowed_ptr(py, data));
            }
            let written = encrypt(&transport, data, length(py, data))?;
            if !written {
                let data = Bound::from_borrowed_ptr(py, data);
                transport.call_method1(intern!(py, "_write_otherwise"), (data,))?;
            }
            Ok(none())
        }
    })
}

/// Hands on what another thread than the loop's writes, as bytes that nobody can change meanwhile.
#[cold]
fn write_elsewhere(
    transport: &Bound<'_, PyAny>,
    data: &Bound<'_, PyAny>,
) -> PyResult<*mut ffi::PyObject> {
    let py = transport.py();
    if may_be_written(data) {
        let copy = copy_of(py, data)?;
        return elsewhere(py, transport.as_ptr(), "write", &[&copy]);
    }
    // It says what is wrong with them, and does nothing else.
    transport.call_method1(intern!(py, "_write_otherwise"), (data,))?;
    Ok(none())
}

/// The bytes in what a program writes; none if it is not to be written as it is.
///
/// # Safety
/// `data` is alive.
#[inline(always)]
unsafe fn length(py: Python<'_>, data: *mut ffi::PyObject) -> usize {
    // SAFETY: by our caller's word.
    unsafe {
        if ffi::PyBytes_CheckExact(data) != 0 {
            bytes_of(data).len()
        } else if ffi::PyByteArray_CheckExact(data) != 0 || ffi::PyMemoryView_Check(data) != 0 {
            let borrowed = Borrowed::new(&Bound::from_borrowed_ptr(py, data), false);
            borrowed.map_or(0, |borrowed| borrowed.bytes().len())
        } else {
            0
        }
    }
}

/// Encrypts data and gives them to the transport below; says whether it did, or nothing at all.
///
/// # Safety
/// `transport` is of our class; `data` is alive and holds that many bytes.
#[inline(always)]
unsafe fn encrypt(
    transport: &Bound<'_, PyAny>,
    data: *mut ffi::PyObject,
    length: usize,
) -> PyResult<bool> {
    let py = transport.py();
    let TlsTypes { layout, wrapped, protocol, protocol_type, .. } = known();
    // SAFETY: by our caller's word. The protocol may be anything: a program can replace it.
    let (protocol, openssl, outgoing, below) = unsafe {
        let Some([protocol]) = take(py, transport.as_ptr(), [*protocol]) else { return Ok(false) };
        let slf = protocol.as_ptr();
        let is_usual = length > 0
            && ffi::Py_TYPE(slf) == protocol_type.as_ptr().cast()
            && holds(slf, layout.state, wrapped.as_ptr())
            && holds(slf, layout.ssl_writing_paused, ffi::Py_False())
            && !holds(slf, layout.openssl, ffi::Py_None())
            && writes_at_once(slf);
        if !is_usual {
            return Ok(false);
        }
        let needed = [layout.openssl, layout.outgoing, layout.transport];
        let Some([openssl, outgoing, below]) = take(py, slf, needed) else { return Ok(false) };
        (protocol, openssl, outgoing, below)
    };
    if let Some(connection) = native(py, &openssl)
        && is_empty(py, &outgoing)?
    {
        // SAFETY: the data are alive during the call.
        let data = unsafe { Bound::from_borrowed_ptr(py, data) };
        return encrypt_natively(transport, connection, [&protocol, &below], &data, length);
    }
    let done = call(py, &openssl, intern!(py, "write"), [data]);
    let count = match done {
        Ok(count) => count,
        Err(error) => match unless_again(py, error) {
            Some(error) => return fail(protocol.as_py().bind(py), error).map(|()| true),
            None => return Ok(false),
        },
    };
    let count = count.as_py().extract::<usize>(py)?;
    let sent = send(py, &outgoing, &below);
    if let Err(error) = sent {
        fail(protocol.as_py().bind(py), error)?;
    } else if count < length {
        // SAFETY: the data are alive during the call.
        let data = unsafe { Bound::from_borrowed_ptr(py, data) };
        write_rest(transport, &data, count)?;
    }
    Ok(true)
}

/// As [`encrypt`], by a connection of the TLS layer's.
#[inline(always)]
fn encrypt_natively(
    transport: &Bound<'_, PyAny>,
    connection: &TlsConnection,
    [protocol, below]: [&Ref; 2],
    data: &Bound<'_, PyAny>,
    length: usize,
) -> PyResult<bool> {
    let py = transport.py();
    let send = |records: Bound<'_, PyBytes>| {
        call(py, below, intern!(py, "write"), [records.as_ptr()]).map(drop)
    };
    let done = if let Ok(bytes) = data.cast_exact::<PyBytes>() {
        connection.encrypt(py, bytes.as_bytes(), send)
    } else {
        let lent = Borrowed::new(data, false)?;
        connection.encrypt(py, lent.bytes(), send)
    };
    match done {
        Ok(0) => Ok(false),
        Ok(count) => {
            if count < length {
                write_rest(transport, data, count)?;
            }
            Ok(true)
        }
        Err(error) => fail(protocol.as_py().bind(py), error).map(|()| true),
    }
}

/// Gives what is encrypted to the transport below.
#[inline(always)]
fn send(py: Python<'_>, outgoing: &Ref, below: &Ref) -> PyResult<()> {
    let bytes = call(py, outgoing, intern!(py, "read"), [])?;
    if length_of(py, &bytes)? > 0 {
        drop(call(py, below, intern!(py, "write"), [bytes.as_ptr()])?);
    }
    Ok(())
}

unsafe extern "C" fn process_outgoing(
    slf: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    raise(|py| {
        let layout = &known().layout;
        // SAFETY: the descriptor has checked the type.
        unsafe {
            if !is_owner_of_slot(slf, layout.loop_) {
                return elsewhere(py, slf, "_process_outgoing", &[]);
            }
            let at_once =
                holds(slf, layout.ssl_writing_paused, ffi::Py_False()) && writes_at_once(slf);
            let needed = [layout.outgoing, layout.transport];
            if at_once && let Some([outgoing, below]) = take(py, slf, needed) {
                send(py, &outgoing, &below)?;
            } else {
                let protocol = Bound::from_borrowed_ptr(py, slf);
                protocol.call_method0(intern!(py, "_process_outgoing_otherwise"))?;
            }
        }
        Ok(none())
    })
}

/// Writes what OpenSSL left of the data.
#[cold]
fn write_rest(
    transport: &Bound<'_, PyAny>,
    data: &Bound<'_, PyAny>,
    written: usize,
) -> PyResult<()> {
    let py = transport.py();
    let borrowed = Borrowed::new(data, false)?;
    let rest = alloc::bytes(py, borrowed.bytes().get(written..).unwrap_or_default())?;
    drop(borrowed);
    transport.call_method1(intern!(py, "_write_otherwise"), (rest,)).map(drop)
}
