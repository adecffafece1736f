//! The protocol of one transport: the requests of its connection, and what happens to it.

use std::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Arc, OnceLock};

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

use super::scope::Ends;
use super::server::HttpServer;
use super::waiters::Waiters;
use super::waiting::Waiting;
use crate::http::{HttpFilter, RequestId};
use crate::py::cpython::alloc;
use crate::py::cpython::attach::lock_attached;
use crate::py::cpython::names::intern;
use crate::py::cpython::object::Ref;
use crate::py::event_loop::core::LoopCore;
use crate::py::transport::stream::StreamCore;
use crate::sync::Mutex;
use crate::transport::Ciphertext;

/// The protocol of one connection of an [`HttpServer`]. Its methods belong to the loop's thread.
#[pyclass(frozen, module = "loop_pool._core", name = "HTTPConnection", weakref)]
pub(crate) struct HttpConnection {
    pub(super) server: Py<HttpServer>,
    pub(super) state: Mutex<State>,
    /// The client sends no more.
    pub(super) is_ended: AtomicBool,
    /// Too much waits to be sent.
    pub(super) is_paused: AtomicBool,
    pub(super) had_request: AtomicBool,
    pub(super) ends: OnceLock<Ends>,
    pub(super) parts: OnceLock<Parts>,
    pub(super) is_lost: AtomicBool,
    /// Somebody waits for a message, or has.
    pub(super) has_readers: AtomicBool,
    /// Tasks that wait until enough is sent.
    pub(super) waiters: Waiters,
}

#[derive(Default)]
pub(super) struct State {
    /// Those that are not answered to the end, oldest first.
    pub(super) requests: Vec<(Arc<Waiting>, Ref)>,
    /// When it became idle, in seconds of the monotonic clock.
    pub(super) idle_since: f64,
    pub(super) timer: Option<Ref>,
    pub(super) request_timer: Option<Ref>,
    /// What the client still sends is thrown away until then.
    pub(super) linger_timer: Option<Ref>,
    /// What was answered last, of which not all is sent.
    pub(super) unsent: Option<String>,
}

/// The transport, and its native half.
pub(super) struct Parts {
    pub(super) transport: Py<PyAny>,
    pub(super) core: Py<StreamCore>,
}

/// The native half of a transport that speaks HTTP, in place of `core`, which has not been registered.
#[pyfunction]
#[pyo3(name = "_http_stream", signature = (core, connection, holder=None))]
pub(super) fn stream(
    core: &Bound<'_, StreamCore>,
    connection: &Bound<'_, HttpConnection>,
    holder: Option<&Bound<'_, PyAny>>,
) -> StreamCore {
    let py = core.py();
    let below = core.get().filter(py).map(|mut locked| locked.take());
    let server = connection.get().server(py);
    let filter = Box::new(HttpFilter::new(server.settings.clone(), below));
    StreamCore::filtered(core, filter, &Ciphertext::default(), holder)
}

#[pymethods]
impl HttpConnection {
    /// Of a server, and not connected yet.
    #[new]
    fn new(server: Py<HttpServer>) -> Self {
        Self {
            server,
            state: Mutex::new(State::default()),
            is_ended: AtomicBool::new(false),
            is_paused: AtomicBool::new(false),
            had_request: AtomicBool::new(false),
            ends: OnceLock::new(),
            parts: OnceLock::new(),
            is_lost: AtomicBool::new(false),
            has_readers: AtomicBool::new(false),
            waiters: Waiters::new(),
        }
    }

    /// The transport; `None`: it is not connected, or not any more.
    #[getter]
    fn transport(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.parts(py).map(|parts| parts.transport.clone_ref(py))
    }

    /// The client's address, `(host, port)`, if it has one.
    #[getter]
    fn client(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(self.ends(py)?.client.as_py().clone_ref(py))
    }

    /// Whether it waits for a request, and owes nothing.
    #[getter]
    fn is_idle(&self, py: Python<'_>) -> bool {
        self.is_quiet(py)
    }

    /// Whether a request has come.
    #[getter]
    fn had_request(&self) -> bool {
        self.had_request.load(Relaxed)
    }

    /// Closes the connection if it is idle, and otherwise when its requests are answered; a WebSocket with 1012.
    fn shutdown(&self, py: Python<'_>) -> PyResult<()> {
        self.drain(py);
        let requests = self.requests(py);
        if self.is_quiet(py) {
            return self.close(py);
        }
        for (waiting, request) in requests {
            if waiting.is_socket {
                request.as_py().bind(py).call_method0(intern!(py, "_shut_down"))?;
            }
        }
        Ok(())
    }

