//! Who goes on with a read: one thread at a time, as with any coroutine, and no one when it is over.
//!
//! In: a thread that wants to go on. Out: a [`Step`], with which it alone reaches what the read has come to, or why
//! not. Must never: make a thread wait.

use std::fmt;
use std::mem::ManuallyDrop;

use crate::sync::UnsafeCell;
use crate::sync::atomic::{
    AtomicU8,
    Ordering::{Acquire, Relaxed, Release},
};

/// Where a read stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ReadPhase {
    /// Nobody has begun it.
    Fresh,
    /// A thread is in a step of it.
    Running,
    /// It waits, to be gone on with.
    Waiting,
    /// It has ended.
    Over,
}

/// Why a thread may not go on with a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepRefusal {
    /// Another one is in a step of it.
    Running,
    /// It is over.
    Over,
}

/// A read, and what it has come to.
pub struct ReadSteps<T> {
    /// A [`ReadPhase`]. `Running` stands for one [`Step`].
    phase: AtomicU8,
    /// Touched by who has the [`Step`].
    progress: UnsafeCell<T>,
}

// SAFETY: one thread at a time touches `progress`, as `phase` says.
unsafe impl<T: Send> Sync for ReadSteps<T> {}

impl<T: Default> Default for ReadSteps<T> {
    fn default() -> Self {
        Self {
            phase: AtomicU8::new(ReadPhase::Fresh as u8),
            progress: UnsafeCell::new(T::default()),
        }
    }
}

impl<T> fmt::Debug for ReadSteps<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ReadSteps").field(&self.phase()).finish()
    }
}

impl<T> ReadSteps<T> {
    /// Where the read stands; if a thread is in a step of it, that may have changed since.
    #[inline]
    #[must_use]
    pub fn phase(&self) -> ReadPhase {
        match self.phase.load(Relaxed) {
            0 => ReadPhase::Fresh,
            1 => ReadPhase::Running,
            2 => ReadPhase::Waiting,
            _ => ReadPhase::Over,
        }
    }

    /// Begins a step, if no thread is in one.
    ///
    /// # Errors
    /// Another thread is in one; the read is over.
    #[inline]
    pub fn begin(&self) -> Result<Step<'_, T>, StepRefusal> {
        loop {
            let phase = self.phase();
            match phase {
                ReadPhase::Running => return Err(StepRefusal::Running),
                ReadPhase::Over => return Err(StepRefusal::Over),
                ReadPhase::Fresh | ReadPhase::Waiting => {}
            }
            let running = ReadPhase::Running as u8;
            // Acquire: what the step before has left is seen.
            if self.phase.compare_exchange(phase as u8, running, Acquire, Relaxed).is_ok() {
                return Ok(Step { steps: self, is_first: phase == ReadPhase::Fresh });
            }
        }
    }
}

/// The right to go on with a read. The read is over when this is dropped, also by a panic, and waits if it is given
/// up by [`Step::wait`].
#[must_use = "nobody else goes on with the read while it lives"]
pub struct Step<'a, T> {
    steps: &'a ReadSteps<T>,
    is_first: bool,
}

impl<T> Step<'_, T> {
    /// Whether the read begins with it.
    #[must_use]
    pub const fn is_first(&self) -> bool {
        self.is_first
    }

    /// Calls `f` with what the read has come to.
    #[inline(always)]
    pub fn with<R>(&mut self, f: impl FnOnce(&mut T) -> R) -> R {
        // SAFETY: one step at a time lives, and this is it.
        self.steps.progress.with_mut(|progress| f(unsafe { &mut *progress }))
    }

    /// Lets the read wait, to be gone on with.
    #[inline]
    pub fn wait(self) {
        ManuallyDrop::new(self).end(ReadPhase::Waiting);
    }

    #[inline]
    fn end(&self, phase: ReadPhase) {
        self.steps.phase.store(phase as u8, Release);
    }
}

impl<T> Drop for Step<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.end(ReadPhase::Over);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_read_waits_and_is_gone_on_with_until_it_is_over() {
        let read = ReadSteps::<u8>::default();
        assert_eq!(read.phase(), ReadPhase::Fresh);
        let mut step = read.begin().unwrap();
        assert!(step.is_first());
        step.with(|progress| *progress = 7);
        step.wait();
        assert_eq!(read.phase(), ReadPhase::Waiting);
        let mut step = read.begin().unwrap();
        assert!(!step.is_first());
        assert_eq!(step.with(|progress| *progress), 7);
        drop(step);
        assert_eq!(read.phase(), ReadPhase::Over);
        assert_eq!(read.begin().err(), Some(StepRefusal::Over));
        assert_eq!(read.begin().err(), Some(StepRefusal::Over), "it stays so");
    }

    #[test]
    fn one_step_at_a_time() {
        let read = ReadSteps::<u8>::default();
        let step = read.begin().unwrap();
        assert_eq!(read.phase(), ReadPhase::Running);
        assert_eq!(read.begin().err(), Some(StepRefusal::Running));
        step.wait();
        assert!(read.begin().is_ok());
    }

    #[test]
    fn a_step_that_panics_ends_the_read() {
        let read = ReadSteps::<u8>::default();
        let step = read.begin().unwrap();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut step = step;
            step.with(|_| panic!("as expected"));
        }));
        assert!(panicked.is_err());
        assert_eq!(read.phase(), ReadPhase::Over);
    }
}
