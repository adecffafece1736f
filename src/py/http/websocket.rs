//! ASGI's messages of a WebSocket.

use pyo3::exceptions::PyConnectionResetError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use super::exchange::Exchange;
use super::message::{self, OwnFields, Start};
use super::operation::HttpOperation;
use super::transmit::{look_at, transmit};
use crate::http::{HttpFilter, Kind, Payload, Refusal, RequestHead, ResponseError, SocketMessage};
use crate::py::cpython::alloc;
use crate::py::cpython::attach::lock_attached;
use crate::py::cpython::names::intern;
use crate::py::cpython::object::Ref;
use crate::py::cpython::payload::bytes_of;
use crate::sync::Mutex;

/// Seconds in which the client has to answer a close.
const CLOSE_TIMEOUT: f64 = 10.0;

/// The same, where nobody waits for it any more.
const SOON: f64 = 1.0;

/// It has done what it was for.
const NORMAL: u16 = 1000;
/// How a WebSocket has ended that nobody closed.
const ABNORMAL: u16 = 1006;
/// The peer has closed without a code.
const NO_CODE: u16 = 1005;
/// The server ends.
const RESTART: u16 = 1012;
/// The application has failed.
const FAILED: u16 = 1011;

/// What a request for a WebSocket is besides a request.
pub(super) struct Socket {
    head: Box<RequestHead>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Whether `websocket.connect` was handed out.
    is_announced: bool,
    denial: Option<Start>,
    /// How it has ended, for whoever asks again.
    end: Option<u16>,
    /// The time for the answer to a ping is not up.
    expects_pong: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    Accepted,
    /// A response instead.
    Denied,
    /// The application has closed it.
    Closed,
    /// The server has.
    Gone,
}

impl Socket {
    pub(super) fn new(head: Box<RequestHead>) -> Self {
        let state = State {
            phase: Phase::Connecting,
            is_announced: false,
            denial: None,
            end: None,
            expects_pong: false,
        };
        Self { head, state: Mutex::new(state) }
    }

    // -- the client's messages -----------------------------------------------------------------------

    /// The client's next message; `None`: there is none yet.
    pub(super) fn next_message(
        &self,
        py: Python<'_>,
        exchange: &Exchange,
    ) -> PyResult<Option<Ref>> {
        let (phase, is_first) = {
            let mut state = lock_attached(py, &self.state);
            (state.phase, !std::mem::replace(&mut state.is_announced, true))
        };
        if is_first {
            let message = alloc::dict(py)?;
            message.set_item(intern!(py, "type"), intern!(py, "websocket.connect"))?;
            return Ok(Some(message.into_any().into()));
        }
        // Before the look: what has come before the end is taken first.
        let is_ended = exchange.connection.get().is_ended();
        let found =
            look_at(py, exchange.connection.get(), &exchange.core, HttpFilter::take_message);
        let end = match found.flatten() {
            Some(SocketMessage::Text(text)) => {
                let text = alloc::text(py, &text)?.into_any();
                return received(py, intern!(py, "text"), &text).map(Some);
            }
            Some(SocketMessage::Binary(bytes)) => {
                let bytes = alloc::bytes(py, &bytes)?.into_any();
                return received(py, intern!(py, "bytes"), &bytes).map(Some);
            }
            Some(SocketMessage::Close(code, reason)) => (code.unwrap_or(NO_CODE), reason),
            Some(SocketMessage::Failed(failure)) => (failure.code(), Box::default()),
            None => {
                let is_over = phase == Phase::Denied
                    || phase == Phase::Closed && self.was_denied(py)
                    || exchange.waiting.is_lost(py)
                    || is_ended;
                let end = lock_attached(py, &self.state).end;
                match (end, is_over) {
                    (Some(code), _) => (code, Box::default()),
                    (None, true) => (ABNORMAL, Box::default()),
                    (None, false) => return Ok(None),
                }
            }
        };
        let (code, reason) = end;
        lock_attached(py, &self.state).end = Some(code);
        let message = alloc::dict(py)?;
        message.set_item(intern!(py, "type"), intern!(py, "websocket.disconnect"))?;
        message.set_item(intern!(py, "code"), alloc::int(py, code)?)?;
        message.set_item(intern!(py, "reason"), alloc::text(py, &reason)?)?;
        Ok(Some(message.into_any().into()))
    }

    /// Whether the application has refused it.
    fn was_denied(&self, py: Python<'_>) -> bool {
        lock_attached(py, &self.state).denial.is_some()
    }

    // -- the application's messages ------------------------------------------------------------------

