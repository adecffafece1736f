//! Who sleeps, who is woken, and (later) who works for whom.
//!
//! In: "I have nothing to do" from an owner, "I have posted something" from anybody. Out: verdicts
//! as values: whether to go to sleep, whether to wake. The protocol and the argument that it loses
//! no wakeup stand in `README.md` beside this file; its model is tested under loom.
//!
//! Must never: do the sleeping or the waking (the reactor does), or know what was posted.

mod idle;

pub use idle::{Idle, Park, Parked, Wake};
