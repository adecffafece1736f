//! The methods of a `PoolTask` that any thread may call: those of a future.

use super::pool_task::{PoolTaskCore, Watcher, running_loop};
use super::pool_task_cancel;
use super::pool_task_class::MAKING;
use super::pool_task_end::{self};
use super::pool_task_run as run;
use super::pool_task_wait::PoolTaskWait;
use crate::pool::TaskPhase;
use crate::py::cpython::alloc;
use crate::py::cpython::attach::lock_attached;
use crate::py::cpython::context::copy_context;
use crate::py::cpython::names::intern;
use crate::py::cpython::object::{Ref, copied};
use crate::py::cpython::returned::Returned;
use crate::py::event_loop::core::LoopCore;
use pyo3::exceptions::PyBaseException;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyInt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts the tasks without a name whose name was asked for.
static NAMES: AtomicU64 = AtomicU64::new(1);

#[pymethods]
impl PoolTaskCore {
    #[new]
    fn new(py: Python<'_>) -> PyResult<Self> {
        if !MAKING.get() {
            return Err(alloc::type_error(py, "a PoolTask is made by loop_pool.spawn()"));
        }
        Ok(Self::pending())
    }

    /// Whether it has a result, an exception, or was cancelled.
    fn done(&self) -> bool {
        self.word.is_done()
    }

    /// Whether it ended by cancellation.
    fn cancelled(&self) -> bool {
        self.word.phase() == TaskPhase::Cancelled
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
            (copied(py, parts.state.coro()), copied(py, parts.state.task()))
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
            (copied(py, parts.name.as_ref()), copied(py, parts.state.task()))
        };
        if let Some(name) = name {
            let name = name.as_py().bind(py);
            return if name.is_exact_instance_of::<PyInt>() {
                Ok(alloc::text(py, &format!("Task-{name}"))?.into_any().unbind())
            } else {
                Ok(name.clone().unbind())
            };
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
            (copied(py, parts.state.task()), before)
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
    fn result(slf: &Bound<'_, Self>, timeout: Option<Bound<'_, PyAny>>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let this = slf.get();
        if !this.word.is_done() {
            slf.call_method1(intern!(py, "_wait"), (timeout,))?;
        }
        this.taken_result(py)
    }

    /// The coroutine's exception, or `None`. A thread that runs no loop waits for it.
    #[pyo3(signature = (timeout = None))]
    fn exception(
        slf: &Bound<'_, Self>,
        timeout: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Option<Py<PyAny>>> {
        let py = slf.py();
        let this = slf.get();
        if !this.word.is_done() {
            slf.call_method1(intern!(py, "_wait"), (timeout,))?;
        }
        match this.outcome(py) {
            (TaskPhase::Cancelled, _) => Err(this.cancelled_error(py)?),
            (TaskPhase::Raised, Some(exception)) => {
                this.word.fetched();
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
        let noted = lock_attached(py, &this.parts).state.watch(&this.word, watcher);
        noted.or_else(|late| pool_task_end::notify(slf, late))
    }

    /// Takes back what `add_done_callback` was given; returns how often that was.
    fn remove_done_callback(
        &self,
        py: Python<'_>,
        r#fn: &Bound<'_, PyAny>,
    ) -> PyResult<Returned<usize>> {
        let callbacks: Vec<Ref> = {
            let parts = lock_attached(py, &self.parts);
            parts.state.watchers().map(|watcher| watcher.callback.clone_ref(py)).collect()
        };
        let mut equal = Vec::new();
        for callback in callbacks {
            if callback.as_py().bind(py).eq(r#fn)? {
                equal.push(callback);
            }
        }
        let removed: Vec<Watcher> = {
            let mut parts = lock_attached(py, &self.parts);
            parts.state.unwatch(|watcher| {
                equal.iter().any(|one| std::ptr::eq(one.as_ptr(), watcher.callback.as_ptr()))
            })
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
        let (TaskPhase::Cancelled, Some(args)) = self.outcome(py) else { return Ok(py.None()) };
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
