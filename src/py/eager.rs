//! Tasks that start at once: `eager_start=True`, and asyncio's `eager_task_factory`.
//!
//! asyncio's constructor would run the first step itself, and the loop would not know which task is
//! running meanwhile. So the task is made as one that starts later, the step that it asks for is
//! caught, and run here.

use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::arguments::{Arguments, Parsed};
use super::callback::Callback;
use super::core::LoopCore;
use super::object::Ref;
use super::state::state;

/// The value of `eager_start` that a call gives, and all other keywords.
struct Eager<'a> {
    given: Option<*mut ffi::PyObject>,
    others: Vec<(*mut ffi::PyObject, &'a *mut ffi::PyObject)>,
}

/// # Safety
/// The arguments are those of a vectorcall.
unsafe fn eager_of<'a>(py: Python<'_>, args: &'a Arguments<'_>) -> Eager<'a> {
    let mut eager = Eager { given: None, others: Vec::new() };
    if args.kwnames.is_null() {
        return eager;
    }
    // SAFETY: names are a tuple of strings; the values follow the positional arguments.
    unsafe {
        for index in 0..ffi::PyTuple_GET_SIZE(args.kwnames) {
            let name = ffi::PyTuple_GET_ITEM(args.kwnames, index);
            let value = &*args.values.add(index.unsigned_abs());
            if ffi::PyUnicode_Compare(name, intern!(py, "eager_start").as_ptr()) == 0 {
                eager.given = Some(*value);
            } else {
                eager.others.push((name, value));
            }
        }
    }
    eager
}

/// Makes a task and runs its first step at once, in the place of asyncio's constructor: that would not
/// tell the loop which task is running meanwhile. `None`: the call asks for no such task, or the loop
/// does not run in this thread.
///
/// # Errors
/// Those of the constructor; `SystemExit` and `KeyboardInterrupt` from the step.
///
/// # Safety
/// The arguments are those of a vectorcall; `coroutine` is alive during the call.
#[cold]
pub(super) unsafe fn create(
    loop_: &Bound<'_, LoopCore>,
    coroutine: *mut ffi::PyObject,
    args: &Arguments<'_>,
) -> PyResult<Option<*mut ffi::PyObject>> {
    let (py, core, state) = (loop_.py(), loop_.get(), state());
    if !core.event_loop.is_owner() || !state.knows_task_class() {
        return Ok(None);
    }
    // SAFETY: by our caller's word.
    let eager = unsafe { eager_of(py, args) };
    let wanted = match eager.given {
        // SAFETY: an argument is alive during the call.
        Some(given) => unsafe { Bound::from_borrowed_ptr(py, given) }.is_truthy()?,
        None => core.starts_eagerly(),
    };
    if !wanted {
        return Ok(None);
    }
    let kwargs = PyDict::new(py);
    kwargs.set_item(intern!(py, "loop"), loop_)?;
    for (name, value) in &eager.others {
        // SAFETY: arguments are alive during the call.
        unsafe {
            kwargs.set_item(
                Bound::from_borrowed_ptr(py, *name),
                Bound::from_borrowed_ptr(py, **value),
            )?;
        }
    }
    // SAFETY: as above; the class lives as long as the process.
    let (class, coroutine) = unsafe {
        let class = state.task_class.get();
        (Bound::from_borrowed_ptr(py, class), Bound::from_borrowed_ptr(py, coroutine))
    };
    core.set_catching(true);
    let task = class.call((coroutine,), Some(&kwargs));
    core.set_catching(false);
    // SAFETY: we own the loop; no Python runs.
    let step = unsafe { core.caught.with(Option::take) };
    let task = task?;
    if let Some(step) = step {
        let swap = state.swap_current_task.as_py().bind(py);
        let before = swap.call1((loop_, py.None()))?;
        let result = step.run_eagerly(loop_);
        swap.call1((loop_, before))?;
        result?;
    }
    Ok(Some(task.into_ptr()))
}

/// Keeps the first step of a task that is to start at once; whether it is one.
#[cold]
pub(super) fn catch(core: &LoopCore, callback: *mut ffi::PyObject, parsed: &Parsed<'_, 1>) -> bool {
    let (true, Some(context)) = (state().is_task_step(callback), parsed.context) else {
        return false;
    };
    core.set_catching(false);
    // SAFETY: arguments are alive during the call; we own the loop, and run no Python.
    unsafe {
        let step =
            Callback::from_task(Ref::from_borrowed(callback), None, Ref::from_borrowed(context));
        core.caught.with(|caught| *caught = Some(step));
    }
    true
}
