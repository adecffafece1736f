//! The native half of a stream transport, and the functions for its Python half.

use std::os::fd::{AsRawFd, IntoRawFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::protocol_kind::ProtocolKind;
use super::transport_core::{self, NativeTransport};
use crate::py::cpython::address;
use crate::py::cpython::alloc;
use crate::py::cpython::attach::lock_attached;
use crate::py::cpython::error::os_error;
use crate::py::cpython::holder::Holder;
use crate::py::cpython::payload::Payload;
use crate::py::cpython::returned::Returned;
use crate::py::event_loop::core::LoopCore;
use crate::sync::Mutex;
use crate::sys::address::SocketAddress;
use crate::sys::owned_socket::OwnedSocket;
use crate::sys::socket::{self, Channel};
use crate::transport::{
    Abort, Close, Connection, Drained, FilterGuard, Input, Link, Passage, Port, Source, Stream,
};

/// The native half of a stream transport. Use `loop_pool.EventLoop`.
#[pyclass(frozen, module = "loop_pool._core")]
pub(crate) struct StreamCore {
    pub(crate) stream: Arc<Stream<Payload>>,
    pub(super) protocol: ProtocolKind,
    kept_weakly: AtomicBool,
    /// Whether a pool-wide server placed it on its loop.
    placed: bool,
    /// Of an accepted connection.
    accepted: Mutex<Option<Box<Accepted>>>,
    /// What else may close the descriptor.
    holder: Holder,
}

/// What is known of an accepted connection.
#[derive(Debug)]
struct Accepted {
    /// Kept open here as long as nobody has asked for a socket object.
    descriptor: Option<OwnedSocket>,
    /// Its own address, once it has been asked for.
    own: Option<Box<SocketAddress>>,
    peer: SocketAddress,
}

#[pymethods]
impl StreamCore {
    /// `fd`: a non-blocking descriptor that stays open until `retire`; `socket`: whether it is used as
    /// a socket; `reads`: whether data may come from it; `watches`: if not, whether it becomes
    /// readable when whoever reads what is written is gone; `holder`: the object that closes it.
    #[new]
    #[pyo3(signature = (fd, socket, reads, watches=false, holder=None))]
    fn new(
        fd: i32,
        socket: bool,
        reads: bool,
        watches: bool,
        holder: Option<&Bound<'_, PyAny>>,
    ) -> Self {
        let channel = if socket {
            Channel::of_socket(&socket::local_address(fd).unwrap_or(SocketAddress::Unknown))
        } else {
            Channel::of_pipe(fd).unwrap_or(Channel::Device)
        };
        let input = match (reads, watches) {
            (true, _) => Input::Data,
            (false, true) => Input::PeerGone,
            (false, false) => Input::Nothing,
        };
        let core = Self::with_stream(Stream::new(fd, channel, input), false, None);
        if let Some(holder) = holder {
            // SAFETY: `drop` waits for whoever uses the descriptor.
            unsafe { core.holder.hold(core.link().descriptor(), holder) };
        }
        core
    }

    /// Whether the descriptor's number still stands for it: the program has not closed it.
    #[getter]
    fn holds(&self) -> bool {
        self.link().descriptor().is_held()
    }

    /// The descriptor's number.
    #[getter]
    fn fd(&self) -> Returned<i32> {
        Returned(self.stream.fd())
    }

    /// Whether the descriptor is kept open by this object.
    #[getter]
    fn owns_descriptor(&self, py: Python<'_>) -> bool {
        lock_attached(py, &self.accepted).as_ref().is_some_and(|one| one.descriptor.is_some())
    }

    /// The addresses (own, peer's) of an accepted connection, as Python's sockets give them.
    fn names(&self, py: Python<'_>) -> PyResult<Returned<(Py<PyAny>, Py<PyAny>)>> {
        let (own, peer) = self.known_names(py);
        Ok(Returned((address::to_python(py, &own)?, address::to_python(py, &peer)?)))
    }

    /// Notes the addresses of an accepted connection before its descriptor is closed.
    fn remember_names(&self, py: Python<'_>) {
        let names = self.known_names(py);
        let mut accepted = lock_attached(py, &self.accepted);
        if let Some(accepted) = &mut *accepted {
            accepted.own = Some(Box::new(names.0));
        }
    }

    /// Gives the descriptor away, to a socket object that closes it.
    fn give_descriptor(&self, sock: &Bound<'_, PyAny>) {
        if let Some(descriptor) = self.take_descriptor(sock.py()) {
            let _ = descriptor.into_raw_fd();
            // SAFETY: `drop` waits for whoever uses the descriptor.
            unsafe { self.holder.hold(self.link().descriptor(), sock) };
        }
    }

    /// Gives the descriptor away, to a caller that closes it; -1: it is not kept open here.
    #[pyo3(name = "take_descriptor")]
    fn give_number<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let descriptor = self.take_descriptor(py);
        let number = alloc::int(py, descriptor.as_ref().map_or(-1, AsRawFd::as_raw_fd))?.into_any();
        let _ = descriptor.map(IntoRawFd::into_raw_fd);
        Ok(number)
    }

    /// Closes the descriptor, if it is kept open by this object. That may wait (`SO_LINGER`): under no
    /// lock.
    fn close_descriptor(&self, py: Python<'_>) {
        drop(self.take_descriptor(py));
    }

    /// Registers the transport with its loop's reactor, and lets it begin in the next turn. Returns
    /// whether the reactor watches it: it cannot watch every device.
    fn register(&self, loop_: &Bound<'_, LoopCore>, transport: Bound<'_, PyAny>) -> PyResult<bool> {
        let unwatched = self.stream.channel().is_pipe();
        let is_watched = transport_core::register(&self.stream, loop_, transport, unwatched)?;
        if !self.stream.is_introduced() {
            // Until it is introduced, or `left`.
            loop_.get().event_loop.shared().load.opening.add_shared(1);
        }
        if self.placed {
            // Until it is `left`.
            loop_.get().event_loop.metrics().placed.add_shared(1);
        }
        Ok(is_watched)
    }

    /// Ends all work on the descriptor, and takes the transport from its loop. Afterwards the
    /// descriptor may be closed.
    fn retire(&self, loop_: &Bound<'_, LoopCore>) {
        self.left(loop_, transport_core::retire(&self.stream, loop_));
    }

    /// Takes the transport from its loop, when `connection_lost` is on its way.
    fn leave(&self, loop_: &Bound<'_, LoopCore>) {
        self.left(loop_, transport_core::leave(&self.stream, loop_));
    }

    /// Gives up the registration for a while, for somebody else who uses the descriptor.
    fn suspend(&self, loop_: &Bound<'_, LoopCore>) {
        if self.stream.link().token().is_some() {
            transport_core::deregister(loop_, self.link().descriptor());
        }
    }

    /// Undoes `suspend`.
    fn unsuspend(&self, py: Python<'_>, loop_: &Bound<'_, LoopCore>) -> PyResult<()> {
        let shared = loop_.get().event_loop.shared();
        match self.stream.link().token() {
            Some(token)
                if self.holds() && lock_attached(py, &shared.sources).get(token).is_some() =>
            {
                self.stream.register(token, &**shared).map_err(|error| os_error(py, &error))
            }
            _ => Ok(()),
        }
    }

    /// Begins an orderly end. Nothing is read any more; of a pipe's write end, nothing is written any
    /// more. Says whether `connection_lost` is to be scheduled now.
    fn close(&self, loop_: &Bound<'_, LoopCore>) -> bool {
        drop(self.stream.send_before_close(&**loop_.get().event_loop.shared()));
        self.stream.close() == Close::LoseSoon
    }

    /// Bytes that were read and not delivered.
    #[getter]
    fn ahead(&self) -> Returned<usize> {
        Returned(self.stream.ahead_bytes())
    }

    /// Of one with a filter: whether the peer has said that it sends no more.
    #[getter]
    fn peer_closed(&self, py: Python<'_>) -> bool {
        self.filter(py).is_some_and(|locked| locked.filter().is_peer_closed())
    }

    /// Whether the protocol knows of the connection, as far as a filter decides that.
    #[getter]
    fn introduced(&self) -> bool {
        self.stream.is_introduced()
    }

    /// Ends the connection at once: what is queued is forgotten. Says whether `connection_lost` is to
    /// be scheduled now.
    fn abort(&self, py: Python<'_>) -> bool {
        drop(self.stream.send_held_back());
        transport_core::abort(py, &self.stream) == Abort::LoseSoon
    }

    /// Everything queued is written. Says whether `connection_lost` is to be called now.
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

    /// Whether the transport reads what comes.
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
        self.stream.state().bits().is_queued()
    }

    #[getter]
    fn write_eof(&self) -> bool {
        self.link().ending().is_write_shut()
    }

    /// Shuts the write side down once everything is written; once, and unless it is closing.
    fn shut_write(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.stream.shut_write()).map_err(|error| os_error(py, &error))
    }

    /// Says whether the protocol is a `BufferedProtocol`, or exactly asyncio's
    /// `StreamReaderProtocol`.
    fn set_kind(&self, buffered: bool, streams: bool) {
        self.protocol.set(buffered, streams);
    }

    /// Says that the protocol is the HTTP server's, and the transport one of its kind.
    fn set_http(&self) {
        self.protocol.set_http();
    }

    /// Says whether somebody waits for the queue to be empty, so that nobody may write.
    fn set_empty_waiter(&self, waits: bool) {
        self.link().ending().set_empty_waiter(waits);
    }

    #[getter]
    fn protocol_paused(&self) -> bool {
        self.link().flow().is_paused()
    }

    #[setter]
    fn set_protocol_paused(&self, paused: bool) {
        self.stream.set_protocol_paused(paused);
    }

    /// The marks as (low, high), in bytes.
    #[getter]
    fn limits(&self) -> Returned<(usize, usize)> {
        Returned(self.link().flow().limits())
    }

    /// Sets the marks. Says whether the protocol is to pause writing now.
    fn set_limits(&self, low: usize, high: usize) -> bool {
        self.stream.set_limits((low, high));
        self.link().pauses()
    }

    // There is no `__clear__`: a cycle through the holder also goes through its own attributes.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.holder.traverse(&visit)
    }
}

