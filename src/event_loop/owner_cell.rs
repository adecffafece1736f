//! A value that belongs to one thread at a time, and the proof of ownership.
//!
//! In: a thread that wants to own the value. Out: a [`Claim`]; while it is held, no other thread accesses
//! the value.
//!
//! Must never: run the caller's code while it waits.

// Protocol: one word holds the thread token of the owner, or zero. A claim is taken by an exchange
// from zero (acquire) and released by a store of zero (release), so each owner sees the writes of the
// previous one. A thread that finds its own token wrote it itself, so `OwnerCell::is_owner` needs no
// ordering. A brief claim marks its token, so that other claimants wait for it, and `is_owner` is
// false: code under a brief claim can reach the value only through the claim.

use std::marker::PhantomData;

use crate::sync::atomic::{
    AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};
use crate::sync::{UnsafeCell, thread_token, yield_now};

/// Marks a claim that is held for a few instructions. Tokens are even.
const BRIEF: usize = 1;

/// A value with at most one owner thread.
#[derive(Debug)]
pub struct OwnerCell<T> {
    /// The [`thread_token`] of the owner, with [`BRIEF`] added for a brief claim; or 0.
    owner: AtomicUsize,
    /// Touched by the thread that `owner` names, and by no other.
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached by one thread at a time, handed over with acquire and release.
unsafe impl<T: Send> Sync for OwnerCell<T> {}
// SAFETY: a claim borrows the `OwnerCell`, so it does not move while it is claimed.
unsafe impl<T: Send> Send for OwnerCell<T> {}

/// Proof that the calling thread owns the value, until it is dropped.
#[derive(Debug)]
pub struct Claim<'a, T> {
    cell: &'a OwnerCell<T>,
    /// Not `Send`: the claim names this thread.
    _thread: PhantomData<*const ()>,
}

impl<T> Drop for Claim<'_, T> {
    fn drop(&mut self) {
        self.cell.owner.store(0, Release);
    }
}

impl<T> OwnerCell<T> {
    /// A value that nobody owns.
    pub(super) fn new(value: T) -> Self {
        Self { owner: AtomicUsize::new(0), value: UnsafeCell::new(value) }
    }

    /// Makes the calling thread the owner; waits for a brief claim. `None` if a thread, this one
    /// included, owns it in earnest.
    pub(super) fn claim(&self) -> Option<Claim<'_, T>> {
        let token = thread_token();
        debug_assert_eq!(token & BRIEF, 0);
        loop {
            match self.owner.compare_exchange(0, token, Acquire, Relaxed) {
                Ok(_) => return Some(Claim { cell: self, _thread: PhantomData }),
                Err(owner) if owner & BRIEF != 0 => yield_now(),
                Err(_) => return None,
            }
        }
    }

    /// Makes the calling thread the owner for a few instructions, if nobody is. It must run no Python
    /// meanwhile: whoever claims the value in earnest waits for it.
    pub fn claim_briefly(&self) -> Option<Claim<'_, T>> {
        self.owner.compare_exchange(0, thread_token() | BRIEF, Acquire, Relaxed).ok()?;
        Some(Claim { cell: self, _thread: PhantomData })
    }

    /// Whether the calling thread owns the value, other than briefly.
    #[inline(always)]
    pub fn is_owner(&self) -> bool {
        // Relaxed: if it is our own token, this very thread wrote it.
        self.owner.load(Relaxed) == thread_token()
    }

    /// Calls `f` with the value if the calling thread owns it.
    ///
    /// # Safety
    /// `f` must not reach this value again, nor run code that could (any Python).
    #[inline(always)]
    pub unsafe fn if_owner<R>(&self, f: impl FnOnce(&mut T) -> R) -> Option<R> {
        if !self.is_owner() {
            return None;
        }
        // SAFETY: we are the owner, and the caller vouches that `f` makes no second reference.
        Some(self.value.with_mut(|value| f(unsafe { &mut *value })))
    }

    /// Calls `f` with the value owned and the one given, if the calling thread is the owner.
    ///
    /// # Errors
    /// The one given comes back if it is not.
    ///
    /// # Safety
    /// As for [`if_owner`](Self::if_owner).
    #[inline(always)]
    pub unsafe fn give_owner<V>(&self, given: V, f: impl FnOnce(&mut T, V)) -> Result<(), V> {
        if !self.is_owner() {
            return Err(given);
        }
        // SAFETY: we are the owner, and the caller vouches that `f` makes no second reference.
        self.value.with_mut(|value| f(unsafe { &mut *value }, given));
        Ok(())
    }

    /// Calls `f` with the value, whoever owns it.
    ///
    /// # Safety
    /// No other thread may use the value meanwhile, and `f` must not reach it.
    pub(super) unsafe fn inspect(&self, f: impl FnOnce(&T)) {
        // SAFETY: the caller vouches that nobody changes it meanwhile.
        self.value.with(|value| f(unsafe { &*value }));
    }
}

impl<T> Claim<'_, T> {
    /// Calls `f` with the value.
    ///
    /// # Safety
    /// As for [`OwnerCell::if_owner`].
    #[inline(always)]
    pub unsafe fn local<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        // SAFETY: the claim proves ownership; the caller vouches for `f`.
        self.cell.value.with_mut(|value| f(unsafe { &mut *value }))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::thread;

    #[test]
    fn a_value_has_one_owner_at_a_time() {
        let cell = OwnerCell::new(());
        assert!(!cell.is_owner());
        let claim = cell.claim().unwrap();
        assert!(cell.is_owner() && cell.claim().is_none());
        thread::scope(|scope| {
            scope.spawn(|| {
                assert!(!cell.is_owner() && cell.claim().is_none());
                // SAFETY: the closure does nothing.
                assert!(unsafe { cell.if_owner(|()| ()) }.is_none());
            });
        });
        drop(claim);
        assert!(!cell.is_owner());
    }

    #[test]
    fn a_claim_waits_for_a_brief_one_and_a_brief_one_for_nobody() {
        let cell = OwnerCell::new(());
        let brief = cell.claim_briefly().unwrap();
        assert!(!cell.is_owner() && cell.claim_briefly().is_none());
        thread::scope(|scope| {
            let claimed = scope.spawn(|| cell.claim().is_some());
            thread::yield_now();
            drop(brief);
            assert!(claimed.join().unwrap());
        });
        let _claim = cell.claim().unwrap();
        assert!(cell.claim_briefly().is_none());
    }
}
