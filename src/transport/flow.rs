//! Flow control of what is written: two marks, and whether the protocol was told to pause.
//!
//! In: how many bytes are queued. Out: whether the protocol is to pause or to go on, and the mark at which
//! the owner is to hear of it. Changed by the owner, read by any thread. Must never: count bytes itself.

use crate::sync::atomic::{
    AtomicBool, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};

/// What a transport begins with, as asyncio's: in bytes.
const HIGH_WATER: usize = 64 * 1024;
const LOW_WATER: usize = 16 * 1024;

/// The marks of one transport.
#[derive(Debug)]
pub struct Flow {
    /// The protocol was told to pause writing.
    paused: AtomicBool,
    high_water: AtomicUsize,
    low_water: AtomicUsize,
    /// A paused protocol goes on when nothing is queued any more, whatever the low mark: of a pipe.
    resumes_empty: bool,
}

impl Flow {
    pub(super) fn new(resumes_empty: bool) -> Self {
        Self {
            paused: AtomicBool::new(false),
            high_water: AtomicUsize::new(HIGH_WATER),
            low_water: AtomicUsize::new(LOW_WATER),
            resumes_empty,
        }
    }

    /// Whether the protocol was told to pause.
    #[inline]
    pub fn is_paused(&self) -> bool {
        self.paused.load(Acquire)
    }

    /// The marks as (low, high).
    pub fn limits(&self) -> (usize, usize) {
        (self.low_water.load(Relaxed), self.high_water.load(Relaxed))
    }

    /// Whether a protocol that writes is to pause, with so much queued.
    #[inline(always)]
    pub(super) fn pauses(&self, queued: usize) -> bool {
        queued > self.high_water.load(Relaxed) && !self.is_paused()
    }

    /// Whether a paused protocol is to go on, with so much queued.
    #[inline(always)]
    pub(super) fn resumes(&self, queued: usize) -> bool {
        self.is_paused() && queued <= self.resume_mark()
    }

    /// With no more queued than this a paused protocol goes on.
    #[inline(always)]
    fn resume_mark(&self) -> usize {
        if self.resumes_empty { 0 } else { self.low_water.load(Relaxed) }
    }

    /// Notes that the protocol was told to pause, or to go on. Returns how much may be queued when the
    /// owner is to hear of it.
    #[must_use = "the mark is to be told"]
    pub(super) fn set_paused(&self, paused: bool) -> usize {
        self.paused.store(paused, Release);
        if paused { self.resume_mark() } else { 0 }
    }

    /// Sets the marks, as (low, high). Returns how much may be queued when the owner is to hear of it, if
    /// that has changed.
    #[must_use = "the mark is to be told"]
    pub(super) fn set_limits(&self, (low, high): (usize, usize)) -> Option<usize> {
        self.low_water.store(low, Relaxed);
        self.high_water.store(high, Relaxed);
        self.is_paused().then(|| self.resume_mark())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_protocol_pauses_once_above_the_high_mark() {
        let flow = Flow::new(false);
        assert_eq!(flow.limits(), (16 * 1024, 64 * 1024));
        assert!(!flow.pauses(64 * 1024), "at the mark is not above it");
        assert!(flow.pauses(64 * 1024 + 1));
        assert_eq!(flow.set_paused(true), 16 * 1024, "there it goes on");
        assert!(flow.is_paused() && !flow.pauses(1 << 30));
    }

    #[test]
    fn a_paused_protocol_goes_on_at_the_low_mark() {
        let flow = Flow::new(false);
        assert!(!flow.resumes(0), "it is not paused");
        let _ = flow.set_paused(true);
        assert!(!flow.resumes(16 * 1024 + 1));
        assert!(flow.resumes(16 * 1024));
        assert_eq!(flow.set_paused(false), 0, "nothing is waited for but the end");
        assert!(!flow.resumes(0));
    }

    #[test]
    fn the_protocol_of_a_pipe_goes_on_when_nothing_is_queued() {
        let flow = Flow::new(true);
        assert_eq!(flow.set_paused(true), 0);
        assert_eq!(flow.set_limits((40, 50)), Some(0));
        assert!(!flow.resumes(1) && flow.resumes(0));
    }

    #[test]
    fn new_marks_are_told_to_whoever_waits_for_the_old_ones() {
        let flow = Flow::new(false);
        assert_eq!(flow.set_limits((10, 20)), None, "nobody waits");
        assert_eq!(flow.limits(), (10, 20));
        assert!(flow.pauses(21) && !flow.pauses(20));
        let _ = flow.set_paused(true);
        assert_eq!(flow.set_limits((5, 20)), Some(5));
        assert!(flow.resumes(5) && !flow.resumes(6));
    }
}
