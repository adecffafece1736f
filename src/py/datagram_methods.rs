//! `sendto`, which a program calls on a datagram transport for each message.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView, PyType};

use super::affinity::is_here;
use super::alloc;
use super::arguments::{Arguments, fast_def};
use super::core::LoopCore;
use super::datagram::DatagramCore;
use super::hot::add_methods;
use super::io::os_error;
use super::names::intern;
use super::object::Ref;
use super::payload::Payload;
use super::transport::{both, learn, loop_of};
use super::transport_core::{Half, LOST, schedule};
use super::transport_methods::{
    self, copy_of, elsewhere, enter, leave_to_helper, none, pause_if_above,
};
use crate::transport::{Buffer, Source, Target};

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
            let transport = Bound::from_borrowed_ptr(py, slf);
            let arguments = Arguments::new(args, count, kwnames);
            let (data, address) = match *arguments.positional {
                [data] if kwnames.is_null() => (data, ffi::Py_None()),
                [data, address] if kwnames.is_null() => (data, address),
                _ => {
                    let [data, address] =
                        arguments.named(&transport, "sendto", ["data", "addr"], 1)?;
                    (data, if address.is_null() { ffi::Py_None() } else { address })
                }
            };
            let data = Bound::from_borrowed_ptr(py, data);
            let address = Bound::from_borrowed_ptr(py, address);
            let address = (!address.is_none()).then_some(&address);
            send(&transport, core, loop_of(py, slf), &data, address)?;
            Ok(none())
        })
    }
}

/// The data as bytes that nobody can change: a bytes object itself, of anything else a copy.
fn as_bytes<'py>(py: Python<'py>, data: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    if data.is_exact_instance_of::<PyBytes>() {
        return Ok(data.clone());
    }
    if data.is_instance_of::<PyBytes>()
        || data.is_instance_of::<PyByteArray>()
        || data.is_instance_of::<PyMemoryView>()
    {
        return copy_of(py, data);
    }
    Err(alloc::type_error(
        py,
        format!(
            "data argument must be a bytes-like object, not {}",
            data.get_type().name()?.repr()?
        ),
    ))
}

fn send(
    transport: &Bound<'_, PyAny>,
    core: &DatagramCore,
    loop_: &Bound<'_, LoopCore>,
    data: &Bound<'_, PyAny>,
    address: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let py = transport.py();
    let data = as_bytes(py, data)?;
    if !is_here(loop_.get()) {
        let none = py.None().into_bound(py);
        let arguments = [&data, address.unwrap_or(&none)];
        return elsewhere(py, transport.as_ptr(), "sendto", &arguments).map(drop);
    }
    if core.has_address()
        && let Some(address) = address
    {
        transport.call_method1(intern!(py, "_check_address"), (address,))?;
    }
    let state = core.link().state();
    if state.bits().is_dead() || (core.common().has(LOST) && core.has_address()) {
        transport.call_method0(intern!(py, "_lost_write"))?;
        return Ok(());
    }
    let target = core.target(address);
    if target == Target::Owner {
        transport.call_method1(intern!(py, "_send_itself"), (data, address))?;
        return Ok(());
    }
    let payload = Payload::Bytes(Ref::from(data));
    if loop_.get().is_behind() {
        return queue_for_helper(transport, core, loop_, payload, target);
    }
    if state.bits().is_queued() {
        return queue(transport, core, loop_, payload, target, false);
    }
    match core.datagrams.send(payload.bytes(), &target) {
        Ok(()) => {
            loop_.get().event_loop.metrics().bytes_out.add(payload.bytes().len() as u64);
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            queue(transport, core, loop_, payload, target, true)
        }
        Err(error) => failed(transport, &error),
    }
}

/// Tells the protocol at once, as asyncio does: whatever it raises is the caller's.
#[cold]
fn failed(transport: &Bound<'_, PyAny>, error: &std::io::Error) -> PyResult<()> {
    let py = transport.py();
    let error = os_error(py, error).into_value(py);
    transport.call_method1(intern!(py, "_send_failed"), (error,))?;
    Ok(())
}

/// Queues a datagram behind others, or because the kernel was `full`: then it asks to be told when
/// there is room. Sends none, as the failure of an earlier one is not the caller's.
///
/// # Errors
/// `SystemExit` and `KeyboardInterrupt` from the protocol. The datagram is queued all the same.
#[cold]
pub(super) fn queue(
    transport: &Bound<'_, PyAny>,
    core: &DatagramCore,
    loop_: &Bound<'_, LoopCore>,
    payload: Payload,
    target: Target,
    full: bool,
) -> PyResult<()> {
    let py = transport.py();
    let datagrams = &core.datagrams;
    drop(datagrams.enqueue(payload, target));
    if full {
        // What cannot wait is tried again in the next turn, which tells of the failure.
        let _ = datagrams.blocked(&**loop_.get().event_loop.shared());
    }
    // Another thread may have sent what was queued before, and have found nothing more to do.
    schedule(loop_, transport.as_ptr(), core.link(), datagrams.state().end_turn());
    let mut result = Ok(());
    if datagrams.waits_untold() {
        result = transport.call_method0(intern!(py, "_retry_later")).map(drop);
    }
    both(py, result, queued(transport, core, loop_))
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
    if was_queued {
        // Another thread may have sent all that by now, and have found nothing more to do.
        schedule(loop_, transport.as_ptr(), core.link(), core.link().state().end_turn());
    } else {
        leave_to_helper(loop_, transport.as_ptr(), &core.datagrams);
    }
    queued(transport, core, loop_)
}

/// Goes on after a datagram was queued: tells the protocol to pause if it is too much.
fn queued(
    transport: &Bound<'_, PyAny>,
    core: &DatagramCore,
    loop_: &Bound<'_, LoopCore>,
) -> PyResult<()> {
    let paused = pause_if_above(loop_, transport, core);
    schedule(loop_, transport.as_ptr(), core.link(), core.common().look_below(core.link()));
    paused
}
