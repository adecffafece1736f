//! The only door to atomics, cells, locks and thread spawning.
//!
//! Everything comes from `std`, or from loom when the crate is built with `--cfg loom`, so that
//! each protocol is model-checked in the very code that runs. No other module may name
//! `std::sync::atomic`, `std::sync::Mutex`, `std::sync::RwLock` or `std::thread::spawn`.
//!
//! Must never: hold policy. What a lock protects is said where the lock is declared.

#[cfg(not(loom))]
mod imp {
    pub(crate) use std::sync::atomic;
    #[allow(clippy::disallowed_types, reason = "this module is the door")]
    pub(crate) use std::sync::{Mutex, RwLock};
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
    pub(crate) use loom::sync::{Mutex, RwLock, atomic};
    #[cfg(test)]
    pub(crate) use loom::{sync::Arc, thread};
}

#[cfg(test)]
pub(crate) use imp::{Arc, thread};
pub(crate) use imp::{Mutex, RwLock, UnsafeCell, atomic};

/// Locks a mutex whose protected value stays whole when a holder panics.
#[cfg(not(loom))]
#[allow(clippy::disallowed_types, reason = "this module is the door")]
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(loom)]
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> loom::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A cheap identity of the calling thread: never zero, and unlike that of any other live thread.
///
/// It is the thread pointer where one instruction reads it, and else the address of a thread-local
/// byte. A thread that has ended may hand its identity on; whoever stores one must forget it before
/// the thread ends.
#[inline(always)]
pub(crate) fn thread_token() -> usize {
    #[cfg(all(target_os = "linux", target_arch = "x86_64", not(loom)))]
    {
        let pointer: usize;
        // SAFETY: the x86-64 ABI of Linux keeps the thread pointer in the first word of `fs`.
        unsafe {
            std::arch::asm!("mov {}, fs:0", out(reg) pointer,
                            options(nostack, preserves_flags, readonly, pure));
        }
        pointer
    }
    #[cfg(not(all(target_os = "linux", target_arch = "x86_64", not(loom))))]
    {
        thread_local! {
            static ANCHOR: u8 = const { 0 };
        }
        ANCHOR.with(|anchor| std::ptr::from_ref(anchor) as usize)
    }
}
