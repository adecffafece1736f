//! What the connections of one loop share: the application, and how it is served.

use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PySet, PyString};

use super::scope::Constants;
use crate::http::{Readiness, ReadinessResponder, Settings};
use crate::py::cpython::alloc;
use crate::py::cpython::names::intern;
use crate::py::cpython::returned::Returned;
use crate::py::event_loop::core::LoopCore;
use crate::py::transport::listener::ListenerCore;

/// How long what a client owes may take, in seconds; 0, but for `keep_alive`: for ever.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// A connection without a request under way, once it has had one; `None`: for ever.
    pub(super) keep_alive: Option<f64>,
    /// A request, from its first byte to its last.
    pub(super) request: f64,
    /// Between two pings of a WebSocket.
    pub(super) ping_interval: f64,
    /// The answer to a ping.
    pub(super) ping_timeout: f64,
}

/// A path that is answered without Python: whether a server takes requests. One for all loops; any thread.
#[pyclass(frozen, module = "loop_pool._core", name = "HTTPReadiness")]
pub(crate) struct HttpReadiness(Arc<Readiness>);

#[pymethods]
impl HttpReadiness {
    /// `path`: as it stands in requests. It is not ready yet.
    #[new]
    fn new(path: &[u8]) -> Self {
        Self(Arc::new(Readiness::new(path.into())))
    }

    /// Says whether the server takes requests.
    fn set(&self, is_ready: bool) {
        self.0.set(is_ready);
    }
}

/// An ASGI application served on one loop. Made and used on its loop's thread; `requests` from any.
///
/// Use `loop_pool.serve`.
#[pyclass(frozen, module = "loop_pool._core", name = "HTTPServer")]
pub(crate) struct HttpServer {
    pub(super) loop_: Py<LoopCore>,
    /// The application, and what is called if a proxy speaks in the request's fields.
    pub(super) app: Py<PyAny>,
    pub(super) proxied_app: Py<PyAny>,
    pub(super) state: Py<PyDict>,
    pub(super) constants: Constants,
    pub(super) settings: Arc<Settings>,
    pub(super) times: Times,
    /// Sent with every response, before the application's.
    pub(super) fields: Vec<(Vec<u8>, Vec<u8>)>,
    /// Called with the scope of each handshake of a WebSocket, and the status of the response.
    pub(super) websocket_log: Option<Py<PyAny>>,
    /// Called with the scope and the status of each other response.
    pub(super) access_log: Option<Py<PyAny>>,
    /// Called with a message and an exception or `None`.
    pub(super) error_log: Py<PyAny>,
    /// Makes a coroutine of a request and a message that names a file, which sends that.
    pub(super) send_file: Option<Py<PyAny>>,
    /// Makes a dict of a transport, for the extension `tls` of ASGI.
    pub(super) describe_tls: Option<Py<PyAny>>,
    /// Makes a coroutine of an awaitable.
    as_coroutine: Py<PyAny>,
    /// Those of a task that starts at once.
    pub(super) task_keywords: Py<PyDict>,
    /// Loop -> the server of the same application on it.
    peers: Option<Py<PyDict>>,
    connections: Py<PySet>,
    tasks: Py<PySet>,
    requests: AtomicU64,
    is_leaving: AtomicBool,
}

