//! `PoolTaskCore`: a coroutine on a loop of the pool, awaited from any loop.
//!
//! Here is what it consists of. What any thread may ask of it is in `pool_task_methods`, what happens on its
//! own loop in `pool_task_run`.
//!
//! It is a future as `asyncio` understands one, but of every loop at once: the task of whichever loop
//! awaits it is woken on that loop, without a future in between.

use std::sync::atomic::{
    AtomicBool, AtomicU8,
    Ordering::{Acquire, Relaxed, Release},
};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::py::asyncio::state::state;
use crate::py::cpython::attach::lock_attached;
use crate::py::cpython::names::intern;
use crate::py::cpython::object::{Ref, copied};
use crate::py::event_loop::core::LoopCore;
use crate::sync::Mutex;

/// How it ended, if it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    Pending,
    Returned,
    Raised,
    Cancelled,
}

/// A coroutine that runs on a loop of the pool. Use `loop_pool.PoolTask`.
#[pyclass(frozen, subclass, weakref, generic, module = "loop_pool._core")]
pub(crate) struct PoolTaskCore {
    /// A [`Phase`]. Written once, under the lock of `parts` and after the outcome.
    phase: AtomicU8,
    /// It ended by an exception that nobody has fetched.
    pub(super) unfetched: AtomicBool,
    /// Somebody has awaited it.
    awaited: AtomicBool,
    pub(crate) parts: Mutex<Parts>,
}

/// What a task consists of. Nothing is dropped, and no Python runs, under its lock.
#[derive(Default)]
pub(crate) struct Parts {
    /// The coroutine, until it begins.
    pub(crate) coro: Option<Ref>,
    pub(crate) name: Option<Ref>,
    pub(crate) context: Option<Ref>,
    /// The loop that it runs on, once that is known.
    pub(crate) loop_: Option<Py<LoopCore>>,
    /// Its place among those of its loop.
    pub(crate) place: usize,
    /// For a while it counts as if it had not ended, when coroutines are placed.
    pub(crate) lingers: bool,
    /// It is the pool's own: no task factory of the program has a hand in it.
    pub(crate) own: bool,
    /// The `asyncio.Task`, while it runs. Dropped on its own loop's thread.
    pub(crate) task: Option<Ref>,
    /// The messages of the cancellations that were asked for and have not reached the coroutine.
    pub(crate) cancels: Vec<Ref>,
    /// The result, the exception, or the arguments of the `CancelledError`.
    pub(crate) outcome: Option<Ref>,
    /// Where the exception was raised.
    pub(crate) traceback: Option<Ref>,
    /// The `CancelledError` that ended it, for the first who asks: as asyncio, it goes to one.
    pub(crate) cancelled: Option<Ref>,
    pub(crate) watchers: Vec<Watcher>,
}

/// Who wants to know of the end.
pub(crate) struct Watcher {
    /// On which loop; `None`: in the thread that ends it.
    pub(crate) loop_: Option<Ref>,
    pub(crate) callback: Ref,
    pub(crate) context: Option<Ref>,
}

impl Parts {
    pub(super) fn objects(&self) -> impl Iterator<Item = &Py<PyAny>> {
        let own = [
            &self.coro,
            &self.name,
            &self.context,
            &self.task,
            &self.outcome,
            &self.traceback,
            &self.cancelled,
        ];
        let watchers = self.watchers.iter().flat_map(|watcher| {
            [Some(&watcher.callback), watcher.loop_.as_ref(), watcher.context.as_ref()]
        });
        own.into_iter()
            .map(Option::as_ref)
            .chain(watchers)
            .flatten()
            .chain(&self.cancels)
            .map(Ref::as_py)
            .chain(self.loop_.as_ref().map(Py::as_any))
    }
}

impl PoolTaskCore {
    pub(super) fn pending() -> Self {
        Self {
            phase: AtomicU8::new(Phase::Pending as u8),
            unfetched: AtomicBool::new(false),
            awaited: AtomicBool::new(false),
            parts: Mutex::new(Parts::default()),
        }
    }

