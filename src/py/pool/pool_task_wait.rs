//! The iterator behind `await` of a `PoolTask`: it yields the task itself once, which is a future of the
//! awaiting loop.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use pyo3::exceptions::PyStopIteration;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::pool_task::PoolTaskCore;
use crate::py::cpython::alloc;
use crate::py::cpython::object::Ref;

/// What `await` of a task drives.
#[pyclass(frozen, module = "loop_pool._core")]
pub(crate) struct PoolTaskWait {
    task: Ref,
    waits: AtomicBool,
}

impl PoolTaskWait {
    pub(crate) fn new(task: &Bound<'_, PoolTaskCore>) -> PyResult<Py<Self>> {
        let waiting = task.clone().into_any().into();
        Py::new(task.py(), Self { task: waiting, waits: AtomicBool::new(false) })
    }
}

#[pymethods]
impl PoolTaskWait {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        // SAFETY: made with one.
        let task = unsafe { self.task.as_py().bind(py).cast_unchecked::<PoolTaskCore>() };
        if task.get().word.is_done() {
            let result = task.get().taken_result(py)?;
            // None is what an iterator ends with by itself.
            return if result.is_none(py) {
                Ok(None)
            } else {
                Err(alloc::error_with(&py.get_type::<PyStopIteration>(), (result,)))
            };
        }
        if self.waits.swap(true, Relaxed) {
            return Err(alloc::runtime_error(py, "await wasn't used with a PoolTask"));
        }
        task.get().word.set_awaited();
        Ok(Some(self.task.as_py().clone_ref(py)))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(self.task.as_py())
    }
}
