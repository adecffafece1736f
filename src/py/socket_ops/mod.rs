//! `loop.sock_*`, and readers and writers.

pub(crate) mod readers;
pub(crate) mod sock;
pub(crate) mod sock_receive;
pub(crate) mod sock_work;
pub(crate) mod stale;
pub(crate) mod watch;
