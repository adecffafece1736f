//! What a loop says of itself in single words. Any thread reads them at any time; none of them says
//! anything about other memory.
//!
//! In: what the program sets (debug mode, a task factory, a clock), and what the run loop finds. Out: one
//! load for each question on the hot paths. Must never: guard anything.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// The flags of one loop.
#[derive(Debug, Default)]
pub(crate) struct LoopFlags {
    debug: AtomicBool,
    has_task_factory: AtomicBool,
    starts_eagerly: AtomicBool,
    is_behind: AtomicBool,
    /// What of its clock is the program's: see `program_clock`, which alone knows the bits.
    clock: AtomicU64,
}

impl LoopFlags {
    /// As `BaseEventLoop._debug`.
    #[inline(always)]
    pub(crate) fn is_debug(&self) -> bool {
        self.debug.load(Relaxed)
    }

    pub(crate) fn set_debug(&self, debug: bool) {
        self.debug.store(debug, Relaxed);
    }

    /// Whether the attribute `_task_factory` holds a factory.
    #[inline(always)]
    pub(crate) fn has_task_factory(&self) -> bool {
        self.has_task_factory.load(Relaxed)
    }

    pub(crate) fn set_task_factory(&self, is_there: bool) {
        self.has_task_factory.store(is_there, Relaxed);
    }

    /// Whether the task factory is asyncio's that starts tasks at once.
    #[inline(always)]
    pub(crate) fn starts_eagerly(&self) -> bool {
        self.starts_eagerly.load(Relaxed)
    }

    pub(crate) fn set_starts_eagerly(&self, eagerly: bool) {
        self.starts_eagerly.store(eagerly, Relaxed);
    }

    /// Whether more waits than the loop gets to soon, and a thread is idle: writes are left to it, in this batch of callbacks.
    #[inline(always)]
    pub(crate) fn is_behind(&self) -> bool {
        self.is_behind.load(Relaxed)
    }

    /// Owner only.
    pub(super) fn set_behind(&self, behind: bool) {
        self.is_behind.store(behind, Relaxed);
    }

    /// What of the clock is the program's.
    #[inline(always)]
    pub(super) fn clock(&self) -> u64 {
        self.clock.load(Relaxed)
    }

    pub(super) fn set_clock(&self, clock: u64) {
        self.clock.store(clock, Relaxed);
    }
}
