//! Tasks that other threads have looked at are destroyed by their own loop.
//!
//! A C task whose last reference is dropped in another thread than the one that made it stops every
//! thread of the interpreter, to take it out of that thread's list. So whoever is handed a task of
//! another loop leaves a second reference with that loop, which keeps it until the reader has most
//! likely dropped its own: from one [`config::LENT_FOR`] to two of them. A reader that keeps a task
//! for longer, until it has ended and nobody else has it, still stops the threads when it lets go.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::config;
use crate::py::cpython::attach::lock_attached;
use crate::py::cpython::object::Ref;
use crate::sync::Mutex;

/// What a loop keeps for those who read its tasks.
pub(crate) struct BorrowedTasks {
    /// Whether there is anything; it may say so for a moment too long.
    any: AtomicBool,
    kept: Mutex<Generations>,
}

/// Nothing is dropped, and no Python runs, under its lock.
#[derive(Default)]
struct Generations {
    /// Handed out since the last change of generations.
    young: Vec<Ref>,
    /// The addresses of those.
    known: HashSet<usize>,
    /// Handed out in the generation before.
    old: Vec<Ref>,
    /// To be dropped, a few in each turn.
    dying: Vec<Ref>,
    changed_ns: u64,
    /// The loop has closed, and keeps nothing more.
    closed: bool,
}

impl BorrowedTasks {
    pub(crate) fn new() -> Self {
        Self { any: AtomicBool::new(false), kept: Mutex::new(Generations::default()) }
    }

    /// Notes that a task of the loop was handed out. Any thread.
    pub(crate) fn add<'a>(&self, py: Python<'_>, tasks: impl Iterator<Item = &'a Ref>) {
        let mut kept = lock_attached(py, &self.kept);
        let Generations { young, known, closed, .. } = &mut *kept;
        if *closed {
            return;
        }
        for task in tasks {
            if known.insert(task.as_ptr() as usize) {
                young.push(task.clone_ref(py));
            }
        }
        self.any.store(true, Relaxed);
    }

    /// Shows the collector what is kept.
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(kept) = self.kept.lock_for_collector() else { return Ok(()) };
        let all = kept.young.iter().chain(&kept.old).chain(&kept.dying);
        all.map(Ref::as_py).try_for_each(|task| visit.call(task))
    }

    /// Drops all, as the loop closes.
    pub(crate) fn clear(&self, py: Python<'_>) {
        let closed = Generations { closed: true, ..Generations::default() };
        let kept = std::mem::replace(&mut *lock_attached(py, &self.kept), closed);
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
            let age = Duration::from_nanos(now_ns.saturating_sub(kept.changed_ns));
            if kept.dying.is_empty() && age >= config::LENT_FOR {
                kept.dying = std::mem::take(&mut kept.old);
                kept.old = std::mem::take(&mut kept.young);
                kept.known.clear();
                kept.changed_ns = now_ns;
            }
            let rest = kept.dying.len().saturating_sub(config::SWEEP_PER_TURN);
            let dropped = kept.dying.split_off(rest);
            if kept.dying.is_empty() && kept.old.is_empty() && kept.young.is_empty() {
                self.any.store(false, Relaxed);
            }
            dropped
        };
        drop(dropped);
    }

    /// For how long the loop may sleep: not for ever while it keeps something.
    pub(crate) fn limit(&self, limit: Duration) -> Duration {
        if self.any.load(Relaxed) { limit.min(config::LENT_FOR) } else { limit }
    }
}
