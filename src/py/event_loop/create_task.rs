//! The ways in which a loop creates an `asyncio.Task`.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::core::LoopCore;
use super::registry;
use crate::py::asyncio::state::state;
use crate::py::cpython::alloc;
use crate::py::cpython::cfunc::Arguments;
use crate::py::cpython::names::{intern, is_named};
use crate::py::cpython::object::{Ref, incref};

/// The common form `create_task(coro)`.
#[inline(always)]
pub(crate) fn plain(
    loop_: &Bound<'_, LoopCore>,
    coro: *mut ffi::PyObject,
) -> PyResult<*mut ffi::PyObject> {
    let (py, state) = (loop_.py(), state());
    let class = state.classes.task.get();
    let task = if state.knows_task_class()
        && let Some(keywords) = loop_.get().keywords()
    {
        // The C task's type takes keywords as a dict, and to make one for each task is a good part of
        // what a task costs.
        // SAFETY: the new tuple is ours, and takes a new reference. The loop keeps the dict while it
        // runs. The C task's constructor only reads it.
        unsafe {
            let args = Ref::from_owned_or_err(py, ffi::PyTuple_New(1))?;
            incref(coro);
            ffi::PyTuple_SET_ITEM(args.as_ptr(), 0, coro);
            ffi::PyObject_Call(class, args.as_ptr(), keywords)
        }
    } else {
        // SAFETY: one argument, one keyword and its value, as the convention says.
        unsafe {
            let names = state.keywords.loop_.as_ptr();
            ffi::PyObject_Vectorcall(class, [coro, loop_.as_ptr()].as_ptr(), 1, names)
        }
    };
    if task.is_null() { Err(alloc::raised(py)) } else { Ok(task) }
}

/// Makes a task of a coroutine, as `create_task(coro, name=..., context=...)`. `own`: the program's
/// task factory is not asked.
pub(crate) fn new_task<'py>(
    loop_: &Bound<'py, LoopCore>,
    coro: &Ref,
    name: Option<&Ref>,
    context: Option<&Ref>,
    own: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let (py, state) = (loop_.py(), state());
    if let Some(context) = context
        && (own || !(loop_.get().flags.has_task_factory() || loop_.get().flags.starts_eagerly()))
    {
        loop_.get().check_open()?;
        let names = if name.is_some() { &state.keywords.named_task } else { &state.keywords.task };
        let args = [
            coro.as_ptr(),
            loop_.as_ptr(),
            context.as_ptr(),
            name.map_or(std::ptr::null_mut(), Ref::as_ptr),
        ];
        // SAFETY: one argument, and the values of the keywords that are named.
        return unsafe {
            let class = state.classes.task.get();
            let task = ffi::PyObject_Vectorcall(class, args.as_ptr(), 1, names.as_ptr());
            Bound::from_owned_ptr_or_err(py, task)
        };
    }
    let keywords = alloc::dict(py)?;
    if let Some(name) = name {
        keywords.set_item(intern!(py, "name"), name.as_py())?;
    }
    if let Some(context) = context {
        keywords.set_item(intern!(py, "context"), context.as_py())?;
    }
    loop_.call_method(intern!(py, "create_task"), (coro.as_py(),), Some(&keywords))
}

