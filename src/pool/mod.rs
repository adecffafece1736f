//! What the loops of one pool share: their number, placement of new work, and work sharing.
//!
//! In: the requested number of loops, the load of each, jobs that a loop cannot run soon. Out: a
//! [`LoopId`](crate::id::LoopId) for the next coroutine or connection; completed jobs; stuck loops
//! ([`StuckReports`]). The threads of the loops are Python's (`python/loop_pool/_pool/member.py`); only the
//! [`Monitor`]'s is native, without Python.
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
