//! Tasks that wait for something of a connection, each with a future of the loop that it runs on.

use std::sync::OnceLock;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::py::asyncio::state::state;
use crate::py::cpython::alloc;
use crate::py::cpython::names::intern;
use crate::py::cpython::object::Ref;

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
    pub(super) fn is(&self, future: &Ref) -> bool {
        self.future.as_ptr() == future.as_ptr()
    }

    /// Shows the collector what it holds.
    ///
    /// # Errors
    /// Those of the collector.
    pub(super) fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(self.loop_.as_py())?;
        visit.call(self.future.as_py())
    }

    /// Lets it go on. Any thread.
    pub(super) fn wake(self, py: Python<'_>) {
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