    /// What is under way: `"GET /path"`, or `"WebSocket /path"`.
    fn unfinished<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let mut all = Vec::new();
        let unsent = lock_attached(py, &self.state).unsent.clone();
        if let Some(unsent) = unsent
            && self.has_unsent(py)
        {
            all.push(alloc::text(py, &unsent)?);
        }
        for request in self.requests(py) {
            if let Some(named) = request.0.name(py)? {
                all.push(alloc::text(py, &named)?);
            }
        }
        alloc::list(py, &all)
    }

    // -- asyncio.Protocol ----------------------------------------------------------------------------

    fn connection_made(slf: &Bound<'_, Self>, transport: &Bound<'_, PyAny>) -> PyResult<()> {
        let (this, py) = (slf.get(), slf.py());
        let core = transport.getattr(intern!(py, "_core"))?.cast_into::<StreamCore>()?.unbind();
        let parts = Parts { transport: transport.clone().unbind(), core };
        let _ = this.parts.set(parts);
        this.server.get().add(slf)
    }

    #[pyo3(signature = (exc, /))]
    fn connection_lost(slf: &Bound<'_, Self>, exc: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let _ = exc;
        let (this, py) = (slf.get(), slf.py());
        // First, so that who is added behind it knows.
        this.is_ended.store(true, Release);
        this.is_lost.store(true, Release);
        let (requests, timers) = {
            let mut state = lock_attached(py, &this.state);
            let requests = std::mem::take(&mut state.requests);
            let State { timer, request_timer, linger_timer, .. } = &mut *state;
            (requests, [timer.take(), request_timer.take(), linger_timer.take()])
        };
        for request in requests {
            request.0.lose(py);
        }
        this.waiters.wake(py);
        for timer in timers.into_iter().flatten() {
            timer.as_py().bind(py).call_method0(intern!(py, "cancel"))?;
        }
        this.server.get().remove(slf)
    }

    fn eof_received(&self, py: Python<'_>) -> bool {
        self.is_ended.store(true, Release);
        let requests = self.requests(py);
        for request in &requests {
            request.0.waiters.wake(py);
        }
        // Whoever sends no more requests may read responses; of a WebSocket it is the end, and under TLS.
        let is_plain = self.ends(py).is_ok_and(|ends| !ends.is_tls);
        is_plain && !self.is_quiet(py) && requests.iter().all(|(waiting, _)| !waiting.is_socket)
    }

    fn pause_writing(&self) {
        self.is_paused.store(true, Release);
    }

    fn resume_writing(&self, py: Python<'_>) {
        self.is_paused.store(false, Release);
        self.waiters.wake(py);
    }

    /// What cannot come: the transport has HTTP in it.
    #[allow(clippy::unused_self, reason = "it is a method of Python's")]
    fn data_received(&self, py: Python<'_>, _data: &Bound<'_, PyAny>) -> PyResult<()> {
        Err(alloc::runtime_error(py, "the transport of this connection is not the HTTP server's"))
    }

    /// Something has come that the transport has made something of.
    fn _news(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::begin_here(slf)
    }

    /// Closes a connection that was idle for too long.
    fn _timed_out(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::end_idle(slf)
    }

    /// Refuses a request that has not come in time.
    fn _request_timed_out(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::refuse_late(slf)
    }

    /// Closes a connection whose client goes on to send what nobody reads.
    fn _give_up(&self, py: Python<'_>) -> PyResult<()> {
        self.close(py)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.server)?;
        if let Some(parts) = self.parts.get() {
            visit.call(&parts.transport)?;
            visit.call(&parts.core)?;
        }
        if let Some(ends) = self.ends.get() {
            visit.call(ends.client.as_py())?;
            visit.call(ends.server.as_py())?;
            if let Some(tls) = &ends.tls {
                visit.call(tls.as_py())?;
            }
        }
        self.waiters.visit(&visit)?;
        let Some(state) = self.state.lock_for_collector() else { return Ok(()) };
        for (_, request) in &state.requests {
            visit.call(request.as_py())?;
        }
        let timers = [&state.timer, &state.request_timer, &state.linger_timer];
        for timer in timers.into_iter().flatten() {
            visit.call(timer.as_py())?;
        }
        Ok(())
    }
}

impl HttpConnection {
    pub(super) fn server<'a>(&'a self, _py: Python<'a>) -> &'a HttpServer {
        self.server.get()
    }

    pub(super) fn loop_<'a, 'py>(&'a self, py: Python<'py>) -> &'a Bound<'py, LoopCore> {
        self.server.get().loop_.bind(py)
    }

    /// The transport and its native half; `None`: it is not connected, or not any more.
    pub(super) fn parts<'a>(&'a self, _py: Python<'a>) -> Option<&'a Parts> {
        if self.is_lost() { None } else { self.parts.get() }
    }

