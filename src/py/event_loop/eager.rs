//! Eager tasks: `eager_start=True`, and asyncio's `eager_task_factory`.
//!
//! asyncio's constructor runs the first step. So the object is allocated first, published as the loop's
//! current task, and then initialised. Eager tasks that a program creates by other means (it calls a task
//! class, or has its own factory) are recorded when the next task starts inside of them.

use std::ptr;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::callback::Callback;
use super::core::LoopCore;
use super::create_task;
use super::registry;
use crate::event_loop::{Asker, LeaveOutcome, Starting};
use crate::py::asyncio::state::state;
use crate::py::cpython::alloc;
use crate::py::cpython::cfunc::Arguments;
use crate::py::cpython::names::{intern, is_named};
use crate::py::cpython::object::Ref;

/// Whether a call of `create_task` asks for a task that starts at once.
///
/// # Safety
/// The arguments are those of a vectorcall.
unsafe fn is_wanted(core: &LoopCore, py: Python<'_>, args: &Arguments<'_>) -> PyResult<bool> {
    let mut wanted = core.flags.starts_eagerly();
    if !args.kwnames.is_null() {
        let known = intern!(py, "eager_start").as_ptr();
        // SAFETY: names are a tuple of strings; the values follow the positional arguments, and are
        // alive during the call.
        unsafe {
            for index in 0..ffi::PyTuple_GET_SIZE(args.kwnames) {
                if is_named(ffi::PyTuple_GET_ITEM(args.kwnames, index), known) {
                    let value = *args.values.add(index.unsigned_abs());
                    wanted = Bound::from_borrowed_ptr(py, value).is_truthy()?;
                }
            }
        }
    }
    Ok(wanted)
}

/// Makes a task that starts at once. `None`: the call asks for no such task, or it is left to asyncio.
///
/// In another thread than the loop's, which cannot run the step, the task starts in the loop's turn.
///
/// # Errors
/// Those of the constructor; `SystemExit` and `KeyboardInterrupt` from the step.
///
/// # Safety
/// The arguments are those of a vectorcall; `coroutine` is alive during the call.
#[cold]
pub(crate) unsafe fn create(
    loop_: &Bound<'_, LoopCore>,
    coroutine: *mut ffi::PyObject,
    args: &Arguments<'_>,
) -> PyResult<Option<*mut ffi::PyObject>> {
    let (py, core, state) = (loop_.py(), loop_.get(), state());
    let has_own_factory = core.flags.has_task_factory() && !core.flags.starts_eagerly();
    if has_own_factory || !state.knows_task_class() {
        return Ok(None);
    }
    let is_owner = core.event_loop.local.is_owner();
    if !is_owner && !core.event_loop.shared().is_running() {
        return Ok(None);
    }
    // SAFETY: by our caller's word.
    if !unsafe { is_wanted(core, py, args)? } {
        return Ok(None);
    }
    let keywords = create_task::keywords(loop_, args)?;
    keywords.set_item(intern!(py, "loop"), loop_)?;
    keywords.set_item(intern!(py, "eager_start"), is_owner)?;
    // SAFETY: an argument is alive during the call.
    let coroutine = unsafe { Bound::from_borrowed_ptr(py, coroutine) };
    let positional = alloc::tuple(py, [coroutine])?;
    if !is_owner {
        // SAFETY: the class lives as long as the process.
        let class = unsafe { Bound::from_borrowed_ptr(py, state.classes.task.get()) };
        return Ok(Some(class.call(positional, Some(&keywords))?.into_ptr()));
    }
    let begun = begin(loop_, &positional, &keywords)?;
    begun.map(|(task, step)| step.map(|()| task.into_ptr())).transpose()
}

