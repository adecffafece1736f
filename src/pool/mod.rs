//! What the loops of one pool share: how many there are, and where new work goes.
//!
//! In: the number of loops asked for, and each loop's load. Out: a [`LoopId`] for the next
//! coroutine. The threads themselves are Python's (`python/loop_pool/_pool.py`): they are named,
//! joined and seen by `threading` like any others.
//!
//! Must never: own a loop, or know Python.

mod builder;
mod placement;

pub use builder::{InvalidLoopCount, loop_count};
pub use placement::Placement;
