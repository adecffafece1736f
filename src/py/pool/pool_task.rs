//! `PoolTaskCore`: a coroutine on a loop of the pool, awaited from any loop.
//!
//! Here is what it consists of. What any thread may ask of it is in `pool_task_methods`, what happens on its
//! own loop in `pool_task_run`. Who is first, where threads meet, [`TaskState`] decides.
//!
//! It is a future as `asyncio` understands one, but of every loop at once: the task of whichever loop
//! awaits it is woken on that loop, without a future in between.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::pool::{TaskPhase, TaskState, TaskWord};
use crate::py::asyncio::state::state;
use crate::py::cpython::attach::lock_attached;
use crate::py::cpython::names::intern;
use crate::py::cpython::object::{Ref, copied};
use crate::py::event_loop::core::LoopCore;
use crate::sync::Mutex;

/// A coroutine that runs on a loop of the pool. Use `loop_pool.PoolTask`.
#[pyclass(frozen, subclass, weakref, generic, module = "loop_pool._core")]
pub(crate) struct PoolTaskCore {
    pub(crate) word: TaskWord,
    pub(crate) parts: Mutex<Parts>,
}

/// What a task consists of. Nothing is dropped, and no Python runs, under its lock.
#[derive(Default)]
pub(crate) struct Parts {
    /// The coroutine; the `asyncio.Task`, dropped on its own loop's thread; the messages of its cancellations;
    /// the result, the exception, or the arguments of the `CancelledError`; who wants to know of the end.
    pub(crate) state: TaskState<Ref, Watcher>,
    /// Its name, or the number of which asyncio would make one.
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
    /// Where the exception was raised.
    pub(crate) traceback: Option<Ref>,
    /// The `CancelledError` that ended it, for the first who asks: as asyncio, it goes to one.
    pub(crate) cancelled: Option<Ref>,
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
        let own = [&self.name, &self.context, &self.traceback, &self.cancelled];
        let watchers = self.state.watchers().flat_map(|watcher| {
            [Some(&watcher.callback), watcher.loop_.as_ref(), watcher.context.as_ref()]
        });
        own.into_iter()
            .map(Option::as_ref)
            .chain(watchers)
            .flatten()
            .chain(self.state.references())
            .map(Ref::as_py)
            .chain(self.loop_.as_ref().map(Py::as_any))
    }
}

impl PoolTaskCore {
    pub(super) fn pending() -> Self {
        Self { word: TaskWord::default(), parts: Mutex::new(Parts::default()) }
    }

    /// What a task that is done has returned, or raises.
    ///
    /// # Errors
    /// The coroutine's exception; `CancelledError`.
    pub(super) fn taken_result(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match self.outcome(py) {
            (TaskPhase::Raised, Some(exception)) => Err(self.raised(py, &exception)),
            (TaskPhase::Cancelled, _) => Err(self.cancelled_error(py)?),
            (_, result) => {
                Ok(result.map_or_else(|| py.None(), |result| result.as_py().clone_ref(py)))
            }
        }
    }

    pub(super) fn outcome(&self, py: Python<'_>) -> (TaskPhase, Option<Ref>) {
        let parts = lock_attached(py, &self.parts);
        (self.word.phase(), copied(py, parts.state.outcome()))
    }

    /// The exception, to be raised with the traceback that it had when it ended the coroutine.
    pub(super) fn raised(&self, py: Python<'_>, exception: &Ref) -> PyErr {
        self.word.fetched();
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
            if self.word.phase() == TaskPhase::Cancelled {
                (copied(py, parts.state.outcome()), parts.cancelled.take())
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
        if self.word.take_unfetched() { self.outcome(py).1 } else { None }
    }
}

/// The loop that runs in this thread, as asyncio knows it.
pub(crate) fn running_loop(py: Python<'_>) -> PyResult<Option<Bound<'_, PyAny>>> {
    let running = state().classes.get_running_loop.as_py().bind(py).call0()?;
    Ok((!running.is_none()).then_some(running))
}
