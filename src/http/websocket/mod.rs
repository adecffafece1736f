//! WebSocket (RFC 6455) with permessage-deflate (RFC 7692), as the server has it.
//!
//! `tungstenite` has the headers of frames, their codes and the accept key; `flate2` inflates and deflates. What
//! they do with sockets or keep for a connection is not used.

mod deflate;
mod handshake;
mod masking;
mod socket;

pub use deflate::Deflater;
pub(super) use handshake::{check, write_accept};
pub use socket::{Kind, Message, Sink, SocketFailure, WebSocket};
