//! What happens to a `PoolTask` on its own loop: it begins as an `asyncio.Task` that the loop makes
//! itself, and when that ends, whoever awaits it is told, each on his own loop.
//!
//! A C task that ends calls `call_soon(settler, task)`, and if it has a result, the loop settles at
//! once: the queue would only lead back to the same few instructions. An exception goes through the
//! queue, as the C task marks it as not yet fetched after that call.

use std::ffi::c_char;

use pyo3::exceptions::PyBaseException;
use pyo3::ffi;
use pyo3::prelude::*;

use super::pool_task::PoolTaskCore;
use super::pool_task_cancel::{deliver, end_unbegun};
use super::pool_task_end::end;
use crate::pool::{BeginOutcome, TaskPhase};
use crate::py::asyncio::state::state;
use crate::py::cpython::alloc;
use crate::py::cpython::attach::lock_attached;
use crate::py::cpython::cfunc::raise;
use crate::py::cpython::error::ends_the_program;
use crate::py::cpython::names::intern;
use crate::py::cpython::object::{Ref, copied};
use crate::py::event_loop::core::LoopCore;
use crate::py::event_loop::create_task;

/// Begins the coroutine on the loop, unless it was cancelled before. One that has begun is there as
/// it was cancelled meanwhile.
///
/// # Errors
/// `SystemExit` and `KeyboardInterrupt` of a task that starts at once; what its `cancel` raises.
pub(crate) fn begin(loop_: &Bound<'_, LoopCore>, slf: &Bound<'_, PoolTaskCore>) -> PyResult<()> {
    let py = loop_.py();
    let this = slf.get();
    let (outcome, name, context, own) = {
        let mut parts = lock_attached(py, &this.parts);
        let outcome = parts.state.begin();
        let (name, context) = (copied(py, parts.name.as_ref()), copied(py, parts.context.as_ref()));
        (outcome, name, context, parts.own)
    };
    let coro = match outcome {
        BeginOutcome::Begins(coro) => coro,
        BeginOutcome::Cancelled { coro, message, .. } => return end_unbegun(slf, &coro, &message),
        BeginOutcome::HasBegun => return deliver(slf),
    };
    let begun = create_task::new_task(loop_, &coro, name.as_ref(), context.as_ref(), own).and_then(
        |task| {
            let done = is_done(&task)?;
            if !done {
                {
                    let mut parts = lock_attached(py, &this.parts);
                    parts.state.started(task.clone().into());
                }
                watch(slf, &task, context.as_ref())?;
            }
            Ok((task, done))
        },
    );
    match begun {
        Ok((task, true)) => {
            settle(slf, &task);
            Ok(())
        }
        Ok(_) => Ok(()),
        Err(error) => {
            // Whoever awaits it is told. A coroutine that nothing has begun is closed.
            let closed = coro.as_py().call_method0(py, intern!(py, "close"));
            let ends = ends_the_program(py, &error);
            let value = error.clone_ref(py).into_value(py).into_any();
            end(slf, TaskPhase::Raised, value.into_bound(py).into(), None);
            closed?;
            if ends { Err(error) } else { Ok(()) }
        }
    }
}

/// Whether a task has ended, as one may that starts at once, or what a task factory made in its place.
fn is_done(task: &Bound<'_, PyAny>) -> PyResult<bool> {
    let known = &state().task;
    if known.is_exact(task.as_ptr()) {
        // SAFETY: a live C task; its class is known when its callbacks are.
        return Ok(unsafe { known.is_done(task.as_ptr()) });
    }
    task.call_method0(intern!(task.py(), "done"))?.is_truthy()
}

/// Has `task` call the settler when it ends.
fn watch(
    slf: &Bound<'_, PoolTaskCore>,
    task: &Bound<'_, PyAny>,
    context: Option<&Ref>,
) -> PyResult<()> {
    let py = slf.py();
    // SAFETY: the definition lives as long as the process; the result is a new reference or null
    // with an exception set.
    let settler = unsafe {
        let definition = (&raw const SETTLER.0).cast_mut();
        let made = ffi::PyCFunction_NewEx(definition, slf.as_ptr(), std::ptr::null_mut());
        Bound::from_owned_ptr_or_err(py, made)?
    };
    let name = intern!(py, "add_done_callback");
    let args = [task.as_ptr(), settler.as_ptr(), context.map_or(std::ptr::null_mut(), Ref::as_ptr)];
    let keywords =
        if context.is_some() { state().keywords.context.as_ptr() } else { std::ptr::null_mut() };
    // SAFETY: the object, one argument, and as many keywords as are named.
    let answer =
        unsafe { ffi::PyObject_VectorcallMethod(name.as_ptr(), args.as_ptr(), 2, keywords) };
    // SAFETY: a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, answer) }.map(drop)
}

/// The method definition of the settler; its `self` is the `PoolTask`.
struct Definition(ffi::PyMethodDef);

// SAFETY: it is never written.
unsafe impl Sync for Definition {}

static SETTLER: Definition = Definition(ffi::PyMethodDef {
    ml_name: c"_settle".as_ptr().cast::<c_char>(),
    ml_meth: ffi::PyMethodDefPointer { PyCFunction: settler },
    ml_flags: ffi::METH_O,
    ml_doc: std::ptr::null(),
});

