//! What a loop's thread is at: one word that it writes and anybody reads.
//!
//! The word has a phase; above it the loop whose job the thread does, while it helps; and above that
//! a count of the callbacks begun. [`begin`] counts and sets `INSIDE`, in one store; [`help`] sets
//! `HELPING` and names the loop; [`rest`] clears both when the loop is at neither, to look for posts
//! or to ask the kernel. So `INSIDE` is never set without a count that the word has not had before,
//! and whoever reads the same [`Stint`] twice knows that the loop was inside that one callback all
//! the while: it did not sleep, it helped nobody, and it began no other. One word has one order of its
//! values for all threads, so relaxed loads and stores are enough.
//!
//! [`begin`]: Progress::begin
//! [`help`]: Progress::help
//! [`rest`]: Progress::rest

use crate::id::LoopId;
use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};

const INSIDE: u64 = 1;
const HELPING: u64 = 2;
const PHASE: u64 = 3;
const WHOSE: u64 = 4;
const ONE: u64 = 1 << 18;

/// One callback of one loop, from its begin to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stint(u64);

impl Stint {
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
    Inside(Stint),
    /// It does a job of this loop's: its own or another. For a bounded time, and then it looks at its own.
    Helping(LoopId),
}

/// How far a loop has come. See the module.
#[derive(Debug, Default)]
pub struct Progress(AtomicU64);

impl Progress {
    /// A callback begins; another one that was under way has ended. Owner only, and not while it helps.
    #[inline(always)]
    pub fn begin(&self) {
        self.0.store((self.0.load(Relaxed) | INSIDE).wrapping_add(ONE), Relaxed);
    }

    /// A job of this loop's begins. Owner only, in no callback. Loops beyond the first 65,536 share a
    /// name.
    pub fn help(&self, whose: LoopId) {
        let whose = u64::from(whose.0) * WHOSE % ONE;
        self.0.store((self.0.load(Relaxed) & !(ONE - 1)) | whose | HELPING, Relaxed);
    }

    /// The loop is in no callback and at no job any more. Owner only.
    #[inline(always)]
    pub fn rest(&self) {
        self.0.store(self.0.load(Relaxed) & !(ONE - 1), Relaxed);
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
            INSIDE => Phase::Inside(Stint(word / ONE)),
            #[allow(clippy::cast_possible_truncation, reason = "it has 16 bits")]
            HELPING => Phase::Helping(LoopId((word % ONE / WHOSE) as u32)),
            _ => Phase::Between,
        }
    }

    /// The callback that the loop is in. Any thread.
    #[must_use]
    pub fn present(&self) -> Option<Stint> {
        match self.phase() {
            Phase::Inside(stint) => Some(stint),
            _ => None,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_loop_is_inside_from_a_begin_to_the_rest() {
        let progress = Progress::default();
        assert_eq!((progress.present(), progress.callbacks()), (None, 0));
        progress.begin();
        let first = progress.present();
        assert_eq!(first, Some(Stint::from_number(1)));
        progress.begin();
        assert_eq!((progress.present(), progress.callbacks()), (Some(Stint(2)), 2));
        progress.rest();
        assert_eq!((progress.present(), progress.callbacks()), (None, 2));
        progress.rest();
        assert_eq!(progress.callbacks(), 2);
        progress.begin();
        assert_eq!(progress.present().map(Stint::number), Some(3));
        assert_ne!(progress.present(), first);
    }

    #[test]
    fn who_helps_is_in_no_callback_and_says_whose_job_it_is_at() {
        let progress = Progress::default();
        progress.begin();
        progress.rest();
        for whose in [3, 0, 65_535] {
            progress.help(LoopId(whose));
            assert_eq!(progress.phase(), Phase::Helping(LoopId(whose)));
            assert_eq!((progress.present(), progress.callbacks()), (None, 1));
        }
        progress.rest();
        assert_eq!(progress.phase(), Phase::Between);
        progress.begin();
        assert_eq!(progress.phase(), Phase::Inside(Stint(2)));
    }
}
