//! What makes a `StreamRead` a future to the task that awaits it: who is told when its wait ends, and the two methods
//! that a task calls for each wait, too hot for pyo3's own argument handling.

use pyo3::Borrowed;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::reader_state;
use super::stream_read::StreamRead;
use super::stream_waiter::{Callbacks, Outcome, Wait};
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
use crate::transport::WaitPhase;

/// Lets everybody who waited run.
///
/// # Errors
/// `RuntimeError` if the loop is closed; in debug mode from another thread, when all have been told.
#[inline]
pub(crate) fn tell(read: &Bound<'_, StreamRead>, callbacks: Callbacks) -> PyResult<()> {
    let told = callbacks.into_iter().map(|(callback, context)| call_soon(read, callback, context));
    told.fold(Ok(()), Result::and)
}

fn call_soon(read: &Bound<'_, StreamRead>, callback: Ref, context: Ref) -> PyResult<()> {
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
            if !core.flags.is_debug() {
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
pub(super) fn invalid_state(py: Python<'_>, text: &str) -> PyErr {
    let make = || -> PyResult<PyErr> {
        let class = py.import(intern!(py, "asyncio"))?.getattr(intern!(py, "InvalidStateError"))?;
        Ok(PyErr::from_value(class.call1((alloc::text(py, text)?,))?))
    };
    make().unwrap_or_else(|error| error)
}

/// Adds the hot methods to `StreamRead`.
pub(crate) fn install(class: &Bound<'_, PyType>) -> PyResult<()> {
    add_methods(
        class,
        vec![
            method_def(c"get_loop", get_loop, c"get_loop($self, /)\n--\n\nThe reader's loop."),
            fast_def(
                c"add_done_callback",
                add_done_callback,
                c"add_done_callback($self, /, fn, *, context=None)\n--\n\n\
                  Call fn with it when the wait ends.",
            ),
        ],
    )
}

/// What the outcome is, for methods.
pub(super) enum State {
    Pending,
    Done,
    Cancelled(Option<Ref>),
    Failed(Ref),
}

impl StreamRead {
    /// Calls `f` with the wait, in the critical section of the reader.
    ///
    /// # Safety
    /// The thread is attached; `f` runs no Python, and drops no reference.
    #[inline(always)]
    pub(super) unsafe fn with_wait<R>(&self, f: impl FnOnce(&mut Wait) -> R) -> R {
        // SAFETY: by our caller's word; the read holds its reader.
        unsafe { reader_state::with(self.reader(), |held| f(self.waiter.wait(held))) }
    }

    pub(super) fn state(&self, py: Python<'_>) -> State {
        // SAFETY: counting runs no Python.
        unsafe {
            self.with_wait(|wait| match wait.phase() {
                WaitPhase::Pending => State::Pending,
                WaitPhase::Idle | WaitPhase::Settled(Outcome::Woken) => State::Done,
                WaitPhase::Settled(Outcome::Cancelled(message)) => {
                    State::Cancelled(copied(py, message.as_ref()))
                }
                WaitPhase::Settled(Outcome::Failed(error)) => State::Failed(error.clone_ref(py)),
            })
        }
    }
}

/// Ends the wait; says whether there was one.
pub(super) fn settle(read: &Bound<'_, StreamRead>, outcome: Outcome) -> PyResult<bool> {
    // SAFETY: no Python runs; both arms are dropped here.
    match unsafe { read.get().with_wait(|wait| wait.settle(outcome)) } {
        Ok(callbacks) => tell(read, callbacks).map(|()| true),
        Err(_) => Ok(false),
    }
}

/// The read of which a method is called.
///
/// # Safety
/// `slf` is a live `StreamRead`, for as long as `'a`.
#[inline(always)]
unsafe fn this<'a>(py: Python<'_>, slf: *mut ffi::PyObject) -> Borrowed<'a, '_, StreamRead> {
    // SAFETY: by our caller's word.
    unsafe { Borrowed::from_ptr(py, slf).cast_unchecked() }
}

unsafe extern "C" fn get_loop(
    slf: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the descriptor has checked the type, here and below; the object is alive during the call.
    raise(|py| unsafe { this(py, slf).get().loop_of(py).map(Ref::into_ptr) })
}

unsafe extern "C" fn add_done_callback(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as above; so are the arguments.
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
        let read = this(py, slf);
        let watched = read.get().with_wait(|wait| wait.watch((callback, context)));
        if let Err((callback, context)) = watched {
            call_soon(&read, callback, context)?;
        }
        Ok(none())
    })
}
