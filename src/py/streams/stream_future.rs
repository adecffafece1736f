//! The methods by which a `StreamRead` is a future to the task that awaits it.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::reader_state;
use super::stream_read::StreamRead;
use super::stream_waiter::{Callbacks, Outcome, Parts, cancelled_error};
use crate::py::asyncio::arguments::Parsed;
use crate::py::asyncio::state::state;
use crate::py::cpython::alloc;
use crate::py::cpython::cfunc::{Arguments, add_methods, fast_def, method_def, raise};
use crate::py::cpython::context::copy_context;
use crate::py::cpython::names::intern;
use crate::py::cpython::object::{Ref, copied};
use crate::py::event_loop::callback::Callback;
use crate::py::event_loop::core::LoopCore;
use crate::py::transport::transport_methods::none;

/// Lets everybody who waited run.
///
/// # Errors
/// `RuntimeError` if the loop is closed; in debug mode from another thread, when all have been told.
#[inline]
pub(crate) fn tell(read: &Bound<'_, StreamRead>, callbacks: Callbacks) -> PyResult<()> {
    let told = callbacks.into_iter().map(|(callback, context)| call_soon(read, callback, context));
    told.fold(Ok(()), Result::and)
}

pub(crate) fn call_soon(read: &Bound<'_, StreamRead>, callback: Ref, context: Ref) -> PyResult<()> {
    let py = read.py();
    let loop_ = read.get().loop_of(py)?;
    // SAFETY: the reader is alive.
    unsafe {
        if let Some(woken) = reader_state::woken(read.get().reader())
            && state().task.is_wakeup(callback.as_ptr())
            && let Ok(core) = loop_.as_py().bind(py).cast::<LoopCore>()
        {
            let core = core.get();
            core.check_open()?;
            if !core.is_debug() {
                // A C task asks whatever wakes it for the result, and this one it asks without Python.
                // What the wait has ended with the task hears from the operation, as it goes on.
                core.schedule(Callback::from_wakeup(callback, woken, context));
                return Ok(());
            }
        }
    }
    let keywords = alloc::dict(py)?;
    keywords.set_item(intern!(py, "context"), context.as_py())?;
    let arguments = (callback.as_py(), read);
    loop_.as_py().bind(py).call_method(intern!(py, "call_soon"), arguments, Some(&keywords))?;
    Ok(())
}

/// `asyncio.InvalidStateError`.
#[cold]
pub(crate) fn invalid_state(py: Python<'_>, text: &str) -> PyErr {
    let make = || -> PyResult<PyErr> {
        let class = py.import(intern!(py, "asyncio"))?.getattr(intern!(py, "InvalidStateError"))?;
        Ok(PyErr::from_value(class.call1((alloc::text(py, text)?,))?))
    };
    make().unwrap_or_else(|error| error)
}

/// Adds the methods to `StreamRead`.
pub(crate) fn install(class: &Bound<'_, PyType>) -> PyResult<()> {
    add_methods(
        class,
        vec![
            method_def(c"get_loop", get_loop, c"get_loop($self, /)\n--\n\nThe reader's loop."),
            method_def(c"done", done, c"done($self, /)\n--\n\nWhether it does not wait."),
            method_def(
                c"cancelled",
                cancelled,
                c"cancelled($self, /)\n--\n\nWhether its wait was cancelled.",
            ),
            method_def(
                c"result",
                result,
                c"result($self, /)\n--\n\nReturn None, or raise what its wait ended with.",
            ),
            method_def(
                c"exception",
                exception,
                c"exception($self, /)\n--\n\nReturn the exception that its wait ended with.",
            ),
            fast_def(
                c"cancel",
                cancel,
                c"cancel($self, /, msg=None)\n--\n\nEnd the wait by a CancelledError.",
            ),
            fast_def(
                c"set_result",
                set_result,
                c"set_result($self, /, result)\n--\n\nEnd the wait; the result is not kept.",
            ),
            fast_def(
                c"set_exception",
                set_exception,
                c"set_exception($self, /, exception)\n--\n\nEnd the wait by an exception.",
            ),
            fast_def(
                c"add_done_callback",
                add_done_callback,
                c"add_done_callback($self, /, fn, *, context=None)\n--\n\n\
                  Call fn with it when the wait ends.",
            ),
            fast_def(
                c"remove_done_callback",
                remove_done_callback,
                c"remove_done_callback($self, /, fn)\n--\n\n\
                  Undo add_done_callback; return how many were removed.",
            ),
        ],
    )
}

