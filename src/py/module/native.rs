//! Native objects that are entries of a loop's queues without a handle, and what runs for each.

use pyo3::PyTypeInfo;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::py::cpython::alloc;
use crate::py::cpython::names::intern;
use crate::py::cpython::object::Ref;
use crate::py::event_loop::core::LoopCore;
use crate::py::event_loop::report::report_native;
#[cfg(feature = "http")]
use crate::py::http::connection::HttpConnection;
use crate::py::pool::pool_task_class;
use crate::py::pool::pool_task_run;
use crate::py::socket_ops::sock::{self, SocketOperation};
use crate::py::transport::datagram::DatagramCore;
use crate::py::transport::datagram_turn;
use crate::py::transport::filtered_turn;
use crate::py::transport::layout;
use crate::py::transport::listener::{self, ListenerCore};
use crate::py::transport::stream::StreamCore;
use crate::py::transport::stream_turn;
use crate::sys::clock;

/// Runs the entry of a native object. Errors of the program's own callbacks are reported within.
///
/// # Errors
/// `SystemExit` and `KeyboardInterrupt`, and what an exception handler lets through.
pub(crate) fn run(loop_: &Bound<'_, LoopCore>, object: &Bound<'_, PyAny>) -> PyResult<()> {
    let result = if loop_.get().flags.is_debug() {
        run_timed(loop_, object)
    } else {
        dispatch(loop_, object)
    };
    match result {
        Ok(()) => Ok(()),
        Err(error) => report_native(loop_, object, error),
    }
}

/// The object as an instance of a class of ours, not of a subclass. pyo3's own cast counts a reference
/// to the class, which all loops share.
#[inline(always)]
fn exact<'a, 'py, C: PyTypeInfo>(object: &'a Bound<'py, PyAny>) -> Option<&'a Bound<'py, C>> {
    // SAFETY: a live object, whose class is looked at first.
    unsafe {
        let class = C::type_object_raw(object.py());
        std::ptr::eq(ffi::Py_TYPE(object.as_ptr()), class).then(|| object.cast_unchecked())
    }
}

#[inline(always)]
fn dispatch(loop_: &Bound<'_, LoopCore>, object: &Bound<'_, PyAny>) -> PyResult<()> {
    if let Some(task) = pool_task_class::cast(object) {
        return pool_task_run::begin(loop_, task);
    }
    if let Some(operation) = exact::<SocketOperation>(object) {
        return sock::ready(loop_, operation);
    }
    if let Some(listener) = exact::<ListenerCore>(object) {
        return listener::run(loop_, listener);
    }
    #[cfg(feature = "http")]
    if let Some(connection) = exact::<HttpConnection>(object) {
        return HttpConnection::begin_elsewhere(loop_, connection);
    }
    // SAFETY: what is no other native object is a transport.
    let core = unsafe { layout::core_of(object.as_ptr())? };
    // SAFETY: the slot keeps it alive, as the transport is during the call.
    let half = unsafe { Bound::<PyAny>::ref_from_ptr(loop_.py(), core) };
    if let Some(half) = exact::<DatagramCore>(half) {
        return datagram_turn::run(loop_, object, half.get());
    }
    // SAFETY: what is no other native half is a stream's.
    let stream = unsafe { layout::cast::<StreamCore>(core) };
    if stream.stream.is_filtered() {
        return filtered_turn::run(loop_, object, stream);
    }
    stream_turn::run(loop_, object, stream)
}

/// In debug mode a slow turn is logged, as asyncio logs a slow handle.
#[cold]
fn run_timed(loop_: &Bound<'_, LoopCore>, object: &Bound<'_, PyAny>) -> PyResult<()> {
    let began_ns = clock::monotonic_ns();
    let result = dispatch(loop_, object);
    let took = clock::seconds(clock::monotonic_ns() - began_ns);
    let reported = loop_.call_method1(
        intern!(loop_.py(), "_report_slow"),
        (object, alloc::float(loop_.py(), took)?),
    );
    result.and(reported.map(drop))
}

/// What any loop runs to begin what has come for a transport: its protocol, if that is the HTTP server's.
pub(crate) fn begins(transport: &Bound<'_, PyAny>) -> Option<Ref> {
    #[cfg(feature = "http")]
    {
        let protocol = layout::protocol_of(transport)?;
        let is_http = exact::<HttpConnection>(protocol.as_py().bind(transport.py())).is_some();
        is_http.then_some(protocol)
    }
    #[cfg(not(feature = "http"))]
    {
        let _ = transport;
        None
    }
}

/// Whether the entry of a native object was cancelled. Runs no Python.
pub(crate) fn is_cancelled(object: &Bound<'_, PyAny>) -> bool {
    exact::<SocketOperation>(object).is_some_and(|operation| operation.get().cancelled())
}

/// Whether the descriptor of a socket operation is still its own; `None`: the object is none.
pub(crate) fn holds(object: &Bound<'_, PyAny>) -> Option<bool> {
    exact::<SocketOperation>(object).map(|operation| operation.get().holds())
}
