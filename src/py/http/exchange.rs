//! What one request has of its connection, whatever it is: a way to answer, and what is written of it.

use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Release},
};

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::connection::HttpConnection;
use super::message;
use super::operation::{Awaited, HttpOperation, Look};
use super::server::HttpServer;
use super::transmit::{look_at, transmit};
use super::waiters::Waiter;
use super::waiting::Waiting;
use crate::http::{Connection, Output, RequestId, ResponseError};
use crate::py::cpython::names::intern;
use crate::py::cpython::object::Ref;
use crate::py::transport::stream::StreamCore;

/// Bytes of a response that wait for those before it. With more of them its application waits.
const HELD: usize = 64 * 1024;

/// A request and the connection that it came on. Any thread.
pub(super) struct Exchange {
    pub(super) connection: Py<HttpConnection>,
    pub(super) core: Py<StreamCore>,
    /// Of the loop that runs it.
    pub(super) server: Py<HttpServer>,
    pub(super) waiting: Arc<Waiting>,
    is_complete: AtomicBool,
}

impl Exchange {
    pub(super) fn new(
        connection: Py<HttpConnection>,
        core: Py<StreamCore>,
        server: Py<HttpServer>,
        waiting: Arc<Waiting>,
    ) -> Self {
        Self { connection, core, server, waiting, is_complete: AtomicBool::new(false) }
    }

    pub(super) fn id(&self) -> RequestId {
        self.waiting.id
    }

    /// Whether the response has ended.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete.load(Acquire)
    }

    /// Lets `answer` answer this request. `None`: the connection is lost.
    ///
    /// # Errors
    /// What ends the program.
    pub(super) fn respond(
        &self,
        py: Python<'_>,
        answer: impl FnOnce(&mut Connection, RequestId, &mut Output) -> Result<(), ResponseError>,
    ) -> PyResult<Option<Result<(), ResponseError>>> {
        transmit(py, self.connection.get(), |filter, to| {
            filter.respond(to, |connection, out| answer(connection, self.id(), out))
        })
    }

    /// What `send` returns when something was sent.
    ///
    /// # Errors
    /// That the response is not valid.
    pub(super) fn sent(
        &self,
        py: Python<'_>,
        sent: Option<Result<(), ResponseError>>,
        is_last: bool,
    ) -> PyResult<Py<HttpOperation>> {
        match sent {
            // The connection is lost, of which the application hears by `receive`.
            None | Some(Err(ResponseError::Gone)) => {
                self.waiting.note_lost(py);
                return HttpOperation::done(py);
            }
            Some(Err(error)) => return Err(message::refused(py, error)),
            Some(Ok(())) => {}
        }
        if is_last {
            self.complete(py);
            return HttpOperation::done(py);
        }
        self.drained(py)
    }

    /// What is over when more may be sent.
    ///
    /// # Errors
    /// `MemoryError`.
    pub(super) fn drained(&self, py: Python<'_>) -> PyResult<Py<HttpOperation>> {
        let connection = &self.connection;
        if connection.get().is_above(py) || connection.get().has_several(py) && self.is_held(py) {
            let drained = Drained {
                connection: connection.clone_ref(py),
                core: self.core.clone_ref(py),
                id: self.id(),
            };
            return Py::new(py, HttpOperation::new(drained));
        }
        HttpOperation::done(py)
    }

    fn is_held(&self, py: Python<'_>) -> bool {
        is_held(py, self.connection.get(), &self.core, self.id())
    }

    /// Notes that the response has ended.
    pub(super) fn complete(&self, py: Python<'_>) {
        self.is_complete.store(true, Release);
        self.waiting.waiters.wake(py);
        let connection = self.connection.get();
        // Rarely: most responses leave at once.
        let unsent = connection.has_unsent(py);
        let name = if unsent { self.waiting.name(py).ok().flatten() } else { None };
        connection.answered(py, self.id(), name);
    }

    /// Logs the status of the response, of a request whose application is running.
    ///
    /// # Errors
    /// What the log raises.
    pub(super) fn log_access(&self, py: Python<'_>, status: u16) -> PyResult<()> {
        let server = self.server.get();
        let log = if self.waiting.is_socket { &server.websocket_log } else { &server.access_log };
        let Some(log) = log else { return Ok(()) };
        let Some(scope) = self.waiting.scope(py) else { return Ok(()) };
        log.bind(py).call1((scope.as_py(), status)).map(drop)
    }

    /// Calls one of the methods of `object`, without arguments, after some seconds, unless the connection is lost
    /// before. On the connection's loop; from another, there.
    ///
    /// # Errors
    /// If the loop is closed.
    pub(super) fn set_timer(
        &self,
        object: &Bound<'_, PyAny>,
        seconds: f64,
        method: &Bound<'_, PyString>,
    ) -> PyResult<()> {
        let py = object.py();
        let loop_ = self.connection.get().loop_(py);
        let call = object.getattr(method)?;
        if loop_.get().event_loop.local.is_owner() {
            let timer = loop_.call_method1(intern!(py, "call_later"), (seconds, call))?;
            self.waiting.keep_timer(py, method.clone().into_any().into(), timer.into());
            return Ok(());
        }
        let later = object.getattr(intern!(py, "_later"))?;
        loop_.call_method1(intern!(py, "call_soon_threadsafe"), (later, seconds, method)).map(drop)
    }

    /// Shows the collector what it holds.
    ///
    /// # Errors
    /// Those of the collector.
    pub(super) fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.connection)?;
        visit.call(&self.core)?;
        visit.call(&self.server)?;
        self.waiting.visit(visit)
    }
}

/// Whether much of a response waits for those before it.
fn is_held(
    py: Python<'_>,
    connection: &HttpConnection,
    core: &Py<StreamCore>,
    id: RequestId,
) -> bool {
    look_at(py, connection, core, |filter, _| filter.held(id)).is_some_and(|held| held > HELD)
}

/// That the client has read enough of what was sent.
struct Drained {
    connection: Py<HttpConnection>,
    core: Py<StreamCore>,
    id: RequestId,
}

impl Awaited for Drained {
    fn look(&self, py: Python<'_>, waiter: Option<Waiter>) -> PyResult<Look> {
        let connection = self.connection.get();
        if let Some(waiter) = waiter {
            connection.wait_for_drain(py, waiter);
        }
        let waits = connection.is_above(py)
            || connection.parts(py).is_some() && is_held(py, connection, &self.core, self.id);
        Ok(if waits { Look::Wait } else { Look::Ready(None) })
    }

    fn forget(&self, py: Python<'_>, future: &Ref) {
        self.connection.get().waiters.forget(py, future);
    }

    fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.connection)?;
        visit.call(&self.core)
    }
}