impl StreamCore {
    fn with_stream(stream: Stream<Payload>, placed: bool, accepted: Option<Box<Accepted>>) -> Self {
        Self {
            stream: Arc::new(stream),
            protocol: ProtocolKind::new(),
            kept_weakly: AtomicBool::new(false),
            placed,
            accepted: Mutex::new(accepted),
            holder: Holder::default(),
        }
    }

    /// Drops buffers that have been written. Memory in which records were made is used again for others.
    pub(super) fn drop_spent(&self, mut spent: Vec<Payload>) {
        if self.stream.is_filtered()
            && let Some(Payload::Own(memory)) = spent.pop()
        {
            Passage::with(|passage| passage.ciphertext.give_back(memory));
        }
    }

    /// The filter, locked. `None`: there is none, or in a forked child, whoever had it locked is a thread of
    /// the parent's.
    pub(crate) fn filter(&self, py: Python<'_>) -> Option<FilterGuard<'_>> {
        let filter = self.stream.filter()?;
        if self.stream.state().bits().is_dead() {
            // Others may only look, which takes no time.
            return filter.lock_for_collector();
        }
        Some(lock_attached(py, filter))
    }

    /// One with a filter, in place of `plain`, which has not been registered, and is of no use any more.
    /// `first`: what the filter wants sent; `holder`: what closes the descriptor, if `plain` does not.
    #[cfg(feature = "tls")]
    pub(crate) fn filtered(
        plain: &Bound<'_, Self>,
        filter: Box<dyn crate::transport::Filter>,
        first: &crate::transport::Ciphertext,
        holder: Option<&Bound<'_, PyAny>>,
    ) -> Self {
        let (py, this) = (plain.py(), plain.get());
        let (fd, channel) = (this.stream.fd(), this.stream.channel());
        let accepted = lock_attached(py, &this.accepted).take();
        let stream = Stream::filtered(fd, channel, filter, first);
        let core = Self::with_stream(stream, this.placed, accepted);
        if let Some(holder) = holder {
            // SAFETY: `drop` waits for whoever uses the descriptor.
            unsafe { core.holder.hold(core.link().descriptor(), holder) };
        }
        core
    }

    /// Of a connection that was accepted; `placed`: by a pool-wide server.
    pub(crate) fn accepted(connection: Connection, placed: bool) -> Self {
        let (descriptor, peer) = connection;
        let channel = Channel::of_socket(&peer);
        let stream = Stream::new(descriptor.as_raw_fd(), channel, Input::Data);
        let accepted = Accepted { descriptor: Some(descriptor), own: None, peer };
        Self::with_stream(stream, placed, Some(Box::new(accepted)))
    }

    fn left(&self, loop_: &Bound<'_, LoopCore>, left: bool) {
        if left && !self.stream.is_introduced() {
            loop_.get().event_loop.shared().load.opening.sub_shared(1);
        }
        if left && self.placed {
            loop_.get().event_loop.metrics().placed.sub_shared(1);
        }
    }

    fn take_descriptor(&self, py: Python<'_>) -> Option<OwnedSocket> {
        lock_attached(py, &self.accepted).as_mut().and_then(|one| one.descriptor.take())
    }

    /// The own address and the peer's.
    fn known_names(&self, py: Python<'_>) -> (SocketAddress, SocketAddress) {
        let accepted = lock_attached(py, &self.accepted);
        let (own, peer) = match &*accepted {
            Some(accepted) => (accepted.own.as_deref().cloned(), accepted.peer.clone()),
            None => (None, SocketAddress::Unknown),
        };
        let fd = self.link().descriptor().for_call();
        let ask = || socket::local_address(fd).unwrap_or(SocketAddress::Unknown);
        (own.unwrap_or_else(ask), peer)
    }
}

impl Drop for StreamCore {
    fn drop(&mut self) {
        // Of a transport that was never retired, as of a loop that was closed under it.
        transport_core::wait_for_helpers(self.link());
        Python::attach(|py| self.close_descriptor(py));
    }
}

impl NativeTransport for StreamCore {
    #[inline(always)]
    fn link(&self) -> &Link {
        self.stream.link()
    }

    #[inline(always)]
    fn kept_weakly(&self) -> &AtomicBool {
        &self.kept_weakly
    }
}
