//! How a `PoolTask` is cancelled, from any thread.
//!
//! A C task may be cancelled on its own thread only, between two of its steps. The request of another
//! thread is a message in the task's [`TaskState`](crate::pool::TaskState), put there under the lock under which the
//! task ends; so one of them is first:
//!
//! - *The end was first*: `cancel()` says False, as asyncio's.
//! - *The request was first*: it says True, and the request is not lost:
//!   1. The coroutine has not begun: if it waits on another loop, which may be held up, [`cancel`] takes
//!      it under the lock, closes it and ends the task. Otherwise `begin` (in `pool_task_run`) takes the message
//!      under the lock, and closes the coroutine in place of beginning it: on one's own loop, as in
//!      asyncio, nothing has ended when `cancel` returns.
//!   2. It has begun: whoever put a message calls its loop, which looks between any two callbacks
//!      ([`EventLoop::post_urgent`](crate::event_loop::EventLoop::post_urgent)) and cancels the C task
//!      ([`deliver`]). A step that begins after `cancel()` has returned thus begins with the
//!      `CancelledError`.
//!   3. The step under way was the last one: [`end`] finds the message, and a task that would have
//!      returned a result is cancelled. asyncio does the same with a task that is cancelled during its
//!      last step. An exception that was raised stays what the task ended with, there as here.
//!
//! Each message is delivered once, and all of them, so that `asyncio.Task.cancelling` counts them.

use pyo3::prelude::*;

use super::pool_task::PoolTaskCore;
use super::pool_task_end::{cancelled_args, end};
use crate::pool::{CancelFrom, CancelOutcome, TaskPhase};
use crate::py::cpython::attach::lock_attached;
use crate::py::cpython::names::intern;
use crate::py::cpython::object::Ref;
use crate::py::event_loop::callback::Callback;

/// Asks the coroutine to stop; whether it will hear of it. Any thread; see the module.
///
/// # Errors
/// What `cancel` of a task of a foreign class raises.
pub(crate) fn cancel(slf: &Bound<'_, PoolTaskCore>, message: Ref) -> PyResult<bool> {
    let (py, this) = (slf.py(), slf.get());
    let (outcome, loop_) = {
        let mut parts = lock_attached(py, &this.parts);
        let loop_ = parts.loop_.as_ref().map(|loop_| loop_.clone_ref(py));
        let from = match &loop_ {
            None => CancelFrom::NoLoop,
            Some(loop_) if loop_.get().event_loop.local.is_owner() => CancelFrom::OwnThread,
            Some(_) => CancelFrom::OtherThread,
        };
        (parts.state.cancel(&this.word, message, from, |task| task.clone_ref(py)), loop_)
    };
    match outcome {
        CancelOutcome::TooLate(_) => return Ok(false),
        CancelOutcome::Unbegun { coro, message } => {
            if let Err(error) = end_unbegun(slf, &coro, &message) {
                error.write_unraisable(py, Some(slf.as_any()));
            }
        }
        CancelOutcome::Direct { task, message } => {
            return task
                .as_py()
                .call_method1(py, intern!(py, "cancel"), (message.as_py(),))?
                .is_truthy(py);
        }
        CancelOutcome::CallLoop => {
            if let Some(loop_) = loop_ {
                let callback = Callback::from_native(slf.clone().into_any().into());
                loop_.get().event_loop.post_urgent(callback);
            }
        }
        CancelOutcome::Left => {}
    }
    Ok(true)
}

/// Cancels the C task for each request that has not reached it. On its loop's thread, between two
/// steps.
pub(crate) fn deliver(slf: &Bound<'_, PoolTaskCore>) -> PyResult<()> {
    let py = slf.py();
    let (task, messages) = {
        let mut parts = lock_attached(py, &slf.get().parts);
        let Some(taken) = parts.state.take_cancels(|task| task.clone_ref(py)) else {
            return Ok(());
        };
        taken
    };
    for message in messages {
        let answer = task.as_py().call_method1(py, intern!(py, "cancel"), (message.as_py(),))?;
        if !answer.is_truthy(py)? {
            // It has ended, and its end will find the message.
            lock_attached(py, &slf.get().parts).state.put_back(message);
        }
    }
    Ok(())
}

/// Ends a task whose coroutine has not begun, as cancelled.
pub(crate) fn end_unbegun(
    slf: &Bound<'_, PoolTaskCore>,
    coro: &Ref,
    message: &Ref,
) -> PyResult<()> {
    let py = slf.py();
    let closed = coro.as_py().call_method0(py, intern!(py, "close"));
    end(slf, TaskPhase::Cancelled, cancelled_args(py, message), None);
    closed.map(drop)
}
