//! The search permit: at most one thread at a time is woken to search for jobs, or searches because it was
//! woken. Steps S2 to S7, F3 and F4 of `README.md` beside this file.

use std::mem::ManuallyDrop;

use crossbeam_utils::CachePadded;

use super::{SearchKind, SearchPermit, Sleepers, WorkerIndex};
use crate::sync::announce::{Announced, announce};
use crate::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Set while somebody is woken to search or searches for it.
const UNDER_WAY: usize = 1;

/// The one search that may be under way among the threads of a pool.
#[derive(Debug)]
pub(super) struct Search {
    /// `UNDER_WAY`, or zero; above it the worker index behind which the next wake begins to look for a
    /// sleeper. Written only when somebody is woken to search, or begins to.
    word: CachePadded<AtomicUsize>,
    worker_indices: usize,
}

impl Search {
    /// Among so many threads.
    pub(super) fn new(worker_indices: usize) -> Self {
        Self { word: CachePadded::new(AtomicUsize::new(0)), worker_indices }
    }

    /// Wakes one thread to search, if one sleeps and none has been woken for it already: either they
    /// see what was announced, or we see a sleeper and that no search is under way. `has_work`:
    /// whether there is anything to be found. Any thread.
    pub(super) fn wake_one(
        &self,
        _announced: &Announced,
        sleepers: &impl Sleepers,
        has_work: impl Fn() -> bool,
    ) {
        loop {
            let before = self.word.load(Relaxed);
            if before & UNDER_WAY != 0 {
                // Whoever gives the search back looks at all queues after it.
                return;
            }
            let sleeping = || {
                let worker_indices = self.all_after(WorkerIndex(before >> 1));
                worker_indices.filter(|worker_index| sleepers.is_parked(*worker_index))
            };
            // The shared word is not written for nothing.
            if sleeping().next().is_none() {
                return;
            }
            let Some(claim) = self.claim(before) else { continue };
            let preferred = sleeping().filter(|worker_index| sleepers.is_preferred(*worker_index));
            if preferred.chain(sleeping()).any(|worker_index| sleepers.summon(worker_index)) {
                return claim.hand_over();
            }
            // They woke meanwhile. Others may have pushed, and left it to us to wake somebody who
            // went to sleep behind our back.
            if !claim.end(before).look(&has_work) {
                return;
            }
        }
    }

    /// Begins a search on the thread's own account, unless one is under way. By a thread that has
    /// published that it sleeps.
    pub(super) fn begin(&self, kind: SearchKind) -> Option<SearchPermit> {
        loop {
            let before = self.word.load(Relaxed);
            if before & UNDER_WAY != 0 {
                return None;
            }
            if let Some(claim) = self.claim(before) {
                claim.hand_over();
                return Some(SearchPermit::new(kind));
            }
        }
    }

    /// Ends the search of a thread; what it looks at afterwards includes every push of a thread that
    /// saw it under way. Takes the search permit by value: only who has it may end the search.
    pub(super) fn give_back(&self, _summons: SearchPermit, worker_index: WorkerIndex) -> Announced {
        Claim(self).end(worker_index.0 << 1)
    }

    fn claim(&self, before: usize) -> Option<Claim<'_>> {
        let claimed = self.word.compare_exchange(before, before | UNDER_WAY, Relaxed, Relaxed);
        claimed.ok().map(|_| Claim(self))
    }

    /// All worker indices, beginning with the one behind this.
    pub(super) fn all_after(&self, last: WorkerIndex) -> impl Iterator<Item = WorkerIndex> + use<> {
        (last.0 + 1..self.worker_indices).chain(0..=last.0).map(WorkerIndex)
    }
}

/// The right to begin a search, or to have one begun. Unless it is handed over it ends with this, also by
/// a panic.
struct Claim<'a>(&'a Search);

impl Claim<'_> {
    /// Leaves it to a search permit: that is given back in its stead.
    fn hand_over(self) {
        std::mem::forget(self);
    }

    /// Ends it; `after`: what the word is then.
    fn end(self, after: usize) -> Announced {
        let search = ManuallyDrop::new(self).0;
        announce(|| search.word.store(after, Relaxed))
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.0.word.fetch_and(!UNDER_WAY, Relaxed);
    }
}
