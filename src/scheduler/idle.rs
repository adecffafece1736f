//! The sleep state of one loop. `README.md` beside this file has the protocol.

use crate::sync::announce::{Announced, announce};
use crate::sync::atomic::{
    AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};

/// The owner runs, or is about to look for work again: nobody needs to wake it.
const AWAKE: u32 = 0;
/// The owner sleeps, or has decided to unless it finds work on its last look.
const PARKED: u32 = 1;
/// Somebody has undertaken to wake the parked owner; others need not.
const NOTIFIED: u32 = 2;
/// Somebody has undertaken to wake the owner and has counted it as searching in one of its schedulers: the
/// scheduler's number stands above. The word keeps this beyond the end of the sleep, until the owner takes
/// the search permit.
const SUMMONED: u32 = 3;
const STATE: u32 = 3;
const KIND: u32 = 2;

/// Which of the schedulers that a thread is in, if there are several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SearchKind(pub u32);

/// What the owner may do after its last look.
#[derive(Debug)]
#[must_use]
pub enum Park<'a> {
    /// Nothing was there: sleep, then drop the guard.
    Sleep(Parked<'a>),
    /// Work was there: do not sleep.
    Work,
}

/// Whether a poster has to wake the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Wake {
    /// The owner sleeps and nobody else has undertaken to wake it.
    Needed,
    /// The owner is awake, and looks before it sleeps; or another poster wakes it.
    Unneeded,
}

/// Proof that the owner was woken to search, and that the scheduler waits for its answer: while it
/// does, it wakes nobody else. `Worker::answer` or `Worker::decline` takes it.
#[derive(Debug)]
#[must_use = "the scheduler wakes nobody else until it is answered or declined"]
pub struct SearchPermit(SearchKind);

impl SearchPermit {
    /// Of a thread that counts itself as searching.
    pub(super) fn new(kind: SearchKind) -> Self {
        Self(kind)
    }

    /// Of which scheduler it is.
    #[must_use]
    pub fn kind(&self) -> SearchKind {
        self.0
    }
}

/// Proof that the owner has published that it sleeps. Dropping it publishes that it is awake; a
/// search permit that came meanwhile stays for [`Idle::take_permit`].
#[derive(Debug)]
pub struct Parked<'a>(&'a Idle);

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        // A wake under way may still arrive; it then ends a later wait once, for nothing. Nobody
        // but the owner changes the word once it is not PARKED.
        let state = &self.0.state;
        if state.compare_exchange(PARKED, AWAKE, Relaxed, Relaxed) == Err(NOTIFIED) {
            state.store(AWAKE, Relaxed);
        }
    }
}

/// The sleep state of one loop.
#[derive(Debug, Default)]
pub struct Idle {
    state: AtomicU32,
}

