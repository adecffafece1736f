//! HTTP/1.0, HTTP/1.1 and WebSocket as a filter on bytes: the server's side.
//!
//! In: bytes that a transport has read, and a program's responses. Out: requests, pieces of bodies and messages as
//! values, and bytes to be sent. A [`Connection`] is one connection's state, a [`WebSocket`] what it becomes by an
//! upgrade; each is used by one thread at a time, whichever. [`Settings`] are shared by all connections and all
//! threads; an [`Output`] and a [`Deflater`] are memory of a thread. [`HttpFilter`] puts a connection on a stream, over
//! TLS or over nothing. `README.md` says how they are used, and what is measured.
//!
//! Must never: read or write a socket, wait, keep memory for a connection that is idle, or use Python; look at a
//! clock anywhere but in the filter.

#![forbid(unsafe_code)]

mod arrived;
mod chunked;
mod connection;
mod date;
mod facts;
mod filter;
mod head;
mod head_parser;
mod output;
mod refusal;
mod replies;
mod responder;
mod response;
mod settings;
mod target;
mod websocket;

pub use arrived::{BodyPart, SocketMessage};
pub use connection::{Activity, Connection, Event};
pub use filter::HttpFilter;
pub use head::{BodyLength, Fields, RequestHead, Version};
pub use output::Output;
pub use refusal::Refusal;
pub use replies::{Around, RequestId};
pub use responder::ReadinessResponder;
pub use response::{Payload, ResponseError};
pub use settings::{MAX_FIELDS, Readiness, Settings};
pub use websocket::{Deflater, Kind, Message, Sink, SocketFailure, WebSocket};

#[cfg(all(test, not(loom)))]
mod tests;
