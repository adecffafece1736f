//! Registers the two callbacks of `task_callbacks` from a sample of each, at import.

use std::sync::atomic::Ordering::Relaxed;

use pyo3::ffi;
use pyo3::prelude::*;

use super::state::state;

/// Teaches the loop to recognise the C task's callbacks by a sample of each.
///
/// `step` is what a fresh task passes to `call_soon`, `wakeup` what a future passes when it wakes a
/// task, `task` the task of both, `name` its name and `done` its method; `failing` is a step that is to throw
/// `error`.
/// Samples of another kind (a pure-Python task's) are left unrecognised: such tasks run through ordinary
/// handles.
#[pyfunction]
#[pyo3(name = "_learn_task_callbacks")]
pub(crate) fn learn_task_callbacks(
    step: &Bound<'_, PyAny>,
    wakeup: &Bound<'_, PyAny>,
    task: &Bound<'_, PyAny>,
    name: &Bound<'_, PyAny>,
    done: &Bound<'_, PyAny>,
    failing: &Bound<'_, PyAny>,
    error: &Bound<'_, PyAny>,
) -> bool {
    let known = &state().task;
    let step_type = step.get_type();
    // SAFETY: reading the name of a live type.
    let step_name = unsafe { std::ffi::CStr::from_ptr((*step_type.as_type_ptr()).tp_name) };
    // SAFETY: the type check precedes the access to the layout.
    let definition = |function: &Bound<'_, PyAny>| unsafe {
        let function = function.as_ptr();
        (ffi::PyCFunction_CheckExact(function) != 0)
            .then(|| (*function.cast::<ffi::PyCFunctionObject>()).m_ml)
    };
    let (Some(wakeup_def), Some(done_def)) = (definition(wakeup), definition(done)) else {
        return false;
    };
    // SAFETY: definitions of live functions. The loop calls them with one argument, and with none.
    if unsafe { ((*wakeup_def).ml_flags, (*done_def).ml_flags) } != (ffi::METH_O, ffi::METH_NOARGS)
    {
        return false;
    }
    let word_of = |holder: &Bound<'_, PyAny>, held: &Bound<'_, PyAny>| {
        // SAFETY: a live object; the words that each instance of its type has.
        unsafe {
            let size = (*ffi::Py_TYPE(holder.as_ptr())).tp_basicsize.unsigned_abs();
            (size_of::<ffi::PyObject>()..size).step_by(size_of::<usize>()).find(|offset| {
                let word = *holder.as_ptr().byte_add(*offset).cast::<*mut ffi::PyObject>();
                std::ptr::eq(word, held.as_ptr())
            })
        }
    };
    let step_task = word_of(step, task);
    if failing.get_type().is(&step_type) {
        known.step_error.store(word_of(failing, error).unwrap_or(0), Relaxed);
    }
    let Some(step_task) = step_task else { return false };
    if !step_name.to_bytes().starts_with(b"_asyncio.") {
        return false;
    }
    // The type lives as long as `_asyncio`, which is never unloaded; keep it alive all the same.
    known.done_def.store(done_def, Relaxed);
    known.name.store(word_of(task, name).unwrap_or(0), Relaxed);
    known.step_task.store(step_task, Relaxed);
    known.wakeup_def.store(wakeup_def, Relaxed);
    known.class.store(task.get_type().into_ptr().cast(), Relaxed);
    known.step_type.store(step_type.into_ptr().cast(), Relaxed);
    true
}
