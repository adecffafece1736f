//! Functions of higher rooms that a loop's turn calls. The module sets them once, at import.

use std::sync::OnceLock;

use pyo3::prelude::*;

use super::core::LoopCore;
use crate::pool::Unstarted;
use crate::py::cpython::object::Ref;

/// Functions of the rooms above.
#[derive(Debug)]
pub(crate) struct Hooks {
    /// Runs the entry of a native object.
    pub(crate) run_native: fn(&Bound<'_, LoopCore>, &Bound<'_, PyAny>) -> PyResult<()>,
    /// What any loop runs to begin what has come for a transport. Runs no Python.
    pub(crate) begins: fn(&Bound<'_, PyAny>) -> Option<Ref>,
    /// Whether the entry of a native object was cancelled. Runs no Python.
    pub(crate) is_cancelled: fn(&Bound<'_, PyAny>) -> bool,
    /// Whether the descriptor of a socket operation is still its own; `None`: the object is none.
    pub(crate) holds: fn(&Bound<'_, PyAny>) -> Option<bool>,
    /// Begins a coroutine of `spawn`.
    pub(crate) begin: fn(&Bound<'_, LoopCore>, Unstarted) -> PyResult<()>,
    /// Whether somebody awaits a coroutine of `spawn` that has not begun. Runs no Python.
    pub(crate) is_awaited: fn(Python<'_>, &Unstarted) -> bool,
}

static HOOKS: OnceLock<Hooks> = OnceLock::new();

/// The functions that were set at import.
#[inline(always)]
pub(crate) fn hooks() -> &'static Hooks {
    debug_assert!(HOOKS.get().is_some());
    // SAFETY: `initialise` ran before any class of the module could be used.
    unsafe { HOOKS.get().unwrap_unchecked() }
}

/// Sets them. A second import finds them set.
pub(crate) fn initialise(hooks: Hooks) {
    let _ = HOOKS.set(hooks);
}
