//! The wait of a `StreamRead`: while it waits it is a future to the task that awaits it (`stream_future`), which
//! leaves its wakeup here.
//!
//! A `Future` of its own for each wait would cost more than all the rest of a read. The wait is reached in the critical
//! section of the reader alone, so who feeds the reader takes the wakeup along with the same lock.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::reader_state::Held;
use crate::py::cpython::names::intern;
use crate::py::cpython::object::Ref;
use crate::transport::{ReadWait, WaitPhase};

/// How a wait has ended.
pub(crate) enum Outcome {
    Woken,
    /// With a message, if one was given.
    Cancelled(Option<Ref>),
    Failed(Ref),
}

/// Who is to be called, with the context to run in.
pub(crate) type Callback = (Ref, Ref);

/// Those of one wait.
pub(crate) type Callbacks = crate::transport::Callbacks<Callback>;

/// What becomes of it is decided by [`ReadWait`].
pub(crate) type Wait = ReadWait<Outcome, Callback>;

/// The future half of a `StreamRead`.
#[derive(Default)]
pub(crate) struct Waiter {
    wait: UnsafeCell<Wait>,
    /// What a task sets and clears to see that it was awaited.
    pub(crate) blocking: AtomicBool,
}

// SAFETY: `wait` alone reaches the cell, in the critical section of the reader.
unsafe impl Sync for Waiter {}

impl Waiter {
    /// The wait, as long as the reader is held. What it returns is dropped afterwards.
    ///
    /// # Safety
    /// `held` is the reader of the read that this is of.
    #[inline(always)]
    pub(crate) unsafe fn wait<'a>(&self, _held: &'a mut Held<'_>) -> &'a mut Wait {
        // SAFETY: by our caller's word the section is that which protects the cell, and the borrow of `held`
        // keeps others out of it that this thread might call.
        unsafe { &mut *self.wait.get() }
    }

    /// Begins a wait.
    ///
    /// # Safety
    /// As for [`Self::wait`].
    #[inline(always)]
    pub(crate) unsafe fn begin(&self, held: &mut Held<'_>) {
        // SAFETY: by our caller's word.
        unsafe { self.wait(held).begin() };
        self.blocking.store(true, Relaxed);
    }

    /// Shows the collector what it holds. The collector has stopped all threads, none of which is in a
    /// critical section that runs no Python.
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        // SAFETY: nobody else runs.
        let wait = unsafe { &*self.wait.get() };
        if let WaitPhase::Settled(Outcome::Cancelled(Some(object)) | Outcome::Failed(object)) =
            wait.phase()
        {
            visit.call(object.as_py())?;
        }
        for (callback, context) in wait.callbacks() {
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
