//! The native half of a datagram transport, and the functions for its Python half.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::layout::loop_of;
use super::transport_core::{self, NativeTransport, schedule};
use super::transport_methods::{leave_to_helper, pause_if_above};
use crate::py::cpython::address;
use crate::py::cpython::alloc;
use crate::py::cpython::error::{both, os_error};
use crate::py::cpython::holder::Holder;
use crate::py::cpython::names::intern;
use crate::py::cpython::object::Ref;
use crate::py::cpython::payload::Payload;
use crate::py::cpython::returned::Returned;
use crate::py::event_loop::core::LoopCore;
use crate::sys::address::Family;
use crate::transport::{Abort, Close, Datagrams, Drained, Link, Port, Source, Target};

/// The native half of a datagram transport. Use `loop_pool.EventLoop`.
#[pyclass(frozen, module = "loop_pool._core")]
pub(crate) struct DatagramCore {
    pub(crate) datagrams: Arc<Datagrams<Payload>>,
    kept_weakly: AtomicBool,
    family: Family,
    /// Whether the transport was made for one address, which `default_target` stands for.
    has_address: bool,
    /// Where datagrams go that name no address; `None`: they have to.
    default_target: Option<Target>,
    /// What else may close the socket.
    holder: Holder,
}

#[pymethods]
impl DatagramCore {
    /// `fd`: a non-blocking datagram socket of that `family` that stays open until `retire`;
    /// `connected`: whether it is connected; `address`: the transport's own address, if it has one;
    /// `holder`: the object that closes it.
    #[new]
    #[pyo3(signature = (fd, family, connected, address=None, holder=None))]
    fn new(
        py: Python<'_>,
        fd: i32,
        family: i32,
        connected: bool,
        address: Option<&Bound<'_, PyAny>>,
        holder: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let Some(family) = Family::of_number(family) else {
            return Err(alloc::value_error(py, format!("unknown address family: {family}")));
        };
        let default_target = match address {
            _ if connected => Some(Target::Peer),
            Some(address) => Some(target_of(family, address)),
            None => None,
        };
        let datagrams = Datagrams::new(fd);
        let is_untold = family == Family::Unix && !connected;
        let core = Self {
            datagrams: Arc::new(if is_untold { datagrams.untold() } else { datagrams }),
            kept_weakly: AtomicBool::new(false),
            family,
            has_address: address.is_some(),
            default_target,
            holder: Holder::default(),
        };
        if let Some(holder) = holder {
            // SAFETY: `drop` waits for whoever uses the socket.
            unsafe { core.holder.hold(core.link().descriptor(), holder) };
        }
        Ok(core)
    }

    /// Whether the descriptor's number still stands for it: the program has not closed it.
    #[getter]
    fn holds(&self) -> bool {
        self.link().descriptor().is_held()
    }

    /// The descriptor's number.
    #[getter]
    fn fd(&self) -> Returned<i32> {
        Returned(self.link().fd())
    }

    /// Registers the transport with its loop's reactor, and lets it begin in the next turn.
    fn register(&self, loop_: &Bound<'_, LoopCore>, transport: Bound<'_, PyAny>) -> PyResult<bool> {
        transport_core::register(&self.datagrams, loop_, transport, false)
    }

    /// Ends all work on the socket, and takes the transport from its loop. Afterwards the socket may
    /// be closed.
    fn retire(&self, loop_: &Bound<'_, LoopCore>) {
        let _ = transport_core::retire(&self.datagrams, loop_);
    }

    /// Takes the transport from its loop, when `connection_lost` is on its way.
    fn leave(&self, loop_: &Bound<'_, LoopCore>) {
        let _ = transport_core::leave(&self.datagrams, loop_);
    }

    /// Begins an orderly end. Nothing is received any more. Says whether `connection_lost` is to be
    /// scheduled now.
    fn close(&self, _loop: &Bound<'_, LoopCore>) -> bool {
        self.datagrams.close() == Close::LoseSoon
    }

    /// Ends all work at once: what is queued is forgotten. Says whether `connection_lost` is to be
    /// scheduled now.
    fn abort(&self, py: Python<'_>) -> bool {
        transport_core::abort(py, &self.datagrams) == Abort::LoseSoon
    }

    /// Everything queued is sent. Says whether `connection_lost` is to be called now.
    fn drained(&self) -> bool {
        self.link().ending().drained() == Drained::LoseNow
    }

    /// As `retire`, when `connection_lost` is called.
    fn finish(&self, loop_: &Bound<'_, LoopCore>) {
        self.link().ending().finish();
        self.retire(loop_);
    }

    #[getter]
    fn closing(&self) -> bool {
        self.link().ending().is_closing()
    }

    #[getter]
    fn lost(&self) -> bool {
        self.link().ending().is_losing()
    }

    /// Whether the transport receives what comes.
    #[getter]
    fn reading(&self) -> bool {
        self.link().is_polling()
    }

    /// Whether reading is paused by the program.
    #[getter]
    fn paused(&self) -> bool {
        self.link().state().bits().is_paused()
    }

    #[getter]
    fn queued(&self) -> bool {
        self.link().state().bits().is_queued()
    }

