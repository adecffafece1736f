//! `loop_pool.PoolTask`, the class whose instances `spawn` makes.

use std::cell::Cell;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::pool_task::PoolTaskCore;
use crate::py::asyncio::state::state;
use crate::py::cpython::alloc;
use crate::py::cpython::attach::lock_attached;
use crate::py::cpython::names::intern;
use crate::py::cpython::object::Ref;

thread_local! {
    /// Set while `make` calls the class.
    pub(super) static MAKING: Cell<bool> = const { Cell::new(false) };
}

/// `loop_pool.PoolTask`, or null until it is known.
pub(crate) static CLASS: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(std::ptr::null_mut());

/// Makes the Python class known whose instances `spawn` makes. Once, at import.
#[pyfunction]
#[pyo3(name = "_set_pool_task_class", signature = (class, /))]
pub(crate) fn set_class(class: &Bound<'_, PyType>) -> PyResult<()> {
    if !class.is_subclass_of::<PoolTaskCore>()? {
        return Err(alloc::runtime_error(class.py(), format!("{class:?} is no PoolTaskCore")));
    }
    let kind = class.clone().into_ptr().cast::<ffi::PyTypeObject>();
    // SAFETY: a live heap type of this package, of which there is no instance yet. A method
    // `__del__` would be looked up and called for every task that dies.
    unsafe { (*kind).tp_finalize = Some(finalize) };
    CLASS.store(kind, Relaxed);
    Ok(())
}

/// The class, which is never freed.
#[inline(always)]
pub(crate) fn class(py: Python<'_>) -> PyResult<*mut ffi::PyTypeObject> {
    let class = CLASS.load(Relaxed);
    if class.is_null() {
        return Err(alloc::runtime_error(py, "loop_pool.PoolTask is not known yet"));
    }
    Ok(class)
}

/// The task, if `object` is one.
#[inline(always)]
pub(crate) fn cast<'a, 'py>(object: &'a Bound<'py, PyAny>) -> Option<&'a Bound<'py, PoolTaskCore>> {
    // SAFETY: a live object; one of that class inherits `PoolTaskCore`.
    unsafe {
        std::ptr::eq(ffi::Py_TYPE(object.as_ptr()), CLASS.load(Relaxed))
            .then(|| object.cast_unchecked::<PoolTaskCore>())
    }
}

/// As `asyncio.Future.__del__`: nobody fetched the exception.
pub(crate) unsafe extern "C" fn finalize(object: *mut ffi::PyObject) {
    // SAFETY: the interpreter calls this attached, with an instance that is alive meanwhile.
    unsafe {
        let py = Python::assume_attached();
        let object = Bound::from_borrowed_ptr(py, object);
        let Some(task) = cast(&object) else { return };
        if let Some(exception) = task.get().take_unfetched(py) {
            // What was raised goes on being raised behind the finalizer's back.
            let raised = alloc::raised_if_any(py);
            if let Err(error) =
                task.call_method1(intern!(py, "_report_unfetched"), (exception.as_py(),))
            {
                error.write_unraisable(py, Some(task.as_any()));
            }
            if let Some(raised) = raised {
                raised.restore(py);
            }
        }
    }
}

/// Makes a task for a coroutine.
pub(crate) fn make<'py>(
    py: Python<'py>,
    coro: Ref,
    name: Option<Ref>,
    context: Ref,
) -> PyResult<Bound<'py, PoolTaskCore>> {
    let class = class(py)?;
    MAKING.set(true);
    // SAFETY: a live class, whose maker wants no arguments; the result is a new reference, or null
    // with an exception set. It is called through C, which does not unwind: `MAKING` is cleared.
    let made = unsafe {
        match (*class).tp_new {
            Some(new) => new(class, state().empty_tuple.as_ptr(), std::ptr::null_mut()),
            None => ffi::PyObject_CallNoArgs(class.cast()),
        }
    };
    MAKING.set(false);
    // SAFETY: as above; the class inherits `PoolTaskCore`.
    let task = unsafe { Bound::from_owned_ptr_or_err(py, made)?.cast_into_unchecked() };
    let made: &PoolTaskCore = Bound::<'py, PoolTaskCore>::get(&task);
    let mut parts = lock_attached(py, &made.parts);
    parts.state.set_coro(coro);
    parts.name = name;
    parts.context = Some(context);
    drop(parts);
    Ok(task)
}
