//! All of mio: waiting for descriptors, and the timers that bound the wait.
//!
//! In: registrations and deadlines. Out: [`Ready`] values from [`Driver::poll`], and due timers from
//! [`TimerHeap::pop_due`]. As in tokio, waiting and registering are two types: one thread at a time polls
//! the [`Driver`] by `&mut`, any thread uses the [`Handle`].
//!
//! Must never: run a callback, or know what a callback is.

mod driver;
mod handle;
mod registration;
mod slots;
mod timer_heap;

pub use driver::{Driver, PollEnd, Ready};
pub use handle::{Edges, Handle};
pub use registration::{Direction, IoTable};
pub use slots::Slots;
pub use timer_heap::TimerHeap;
