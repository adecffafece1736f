//! Callbacks that a loop has not run when its time was up: dropped in a separate thread, because there may
//! be more than can be dropped in time.

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::callback::Callback;
use crate::py::cpython::attach::lock_attached;
use crate::sync::Mutex;

/// Callbacks of a closed loop, which nobody runs any more.
#[pyclass(frozen, module = "loop_pool._core")]
pub(crate) struct Unrun {
    /// Nothing is dropped under the lock.
    callbacks: Mutex<Vec<Callback>>,
}

impl Unrun {
    pub(crate) fn new(callbacks: Vec<Callback>) -> Self {
        Self { callbacks: Mutex::new(callbacks) }
    }
}

#[pymethods]
impl Unrun {
    /// How many they are.
    fn __len__(&self, py: Python<'_>) -> usize {
        lock_attached(py, &self.callbacks).len()
    }

    /// Drops them. Any thread.
    fn drop(&self, py: Python<'_>) {
        let callbacks = std::mem::take(&mut *lock_attached(py, &self.callbacks));
        drop(callbacks);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(callbacks) = self.callbacks.lock_for_collector() else { return Ok(()) };
        callbacks.iter().flat_map(Callback::objects).try_for_each(|object| visit.call(object))
    }

    fn __clear__(&self) {
        // SAFETY: the collector calls this attached.
        self.drop(unsafe { Python::assume_attached() });
    }
}
