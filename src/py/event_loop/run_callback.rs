//! Runs an entry of the ready queue, whichever kind it is.

use super::callback::Callback;
use super::core::LoopCore;
use super::handle_slots;
use super::hooks::hooks;
use super::registry;
use super::report::report;
use crate::event_loop::LeaveOutcome;
use crate::py::asyncio::handle::{self, Scheduled};
use crate::py::asyncio::state::state;
use crate::py::cpython::alloc;
use crate::py::cpython::context::Entered;
use crate::py::cpython::names::intern;
use crate::py::cpython::object::{Ref, decref};
use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;

impl Callback {
    /// Whether it is a handle, or a native object, that was cancelled. Runs no Python.
    pub(crate) fn is_cancelled(&self, py: Python<'_>) -> bool {
        match (&self.context, &self.arg) {
            (Some(_), _) => false,
            // SAFETY: what has neither argument nor context is a handle, and we keep it alive.
            (None, None) => unsafe { handle::is_cancelled(self.handle()) },
            (None, Some(_)) => (hooks().is_cancelled)(self.what.as_py().bind(py)),
        }
    }

    /// Runs it. An exception goes to the loop's exception handler.
    ///
    /// # Errors
    /// `SystemExit`, `KeyboardInterrupt`, and what the exception handler itself lets through.
    #[inline(always)]
    pub(crate) fn run(self, loop_: &Bound<'_, LoopCore>) -> PyResult<()> {
        match (&self.context, &self.arg) {
            (Some(_), _) => self.run_task(loop_),
            (None, None) => {
                let result = self.run_handle(loop_);
                // One by one, as the compiler calls the glue of the whole instead of inlining it.
                drop(self.what);
                drop(self.arg);
                drop(self.context);
                result
            }
            (None, Some(_)) => (hooks().run_native)(loop_, self.what.as_py().bind(loop_.py())),
        }
    }

    #[inline(always)]
    fn run_task(self, loop_: &Bound<'_, LoopCore>) -> PyResult<()> {
        let (py, core) = (loop_.py(), loop_.get());
        let Some(context) = &self.context else { return Ok(()) };
        let what = self.what.as_ptr();
        let is_young = self.arg.as_ref().is_some_and(is_mark);
        let future = if is_young { None } else { self.arg.as_ref() };
        // SAFETY: the kinds were checked when the callback was made, and with them the layouts: a
        // step keeps its task in a known place, a wakeup is a method of it.
        let task = unsafe {
            match future {
                None => state().task.of_step(what),
                Some(_) => (*what.cast::<ffi::PyCFunctionObject>()).m_self,
            }
        };
        let step = core.event_loop.shared().current.enter(task as usize);
        // SAFETY: as above: a step is called with no arguments, a wakeup is a C function of one.
        let done = unsafe {
            in_context(context, || match future {
                None => match (*ffi::Py_TYPE(what)).tp_call {
                    Some(call) => call(what, state().empty_tuple.as_ptr(), std::ptr::null_mut()),
                    None => ffi::PyObject_CallNoArgs(what),
                },
                Some(future) => {
                    let function = what.cast::<ffi::PyCFunctionObject>();
                    ((*(*function).m_ml).ml_meth.PyCFunction)(task, future.as_ptr())
                }
            })
        };
        let result = if done {
            Ok(())
        } else {
            // SAFETY: as above.
            unsafe { failure_of_step(py, context, what, future) }
        };
        if is_young {
            registry::begun(py, core, task);
        }
        let leave_outcome = step.leave();
        let result = result.or_else(|error| {
            let args = match future {
                None => state().empty_tuple.clone_ref(py),
                Some(future) => alloc::tuple(py, [future.as_py()])?.into_any().into(),
            };
            let (callback, context) = (self.what.clone_ref(py), context.clone_ref(py));
            let step = Scheduled { callback, args, context };
            // A step raises what ends the program, and nothing else: this one has not begun.
            if error.is_instance_of::<PyRuntimeError>(py) && core.is_in_pool() {
                return run_when_left(loop_, &step);
            }
            error.restore(py);
            report(loop_, None, step)
        });
        if leave_outcome == LeaveOutcome::PutAside {
            registry::put_aside(core, self);
        }
        result
    }