    pub(super) fn send(
        &self,
        object: &Bound<'_, PyAny>,
        exchange: &Exchange,
        given: &Bound<'_, PyAny>,
    ) -> PyResult<Py<HttpOperation>> {
        let py = object.py();
        let kind = message::kind(given)?;
        let kind = kind.to_str()?;
        let phase = lock_attached(py, &self.state).phase;
        match (phase, kind) {
            (Phase::Connecting, "websocket.accept") => self.accept(object, exchange, given)?,
            (Phase::Connecting, "websocket.close") => {
                self.set_phase(py, Phase::Denied);
                exchange.log_access(py, 403)?;
                let own = OwnFields::default();
                let sent = exchange.respond(py, |connection, id, out| {
                    connection.respond(id, 403, own.iter(), Payload::Whole(b""), out)
                })?;
                return exchange.sent(py, sent, true);
            }
            (Phase::Connecting, "websocket.http.response.start") => {
                let start = Start::of(&message::Given::of(given)?)?;
                exchange.log_access(py, start.status)?;
                let mut state = lock_attached(py, &self.state);
                state.denial = Some(start);
                state.phase = Phase::Denied;
            }
            (Phase::Denied, "websocket.http.response.body") => {
                return self.deny(exchange, py, given);
            }
            (Phase::Accepted, "websocket.send") => return Self::send_message(exchange, py, given),
            (Phase::Accepted, "websocket.close") => {
                let code = match message::value(given, intern!(py, "code"))? {
                    Some(code) => code.extract()?,
                    None => NORMAL,
                };
                let reason = match message::value(given, intern!(py, "reason"))? {
                    Some(reason) => reason.cast::<PyString>()?.to_str()?.to_owned(),
                    None => String::new(),
                };
                self.close(object, exchange, (code, Phase::Closed), &reason, CLOSE_TIMEOUT)?;
            }
            (Phase::Gone, _) => return Err(gone(py)),
            (Phase::Connecting, _) => {
                let said = format!(
                    "Expected ASGI message 'websocket.accept', 'websocket.close' or \
                     'websocket.http.response.start' but got '{kind}'."
                );
                return Err(alloc::runtime_error(py, said));
            }
            (Phase::Accepted, _) => {
                let said = format!(
                    "Expected ASGI message 'websocket.send' or 'websocket.close', but got '{kind}'."
                );
                return Err(alloc::runtime_error(py, said));
            }
            (Phase::Denied | Phase::Closed, _) => {
                let said = format!(
                    "Unexpected ASGI message '{kind}', after sending 'websocket.close' or \
                     response already completed."
                );
                return Err(alloc::runtime_error(py, said));
            }
        }
        HttpOperation::done(py)
    }

    /// Goes on from the handshake, once.
    fn go_on(&self, py: Python<'_>, phase: Phase) -> bool {
        let mut state = lock_attached(py, &self.state);
        let is_first = state.phase == Phase::Connecting;
        if is_first {
            state.phase = phase;
        }
        is_first
    }

    fn set_phase(&self, py: Python<'_>, phase: Phase) {
        lock_attached(py, &self.state).phase = phase;
    }

    fn accept(
        &self,
        object: &Bound<'_, PyAny>,
        exchange: &Exchange,
        given: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let py = object.py();
        let subprotocol = match message::value(given, intern!(py, "subprotocol"))? {
            Some(name) => Some(name.cast::<PyString>()?.to_str()?.as_bytes().to_vec()),
            None => None,
        };
        let subprotocol = subprotocol.filter(|name| !name.is_empty());
        let fields = message::fields(given)?;
        let server = exchange.connection.get().server(py);
        let own = server.fields.iter().map(|(name, value)| (&name[..], &value[..]));
        // What every response bears may be about what a WebSocket is none of.
        let own = own.filter(|(name, _)| *name != b"connection");
        let all = own.chain(fields.iter());
        if !self.go_on(py, Phase::Accepted) {
            return Err(gone(py));
        }
        let accepted = transmit(py, exchange.connection.get(), |filter, to| {
            filter.accept(exchange.id(), &self.head, subprotocol.as_deref(), all, to)
        })?;
        match accepted {
            // It is lost, of which the application hears by `receive`.
            None | Some(Err(ResponseError::Gone)) => return Ok(()),
            Some(Err(error)) => {
                self.set_phase(py, Phase::Connecting);
                return Err(message::refused(py, error));
            }
            Some(Ok(())) => {}
        }
        exchange.log_access(py, 101)?;
        if server.times.ping_interval > 0.0 {
            exchange.set_timer(object, server.times.ping_interval, intern!(py, "_ping"))?;
        }
        // What came behind the handshake.
        exchange.waiting.waiters.wake(py);
        Ok(())
    }