    /// Whether it has a result, an exception, or was cancelled.
    pub(crate) fn is_done(&self) -> bool {
        self.phase() != Phase::Pending
    }

    /// What a task that is done has returned, or raises.
    ///
    /// # Errors
    /// The coroutine's exception; `CancelledError`.
    pub(super) fn taken_result(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match self.outcome(py) {
            (Phase::Raised, Some(exception)) => Err(self.raised(py, &exception)),
            (Phase::Cancelled, _) => Err(self.cancelled_error(py)?),
            (_, result) => {
                Ok(result.map_or_else(|| py.None(), |result| result.as_py().clone_ref(py)))
            }
        }
    }

    /// Whether somebody has awaited it.
    pub(crate) fn is_awaited(&self) -> bool {
        self.awaited.load(Relaxed)
    }

    /// Notes that somebody awaits it.
    pub(crate) fn set_awaited(&self) {
        self.awaited.store(true, Relaxed);
    }

    /// How it ended. What `end` wrote before is then seen.
    #[inline(always)]
    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Acquire) {
            1 => Phase::Returned,
            2 => Phase::Raised,
            3 => Phase::Cancelled,
            _ => Phase::Pending,
        }
    }

    /// Notes the end, under the lock of `parts`, which hold the outcome.
    pub(crate) fn set_phase(&self, phase: Phase) {
        self.unfetched.store(phase == Phase::Raised, Relaxed);
        self.phase.store(phase as u8, Release);
    }

    pub(super) fn outcome(&self, py: Python<'_>) -> (Phase, Option<Ref>) {
        let parts = lock_attached(py, &self.parts);
        (self.phase(), copied(py, parts.outcome.as_ref()))
    }

    /// The exception, to be raised with the traceback that it had when it ended the coroutine.
    pub(super) fn raised(&self, py: Python<'_>, exception: &Ref) -> PyErr {
        self.unfetched.store(false, Relaxed);
        let traceback = {
            let parts = lock_attached(py, &self.parts);
            copied(py, parts.traceback.as_ref())
        };
        let none = py.None();
        let traceback = traceback.as_ref().map_or(none.as_ptr(), Ref::as_ptr);
        // SAFETY: both are alive, and it takes tracebacks and None.
        unsafe { ffi::PyException_SetTraceback(exception.as_ptr(), traceback) };
        PyErr::from_value(exception.as_py().bind(py).clone())
    }

    pub(super) fn cancelled_error(&self, py: Python<'_>) -> PyResult<PyErr> {
        let (args, ended_by) = {
            let mut parts = lock_attached(py, &self.parts);
            if self.phase() == Phase::Cancelled {
                (copied(py, parts.outcome.as_ref()), parts.cancelled.take())
            } else {
                (None, None)
            }
        };
        if let Some(error) = ended_by {
            return Ok(PyErr::from_value(error.as_py().bind(py).clone()));
        }
        let class = py.import(intern!(py, "asyncio"))?.getattr(intern!(py, "CancelledError"))?;
        let args = match &args {
            Some(args) => args.as_py().bind(py).cast::<PyTuple>()?.clone(),
            None => PyTuple::empty(py),
        };
        Ok(PyErr::from_value(class.call1(args)?))
    }

    /// The exception that nobody has fetched, for the last word on it.
    pub(crate) fn take_unfetched(&self, py: Python<'_>) -> Option<Ref> {
        if self.unfetched.swap(false, Relaxed) { self.outcome(py).1 } else { None }
    }
}

/// The loop that runs in this thread, as asyncio knows it.
pub(crate) fn running_loop(py: Python<'_>) -> PyResult<Option<Bound<'_, PyAny>>> {
    let running = state().classes.get_running_loop.as_py().bind(py).call0()?;
    Ok((!running.is_none()).then_some(running))
}
