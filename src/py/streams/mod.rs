//! `StreamReader` and `StreamWriter` without Python frames.
//!
//! In: received bytes, and the waiter. Out: what a read requested. Must never: run Python in a reader's
//! critical section.

pub(crate) mod reader;
pub(crate) mod reader_methods;
pub(crate) mod reader_state;
pub(crate) mod stream_future;
pub(crate) mod stream_read;
mod stream_read_methods;
pub(crate) mod stream_waiter;
pub(crate) mod writer;