    #[inline(always)]
    fn run_handle(&self, loop_: &Bound<'_, LoopCore>) -> PyResult<()> {
        let handle = self.handle();
        // SAFETY: a live object.
        let kind = unsafe { ffi::Py_TYPE(handle) };
        if std::ptr::eq(kind, state().handle_type) && !loop_.get().is_debug() {
            // SAFETY: the type was checked, and we hold the handle.
            return unsafe { run_slots(loop_, handle) };
        }
        self.run_other_handle(loop_, kind)
    }

    /// A handle that is not of `call_soon`, or in debug mode. Not inlined: the run loop stays small.
    #[inline(never)]
    fn run_other_handle(
        &self,
        loop_: &Bound<'_, LoopCore>,
        kind: *mut ffi::PyTypeObject,
    ) -> PyResult<()> {
        let (handle, state) = (self.handle(), state());
        let debug = loop_.get().is_debug();
        if std::ptr::eq(kind, state.timer_type) {
            handle_slots::take_timer_key(self);
            if !debug {
                // SAFETY: the type was checked, and we hold the handle.
                return unsafe { run_slots(loop_, handle) };
            }
        }
        if std::ptr::eq(kind, state.threadsafe_type) {
            if !debug
                // SAFETY: the type was checked, and we hold the handle.
                && let Some(scheduled) = unsafe { handle::take_posted(handle) }
            {
                // Nobody has the handle who could cancel it, so the lock is not needed.
                // SAFETY: as above.
                return unsafe { run_scheduled(loop_, handle, scheduled, true) };
            }
            // SAFETY: the type was checked, and we hold the handle past the guard.
            let _guard = unsafe { handle_slots::lock_threadsafe(loop_.py(), handle) };
            if debug {
                return self.run_debug(loop_);
            }
            // SAFETY: as above.
            return unsafe { run_slots(loop_, handle) };
        }
        if debug { self.run_debug(loop_) } else { self.run_foreign(loop_) }
    }

    /// A handle of a class we did not make, or in debug mode: by its own `_run`.
    #[cold]
    fn run_foreign(&self, loop_: &Bound<'_, LoopCore>) -> PyResult<()> {
        let py = loop_.py();
        let handle = self.what.as_py().bind(py);
        if !handle.getattr(intern!(py, "_cancelled"))?.is_truthy()? {
            handle.call_method0(intern!(py, "_run"))?;
        }
        Ok(())
    }

    /// As asyncio's `_run_once` in debug mode: timed, with the loop knowing its current handle.
    #[cold]
    fn run_debug(&self, loop_: &Bound<'_, LoopCore>) -> PyResult<()> {
        let py = loop_.py();
        let handle = self.what.as_py().bind(py);
        let run =
            || loop_.call_method1(intern!(py, "_run_handle_in_debug_mode"), (handle,)).map(drop);
        match registry::task_of(&handle.getattr(intern!(py, "_callback"))?) {
            Some(task) => registry::show(loop_, task, run),
            None => run(),
        }
    }
}

/// Runs what the slots of a handle say.
///
/// # Safety
/// `handle` is a live instance of `asyncio.Handle`; the thread is attached.
#[inline(always)]
unsafe fn run_slots(loop_: &Bound<'_, LoopCore>, handle: *mut ffi::PyObject) -> PyResult<()> {
    // SAFETY: handed on to our caller.
    unsafe {
        if let Some(scheduled) = handle::take_scheduled(handle) {
            return run_scheduled(loop_, handle, scheduled, true);
        }
        match handle::scheduled(handle) {
            Some(scheduled) => run_scheduled(loop_, handle, scheduled, false),
            None => Ok(()),
        }
    }
}

/// Runs what was read from the slots of a handle; `taken`: they are empty now.
///
/// # Safety
/// As for [`run_slots`].
#[inline(always)]
unsafe fn run_scheduled(
    loop_: &Bound<'_, LoopCore>,
    handle: *mut ffi::PyObject,
    scheduled: Scheduled,
    taken: bool,
) -> PyResult<()> {
    // SAFETY: the references are held by `scheduled`; `_args` may have been replaced by any object,
    // so its type is checked.
    let done = unsafe {
        in_context(&scheduled.context, || {
            let args = scheduled.args.as_ptr();
            if std::ptr::eq(args, state().empty_tuple.as_ptr()) {
                ffi::PyObject_CallNoArgs(scheduled.callback.as_ptr())
            } else {
                ffi::PyObject_CallObject(scheduled.callback.as_ptr(), args)
            }
        })
    };
    if done {
        // As above.
        drop(scheduled.callback);
        drop(scheduled.args);
        drop(scheduled.context);
        return Ok(());
    }
    let Scheduled { callback, args, context } = &scheduled;
    // SAFETY: the references are held by `scheduled`.
    match unsafe { through_its_run(loop_.py(), context, callback.as_ptr(), args.as_ptr()) } {
        None => {}
        Some(Ok(())) => return Ok(()),
        Some(Err(error)) => error.restore(loop_.py()),
    }
    if taken {
        // SAFETY: handed on to our caller.
        unsafe { handle::put_back(loop_.py(), handle, &scheduled) };
    }
    report(loop_, Some(handle), scheduled)
}

