//! Counts how many spawned coroutines each loop had recently, to place the next ones.
//!
//! In: what each loop counts ([`Load`]), and the time. Out: what each loop has to do, and its fair share.
//! Ended coroutines count for a while, so that a burst is distributed evenly however quickly some of it
//! runs. Must never: write to the counters of other loops; what is forgotten is counted here.

use crate::config;
use crate::event_loop::Load;
use crate::metrics::Counter;
use crate::scheduler::WorkerIndex;
use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::PoolShared;

impl PoolShared {
    /// How many coroutines of `spawn` a loop has had of late: they wait there, have begun, or ended.
    pub(super) fn had(&self, worker_index: WorkerIndex) -> u64 {
        let ended = self.count(worker_index, |load| &load.ended);
        self.spawned(worker_index)
            + ended.saturating_sub(self.forgotten_counts.loops[worker_index.0].ended.load(Relaxed))
    }

    /// What a loop has to do, counted in coroutines: those that it has had of late, and some for those that
    /// it has made. So many that who makes a whole burst gets four fifths of a share of it.
    pub(super) fn has_to_do(&self, worker_index: WorkerIndex) -> u64 {
        let made = self.count(worker_index, |load| &load.made);
        let made =
            made.saturating_sub(self.forgotten_counts.loops[worker_index.0].made.load(Relaxed));
        let others = (self.loops.len() as u64 - 1).max(1);
        self.had(worker_index) + made / (config::MADE_FOR_ONE_BEGUN * others)
    }

    /// As many as a loop may have had of late that takes what lies on others: a quarter above the share
    /// of each.
    pub(super) fn fair_share(&self) -> u64 {
        let all: u64 =
            (0..self.loops.len()).map(|worker_index| self.had(WorkerIndex(worker_index))).sum();
        let share = all.div_ceil(self.loops.len() as u64);
        share + share / 4 + 1
    }

    /// Forgets half of those that have ended for each time that has passed.
    pub(super) fn forget(&self, now_ns: u64) {
        let memory_ns = u64::try_from(config::ENDED_MEMORY.as_nanos()).unwrap_or(u64::MAX);
        let before_ns = self.forgotten_counts.at_ns.load(Relaxed);
        let halves = now_ns.saturating_sub(before_ns) / memory_ns;
        if halves > 0 {
            self.forget_so_many_halves(
                before_ns,
                now_ns,
                u32::try_from(halves).unwrap_or(u32::MAX),
            );
        }
    }

    pub(super) fn forget_all(&self, now_ns: u64) {
        self.forget_so_many_halves(self.forgotten_counts.at_ns.load(Relaxed), now_ns, u32::MAX);
    }

    fn forget_so_many_halves(&self, before_ns: u64, now_ns: u64, halves: u32) {
        let at_ns = &self.forgotten_counts.at_ns;
        if at_ns.compare_exchange(before_ns, now_ns, Relaxed, Relaxed).is_err() {
            return;
        }
        let forget = |forgotten_counts: &AtomicU64, count: u64| {
            let lingering = count.saturating_sub(forgotten_counts.load(Relaxed));
            forgotten_counts.store(count - lingering.checked_shr(halves).unwrap_or(0), Relaxed);
        };
        for (forgotten_counts, home) in self.forgotten_counts.loops.iter().zip(&self.loops) {
            if let Some(home) = home.get() {
                forget(&forgotten_counts.ended, home.load.ended.get());
                forget(&forgotten_counts.made, home.load.made.get());
            }
        }
    }

    /// Whether no coroutine waits on any queue.
    pub(super) fn all_have_begun(&self) -> bool {
        (0..self.loops.len()).all(|worker_index| self.starts.is_empty(WorkerIndex(worker_index)))
    }

    /// How many coroutines of `spawn` a loop has: begun, or waiting on its queue.
    pub(super) fn spawned(&self, worker_index: WorkerIndex) -> u64 {
        self.count(worker_index, |load| &load.spawned) + self.starts.len(worker_index) as u64
    }

    /// What a loop counts; nothing, before there is one.
    fn count(&self, worker_index: WorkerIndex, of: impl FnOnce(&Load) -> &Counter) -> u64 {
        self.home(worker_index).map_or(0, |home| of(&home.load).get())
    }
}
