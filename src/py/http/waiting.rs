//! Who waits for what the client of one request sends, and whether that client is there.

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::waiters::Waiters;
use crate::http::RequestId;
use crate::py::cpython::attach::lock_attached;
use crate::py::cpython::names::intern;
use crate::py::cpython::object::Ref;
use crate::sync::Mutex;

/// What a connection knows of a request that is not answered to the end. Any thread.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) id: RequestId,
    /// It is, or is to be, a WebSocket.
    pub(super) is_socket: bool,
    /// Those that wait for a message.
    pub(super) waiters: Waiters,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The client is gone.
    is_lost: bool,
    scope: Option<Ref>,
    /// What each calls, and its handle.
    timers: Vec<(Ref, Ref)>,
}

impl Waiting {
    pub(super) fn new(id: RequestId, is_socket: bool, scope: Ref) -> Self {
        let state = State { is_lost: false, scope: Some(scope), timers: Vec::new() };
        Self { id, is_socket, waiters: Waiters::new(), state: Mutex::new(state) }
    }

    /// Notes that the client is gone.
    pub(super) fn lose(&self, py: Python<'_>) {
        self.note_lost(py);
        self.waiters.wake(py);
        let timers = std::mem::take(&mut lock_attached(py, &self.state).timers);
        for (_, timer) in timers {
            // A handle of the loop's, which is there.
            let _ = timer.as_py().bind(py).call_method0(intern!(py, "cancel"));
        }
    }

    /// Keeps the handle of a timer, to be cancelled with the connection; cancels the one before it that was to call
    /// the same. On the loop's thread.
    pub(super) fn keep_timer(&self, py: Python<'_>, method: Ref, timer: Ref) {
        let mut state = lock_attached(py, &self.state);
        let known = state.timers.iter_mut().find(|(known, _)| known.as_ptr() == method.as_ptr());
        let before = if let Some(known) = known {
            Some(std::mem::replace(known, (method, timer)))
        } else {
            state.timers.push((method, timer));
            None
        };
        drop(state);
        if let Some((_, timer)) = before {
            // A handle of the loop's, which is there.
            let _ = timer.as_py().bind(py).call_method0(intern!(py, "cancel"));
        }
    }

    pub(super) fn note_lost(&self, py: Python<'_>) {
        lock_attached(py, &self.state).is_lost = true;
    }

    pub(super) fn is_lost(&self, py: Python<'_>) -> bool {
        lock_attached(py, &self.state).is_lost
    }

    /// The scope, until the application has ended.
    pub(super) fn scope(&self, py: Python<'_>) -> Option<Ref> {
        lock_attached(py, &self.state).scope.as_ref().map(|scope| scope.clone_ref(py))
    }

    /// The scope, which nobody needs any more.
    pub(super) fn take_scope(&self, py: Python<'_>) -> Option<Ref> {
        lock_attached(py, &self.state).scope.take()
    }

    /// What it asks for: `"GET /path"`, or `"WebSocket /path"`.
    ///
    /// # Errors
    /// If an application has changed its scope.
    pub(super) fn name(&self, py: Python<'_>) -> PyResult<Option<String>> {
        let Some(scope) = self.scope(py) else { return Ok(None) };
        let scope = scope.as_py().bind(py);
        let path = scope.get_item(intern!(py, "path"))?;
        let method = match scope.get_item(intern!(py, "method")) {
            Ok(method) => method.to_string(),
            Err(_) => "WebSocket".to_owned(),
        };
        Ok(Some(format!("{method} {path}")))
    }

    /// Shows the collector what it holds.
    ///
    /// # Errors
    /// Those of the collector.
    pub(super) fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.waiters.visit(visit)?;
        let Some(state) = self.state.lock_for_collector() else { return Ok(()) };
        for (_, timer) in &state.timers {
            visit.call(timer.as_py())?;
        }
        state.scope.as_ref().map_or(Ok(()), |scope| visit.call(scope.as_py()))
    }
}
