//! Which thread may use the objects of a loop: the check at the beginning of every transport method, and
//! borrowing a loop that is not running.
//!
//! In: a loop, and a method call on one of its objects. Out: whether the calling thread may continue; if
//! not, `python/loop_pool/_loop/thread_affinity.py` posts the call, or borrows the loop for it.

use pyo3::ffi;
use pyo3::prelude::*;

use super::core::LoopCore;
use crate::py::asyncio::state::state;
use crate::py::cpython::slots::slot;

/// Whether the calling thread may change what belongs to the loop now.
#[inline(always)]
pub(crate) fn is_here(loop_: &LoopCore) -> bool {
    loop_.event_loop.local.is_owner()
}

/// Whether the calling thread may change an object now, whose loop is in the slot at `offset`. One that
/// has none yet, or a loop of another make, is nobody's.
///
/// # Safety
/// `object` is alive, and the slot one that is set before the object is shared.
#[inline(always)]
pub(crate) unsafe fn is_owner_of_slot(object: *mut ffi::PyObject, offset: usize) -> bool {
    // SAFETY: by our caller's word; the class is checked before the loop is looked at. `Bound` is laid
    // out as its pointer.
    unsafe {
        let place = slot(object, offset);
        if (*place).is_null() || ffi::PyObject_TypeCheck(*place, state().loop_type) == 0 {
            return true;
        }
        is_here((*place.cast::<Bound<'_, LoopCore>>()).get())
    }
}

/// Whether the calling thread runs the loop, or has borrowed it.
#[pyfunction]
#[pyo3(name = "_is_owner", signature = (loop_, /))]
pub(crate) fn is_owner(loop_: &Bound<'_, LoopCore>) -> bool {
    is_here(loop_.get())
}

/// Calls a function as the owner of a loop that nobody runs. Returns whether it was called: if not,
/// another thread owns the loop.
///
/// # Errors
/// Whatever it raises.
#[pyfunction]
#[pyo3(name = "_call_as_owner", signature = (loop_, function, /))]
pub(crate) fn call_as_owner(
    loop_: &Bound<'_, LoopCore>,
    function: &Bound<'_, PyAny>,
) -> PyResult<bool> {
    let Ok(_claim) = loop_.get().event_loop.claim() else { return Ok(false) };
    function.call0().map(|_| true)
}
