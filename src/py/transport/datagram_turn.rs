//! The turn of a datagram transport, in its loop's thread: the first one calls `connection_made`, others
//! deliver received datagrams and send queued ones.

use pyo3::prelude::*;
use pyo3::types::PyString;

use super::datagram::{DatagramCore, bytes_from};
use super::layout::tell_protocol;
use super::transport_core::{NativeTransport, take_turn};
use crate::py::cpython::address;
use crate::py::cpython::error::{both, os_error};
use crate::py::cpython::names::intern;
use crate::py::cpython::object::Ref;
use crate::py::cpython::payload::Payload;
use crate::py::event_loop::core::LoopCore;
use crate::sys::address::SocketAddress;
use crate::transport::{DatagramOutcome, Datagrams, Delivered, ReadClaim, Source};

/// A transport whose turn it is.
struct Turn<'a, 'py> {
    loop_: &'a Bound<'py, LoopCore>,
    transport: &'a Bound<'py, PyAny>,
    core: &'a DatagramCore,
}

/// Does what there is to do for a transport, on its loop's thread.
///
/// # Errors
/// `SystemExit` and `KeyboardInterrupt` from a callback of the protocol, and what an exception
/// handler lets through.
pub(crate) fn run(
    loop_: &Bound<'_, LoopCore>,
    transport: &Bound<'_, PyAny>,
    core: &DatagramCore,
) -> PyResult<()> {
    take_turn(loop_, transport, core, |begun| {
        let turn = Turn { loop_, transport, core };
        let received = if let Some(claim) = begun.claim {
            turn.receive(claim)
        } else if begun.bits.is_ahead() {
            turn.deliver_ahead()
        } else {
            Ok(())
        };
        both(loop_.py(), received, turn.send(begun.bits.has_news()))
    })
}

impl Turn<'_, '_> {
    /// Receives one datagram, and hands it to the protocol.
    fn receive(&self, claim: ReadClaim<'_>) -> PyResult<()> {
        let (datagrams, event_loop) = (&self.core.datagrams, &self.loop_.get().event_loop);
        let py = self.transport.py();
        // SAFETY: making a bytes object runs no Python code that could reach the loop.
        let received = unsafe {
            event_loop.local.if_owner(|local| {
                let scratch = local.scratch.get();
                let (count, from) = datagrams.receive(&claim, scratch)?;
                Ok((bytes_from(py, &scratch[..count]), count, from))
            })
        };
        match received.unwrap_or_else(|| Err(std::io::ErrorKind::WouldBlock.into())) {
            Ok((data, count, from)) => {
                // The kernel does not say whether it was the last one.
                claim.release_in_turn(true);
                event_loop.metrics().bytes_in.add(count as u64);
                self.received(&data?, &from)
            }
            Err(error) => {
                let more = Datagrams::<Payload>::goes_on_after(&error);
                claim.release_in_turn(more);
                if error.kind() == std::io::ErrorKind::WouldBlock {
                    return Ok(());
                }
                self.failed(&error)
            }
        }
    }

    fn received(&self, data: &Ref, from: &SocketAddress) -> PyResult<()> {
        let py = self.transport.py();
        let from = Ref::from(address::to_python(py, from)?.into_bound(py));
        let method = intern!(py, "datagram_received");
        tell_protocol(self.loop_, self.transport, method, [data, &from])
    }

    /// Tells the protocol of an error, which is not the end.
    #[cold]
    fn failed(&self, error: &std::io::Error) -> PyResult<()> {
        let py = self.transport.py();
        self.tell_error(os_error(py, error).into_value(py).into_bound(py).into_any())
    }

    fn tell_error(&self, error: Bound<'_, PyAny>) -> PyResult<()> {
        let py = self.transport.py();
        let error = Ref::from(error);
        tell_protocol(self.loop_, self.transport, intern!(py, "error_received"), [&error])
    }

    /// Delivers what another thread has received, as long as the protocol wants it.
    #[cold]
    fn deliver_ahead(&self) -> PyResult<()> {
        let datagrams = &self.core.datagrams;
        let wanted = || {
            let bits = datagrams.state().bits();
            !(bits.is_read_closed() || bits.is_paused())
        };
        let mut waiting = datagrams.take_ahead();
        let mut result = Ok(());
        while result.is_ok() && wanted() {
            let Some(next) = waiting.pop_front() else { break };
            result = match next {
                DatagramOutcome::Datagram(data, from) => bytes_from(self.transport.py(), &data)
                    .and_then(|data| self.received(&data, &from)),
                DatagramOutcome::Failed(error) => self.failed(&error),
            };
        }
        if !waiting.is_empty() && !datagrams.state().bits().is_read_closed() {
            datagrams.put_back_ahead(waiting);
        }
        result
    }

    /// Sends what is queued and can be, and goes on with what other threads have sent.
    fn send(&self, news: bool) -> PyResult<()> {
        let py = self.transport.py();
        let datagrams = &self.core.datagrams;
        let mut result = Ok(());
        if news {
            result = self.delivered(datagrams.take_news());
        }
        if datagrams.state().bits().may_write() {
            let event_loop = &self.loop_.get().event_loop;
            if datagrams.own_is_next() {
                result = both(py, result, self.send_own());
            } else if let Some(delivered) = datagrams.flush(&**event_loop.shared()) {
                event_loop.metrics().bytes_out.add(delivered.bytes);
                result = both(py, result, self.delivered(delivered));
            }
        }
        if datagrams.waits_untold() {
            result = both(py, result, self.call(intern!(py, "_retry_later")));
        }
        result
    }

    /// Lets the Python half send the next datagram.
    fn send_own(&self) -> PyResult<()> {
        let py = self.transport.py();
        let sent = self.transport.call_method0(intern!(py, "_send_next"));
        let told =
            sent.and_then(|error| if error.is_none() { Ok(()) } else { self.tell_error(error) });
        both(py, told, self.settle())
    }

    fn delivered(&self, delivered: Delivered<Payload>) -> PyResult<()> {
        let py = self.transport.py();
        drop(delivered.spent);
        let mut result = Ok(());
        for error in &delivered.failures {
            result = both(py, result, self.failed(error));
        }
        both(py, result, self.settle())
    }

    fn call(&self, method: &Bound<'_, PyString>) -> PyResult<()> {
        self.transport.call_method0(method).map(drop)
    }

    /// Goes on when less is queued, or nothing any more.
    fn settle(&self) -> PyResult<()> {
        let py = self.transport.py();
        let link = self.core.link();
        if link.state().bits().is_dead() {
            return Ok(());
        }
        let mut result = Ok(());
        if link.resumes() {
            result = self.call(intern!(py, "_resume_protocol"));
        }
        if !link.state().bits().is_queued() && link.ending().awaits_empty() {
            result = both(py, result, self.call(intern!(py, "_drained")));
        }
        result
    }
}
