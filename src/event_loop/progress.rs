//! Which callback a loop is in: one word that its owner writes and anybody reads.
//!
//! The word is a count of the callbacks begun, and below it the bit `INSIDE`. [`begin`] counts and
//! sets the bit, in one store; [`rest`] clears it when the loop leaves its callbacks, to look for
//! posts or to ask the kernel, and is the only other store. So the bit is never set without a count
//! that the word has not had before, and whoever reads the same [`Stint`] twice knows that the loop
//! was inside that one callback all the while: it did not sleep, and it began no other. One word has
//! one order of its values for all threads, so relaxed loads and stores are enough.
//!
//! [`begin`]: Progress::begin
//! [`rest`]: Progress::rest

use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};

const INSIDE: u64 = 1;
const ONE: u64 = 2;

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

/// How far a loop has come. See the module.
#[derive(Debug, Default)]
pub struct Progress(AtomicU64);

impl Progress {
    /// A callback begins; another one that was under way has ended. Owner only.
    #[inline(always)]
    pub fn begin(&self) {
        self.0.store((self.0.load(Relaxed) | INSIDE).wrapping_add(ONE), Relaxed);
    }

    /// The loop is in no callback any more. Owner only.
    #[inline(always)]
    pub fn rest(&self) {
        self.0.store(self.0.load(Relaxed) & !INSIDE, Relaxed);
    }

    /// How many callbacks have begun. Any thread.
    #[must_use]
    pub fn callbacks(&self) -> u64 {
        self.0.load(Relaxed) / ONE
    }

    /// The callback that the loop is in. Any thread.
    #[must_use]
    pub fn present(&self) -> Option<Stint> {
        let word = self.0.load(Relaxed);
        (word & INSIDE != 0).then_some(Stint(word / ONE))
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
}