/// The common form `create_task(coro, name=..., context=..., eager_start=...)`, without a dict.
pub(crate) fn with_keywords(
    py: Python<'_>,
    slf: *mut ffi::PyObject,
    coro: *mut ffi::PyObject,
    args: &Arguments<'_>,
) -> PyResult<*mut ffi::PyObject> {
    let state = state();
    // SAFETY: names are a tuple; the values follow the positional arguments.
    unsafe {
        let given = ffi::PyTuple_GET_SIZE(args.kwnames);
        for index in 0..given {
            let name = ffi::PyTuple_GET_ITEM(args.kwnames, index);
            if is_named(name, state.keywords.name_loop.as_ptr()) {
                return Err(second_loop(py));
            }
        }
        let names = ffi::PyTuple_New(given + 1);
        let names = Ref::from_owned_or_err(py, names)?;
        let mut values = Vec::with_capacity(given.unsigned_abs() + 2);
        values.push(coro);
        values.push(slf);
        ffi::PyTuple_SET_ITEM(names.as_ptr(), 0, state.keywords.name_loop.clone_ref(py).into_ptr());
        for index in 0..given {
            let name = ffi::PyTuple_GET_ITEM(args.kwnames, index);
            incref(name);
            ffi::PyTuple_SET_ITEM(names.as_ptr(), index + 1, name);
            values.push(*args.values.add(index.unsigned_abs()));
        }
        let task =
            ffi::PyObject_Vectorcall(state.classes.task.get(), values.as_ptr(), 1, names.as_ptr());
        if task.is_null() { Err(alloc::raised(py)) } else { Ok(task) }
    }
}

/// The keywords of a call of `create_task` that makes a task of asyncio's.
///
/// # Errors
/// `TypeError`, as asyncio's, if one is `loop`: that is the loop that makes it.
pub(crate) fn keywords<'py>(
    loop_: &Bound<'py, LoopCore>,
    args: &Arguments<'_>,
) -> PyResult<Bound<'py, PyDict>> {
    let kwargs = all_keywords(loop_.py(), args)?;
    if kwargs.contains(state().keywords.name_loop.as_py())? {
        Err(second_loop(loop_.py()))
    } else {
        Ok(kwargs)
    }
}

fn second_loop(py: Python<'_>) -> PyErr {
    alloc::type_error(py, "create_task() got multiple values for keyword argument 'loop'")
}

fn all_keywords<'py>(py: Python<'py>, args: &Arguments<'_>) -> PyResult<Bound<'py, PyDict>> {
    let kwargs = alloc::dict(py)?;
    for (index, name) in args.keywords(py).iter().enumerate() {
        // SAFETY: the values of the keywords follow the positional arguments.
        let value = unsafe { Bound::from_borrowed_ptr(py, *args.values.add(index)) };
        kwargs.set_item(name, value)?;
    }
    Ok(kwargs)
}

/// With a task factory, or with arguments in an unusual form: as asyncio's own `create_task`.
#[cold]
pub(crate) fn by_dict(
    loop_: &Bound<'_, LoopCore>,
    args: &Arguments<'_>,
) -> PyResult<*mut ffi::PyObject> {
    let py = loop_.py();
    let has_factory = loop_.get().flags.has_task_factory();
    let kwargs = if has_factory { all_keywords(py, args)? } else { keywords(loop_, args)? };
    let coro = match *args.positional {
        // SAFETY: an argument is alive during the call.
        [coro] => unsafe { Bound::from_borrowed_ptr(py, coro) },
        [] => match kwargs.get_item(intern!(py, "coro"))? {
            Some(coro) => {
                kwargs.del_item(intern!(py, "coro"))?;
                coro
            }
            None => {
                return Err(alloc::type_error(
                    py,
                    "create_task() missing required argument: 'coro'",
                ));
            }
        },
        _ => {
            return Err(alloc::type_error(
                py,
                format!(
                    "create_task() takes 1 positional argument but {} were given",
                    args.positional.len()
                ),
            ));
        }
    };
    let task = if has_factory {
        let factory = loop_.getattr(intern!(py, "_task_factory"))?;
        let task = factory.call((loop_, coro), Some(&kwargs))?;
        registry::note_suspended(loop_, &task);
        task
    } else {
        kwargs.set_item(intern!(py, "loop"), loop_)?;
        // SAFETY: the class is never freed.
        let class = unsafe { Bound::from_borrowed_ptr(py, state().classes.task.get()) };
        class.call((coro,), Some(&kwargs))?
    };
    Ok(task.into_ptr())
}
