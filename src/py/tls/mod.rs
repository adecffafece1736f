//! The hot half of asyncio's `sslproto`: what each message needs while nothing is unusual.
//!
//! In: encrypted bytes, content to send. Out: content for the protocol, bytes for the transport. Must never:
//! take part in a handshake or a shutdown: those are asyncio's.

pub(crate) mod tls_methods;
pub(crate) mod tls_receive;
pub(crate) mod tls_types;
