//! What a pool of loops shares, for `python/loop_pool/_pool.py`.

use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::core::LoopCore;
use crate::pool;

/// The number of loops for what was asked; `None`: one for each core this process may use.
///
/// # Errors
/// `ValueError` below 1 or above 4096; `TypeError` for what is no integer.
#[pyfunction]
#[pyo3(name = "_loop_count", signature = (loops, /))]
pub(super) fn loop_count(loops: Option<&Bound<'_, PyAny>>) -> PyResult<usize> {
    let asked = match loops {
        None => None,
        Some(loops) => Some(loops.extract::<i64>().map_err(|error| {
            let py = loops.py();
            if error.is_instance_of::<PyOverflowError>(py) {
                PyValueError::new_err(format!("loops must be between 1 and 4096, not {loops}"))
            } else {
                PyTypeError::new_err(format!("loops must be an integer or None, not {loops:?}"))
            }
        })?),
    };
    pool::loop_count(asked).map_err(|error| PyValueError::new_err(error.to_string()))
}

/// The shared part of a pool. Use `loop_pool.Pool`.
#[pyclass(frozen, module = "loop_pool._core")]
pub(super) struct PoolCore {
    placement: pool::Placement,
    /// The process that made the pool; its threads do not exist in a forked child.
    process: u32,
}

#[pymethods]
impl PoolCore {
    #[new]
    fn new(loops: u32) -> Self {
        Self { placement: pool::Placement::new(loops), process: std::process::id() }
    }

    /// The index of the loop for the next coroutine. Any thread.
    fn place(&self, loops: &Bound<'_, PyTuple>) -> u32 {
        let load = |id: crate::id::LoopId| {
            let member = loops.get_borrowed_item(id.0 as usize).ok()?;
            Some(member.cast::<LoopCore>().ok()?.get().event_loop.metrics().ready.get())
        };
        self.placement.next(|id| load(id).unwrap_or(u64::MAX)).0
    }

    /// Whether this process is a fork of the one that made the pool.
    fn forked(&self) -> bool {
        self.process != std::process::id()
    }
}
