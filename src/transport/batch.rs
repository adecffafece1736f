//! Which batch of callbacks a loop runs, and in which of them a transport was written to.
//!
//! In: the loop's word that a batch begins or ends, and writes. Out: whether a transport is written to more
//! often than twice in one batch. Must never: guard anything.

use crate::sync::atomic::{AtomicU32, Ordering::Relaxed};

const IN_BATCH: u32 = 1 << 1;
const NEXT_BATCH: u32 = 1 << 2;
const AGAIN: u32 = 1 << 0;

/// Which batch of callbacks a loop runs, if it runs one. After a billion of them a number comes again; a
/// transport that was written to then is mistaken for one that was just written to, which delays one write
/// to the end of its batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Batch(u32);

impl Batch {
    /// Between batches: nothing is held back.
    pub const NONE: Self = Self(0);

    /// The next batch begins.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.wrapping_add(NEXT_BATCH) | IN_BATCH)
    }

    /// It ends.
    #[must_use]
    pub fn ended(self) -> Self {
        Self(self.0 & !IN_BATCH)
    }

    /// As a number, and back.
    #[must_use]
    pub fn to_word(self) -> u32 {
        self.0
    }

    /// See [`to_word`](Self::to_word).
    #[must_use]
    pub fn from_word(word: u32) -> Self {
        Self(word)
    }
}

/// In which batch of callbacks a transport was last written to, and whether more than once. Owner only.
#[derive(Debug, Default)]
pub(super) struct Writes(AtomicU32);

impl Writes {
    /// Notes a write. Says whether two have come before in this batch: a third is rarely the last.
    #[inline(always)]
    pub(super) fn are_many(&self, Batch(batch): Batch) -> bool {
        if batch & IN_BATCH == 0 {
            return false;
        }
        let last = self.0.load(Relaxed);
        if last == batch | AGAIN {
            return true;
        }
        self.0.store(if last == batch { batch | AGAIN } else { batch }, Relaxed);
        false
    }
}