/// Makes a task that starts at once, of the coroutine alone in `positional`; `keywords`: `loop`, and `eager_start`,
/// which is true. `None`: the loop's program makes its tasks itself, or they are none that are known. On the loop's
/// thread. Of a task whose first step ends the program the exception counts as retrieved.
///
/// # Errors
/// As [`create`].
#[cfg(feature = "http")]
pub(crate) fn start_now<'py>(
    loop_: &Bound<'py, LoopCore>,
    positional: &Bound<'py, PyTuple>,
    keywords: &Bound<'py, PyDict>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let flags = &loop_.get().flags;
    let has_own_factory = flags.has_task_factory() && !flags.starts_eagerly();
    if has_own_factory || !state().knows_task_class() {
        return Ok(None);
    }
    let Some((task, step)) = begin(loop_, positional, keywords)? else { return Ok(None) };
    let task = task.as_py().bind(loop_.py());
    if step.is_err() {
        // The caller is told, so that nobody has to be told again when it is freed.
        task.setattr(intern!(loop_.py(), "_log_traceback"), false)?;
    }
    step.map(|()| Some(task.clone()))
}

/// The task, and what became of its first step; as [`create`].
fn begin(
    loop_: &Bound<'_, LoopCore>,
    positional: &Bound<'_, PyTuple>,
    keywords: &Bound<'_, PyDict>,
) -> PyResult<Option<(Ref, PyResult<()>)>> {
    let (py, core, state) = (loop_.py(), loop_.get(), state());
    let class = state.classes.task.get();
    let kind = class.cast::<ffi::PyTypeObject>();
    // SAFETY: a live type.
    let (Some(new), Some(init)) = (unsafe { ((*kind).tp_new, (*kind).tp_init) }) else {
        return Ok(None);
    };
    // SAFETY: what the type's own call does: a new object, or null with an exception set.
    let task = unsafe {
        Ref::from_owned_or_err(py, new(kind, state.empty_tuple.as_ptr(), ptr::null_mut()))?
    };
    register_outer(loop_)?;
    let local = &core.event_loop.local;
    let Some(starting) = Starting::begin(local, task.as_ptr() as usize) else { return Ok(None) };
    let step = core.event_loop.shared().current.enter(task.as_ptr() as usize);
    // SAFETY: as above: the new object, positional arguments and keywords; -1 with an exception set.
    let made = unsafe { init(task.as_ptr(), positional.as_ptr(), keywords.as_ptr()) };
    let result = if made < 0 { Err(alloc::raised(py)) } else { Ok(()) };
    let is_unregistered = starting.end();
    // What has ended with its first step needs no entry. One that is registered already has one.
    if result.is_ok()
        && is_unregistered
        // SAFETY: a live task of the class that was recognised.
        && !unsafe { state.task.is_done(task.as_ptr()) }
    {
        registry::note_now(core, task.as_py().bind(py));
    }
    if step.leave() == LeaveOutcome::PutAside {
        registry::put_aside(core, Callback::from_handle(task.clone_ref(py)));
    }
    Ok(Some((task, result)))
}

/// Registers the task in whose first step another is about to start: the registry learns of a task
/// when its first step has ended, and this one is shown as the current one no more meanwhile. On the
/// loop's thread.
///
/// # Errors
/// Those of `asyncio.current_task`.
fn register_outer(loop_: &Bound<'_, LoopCore>) -> PyResult<()> {
    let core = loop_.get();
    let Some(running) = registry::current_here(loop_)? else { return Ok(()) };
    let shown = core.event_loop.shared().current.running();
    // SAFETY: runs no Python.
    let is_to_be_registered = unsafe {
        core.event_loop
            .local
            .if_owner(|local| local.eager_starts.must_register(running.as_ptr() as usize, shown))
    };
    if is_to_be_registered == Some(true) {
        registry::note_now(core, &running);
    }
    Ok(())
}

/// Notes that somebody has asked on the loop's thread whether the loop runs, as the constructor of a
/// task does which is to start at once.
///
/// # Errors
/// Those of `asyncio.current_task`.
pub(crate) fn asked_whether_running(loop_: &Bound<'_, LoopCore>) -> PyResult<()> {
    // SAFETY: runs no Python.
    let asker = unsafe {
        let local = &loop_.get().event_loop.local;
        local.if_owner(|local| local.eager_starts.asked_whether_running())
    };
    match asker {
        Some(Asker::Program) => register_outer(loop_),
        Some(Asker::Constructor) | None => Ok(()),
    }
}
