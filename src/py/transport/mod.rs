//! Native transports and listeners.

pub(crate) mod datagram;
pub(crate) mod datagram_methods;
pub(crate) mod datagram_turn;
pub(crate) mod layout;
pub(crate) mod listener;
pub(crate) mod server;
pub(crate) mod stream;
pub(crate) mod stream_methods;
pub(crate) mod stream_turn;
pub(crate) mod transport_core;
pub(crate) mod transport_methods;
