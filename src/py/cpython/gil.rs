//! Lists the extension modules that do not declare support for running without the GIL.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyModule;

/// `Py_mod_gil` as extensions built for Python 3.13 and 3.14 know it.
const BEFORE_3_15: std::ffi::c_int = 4;

/// Whether `module` is an extension module whose slots do not say that it needs no GIL. Modules
/// whose slots cannot be read (initialised in one phase) are not accused.
#[pyfunction]
#[pyo3(name = "_needs_gil", signature = (module, /))]
pub(crate) fn needs_gil(module: &Bound<'_, PyAny>) -> bool {
    let Ok(module) = module.cast::<PyModule>() else { return false };
    // SAFETY: the definition is static data of the extension; its slots end with a zero.
    unsafe {
        let definition = ffi::PyModule_GetDef(module.as_ptr());
        if definition.is_null() {
            ffi::PyErr_Clear();
            return false;
        }
        let mut slot = (*definition).m_slots;
        if slot.is_null() {
            return false;
        }
        while (*slot).slot != 0 {
            if (*slot).slot == ffi::Py_mod_gil || (*slot).slot == BEFORE_3_15 {
                return std::ptr::eq((*slot).value, ffi::Py_MOD_GIL_USED);
            }
            slot = slot.add(1);
        }
    }
    true
}
