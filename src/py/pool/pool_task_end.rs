//! The end of a `PoolTask`: its outcome is stored, and every waiter is notified on the waiter's own loop.

use super::pool_task::{PoolTaskCore, Watcher, running_loop};
use super::spawned_tasks;
use crate::pool::{EndOutcome, TaskPhase};
use crate::py::asyncio::state::state;
use crate::py::cpython::alloc;
use crate::py::cpython::attach::lock_attached;
use crate::py::cpython::error::ends_the_program;
use crate::py::cpython::names::intern;
use crate::py::cpython::object::Ref;
use crate::py::event_loop::callback::Callback;
use crate::py::event_loop::core::LoopCore;
use pyo3::ffi;
use pyo3::prelude::*;

/// Notes how it ended, and tells whoever wants to know. Nothing if it had ended before. A result that
/// comes after a cancellation was asked for is none. The outcome of one that was raised is an exception.
pub(super) fn end(
    slf: &Bound<'_, PoolTaskCore>,
    phase: TaskPhase,
    outcome: Ref,
    mut name: Option<Ref>,
) {
    let py = slf.py();
    let this = slf.get();
    let traceback = (phase == TaskPhase::Raised)
        // SAFETY: an exception; the result is a new reference or null.
        .then(|| unsafe {
            let traceback = ffi::PyException_GetTraceback(outcome.as_ptr());
            std::ptr::NonNull::new(traceback).map(|traceback| Ref::from_owned(traceback))
        })
        .flatten();
    let (ended, home, before) = {
        let mut parts = lock_attached(py, &this.parts);
        let ended = parts.state.end(&this.word, phase, outcome, |message| message.clone_ref(py));
        let (mut home, mut before) = (None, None);
        if matches!(ended, EndOutcome::Ended { .. }) {
            parts.traceback = traceback;
            if let Some(name) = name.take() {
                before = parts.name.replace(name);
            }
            let place = (parts.place, parts.lingers);
            home = parts.loop_.as_ref().map(|loop_| (loop_.clone_ref(py), place));
        }
        (ended, home, before)
    };
    drop(before);
    let watchers = match ended {
        EndOutcome::Ended { task, cancels, watchers } => {
            drop((task, cancels));
            watchers
        }
        EndOutcome::TooLate(_) => return,
        EndOutcome::AskedToStop { message, .. } => {
            return end(slf, TaskPhase::Cancelled, cancelled_args(py, &message), name);
        }
    };
    if let Some((loop_, (place, lingers))) = home {
        spawned_tasks::leave(py, loop_.get(), place, lingers, slf);
    }
    for watcher in watchers {
        if let Err(error) = notify(slf, watcher) {
            error.write_unraisable(py, Some(slf.as_any()));
        }
    }
}

/// Tells one who wants to know of the end. Any thread.
///
/// # Errors
/// What the loop's `call_soon_threadsafe` raises.
pub(crate) fn notify(slf: &Bound<'_, PoolTaskCore>, watcher: Watcher) -> PyResult<()> {
    let py = slf.py();
    let Watcher { loop_, callback, context } = watcher;
    let Some(loop_) = loop_ else {
        return notify_here(slf, &callback, context.as_ref());
    };
    let loop_ = loop_.as_py().bind(py);
    if let (Ok(ours), Some(context)) = (loop_.cast::<LoopCore>(), &context)
        && !ours.get().flags.is_debug()
        && state().task.is_wakeup(callback.as_ptr())
    {
        // A closed loop has nobody left who waits.
        if !ours.get().event_loop.is_closed() {
            let future = slf.clone().into_any().into();
            ours.get().schedule(Callback::from_wakeup(callback, future, context.clone_ref(py)));
        }
        return Ok(());
    }
    let keywords = alloc::dict(py)?;
    if let Some(context) = &context {
        keywords.set_item(intern!(py, "context"), context.as_py())?;
    }
    let name = if running_loop(py)?.is_some_and(|running| running.is(loop_)) {
        intern!(py, "call_soon")
    } else {
        intern!(py, "call_soon_threadsafe")
    };
    match loop_.call_method(name, (callback.as_py(), slf), Some(&keywords)) {
        Err(error) if loop_.call_method0(intern!(py, "is_closed"))?.is_truthy()? => {
            drop(error);
            Ok(())
        }
        result => result.map(drop),
    }
}

/// Calls a callback that was added in a thread without a loop, in this one.
pub(crate) fn notify_here(
    slf: &Bound<'_, PoolTaskCore>,
    callback: &Ref,
    context: Option<&Ref>,
) -> PyResult<()> {
    let py = slf.py();
    let called = match context {
        Some(context) => {
            context.as_py().call_method1(py, intern!(py, "run"), (callback.as_py(), slf))
        }
        None => callback.as_py().call1(py, (slf,)),
    };
    match called {
        Err(error) if !ends_the_program(py, &error) => slf
            .call_method1(intern!(py, "_report_callback"), (callback.as_py(), error.into_value(py)))
            .map(drop),
        result => result.map(drop),
    }
}

/// The arguments of a `CancelledError` with a message, or `None` for one without.
pub(crate) fn cancelled_args(py: Python<'_>, message: &Ref) -> Ref {
    let message = message.as_py().bind(py);
    let args = if message.is_none() { None } else { alloc::tuple(py, [message]).ok() };
    args.map_or_else(|| state().empty_tuple.clone_ref(py), |args| args.into_any().into())
}
