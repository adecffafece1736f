//! One request, as an application has it: `receive` and `send`, awaited on any loop.

use std::sync::OnceLock;

use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use super::connection::HttpConnection;
use super::exchange::Exchange;
use super::message::{self, Given, OwnFields, Start};
use super::operation::{Awaited, HttpOperation, Look};
use super::transmit::look_at;
use super::waiters::Waiter;
use super::websocket::Socket;
use crate::http::{Around, BodyPart, Payload, Refusal};
use crate::py::cpython::alloc;
use crate::py::cpython::attach::lock_attached;
use crate::py::cpython::names::{intern, is_named};
use crate::py::cpython::object::Ref;
use crate::py::cpython::payload::bytes_of;
use crate::sync::Mutex;

/// The status of a hint.
const EARLY_HINTS: u16 = 103;

/// The connection that an application is called for: one request, or a WebSocket.
#[pyclass(frozen, module = "loop_pool._core", name = "HTTPRequest")]
pub(crate) struct HttpRequest {
    pub(super) exchange: Exchange,
    /// Of a WebSocket.
    pub(super) socket: Option<Box<Socket>>,
    has_body: bool,
    pub(super) state: Mutex<Progress>,
}

/// How far it is.
#[derive(Debug)]
pub(super) struct Progress {
    pub(super) phase: Phase,
    /// `http.response.start`, which waits for the first part of the body.
    pub(super) start: Option<Start>,
    pub(super) has_trailers: bool,
    /// Of a part of a file that is sent without its bytes coming by here.
    pub(super) around: Option<Around>,
    /// Those that have been sent, which wait for the last ones.
    trailers: Vec<OwnFields>,
    /// Whether all of the body was handed out.
    is_body_taken: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing of a response.
    Open,
    /// Its head is known, and not sent.
    Started,
    Body,
    /// A part of a file is being sent.
    File,
    Trailers,
}

/// That a message of the client's has come.
struct Message(Py<HttpRequest>);

impl Awaited for Message {
    fn look(&self, py: Python<'_>, waiter: Option<Waiter>) -> PyResult<Look> {
        let this = self.0.get();
        // First, so that whoever makes a message meanwhile wakes it.
        if let Some(waiter) = waiter {
            this.exchange.waiting.waiters.push(py, waiter);
            this.exchange.connection.get().note_reader();
        }
        let message = match &this.socket {
            Some(socket) => socket.next_message(py, &this.exchange)?,
            None => this.next_message(py)?,
        };
        Ok(message.map_or(Look::Wait, |message| Look::Ready(Some(message))))
    }

    fn forget(&self, py: Python<'_>, future: &Ref) {
        self.0.get().exchange.waiting.waiters.forget(py, future);
    }

    fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.0)
    }
}

impl HttpRequest {
    pub(super) fn new(exchange: Exchange, socket: Option<Box<Socket>>, has_body: bool) -> Self {
        let progress = Progress {
            phase: Phase::Open,
            start: None,
            has_trailers: false,
            around: None,
            trailers: Vec::new(),
            is_body_taken: false,
        };
        Self { exchange, socket, has_body, state: Mutex::new(progress) }
    }

