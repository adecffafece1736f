//! `loop.sock_*`, and readers and writers of descriptors.
//!
//! In: a socket and an operation. Out: the result, or an object to await. Must never: use a descriptor's
//! number after its socket has been closed.

pub(crate) mod readers;
pub(crate) mod sock;
pub(crate) mod sock_receive;
pub(crate) mod sock_work;
pub(crate) mod stale;
pub(crate) mod watch;
