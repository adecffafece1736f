//! The TLS fast path from the transport to the program's protocol: see `tls_methods`.

use super::tls_connection::{Decrypted, TlsConnection, native};
use super::tls_types::{
    TlsTypes, call, fail, holds, is_empty, known, length_of, take, unless_again, writes_at_once,
};
use crate::py::cpython::alloc;
use crate::py::cpython::cfunc::{data_argument, raise};
use crate::py::cpython::error::{both, ends_the_program};
use crate::py::cpython::names::intern;
use crate::py::cpython::object::Ref;
use crate::py::cpython::payload::bytes_of;
use crate::py::event_loop::affinity::is_owner_of_slot;
use crate::py::transport::transport_methods::{copy_of, elsewhere, none};
use pyo3::ffi;
use pyo3::prelude::*;

pub(crate) unsafe extern "C" fn data_received(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    raise(|py| {
        // SAFETY: the descriptor has checked the type; the arguments are alive during the call.
        unsafe {
            let protocol = Bound::from_borrowed_ptr(py, slf);
            let data = data_argument(py, slf, (args, count, kwnames), "data_received")?;
            if !is_owner_of_slot(slf, known().layout.loop_) {
                let copy = copy_of(py, &Bound::from_borrowed_ptr(py, data))?;
                return elsewhere(py, slf, "data_received", &[&copy]);
            }
            receive(&protocol, data).map(|()| none())
        }
    })
}

/// Takes encrypted bytes, and hands on what they say.
///
/// # Safety
/// The protocol is of our class, and `data` alive.
#[inline(always)]
unsafe fn receive(protocol: &Bound<'_, PyAny>, data: *mut ffi::PyObject) -> PyResult<()> {
    let py = protocol.py();
    let TlsTypes { layout, wrapped, .. } = known();
    let slf = protocol.as_ptr();
    // SAFETY: by our caller's word; `False` is immortal.
    let usual = unsafe {
        let no = ffi::Py_False();
        let is_usual = holds(slf, layout.state, wrapped.as_ptr())
            && holds(slf, layout.app_reading_paused, no)
            && !holds(slf, layout.openssl, ffi::Py_None());
        let needed = [layout.incoming, layout.openssl, layout.outgoing];
        if is_usual { take(py, slf, needed) } else { None }
    };
    let Some([incoming, openssl, outgoing]) = usual else {
        // SAFETY: the data are alive during the call.
        let data = unsafe { Bound::from_borrowed_ptr(py, data) };
        protocol.call_method1(intern!(py, "_receive"), (data,))?;
        return Ok(());
    };
    // SAFETY: by our caller's word.
    let is_plain = unsafe { holds(slf, layout.app_protocol_is_buffer, ffi::Py_False()) };
    // SAFETY: the data are alive during the call.
    let plain = if is_plain { unsafe { natively(py, &openssl, &incoming, data)? } } else { None };
    let handed_on = if let Some((connection, bytes)) = plain {
        decrypt(protocol, connection, bytes)
    } else {
        drop(call(py, &incoming, intern!(py, "write"), [data])?);
        if is_plain {
            hand_on(protocol, &incoming, &openssl)
        } else {
            fill(protocol, &incoming, &openssl)
        }
    };
    let done = handed_on.and_then(|()| {
        // SAFETY: by our caller's word.
        if unsafe { is_settled(slf) } && is_empty(py, &outgoing)? && is_empty(py, &incoming)? {
            return Ok(());
        }
        protocol.call_method0(intern!(py, "_settle")).map(drop)
    });
    done.or_else(|error| fail(protocol, error))
}

/// The connection and the bytes, if it is one of the TLS layer's, and nothing that came earlier waits.
///
/// # Safety
/// `data` is alive for as long as the result is used.
#[inline(always)]
unsafe fn natively<'a>(
    py: Python<'a>,
    connection: &'a Ref,
    incoming: &Ref,
    data: *mut ffi::PyObject,
) -> PyResult<Option<(&'a TlsConnection, &'a [u8])>> {
    let Some(connection) = native(py, connection) else { return Ok(None) };
    // SAFETY: by our caller's word; the type is checked first.
    let bytes = unsafe { (ffi::PyBytes_CheckExact(data) != 0).then(|| bytes_of(data)) };
    let is_next = !connection.has_unread(py) && is_empty(py, incoming)?;
    Ok(bytes.filter(|_| is_next).map(|bytes| (connection, bytes)))
}

/// As [`hand_on`], of a connection of the TLS layer's.
#[inline(always)]
fn decrypt(protocol: &Bound<'_, PyAny>, connection: &TlsConnection, data: &[u8]) -> PyResult<()> {
    let py = protocol.py();
    let Decrypted { plaintext, is_end, error } = connection.decrypt(py, data)?;
    let mut told = Ok(());
    if let Some(plaintext) = plaintext {
        // SAFETY: the protocol is of our class.
        let app = unsafe { take(py, protocol.as_ptr(), [known().layout.app_protocol]) };
        let Some([app]) = app else { return Ok(()) };
        told = call(py, &app, intern!(py, "data_received"), [plaintext.as_ptr()]).map(drop);
    }
    match error {
        Some(error) => both(py, told, Err(error)),
        None => end(protocol, told, is_end),
    }
}