    #[getter]
    fn protocol_paused(&self) -> bool {
        self.link().flow().is_paused()
    }

    #[setter]
    fn set_protocol_paused(&self, paused: bool) {
        self.datagrams.set_protocol_paused(paused);
    }

    /// The marks as (low, high), in bytes.
    #[getter]
    fn limits(&self) -> Returned<(usize, usize)> {
        Returned(self.link().flow().limits())
    }

    /// Sets the marks. Says whether the protocol is to pause writing now.
    fn set_limits(&self, low: usize, high: usize) -> bool {
        self.datagrams.set_limits((low, high));
        self.link().pauses()
    }

    // There is no `__clear__`: a cycle through the holder also goes through its own attributes.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.holder.traverse(&visit)
    }

    /// Queues a datagram that the Python half sends itself when its turn comes; `full`: the kernel had
    /// no room for it. On the loop's thread.
    fn enqueue(
        &self,
        transport: &Bound<'_, PyAny>,
        data: &Bound<'_, PyBytes>,
        full: bool,
    ) -> PyResult<()> {
        let data = Payload::Bytes(Ref::from(data.clone().into_any()));
        // SAFETY: our caller is the transport, which is alive.
        let loop_ = unsafe { loop_of(transport.py(), transport.as_ptr()) };
        queue(transport, self, loop_, data, Target::Owner, full)
    }

    /// Counts bytes that the Python half has sent itself.
    #[staticmethod]
    fn count_sent(loop_: &Bound<'_, LoopCore>, count: u64) {
        loop_.get().event_loop.metrics().bytes_out.add(count);
    }

    /// The next datagram, if it is one that the Python half sends itself.
    fn next_own(&self, py: Python<'_>) -> Option<Py<PyBytes>> {
        let kept = self.datagrams.with_first(|data, target| match (data, target) {
            (Payload::Bytes(object), Target::Owner) => Some(object.clone_ref(py)),
            _ => None,
        });
        let object = kept.flatten()?;
        object.as_py().bind(py).cast::<PyBytes>().ok().map(|data| data.clone().unbind())
    }

    /// Takes the next datagram from the queue, which the Python half has sent itself.
    fn pop_own(&self) {
        drop(self.datagrams.pop_own());
    }

    /// Notes that the kernel was full when the Python half sent the next datagram itself.
    fn blocked(&self, py: Python<'_>, loop_: &Bound<'_, LoopCore>) -> PyResult<()> {
        let shared = loop_.get().event_loop.shared();
        self.datagrams.blocked(&**shared).map_err(|error| os_error(py, &error))
    }

    /// Lets what found the kernel full be tried again.
    fn retry(&self, loop_: &Bound<'_, LoopCore>, transport: &Bound<'_, PyAny>) {
        schedule(loop_, transport.as_ptr(), self.link(), self.datagrams.retry());
    }
}

impl DatagramCore {
    /// Whether the transport was made for one address.
    #[inline(always)]
    pub(crate) fn has_address(&self) -> bool {
        self.has_address
    }

    /// Where a datagram for `address` goes; `None`: for no address.
    #[inline(always)]
    pub(crate) fn target(&self, address: Option<&Bound<'_, PyAny>>) -> Target {
        match (&self.default_target, address) {
            (Some(target), _) => target.clone(),
            (None, Some(address)) => target_of(self.family, address),
            (None, None) => Target::Owner,
        }
    }
}

impl Drop for DatagramCore {
    fn drop(&mut self) {
        transport_core::wait_for_helpers(self.link());
    }
}

impl NativeTransport for DatagramCore {
    #[inline(always)]
    fn link(&self) -> &Link {
        self.datagrams.link()
    }

    #[inline(always)]
    fn kept_weakly(&self) -> &AtomicBool {
        &self.kept_weakly
    }
}

fn target_of(family: Family, address: &Bound<'_, PyAny>) -> Target {
    address::from_python(family, address).map_or(Target::Owner, Target::Address)
}

/// A datagram as a Python object.
///
/// # Errors
/// `MemoryError`.
pub(crate) fn bytes_from(py: Python<'_>, data: &[u8]) -> PyResult<Ref> {
    // SAFETY: the memory is valid for its length; the result is new, or null with an exception.
    unsafe {
        let length = data.len().cast_signed();
        let object = ffi::PyBytes_FromStringAndSize(data.as_ptr().cast(), length);
        Ref::from_owned_or_err(py, object)
    }
}

/// Tells the protocol at once, as asyncio does: whatever it raises is the caller's.
#[cold]
pub(crate) fn failed(transport: &Bound<'_, PyAny>, error: &std::io::Error) -> PyResult<()> {
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
pub(crate) fn queue(
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
pub(crate) fn queue_for_helper(
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
pub(crate) fn queued(
    transport: &Bound<'_, PyAny>,
    core: &DatagramCore,
    loop_: &Bound<'_, LoopCore>,
) -> PyResult<()> {
    let paused = pause_if_above(loop_, transport, core);
    schedule(loop_, transport.as_ptr(), core.link(), core.link().look_below());
    paused
}
