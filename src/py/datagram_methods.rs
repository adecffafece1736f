//! `sendto`, which a program calls on a datagram transport for each message.

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView, PyString, PyTuple, PyType};

use super::arguments::{Arguments, fast_def};
use super::core::LoopCore;
use super::datagram::{DatagramCore, size_of};
use super::hot::add_methods;
use super::io::os_error;
use super::object::Ref;
use super::payload::Payload;
use super::transport::{learn, loop_of};
use super::transport_core::{Half, LOST};
use super::transport_methods::{
    self, copy_of, elsewhere, enter, is_here, leave_to_helper, none, pause_if_above, schedule,
};
use crate::transport::{Buffer, Target};

/// Adds the methods to the datagram transport class.
///
/// # Errors
/// `ImportError` if its slots are not where those of the other transport classes are.
#[pyfunction]
#[pyo3(name = "_install_datagram_methods", signature = (class, /))]
pub(super) fn install(class: &Bound<'_, PyType>) -> PyResult<()> {
    learn(class)?;
    let mut methods = transport_methods::common::<DatagramCore>();
    methods.extend(transport_methods::reading::<DatagramCore>());
    methods.push(transport_methods::writing::<DatagramCore>());
    methods.push(fast_def(
        c"sendto",
        sendto,
        c"sendto($self, /, data, addr=None)\n--\n\nSend a datagram, an empty one too.\n\n\
          What the kernel does not take at once is queued: bytes by reference, anything else as a \
          copy. As asyncio.DatagramTransport.sendto.",
    ));
    add_methods(class, methods)
}

unsafe extern "C" fn sendto(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the descriptor has checked the type; the arguments are alive during the call.
    unsafe {
        enter(slf, |py, core: &DatagramCore| {
            let arguments = Arguments::new(args, count, kwnames);
            let (data, address) = match *arguments.positional {
                [data] if kwnames.is_null() => (data, ffi::Py_None()),
                [data, address] if kwnames.is_null() => (data, address),
                _ => with_keywords(py, &arguments)?,
            };
            let data = Bound::from_borrowed_ptr(py, data);
            let address = Bound::from_borrowed_ptr(py, address);
            let transport = Bound::from_borrowed_ptr(py, slf);
            let address = (!address.is_none()).then_some(&address);
            send(&transport, core, loop_of(py, slf), &data, address)?;
            Ok(none())
        })
    }
}

/// The seldom forms: arguments by keyword, too few or too many.
///
/// # Safety
/// The arguments are those of a vectorcall.
#[cold]
unsafe fn with_keywords(
    py: Python<'_>,
    arguments: &Arguments<'_>,
) -> PyResult<(*mut ffi::PyObject, *mut ffi::PyObject)> {
    let mut found = [std::ptr::null_mut(); 2];
    let given = arguments.positional.len();
    if given > found.len() {
        let text = format!("sendto() takes 1 or 2 arguments but {given} were given");
        return Err(PyTypeError::new_err(text));
    }
    found[..given].copy_from_slice(arguments.positional);
    if !arguments.kwnames.is_null() {
        // SAFETY: it is a tuple of strings.
        let names: Bound<'_, PyTuple> =
            unsafe { Bound::from_borrowed_ptr(py, arguments.kwnames).cast_into_unchecked() };
        for (index, name) in names.iter().enumerate() {
            let name = name.cast_into::<PyString>()?;
            let place = match name.to_str()? {
                "data" => 0,
                "addr" => 1,
                other => {
                    let text = format!("sendto() got an unexpected keyword argument '{other}'");
                    return Err(PyTypeError::new_err(text));
                }
            };
            if !found[place].is_null() {
                let text = format!("sendto() got multiple values for argument '{name}'");
                return Err(PyTypeError::new_err(text));
            }
            // SAFETY: the values of the keywords follow the positional arguments.
            found[place] = unsafe { *arguments.values.add(index) };
        }
    }
    match found {
        [data, _] if data.is_null() => {
            Err(PyTypeError::new_err("sendto() missing 1 required positional argument: 'data'"))
        }
        // SAFETY: immortal.
        [data, address] if address.is_null() => Ok((data, unsafe { ffi::Py_None() })),
        [data, address] => Ok((data, address)),
    }
}

