//! Facts about asyncio's `sslproto`: the slots of its classes, and the checks that both directions share.

use std::sync::OnceLock;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};

use crate::py::cpython::alloc;
use crate::py::cpython::names::intern;
use crate::py::cpython::object::{Ref, incref};
use crate::py::cpython::payload::bytes_of;
use crate::py::cpython::slots::{in_critical_section, slot};
use pyo3::types::PyString;
use std::ptr::NonNull;
use std::sync::atomic::AtomicPtr;
use std::sync::atomic::Ordering::Relaxed;

/// Where a protocol keeps what, in bytes from the start of the object.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) app_protocol: usize,
    pub(crate) app_protocol_buffer_updated: usize,
    pub(crate) app_protocol_get_buffer: usize,
    pub(crate) app_protocol_is_buffer: usize,
    pub(crate) app_reading_paused: usize,
    pub(crate) app_writing_paused: usize,
    pub(crate) incoming: usize,
    pub(crate) incoming_high_water: usize,
    pub(crate) loop_: usize,
    pub(crate) openssl: usize,
    pub(crate) outgoing: usize,
    pub(crate) outgoing_high_water: usize,
    pub(crate) ssl_reading_paused: usize,
    pub(crate) ssl_writing_paused: usize,
    pub(crate) state: usize,
    pub(crate) transport: usize,
    pub(crate) write_buffer_size: usize,
}

/// What is the same for all connections.
#[derive(Debug)]
pub(crate) struct TlsTypes {
    pub(crate) layout: Layout,
    pub(crate) protocol_type: Py<PyType>,
    /// Where a transport that a program sees keeps its protocol, and its loop.
    pub(crate) protocol: usize,
    pub(crate) loop_: usize,
    /// The state of a connection whose handshake is over.
    pub(crate) wrapped: Py<PyAny>,
    /// The exceptions by which OpenSSL asks for more.
    pub(crate) again: Py<PyTuple>,
    /// The most bytes that one read can bring.
    pub(crate) record: Py<PyAny>,
    pub(crate) zero: Py<PyAny>,
}

pub(crate) static KNOWN: OnceLock<TlsTypes> = OnceLock::new();

#[inline(always)]
pub(crate) fn known() -> &'static TlsTypes {
    debug_assert!(KNOWN.get().is_some());
    // SAFETY: the methods are installed after this was set, and are the only ones to ask.
    unsafe { KNOWN.get().unwrap_unchecked() }
}

/// Whether the slot at `offset` holds just that object.
///
/// # Safety
/// `object` is alive, and the offset is that of a slot of its class.
#[inline(always)]
pub(crate) unsafe fn holds(
    object: *mut ffi::PyObject,
    offset: usize,
    value: *mut ffi::PyObject,
) -> bool {
    // SAFETY: a slot is aligned, and other threads write it atomically.
    unsafe { AtomicPtr::from_ptr(slot(object, offset)).load(Relaxed) == value }
}

/// The objects in some slots, if all of them are set.
///
/// # Safety
/// `object` is alive, and the offsets are those of slots of its class.
#[inline(always)]
pub(crate) unsafe fn take<const N: usize>(
    _py: Python<'_>,
    object: *mut ffi::PyObject,
    offsets: [usize; N],
) -> Option<[Ref; N]> {
    let mut found = [std::ptr::null_mut(); N];
    // SAFETY: who replaces a slot holds the section; counting runs no Python.
    unsafe {
        in_critical_section(object, || {
            for (place, offset) in found.iter_mut().zip(offsets) {
                *place = *slot(object, offset);
                if !place.is_null() {
                    incref(*place);
                }
            }
        });
    }
    // SAFETY: each was counted above, for the reference that takes it over.
    unsafe {
        if found.iter().any(|each| each.is_null()) {
            drop(found.map(|each| NonNull::new(each).map(|each| Ref::from_owned(each))));
            return None;
        }
        Some(found.map(|each| Ref::from_owned(NonNull::new_unchecked(each))))
    }
}

/// Calls a method with two arguments at most.
#[inline(always)]
pub(crate) fn call<const N: usize>(
    py: Python<'_>,
    object: &Ref,
    method: &Bound<'_, PyString>,
    arguments: [*mut ffi::PyObject; N],
) -> PyResult<Ref> {
    const { assert!(N <= 2) };
    let mut argv = [std::ptr::null_mut(); 4];
    argv[1] = object.as_ptr();
    argv[2..2 + N].copy_from_slice(&arguments);
    // SAFETY: every object is alive during the call; `argv[0]` is the callee's to overwrite.
    unsafe {
        let result = ffi::PyObject_VectorcallMethod(
            method.as_ptr(),
            argv.as_mut_ptr().add(1),
            (1 + N) | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET,
            std::ptr::null_mut(),
        );
        Ref::from_owned_or_err(py, result)
    }
}

/// Whether a `ssl.MemoryBIO` is empty.
#[inline(always)]
pub(crate) fn is_empty(py: Python<'_>, memory: &Ref) -> PyResult<bool> {
    // SAFETY: the object is alive; the result is a new reference, or null with an exception.
    let pending = unsafe {
        let pending = ffi::PyObject_GetAttr(memory.as_ptr(), intern!(py, "pending").as_ptr());
        Ref::from_owned_or_err(py, pending)?
    };
    Ok(pending.as_ptr() == known().zero.as_ptr())
}

/// The error of a call of OpenSSL's, or `None` if it only asks for more.
#[cold]
pub(crate) fn unless_again(py: Python<'_>, error: PyErr) -> Option<PyErr> {
    (!error.matches(py, known().again.bind(py)).unwrap_or(false)).then_some(error)
}

/// The size of what OpenSSL's side returned. A program may have put another object in its place.
///
/// # Errors
/// `TypeError` if it returned no bytes object.
#[inline(always)]
pub(crate) fn length_of(py: Python<'_>, data: &Ref) -> PyResult<usize> {
    // SAFETY: a live object, whose type is checked first.
    unsafe {
        if ffi::PyBytes_Check(data.as_ptr()) != 0 {
            return Ok(bytes_of(data.as_ptr()).len());
        }
    }
    let class = data.as_py().bind(py).get_type().name()?;
    Err(alloc::type_error(py, format!("the TLS connection returned {class} instead of bytes")))
}

/// Whether nothing waits to be encrypted, and nobody was told not to write.
///
/// # Safety
/// `protocol` is alive and of our class.
#[inline(always)]
pub(crate) unsafe fn writes_at_once(protocol: *mut ffi::PyObject) -> bool {
    let TlsTypes { layout, zero, .. } = known();
    // SAFETY: by our caller's word; `False` is immortal.
    unsafe {
        holds(protocol, layout.write_buffer_size, zero.as_ptr())
            && holds(protocol, layout.app_writing_paused, ffi::Py_False())
            && !holds(protocol, layout.outgoing_high_water, zero.as_ptr())
    }
}

/// Ends the connection by an error, as asyncio's protocol does.
///
/// # Errors
/// The error itself if it ends the program, and what the exception handler lets through.
#[cold]
pub(crate) fn fail(protocol: &Bound<'_, PyAny>, error: PyErr) -> PyResult<()> {
    let py = protocol.py();
    protocol.call_method1(intern!(py, "_fail"), (error.into_value(py),)).map(drop)
}
