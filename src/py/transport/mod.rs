//! Native transports and listeners: asyncio's interface on the state machines of `src/transport`.
//!
//! In: calls of a program, turns of a loop. Out: calls of the protocol, in the loop's thread, in order.
//! Must never: change a connection in a thread that does not own its loop.

pub(crate) mod datagram;
pub(crate) mod datagram_methods;
pub(crate) mod datagram_turn;
pub(crate) mod filtered_methods;
pub(crate) mod filtered_turn;
pub(crate) mod layout;
pub(crate) mod listener;
pub(crate) mod protocol_kind;
pub(crate) mod server;
pub(crate) mod stream;
pub(crate) mod stream_methods;
pub(crate) mod stream_turn;
pub(crate) mod transport_core;
pub(crate) mod transport_methods;
