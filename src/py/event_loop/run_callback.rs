//! Runs an entry of the ready queue, of any kind.

use super::callback::{Callback, Kind};
use super::context_sharing;
use super::core::LoopCore;
use super::handle_slots;
use super::hooks::hooks;
use super::registry;
use super::report::{is_contained, report};
use crate::event_loop::LeaveOutcome;
use crate::py::asyncio::handle::{self, Scheduled, stands_for_empty};
use crate::py::asyncio::state::state;
use crate::py::cpython::alloc;
use crate::py::cpython::context::Entered;
use crate::py::cpython::error::ends_the_program;
use crate::py::cpython::names::intern;
use crate::py::cpython::object::{Ref, decref, is_unique};
use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

impl Callback {
    /// Whether it is a handle, or a native object, that was cancelled. Runs no Python.
    pub(crate) fn is_cancelled(&self, py: Python<'_>) -> bool {
        match self.kind() {
            // SAFETY: it is a handle, and we keep it alive.
            Kind::Handle => unsafe { handle::is_cancelled(self.handle()) },
            Kind::Native => (hooks().is_cancelled)(self.what().as_py().bind(py)),
            Kind::Step { .. } | Kind::Wakeup { .. } => false,
        }
    }

    /// Runs it. An exception goes to the loop's exception handler.
    ///
    /// # Errors
    /// `SystemExit`, `KeyboardInterrupt`, and what the exception handler itself lets through.
    #[inline(always)]
    pub(crate) fn run(self, loop_: &Bound<'_, LoopCore>) -> PyResult<()> {
        match self.kind() {
            Kind::Step { .. } | Kind::Wakeup { .. } => self.run_task(loop_),
            Kind::Handle => {
                let result = self.run_handle(loop_);
                self.drop_handle();
                result
            }
            Kind::Native => (hooks().run_native)(loop_, self.what().as_py().bind(loop_.py())),
        }
    }

