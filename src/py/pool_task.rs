//! `PoolTaskCore`: a coroutine on a loop of the pool, awaited from any loop.
//!
//! Here is what any thread may ask of it; what happens on its own loop is in `pool_task_run`.
//!
//! It is a future as `asyncio` understands one, but of every loop at once: the task of whichever loop
//! awaits it is woken on that loop, without a future in between.

use std::cell::Cell;
use std::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use pyo3::exceptions::PyBaseException;
use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::alloc;
use super::core::LoopCore;
use super::io::{copy_context, lock_attached};
use super::names::intern;
use super::object::{Ref, copied};
use super::pool_task_cancel;
use super::pool_task_run as run;
use super::pool_task_wait::PoolTaskWait;
use super::returned::Returned;
use super::state::state;
use crate::sync::Mutex;

/// How it ended, if it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    Pending,
    Returned,
    Raised,
    Cancelled,
}

/// A coroutine that runs on a loop of the pool. Use `loop_pool.PoolTask`.
#[pyclass(frozen, subclass, weakref, generic, module = "loop_pool._core")]
pub(super) struct PoolTaskCore {
    /// A [`Phase`]. Written once, under the lock of `parts` and after the outcome.
    phase: AtomicU8,
    /// It ended by an exception that nobody has fetched.
    unfetched: AtomicBool,
    /// Somebody has awaited it.
    awaited: AtomicBool,
    pub(super) parts: Mutex<Parts>,
}

/// What a task consists of. Nothing is dropped, and no Python runs, under its lock.
#[derive(Default)]
pub(super) struct Parts {
    /// The coroutine, until it begins.
    pub(super) coro: Option<Ref>,
    pub(super) name: Option<Ref>,
    pub(super) context: Option<Ref>,
    /// The loop that it runs on, once that is known.
    pub(super) loop_: Option<Py<LoopCore>>,
    /// Its place among those of its loop.
    pub(super) place: usize,
    /// For a while it counts as if it had not ended, when coroutines are placed.
    pub(super) lingers: bool,
    /// It is the pool's own: no task factory of the program has a hand in it.
    pub(super) own: bool,
    /// The `asyncio.Task`, while it runs. Dropped on its own loop's thread.
    pub(super) task: Option<Ref>,
    /// The messages of the cancellations that were asked for and have not reached the coroutine.
    pub(super) cancels: Vec<Ref>,
    /// The result, the exception, or the arguments of the `CancelledError`.
    pub(super) outcome: Option<Ref>,
    /// Where the exception was raised.
    pub(super) traceback: Option<Ref>,
    /// The `CancelledError` that ended it, for the first who asks: as asyncio, it goes to one.
    pub(super) cancelled: Option<Ref>,
    pub(super) watchers: Vec<Watcher>,
}

/// Who wants to know of the end.
pub(super) struct Watcher {
    /// On which loop; `None`: in the thread that ends it.
    pub(super) loop_: Option<Ref>,
    pub(super) callback: Ref,
    pub(super) context: Option<Ref>,
}

