//! The short way of TLS: what happens for each message when nothing is unusual, without a Python
//! frame of asyncio's between the transport, OpenSSL and the program.
//!
//! In: encrypted bytes of a native transport (`data_received`), content of a program (`write`). Out:
//! content to the program's protocol, encrypted bytes to the transport below, by Python's own `_ssl`.
//! The classes are those of `python/loop_pool/_tls.py`, which inherit asyncio's. Whatever is unusual
//! is left to methods of theirs: this module decides nothing that asyncio's protocol decides.
//!
//! What is usual is read off slots, by the identity of their values: the state that means "the
//! handshake is over", `False`, and the number zero, each of which is one object for the whole
//! process. So looking needs no reference and cannot fail.
//!
//! Threads: OpenSSL's memory is one thread's at a time, and its locks are Python's, which do not cover
//! what two objects share. So each function asks first whether the calling thread owns the loop, and
//! leaves what it may not do to `_elsewhere` of `python/loop_pool/_thread_affinity.py`.

use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyInt, PyMemoryView, PyString, PyTuple, PyType};

use super::affinity::is_owner_of_slot;
use super::alloc;
use super::arguments::{Arguments, fast_def, method_def, raise};
use super::handle::{in_critical_section, slot};
use super::hot::add_methods;
use super::names::intern;
use super::object::{Ref, incref};
use super::payload::{Borrowed, bytes_of};
use super::state::slot_offset;
use super::tls_receive::data_received;
use super::transport_methods::{copy_of, elsewhere, none};

/// Where a protocol keeps what, in bytes from the start of the object.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) app_protocol: usize,
    pub(super) app_protocol_buffer_updated: usize,
    pub(super) app_protocol_get_buffer: usize,
    pub(super) app_protocol_is_buffer: usize,
    pub(super) app_reading_paused: usize,
    pub(super) app_writing_paused: usize,
    pub(super) incoming: usize,
    pub(super) incoming_high_water: usize,
    pub(super) loop_: usize,
    pub(super) openssl: usize,
    pub(super) outgoing: usize,
    pub(super) outgoing_high_water: usize,
    pub(super) ssl_reading_paused: usize,
    pub(super) ssl_writing_paused: usize,
    pub(super) state: usize,
    pub(super) transport: usize,
    pub(super) write_buffer_size: usize,
}

/// What is the same for all connections.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) layout: Layout,
    pub(super) protocol_type: Py<PyType>,
    /// Where a transport that a program sees keeps its protocol, and its loop.
    pub(super) protocol: usize,
    pub(super) loop_: usize,
    /// The state of a connection whose handshake is over.
    pub(super) wrapped: Py<PyAny>,
    /// The exceptions by which OpenSSL asks for more.
    pub(super) again: Py<PyTuple>,
    /// The most bytes that one read can bring.
    pub(super) record: Py<PyAny>,
    pub(super) zero: Py<PyAny>,
}

static KNOWN: OnceLock<Known> = OnceLock::new();

#[inline(always)]
pub(super) fn known() -> &'static Known {
    debug_assert!(KNOWN.get().is_some());
    // SAFETY: the methods are installed after this was set, and are the only ones to ask.
    unsafe { KNOWN.get().unwrap_unchecked() }
}

/// Adds the native methods to the class of TLS protocols and to that of the transports over them.
///
/// # Errors
/// `ImportError` if the attributes of which they read are no slots.
#[pyfunction]
#[pyo3(name = "_install_tls_methods", signature = (protocol, transport, wrapped, again, record, /))]
pub(super) fn install(
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
    KNOWN.get_or_init(|| Known {
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

/// Whether the slot at `offset` holds just that object.
///
/// # Safety
/// `object` is alive, and the offset is that of a slot of its class.
#[inline(always)]
pub(super) unsafe fn holds(
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
pub(super) unsafe fn take<const N: usize>(
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
pub(super) fn call<const N: usize>(
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
pub(super) fn is_empty(py: Python<'_>, memory: &Ref) -> PyResult<bool> {
    // SAFETY: the object is alive; the result is a new reference, or null with an exception.
    let pending = unsafe {
        let pending = ffi::PyObject_GetAttr(memory.as_ptr(), intern!(py, "pending").as_ptr());
        Ref::from_owned_or_err(py, pending)?
    };
    Ok(pending.as_ptr() == known().zero.as_ptr())
}

/// The error of a call of OpenSSL's, or `None` if it only asks for more.
#[cold]
pub(super) fn unless_again(py: Python<'_>, error: PyErr) -> Option<PyErr> {
    (!error.matches(py, known().again.bind(py)).unwrap_or(false)).then_some(error)
}

/// The size of what OpenSSL's side returned. A program may have put another object in its place.
///
/// # Errors
/// `TypeError` if it returned no bytes object.
#[inline(always)]
pub(super) fn length_of(py: Python<'_>, data: &Ref) -> PyResult<usize> {
    // SAFETY: a live object, whose type is checked first.
    unsafe {
        if ffi::PyBytes_Check(data.as_ptr()) != 0 {
            return Ok(bytes_of(data.as_ptr()).len());
        }
    }
    let class = data.as_py().bind(py).get_type().name()?;
    Err(alloc::type_error(py, format!("the TLS connection returned no bytes, but {class}")))
}

/// Whether nothing waits to be encrypted, and nobody was told not to write.
///
/// # Safety
/// `protocol` is alive and of our class.
#[inline(always)]
pub(super) unsafe fn writes_at_once(protocol: *mut ffi::PyObject) -> bool {
    let Known { layout, zero, .. } = known();
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
pub(super) fn fail(protocol: &Bound<'_, PyAny>, error: PyErr) -> PyResult<()> {
    let py = protocol.py();
    protocol.call_method1(intern!(py, "_fail"), (error.into_value(py),)).map(drop)
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
            let data = if count == 1 && kwnames.is_null() {
                *args
            } else {
                let all = Arguments::new(args, count, kwnames);
                all.named(&transport, "write", ["data"], 1)?[0]
            };
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
    if data.is_instance_of::<PyBytes>()
        || data.is_instance_of::<PyByteArray>()
        || data.is_instance_of::<PyMemoryView>()
    {
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
            let lent = Borrowed::new(&Bound::from_borrowed_ptr(py, data), false);
            lent.map_or(0, |lent| lent.bytes().len())
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
    let Known { layout, wrapped, protocol, protocol_type, .. } = known();
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
    let lent = Borrowed::new(data, false)?;
    let rest = alloc::bytes(py, lent.bytes().get(written..).unwrap_or_default())?;
    drop(lent);
    transport.call_method1(intern!(py, "_write_otherwise"), (rest,)).map(drop)
}
