//! Who goes on with a coroutine without a frame: one thread at a time, as with any coroutine.

use std::sync::atomic::{
    AtomicU8,
    Ordering::{Acquire, Relaxed, Release},
};

const FRESH: u8 = 0;
const RUNNING: u8 = 1;
const WAITING: u8 = 2;
const OVER: u8 = 3;

/// Where a coroutine stands.
#[derive(Default)]
pub(crate) struct Phase(AtomicU8);

/// Why nobody may go on with a coroutine.
pub(crate) enum Refusal {
    Running,
    Over,
}

/// The right to go on with a coroutine. It is over when this is dropped, also by a panic, unless it was
/// said to wait again.
#[must_use = "nobody else goes on with it while it lives"]
pub(crate) struct Turn<'a> {
    phase: &'a AtomicU8,
    pub(crate) is_first: bool,
    then: u8,
}

impl Turn<'_> {
    /// Lets it wait, to be gone on with.
    pub(crate) fn waits(&mut self) {
        self.then = WAITING;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.phase.store(self.then, Release);
    }
}

impl Phase {
    /// Lets this thread go on with it.
    pub(crate) fn claim(&self) -> Result<Turn<'_>, Refusal> {
        match self.0.swap(RUNNING, Acquire) {
            RUNNING => Err(Refusal::Running),
            OVER => {
                self.0.store(OVER, Release);
                Err(Refusal::Over)
            }
            phase => Ok(Turn { phase: &self.0, is_first: phase == FRESH, then: OVER }),
        }
    }

    /// Whether nobody has begun it.
    pub(crate) fn is_fresh(&self) -> bool {
        self.0.load(Relaxed) == FRESH
    }

    /// Whether it waits, to be gone on with.
    pub(crate) fn is_waiting(&self) -> bool {
        self.0.load(Relaxed) == WAITING
    }

    /// Whether it has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.0.load(Relaxed) == OVER
    }
}
