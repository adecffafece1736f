//! The progress word of a loop: what its thread is doing, written by the thread and read by any other.
//!
//! In: the beginning and end of each callback and each job. Out: a [`CallbackEpoch`]; a reader that sees
//! the same one twice knows that the loop was in that one callback all the time.
//!
//! Must never: be written by another thread.

// The word contains a phase; above it the loop whose job the thread runs, while it helps; above that
// the count of callbacks begun. `Busy::begin` counts and sets `INSIDE` in one store; `Busy::help` sets
// `HELPING` and names the loop; the end of `Busy` clears both, before the loop checks for posts or
// polls. So `INSIDE` is never set with a count that the word had before: a thread that reads the same
// `CallbackEpoch` twice knows that the loop neither slept, nor helped, nor began another callback. All
// threads see the values of one word in one order, so relaxed accesses are enough.

use crate::id::LoopId;
use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};

const INSIDE: u64 = 1;
const HELPING: u64 = 2;
const PHASE: u64 = 3;
const WHOSE: u64 = 4;
const ONE: u64 = 1 << 18;

/// One callback of one loop, from its begin to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallbackEpoch(u64);

impl CallbackEpoch {
    /// Its number among the callbacks of its loop, and back.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }

    /// See [`number`](Self::number).
    #[must_use]
    pub fn from_number(number: u64) -> Self {
        Self(number)
    }
}

/// What a loop's thread is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Neither of the others: it asks the kernel, sleeps, or does not run at all.
    Between,
    /// It is inside a callback.
    Inside(CallbackEpoch),
    /// It does a job of this loop's: its own or another. For a bounded time, and then it looks at its own.
    Helping(LoopId),
}

/// How far a loop has come. See the module.
#[derive(Debug, Default)]
pub struct LoopProgress(AtomicU64);

/// The owner is at callbacks, or at jobs. When this is dropped it is at neither, also by a panic.
#[derive(Debug)]
#[must_use = "it is busy while this lives"]
pub struct Busy<'a>(&'a LoopProgress);

impl Busy<'_> {
    /// A callback begins; another one that was under way has ended.
    #[inline(always)]
    pub fn begin(&self) {
        let word = &self.0.0;
        word.store((word.load(Relaxed) | INSIDE).wrapping_add(ONE), Relaxed);
    }

    /// A job of this loop's begins; in no callback. Loops beyond the first 65,536 share a name.
    pub fn help(&self, whose: LoopId) {
        let (word, whose) = (&self.0.0, u64::from(whose.0) * WHOSE % ONE);
        word.store((word.load(Relaxed) & !(ONE - 1)) | whose | HELPING, Relaxed);
    }
}

impl Drop for Busy<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        let word = &self.0.0;
        word.store(word.load(Relaxed) & !(ONE - 1), Relaxed);
    }
}

impl LoopProgress {
    /// Callbacks are to begin, or jobs. Owner only.
    #[inline(always)]
    pub fn busy(&self) -> Busy<'_> {
        Busy(self)
    }

    /// How many callbacks have begun. Any thread.
    #[must_use]
    pub fn callbacks(&self) -> u64 {
        self.0.load(Relaxed) / ONE
    }

    /// What the thread is at. Any thread.
    #[must_use]
    pub fn phase(&self) -> Phase {
        let word = self.0.load(Relaxed);
        match word & PHASE {
            INSIDE => Phase::Inside(CallbackEpoch(word / ONE)),
            #[allow(clippy::cast_possible_truncation, reason = "it has 16 bits")]
            HELPING => Phase::Helping(LoopId((word % ONE / WHOSE) as u32)),
            _ => Phase::Between,
        }
    }

    /// The callback that the loop is in. Any thread.
    #[must_use]
    pub fn present(&self) -> Option<CallbackEpoch> {
        match self.phase() {
            Phase::Inside(epoch) => Some(epoch),
            _ => None,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_loop_is_inside_from_a_begin_until_it_is_busy_no_more() {
        let progress = LoopProgress::default();
        let busy = progress.busy();
        assert_eq!((progress.present(), progress.callbacks()), (None, 0));
        busy.begin();
        let first = progress.present();
        assert_eq!(first, Some(CallbackEpoch::from_number(1)));
        busy.begin();
        assert_eq!((progress.present(), progress.callbacks()), (Some(CallbackEpoch(2)), 2));
        drop(busy);
        assert_eq!((progress.present(), progress.callbacks()), (None, 2));
        let busy = progress.busy();
        busy.begin();
        assert_eq!(progress.present().map(CallbackEpoch::number), Some(3));
        assert_ne!(progress.present(), first);
    }

    #[test]
    fn a_callback_or_a_job_that_panics_has_ended() {
        let progress = LoopProgress::default();
        for begin in [Busy::begin, |busy: &Busy<'_>| busy.help(LoopId(1))] {
            let panics = std::panic::AssertUnwindSafe(|| {
                let busy = progress.busy();
                begin(&busy);
                panic!("while it is busy");
            });
            assert!(std::panic::catch_unwind(panics).is_err());
            assert_eq!(progress.phase(), Phase::Between);
        }
    }

    #[test]
    fn who_helps_is_in_no_callback_and_says_whose_job_it_is_at() {
        let progress = LoopProgress::default();
        progress.busy().begin();
        let busy = progress.busy();
        for whose in [3, 0, 65_535] {
            busy.help(LoopId(whose));
            assert_eq!(progress.phase(), Phase::Helping(LoopId(whose)));
            assert_eq!((progress.present(), progress.callbacks()), (None, 1));
        }
        drop(busy);
        assert_eq!(progress.phase(), Phase::Between);
        let busy = progress.busy();
        busy.begin();
        assert_eq!(progress.phase(), Phase::Inside(CallbackEpoch(2)));
    }
}