/// Called with the `asyncio.Task` that has ended.
unsafe extern "C" fn settler(
    slf: *mut ffi::PyObject,
    task: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    raise(|py| {
        // SAFETY: the interpreter calls this attached, with live objects; `watch` gave it a task.
        let (slf, task) = unsafe {
            let slf = Bound::from_borrowed_ptr(py, slf).cast_into_unchecked::<PoolTaskCore>();
            (slf, Bound::from_borrowed_ptr(py, task))
        };
        settle(&slf, &task);
        Ok(py.None().into_ptr())
    })
}

/// The `PoolTask` to settle, if `callback` is a settler.
#[inline(always)]
pub(crate) fn settled_by(
    py: Python<'_>,
    callback: *mut ffi::PyObject,
) -> Option<Bound<'_, PoolTaskCore>> {
    // SAFETY: the object is alive; its exact type is checked before its layout is used.
    unsafe {
        let function = callback.cast::<ffi::PyCFunctionObject>();
        (ffi::PyCFunction_CheckExact(callback) != 0
            && std::ptr::eq((*function).m_ml, &raw const SETTLER.0))
        .then(|| Bound::from_borrowed_ptr(py, (*function).m_self).cast_into_unchecked())
    }
}

/// Takes over the result of an `asyncio.Task` that is ending, on its loop's thread. False, and
/// nothing is done, if it has none.
pub(crate) fn settle_returned(slf: &Bound<'_, PoolTaskCore>, task: &Bound<'_, PyAny>) -> bool {
    let py = slf.py();
    // Asked too early, a task that failed would forget the traceback, and one that was cancelled the
    // message.
    let asked = |question| task.call_method0(question);
    let cancelled = asked(intern!(py, "cancelled")).and_then(|answer| answer.is_truthy());
    if !matches!(cancelled, Ok(false))
        || !asked(intern!(py, "exception")).is_ok_and(|exception| exception.is_none())
    {
        return false;
    }
    let (Ok(result), Ok(name)) = (task.call_method0(intern!(py, "result")), name_of(task)) else {
        return false;
    };
    end(slf, TaskPhase::Returned, result.into(), Some(name));
    true
}

/// The name that a task had, which is lost with it; its number, if nobody has asked for the name: to make one
/// of it takes a tenth of all that a short task does.
fn name_of(task: &Bound<'_, PyAny>) -> PyResult<Ref> {
    // SAFETY: a live object.
    if let Some(number) = unsafe { state().task.number(task.as_ptr()) } {
        return Ok(number);
    }
    Ok(task.call_method0(intern!(task.py(), "get_name"))?.into())
}

/// Takes over how the `asyncio.Task` ended, or what a task factory made in its place: what that answers
/// may be anything. On its loop's thread.
pub(crate) fn settle(slf: &Bound<'_, PoolTaskCore>, task: &Bound<'_, PyAny>) {
    let py = slf.py();
    let (phase, outcome) = outcome_of(task).unwrap_or_else(|error| {
        let error = error.into_value(py).into_bound(py).into_any();
        (TaskPhase::Raised, error.into())
    });
    let outcome = if phase == TaskPhase::Cancelled {
        let args = outcome.as_py().bind(py).getattr(intern!(py, "args"));
        let args = args.map_or_else(|_| state().empty_tuple.clone_ref(py), Ref::from);
        let before = lock_attached(py, &slf.get().parts).cancelled.replace(outcome);
        drop(before);
        args
    } else {
        outcome
    };
    end(slf, phase, outcome, name_of(task).ok());
}

/// The result or the exception, the `CancelledError` of one that was cancelled too.
///
/// # Errors
/// Those of asking; `TypeError` for an exception that is none.
fn outcome_of(task: &Bound<'_, PyAny>) -> PyResult<(TaskPhase, Ref)> {
    let py = task.py();
    match task.call_method0(intern!(py, "exception")) {
        Ok(exception) if exception.is_none() => {
            let result = task.call_method0(intern!(py, "result"))?;
            Ok((TaskPhase::Returned, result.into()))
        }
        Ok(exception) if exception.is_instance_of::<PyBaseException>() => {
            Ok((TaskPhase::Raised, exception.into()))
        }
        Ok(other) => Err(alloc::type_error(
            py,
            format!(
                "{}.exception() returned no exception, but {}",
                task.get_type().name()?,
                other.get_type().name()?
            ),
        )),
        Err(error) => {
            let asyncio = py.import(intern!(py, "asyncio"))?;
            let cancelled = asyncio.getattr(intern!(py, "CancelledError"))?;
            if !error.matches(py, cancelled)? {
                return Err(error);
            }
            Ok((TaskPhase::Cancelled, error.into_value(py).into_bound(py).into_any().into()))
        }
    }
}

/// Ends a task that will not go on, by an exception; a coroutine that has not begun is closed.
pub(crate) fn abandon(
    slf: &Bound<'_, PoolTaskCore>,
    exception: Bound<'_, PyBaseException>,
) -> PyResult<()> {
    let py = slf.py();
    let coro = lock_attached(py, &slf.get().parts).state.take_unbegun();
    let closed = coro.map(|coro| coro.as_py().call_method0(py, intern!(py, "close")));
    end(slf, TaskPhase::Raised, exception.into_any().into(), None);
    // It says why the pool ended, not what the program did.
    slf.get().take_unfetched(py);
    closed.transpose().map(drop)
}
