//! What the loops of one pool share: how many there are, where new work goes, and who does whose
//! socket work.
//!
//! In: the number of loops asked for, each loop's load, jobs that a loop does not get to. Out: a
//! [`LoopId`](crate::id::LoopId) for the next coroutine or connection; jobs done; which loop is
//! inside one callback for too long ([`StuckReports`]). The loops' threads
//! are Python's (`python/loop_pool/_pool/member.py`): they are named, joined and seen by `threading` like
//! any others. Only the [`Monitor`]'s is our own, and knows no Python.
//!
//! Must never: own a loop, or know Python.

mod acceptor;
mod adaptive_spin;
mod builder;
mod cores;
mod detector;
mod forgotten_counts;
mod helper;
mod monitor;
mod placement;
mod recent;
mod registry;
mod shared;
mod spawned_tasks;
mod spawns;
mod stuck_reports;
mod task_phase;
mod unstarted;
mod worker;
mod worker_spawns;

#[cfg(all(test, not(loom)))]
mod load_tests;
#[cfg(all(test, loom))]
mod loom_tasks;
#[cfg(all(test, loom))]
mod loom_tests;

pub use acceptor::PoolAcceptor;
pub use builder::{InvalidLoopCount, default_loop_count, loop_count};
pub use cores::Cores;
pub use monitor::Monitor;
pub use placement::{Placement, load_of};
pub use registry::{OwnerKey, Registry, WeakTasks};
pub use shared::PoolShared;
pub use spawned_tasks::{Admission, SpawnedTasks};
pub use stuck_reports::{Limit, StuckReport, StuckReports};
pub use task_phase::{
    BeginOutcome, CancelFrom, CancelOutcome, EndOutcome, TaskPhase, TaskState, TaskWord,
};
pub use unstarted::Unstarted;
pub use worker::{Budget, Call, LoopWorker};
