//! The native half of a stream transport, and what its Python half asks of it.

use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{
    AtomicU32, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed},
};

use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;

use super::address;
use super::callback::Callback;
use super::core::LoopCore;
use super::io::{lock_attached, os_error};
use super::payload::Payload;
use crate::sync::Mutex;
use crate::sys::address::SocketAddress;
use crate::sys::socket::{self, Channel};
use crate::transport::{Connection, Schedule, Source, Stream};

/// `close` was called, or the connection is being torn down.
pub(super) const CLOSING: u32 = 1 << 0;
/// `write_eof` was called.
pub(super) const WRITE_EOF: u32 = 1 << 1;
/// The protocol was told to pause writing.
pub(super) const PROTOCOL_PAUSED: u32 = 1 << 2;
/// The protocol is a `BufferedProtocol`.
pub(super) const BUFFERED: u32 = 1 << 3;
/// Somebody waits for the queue to be empty (`sendfile`), and nobody may write meanwhile.
pub(super) const EMPTY_WAITER: u32 = 1 << 4;
/// `connection_lost` is on its way, or was called.
pub(super) const LOST: u32 = 1 << 5;

/// The native half of a stream transport. Use `loop_pool.EventLoop`.
#[pyclass(frozen, module = "loop_pool._core")]
pub(super) struct StreamCore {
    pub(super) stream: Arc<Stream<Payload>>,
    flags: AtomicU32,
    high_water: AtomicUsize,
    low_water: AtomicUsize,
    /// Of an accepted connection.
    accepted: Mutex<Option<Box<Accepted>>>,
}

/// What is known of an accepted connection.
#[derive(Debug)]
struct Accepted {
    /// Kept open here as long as nobody has asked for a socket object.
    descriptor: Option<OwnedFd>,
    /// Its own address, once it has been asked for.
    own: Option<Box<SocketAddress>>,
    peer: SocketAddress,
}

#[pymethods]
impl StreamCore {
    /// `fd`: a non-blocking descriptor that stays open until `retire`; `socket`: whether it is a
    /// socket; `reads`: whether data may come from it.
    #[new]
    fn new(fd: i32, socket: bool, reads: bool) -> Self {
        let channel = if socket {
            Channel::of_socket(&socket::local_address(fd).unwrap_or(SocketAddress::Unknown))
        } else {
            Channel::Pipe
        };
        Self::with_stream(Stream::new(fd, channel, reads))
    }

    /// The descriptor's number.
    #[getter]
    fn fd(&self) -> i32 {
        self.stream.fd()
    }

    /// Whether the descriptor is kept open by this object.
    #[getter]
    fn owns_descriptor(&self, py: Python<'_>) -> bool {
        lock_attached(py, &self.accepted).as_ref().is_some_and(|one| one.descriptor.is_some())
    }

    /// The addresses (own, peer's) of an accepted connection, as Python's sockets give them.
    fn names(&self, py: Python<'_>) -> PyResult<(Py<PyAny>, Py<PyAny>)> {
        let (own, peer) = self.known_names(py);
        Ok((address::to_python(py, &own)?, address::to_python(py, &peer)?))
    }

    /// Notes the addresses of an accepted connection before its descriptor is closed.
    fn remember_names(&self, py: Python<'_>) {
        let names = self.known_names(py);
        let mut accepted = lock_attached(py, &self.accepted);
        if let Some(accepted) = &mut *accepted {
            accepted.own = Some(Box::new(names.0));
        }
    }

    /// Gives the descriptor away, for a socket object that closes it.
    fn give_descriptor(&self, py: Python<'_>) {
        if let Some(descriptor) = self.take_descriptor(py) {
            let _ = descriptor.into_raw_fd();
        }
    }

    /// Closes the descriptor, if it is kept open by this object.
    fn close_descriptor(&self, py: Python<'_>) {
        drop(self.take_descriptor(py));
    }

    /// Registers the transport with its loop's reactor, and lets it begin in the next turn.
    fn register(
        &self,
        py: Python<'_>,
        loop_: &Bound<'_, LoopCore>,
        transport: Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let core = loop_.get();
        core.check_open()?;
        let shared = core.event_loop.shared();
        let fd = self.stream.fd();
        let source: Arc<dyn Source> = self.stream.clone();
        // The table's own reference, given back by `retire`.
        let cookie = transport.clone().into_ptr();
        let inserted = lock_attached(py, &shared.sources).insert(fd, source, cookie as usize);
        // SAFETY: the reference made above, which the table did not take.
        let give_back = || drop(unsafe { Bound::from_owned_ptr(py, cookie) });
        let Some(token) = inserted else {
            give_back();
            let used = format!("File descriptor {fd} is used by another transport");
            return Err(PyRuntimeError::new_err(used));
        };
        if let Err(error) = self.stream.register(token, &**shared) {
            drop(lock_attached(py, &shared.sources).remove(token));
            give_back();
            return Err(os_error(py, &error));
        }
        core.event_loop.metrics().transports.add_shared(1);
        core.schedule(Callback::from_native(transport.into()));
        Ok(())
    }