#[pymethods]
impl HttpServer {
    /// `proxied_app`: called instead of `app` if the request has fields of a proxy. `http`: the options of the
    /// server by name; what is missing or `None` is as usual.
    #[new]
    #[pyo3(signature = (loop_, app, proxied_app, state, *, root_path, http))]
    fn new(
        loop_: &Bound<'_, LoopCore>,
        app: Py<PyAny>,
        proxied_app: Py<PyAny>,
        state: Py<PyDict>,
        root_path: &Bound<'_, PyString>,
        http: &Bound<'_, PyDict>,
    ) -> PyResult<Self> {
        let py = loop_.py();
        let given = |name: &str| -> PyResult<Option<Bound<'_, PyAny>>> {
            Ok(http.get_item(name)?.filter(|value| !value.is_none()))
        };
        let number = |name: &str, default: usize| -> PyResult<usize> {
            given(name)?.map_or(Ok(default), |value| value.extract())
        };
        let seconds =
            |name: &str| -> PyResult<f64> { given(name)?.map_or(Ok(0.0), |value| value.extract()) };
        let flag = |name: &str, default: bool| -> PyResult<bool> {
            given(name)?.map_or(Ok(default), |value| value.is_truthy())
        };
        let usual = Settings::default();
        let server: Option<String> = given("server")?.map(|name| name.extract()).transpose()?;
        let settings = Settings {
            max_head: number("max_head", usual.max_head)?,
            max_fields: number("max_fields", usual.max_fields)?,
            max_message: number("max_message", usual.max_message)?,
            max_messages: number("max_queue", usual.max_messages)?,
            websocket: flag("websocket", usual.websocket)?,
            deflate: flag("deflate", usual.deflate)?,
            server: server.map(Into::into),
            date: flag("date", usual.date)?,
            readiness: given("readiness")?
                .map(Bound::cast_into::<HttpReadiness>)
                .transpose()?
                .map(|readiness| Arc::clone(&readiness.get().0)),
            ..usual
        };
        let times = Times {
            keep_alive: given("keep_alive")?.map(|value| value.extract()).transpose()?,
            request: seconds("request_timeout")?,
            ping_interval: seconds("ping_interval")?,
            ping_timeout: seconds("ping_timeout")?,
        };
        let fields = match given("headers")? {
            Some(headers) => headers.extract()?,
            None => Vec::new(),
        };
        let asgi_version = match given("asgi_version")? {
            Some(version) => version.extract()?,
            None => "3.0".to_owned(),
        };
        let send_file = given("send_file")?.map(Bound::unbind);
        let task_keywords = alloc::dict(py)?;
        task_keywords.set_item(intern!(py, "loop"), loop_)?;
        task_keywords.set_item(intern!(py, "eager_start"), true)?;
        let needed = |name: &str| -> PyResult<Py<PyAny>> {
            let missing = || alloc::type_error(py, format!("HTTPServer: http has no {name}"));
            given(name)?.map(Bound::unbind).ok_or_else(missing)
        };
        Ok(Self {
            loop_: loop_.clone().unbind(),
            app,
            proxied_app,
            state,
            constants: Constants::new(root_path, &asgi_version, send_file.is_some())?,
            settings: Arc::new(settings),
            times,
            fields,
            websocket_log: given("websocket_log")?.map(Bound::unbind),
            access_log: given("access_log")?.map(Bound::unbind),
            error_log: needed("error_log")?,
            send_file,
            describe_tls: given("describe_tls")?.map(Bound::unbind),
            as_coroutine: needed("as_coroutine")?,
            task_keywords: task_keywords.unbind(),
            peers: given("peers")?.map(Bound::cast_into::<PyDict>).transpose()?.map(Bound::unbind),
            connections: PySet::empty(py)?.unbind(),
            tasks: PySet::empty(py)?.unbind(),
            requests: AtomicU64::new(0),
            is_leaving: AtomicBool::new(false),
        })
    }

    /// Requests that were answered. Any thread.
    #[getter]
    fn requests(&self) -> Returned<u64> {
        Returned(self.requests.load(Relaxed))
    }

    /// The connections that are there.
    #[getter]
    fn connections<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let all: Vec<_> = self.connections.bind(py).iter().collect();
        alloc::list(py, &all)
    }

    /// The tasks of requests that have not ended; the set itself.
    #[getter]
    fn tasks(&self, py: Python<'_>) -> Py<PySet> {
        self.tasks.clone_ref(py)
    }

    /// Answers for readiness at a listener without TLS, on connections that are accepted while no loop gets to them.
    /// Once for each listener; any thread.
    fn answer_at(&self, listener: &Bound<'_, ListenerCore>) {
        listener.get().answer_by(Arc::new(ReadinessResponder::new(Arc::clone(&self.settings))));
    }

    /// Lets every response from now on close its connection.
    fn leave(&self) {
        self.is_leaving.store(true, Release);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.loop_)?;
        visit.call(&self.app)?;
        visit.call(&self.proxied_app)?;
        visit.call(&self.state)?;
        visit.call(&self.websocket_log)?;
        visit.call(&self.access_log)?;
        visit.call(&self.error_log)?;
        visit.call(&self.send_file)?;
        visit.call(&self.describe_tls)?;
        visit.call(&self.as_coroutine)?;
        visit.call(&self.task_keywords)?;
        visit.call(&self.peers)?;
        visit.call(&self.connections)?;
        visit.call(&self.tasks)
    }
}

impl HttpServer {
    /// The server of the same application on a loop that may be another one; `None`: there is none.
    pub(super) fn on<'py>(
        &self,
        loop_: &Bound<'py, LoopCore>,
    ) -> PyResult<Option<Bound<'py, Self>>> {
        let Some(peers) = &self.peers else { return Ok(None) };
        let found = peers.bind(loop_.py()).get_item(loop_)?;
        Ok(found.map(Bound::cast_into::<Self>).transpose()?)
    }

    /// What every response bears besides the application's fields.
    pub(super) fn own_fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        const CLOSE: (&[u8], &[u8]) = (b"connection", b"close");
        let leaving = self.is_leaving.load(Acquire).then_some(CLOSE);
        self.fields.iter().map(|(name, value)| (&name[..], &value[..])).chain(leaving)
    }

    /// Counts an answered request. Any thread.
    pub(super) fn count(&self) {
        self.requests.fetch_add(1, Relaxed);
    }

    pub(super) fn add(&self, connection: &Bound<'_, PyAny>) -> PyResult<()> {
        self.connections.bind(connection.py()).add(connection)
    }

    pub(super) fn remove(&self, connection: &Bound<'_, PyAny>) -> PyResult<()> {
        self.connections.bind(connection.py()).discard(connection).map(drop)
    }

    /// Keeps a task that has not ended. Whatever it raises is the application's, and ends no program.
    pub(super) fn add_task(&self, task: &Bound<'_, PyAny>) -> PyResult<()> {
        self.tasks.bind(task.py()).add(task)?;
        self.loop_.get().contain(task.as_ptr(), true);
        Ok(())
    }

    pub(super) fn remove_task(&self, task: &Bound<'_, PyAny>) -> PyResult<()> {
        self.loop_.get().contain(task.as_ptr(), false);
        self.tasks.bind(task.py()).discard(task).map(drop)
    }

    /// A coroutine that awaits what an application has returned instead of one.
    pub(super) fn wrap<'py>(&self, made: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.as_coroutine.bind(made.py()).call1((made,))
    }

    /// Says what went wrong with the application.
    pub(super) fn log_error(
        &self,
        py: Python<'_>,
        message: &str,
        error: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let message = alloc::text(py, message)?;
        self.error_log.bind(py).call1((message, error)).map(drop)
    }
}
