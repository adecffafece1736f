//! Native objects that stand in a loop's queues themselves, without a handle: what runs when their
//! turn comes.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use super::core::LoopCore;

/// Runs the entry of a native object. Errors of the program's own callbacks are reported within.
///
/// # Errors
/// `SystemExit` and `KeyboardInterrupt`, and what an exception handler lets through.
pub(super) fn run(_loop: &Bound<'_, LoopCore>, object: &Bound<'_, PyAny>) -> PyResult<()> {
    Err(PyTypeError::new_err(format!("{object:?} is no native object of a loop's queue")))
}