    /// Ends all work on the descriptor, and takes the transport from its loop. Afterwards the
    /// descriptor may be closed.
    fn retire(&self, py: Python<'_>, loop_: &Bound<'_, LoopCore>) {
        let shared = loop_.get().event_loop.shared();
        self.give_up(py);
        let Some(token) = self.stream.token() else { return };
        let entry = lock_attached(py, &shared.sources).remove(token);
        if let Some(entry) = entry {
            loop_.get().event_loop.metrics().transports.sub_shared(1);
            // The kernel may have forgotten a descriptor that the program closed behind our back.
            let _ = shared.with_handle(|handle| handle.deregister(token));
            // SAFETY: the table's own reference.
            drop(unsafe { Bound::from_owned_ptr(py, entry.cookie as *mut ffi::PyObject) });
        }
    }

    /// Gives up the registration for a while, for somebody else who uses the descriptor.
    fn suspend(&self, loop_: &Bound<'_, LoopCore>) {
        if let Some(token) = self.stream.token() {
            let _ = loop_.get().event_loop.shared().with_handle(|handle| handle.deregister(token));
        }
    }

    /// Undoes `suspend`.
    fn unsuspend(&self, py: Python<'_>, loop_: &Bound<'_, LoopCore>) -> PyResult<()> {
        let shared = loop_.get().event_loop.shared();
        match self.stream.token() {
            Some(token) if lock_attached(py, &shared.sources).get(token).is_some() => {
                self.stream.register(token, &**shared).map_err(|error| os_error(py, &error))
            }
            _ => Ok(()),
        }
    }

    /// Stops all reading and writing, now. What is queued is forgotten.
    fn kill(&self, py: Python<'_>) {
        self.set(CLOSING | LOST);
        self.give_up(py);
    }

    /// Begins an orderly end; says whether it was the first call. Nothing is read any more.
    fn begin_close(&self) -> bool {
        self.stream.state().close_read();
        self.set(CLOSING) & CLOSING == 0
    }

    /// Notes that `connection_lost` is on its way; says whether it was not before.
    fn begin_lost(&self) -> bool {
        self.set(LOST) & LOST == 0
    }

    #[getter]
    fn closing(&self) -> bool {
        self.has(CLOSING)
    }

    #[getter]
    fn lost(&self) -> bool {
        self.has(LOST)
    }

    #[getter]
    fn paused(&self) -> bool {
        self.stream.state().bits().is_paused()
    }

    /// Whether the transport reads what comes.
    #[getter]
    fn reading(&self) -> bool {
        let bits = self.stream.state().bits();
        !(bits.is_paused() || bits.is_unstarted() || bits.is_read_closed())
    }

    /// Whether the calling thread may change the transport: it runs the loop, or nobody does.
    #[staticmethod]
    fn is_here(loop_: &Bound<'_, LoopCore>) -> bool {
        super::stream_methods::is_here(loop_.get())
    }

    #[getter]
    fn queued(&self) -> bool {
        self.stream.state().bits().is_queued()
    }

    #[getter]
    fn write_eof(&self) -> bool {
        self.has(WRITE_EOF)
    }

    /// Shuts the write side down once everything is written.
    fn shut_write(&self, py: Python<'_>) -> PyResult<()> {
        self.set(WRITE_EOF);
        self.stream.shut_write().map_err(|error| os_error(py, &error))
    }

    /// Says whether the protocol is a `BufferedProtocol`.
    fn set_buffered(&self, buffered: bool) {
        if buffered {
            self.set(BUFFERED)
        } else {
            self.clear(BUFFERED)
        };
    }

    /// Says whether somebody waits for the queue to be empty, so that nobody may write.
    fn set_empty_waiter(&self, waits: bool) {
        if waits {
            self.set(EMPTY_WAITER)
        } else {
            self.clear(EMPTY_WAITER)
        };
    }

    #[getter]
    fn protocol_paused(&self) -> bool {
        self.has(PROTOCOL_PAUSED)
    }