impl Parts {
    fn objects(&self) -> impl Iterator<Item = &Py<PyAny>> {
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

thread_local! {
    /// Set while `make` calls the class.
    static MAKING: Cell<bool> = const { Cell::new(false) };
}

/// Counts the tasks without a name whose name was asked for.
static NAMES: AtomicU64 = AtomicU64::new(1);

#[pymethods]
impl PoolTaskCore {
    #[new]
    fn new(py: Python<'_>) -> PyResult<Self> {
        if !MAKING.get() {
            return Err(alloc::type_error(py, "a PoolTask is made by loop_pool.spawn()"));
        }
        Ok(Self {
            phase: AtomicU8::new(Phase::Pending as u8),
            unfetched: AtomicBool::new(false),
            awaited: AtomicBool::new(false),
            parts: Mutex::new(Parts::default()),
        })
    }

    /// Whether it has a result, an exception, or was cancelled.
    pub(super) fn done(&self) -> bool {
        self.phase() != Phase::Pending
    }

    /// Whether it ended by cancellation.
    fn cancelled(&self) -> bool {
        self.phase() == Phase::Cancelled
    }

    /// The loop that the coroutine runs on; `None` until it has begun, if none was asked for.
    #[getter]
    #[pyo3(name = "loop")]
    fn own_loop(&self, py: Python<'_>) -> Option<Py<LoopCore>> {
        lock_attached(py, &self.parts).loop_.as_ref().map(|loop_| loop_.clone_ref(py))
    }

    /// The loop of whoever asks, on which it may be awaited: as asyncio asks of a future. In a thread
    /// that runs none, the coroutine's own.
    fn get_loop(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match running_loop(py)? {
            Some(loop_) => Ok(loop_.unbind()),
            None => Ok(self.own_loop(py).map_or_else(|| py.None(), Py::into_any)),
        }
    }

    /// The coroutine; `None` when it has ended.
    fn get_coro(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let (coro, task) = {
            let parts = lock_attached(py, &self.parts);
            (copied(py, parts.coro.as_ref()), copied(py, parts.task.as_ref()))
        };
        match (coro, task) {
            (Some(coro), _) => Ok(coro.as_py().clone_ref(py)),
            (None, Some(task)) => task.as_py().call_method0(py, intern!(py, "get_coro")),
            (None, None) => Ok(py.None()),
        }
    }

    /// The context that it runs in.
    fn get_context(&self, py: Python<'_>) -> Py<PyAny> {
        let parts = lock_attached(py, &self.parts);
        parts.context.as_ref().map_or_else(|| py.None(), |context| context.as_py().clone_ref(py))
    }

    /// The task's name, as `asyncio.Task.get_name`.
    fn get_name(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let (name, task) = {
            let parts = lock_attached(py, &self.parts);
            (copied(py, parts.name.as_ref()), copied(py, parts.task.as_ref()))
        };
        if let Some(name) = name {
            return Ok(name.as_py().clone_ref(py));
        }
        // One that was told stays.
        let made = if let Some(task) = task {
            task.as_py().bind(py).call_method0(intern!(py, "get_name"))?
        } else {
            let number = NAMES.fetch_add(1, Relaxed);
            alloc::text(py, &format!("PoolTask-{number}"))?.into_any()
        };
        let mut made = Some(Ref::from(made));
        let name = {
            let mut parts = lock_attached(py, &self.parts);
            if parts.name.is_none() {
                parts.name = made.take();
            }
            copied(py, parts.name.as_ref())
        };
        Ok(name.map_or_else(|| py.None(), |name| name.as_py().clone_ref(py)))
    }

    /// Gives it another name, as `asyncio.Task.set_name`.
    fn set_name(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let name = value.str()?;
        let (task, before) = {
            let mut parts = lock_attached(py, &self.parts);
            let before = parts.name.replace(name.clone().into_any().into());
            (copied(py, parts.task.as_ref()), before)
        };
        drop(before);
        if let Some(task) = task {
            task.as_py().call_method1(py, intern!(py, "set_name"), (name,))?;
        }
        Ok(())
    }

    /// Asks the coroutine to stop, as `asyncio.Task.cancel`. False if it is done already.
    #[pyo3(signature = (msg = None))]
    fn cancel(slf: &Bound<'_, Self>, msg: Option<Bound<'_, PyAny>>) -> PyResult<bool> {
        let message = msg.unwrap_or_else(|| slf.py().None().into_bound(slf.py()));
        pool_task_cancel::cancel(slf, message.into())
    }

    /// The coroutine's result. A thread that runs no loop waits for it.
    #[pyo3(signature = (timeout = None))]
    pub(super) fn result(
        slf: &Bound<'_, Self>,
        timeout: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let this = slf.get();
        if !this.done() {
            slf.call_method1(intern!(py, "_wait"), (timeout,))?;
        }
        match this.outcome(py) {
            (Phase::Raised, Some(exception)) => Err(this.raised(py, &exception)),
            (Phase::Cancelled, _) => Err(this.cancelled_error(py)?),
            (_, result) => {
                Ok(result.map_or_else(|| py.None(), |result| result.as_py().clone_ref(py)))
            }
        }
    }

    /// The coroutine's exception, or `None`. A thread that runs no loop waits for it.
    #[pyo3(signature = (timeout = None))]
    fn exception(
        slf: &Bound<'_, Self>,
        timeout: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Option<Py<PyAny>>> {
        let py = slf.py();
        let this = slf.get();
        if !this.done() {
            slf.call_method1(intern!(py, "_wait"), (timeout,))?;
        }
        match this.outcome(py) {
            (Phase::Cancelled, _) => Err(this.cancelled_error(py)?),
            (Phase::Raised, Some(exception)) => {
                this.unfetched.store(false, Relaxed);
                Ok(Some(exception.as_py().clone_ref(py)))
            }
            _ => Ok(None),
        }
    }

    /// Calls `fn(self)` when it is done, with asyncio's `call_soon` of the loop that runs in the
    /// calling thread; without one, in the thread that ends it.
    #[pyo3(signature = (r#fn, *, context = None))]
    fn add_done_callback(
        slf: &Bound<'_, Self>,
        r#fn: Bound<'_, PyAny>,
        context: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let context = match context {
            Some(context) => context.into(),
            None => copy_context(py)?,
        };
        let loop_ = running_loop(py)?.map(Ref::from);
        let watcher = Watcher { loop_, callback: r#fn.into(), context: Some(context) };
        let late = {
            let mut parts = lock_attached(py, &this.parts);
            if this.done() {
                Some(watcher)
            } else {
                parts.watchers.push(watcher);
                None
            }
        };
        late.map_or(Ok(()), |watcher| run::notify(slf, watcher))
    }

    /// Takes back what `add_done_callback` was given; returns how often that was.
    fn remove_done_callback(
        &self,
        py: Python<'_>,
        r#fn: &Bound<'_, PyAny>,
    ) -> PyResult<Returned<usize>> {
        let callbacks: Vec<Ref> = {
            let parts = lock_attached(py, &self.parts);
            parts.watchers.iter().map(|watcher| watcher.callback.clone_ref(py)).collect()
        };
        let mut equal = Vec::new();
        for callback in callbacks {
            if callback.as_py().bind(py).eq(r#fn)? {
                equal.push(callback);
            }
        }
        let removed: Vec<Watcher> = {
            let mut parts = lock_attached(py, &self.parts);
            let is_one = |watcher: &mut Watcher| {
                equal.iter().any(|one| std::ptr::eq(one.as_ptr(), watcher.callback.as_ptr()))
            };
            parts.watchers.extract_if(.., is_one).collect()
        };
        Ok(Returned(removed.len()))
    }

    fn __await__(slf: &Bound<'_, Self>) -> PyResult<Py<PoolTaskWait>> {
        PoolTaskWait::new(slf)
    }

    /// As asyncio asks whether something is a future. Several tasks may await it, so it says yes at
    /// all times.
    #[getter]
    #[allow(clippy::unused_self, reason = "a getter")]
    fn _asyncio_future_blocking(&self) -> bool {
        true
    }

    #[setter(_asyncio_future_blocking)]
    #[allow(clippy::unused_self, reason = "a setter")]
    fn set_blocking(&self, _blocking: bool) {}

    /// The error of a task that was cancelled, as `asyncio.gather` asks for it; also of one that was
    /// not, when the gathering itself is cancelled.
    fn _make_cancelled_error(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(self.cancelled_error(py)?.into_value(py).into_any())
    }

    /// Its message, as `asyncio.gather` asks for it.
    #[getter]
    fn _cancel_message(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let (Phase::Cancelled, Some(args)) = self.outcome(py) else { return Ok(py.None()) };
        let mut args = args.as_py().bind(py).try_iter()?;
        Ok(args.next().transpose()?.map_or_else(|| py.None(), Bound::unbind))
    }

    /// Ends a task whose loop has ended, or that never got to one, by an exception.
    fn _abandon(slf: &Bound<'_, Self>, exception: Bound<'_, PyBaseException>) -> PyResult<()> {
        run::abandon(slf, exception)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(parts) = self.parts.lock_for_collector() else { return Ok(()) };
        parts.objects().try_for_each(|object| visit.call(object))
    }

    fn __clear__(&self) {
        // SAFETY: the collector calls this attached.
        let py = unsafe { Python::assume_attached() };
        let parts = std::mem::take(&mut *lock_attached(py, &self.parts));
        drop(parts);
    }
}

impl PoolTaskCore {
    /// Whether somebody has awaited it.
    pub(super) fn is_awaited(&self) -> bool {
        self.awaited.load(Relaxed)
    }

    /// Notes that somebody awaits it.
    pub(super) fn set_awaited(&self) {
        self.awaited.store(true, Relaxed);
    }

    /// How it ended. What `end` wrote before is then seen.
    #[inline(always)]
    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Acquire) {
            1 => Phase::Returned,
            2 => Phase::Raised,
            3 => Phase::Cancelled,
            _ => Phase::Pending,
        }
    }

    /// Notes the end, under the lock of `parts`, which hold the outcome.
    pub(super) fn set_phase(&self, phase: Phase) {
        self.unfetched.store(phase == Phase::Raised, Relaxed);
        self.phase.store(phase as u8, Release);
    }

    fn outcome(&self, py: Python<'_>) -> (Phase, Option<Ref>) {
        let parts = lock_attached(py, &self.parts);
        (self.phase(), copied(py, parts.outcome.as_ref()))
    }

    /// The exception, to be raised with the traceback that it had when it ended the coroutine.
    fn raised(&self, py: Python<'_>, exception: &Ref) -> PyErr {
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

    fn cancelled_error(&self, py: Python<'_>) -> PyResult<PyErr> {
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
    pub(super) fn take_unfetched(&self, py: Python<'_>) -> Option<Ref> {
        if self.unfetched.swap(false, Relaxed) { self.outcome(py).1 } else { None }
    }
}

/// The loop that runs in this thread, as asyncio knows it.
pub(super) fn running_loop(py: Python<'_>) -> PyResult<Option<Bound<'_, PyAny>>> {
    let running = state().get_running_loop.as_py().bind(py).call0()?;
    Ok((!running.is_none()).then_some(running))
}

/// Makes a task for a coroutine.
pub(super) fn make<'py>(
    py: Python<'py>,
    coro: Ref,
    name: Option<Ref>,
    context: Ref,
) -> PyResult<Bound<'py, PoolTaskCore>> {
    let class = run::class(py)?;
    MAKING.set(true);
    // SAFETY: a live class, whose maker wants no arguments; the result is a new reference, or null
    // with an exception set. It is called through C, which does not unwind: `MAKING` is cleared.
    let made = unsafe {
        match (*class).tp_new {
            Some(new) => new(class, state().empty_tuple.as_ptr(), std::ptr::null_mut()),
            None => ffi::PyObject_CallNoArgs(class.cast()),
        }
    };
    MAKING.set(false);
    // SAFETY: as above; the class inherits `PoolTaskCore`.
    let task = unsafe { Bound::from_owned_ptr_or_err(py, made)?.cast_into_unchecked() };
    let made: &PoolTaskCore = Bound::<'py, PoolTaskCore>::get(&task);
    let mut parts = lock_attached(py, &made.parts);
    parts.coro = Some(coro);
    parts.name = name;
    parts.context = Some(context);
    drop(parts);
    Ok(task)
}
