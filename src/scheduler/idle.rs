//! The sleep state of one loop: see `README.md` beside this file for the protocol.

use crate::sync::atomic::{AtomicU32, Ordering::Relaxed, Ordering::SeqCst, fence};

/// The owner runs, or is about to look for work again: nobody needs to wake it.
const AWAKE: u32 = 0;
/// The owner sleeps, or has decided to unless it finds work on its last look.
const PARKED: u32 = 1;
/// Somebody has undertaken to wake the parked owner; others need not.
const NOTIFIED: u32 = 2;

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

/// Proof that the owner has published that it sleeps. Dropping it publishes that it is awake.
#[derive(Debug)]
pub struct Parked<'a>(&'a Idle);

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        // A notification under way may still arrive; it then ends a later wait once, for nothing.
        self.0.state.store(AWAKE, Relaxed);
    }
}

/// The sleep state of one loop.
#[derive(Debug, Default)]
pub struct Idle {
    state: AtomicU32,
}

impl Idle {
    /// Publishes that the owner is about to sleep, then looks once more by `has_work`.
    /// Owner thread only.
    pub fn park(&self, has_work: impl FnOnce() -> bool) -> Park<'_> {
        self.state.store(PARKED, Relaxed);
        // Pairs with the fence in `posted`: either we see the post, or the poster sees PARKED.
        fence(SeqCst);
        let parked = Parked(self);
        if has_work() {
            return Park::Work;
        }
        Park::Sleep(parked)
    }

    /// Says whether the owner has to be woken, after something was pushed where `has_work` looks.
    /// Any thread.
    pub fn posted(&self) -> Wake {
        fence(SeqCst);
        if self.state.load(Relaxed) == PARKED
            && self.state.compare_exchange(PARKED, NOTIFIED, Relaxed, Relaxed).is_ok()
        {
            Wake::Needed
        } else {
            Wake::Unneeded
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_poster_wakes_a_sleeper() {
        let idle = Idle::default();
        assert_eq!(idle.posted(), Wake::Unneeded);
        let Park::Sleep(parked) = idle.park(|| false) else { panic!("nothing was posted") };
        assert_eq!(idle.posted(), Wake::Needed);
        assert_eq!(idle.posted(), Wake::Unneeded);
        drop(parked);
        assert_eq!(idle.posted(), Wake::Unneeded);
    }

    #[test]
    fn work_found_on_the_last_look_keeps_the_owner_awake() {
        let idle = Idle::default();
        assert!(matches!(idle.park(|| true), Park::Work));
        assert_eq!(idle.posted(), Wake::Unneeded);
    }
}
