//! The loops of a pool as their threads see each other, and who may do whose socket work.

use std::io;
use std::sync::Arc;

use super::forgotten_counts::ForgottenCounts;
use super::unstarted::Unstarted;
use super::{Limit, Placement, StuckReports};
use crate::config;
use crate::event_loop::{Job, Phase, Shared};
use crate::reactor::Handle;
use crate::scheduler::{
    Idle, RunQueues, SchedulerShared, SearchKind, Sleepers, Wake, Worker, WorkerIndex,
};
use crate::sync::announce::Announced;
use crate::sync::{Mutex, OnceLock, RwLock};
use crate::sys::clock;

/// What the threads of one pool share to work for each other.
#[derive(Debug)]
pub struct PoolShared {
    pub(super) scheduler_shared: Arc<SchedulerShared<Job>>,
    /// Coroutines that have not begun, for whichever loop gets to them first.
    pub(super) starts: RunQueues<Unstarted>,
    pub(super) forgotten_counts: ForgottenCounts,
    /// Whether the threads do each other's work at all; connections are placed in any case.
    steals: bool,
    /// How many of the threads can run at once.
    pub(super) cores: usize,
    /// The loops, set when each one's thread has begun.
    pub(super) loops: Box<[OnceLock<Arc<Shared>>]>,
    /// Shares in the scheduler that no thread has taken yet.
    pub(super) workers: Mutex<Vec<Option<Worker<Job>>>>,
    /// Whether the monitor sleeps until a loop wakes it.
    pub(super) monitor_idle: Idle,
    /// The monitor's reactor, while there is a monitor.
    monitor: RwLock<Option<Handle>>,
    /// Where it tells of loops that are inside one callback for too long, once somebody has asked.
    stuck_reports: OnceLock<StuckReports>,
    pub(super) placement: Placement,
}

/// Whether the loop's thread sleeps, and has done nothing of its own for long enough that it is not
/// just between two events: to wake it for others' work would take it from its own.
fn is_free(shared: &Shared, now_ns: u64) -> bool {
    shared.idle().is_parked()
        && u128::from(now_ns.saturating_sub(shared.metrics.worked_ns.get()))
            >= config::FREE_AFTER.as_nanos()
}

impl Sleepers for PoolShared {
    fn is_parked(&self, worker_index: WorkerIndex) -> bool {
        self.home(worker_index).is_some_and(|shared| shared.idle().is_parked())
    }

    fn is_preferred(&self, worker_index: WorkerIndex) -> bool {
        let now_ns = clock::monotonic_ns();
        self.home(worker_index).is_some_and(|shared| is_free(shared, now_ns))
    }

    fn summon(&self, worker_index: WorkerIndex) -> bool {
        self.summon_for(worker_index, HELPERS)
    }
}

/// The numbers of the schedulers.
const HELPERS: SearchKind = SearchKind(0);

/// By this number a search permit says that it is for those who begin coroutines.
pub(super) const STARTERS: SearchKind = SearchKind(1);

impl PoolShared {
    /// For a pool of so many loops, which do each other's socket work or not, on so many cores.
    #[must_use]
    pub fn new(loops: usize, steals: bool, cores: usize) -> Arc<Self> {
        let (scheduler_shared, workers) = SchedulerShared::new(loops);
        Arc::new(Self {
            scheduler_shared,
            starts: RunQueues::new(loops, STARTERS),
            forgotten_counts: ForgottenCounts::new(loops),
            steals,
            cores,
            loops: std::iter::repeat_with(OnceLock::new).take(loops).collect(),
            workers: Mutex::new(workers.into_iter().map(Some).collect()),
            monitor_idle: Idle::default(),
            monitor: RwLock::new(None),
            stuck_reports: OnceLock::new(),
            placement: Placement::new(u32::try_from(loops).unwrap_or(u32::MAX)),
        })
    }

    /// Where the monitor tells of stuck loops; made at the first call.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn make_stuck_reports(&self) -> io::Result<&StuckReports> {
        if self.stuck_reports.get().is_none() {
            // Who comes second drops his own.
            let _ = self.stuck_reports.set(StuckReports::new()?);
        }
        self.stuck_reports().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    /// Where the monitor tells of stuck loops, if anybody has asked.
    #[must_use]
    pub fn stuck_reports(&self) -> Option<&StuckReports> {
        self.stuck_reports.get()
    }

    /// Sets how long a callback may take before it is told of. Nothing before `make_stuck_reports`.
    pub fn set_limit(&self, limit: Limit) {
        if let Some(stuck_reports) = self.stuck_reports() {
            stuck_reports.set_limit(limit);
            // It may have slept because there was nothing for it to do.
            self.wake_monitor();
        }
    }

    /// How long a callback may take before it is told of.
    pub(super) fn limit(&self) -> Limit {
        self.stuck_reports().map_or(Limit::Off, StuckReports::limit)
    }

    /// Whether the threads do each other's work.
    #[must_use]
    pub fn steals(&self) -> bool {
        self.steals
    }

    /// The loop of an index, once it has joined.
    pub(super) fn home(&self, worker_index: WorkerIndex) -> Option<&Arc<Shared>> {
        self.loops[worker_index.0].get()
    }

    /// Summons the thread of an index to search, and wakes it if it sleeps.
    pub(super) fn summon_for(&self, worker_index: WorkerIndex, kind: SearchKind) -> bool {
        self.home(worker_index).is_some_and(|shared| shared.summon(kind))
    }

    /// The loops that have joined.
    pub(super) fn loops(&self) -> impl Iterator<Item = (usize, &Arc<Shared>)> {
        self.loops
            .iter()
            .enumerate()
            .filter_map(|(worker_index, one)| Some((worker_index, one.get()?)))
    }

    /// Whether an idle thread could be woken to help.
    #[must_use]
    pub fn has_sleeper(&self) -> bool {
        let now_ns = clock::monotonic_ns();
        self.loops().any(|(_, shared)| is_free(shared, now_ns))
    }

    /// Whether any loop's thread is at a job of another loop: it will look at the injector soon.
    pub(super) fn has_helper(&self) -> bool {
        self.loops().any(|(_, shared)| match shared.progress.phase() {
            Phase::Helping(whose) => whose != shared.id(),
            _ => false,
        })
    }

    /// Hands jobs to whoever comes first. Any thread.
    pub(super) fn inject(&self, jobs: impl Iterator<Item = Job>) {
        jobs.for_each(|job| self.scheduler_shared.inject(job));
        self.scheduler_shared.wake_one(self);
    }

    /// Tells the monitor that a loop is awake, if it sleeps. A loop calls it when its wait has ended
    /// and before it runs anything.
    pub fn awake(&self) {
        if self.monitor_idle.posted(&Announced::so_far()) == Wake::Needed {
            self.wake_monitor();
        }
    }

    pub(super) fn wake_monitor(&self) {
        self.with_monitor(Handle::wake);
    }

    /// Calls `f` with the monitor's reactor, if there is a monitor.
    pub(super) fn with_monitor<R>(&self, f: impl FnOnce(&Handle) -> R) -> Option<R> {
        // The lock is written when the monitor begins and ends: then there is nothing to tell it.
        self.monitor.try_read()?.as_ref().map(f)
    }

    /// Sets the monitor's reactor; with `None` its descriptors are given back.
    pub(super) fn set_monitor(&self, handle: Option<Handle>) {
        drop(self.monitor.replace(handle));
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