    /// `receive` and `send` of this request, as getting the attributes would make them, without looking them up.
    ///
    /// # Errors
    /// `MemoryError`.
    pub(super) fn methods<'py>(
        slf: &Bound<'py, Self>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        static METHODS: OnceLock<[Py<PyAny>; 2]> = OnceLock::new();
        let py = slf.py();
        let [receive, send] = if let Some(methods) = METHODS.get() {
            methods
        } else {
            let of = |name| slf.get_type().getattr(name).map(Bound::unbind);
            let found = [of(intern!(py, "receive"))?, of(intern!(py, "send"))?];
            METHODS.get_or_init(|| found)
        };
        Ok((bound_to(receive.bind(py), slf)?, bound_to(send.bind(py), slf)?))
    }

    // -- the client's messages -----------------------------------------------------------------------

    fn next_message(&self, py: Python<'_>) -> PyResult<Option<Ref>> {
        let exchange = &self.exchange;
        let connection = exchange.connection.get();
        if exchange.is_complete() || exchange.waiting.is_lost(py) {
            return message::disconnect(py).map(Some);
        }
        let is_taken = {
            let mut progress = lock_attached(py, &self.state);
            let is_taken = progress.is_body_taken;
            progress.is_body_taken |= !self.has_body;
            is_taken
        };
        if !is_taken && !self.has_body {
            return message::body(py, &BodyPart::Data(Vec::new(), false, None));
        }
        let is_ended = connection.is_ended();
        let part = if is_taken {
            BodyPart::Nothing
        } else {
            let part = look_at(py, connection, &exchange.core, |filter, _| {
                filter.take_body(exchange.id())
            });
            part.unwrap_or(BodyPart::Cut)
        };
        if let BodyPart::Data(_, more, _) = part {
            lock_attached(py, &self.state).is_body_taken |= !more;
            return message::body(py, &part);
        }
        // Somebody else may just have taken the last part; then nothing but the end can come.
        let is_taken = is_taken || lock_attached(py, &self.state).is_body_taken;
        if is_taken && !is_ended || !is_taken && part == BodyPart::Nothing {
            return Ok(None);
        }
        // It knows, and whatever it still sends is for nobody.
        exchange.waiting.note_lost(py);
        message::disconnect(py).map(Some)
    }

    // -- the application's messages ------------------------------------------------------------------

    fn send_http(slf: &Bound<'_, Self>, message: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let (this, py) = (slf.get(), slf.py());
        let done = || HttpOperation::done(py).map(Py::into_any);
        let given = Given::of(message)?;
        let kind = given.kind();
        if this.exchange.waiting.is_lost(py) {
            return done();
        }
        if this.exchange.is_complete() {
            let said =
                format!("Unexpected ASGI message '{kind}' sent, after response already completed.");
            return Err(alloc::runtime_error(py, said));
        }
        let phase = lock_attached(py, &this.state).phase;
        let is = |name: &Bound<'_, PyString>| {
            // SAFETY: two strings.
            unsafe { is_named(kind.as_ptr(), name.as_ptr()) }
        };
        let expected = match phase {
            Phase::Open if is(intern!(py, "http.response.start")) => {
                let start = Start::of(&given)?;
                let status = start.status;
                {
                    let mut progress = lock_attached(py, &this.state);
                    progress.has_trailers = start.has_trailers;
                    progress.start = Some(start);
                    progress.phase = Phase::Started;
                }
                this.exchange.log_access(py, status)?;
                return done();
            }
            Phase::Open if is(intern!(py, "http.response.early_hint")) => {
                return this.send_hint(py, message).map(Py::into_any);
            }
            Phase::Started | Phase::Body if is(intern!(py, "http.response.body")) => {
                return this.send_body(py, phase, &given).map(Py::into_any);
            }
            Phase::Started | Phase::Body
                if is(intern!(py, "http.response.pathsend"))
                    || is(intern!(py, "http.response.zerocopysend")) =>
            {
                return Self::send_file(slf, message);
            }
            Phase::Trailers if is(intern!(py, "http.response.trailers")) => {
                let fields = message::fields(message)?;
                let more = message::flag(message, intern!(py, "more_trailers"))?;
                let mut progress = lock_attached(py, &this.state);
                progress.trailers.push(fields);
                if more {
                    drop(progress);
                    return done();
                }
                let all = std::mem::take(&mut progress.trailers);
                drop(progress);
                let sent = this.exchange.respond(py, |connection, id, out| {
                    connection.trailers(id, all.iter().flat_map(OwnFields::iter), out)
                })?;
                return this.exchange.sent(py, sent, true).map(Py::into_any);
            }
            Phase::File => {
                let said = format!("Unexpected ASGI message '{kind}', while a file is being sent.");
                return Err(alloc::runtime_error(py, said));
            }
            Phase::Open => "http.response.start",
            Phase::Started | Phase::Body => "http.response.body",
            Phase::Trailers => "http.response.trailers",
        };
        let said = format!("Expected ASGI message '{expected}', but got '{kind}'.");
        Err(alloc::runtime_error(py, said))
    }

    /// 103: what the client may load meanwhile.
    fn send_hint(&self, py: Python<'_>, given: &Bound<'_, PyAny>) -> PyResult<Py<HttpOperation>> {
        let links = message::links(given)?;
        let sent = self.exchange.respond(py, |connection, id, out| {
            connection.interim(id, EARLY_HINTS, links.iter(), out)
        })?;
        self.exchange.sent(py, sent, false)
    }

    fn send_body(
        &self,
        py: Python<'_>,
        phase: Phase,
        given: &Given<'_, '_>,
    ) -> PyResult<Py<HttpOperation>> {
        let (body, more) = (given.body()?, given.has_more()?);
        // SAFETY: a bytes object, which is alive during the call.
        let bytes = unsafe { bytes_of(body.as_ptr()) };
        let (start, has_trailers) = {
            let mut progress = lock_attached(py, &self.state);
            (progress.start.take(), progress.has_trailers)
        };
        let is_last = !more && !has_trailers;
        let sent = match (phase, &start) {
            (Phase::Started, Some(start)) => {
                let own = self.exchange.server.get().own_fields();
                let fields = own.chain(start.fields.iter());
                self.exchange.respond(py, |connection, id, out| {
                    if is_last {
                        let whole = Payload::Whole(bytes);
                        return connection.respond(id, start.status, fields, whole, out);
                    }
                    connection.respond(id, start.status, fields, Payload::Stream, out)?;
                    if bytes.is_empty() { Ok(()) } else { connection.body(id, bytes, false, out) }
                })?
            }
            _ => self
                .exchange
                .respond(py, |connection, id, out| connection.body(id, bytes, is_last, out))?,
        };
        match sent {
            Some(Ok(())) if !is_last => {
                let next = if more { Phase::Body } else { Phase::Trailers };
                lock_attached(py, &self.state).phase = next;
            }
            // The head was not sent either, and another body may fit it.
            Some(Err(_)) if is_last => lock_attached(py, &self.state).start = start,
            _ => {}
        }
        self.exchange.sent(py, sent, is_last)
    }

    // -- the end of the application ------------------------------------------------------------------

    /// Ends what the application has left.
    ///
    /// # Errors
    /// What ends the program.
    fn ended(
        &self,
        py: Python<'_>,
        result: Result<Bound<'_, PyAny>, Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let exchange = &self.exchange;
        let (connection, server) = (exchange.connection.get(), exchange.server.get());
        let phase = lock_attached(py, &self.state).phase;
        let (is_complete, is_lost) = (exchange.is_complete(), exchange.waiting.is_lost(py));
        let is_error = result.is_err();
        match result {
            Err(error) => {
                server.log_error(py, "Exception in ASGI application\n", Some(&error))?;
            }
            Ok(value) if !value.is_none() => {
                let said = format!("ASGI callable should return None, but returned '{value}'.");
                server.log_error(py, &said, None)?;
                if is_complete {
                    return connection.close(py);
                }
            }
            Ok(_) => {}
        }
        if is_complete {
            return Ok(());
        }
        if is_lost {
            // Nobody waits for the rest.
            exchange.complete(py);
            return connection.close(py);
        }
        if !is_error {
            let what = match phase {
                Phase::Open | Phase::Started => "starting",
                _ => "completing",
            };
            let said = format!("ASGI callable returned without {what} response.");
            server.log_error(py, &said, None)?;
        }
        if phase == Phase::Open {
            exchange.log_access(py, Refusal::ProgramFailed.status())?;
        }
        // Of one that is gone nobody has to be told.
        let _ =
            exchange.respond(py, |http, id, out| http.refuse(id, Refusal::ProgramFailed, out))?;
        exchange.complete(py);
        Ok(())
    }

    /// Ends what a task has left that is over.
    ///
    /// # Errors
    /// What ends the program.
    pub(super) fn end(slf: &Bound<'_, Self>, task: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let result = match task.call_method0(intern!(py, "result")) {
            Ok(value) => Ok(value),
            Err(error) => Err(error.into_value(py).into_bound(py).into_any()),
        };
        Self::end_with(slf, result)
    }

    /// Ends what an application has left that has returned, or raised.
    ///
    /// # Errors
    /// What ends the program.
    pub(super) fn end_with(
        slf: &Bound<'_, Self>,
        result: Result<Bound<'_, PyAny>, Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let ended = match &this.socket {
            Some(socket) => socket.ended(slf.as_any(), &this.exchange, &result),
            None => this.ended(py, result),
        };
        drop(this.exchange.waiting.take_scope(py));
        ended?;
        HttpConnection::rest(this.exchange.connection.bind(py))
    }
}

