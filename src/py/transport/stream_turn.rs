//! The turn of a stream transport, in its loop's thread: the first one calls `connection_made`, others
//! deliver received data and write queued data.

use pyo3::exceptions::PyOSError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::datagram::bytes_from;
use super::layout::{call_protocol, fatal_error, in_its_context, protocol_of, tell_protocol};
use super::stream::StreamCore;
use super::transport_core::{NativeTransport, take_turn};
use super::transport_methods::pause_if_above;
use crate::config;
use crate::py::asyncio::stream_feed::{self, Fed, Feed};
use crate::py::cpython::alloc;
use crate::py::cpython::error::{both, os_error};
use crate::py::cpython::names::intern;
use crate::py::cpython::object::Ref;
use crate::py::cpython::payload::{Borrowed, Payload};
use crate::py::cpython::slots::in_critical_section;
use crate::py::event_loop::core::LoopCore;
use crate::transport::{Ahead, Corked, Flushed, ReadBudget, ReadChoice, ReadClaim, Source};

/// As much as a terminal has at once.
const DEVICE_READ_SIZE: usize = 4096;

/// Where data are that a read has brought.
enum Came {
    /// In a new bytes object; null with an exception.
    Bytes(*mut ffi::PyObject),
    /// In the buffer of the protocol's reader.
    InReader(Fed),
}

/// A transport whose turn it is.
pub(super) struct Turn<'a, 'py> {
    pub(super) loop_: &'a Bound<'py, LoopCore>,
    pub(super) transport: &'a Bound<'py, PyAny>,
    pub(super) core: &'a StreamCore,
}

/// Does what there is to do for a transport, on its loop's thread.
///
/// # Errors
/// `SystemExit` and `KeyboardInterrupt` from a callback of the protocol, and what an exception
/// handler lets through.
#[inline]
pub(crate) fn run(
    loop_: &Bound<'_, LoopCore>,
    transport: &Bound<'_, PyAny>,
    core: &StreamCore,
) -> PyResult<()> {
    take_turn(loop_, transport, core, |begun| {
        let turn = Turn { loop_, transport, core };
        let read = if let Some(claim) = begun.claim {
            turn.read(claim)
        } else if begun.bits.is_ahead() {
            turn.deliver_ahead()
        } else {
            Ok(())
        };
        both(loop_.py(), read, turn.write(begun.bits.has_news()))
    })
}

