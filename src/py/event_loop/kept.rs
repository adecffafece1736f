//! What a loop's table keeps of the native objects that it serves: a strong reference, or a weak one
//! to a transport that waits for nothing the loop could bring.

use std::ptr::NonNull;

use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyWeakrefReference;

use crate::py::cpython::object::Ref;

/// Marks a weak reference; objects are aligned to more than a byte.
const WEAK: usize = 1;

/// A strong reference, for the table. [`give_up`] gives it back.
pub(crate) fn strongly(object: Bound<'_, PyAny>) -> usize {
    object.into_ptr() as usize
}

/// A weak reference, for the table. [`give_up`] gives it back.
///
/// # Errors
/// `TypeError` if there can be none to the object; `MemoryError`.
pub(crate) fn weakly(object: &Bound<'_, PyAny>) -> PyResult<usize> {
    Ok(PyWeakrefReference::new(object)?.into_ptr() as usize | WEAK)
}

/// The reference that the table holds, as a Python object.
#[inline(always)]
fn held(cookie: usize) -> *mut ffi::PyObject {
    (cookie & !WEAK) as *mut ffi::PyObject
}

/// The object, unless only weak references to it are left.
///
/// # Safety
/// The table holds the reference, and the caller the table.
#[inline(always)]
pub(crate) unsafe fn object(_py: Python<'_>, cookie: usize) -> Option<Ref> {
    // SAFETY: by our caller's word, and we are attached.
    unsafe {
        if cookie & WEAK == 0 {
            return Some(Ref::from_borrowed(held(cookie)));
        }
        let mut object = std::ptr::null_mut();
        // It fails for what is no weak reference only.
        ffi::compat::PyWeakref_GetRef(held(cookie), &raw mut object);
        NonNull::new(object).map(|object| Ref::from_owned(object))
    }
}

/// Gives back what the table held.
///
/// # Safety
/// The reference was [`strongly`]'s or [`weakly`]'s, and is the caller's now.
pub(crate) unsafe fn give_up(py: Python<'_>, cookie: usize) {
    // SAFETY: by our caller's word.
    drop(unsafe { Bound::from_owned_ptr(py, held(cookie)) });
}

/// Shows the collector the reference that the table holds.
///
/// # Errors
/// Those of the collector.
///
/// # Safety
/// The table holds the reference, and the caller the table.
pub(crate) unsafe fn visit(cookie: usize, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
    let held = held(cookie);
    // SAFETY: `Py` is laid out as its pointer, and the reference stays the table's.
    visit.call(unsafe { &*(&raw const held).cast::<Py<PyAny>>() })
}