/// A method of a class, bound to an object of that.
fn bound_to<'py>(
    method: &Bound<'py, PyAny>,
    object: &Bound<'py, HttpRequest>,
) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: live objects; what a look-up of the method would call is called, if there is such.
    unsafe {
        let class = ffi::Py_TYPE(object.as_ptr()).cast();
        let made = match (*ffi::Py_TYPE(method.as_ptr())).tp_descr_get {
            Some(bind) => bind(method.as_ptr(), object.as_ptr(), class),
            None => ffi::Py_NewRef(method.as_ptr()),
        };
        Bound::from_owned_ptr_or_err(object.py(), made)
    }
}

#[pymethods]
impl HttpRequest {
    /// The next message of the client, to be awaited. Any loop.
    fn receive(slf: Bound<'_, Self>) -> PyResult<Py<HttpOperation>> {
        let py = slf.py();
        Py::new(py, HttpOperation::new(Message(slf.unbind())))
    }

    /// Sends a message to the client; to be awaited. Any loop.
    fn send(slf: &Bound<'_, Self>, message: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let this = slf.get();
        match &this.socket {
            Some(socket) => socket.send(slf.as_any(), &this.exchange, message).map(Py::into_any),
            None => Self::send_http(slf, message),
        }
    }

    /// Begins a part of a body that is so many bytes of a file, and sends the head. `True`: the part is to be sent;
    /// `False`: the response has no body; `None`: the client is gone.
    fn _begin_file(&self, py: Python<'_>, length: u64, more: bool) -> PyResult<Option<bool>> {
        self.begin_file(py, length, more)
    }

