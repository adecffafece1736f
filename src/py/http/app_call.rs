//! Calls of the application: the beginning and the end of the task that answers a request.

use std::sync::Arc;

use pyo3::ffi;
use pyo3::prelude::*;

use super::connection::HttpConnection;
use super::exchange::Exchange;
use super::request::HttpRequest;
use super::scope::{is_proxied, scope};
use super::server::HttpServer;
use super::waiting::Waiting;
use super::websocket::Socket;
use crate::http::{BodyLength, RequestHead, RequestId};
use crate::py::asyncio::state::state;
use crate::py::cpython::alloc;
use crate::py::cpython::names::intern;
use crate::py::event_loop::eager;

/// Calls the application for a request, and lets its task begin: on this loop, whose server is given; in the
/// transport's context, if that is its loop's.
///
/// # Errors
/// What ends the program.
pub(super) fn begin(
    connection: &Bound<'_, HttpConnection>,
    server: &Bound<'_, HttpServer>,
    id: RequestId,
    head: Box<RequestHead>,
) -> PyResult<()> {
    let py = connection.py();
    let parts = connection.get().parts(py);
    // It was lost while requests before this one began.
    let Some(parts) = parts else { return Ok(()) };
    let shared = (&server.get().constants, &server.get().state);
    let scope = scope(py, shared, connection.get().ends(py)?, &head)?;
    let app = if is_proxied(head.fields()) { &server.get().proxied_app } else { &server.get().app };
    let has_body = head.body() != BodyLength::None;
    let waiting = Waiting::new(id, head.is_websocket(), scope.clone().into_any().into());
    let waiting = Arc::new(waiting);
    let socket = head.is_websocket().then(|| Box::new(Socket::new(head)));
    let exchange = Exchange::new(
        connection.clone().unbind(),
        parts.core.clone_ref(py),
        server.clone().unbind(),
        Arc::clone(&waiting),
    );
    let request = Bound::new(py, HttpRequest::new(exchange, socket, has_body))?;
    if !connection.get().add(py, waiting, request.clone().into_any().into()) {
        // It was lost meanwhile.
        return Ok(());
    }
    let (receive, send) = HttpRequest::methods(&request)?;
    let begun = app.bind(py).call1((scope, receive, send)).and_then(|made| start(&request, made));
    match begun {
        Ok(task) => {
            // A factory of the program's may have made something else, which is asked.
            let is_done = if state().task.is_exact(task.as_ptr()) {
                // SAFETY: a live task of the class that was recognised.
                unsafe { state().task.is_done(task.as_ptr()) }
            } else {
                task.call_method0(intern!(py, "done"))?.is_truthy()?
            };
            if is_done {
                return HttpRequest::end(&request, &task);
            }
            server.get().add_task(&task)?;
            let ended = request.getattr(intern!(py, "_ended"))?;
            task.call_method1(intern!(py, "add_done_callback"), (ended,)).map(drop)
        }
        Err(error) => {
            let error = error.into_value(py).into_bound(py).into_any();
            HttpRequest::end_with(&request, Err(error))
        }
    }
}

/// Makes the task of what the application has returned, and lets it begin.
fn start<'py>(
    request: &Bound<'py, HttpRequest>,
    made: Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = request.py();
    let server = request.get().exchange.server.get();
    let loop_ = server.loop_.bind(py);
    // SAFETY: a live object.
    let is_coroutine = unsafe { ffi::PyCoro_CheckExact(made.as_ptr()) != 0 };
    let coroutine = if is_coroutine { made } else { server.wrap(&made)? };
    let positional = alloc::tuple(py, [&coroutine])?;
    if let Some(task) = eager::start_now(loop_, &positional, server.task_keywords.bind(py))? {
        return Ok(task);
    }
    let keywords = alloc::dict(py)?;
    if !loop_.get().flags.has_task_factory() {
        keywords.set_item(intern!(py, "eager_start"), true)?;
    }
    loop_.call_method(intern!(py, "create_task"), (coroutine,), Some(&keywords))
}
