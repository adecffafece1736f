//! Announce, then look: each of two threads announces something and then looks for the announcement of the other;
//! at least one of them sees it. This is the flag principle of Dekker's and Peterson's algorithms.
//!
//! In: a thread that has written its announcement. Out: [`Announced`], the proof that it may look; functions that
//! must not be called without it take it as an argument.
//!
//! Must never: use a sequentially consistent load or store, which loom does not model.

// one side                                the other side
//   write a                                 write b
//   ---- order ----                         ---- order ----
//   look at b                               look at a
//
// A sleeper writes "parked" and looks for work; a poster writes work and looks for a sleeper. A thread that
// removes something writes "gone" and looks for users; a user writes "in use" and looks whether it is gone.
// Release and acquire are not enough: a processor keeps a write in its store buffer while it continues to read, so
// both sides may read the old value. There are two ways to order them. The argument for both is that one side
// comes second.
//
// - A fence (`announce`), for any words. Sequentially consistent fences are totally ordered. Reads after the
//   second one see everything written before the first.
// - A common word (`SharedFence`, `ExchangeWord`) that both sides change between writing and looking, and that
//   is only changed by exchanges which acquire and release. The exchanges of one word are totally ordered, and each
//   reads what the previous one wrote. So each happens before all later ones, and what was written before the first
//   is seen after the second. On most processors this costs no more than the exchange, which an inbox makes anyway.
//   A fence costs more, but no cache line: it is for sides that would contend for the word.
//
// A failed exchange is only a load, so it orders nothing. Neither does a plain store to the word: a later exchange
// would read that store, and no earlier exchange. Hence the words are separate types. loom, Miri and the processor
// run the same code.

use std::ptr;

use super::atomic::{
    AtomicPtr, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed, SeqCst},
    fence,
};

/// Proof that the calling thread has announced something, and may look.
#[derive(Debug)]
#[must_use = "who announces something looks afterwards"]
pub struct Announced(());

impl Announced {
    /// Of what the thread has written so far.
    #[inline(always)]
    pub(crate) fn so_far() -> Self {
        fence(SeqCst);
        Self(())
    }

    /// Looks for what the other side has announced.
    #[inline(always)]
    #[allow(clippy::unused_self, reason = "it is the proof")]
    pub(crate) fn look<R>(&self, look: impl FnOnce() -> R) -> R {
        look()
    }
}

/// Announces what `write` writes.
#[inline(always)]
pub(crate) fn announce<R>(write: impl FnOnce() -> R) -> Announced {
    write();
    Announced::so_far()
}

/// A fence among those who share it: cheaper than [`announce`] for whoever passes it alone.
#[derive(Debug, Default)]
pub(crate) struct SharedFence(AtomicUsize);

impl SharedFence {
    /// Announces what `write` writes, to those who announce by the same fence.
    #[inline(always)]
    pub(crate) fn announce<R>(&self, write: impl FnOnce() -> R) -> Announced {
        write();
        self.0.swap(0, AcqRel);
        Announced(())
    }
}

/// A pointer that is changed by exchanges alone, so that each of them is an announcement.
#[derive(Debug)]
pub(crate) struct ExchangeWord<T>(AtomicPtr<T>);

impl<T> Default for ExchangeWord<T> {
    fn default() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }
}

impl<T> ExchangeWord<T> {
    /// What the word was a moment ago.
    #[inline]
    pub(crate) fn peek(&self) -> *mut T {
        self.0.load(Acquire)
    }

    /// Replaces `before` by `after`, or returns what the word is instead. This announces what `after`
    /// points to, and whatever the thread wrote before. It may fail for no reason.
    #[inline]
    pub(crate) fn replace(&self, before: *mut T, after: *mut T) -> Result<Announced, *mut T> {
        self.0.compare_exchange_weak(before, after, AcqRel, Relaxed).map(|_| Announced(()))
    }

    /// Leaves null.
    #[inline]
    pub(crate) fn take(&self) -> *mut T {
        self.0.swap(ptr::null_mut(), AcqRel)
    }

    /// The look of the side that does not [`replace`](Self::replace): whether the word is null. If so,
    /// whoever replaces it from now on sees what this side has announced.
    #[inline]
    pub(crate) fn is_null(&self, _announced: &Announced) -> bool {
        let null = ptr::null_mut();
        // In place of a load, so that it stands in the order of the exchanges.
        self.0.compare_exchange(null, null, AcqRel, Acquire).is_ok()
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::super::{Arc, atomic::AtomicBool, thread};
    use super::*;

    /// Store buffering: at least one of two threads sees the other.
    fn one_sees_the_other(
        announce: impl Fn(&SharedFence, &AtomicBool) -> Announced + Copy + 'static + Send + Sync,
    ) {
        loom::model(move || {
            let shared = Arc::new((
                SharedFence::default(),
                [AtomicBool::new(false), AtomicBool::new(false)],
            ));
            let meet = move |(fence, flags): &(SharedFence, [AtomicBool; 2]), own: usize| {
                announce(fence, &flags[own]).look(|| flags[1 - own].load(Relaxed))
            };
            let other = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || meet(&shared, 1))
            };
            let saw = meet(&shared, 0);
            assert!(other.join().unwrap() || saw);
        });
    }

    #[test]
    fn loom_a_fence_lets_one_of_two_see_the_other() {
        one_sees_the_other(|_, flag| announce(|| flag.store(true, Relaxed)));
    }

    #[test]
    fn loom_a_shared_fence_lets_one_of_two_see_the_other() {
        one_sees_the_other(|fence, flag| fence.announce(|| flag.store(true, Relaxed)));
    }

    #[test]
    fn loom_who_finds_an_exchange_word_null_is_seen_by_whoever_replaces_it() {
        loom::model(|| {
            let shared = Arc::new((ExchangeWord::<u8>::default(), AtomicBool::new(false)));
            let other = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    let something = ptr::dangling_mut();
                    let replaced = loop {
                        if let Ok(announced) = shared.0.replace(ptr::null_mut(), something) {
                            break announced;
                        }
                    };
                    replaced.look(|| shared.1.load(Relaxed))
                })
            };
            shared.1.store(true, Relaxed);
            let found_null = shared.0.is_null(&Announced(()));
            assert!(other.join().unwrap() || !found_null);
        });
    }
}