    /// A part of a response instead of a WebSocket.
    fn deny(
        &self,
        exchange: &Exchange,
        py: Python<'_>,
        given: &Bound<'_, PyAny>,
    ) -> PyResult<Py<HttpOperation>> {
        let body = message::payload(given, intern!(py, "body"))?;
        let more = message::flag(given, intern!(py, "more_body"))?;
        // SAFETY: a bytes object, which is alive during the call.
        let bytes = unsafe { bytes_of(body.as_ptr()) };
        let start = lock_attached(py, &self.state).denial.take();
        let sent = exchange.respond(py, |connection, id, out| {
            let Some(start) = &start else { return connection.body(id, bytes, !more, out) };
            let payload = if more { Payload::Stream } else { Payload::Whole(bytes) };
            connection.respond(id, start.status, start.fields.iter(), payload, out)?;
            if more && !bytes.is_empty() { connection.body(id, bytes, false, out) } else { Ok(()) }
        })?;
        exchange.sent(py, sent, !more)
    }

    fn send_message(
        exchange: &Exchange,
        py: Python<'_>,
        given: &Bound<'_, PyAny>,
    ) -> PyResult<Py<HttpOperation>> {
        let (has_bytes, text) = (
            message::value(given, intern!(py, "bytes"))?.is_some(),
            message::value(given, intern!(py, "text"))?,
        );
        let sent = match text {
            _ if has_bytes => {
                let bytes: Bound<'_, PyBytes> = message::payload(given, intern!(py, "bytes"))?;
                // SAFETY: a bytes object, which is alive during the call.
                Self::send_data(exchange, py, Kind::Binary, unsafe { bytes_of(bytes.as_ptr()) })?
            }
            Some(text) => {
                let text = text.cast::<PyString>()?.to_str()?;
                Self::send_data(exchange, py, Kind::Text, text.as_bytes())?
            }
            // There is nothing to be sent.
            None => return HttpOperation::done(py),
        };
        if !sent {
            return Err(gone(py));
        }
        exchange.drained(py)
    }

    fn send_data(exchange: &Exchange, py: Python<'_>, kind: Kind, data: &[u8]) -> PyResult<bool> {
        let sent = transmit(py, exchange.connection.get(), |filter, to| {
            filter.socket(to, |socket, deflater, out| socket.send(kind, data, deflater, out))
        })?;
        Ok(sent.flatten().unwrap_or(false))
    }

    /// Closes it; the client has so many seconds to say the same.
    fn close(
        &self,
        object: &Bound<'_, PyAny>,
        exchange: &Exchange,
        (code, phase): (u16, Phase),
        reason: &str,
        seconds: f64,
    ) -> PyResult<()> {
        let py = object.py();
        let sent = transmit(py, exchange.connection.get(), |filter, to| {
            filter.socket(to, |socket, _, out| {
                socket.is_close_sent() || socket.close(code, reason, out)
            })
        })?;
        if sent.flatten() == Some(false) {
            let said = format!("websocket.close: {code} is no code that may be sent");
            return Err(alloc::value_error(py, said));
        }
        self.set_phase(py, phase);
        exchange.waiting.waiters.wake(py);
        exchange.connection.get().say_end(py)?;
        exchange.set_timer(object, seconds, intern!(py, "_give_up"))
    }

    /// Ends it, as the server does: a WebSocket with 1012, a handshake with 503.
    pub(super) fn shut_down(&self, object: &Bound<'_, PyAny>, exchange: &Exchange) -> PyResult<()> {
        let py = object.py();
        let phase = lock_attached(py, &self.state).phase;
        match phase {
            Phase::Accepted => {
                lock_attached(py, &self.state).end = Some(RESTART);
                self.close(object, exchange, (RESTART, Phase::Gone), "", SOON)
            }
            Phase::Connecting if self.go_on(py, Phase::Denied) => {
                self.refuse(py, exchange, Refusal::Overloaded)
            }
            // It was accepted at this moment.
            Phase::Connecting => self.shut_down(object, exchange),
            // The client has less time left to answer.
            Phase::Closed => exchange.set_timer(object, SOON, intern!(py, "_give_up")),
            Phase::Denied | Phase::Gone => Ok(()),
        }
    }

