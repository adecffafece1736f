//! Stream transports: the native half, and what happens when their turn comes.

use std::sync::Arc;
use std::sync::atomic::{
    AtomicU32, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed},
};

use pyo3::exceptions::{PyOSError, PyRuntimeError};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;

use super::callback::{Callback, report};
use super::core::LoopCore;
use super::handle::Scheduled;
use super::io::{lock_attached, os_error};
use super::object::Ref;
use super::payload::{Borrowed, Payload};
use super::transport::{call_protocol, fatal_error};
use crate::sys::socket::Channel;
use crate::transport::{Ahead, Flushed, Schedule, Source, Stream};

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
}

#[pymethods]
impl StreamCore {
    /// `fd`: a non-blocking descriptor that stays open until `retire`; `socket`: whether it is a
    /// socket; `reads`: whether data may come from it.
    #[new]
    fn new(fd: i32, socket: bool, reads: bool) -> Self {
        let channel = if socket { Channel::Socket } else { Channel::Pipe };
        Self {
            stream: Arc::new(Stream::new(fd, channel, reads)),
            flags: AtomicU32::new(0),
            high_water: AtomicUsize::new(64 * 1024),
            low_water: AtomicUsize::new(16 * 1024),
        }
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
            Some(token) if lock_attached(py, &shared.sources).get(token).is_some() => self
                .stream
                .register(token, &**shared)
                .map_err(|error| os_error(py, &error)),
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
    fn is_here(&self, loop_: &Bound<'_, LoopCore>) -> bool {
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

    #[setter]
    fn set_buffered(&self, buffered: bool) {
        if buffered { self.set(BUFFERED) } else { self.clear(BUFFERED) };
    }

    #[setter]
    fn set_empty_waiter(&self, waits: bool) {
        if waits { self.set(EMPTY_WAITER) } else { self.clear(EMPTY_WAITER) };
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

/// A transport whose turn it is.
struct Turn<'a, 'py> {
    loop_: &'a Bound<'py, LoopCore>,
    transport: &'a Bound<'py, PyAny>,
    core: &'a StreamCore,
}

/// Does what there is to do for a transport, on its loop's thread.
///
/// # Errors
/// `SystemExit` and `KeyboardInterrupt` from a callback of the protocol, and what an exception
/// handler lets through.
#[inline]
pub(super) fn run(
    loop_: &Bound<'_, LoopCore>,
    transport: &Bound<'_, PyAny>,
    core: &StreamCore,
) -> PyResult<()> {
    let state = core.stream.state();
    let begun = state.begin_turn();
    if begun.bits.is_dead() {
        return Ok(());
    }
    let turn = Turn { loop_, transport, core };
    let result = if begun.bits.is_unstarted() {
        turn.start()
    } else {
        let read = if begun.reads {
            turn.read()
        } else if begun.bits.is_ahead() {
            turn.deliver_ahead()
        } else {
            Ok(())
        };
        read.and(turn.write(begun.bits.has_news()))
    };
    if state.end_turn() == Schedule::Needed {
        loop_.get().schedule(Callback::from_native(transport.clone().into()));
    }
    result
}

impl Turn<'_, '_> {
    /// Introduces the transport to its protocol, and lets reading begin.
    #[cold]
    fn start(&self) -> PyResult<()> {
        let py = self.transport.py();
        let argument = Ref::from(self.transport.clone());
        let made = call_protocol(self.transport, intern!(py, "connection_made"), Some(&argument));
        let result = made.map(drop).or_else(|error| {
            let protocol = self.transport.getattr(intern!(py, "_protocol"))?;
            let args = pyo3::types::PyTuple::new(py, [self.transport])?;
            let scheduled = Scheduled {
                callback: protocol.getattr(intern!(py, "connection_made"))?.into(),
                args: args.into_any().into(),
                context: self.transport.getattr(intern!(py, "_context"))?.into(),
            };
            error.restore(py);
            report(self.loop_, None, scheduled)
        });
        // What else began with it is the same whether the protocol liked it or not, as in asyncio.
        let started = self.core.stream.state().start();
        if started == Schedule::Needed {
            self.loop_.get().schedule(Callback::from_native(self.transport.clone().into()));
        }
        let woken = self.transport.call_method0(intern!(py, "_wake_waiter"));
        result.and(woken.map(drop))
    }

    /// Reads once, with the claim to read in hand, and hands what came to the protocol.
    #[inline]
    fn read(&self) -> PyResult<()> {
        if self.core.has(BUFFERED) {
            return self.read_into_buffer();
        }
        let py = self.transport.py();
        let (stream, event_loop) = (&self.core.stream, &self.loop_.get().event_loop);
        // SAFETY: making a bytes object runs no Python code that could reach the loop.
        let read = unsafe {
            event_loop.if_owner(|local| {
                let scratch = local.scratch();
                let (count, more) = stream.read(scratch)?;
                let data = ffi::PyBytes_FromStringAndSize(
                    scratch.as_ptr().cast(),
                    count.cast_signed(),
                );
                Ok((data, count, more))
            })
        };
        match read.unwrap_or_else(|| Err(std::io::ErrorKind::WouldBlock.into())) {
            Ok((data, 0, _)) => {
                stream.state().release_read_in_turn(false);
                // SAFETY: a new reference, or null with an exception.
                drop(unsafe { Ref::from_owned_or_err(py, data)? });
                self.end()
            }
            Ok((data, count, more)) => {
                stream.state().release_read_in_turn(more);
                event_loop.metrics().bytes_in.add(count as u64);
                // SAFETY: a new reference, or null with an exception.
                self.received(&unsafe { Ref::from_owned_or_err(py, data)? })
            }
            Err(error) => {
                stream.state().release_read_in_turn(false);
                self.read_failed(&error)
            }
        }
    }

    #[inline]
    fn received(&self, data: &Ref) -> PyResult<()> {
        let py = self.transport.py();
        match call_protocol(self.transport, intern!(py, "data_received"), Some(data)) {
            Ok(_) => Ok(()),
            Err(error) => {
                let message = "Fatal error: protocol.data_received() call failed.";
                fatal_error(self.transport, error, message)
            }
        }
    }

    #[cold]
    fn read_failed(&self, error: &std::io::Error) -> PyResult<()> {
        if error.kind() == std::io::ErrorKind::WouldBlock {
            return Ok(());
        }
        let error = os_error(self.transport.py(), error);
        let message: String =
            self.transport.getattr("_read_error").and_then(|text| text.extract())?;
        fatal_error(self.transport, error, &message)
    }

    /// The stream has ended.
    #[cold]
    fn end(&self) -> PyResult<()> {
        let py = self.transport.py();
        self.core.stream.state().close_read();
        self.transport.call_method0(intern!(py, "_read_end"))?;
        Ok(())
    }

    /// A buffer of the protocol's, of any size but none.
    fn get_buffer(&self, hint: isize) -> PyResult<Option<Borrowed>> {
        let py = self.transport.py();
        let hint: Ref = hint.into_pyobject(py)?.into_any().into();
        let lent = call_protocol(self.transport, intern!(py, "get_buffer"), Some(&hint));
        let lent = lent.and_then(|buffer| {
            let Some(buffer) = buffer else { return Ok(None) };
            let buffer = Borrowed::new(buffer.as_py().bind(py), true)?;
            if buffer.bytes().is_empty() {
                return Err(PyRuntimeError::new_err("get_buffer() returned an empty buffer"));
            }
            Ok(Some(buffer))
        });
        lent.or_else(|error| {
            let message = "Fatal error: protocol.get_buffer() call failed.";
            fatal_error(self.transport, error, message).map(|()| None)
        })
    }

    fn updated(&self, count: usize) -> PyResult<()> {
        let py = self.transport.py();
        let count: Ref = count.into_pyobject(py)?.into_any().into();
        match call_protocol(self.transport, intern!(py, "buffer_updated"), Some(&count)) {
            Ok(_) => Ok(()),
            Err(error) => {
                let message = "Fatal error: protocol.buffer_updated() call failed.";
                fatal_error(self.transport, error, message)
            }
        }
    }

    fn read_into_buffer(&self) -> PyResult<()> {
        let state = self.core.stream.state();
        let mut buffer = match self.get_buffer(-1) {
            Ok(Some(buffer)) => buffer,
            none => {
                state.release_read_in_turn(true);
                return none.map(drop);
            }
        };
        let read = if state.bits().is_dead() {
            Err(std::io::ErrorKind::WouldBlock.into())
        } else {
            self.core.stream.read(buffer.bytes_mut())
        };
        drop(buffer);
        match read {
            Ok((0, _)) => {
                state.release_read_in_turn(false);
                self.end()
            }
            Ok((count, more)) => {
                state.release_read_in_turn(more);
                self.loop_.get().event_loop.metrics().bytes_in.add(count as u64);
                self.updated(count)
            }
            Err(error) => {
                state.release_read_in_turn(false);
                self.read_failed(&error)
            }
        }
    }

    /// Delivers what another thread has read, as long as the protocol wants it.
    #[cold]
    fn deliver_ahead(&self) -> PyResult<()> {
        let stream = &self.core.stream;
        let mut waiting = stream.take_ahead();
        let mut result = Ok(());
        while result.is_ok() && !stream.state().bits().is_read_closed() {
            if stream.state().bits().is_paused() {
                break;
            }
            let Some(next) = waiting.pop_front() else { break };
            result = match next {
                Ahead::Data(data) => self.deliver(&data).map(|left| {
                    if let Some(left) = left {
                        waiting.push_front(Ahead::Data(left));
                    }
                }),
                Ahead::End => self.end(),
                Ahead::Failed(error) => self.read_failed(&error),
            };
        }
        if !waiting.is_empty() && !stream.state().bits().is_read_closed() {
            stream.put_back_ahead(waiting);
        } else {
            drop(waiting);
        }
        result
    }

    /// Hands the protocol what was read ahead; returns what it did not want yet.
    fn deliver(&self, data: &[u8]) -> PyResult<Option<Box<[u8]>>> {
        let py = self.transport.py();
        let mut rest = data;
        while !rest.is_empty() {
            if !self.core.has(BUFFERED) {
                // SAFETY: the memory is valid for its length.
                let data = unsafe {
                    let length = rest.len().cast_signed();
                    let data = ffi::PyBytes_FromStringAndSize(rest.as_ptr().cast(), length);
                    Ref::from_owned_or_err(py, data)?
                };
                return self.received(&data).map(|()| None);
            }
            let Some(mut buffer) = self.get_buffer(rest.len().cast_signed())? else {
                return Ok(None);
            };
            let count = rest.len().min(buffer.bytes().len());
            buffer.bytes_mut()[..count].copy_from_slice(&rest[..count]);
            drop(buffer);
            rest = &rest[count..];
            self.updated(count)?;
            let bits = self.core.stream.state().bits();
            if bits.is_read_closed() {
                return Ok(None);
            }
            if bits.is_paused() {
                return Ok((!rest.is_empty()).then(|| rest.into()));
            }
        }
        Ok(None)
    }

    /// Writes what is queued and can be, and goes on with what other threads have written.
    #[inline]
    fn write(&self, news: bool) -> PyResult<()> {
        let stream = &self.core.stream;
        if news {
            self.flushed(stream.take_news())?;
        }
        if stream.state().bits().may_write() {
            let event_loop = &self.loop_.get().event_loop;
            if let Some(flushed) = stream.flush(&**event_loop.shared()) {
                event_loop.metrics().bytes_out.add(flushed.bytes);
                self.flushed(flushed)?;
            }
        }
        Ok(())
    }

    #[cold]
    fn flushed(&self, flushed: Flushed<Payload>) -> PyResult<()> {
        let py = self.transport.py();
        drop(flushed.spent);
        if let Some(error) = flushed.failure {
            return self.write_failed(&error);
        }
        let core = self.core;
        if core.has(PROTOCOL_PAUSED) && core.stream.queued() <= core.low_water.load(Relaxed) {
            self.transport.call_method0(intern!(py, "_resume_protocol"))?;
        }
        if !core.stream.state().bits().is_queued() && core.has(CLOSING | EMPTY_WAITER) {
            self.transport.call_method0(intern!(py, "_drained"))?;
        }
        Ok(())
    }

    fn write_failed(&self, error: &std::io::Error) -> PyResult<()> {
        write_failed(self.transport, error)
    }
}

/// Ends the connection because it could not be written to.
#[cold]
pub(super) fn write_failed(transport: &Bound<'_, PyAny>, error: &std::io::Error) -> PyResult<()> {
    let py = transport.py();
    let error = os_error(py, error);
    debug_assert!(error.is_instance_of::<PyOSError>(py));
    transport.call_method1(intern!(py, "_write_failed"), (error.into_value(py),))?;
    Ok(())
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