    pub(super) fn is_lost(&self) -> bool {
        self.is_lost.load(Acquire)
    }

    /// Notes that somebody waits for a message.
    pub(super) fn note_reader(&self) {
        self.has_readers.store(true, Release);
    }

    pub(super) fn requests(&self, py: Python<'_>) -> Vec<(Arc<Waiting>, Ref)> {
        let state = lock_attached(py, &self.state);
        let copy = |(waiting, request): &(_, Ref)| (Arc::clone(waiting), request.clone_ref(py));
        state.requests.iter().map(copy).collect()
    }

    /// Adds a request that has begun; not if the connection is lost.
    pub(super) fn add(&self, py: Python<'_>, waiting: Arc<Waiting>, request: Ref) -> bool {
        let mut state = lock_attached(py, &self.state);
        let is_there = !self.is_lost();
        if is_there {
            state.requests.push((waiting, request));
        }
        is_there
    }

    /// Whether several requests are under way.
    pub(super) fn has_several(&self, py: Python<'_>) -> bool {
        lock_attached(py, &self.state).requests.len() > 1
    }

    /// Whether the client sends no more.
    pub(super) fn is_ended(&self) -> bool {
        self.is_ended.load(Acquire)
    }

    /// Where it comes from and goes to, which is asked for once.
    pub(super) fn ends(&self, py: Python<'_>) -> PyResult<&Ends> {
        if let Some(ends) = self.ends.get() {
            return Ok(ends);
        }
        let ends = self.ask_ends(py)?;
        Ok(self.ends.get_or_init(|| ends))
    }

    fn ask_ends(&self, py: Python<'_>) -> PyResult<Ends> {
        let none = || Ref::from(py.None().into_bound(py));
        let Some(parts) = self.parts(py) else {
            return Ok(Ends { client: none(), server: none(), is_tls: false, tls: None });
        };
        let core = parts.core.get();
        let transport = parts.transport.bind(py);
        let ask = |name| transport.call_method1(intern!(py, "get_extra_info"), (name,));
        let peer = ask(intern!(py, "peername"))?;
        let own = ask(intern!(py, "sockname"))?;
        let is_tls = core.filter(py).is_some_and(|locked| locked.filter().below().is_some());
        let server = match address(&own)? {
            Some(address) => address,
            // A unix socket's path.
            None if own.is_truthy()? && own.is_instance_of::<pyo3::types::PyString>() => {
                alloc::tuple(py, [own, py.None().into_bound(py)])?.into_any().into()
            }
            None => none(),
        };
        let tls = match &self.server.get().describe_tls {
            Some(describe) if is_tls => match describe.bind(py).call1((transport,)) {
                Ok(tls) => Some(tls.into()),
                // The request goes on without.
                Err(error) => {
                    let error = error.into_value(py).into_bound(py).into_any();
                    let said = "Cannot describe a TLS connection to the application";
                    self.server.get().log_error(py, said, Some(&error))?;
                    None
                }
            },
            _ => None,
        };
        Ok(Ends { client: address(&peer)?.unwrap_or_else(none), server, is_tls, tls })
    }

    /// Takes note of an answered request. Any thread.
    pub(super) fn answered(&self, py: Python<'_>, id: RequestId, name: Option<String>) {
        self.server.get().count();
        let mut state = lock_attached(py, &self.state);
        let place = state.requests.iter().position(|(waiting, _)| waiting.id == id);
        let gone = place.map(|place| state.requests.remove(place));
        state.unsent = name;
        // What waited for this response goes on.
        let others = !state.requests.is_empty();
        drop(state);
        drop(gone);
        if others {
            self.waiters.wake(py);
        }
    }

    /// Whether not all is sent of what was written.
    pub(super) fn has_unsent(&self, py: Python<'_>) -> bool {
        self.parts(py).is_some_and(|parts| parts.core.get().stream.queued() > 0)
    }

    /// Closes the transport when all is sent.
    pub(super) fn close(&self, py: Python<'_>) -> PyResult<()> {
        let Some(parts) = self.parts(py) else { return Ok(()) };
        parts.transport.bind(py).call_method0(intern!(py, "close")).map(drop)
    }
}

/// Host and port of an address of Python's, if it has them.
fn address(address: &Bound<'_, PyAny>) -> PyResult<Option<Ref>> {
    match address.cast::<PyTuple>() {
        Ok(parts) if parts.len() >= 2 => {
            let pair = [parts.get_item(0)?, parts.get_item(1)?];
            Ok(Some(alloc::tuple(address.py(), pair)?.into_any().into()))
        }
        _ => Ok(None),
    }
}
