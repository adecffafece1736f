//! Sleeping, waking and stealing between the threads of a pool.
//!
//! In: an owner without work; posts from any thread; jobs that a thread cannot run soon. Out: decisions as
//! values (whether to sleep, whether to wake, whether a thread was woken to search), and jobs, to the
//! thread that found them. `README.md` beside this file has the protocols and the argument that no wakeup
//! and no job is lost; their models run under loom.
//!
//! Must never: sleep or wake (the reactor does), or know what was posted or what a job is.

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