/// Decrypts what there is, and gives it to the program's protocol in one piece.
#[inline(always)]
fn hand_on(protocol: &Bound<'_, PyAny>, incoming: &Ref, openssl: &Ref) -> PyResult<()> {
    let py = protocol.py();
    let (read, record) = (intern!(py, "read"), known().record.as_ptr());
    let mut first = None;
    let mut others = Vec::new();
    let ended = loop {
        let chunk = match call(py, openssl, read, [record]) {
            Ok(chunk) => chunk,
            Err(error) => match unless_again(py, error) {
                Some(error) => return Err(error),
                None => break false,
            },
        };
        if length_of(py, &chunk)? == 0 {
            break true;
        }
        if first.is_none() {
            first = Some(chunk);
        } else {
            others.push(chunk);
        }
        // A read brings a record to its end, and OpenSSL reads no further: it would only raise.
        if !has_more(py, openssl, incoming)? {
            break false;
        }
    };
    let mut told = Ok(());
    if let Some(first) = first {
        let data = if others.is_empty() { first } else { joined(py, &first, &others)? };
        // SAFETY: the protocol is of our class.
        let app = unsafe { take(py, protocol.as_ptr(), [known().layout.app_protocol]) };
        let Some([app]) = app else { return Ok(()) };
        told = call(py, &app, intern!(py, "data_received"), [data.as_ptr()]).map(drop);
    }
    end(protocol, told, ended)
}

/// Goes on after the program's protocol was told: whatever it raised, an end is an end.
#[inline(always)]
fn end(protocol: &Bound<'_, PyAny>, told: PyResult<()>, ended: bool) -> PyResult<()> {
    if !ended {
        return told;
    }
    let py = protocol.py();
    let is_fatal = told.as_ref().is_err_and(|error| !ends_the_program(py, error));
    if is_fatal {
        return told;
    }
    both(py, told, protocol.call_method0(intern!(py, "_end")).map(drop))
}

/// Decrypts what there is into a buffer of the program's protocol.
fn fill(protocol: &Bound<'_, PyAny>, incoming: &Ref, openssl: &Ref) -> PyResult<()> {
    let py = protocol.py();
    let layout = &known().layout;
    let needed = [layout.app_protocol_get_buffer, layout.app_protocol_buffer_updated];
    // SAFETY: the protocol is of our class.
    let Some([get_buffer, updated]) = (unsafe { take(py, protocol.as_ptr(), needed) }) else {
        return Ok(());
    };
    let hint = incoming.as_py().bind(py).getattr(intern!(py, "pending"))?;
    let buffer = get_buffer.as_py().bind(py).call1((hint,))?;
    let wanted = buffer.len()?;
    if wanted == 0 {
        return Err(alloc::runtime_error(py, "get_buffer() returned an empty buffer"));
    }
    let mut offset = 0;
    let mut ended = false;
    loop {
        let rest = if offset == 0 { buffer.clone() } else { rest_of(&buffer, offset, wanted)? };
        let room = alloc::int(py, wanted - offset)?;
        let count = match call(py, openssl, intern!(py, "read"), [room.as_ptr(), rest.as_ptr()]) {
            Ok(count) => count.as_py().extract::<usize>(py)?,
            Err(error) => match unless_again(py, error) {
                Some(error) => return Err(error),
                None => break,
            },
        };
        offset += count;
        ended = count == 0;
        // A read that does not fill the buffer brings a record to its end.
        if ended || offset >= wanted || !has_more(py, openssl, incoming)? {
            break;
        }
    }
    drop(buffer);
    if offset >= wanted {
        protocol.call_method0(intern!(py, "_read_again"))?;
    }
    let told = if offset > 0 {
        updated.as_py().bind(py).call1((alloc::int(py, offset)?,)).map(drop)
    } else {
        Ok(())
    };
    end(protocol, told, ended)
}

/// Whether a further read may bring something.
#[inline(always)]
fn has_more(py: Python<'_>, connection: &Ref, incoming: &Ref) -> PyResult<bool> {
    // The TLS layer decrypts all that it is given, and so it may have come to the end.
    let is_unread = native(py, connection).is_some_and(|connection| connection.has_unread(py));
    Ok(is_unread || !is_empty(py, incoming)?)
}

/// A view of what is not yet filled of a buffer.
#[cold]
fn rest_of<'py>(
    buffer: &Bound<'py, PyAny>,
    offset: usize,
    wanted: usize,
) -> PyResult<Bound<'py, PyAny>> {
    alloc::view_of(buffer, offset, wanted)
}

/// One bytes object of several, all of which are bytes objects.
#[cold]
fn joined(py: Python<'_>, first: &Ref, others: &[Ref]) -> PyResult<Ref> {
    let all: Vec<_> = std::iter::once(first).chain(others).map(Ref::as_py).collect();
    let empty = alloc::bytes(py, b"")?;
    Ok(empty.call_method1(intern!(py, "join"), (alloc::list(py, &all)?,))?.into())
}

/// Whether nobody has to be told to pause or to go on, as long as nothing waits in memory.
///
/// # Safety
/// `protocol` is alive and of our class.
#[inline(always)]
unsafe fn is_settled(protocol: *mut ffi::PyObject) -> bool {
    let layout = &known().layout;
    // SAFETY: by our caller's word; `False` is immortal.
    unsafe {
        holds(protocol, layout.ssl_reading_paused, ffi::Py_False())
            && !holds(protocol, layout.incoming_high_water, known().zero.as_ptr())
            && writes_at_once(protocol)
    }
}