    #[inline(always)]
    fn run_task(self, loop_: &Bound<'_, LoopCore>) -> PyResult<()> {
        let (py, core) = (loop_.py(), loop_.get());
        let (context, future, is_first) = match self.kind() {
            Kind::Step { context, is_first } => (context, None, is_first),
            Kind::Wakeup { context, future } => (context, Some(future), false),
            Kind::Handle | Kind::Native => return Ok(()),
        };
        let what = self.what().as_ptr();
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
        let failed = if done { Ok(None) } else { failed_step(py, self.what(), future, context) };
        if is_first {
            registry::begun(py, core, task);
        }
        let leave_outcome = step.leave();
        let result = failed.and_then(|failed| failed.map_or(Ok(()), |failed| failed.tell(loop_)));
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
        if std::ptr::eq(kind, state().soon.class) && !loop_.get().flags.is_debug() {
            // SAFETY: the type was checked, and we hold the handle.
            return unsafe { run_soon(loop_, handle) };
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
        let debug = loop_.get().flags.is_debug();
        if std::ptr::eq(kind, state.handle.class) && !debug {
            // SAFETY: the type was checked, and we hold the handle.
            return unsafe { run_slots(loop_, handle) };
        }
        if std::ptr::eq(kind, state.timer.class) {
            handle_slots::take_timer_key(self);
            if !debug {
                // SAFETY: the type was checked, and we hold the handle.
                return unsafe { run_slots(loop_, handle) };
            }
        }
        if std::ptr::eq(kind, state.threadsafe.class) {
            if !debug
                // SAFETY: the type was checked, and we hold the handle.
                && let Some(scheduled) = unsafe { handle::take_posted(handle) }
            {
                // Nobody has the handle who could cancel it, so the lock is not needed.
                // SAFETY: as above.
                return unsafe { run_taken(loop_, handle, scheduled) };
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
        let handle = self.what().as_py().bind(py);
        if !handle.getattr(intern!(py, "_cancelled"))?.is_truthy()? {
            handle.call_method0(intern!(py, "_run"))?;
        }
        Ok(())
    }

    /// As asyncio's `_run_once` in debug mode: timed, with the loop knowing its current handle.
    #[cold]
    fn run_debug(&self, loop_: &Bound<'_, LoopCore>) -> PyResult<()> {
        let py = loop_.py();
        let handle = self.what().as_py().bind(py);
        let run =
            || loop_.call_method1(intern!(py, "_run_handle_in_debug_mode"), (handle,)).map(drop);
        let callback = handle.getattr(intern!(py, "_callback"))?;
        let result = match registry::task_of(&callback) {
            Some(task) => registry::show(loop_, task, run),
            None => run(),
        };
        result.or_else(|error| {
            let is_contained = ends_the_program(py, &error) && is_contained(loop_, &callback);
            if is_contained { Ok(()) } else { Err(error) }
        })
    }
}

/// Runs a handle of `call_soon`.
///
/// # Safety
/// `handle` is a live instance of our type for it; the thread is attached.
#[inline(always)]
unsafe fn run_soon(loop_: &Bound<'_, LoopCore>, handle: *mut ffi::PyObject) -> PyResult<()> {
    // SAFETY: handed on to our caller. What is taken out was nobody else's.
    unsafe {
        if let Some(scheduled) = handle::take_scheduled(handle) {
            // A reader's handle may have what stands for all empty contexts, too.
            let context = scheduled.context.as_ptr();
            if handle::shares_context(handle) || stands_for_empty(context) {
                handle::set_shares_context(handle, false);
                if !is_unique(context) {
                    return run_in_shared_context(loop_, handle, scheduled);
                }
            }
            return run_scheduled(loop_, handle, scheduled, true);
        }
    }
    // SAFETY: as above.
    unsafe { run_seen(loop_, handle) }
}

/// Runs a handle that somebody else has, too. Not inlined: the run loop stays small.
///
/// # Safety
/// As for [`run_slots`].
#[inline(never)]
unsafe fn run_seen(loop_: &Bound<'_, LoopCore>, handle: *mut ffi::PyObject) -> PyResult<()> {
    // SAFETY: handed on to our caller.
    unsafe {
        if handle::is_cancelled(handle) {
            return Ok(());
        }
        let owned = handle::own_context(loop_.py(), handle);
        match (handle::scheduled(handle), owned) {
            (Some(scheduled), Ok(())) => run_scheduled(loop_, handle, scheduled, false),
            (Some(scheduled), Err(error)) => {
                error.restore(loop_.py());
                report(loop_, Some(handle), scheduled)
            }
            (None, _) => Ok(()),
        }
    }
}

/// Runs what was taken out of a handle that shares its context.
///
/// # Safety
/// As for [`run_slots`]; nobody else has the handle.
#[inline(always)]
unsafe fn run_in_shared_context(
    loop_: &Bound<'_, LoopCore>,
    handle: *mut ffi::PyObject,
    scheduled: Scheduled,
) -> PyResult<()> {
    let (py, core) = (loop_.py(), loop_.get());
    let Scheduled { callback, args, context: copy } = scheduled;
    let context = match context_sharing::to_run_in(py, core, &copy) {
        Ok(context) => context,
        Err(error) => {
            error.restore(py);
            // SAFETY: nobody else has the handle, and it gets the copy back.
            unsafe {
                handle::share_again(handle);
                return failed(loop_, handle, Scheduled { callback, args, context: copy }, true);
            }
        }
    };
    let scheduled = Scheduled { callback, args, context };
    // SAFETY: handed on to our caller.
    unsafe {
        if !call(&scheduled) {
            drop(copy);
            return failed(loop_, handle, scheduled, true);
        }
    }
    scheduled.callback.drop_inline();
    scheduled.args.drop_inline();
    context_sharing::has_run_in(core, copy, scheduled.context);
    Ok(())
}

/// Runs what the slots of a handle say.
///
/// # Safety
/// `handle` is a live instance of `asyncio.Handle`; the thread is attached.
#[inline(always)]
unsafe fn run_slots(loop_: &Bound<'_, LoopCore>, handle: *mut ffi::PyObject) -> PyResult<()> {
    // SAFETY: handed on to our caller.
    unsafe {
        match handle::take_scheduled(handle) {
            Some(scheduled) => run_taken(loop_, handle, scheduled),
            None => run_seen(loop_, handle),
        }
    }
}

/// Runs what was taken out of a handle that is not of `call_soon`.
///
/// # Safety
/// As for [`run_slots`]; nobody else has the handle.
#[inline(always)]
unsafe fn run_taken(
    loop_: &Bound<'_, LoopCore>,
    handle: *mut ffi::PyObject,
    scheduled: Scheduled,
) -> PyResult<()> {
    // SAFETY: handed on to our caller.
    unsafe {
        if handle::stands_for_empty(scheduled.context.as_ptr()) {
            run_in_shared_context(loop_, handle, scheduled)
        } else {
            run_scheduled(loop_, handle, scheduled, true)
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
    // SAFETY: handed on to our caller.
    unsafe {
        if !call(&scheduled) {
            return failed(loop_, handle, scheduled, taken);
        }
    }
    scheduled.callback.drop_inline();
    scheduled.args.drop_inline();
    scheduled.context.drop_inline();
    Ok(())
}

/// Calls what a handle says; whether it succeeded. If not, a Python exception is set.
///
/// # Safety
/// The thread is attached.
#[inline(always)]
unsafe fn call(scheduled: &Scheduled) -> bool {
    // SAFETY: the references are held by `scheduled`; `_args` may have been replaced by any object,
    // so its type is checked.
    unsafe {
        in_context(
            &scheduled.context,
            #[inline(always)]
            || {
                let args = scheduled.args.as_ptr();
                if std::ptr::eq(args, state().empty_tuple.as_ptr()) {
                    ffi::PyObject_CallNoArgs(scheduled.callback.as_ptr())
                } else {
                    ffi::PyObject_CallObject(scheduled.callback.as_ptr(), args)
                }
            },
        )
    }
}

/// Tells of what a handle's call has raised, and that is set.
///
/// # Errors
/// As for [`report`].
///
/// # Safety
/// As for [`run_scheduled`].
#[cold]
unsafe fn failed(
    loop_: &Bound<'_, LoopCore>,
    handle: *mut ffi::PyObject,
    scheduled: Scheduled,
    taken: bool,
) -> PyResult<()> {
    match through_its_run(loop_.py(), &scheduled) {
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

/// A step of a task that did not succeed, and why.
struct FailedStep {
    step: Scheduled,
    error: PyErr,
    has_begun: bool,
}

/// Looks at the exception that a step has set. `None`: it ran after all, by its context's own `run`.
///
/// # Errors
/// `MemoryError`.
#[cold]
fn failed_step(
    py: Python<'_>,
    callback: &Ref,
    future: Option<&Ref>,
    context: &Ref,
) -> PyResult<Option<FailedStep>> {
    let error = alloc::raised(py);
    let args = match future {
        None => state().empty_tuple.clone_ref(py),
        Some(future) => alloc::tuple(py, [future.as_py()])?.into_any().into(),
    };
    let (callback, context) = (callback.clone_ref(py), context.clone_ref(py));
    let step = Scheduled { callback, args, context };
    let (error, has_begun) = match through_its_run(py, &step) {
        Some(Ok(())) => return Ok(None),
        Some(Err(error)) => (error, true),
        // A step raises what ends the program, and nothing else: this is of entering the context.
        None => {
            let has_begun = !error.is_instance_of::<PyRuntimeError>(py);
            (error, has_begun)
        }
    };
    Ok(Some(FailedStep { step, error, has_begun }))
}

impl FailedStep {
    /// Tells the exception handler, unless the step is to run later.
    ///
    /// # Errors
    /// As for [`report`].
    fn tell(self, loop_: &Bound<'_, LoopCore>) -> PyResult<()> {
        if !self.has_begun && loop_.get().is_in_pool() {
            return run_when_left(loop_, &self.step);
        }
        self.error.restore(loop_.py());
        report(loop_, None, self.step)
    }
}

/// Calls `context.run(callback, *args)`, as asyncio's handles do, if the program has given something
/// else than a context; an exception that is set is dropped then. `None`: it is one, and nothing is done.
#[cold]
fn through_its_run(py: Python<'_>, scheduled: &Scheduled) -> Option<PyResult<()>> {
    let context = scheduled.context.as_py().bind(py);
    // SAFETY: a live object; the thread is attached.
    unsafe {
        if ffi::PyContext_CheckExact(context.as_ptr()) != 0 {
            return None;
        }
        ffi::PyErr_Clear();
    }
    let call = || {
        let all = with_args(py, vec![scheduled.callback.as_py().bind(py).clone()], scheduled)?;
        context.getattr(intern!(py, "run"))?.call1(all).map(drop)
    };
    Some(call())
}

/// A tuple of what comes first, and the arguments behind it.
fn with_args<'py>(
    py: Python<'py>,
    mut all: Vec<Bound<'py, PyAny>>,
    scheduled: &Scheduled,
) -> PyResult<Bound<'py, PyTuple>> {
    for argument in scheduled.args.as_py().bind(py).try_iter()? {
        all.push(argument?);
    }
    alloc::tuple_of(py, &all)
}

/// Runs a step again a little later: another thread is in its context, which a program has given to
/// tasks of several loops. As on one loop, one of them runs at a time, and none is lost.
#[cold]
fn run_when_left(loop_: &Bound<'_, LoopCore>, step: &Scheduled) -> PyResult<()> {
    const SOON: f64 = 0.001; // in seconds
    let py = loop_.py();
    let keywords = alloc::dict(py)?;
    keywords.set_item(intern!(py, "context"), step.context.as_py())?;
    let callback = step.callback.as_py().bind(py).clone();
    let all = with_args(py, vec![loop_.getattr(intern!(py, "call_soon"))?, callback], step)?;
    let partial = py.import("functools")?.getattr(intern!(py, "partial"))?;
    let again = partial.call(all, Some(&keywords))?;
    loop_.call_method1(intern!(py, "call_later"), (alloc::float(py, SOON)?, again)).map(drop)
}
