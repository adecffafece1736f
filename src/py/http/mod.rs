//! ASGI on the HTTP layer: requests become calls of an application, its messages responses.
//!
//! In: requests and messages that a stream's filter has taken out of bytes (`src/http/filter.rs`); `send` and
//! `receive`, awaited on any loop. Out: tasks, and bytes that the transport sends. A
//! [`HttpServer`](server::HttpServer) is what the connections of one loop share, a
//! [`HttpConnection`](connection::HttpConnection) the protocol of one transport, a
//! [`HttpRequest`](request::HttpRequest) what an application is given to answer one request, and an
//! [`HttpOperation`](operation::HttpOperation) what its `receive` and `send` return. A message that names a file is sent by
//! a coroutine of Python's (`_serve/files.py`), as files are opened and read there (`file_part.rs`).
//!
//! A connection belongs to a loop, whose thread calls what `asyncio.Protocol` has and sets the timers. A request runs on
//! that loop, or, if that is behind or stuck, on the one that has begun it, with the server, the lifespan state and the application of
//! that one. So whatever a request needs of its connection is behind a lock or atomic, and `transmit` is the one way in
//! which it reaches the connection's filter: it sends at once on the connection's thread, and queues on any other.
//!
//! | what | lock |
//! |---|---|
//! | requests, waiters and timers of a connection | the connection's |
//! | how far a request is | the request's |
//! | HTTP and the order of what is sent | the filter's, by `transmit` and `look_at` |
//!
//! No two of them are held at once. Who waits for a message looks for one again after its waiter is in place, and whoever makes a
//! message wakes the waiters afterwards: so no wake is lost.
//!
//! Must never: call Python under the lock of a connection, of a request or of a filter.

mod app_call;
pub(crate) mod connection;
mod connection_flow;
mod connection_turn;
mod exchange;
mod file_part;
mod message;
mod operation;
mod request;
mod scope;
mod server;
mod transmit;
mod waiters;
mod waiting;
mod websocket;

use pyo3::prelude::*;

/// Adds the classes to the module.
pub(crate) fn export(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<server::HttpServer>()?;
    module.add_class::<server::HttpReadiness>()?;
    module.add_class::<connection::HttpConnection>()?;
    module.add_class::<request::HttpRequest>()?;
    module.add_class::<operation::HttpOperation>()?;
    waiters::export(module)?;
    module.add_function(wrap_pyfunction!(connection::stream, module)?)
}
