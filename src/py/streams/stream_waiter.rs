//! Who waits for a `StreamRead`, and how the wait has ended: while it waits it is a future to the task that
//! awaits it (`stream_future`), which leaves its wakeup here.
//!
//! A `Future` of its own for each wait would cost more than all the rest of a read. What a waiter
//! consists of is touched in the critical section of the reader, so who feeds the reader takes the
//! wakeup along with the same lock.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::py::cpython::names::intern;
use crate::py::cpython::object::Ref;

/// How a wait has ended.
#[derive(Default)]
pub(crate) enum Outcome {
    /// There is none.
    #[default]
    Idle,
    Pending,
    Woken,
    /// With a message, if one was given.
    Cancelled(Option<Ref>),
    Failed(Ref),
}

/// Who is to be told, each with the context to run in.
#[derive(Default)]
pub(crate) struct Callbacks {
    /// The task.
    pub(super) first: Option<(Ref, Ref)>,
    pub(super) more: Vec<(Ref, Ref)>,
}

impl Callbacks {
    pub(super) fn iter(&self) -> impl Iterator<Item = &(Ref, Ref)> {
        self.first.iter().chain(&self.more)
    }

    pub(super) fn into_iter(self) -> impl Iterator<Item = (Ref, Ref)> {
        self.first.into_iter().chain(self.more)
    }
}

#[derive(Default)]
pub(crate) struct Parts {
    pub(crate) outcome: Outcome,
    pub(super) callbacks: Callbacks,
}

/// The future half of an operation.
#[derive(Default)]
pub(crate) struct Waiter {
    parts: UnsafeCell<Parts>,
    /// What a task sets and clears to see that it was awaited.
    pub(crate) blocking: AtomicBool,
}

// SAFETY: `parts` is touched in the critical section of the reader, by the word of who calls `parts`.
unsafe impl Sync for Waiter {}

impl Waiter {
    /// # Safety
    /// In the critical section of the operation's reader, and not twice at a time.
    #[inline(always)]
    #[allow(clippy::mut_from_ref, reason = "the section is the lock")]
    pub(super) unsafe fn parts(&self) -> &mut Parts {
        // SAFETY: by our caller's word.
        unsafe { &mut *self.parts.get() }
    }

    /// Begins a wait.
    ///
    /// # Safety
    /// In the critical section of the operation's reader.
    #[inline(always)]
    pub(crate) unsafe fn begin(&self) {
        // SAFETY: by our caller's word. There was no wait, so nothing is dropped.
        unsafe { self.parts().outcome = Outcome::Pending };
        self.blocking.store(true, Relaxed);
    }

    /// Ends a wait that has an outcome, or gives it up.
    ///
    /// # Safety
    /// In the critical section of the operation's reader; what is returned is dropped outside.
    #[inline(always)]
    pub(crate) unsafe fn end(&self) -> Parts {
        // SAFETY: by our caller's word.
        unsafe { std::mem::take(self.parts()) }
    }

    /// Gives a pending wait its outcome. `Err`: it is not pending, here is the outcome back.
    ///
    /// # Safety
    /// In the critical section of the operation's reader; what is returned is dropped outside.
    #[inline(always)]
    pub(crate) unsafe fn settle(&self, outcome: Outcome) -> Result<Callbacks, Outcome> {
        // SAFETY: by our caller's word.
        let parts = unsafe { self.parts() };
        if !matches!(parts.outcome, Outcome::Pending) {
            return Err(outcome);
        }
        parts.outcome = outcome;
        Ok(std::mem::take(&mut parts.callbacks))
    }

    /// Shows the collector what it holds. The collector has stopped all threads, none of which is in a
    /// critical section that runs no Python.
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        // SAFETY: nobody else runs.
        let parts = unsafe { &*self.parts.get() };
        if let Outcome::Cancelled(Some(object)) | Outcome::Failed(object) = &parts.outcome {
            visit.call(object.as_py())?;
        }
        for (callback, context) in parts.callbacks.iter() {
            visit.call(callback.as_py())?;
            visit.call(context.as_py())?;
        }
        Ok(())
    }
}

/// `asyncio.CancelledError`.
#[cold]
pub(crate) fn cancelled_error(py: Python<'_>, message: Option<&Ref>) -> PyErr {
    let make = || -> PyResult<PyErr> {
        let class = py.import(intern!(py, "asyncio"))?.getattr(intern!(py, "CancelledError"))?;
        let argument = message.map(|message| (message.as_py(),));
        Ok(PyErr::from_value(argument.map_or_else(|| class.call0(), |given| class.call1(given))?))
    };
    make().unwrap_or_else(|error| error)
}