    /// The transport, which is to send these bytes next; `None`: they have to be sent by `_piece`.
    fn _lend(&self, py: Python<'_>, length: u64) -> PyResult<Option<Py<PyAny>>> {
        self.lend(py, length)
    }

    /// Sends a piece of the file; to be awaited.
    fn _piece(&self, py: Python<'_>, piece: &Bound<'_, PyBytes>) -> PyResult<Py<HttpOperation>> {
        self.send_piece(py, piece)
    }

    /// Ends the part that is a file.
    fn _end_file(&self, py: Python<'_>, more: bool) -> PyResult<Py<HttpOperation>> {
        self.end_file(py, more)
    }

    /// Whether nothing more can be sent to the client.
    #[getter]
    fn _is_gone(&self, py: Python<'_>) -> bool {
        self.exchange.is_complete() || self.exchange.waiting.is_lost(py)
    }

    /// Notes that the client is gone.
    fn _lose(&self, py: Python<'_>) {
        self.exchange.waiting.note_lost(py);
    }

    /// For another loop that sets a timer.
    fn _later(slf: &Bound<'_, Self>, seconds: f64, method: &Bound<'_, PyString>) -> PyResult<()> {
        slf.get().exchange.set_timer(slf.as_any(), seconds, method)
    }

    /// For the timer of a WebSocket.
    fn _ping(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        let socket = this.socket.as_ref();
        socket.map_or(Ok(()), |socket| socket.ping(slf.as_any(), &this.exchange))
    }

    /// For the timer of a ping.
    fn _pong_due(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        let socket = this.socket.as_ref();
        socket.map_or(Ok(()), |socket| socket.expect_pong(slf.as_any(), &this.exchange))
    }

    /// For the timer of a WebSocket whose client has not answered a close.
    fn _give_up(&self, py: Python<'_>) -> PyResult<()> {
        self.exchange.connection.get().close(py)
    }

    /// Ends a WebSocket, as the server does.
    fn _shut_down(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        let socket = this.socket.as_ref();
        socket.map_or(Ok(()), |socket| socket.shut_down(slf.as_any(), &this.exchange))
    }

    /// For the end of its task.
    fn _ended(slf: &Bound<'_, Self>, task: &Bound<'_, PyAny>) -> PyResult<()> {
        slf.get().exchange.server.get().remove_task(task)?;
        Self::end(slf, task)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.exchange.visit(&visit)
    }
}
