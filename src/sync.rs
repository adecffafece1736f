//! The only source of atomics, cells, locks and threads.
//!
//! Everything comes from `std`, or from loom if the crate is built with `--cfg loom`, so that each protocol
//! is model-checked in the code that ships. No other module may name `std::sync::atomic`,
//! `std::sync::Mutex`, `std::sync::RwLock` or `std::thread::spawn`.
//!
//! Must never: contain policy. What a lock protects is documented where the lock is declared.

#![allow(clippy::disallowed_types, reason = "what is forbidden elsewhere is wrapped here")]

pub(crate) mod announce;

/// A cell that is written once. The same under loom: no model is about one.
pub(crate) use std::sync::OnceLock;
use std::sync::{PoisonError, TryLockError};
pub(crate) use std::thread::JoinHandle;

/// Starts a named thread, which knows nothing of Python.
///
/// # Errors
/// When the process may have no more threads.
pub(crate) fn spawn(
    name: &str,
    f: impl FnOnce() + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(f)
}

#[cfg(not(loom))]
mod imp {
    pub(crate) use std::sync::atomic;
    pub(super) use std::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard};
    pub(crate) use std::thread::yield_now;
    #[cfg(test)]
    pub(crate) use std::{sync::Arc, thread};

    /// `std::cell::UnsafeCell` with loom's closure interface.
    #[derive(Debug, Default)]
    pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self(std::cell::UnsafeCell::new(value))
        }

        /// Calls `f` with a shared pointer to the value.
        #[inline(always)]
        pub(crate) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
            f(self.0.get())
        }

        /// Calls `f` with an exclusive pointer to the value.
        #[inline(always)]
        pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            f(self.0.get())
        }
    }
}

#[cfg(loom)]
mod imp {
    pub(crate) use loom::cell::UnsafeCell;
    pub(crate) use loom::sync::atomic;
    pub(super) use loom::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard};
    pub(crate) use loom::thread::yield_now;
    #[cfg(test)]
    pub(crate) use loom::{sync::Arc, thread};
}

#[cfg(test)]
pub(crate) use imp::{Arc, thread};
pub(crate) use imp::{UnsafeCell, atomic, yield_now};

/// A mutex without poisoning: what it protects stays whole when a holder panics.
#[derive(Debug)]
pub struct Mutex<T>(imp::Mutex<T>);

/// Unlocks its [`Mutex`] when it is dropped.
pub(crate) type MutexGuard<'a, T> = imp::MutexGuard<'a, T>;

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(imp::Mutex::new(value))
    }

    /// Waits for the lock. Never while attached to Python: see `py::io::lock_attached`.
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the lock if nobody holds it.
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Takes the lock for the garbage collector, which has stopped every thread that could wait for
    /// it: who holds the lock now needs no Python to go on. `None` if nobody does, in a forked child.
    pub(crate) fn lock_for_collector(&self) -> Option<MutexGuard<'_, T>> {
        const LOOKS: usize = 10_000;
        (0..LOOKS).find_map(|_| {
            let guard = self.try_lock();
            if guard.is_none() {
                yield_now();
            }
            guard
        })
    }
}

/// A lock for many readers that never wait, and a writer that does. Without poisoning.
#[derive(Debug)]
pub(crate) struct RwLock<T>(imp::RwLock<T>);

impl<T> RwLock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(imp::RwLock::new(value))
    }

    /// Takes a read lock unless a writer holds or awaits the lock.
    pub(crate) fn try_read(&self) -> Option<imp::RwLockReadGuard<'_, T>> {
        match self.0.try_read() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Replaces the value, unless somebody holds or awaits the lock: then the new one comes back.
    pub(crate) fn try_replace(&self, value: T) -> Result<T, T> {
        match self.0.try_write() {
            Ok(mut guard) => Ok(std::mem::replace(&mut guard, value)),
            Err(TryLockError::Poisoned(poisoned)) => {
                Ok(std::mem::replace(&mut poisoned.into_inner(), value))
            }
            Err(TryLockError::WouldBlock) => Err(value),
        }
    }

    /// Waits until no reader is left, and replaces the value.
    pub(crate) fn replace(&self, value: T) -> T {
        let mut guard = self.0.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut guard, value)
    }
}

/// A cheap identity of the calling thread: never zero, even, and unlike that of any other live
/// thread.
///
/// It is the thread pointer where one instruction reads it, and else the address of a thread-local
/// byte. A thread that has ended may hand its identity on; whoever stores one must forget it before
/// the thread ends.
#[inline(always)]
pub(crate) fn thread_token() -> usize {
    #[cfg(all(target_os = "linux", target_arch = "x86_64", not(any(loom, miri))))]
    {
        let pointer: usize;
        // SAFETY: the x86-64 ABI of Linux keeps the thread pointer in the first word of `fs`.
        unsafe {
            std::arch::asm!("mov {}, fs:0", out(reg) pointer,
                            options(nostack, preserves_flags, readonly, pure));
        }
        pointer
    }
    #[cfg(loom)]
    {
        // loom's threads are coroutines of one thread. A box is aligned, so the token is even.
        loom::thread_local! {
            static ANCHOR: Box<usize> = Box::new(0);
        }
        ANCHOR.with(|anchor| std::ptr::from_ref::<usize>(anchor) as usize)
    }
    #[cfg(all(not(loom), any(miri, not(all(target_os = "linux", target_arch = "x86_64")))))]
    {
        thread_local! {
            static ANCHOR: u16 = const { 0 };
        }
        ANCHOR.with(|anchor| std::ptr::from_ref(anchor) as usize)
    }
}
