//! What the loops of one pool share: how many there are, where new work goes, and who does whose
//! socket work.
//!
//! In: the number of loops asked for, each loop's load, jobs that a loop does not get to. Out: a
//! [`LoopId`](crate::id::LoopId) for the next coroutine or connection; jobs done; which loop is
//! inside one callback for too long ([`Incidents`]). The loops' threads
//! are Python's (`python/loop_pool/_pool/member.py`): they are named, joined and seen by `threading` like
//! any others. Only the [`Monitor`]'s is our own, and knows no Python.
//!
//! Must never: own a loop, or know Python.

mod acceptor;
mod builder;
mod cores;
mod detector;
mod errand;
mod forgotten;
mod helper;
mod incidents;
mod monitor;
mod patience;
mod placement;
mod recent;
mod registry;
mod spawned_tasks;
mod starts;
mod team;
mod worker;
mod worker_starts;

#[cfg(all(test, not(loom)))]
mod load_tests;
#[cfg(all(test, loom))]
mod loom_tests;

pub use acceptor::PoolAcceptor;
pub use builder::{InvalidLoopCount, default_loop_count, loop_count};
pub use cores::Cores;
pub use errand::Errand;
pub use incidents::{Incident, Incidents, Limit};
pub use monitor::Monitor;
pub use placement::{Placement, load_of};
pub use registry::{OwnerKey, Registry, Roster};
pub use spawned_tasks::{Admission, SpawnedTasks};
pub use team::Team;
pub use worker::{Budget, Call, Hand};