/// What the outcome is, for methods.
pub(crate) enum State {
    Pending,
    Done,
    Cancelled(Option<Ref>),
    Failed(Ref),
}

/// Calls `f` with the parts of an operation.
///
/// # Safety
/// `slf` is a live `StreamRead`; `f` runs no Python, and drops no reference.
#[inline(always)]
pub(crate) unsafe fn with<R>(
    slf: *mut ffi::PyObject,
    f: impl FnOnce(&StreamRead, &mut Parts) -> R,
) -> R {
    // SAFETY: by our caller's word.
    unsafe {
        let read = (*(&raw const slf).cast::<Bound<'_, StreamRead>>()).get();
        reader_state::with(read.reader(), |_| f(read, read.waiter.parts()))
    }
}

/// # Safety
/// `slf` is a live `StreamRead`.
#[inline(always)]
pub(crate) unsafe fn state_of(py: Python<'_>, slf: *mut ffi::PyObject) -> State {
    // SAFETY: by our caller's word; counting runs no Python.
    unsafe {
        with(slf, |_, parts| match &parts.outcome {
            Outcome::Pending => State::Pending,
            Outcome::Idle | Outcome::Woken => State::Done,
            Outcome::Cancelled(message) => State::Cancelled(copied(py, message.as_ref())),
            Outcome::Failed(error) => State::Failed(error.clone_ref(py)),
        })
    }
}

/// Ends the wait; says whether there was one.
///
/// # Safety
/// `slf` is a live `StreamRead`.
pub(crate) unsafe fn settle(slf: *mut ffi::PyObject, outcome: Outcome) -> PyResult<bool> {
    // SAFETY: by our caller's word; both arms are dropped here.
    unsafe {
        let bound = &*(&raw const slf).cast::<Bound<'_, StreamRead>>();
        let read = bound.get();
        let settled = reader_state::with(read.reader(), |_| read.waiter.settle(outcome));
        match settled {
            Ok(callbacks) => tell(bound, callbacks).map(|()| true),
            Err(_) => Ok(false),
        }
    }
}

pub(crate) fn boolean(value: bool) -> *mut ffi::PyObject {
    // SAFETY: immortal.
    unsafe { if value { ffi::Py_True() } else { ffi::Py_False() } }
}

pub(crate) unsafe extern "C" fn get_loop(
    slf: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the descriptor has checked the type, here and below.
    raise(|py| unsafe {
        (*(&raw const slf).cast::<Bound<'_, StreamRead>>()).get().loop_of(py).map(Ref::into_ptr)
    })
}

pub(crate) unsafe extern "C" fn done(
    slf: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as above.
    raise(|py| unsafe { Ok(boolean(!matches!(state_of(py, slf), State::Pending))) })
}

pub(crate) unsafe extern "C" fn cancelled(
    slf: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as above.
    raise(|py| unsafe { Ok(boolean(matches!(state_of(py, slf), State::Cancelled(_)))) })
}

pub(crate) unsafe extern "C" fn result(
    slf: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as above.
    raise(|py| match unsafe { state_of(py, slf) } {
        State::Done => Ok(none()),
        State::Pending => Err(invalid_state(py, "Result is not set.")),
        State::Cancelled(message) => Err(cancelled_error(py, message.as_ref())),
        State::Failed(error) => Err(PyErr::from_value(error.as_py().bind(py).clone())),
    })
}

pub(crate) unsafe extern "C" fn exception(
    slf: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as above.
    raise(|py| match unsafe { state_of(py, slf) } {
        State::Done => Ok(none()),
        State::Pending => Err(invalid_state(py, "Exception is not set.")),
        State::Cancelled(message) => Err(cancelled_error(py, message.as_ref())),
        State::Failed(error) => Ok(error.into_ptr()),
    })
}

/// The only argument of a method; null if it was not given and need not be.
///
/// # Safety
/// As the vectorcall convention says; `slf` is alive.
pub(crate) unsafe fn argument(
    py: Python<'_>,
    slf: *mut ffi::PyObject,
    arguments: &Arguments<'_>,
    (method, name, required): (&str, &str, usize),
) -> PyResult<*mut ffi::PyObject> {
    // SAFETY: by our caller's word.
    let object = unsafe { Bound::from_borrowed_ptr(py, slf) };
    arguments.named(&object, method, [name], required).map(|[argument]| argument)
}

pub(crate) unsafe extern "C" fn cancel(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as above; the arguments are alive during the call.
    raise(|py| unsafe {
        let arguments = Arguments::new(args, count, kwnames);
        let message = argument(py, slf, &arguments, ("cancel", "msg", 0))?;
        let is_given = !message.is_null() && !std::ptr::eq(message, ffi::Py_None());
        let message = is_given.then(|| Ref::from_borrowed(message));
        settle(slf, Outcome::Cancelled(message)).map(boolean)
    })
}

pub(crate) unsafe extern "C" fn set_result(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as above.
    raise(|py| unsafe {
        argument(py, slf, &Arguments::new(args, count, kwnames), ("set_result", "result", 1))?;
        if settle(slf, Outcome::Woken)? {
            return Ok(none());
        }
        Err(invalid_state(py, "invalid state"))
    })
}

pub(crate) unsafe extern "C" fn set_exception(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as above.
    raise(|py| unsafe {
        let arguments = Arguments::new(args, count, kwnames);
        let given = argument(py, slf, &arguments, ("set_exception", "exception", 1))?;
        let given = Bound::from_borrowed_ptr(py, given);
        let error = if given.is_instance_of::<PyType>() { given.call0()? } else { given };
        if !error.is_instance_of::<pyo3::exceptions::PyBaseException>() {
            return Err(alloc::type_error(py, "invalid exception object"));
        }
        if settle(slf, Outcome::Failed(error.into()))? {
            return Ok(none());
        }
        Err(invalid_state(py, "invalid state"))
    })
}

pub(crate) unsafe extern "C" fn add_done_callback(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as above.
    raise(|py| unsafe {
        let arguments = Arguments::new(args, count, kwnames);
        let parsed = Parsed::new(py, "add_done_callback", ["fn"], &arguments)?;
        if !parsed.rest.is_empty() {
            let text = "add_done_callback() takes exactly 1 positional argument";
            return Err(alloc::type_error(py, text));
        }
        let [callback] = parsed.required;
        let callback = Ref::from_borrowed(callback);
        let context = match parsed.context {
            Some(context) if !std::ptr::eq(context, ffi::Py_None()) => Ref::from_borrowed(context),
            _ => copy_context(py)?,
        };
        let refused = with(slf, |_, parts| {
            let new = (callback, context);
            if !matches!(parts.outcome, Outcome::Pending) {
                return Some(new);
            }
            if parts.callbacks.first.is_none() {
                parts.callbacks.first = Some(new);
            } else {
                parts.callbacks.more.push(new);
            }
            None
        });
        if let Some((callback, context)) = refused {
            call_soon(&*(&raw const slf).cast::<Bound<'_, StreamRead>>(), callback, context)?;
        }
        Ok(none())
    })
}

pub(crate) unsafe extern "C" fn remove_done_callback(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as above.
    raise(|py| unsafe {
        let arguments = Arguments::new(args, count, kwnames);
        let unwanted = argument(py, slf, &arguments, ("remove_done_callback", "fn", 1))?;
        let unwanted = Bound::from_borrowed_ptr(py, unwanted);
        // Comparing runs Python, so it is done outside of the section, of which nothing is taken out
        // meanwhile: it may raise.
        let callbacks: Vec<Ref> = with(slf, |_, parts| {
            parts.callbacks.iter().map(|(callback, _)| callback.clone_ref(py)).collect()
        });
        let mut equal = Vec::new();
        for callback in callbacks {
            if callback.as_py().bind(py).eq(&unwanted)? {
                equal.push(callback);
            }
        }
        let is_equal = |(known, _): &(Ref, Ref)| {
            equal.iter().any(|one| std::ptr::eq(one.as_ptr(), known.as_ptr()))
        };
        let removed = with(slf, |_, parts| {
            let all = std::mem::take(&mut parts.callbacks).into_iter();
            let (removed, mut kept): (Vec<_>, Vec<_>) = all.partition(is_equal);
            parts.callbacks.first = if kept.is_empty() { None } else { Some(kept.remove(0)) };
            parts.callbacks.more = kept;
            removed
        });
        let removed = removed.len();
        Ok(alloc::int(py, removed)?.into_ptr())
    })
}
