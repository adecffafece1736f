//! Tasks that wait for something of a connection, each with a future of the loop that it runs on.

use std::sync::OnceLock;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::py::asyncio::state::state;
use crate::py::cpython::alloc;
use crate::py::cpython::attach::lock_attached;
use crate::py::cpython::names::intern;
use crate::py::cpython::object::Ref;
use crate::sync::Mutex;

/// `_settle`, for the loops of others.
static SETTLE: OnceLock<Py<PyAny>> = OnceLock::new();

/// One that waits.
#[derive(Debug)]
pub(super) struct Waiter {
    loop_: Ref,
    future: Ref,
}

impl Waiter {
    /// A new future of the loop that runs here, and who waits for it.
    ///
    /// # Errors
    /// `RuntimeError` if no loop runs here.
    pub(super) fn begin(py: Python<'_>) -> PyResult<(Self, Bound<'_, PyAny>)> {
        let running = running_loop(py)?;
        if running.is_none() {
            return Err(alloc::runtime_error(py, "no running event loop"));
        }
        let future = running.call_method0(intern!(py, "create_future"))?;
        future.setattr(intern!(py, "_asyncio_future_blocking"), true)?;
        let waiter = Self { loop_: running.into(), future: future.clone().into() };
        Ok((waiter, future))
    }

    /// Whether it waits for this future.
    fn is(&self, future: &Ref) -> bool {
        self.future.as_ptr() == future.as_ptr()
    }

    /// Shows the collector what it holds.
    ///
    /// # Errors
    /// Those of the collector.
    fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(self.loop_.as_py())?;
        visit.call(self.future.as_py())
    }

    /// Lets it go on. Any thread.
    fn wake(self, py: Python<'_>) {
        let Self { loop_, future } = self;
        let (loop_, future) = (loop_.as_py().bind(py), future.as_py().bind(py));
        let is_here = running_loop(py).is_ok_and(|running| running.is(loop_));
        if is_here {
            // Of a future that was cancelled meanwhile nobody wants it.
            let _ = settle(future);
        } else if let Some(settle) = SETTLE.get() {
            // If its loop has closed, nobody waits there.
            let _ = loop_.call_method1(intern!(py, "call_soon_threadsafe"), (settle, future));
        }
    }
}

/// Those that wait for one thing. Any thread.
#[derive(Debug)]
pub(super) struct Waiters(Mutex<Vec<Waiter>>);

impl Waiters {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// Leaves one, who is woken when it is there.
    pub(super) fn push(&self, py: Python<'_>, waiter: Waiter) {
        lock_attached(py, &self.0).push(waiter);
    }

    /// Takes one back.
    pub(super) fn forget(&self, py: Python<'_>, future: &Ref) {
        let mut all = lock_attached(py, &self.0);
        let place = all.iter().position(|waiter| waiter.is(future));
        let gone = place.map(|place| all.swap_remove(place));
        drop(all);
        drop(gone);
    }

    /// Lets all of them go on.
    pub(super) fn wake(&self, py: Python<'_>) {
        let all = std::mem::take(&mut *lock_attached(py, &self.0));
        for waiter in all {
            waiter.wake(py);
        }
    }

    pub(super) fn is_empty(&self, py: Python<'_>) -> bool {
        lock_attached(py, &self.0).is_empty()
    }

    /// Shows the collector what it holds.
    ///
    /// # Errors
    /// Those of the collector.
    pub(super) fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(all) = self.0.lock_for_collector() else { return Ok(()) };
        all.iter().try_for_each(|waiter| waiter.visit(visit))
    }
}

fn running_loop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    state().classes.get_running_loop.as_py().bind(py).call0()
}

/// Sets a future's result to `None`, unless it has one or was cancelled.
#[pyfunction]
#[pyo3(name = "_settle", signature = (future, /))]
fn settle(future: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = future.py();
    if future.call_method0(intern!(py, "done"))?.is_truthy()? {
        return Ok(());
    }
    future.call_method1(intern!(py, "set_result"), (py.None(),)).map(drop)
}

/// Adds what is called in the loops of others.
pub(super) fn export(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let function = wrap_pyfunction!(settle, module)?;
    let _ = SETTLE.set(function.into_any().unbind());
    Ok(())
}
