//! Tasks that other threads have looked at are destroyed by their own loop.
//!
//! A C task whose last reference is dropped in another thread than the one that made it stops every
//! thread of the interpreter, to take it out of that thread's list. So whoever is handed a task of
//! another loop leaves a second reference with that loop, which keeps it until the reader has most
//! likely dropped its own: from one [`config::BORROWED_FOR`] to two of them. A reader that keeps a task
//! for longer, until it has ended and nobody else has it, still stops the threads when it lets go.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::config;
use crate::event_loop::Generations;
use crate::py::cpython::attach::lock_attached;
use crate::py::cpython::object::Ref;
use crate::sync::Mutex;

/// What a loop keeps for those who read its tasks.
pub(crate) struct BorrowedTasks {
    /// Whether there is anything; it may say so for a moment too long.
    any: AtomicBool,
    /// Nothing is dropped, and no Python runs, under its lock.
    kept: Mutex<Generations<Ref>>,
}

impl BorrowedTasks {
    pub(crate) fn new() -> Self {
        Self { any: AtomicBool::new(false), kept: Mutex::new(Generations::default()) }
    }

    /// Notes that a task of the loop was handed out. Any thread.
    pub(crate) fn add<'a>(&self, py: Python<'_>, tasks: impl Iterator<Item = &'a Ref>) {
        let mut kept = lock_attached(py, &self.kept);
        for task in tasks {
            kept.keep(task.as_ptr() as usize, || task.clone_ref(py));
        }
        if !kept.is_empty() {
            self.any.store(true, Relaxed);
        }
    }

    /// Shows the collector what is kept.
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(kept) = self.kept.lock_for_collector() else { return Ok(()) };
        kept.iter().map(Ref::as_py).try_for_each(|task| visit.call(task))
    }

    /// Drops all, as the loop closes.
    pub(crate) fn clear(&self, py: Python<'_>) {
        let kept = lock_attached(py, &self.kept).close();
        drop(kept);
    }

    /// Drops what has been kept for long enough, a few at a time. Owner only, in each turn.
    #[inline(always)]
    pub(crate) fn drop_some(&self, now_ns: impl FnOnce() -> u64) {
        if self.any.load(Relaxed) {
            self.drop_old(now_ns());
        }
    }

    #[cold]
    fn drop_old(&self, now_ns: u64) {
        let dropped = {
            // A reader that holds it may be preempted; there is another turn.
            let Some(mut kept) = self.kept.try_lock() else { return };
            let dropped = kept.take_dying(now_ns, config::BORROWED_FOR, config::SWEEP_PER_TURN);
            if kept.is_empty() {
                self.any.store(false, Relaxed);
            }
            dropped
        };
        drop(dropped);
    }

    /// For how long the loop may sleep: not for ever while it keeps something.
    pub(crate) fn limit(&self, limit: Duration) -> Duration {
        if self.any.load(Relaxed) { limit.min(config::BORROWED_FOR) } else { limit }
    }
}