impl<'a> Turn<'a, '_> {
    #[inline]
    fn read(&self, claim: ReadClaim<'a>) -> PyResult<()> {
        match self.core.stream.choose_read(self.core.protocol.is_buffered()) {
            ReadChoice::Data => self.read_data(claim),
            ReadChoice::IntoBuffer => self.read_into_buffer(claim),
            ReadChoice::PeerGone => self.peer_gone(claim),
            ReadChoice::Device => self.read_device(claim),
        }
    }

    /// Reads, and hands what came to the protocol, as often as a turn may. The protocol may pause or end
    /// the connection each time, and then there is no claim to be had.
    #[inline(always)]
    fn read_data(&self, mut claim: ReadClaim<'a>) -> PyResult<()> {
        let mut budget = ReadBudget::of_turn();
        let mut corked = None;
        let read = loop {
            match self.read_once(claim, &mut budget, &mut corked) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
            // The protocol may also have set another one, with a buffer of its own.
            if self.core.protocol.is_buffered() {
                break Ok(());
            }
            let Some(again) = self.core.stream.state().claim_read_in_turn() else { break Ok(()) };
            claim = again;
        };
        match corked {
            None => read,
            Some(corked) => both(self.transport.py(), read, self.uncork(corked)),
        }
    }

    /// Sends what was held back while the turn read on.
    #[cold]
    fn uncork(&self, corked: Corked<'_>) -> PyResult<()> {
        drop(corked);
        let sent = self.write(false);
        both(self.transport.py(), sent, pause_if_above(self.loop_, self.transport, self.core))
    }

    /// Reads once; says whether the turn is to read again. Then what the protocol writes is held back.
    #[inline]
    fn read_once(
        &self,
        claim: ReadClaim<'_>,
        budget: &mut ReadBudget,
        corked: &mut Option<Corked<'a>>,
    ) -> PyResult<bool> {
        let py = self.transport.py();
        let (stream, event_loop) = (&self.core.stream, &self.loop_.get().event_loop);
        let feed = self.feed();
        // SAFETY: neither making a bytes object nor giving data to a reader runs Python code that could
        // reach the loop.
        let read = unsafe {
            event_loop.local.if_owner(|local| {
                let scratch = &mut local.scratch.get()[..config::STREAM_READ_SIZE];
                let (count, more) = stream.read(&claim, scratch)?;
                if let Some(feed) = &feed
                    && count > 0
                    && let Some(fed) = feed.take(&scratch[..count])
                {
                    return Ok((Came::InReader(fed), count, more));
                }
                let data =
                    ffi::PyBytes_FromStringAndSize(scratch.as_ptr().cast(), count.cast_signed());
                Ok((Came::Bytes(data), count, more))
            })
        };
        match read.unwrap_or_else(|| Err(std::io::ErrorKind::WouldBlock.into())) {
            Ok((Came::Bytes(data), 0, _)) => {
                claim.release_in_turn(false);
                // SAFETY: a new reference, or null with an exception.
                drop(unsafe { Ref::from_owned_or_err(py, data)? });
                self.end().map(|()| false)
            }
            Ok((data, count, more)) => {
                claim.release_in_turn(more);
                event_loop.metrics().bytes_in.add(count as u64);
                let goes_on = budget.goes_on_after(count, more);
                if goes_on {
                    corked.get_or_insert_with(|| self.core.link().cork());
                }
                match data {
                    Came::Bytes(data) => {
                        // SAFETY: a new reference, or null with an exception.
                        self.received(&unsafe { Ref::from_owned_or_err(py, data)? })?;
                    }
                    Came::InReader(taken) => self.fed(taken)?,
                }
                Ok(goes_on)
            }
            Err(error) => {
                claim.release_in_turn(false);
                self.read_failed(&error).map(|()| false)
            }
        }
    }

    /// Reads once, detached: no call tells a device not to wait, and whoever shares it may take at this
    /// moment what is there.
    #[cold]
    fn read_device(&self, claim: ReadClaim<'_>) -> PyResult<()> {
        let (py, stream) = (self.transport.py(), &self.core.stream);
        let mut buffer = [0; DEVICE_READ_SIZE];
        let read = py.detach(|| stream.read(&claim, &mut buffer));
        claim.release_in_turn(matches!(read, Ok((_, true))));
        match read {
            Ok((0, _)) => self.end(),
            Ok((count, _)) => {
                self.loop_.get().event_loop.metrics().bytes_in.add(count as u64);
                self.received(&bytes_from(py, &buffer[..count])?)
            }
            Err(error) => self.read_failed(&error),
        }
    }

    /// The reader of asyncio's own streams, if data can be given to it natively.
    #[inline(always)]
    fn feed(&self) -> Option<Feed> {
        if self.core.protocol.is_streams() { self.reader_to_feed() } else { None }
    }

    #[inline(never)]
    fn reader_to_feed(&self) -> Option<Feed> {
        if self.loop_.get().flags.is_debug() {
            return None;
        }
        Feed::of(&protocol_of(self.transport)?)
    }

    /// Goes on after data were given to a reader.
    #[inline(never)]
    fn fed(&self, fed: Fed) -> PyResult<()> {
        let (Some(waiter), py) = (fed.waiter, self.transport.py()) else { return Ok(()) };
        let woken = in_its_context(self.transport, || stream_feed::wake(py, &waiter));
        self.delivered(woken.map(drop))
    }

    #[inline(always)]
    pub(super) fn received(&self, data: &Ref) -> PyResult<()> {
        let py = self.transport.py();
        let method = intern!(py, "data_received");
        if self.core.stream.channel().is_pipe() {
            return tell_protocol(self.loop_, self.transport, method, [data]);
        }
        let call = || call_protocol(self.transport, method, [data]).map(drop);
        let called = match protocol_of(self.transport) {
            Some(protocol) if self.core.protocol.is_streams() => {
                with_attributes_held(&protocol, call)
            }
            _ => call(),
        };
        self.delivered(called)
    }

    #[inline(always)]
    fn delivered(&self, outcome: PyResult<()>) -> PyResult<()> {
        outcome.or_else(|error| {
            let message = "Fatal error: protocol.data_received() call failed.";
            fatal_error(self.transport, error, message)
        })
    }

    #[cold]
    fn read_failed(&self, error: &std::io::Error) -> PyResult<()> {
        if error.kind() == std::io::ErrorKind::WouldBlock {
            return Ok(());
        }
        self.read_error(os_error(self.transport.py(), error))
    }

    fn read_error(&self, error: PyErr) -> PyResult<()> {
        let py = self.transport.py();
        let message: String =
            self.transport.getattr(intern!(py, "_read_error")).and_then(|text| text.extract())?;
        fatal_error(self.transport, error, &message)
    }

    /// The stream has ended.
    #[cold]
    fn end(&self) -> PyResult<()> {
        let py = self.transport.py();
        let log = intern!(py, "_log_end");
        // While it is still said to read, as in asyncio.
        let is_debug = self.loop_.get().flags.is_debug();
        let logged = if is_debug { self.call(log) } else { Ok(()) };
        let state = self.core.stream.state();
        state.close_read();
        let told = self.call(intern!(py, "_read_end"));
        if told.is_err() && !self.core.link().ending().is_closing() {
            // What ends the program came between, and the program may go on: the protocol hears of the
            // end again, as in asyncio.
            state.reopen_read();
        }
        both(py, logged, told)
    }

    /// Nobody reads what is written any more.
    #[cold]
    fn peer_gone(&self, claim: ReadClaim<'_>) -> PyResult<()> {
        let py = self.transport.py();
        claim.release_in_turn(false);
        self.transport.call_method0(intern!(py, "_peer_gone"))?;
        Ok(())
    }

    /// A buffer of the protocol's, of any size but none.
    fn get_buffer(&self, hint: isize) -> PyResult<Option<Borrowed>> {
        let py = self.transport.py();
        let hint: Ref = alloc::int(py, hint)?.into_any().into();
        let borrowed = call_protocol(self.transport, intern!(py, "get_buffer"), [&hint]);
        let checked = borrowed.and_then(|buffer| {
            let Some(buffer) = buffer else { return Ok(None) };
            let buffer = buffer.as_py().bind(py).clone();
            if buffer.len()? == 0 {
                return Err(alloc::runtime_error(py, "get_buffer() returned an empty buffer"));
            }
            Ok(Some(buffer))
        });
        let buffer = match checked {
            Ok(Some(buffer)) => buffer,
            Ok(None) => return Ok(None),
            Err(error) => {
                let message = "Fatal error: protocol.get_buffer() call failed.";
                return fatal_error(self.transport, error, message).map(|()| None);
            }
        };
        // What cannot be written to shows when it is read into, as in asyncio.
        match Borrowed::new(&buffer, true) {
            Ok(buffer) if !buffer.bytes().is_empty() => Ok(Some(buffer)),
            _ => {
                let error = alloc::type_error(
                    py,
                    format!(
                        "recv_into() argument 1 must be read-write bytes-like object, not {}",
                        buffer.get_type().name()?
                    ),
                );
                self.read_error(error).map(|()| None)
            }
        }
    }

    fn updated(&self, count: usize) -> PyResult<()> {
        let py = self.transport.py();
        let count: Ref = alloc::int(py, count)?.into_any().into();
        match call_protocol(self.transport, intern!(py, "buffer_updated"), [&count]) {
            Ok(_) => Ok(()),
            Err(error) => {
                let message = "Fatal error: protocol.buffer_updated() call failed.";
                fatal_error(self.transport, error, message)
            }
        }
    }

    /// Reads into a buffer of the protocol's. The claim is given back while the protocol is asked for
    /// it: it may end the connection, which waits for claims.
    fn read_into_buffer(&self, claim: ReadClaim<'_>) -> PyResult<()> {
        claim.release_in_turn(true);
        let Some(mut buffer) = self.get_buffer(-1)? else { return Ok(()) };
        let Some(claim) = self.core.stream.state().claim_begun_read() else {
            // It ended the connection, or another thread reads ahead.
            return Ok(());
        };
        let read = self.core.stream.read(&claim, buffer.bytes_mut());
        claim.release_in_turn(matches!(read, Ok((_, true))));
        drop(buffer);
        match read {
            Ok((0, _)) => self.end(),
            Ok((count, _)) => {
                self.loop_.get().event_loop.metrics().bytes_in.add(count as u64);
                self.updated(count)
            }
            Err(error) => self.read_failed(&error),
        }
    }

    /// Delivers what another thread has read, as long as the protocol wants it.
    #[cold]
    pub(super) fn deliver_ahead(&self) -> PyResult<()> {
        let stream = &self.core.stream;
        let mut waiting = stream.take_ahead();
        let mut result = Ok(());
        while result.is_ok() && !stream.state().bits().is_read_closed() {
            if stream.state().bits().is_paused() {
                break;
            }
            let Some(next) = waiting.pop_front() else { break };
            result = match next {
                Ahead::Data(data) => {
                    let (left, delivered) = self.deliver(&data);
                    if !left.is_empty() {
                        waiting.push_front(Ahead::Data(left.into()));
                    }
                    delivered
                }
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

    /// Hands the protocol what was read ahead; returns what it did not want, or take, yet.
    pub(super) fn deliver<'d>(&self, data: &'d [u8]) -> (&'d [u8], PyResult<()>) {
        if self.core.link().ending().is_shut() {
            return (&[], Ok(()));
        }
        if let Some(feed) = self.feed()
            && let Some(fed) = feed.take(data)
        {
            return (&[], self.fed(fed));
        }
        let mut rest = data;
        while !rest.is_empty() {
            if !self.core.protocol.is_buffered() {
                return match bytes(self.transport.py(), rest) {
                    Ok(data) => (&[], self.received(&data)),
                    Err(error) => (rest, Err(error)),
                };
            }
            let mut buffer = match self.get_buffer(rest.len().cast_signed()) {
                Ok(Some(buffer)) => buffer,
                Ok(None) => return (&[], Ok(())),
                Err(error) => return (rest, Err(error)),
            };
            let count = rest.len().min(buffer.bytes().len());
            buffer.bytes_mut()[..count].copy_from_slice(&rest[..count]);
            drop(buffer);
            rest = &rest[count..];
            let updated = self.updated(count);
            let bits = self.core.stream.state().bits();
            if bits.is_read_closed() || self.core.link().ending().is_shut() {
                return (&[], updated);
            }
            if bits.is_paused() || updated.is_err() {
                return (rest, updated);
            }
        }
        (&[], Ok(()))
    }

    /// Writes what is queued and can be, and goes on with what other threads have written.
    #[inline]
    pub(super) fn write(&self, news: bool) -> PyResult<()> {
        let stream = &self.core.stream;
        let mut result = Ok(());
        if news {
            result = self.flushed(stream.take_news());
        }
        if stream.state().bits().may_write() {
            let event_loop = &self.loop_.get().event_loop;
            if let Some(flushed) = stream.flush(&**event_loop.shared()) {
                event_loop.metrics().bytes_out.add(flushed.bytes);
                result = both(self.transport.py(), result, self.flushed(flushed));
            }
        }
        result
    }

    fn call(&self, method: &Bound<'_, PyString>) -> PyResult<()> {
        self.transport.call_method0(method).map(drop)
    }

    #[cold]
    fn flushed(&self, flushed: Flushed<Payload>) -> PyResult<()> {
        let py = self.transport.py();
        let core = self.core;
        core.drop_spent(flushed.spent);
        if core.stream.state().bits().is_dead() {
            // The protocol gave the connection up in this very turn.
            return Ok(());
        }
        if let Some(error) = flushed.failure {
            return write_failed(self.transport, &error);
        }
        let mut result = Ok(());
        if core.link().resumes() {
            result = self.call(intern!(py, "_resume_protocol"));
        }
        if !core.stream.state().bits().is_queued() && core.link().ending().awaits_empty() {
            result = both(py, result, self.call(intern!(py, "_drained")));
        }
        result
    }
}

/// A bytes object of what was read.
fn bytes(py: Python<'_>, data: &[u8]) -> PyResult<Ref> {
    // SAFETY: the memory is valid for its length; a new reference, or null with an exception.
    unsafe {
        let made = ffi::PyBytes_FromStringAndSize(data.as_ptr().cast(), data.len().cast_signed());
        Ref::from_owned_or_err(py, made)
    }
}

/// Ends the connection because it could not be written to.
#[cold]
pub(crate) fn write_failed(transport: &Bound<'_, PyAny>, error: &std::io::Error) -> PyResult<()> {
    let py = transport.py();
    let error = os_error(py, error);
    debug_assert!(error.is_instance_of::<PyOSError>(py));
    transport.call_method1(intern!(py, "_write_failed"), (error.into_value(py),))?;
    Ok(())
}

/// Calls a method of asyncio's own stream protocol while its attributes stay where they are. CPython
/// may miss one that is there while another thread makes the first use of the object's `__dict__`.
#[cold]
fn with_attributes_held<R>(protocol: &Ref, call: impl FnOnce() -> R) -> R {
    // SAFETY: the protocol is held, and we are attached.
    unsafe { in_critical_section(protocol.as_ptr(), call) }
}
