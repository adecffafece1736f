//! `spawn`: starts coroutines on a loop of the pool.
//!
//! Each loop has [`SpawnedTasks`](crate::pool::SpawnedTasks): the tasks admitted to it that have not ended.

use pyo3::Borrowed;
use pyo3::ffi;
use pyo3::prelude::*;

use super::pool_task::{self, PoolTaskCore};
use super::pool_task_cancel;
use super::pool_task_class;
use super::pool_task_run;
use super::spawned_tasks::enter;
use crate::pool::Admission;
use crate::pool::Unstarted;
use crate::py::cpython::alloc;
use crate::py::cpython::attach::lock_attached;
use crate::py::cpython::context::copy_context;
use crate::py::cpython::names::intern;
use crate::py::event_loop::callback::Callback;
use crate::py::event_loop::core::LoopCore;
use crate::py::event_loop::report::report_native;

/// Gives `coro` to a loop, which begins it in its own thread. Any thread. `closing`: it is the
/// shutdown's own, which a loop takes on to its end, and which no task factory changes.
///
/// # Errors
/// `RuntimeError` if the loop accepts no new work; `TypeError` for what is no coroutine. The
/// coroutine is left as it is.
#[pyfunction]
#[pyo3(name = "_spawn_on", signature = (loop_, coro, name, context, closing, /))]
pub(crate) fn spawn_on<'py>(
    loop_: &Bound<'py, LoopCore>,
    coro: &Bound<'py, PyAny>,
    name: Option<Bound<'py, PyAny>>,
    context: Option<Bound<'py, PyAny>>,
    closing: bool,
) -> PyResult<Bound<'py, PoolTaskCore>> {
    let task = new_task(coro, name, context)?;
    lock_attached(coro.py(), &task.get().parts).own = closing;
    enter(loop_, &task, closing, false)?;
    loop_.get().schedule(Callback::from_native(task.clone().into_any().into()));
    Ok(task)
}

/// Leaves `coro` to the loop of the pool that has the least to do. `None`: no loop of an open pool runs
/// in this thread, or it cannot do it now.
///
/// # Errors
/// `TypeError` for what is no coroutine. It is left as it is.
#[pyfunction]
#[pyo3(name = "_spawn", signature = (coro, name, context, /))]
pub(crate) fn spawn<'py>(
    coro: &Bound<'py, PyAny>,
    name: Option<Bound<'py, PyAny>>,
    context: Option<Bound<'py, PyAny>>,
) -> PyResult<Option<Bound<'py, PoolTaskCore>>> {
    let py = coro.py();
    let Some(running) = pool_task::running_loop(py)? else { return Ok(None) };
    let Ok(loop_) = running.cast::<LoopCore>() else { return Ok(None) };
    let owner = loop_.get();
    if !owner.event_loop.local.is_owner() {
        return Ok(None);
    }
    let task = new_task(coro, name, context)?;
    // What the task's making ran may have closed the pool. From here on no Python runs.
    if lock_attached(py, &owner.tasks.spawned).admission() != Admission::Open {
        give_back(&task);
        return Ok(None);
    }
    let mut unstarted = Some(Unstarted::new(task.clone().into_ptr() as usize));
    // SAFETY: runs no Python.
    let refused = unsafe {
        owner.event_loop.local.if_owner(|local| {
            let loop_worker = local.extension.loop_worker.as_mut()?;
            Some(loop_worker.leave_to_all(unstarted.take()?))
        })
    };
    if let Some(unstarted) = unstarted {
        drop(task_of(py, unstarted));
        give_back(&task);
        return Ok(None);
    }
    cancel(py, refused.flatten().unwrap_or_default());
    Ok(Some(task))
}

/// Gives the coroutine back that a task was made of.
fn give_back(task: &Bound<'_, PoolTaskCore>) {
    let coro = lock_attached(task.py(), &task.get().parts).state.take_unbegun();
    drop(coro);
}

/// The task that an unstarted coroutine is.
fn task_of(py: Python<'_>, unstarted: Unstarted) -> Bound<'_, PoolTaskCore> {
    // SAFETY: the reference that `spawn` gave away.
    unsafe {
        Bound::from_owned_ptr(py, unstarted.into_reference() as *mut ffi::PyObject)
            .cast_into_unchecked()
    }
}

/// Whether somebody has awaited the task that an unstarted coroutine is. Runs no Python.
pub(crate) fn is_awaited(py: Python<'_>, unstarted: &Unstarted) -> bool {
    // SAFETY: the reference that `spawn` gave away, which the unstarted coroutine keeps.
    unsafe {
        Borrowed::from_ptr(py, unstarted.reference() as *mut ffi::PyObject)
            .cast_unchecked::<PoolTaskCore>()
            .get()
            .word
            .is_awaited()
    }
}

/// Begins a coroutine that was left to all, on the loop that got to it. While the loop takes on
/// nothing more, it is cancelled.
///
/// # Errors
/// `SystemExit` and `KeyboardInterrupt` of a task that starts at once.
pub(crate) fn begin(loop_: &Bound<'_, LoopCore>, unstarted: Unstarted) -> PyResult<()> {
    let task = task_of(loop_.py(), unstarted);
    // One that is awaited already was not made for others to begin meanwhile.
    let lingers = !task.get().word.is_awaited();
    if enter(loop_, &task, false, lingers).is_err() {
        cancel_unbegun(&task);
        return Ok(());
    }
    pool_task_run::begin(loop_, &task).or_else(|error| report_native(loop_, &task, error))
}

/// Cancels what was left to all and waits on this loop. On its thread.
pub(crate) fn cancel_unstarted(py: Python<'_>, core: &LoopCore) {
    // SAFETY: runs no Python.
    let unstarted = unsafe {
        core.event_loop.local.if_owner(|local| {
            local.extension.loop_worker.as_mut().map(|loop_worker| loop_worker.take_unstarted())
        })
    };
    cancel(py, unstarted.flatten().unwrap_or_default());
}

/// Cancels coroutines that have not begun.
pub(crate) fn cancel(py: Python<'_>, unstarted: Vec<Unstarted>) {
    for unstarted in unstarted {
        cancel_unbegun(&task_of(py, unstarted));
    }
}

fn cancel_unbegun(task: &Bound<'_, PoolTaskCore>) {
    let py = task.py();
    let coro = lock_attached(py, &task.get().parts).state.take_unbegun();
    if let Some(coro) = coro
        && let Err(error) =
            pool_task_cancel::end_unbegun(task, &coro, &py.None().into_bound(py).into())
    {
        error.write_unraisable(py, Some(task.as_any()));
    }
}

/// Makes a task of a coroutine.
fn new_task<'py>(
    coro: &Bound<'py, PyAny>,
    name: Option<Bound<'py, PyAny>>,
    context: Option<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PoolTaskCore>> {
    let py = coro.py();
    check_coroutine(coro)?;
    let name = match name {
        Some(name) => Some(name.str()?.into_any().into()),
        None => None,
    };
    let context = match context {
        Some(context) => context.into(),
        None => copy_context(py)?,
    };
    pool_task_class::make(py, coro.clone().into(), name, context)
}

fn check_coroutine(coro: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = coro.py();
    // SAFETY: a live object.
    if unsafe { ffi::PyCoro_CheckExact(coro.as_ptr()) } != 0 {
        return Ok(());
    }
    let asyncio = py.import(intern!(py, "asyncio"))?;
    if asyncio.call_method1(intern!(py, "iscoroutine"), (coro,))?.is_truthy()? {
        return Ok(());
    }
    Err(alloc::type_error(py, format!("a coroutine was expected, got {coro:?}")))
}
