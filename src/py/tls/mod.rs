//! TLS: the hot half of asyncio's `sslproto`.

pub(crate) mod tls_methods;
pub(crate) mod tls_receive;
pub(crate) mod tls_types;
