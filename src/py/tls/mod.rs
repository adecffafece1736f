//! The hot half of asyncio's `sslproto`: encryption and decryption of messages in the ordinary state.
//!
//! In: encrypted bytes, data to send. Out: data for the protocol, bytes for the transport. Must never: take
//! part in a handshake or a shutdown, which are asyncio's.

pub(crate) mod tls_methods;
pub(crate) mod tls_receive;
pub(crate) mod tls_types;