    #[setter]
    fn set_protocol_paused(&self, paused: bool) {
        if paused {
            self.set(PROTOCOL_PAUSED);
            self.stream.tell_below(self.low_water.load(Relaxed));
        } else {
            self.clear(PROTOCOL_PAUSED);
            self.stream.tell_below(0);
        }
    }

    /// The marks as (low, high), in bytes.
    #[getter]
    fn limits(&self) -> (usize, usize) {
        (self.low_water.load(Relaxed), self.high_water.load(Relaxed))
    }

    #[setter]
    fn set_limits(&self, limits: (usize, usize)) {
        let (low, high) = limits;
        self.low_water.store(low, Relaxed);
        self.high_water.store(high, Relaxed);
        if self.has(PROTOCOL_PAUSED) {
            self.stream.tell_below(low);
        }
    }
}

impl StreamCore {
    fn with_stream(stream: Stream<Payload>) -> Self {
        Self {
            stream: Arc::new(stream),
            flags: AtomicU32::new(0),
            high_water: AtomicUsize::new(64 * 1024),
            low_water: AtomicUsize::new(16 * 1024),
            accepted: Mutex::new(None),
        }
    }

    /// Of a connection that was accepted.
    pub(super) fn accepted(connection: Connection) -> Self {
        let (descriptor, peer) = connection;
        let channel = Channel::of_socket(&peer);
        let stream = Stream::new(descriptor.as_raw_fd(), channel, true);
        let accepted = Accepted { descriptor: Some(descriptor), own: None, peer };
        Self { accepted: Mutex::new(Some(Box::new(accepted))), ..Self::with_stream(stream) }
    }

    fn take_descriptor(&self, py: Python<'_>) -> Option<OwnedFd> {
        lock_attached(py, &self.accepted).as_mut().and_then(|one| one.descriptor.take())
    }

    /// The own address and the peer's.
    fn known_names(&self, py: Python<'_>) -> (SocketAddress, SocketAddress) {
        let accepted = lock_attached(py, &self.accepted);
        let (own, peer) = match &*accepted {
            Some(accepted) => (accepted.own.as_deref().cloned(), accepted.peer.clone()),
            None => (None, SocketAddress::Unknown),
        };
        let ask = || socket::local_address(self.stream.fd()).unwrap_or(SocketAddress::Unknown);
        (own.unwrap_or_else(ask), peer)
    }

    #[inline(always)]
    pub(super) fn flags(&self) -> u32 {
        self.flags.load(Acquire)
    }

    #[inline(always)]
    pub(super) fn has(&self, flag: u32) -> bool {
        self.flags() & flag != 0
    }

    fn set(&self, flags: u32) -> u32 {
        self.flags.fetch_or(flags, AcqRel)
    }

    fn clear(&self, flags: u32) -> u32 {
        self.flags.fetch_and(!flags, AcqRel)
    }

    #[inline(always)]
    pub(super) fn is_above_high_water(&self) -> bool {
        self.stream.queued() > self.high_water.load(Relaxed)
    }

    #[inline(always)]
    pub(super) fn is_below_low_water(&self) -> bool {
        self.stream.queued() <= self.low_water.load(Relaxed)
    }

    /// Lets a turn go on with what was written, if somebody waits for what has come true: outside of
    /// a turn, or by another thread before it knew that it was to tell.
    pub(super) fn look_below(&self) -> Schedule {
        let resumes = self.has(PROTOCOL_PAUSED) && self.is_below_low_water();
        let ends = self.has(CLOSING) && self.stream.queued() == 0;
        if resumes || ends { self.stream.state().note_news() } else { Schedule::Unneeded }
    }

    /// Forbids further work and waits, detached, for a job under way on another thread: at most a
    /// few system calls that do not wait. Then drops what was queued.
    fn give_up(&self, py: Python<'_>) {
        if self.stream.state().retire() {
            py.detach(|| {
                while self.stream.state().bits().is_claimed() {
                    std::thread::yield_now();
                }
            });
        }
        drop(self.stream.take_queue());
        drop(self.stream.take_ahead());
    }
}

/// The transport's native half.
///
/// # Safety
/// `core` comes from the slot of a stream transport, which is alive as long as the result is used.
#[inline(always)]
pub(super) unsafe fn cast<'a>(core: &'a *mut ffi::PyObject) -> &'a StreamCore {
    // SAFETY: the class puts a `StreamCore` there; `Bound` is laid out as its pointer.
    unsafe { (*std::ptr::from_ref(core).cast::<Bound<'a, StreamCore>>()).get() }
}
