//! `sendto`, which a program calls on a datagram transport for each message.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView, PyType};

use super::datagram::{DatagramCore, failed, queue, queue_for_helper};
use super::layout::{learn, loop_of};
use super::transport_core::NativeTransport;
use super::transport_methods::{self, copy_of, elsewhere, enter, none};
use crate::py::cpython::alloc;
use crate::py::cpython::cfunc::{Arguments, add_methods, fast_def};
use crate::py::cpython::names::intern;
use crate::py::cpython::object::Ref;
use crate::py::cpython::payload::Payload;
use crate::py::event_loop::affinity::is_here;
use crate::py::event_loop::core::LoopCore;
use crate::transport::{Buffer, SendChoice, Target};

/// Adds the methods to the datagram transport class.
///
/// # Errors
/// `ImportError` if its slots are not where those of the other transport classes are.
#[pyfunction]
#[pyo3(name = "_install_datagram_methods", signature = (class, /))]
pub(crate) fn install(class: &Bound<'_, PyType>) -> PyResult<()> {
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
    if core.datagrams.is_lost(core.has_address()) {
        transport.call_method0(intern!(py, "_lost_write"))?;
        return Ok(());
    }
    let target = core.target(address);
    if target == Target::Owner {
        transport.call_method1(intern!(py, "_send_itself"), (data, address))?;
        return Ok(());
    }
    let payload = Payload::Bytes(Ref::from(data));
    match core.link().choose_send(loop_.get().flags.is_behind()) {
        SendChoice::Now => {}
        SendChoice::Queue => return queue(transport, core, loop_, payload, target, false),
        SendChoice::QueueForHelper => {
            return queue_for_helper(transport, core, loop_, payload, target);
        }
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