/// Whether an argument is the mark of a first step.
#[inline(always)]
fn is_mark(arg: &Ref) -> bool {
    // SAFETY: immortal.
    std::ptr::eq(arg.as_ptr(), unsafe { ffi::Py_None() })
}

/// Calls `f` in `context`; whether it succeeded. If not, a Python exception is set.
///
/// # Safety
/// The thread is attached, and `f` returns a strong reference or null with an exception set.
#[inline(always)]
unsafe fn in_context(context: &Ref, f: impl FnOnce() -> *mut ffi::PyObject) -> bool {
    // SAFETY: the reference is alive, and by our caller's word.
    unsafe {
        let Some(entered) = Entered::new(context.as_ptr()) else { return false };
        let result = f();
        if !entered.leave() {
            ffi::Py_XDECREF(result);
            return false;
        }
        if result.is_null() {
            return false;
        }
        decref(result);
        true
    }
}

/// What a task's step ended with that did not succeed: the exception that is set, or what came of it
/// through the context's own `run`.
///
/// # Safety
/// An exception is set; the callback is alive; the thread is attached.
#[cold]
unsafe fn failure_of_step(
    py: Python<'_>,
    context: &Ref,
    callback: *mut ffi::PyObject,
    argument: Option<&Ref>,
) -> PyResult<()> {
    let args = match argument {
        // SAFETY: a new tuple, or null.
        Some(argument) => unsafe { ffi::PyTuple_Pack(1, argument.as_ptr()) },
        None => state().empty_tuple.clone_ref(py).into_ptr(),
    };
    // SAFETY: as above; handed on to our caller.
    unsafe {
        let args = Ref::from_owned_or_err(py, args)?;
        through_its_run(py, context, callback, args.as_ptr())
            .unwrap_or_else(|| Err(alloc::raised(py)))
    }
}

/// Calls `context.run(callback, *args)`, as asyncio's handles do, if the program has given something
/// else than a context. `None`: it is one, and the exception is still set.
///
/// # Safety
/// An exception is set; the objects are alive; the thread is attached.
#[cold]
unsafe fn through_its_run(
    py: Python<'_>,
    context: &Ref,
    callback: *mut ffi::PyObject,
    args: *mut ffi::PyObject,
) -> Option<PyResult<()>> {
    // SAFETY: live objects.
    unsafe {
        if ffi::PyContext_CheckExact(context.as_ptr()) != 0 {
            return None;
        }
        ffi::PyErr_Clear();
        let callback = Bound::from_borrowed_ptr(py, callback);
        let args = Bound::from_borrowed_ptr(py, args);
        let call = || {
            let mut all = vec![callback];
            for argument in args.try_iter()? {
                all.push(argument?);
            }
            let all = alloc::tuple_of(py, &all)?;
            context.as_py().bind(py).getattr(intern!(py, "run"))?.call1(all).map(drop)
        };
        Some(call())
    }
}

/// Runs a step again a little later: another thread is in its context, which a program has given to
/// tasks of several loops. As on one loop, one of them runs at a time, and none is lost.
#[cold]
fn run_when_left(loop_: &Bound<'_, LoopCore>, step: &Scheduled) -> PyResult<()> {
    const SOON: f64 = 0.001; // in seconds
    let py = loop_.py();
    let keywords = alloc::dict(py)?;
    keywords.set_item(intern!(py, "context"), step.context.as_py())?;
    let again =
        vec![loop_.getattr(intern!(py, "call_soon"))?, step.callback.as_py().bind(py).clone()];
    let args = step.args.as_py().bind(py).try_iter()?;
    let again: Vec<_> = again.into_iter().map(Ok).chain(args).collect::<PyResult<_>>()?;
    let again = alloc::tuple_of(py, &again)?;
    let again =
        py.import("functools")?.getattr(intern!(py, "partial"))?.call(again, Some(&keywords))?;
    loop_.call_method1(intern!(py, "call_later"), (alloc::float(py, SOON)?, again)).map(drop)
}