impl Idle {
    /// Announces that the owner is about to sleep, then looks once more by `has_work`. With a
    /// search permit not yet taken it does not sleep. Owner thread only.
    pub fn park(&self, has_work: impl FnOnce(&Announced) -> bool) -> Park<'_> {
        if self.state.load(Relaxed) & STATE == SUMMONED {
            return Park::Work;
        }
        let announced = announce(|| self.state.store(PARKED, Relaxed));
        let parked = Parked(self);
        if has_work(&announced) { Park::Work } else { Park::Sleep(parked) }
    }

    /// Announces what `write` writes, where `has_work` looks, and says whether the owner has to be
    /// woken for it. Any thread.
    pub fn post<R>(&self, write: impl FnOnce() -> R) -> Wake {
        self.posted(&announce(write))
    }

    /// Says whether the owner has to be woken, for something that was announced where `has_work`
    /// looks. Any thread.
    #[inline]
    pub fn posted(&self, _announced: &Announced) -> Wake {
        if self.is_parked()
            && self.state.compare_exchange(PARKED, NOTIFIED, Relaxed, Relaxed).is_ok()
        {
            Wake::Needed
        } else {
            Wake::Unneeded
        }
    }

    /// Whether the owner runs: it neither sleeps nor is being woken. Any thread.
    #[must_use]
    pub fn is_awake(&self) -> bool {
        self.state.load(Relaxed) == AWAKE
    }

    /// Whether the owner sleeps, or will unless its last look finds work, and nobody has
    /// undertaken to wake it. Any thread; by itself it orders nothing.
    #[must_use]
    pub fn is_parked(&self) -> bool {
        self.state.load(Relaxed) == PARKED
    }

    /// Counts a parked owner as searching in a scheduler. If it returns true, the caller has to wake it. Only
    /// from [`Sleepers::summon`](super::Sleepers::summon). Any thread.
    #[must_use = "the owner has to be woken"]
    pub fn summon(&self, kind: SearchKind) -> bool {
        // Release, for `take_permit`: the search then sees what was pushed before the search permit.
        let summoned = SUMMONED | kind.0 << KIND;
        self.state.compare_exchange(PARKED, summoned, Release, Relaxed).is_ok()
    }

    /// Takes the search permit, if there is one: after each park, whatever its verdict and however its
    /// sleep ended, and before anything that may take long; also when the owner leaves the loop.
    /// Owner thread only.
    #[inline]
    pub fn take_permit(&self) -> Option<SearchPermit> {
        let state = self.state.load(Acquire);
        if state & STATE != SUMMONED {
            return None;
        }
        self.state.store(AWAKE, Relaxed);
        Some(SearchPermit(SearchKind(state >> KIND)))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const KIND_ONE: SearchKind = SearchKind(1);

    fn sleep(idle: &Idle) -> Parked<'_> {
        let Park::Sleep(parked) = idle.park(|_| false) else { panic!("nothing was posted") };
        parked
    }

    #[test]
    fn only_the_first_poster_wakes_a_sleeper() {
        let idle = Idle::default();
        assert_eq!(idle.post(|| ()), Wake::Unneeded);
        let parked = sleep(&idle);
        assert_eq!(idle.post(|| ()), Wake::Needed);
        assert_eq!(idle.post(|| ()), Wake::Unneeded);
        drop(parked);
        assert_eq!(idle.post(|| ()), Wake::Unneeded);
    }

    #[test]
    fn work_found_on_the_last_look_keeps_the_owner_awake() {
        let idle = Idle::default();
        assert!(matches!(idle.park(|_| true), Park::Work));
        assert_eq!(idle.post(|| ()), Wake::Unneeded);
    }

    #[test]
    fn only_a_sleeper_whom_nobody_wakes_is_summoned() {
        let idle = Idle::default();
        assert!(!idle.is_parked() && !idle.summon(KIND_ONE));
        let parked = sleep(&idle);
        assert!(idle.is_parked());
        assert_eq!(idle.post(|| ()), Wake::Needed);
        assert!(!idle.is_parked() && !idle.summon(KIND_ONE));
        drop(parked);
        assert!(idle.take_permit().is_none());
    }

    #[test]
    fn a_summons_is_taken_once_and_spares_a_poster_the_wake() {
        let idle = Idle::default();
        let parked = sleep(&idle);
        assert!(idle.summon(KIND_ONE));
        assert!(!idle.summon(SearchKind(0)));
        assert_eq!(idle.post(|| ()), Wake::Unneeded);
        drop(parked);
        assert_eq!(idle.take_permit().map(|permit| permit.kind()), Some(KIND_ONE));
        assert!(idle.take_permit().is_none());
        drop(sleep(&idle));
    }

    #[test]
    fn a_summons_that_comes_before_the_last_look_is_kept() {
        let idle = Idle::default();
        let parked = idle.park(|_| idle.summon(KIND_ONE));
        assert!(matches!(parked, Park::Work));
        assert!(idle.take_permit().is_some());
    }

    #[test]
    fn nobody_sleeps_on_a_summons() {
        let idle = Idle::default();
        let parked = sleep(&idle);
        assert!(idle.summon(KIND_ONE));
        drop(parked);
        assert!(matches!(idle.park(|_| false), Park::Work));
        assert!(idle.take_permit().is_some());
        drop(sleep(&idle));
    }
}