/// The data as they can be queued: bytes by reference, anything else as a copy.
fn payload_of(py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<Payload> {
    if data.is_exact_instance_of::<PyBytes>() {
        return Ok(Payload::Bytes(Ref::from(data.clone())));
    }
    if data.is_instance_of::<PyBytes>()
        || data.is_instance_of::<PyByteArray>()
        || data.is_instance_of::<PyMemoryView>()
    {
        return Ok(Payload::Bytes(Ref::from(copy_of(py, data)?)));
    }
    Err(PyTypeError::new_err(format!(
        "data argument must be a bytes-like object, not {}",
        data.get_type().name()?.repr()?
    )))
}

fn send(
    transport: &Bound<'_, PyAny>,
    core: &DatagramCore,
    loop_: &Bound<'_, LoopCore>,
    data: &Bound<'_, PyAny>,
    address: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let py = transport.py();
    let payload = payload_of(py, data)?;
    if !is_here(loop_.get()) {
        let copy = match &payload {
            Payload::Bytes(object) => object.as_py().bind(py).clone(),
            Payload::Copy(bytes) => PyBytes::new(py, bytes).into_any(),
        };
        let none = py.None().into_bound(py);
        let arguments = [&copy, address.unwrap_or(&none)];
        return elsewhere(py, transport.as_ptr(), "sendto", &arguments).map(drop);
    }
    if core.has_address()
        && let Some(address) = address
    {
        transport.call_method1(intern!(py, "_check_address"), (address,))?;
    }
    let state = core.link().state();
    if core.common().has(LOST) && (core.has_address() || state.bits().is_dead()) {
        transport.call_method0(intern!(py, "_lost_write"))?;
        return Ok(());
    }
    let target = core.target(address);
    if target == Target::Owner {
        transport.call_method1(intern!(py, "_send_itself"), (data, address))?;
        return Ok(());
    }
    if loop_.get().is_behind() {
        return queue_for_helper(transport, core, loop_, payload, target);
    }
    if !state.bits().is_queued() {
        match core.datagrams.send(payload.bytes(), &target) {
            Ok(()) => {
                loop_.get().event_loop.metrics().bytes_out.add(size_of(&payload));
                return Ok(());
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return failed(transport, &error),
        }
    }
    queue(transport, core, loop_, payload, target)
}

/// Tells the protocol at once, as asyncio does: whatever it raises is the caller's.
#[cold]
fn failed(transport: &Bound<'_, PyAny>, error: &std::io::Error) -> PyResult<()> {
    let py = transport.py();
    let error = os_error(py, error).into_value(py);
    transport.call_method1(intern!(py, "_send_failed"), (error,))?;
    Ok(())
}

/// Queues what the kernel did not take, and asks to be told when it has room.
#[cold]
fn queue(
    transport: &Bound<'_, PyAny>,
    core: &DatagramCore,
    loop_: &Bound<'_, LoopCore>,
    payload: Payload,
    target: Target,
) -> PyResult<()> {
    let datagrams = &core.datagrams;
    let event_loop = &loop_.get().event_loop;
    drop(datagrams.enqueue(payload, target));
    if let Some(delivered) = datagrams.flush(&**event_loop.shared()) {
        event_loop.metrics().bytes_out.add(delivered.bytes);
        drop(delivered.spent);
        schedule(loop_, transport.as_ptr(), datagrams.state().end_turn());
        for error in &delivered.failures {
            failed(transport, error)?;
        }
    }
    if core.waits_untold() {
        transport.call_method0(intern!(transport.py(), "_retry_later"))?;
    }
    pause_if_above(loop_, transport, core)?;
    schedule(loop_, transport.as_ptr(), core.common().look_below(core.link()));
    Ok(())
}

/// Queues a datagram without trying to send it.
#[cold]
fn queue_for_helper(
    transport: &Bound<'_, PyAny>,
    core: &DatagramCore,
    loop_: &Bound<'_, LoopCore>,
    payload: Payload,
    target: Target,
) -> PyResult<()> {
    let was_queued = core.link().state().bits().is_queued();
    drop(core.datagrams.enqueue(payload, target));
    if !was_queued {
        leave_to_helper(loop_, transport.as_ptr(), &core.datagrams);
    }
    pause_if_above(loop_, transport, core)?;
    schedule(loop_, transport.as_ptr(), core.common().look_below(core.link()));
    Ok(())
}
