//! Who sleeps, who is woken, and who works for whom.
//!
//! In: "I have nothing to do" from an owner, "I have posted something" from anybody, jobs from a
//! thread that has more than it will get to soon. Out: verdicts as values (whether to go to sleep,
//! whether to wake, whether one was woken to search) and jobs, to the thread that found them. The
//! two protocols, and the arguments that they lose no wakeup and sleep through no job, stand in
//! `README.md` beside this file; their models are tested under loom.
//!
//! Must never: do the sleeping or the waking (the reactor does), or know what was posted or what a
//! job is.

mod deque;
mod idle;
#[cfg(all(test, loom))]
mod loom_run_queues;
#[cfg(all(test, loom))]
mod loom_tests;
mod run_queues;
mod search;
mod shared;
mod sleepers;

pub use idle::{Idle, Park, Parked, SearchKind, SearchPermit, Wake};
pub use run_queues::{Homes, LookOutcome, RunQueues, Watch};
pub use shared::{SchedulerShared, Worker};
pub use sleepers::{Sleepers, WorkerIndex};