    fn refuse(&self, py: Python<'_>, exchange: &Exchange, refusal: Refusal) -> PyResult<()> {
        self.set_phase(py, Phase::Denied);
        exchange.log_access(py, refusal.status())?;
        // Of one that is gone nobody has to be told.
        let _ = exchange.respond(py, |http, id, out| http.refuse(id, refusal, out))?;
        exchange.complete(py);
        Ok(())
    }

    /// Ends what the application has left.
    ///
    /// # Errors
    /// What ends the program.
    pub(super) fn ended(
        &self,
        object: &Bound<'_, PyAny>,
        exchange: &Exchange,
        result: &Result<Bound<'_, PyAny>, Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let py = object.py();
        let server = exchange.connection.get().server(py);
        let phase = lock_attached(py, &self.state).phase;
        let is_lost = exchange.waiting.is_lost(py);
        let is_error = match result {
            // It was told so itself.
            Err(error)
                if (is_lost || phase == Phase::Gone)
                    && error.is_instance_of::<PyConnectionResetError>() =>
            {
                true
            }
            Err(error) => {
                server.log_error(py, "Exception in ASGI application\n", Some(error))?;
                true
            }
            Ok(value) => {
                if !value.is_none() {
                    let said = format!("ASGI callable should return None, but returned '{value}'.");
                    server.log_error(py, &said, None)?;
                }
                false
            }
        };
        match phase {
            _ if is_lost => Ok(()),
            Phase::Connecting => {
                if !is_error {
                    let said = "ASGI callable returned without completing handshake.";
                    server.log_error(py, said, None)?;
                }
                self.refuse(py, exchange, Refusal::ProgramFailed)
            }
            Phase::Accepted => {
                let code = if is_error { FAILED } else { NORMAL };
                self.close(object, exchange, (code, Phase::Closed), "", CLOSE_TIMEOUT)
            }
            Phase::Denied => {
                let _ = exchange
                    .respond(py, |http, id, out| http.refuse(id, Refusal::ProgramFailed, out))?;
                Ok(())
            }
            Phase::Closed | Phase::Gone => Ok(()),
        }
    }

    /// Sends a ping, which is to be answered in time; and again after a while.
    pub(super) fn ping(&self, object: &Bound<'_, PyAny>, exchange: &Exchange) -> PyResult<()> {
        let py = object.py();
        let connection = exchange.connection.get();
        let times = connection.server(py).times;
        let expects_pong = {
            let state = lock_attached(py, &self.state);
            if state.phase != Phase::Accepted {
                return Ok(());
            }
            state.expects_pong
        };
        let pinged = transmit(py, connection, |filter, to| {
            if expects_pong && filter.pongs() == 0 {
                // The one before it has its time, which another one must not prolong.
                return Ok(None);
            }
            // Those to pings before it say nothing of this one.
            filter.take_pongs();
            filter.socket(to, |socket, _, out| socket.ping(b"", out)).map(Some)
        })?;
        // `None`: not yet.
        let Some(sent) = pinged else { return Ok(()) };
        if sent.is_some_and(|sent| sent != Some(true)) {
            return Ok(());
        }
        if sent.is_some() && times.ping_timeout > 0.0 {
            lock_attached(py, &self.state).expects_pong = true;
            exchange.set_timer(object, times.ping_timeout, intern!(py, "_pong_due"))?;
        }
        exchange.set_timer(object, times.ping_interval, intern!(py, "_ping"))
    }

    /// Gives the client up if it has not answered a ping.
    pub(super) fn expect_pong(
        &self,
        object: &Bound<'_, PyAny>,
        exchange: &Exchange,
    ) -> PyResult<()> {
        let py = object.py();
        {
            let mut state = lock_attached(py, &self.state);
            state.expects_pong = false;
            if state.phase != Phase::Accepted {
                return Ok(());
            }
        }
        let pongs = transmit(py, exchange.connection.get(), |filter, _| Ok(filter.pongs()))?;
        if pongs == Some(0) {
            return self.close(
                object,
                exchange,
                (FAILED, Phase::Gone),
                "keepalive ping timeout",
                SOON,
            );
        }
        Ok(())
    }
}

fn gone(py: Python<'_>) -> PyErr {
    alloc::error::<PyConnectionResetError>(py, "the client of the WebSocket has disconnected")
}

fn received(py: Python<'_>, name: &Bound<'_, PyString>, value: &Bound<'_, PyAny>) -> PyResult<Ref> {
    let message = alloc::dict(py)?;
    message.set_item(intern!(py, "type"), intern!(py, "websocket.receive"))?;
    message.set_item(name, value)?;
    Ok(message.into_any().into())
}
