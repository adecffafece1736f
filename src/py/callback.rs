//! What waits in a loop's queues: a handle, or a C task's step without one.

use pyo3::ffi;
use pyo3::prelude::*;

use super::alloc;
use super::core::LoopCore;
use super::handle::{self, Scheduled};
use super::handle_types;
use super::names::intern;
use super::native;
use super::object::{Ref, decref, prefetch};
use super::registry;
use super::state::state;
use crate::event_loop::Farewell;

/// Something to run on the loop's thread. Three words.
///
/// | `context` | `arg` | `what` is |
/// |---|---|---|
/// | none | none | a handle |
/// | set | none | a C task's step callback |
/// | set | `None` | likewise, the first of its task |
/// | set | set | a C task's wakeup callback, `arg` the future that is done |
/// | none | set | a native object with I/O to do: see [`native`]; `arg` is `None` |
///
/// The task's callbacks stand without a handle because the C code that posts them drops what `call_soon`
/// returns: nobody could cancel or see it.
#[derive(Debug)]
pub(super) struct Callback {
    what: Ref,
    arg: Option<Ref>,
    context: Option<Ref>,
}

// SAFETY: references may be counted from any attached thread; `Ref` says who may drop one.
unsafe impl Send for Callback {}

impl Callback {
    #[inline(always)]
    pub(super) fn from_handle(handle: Ref) -> Self {
        Self { what: handle, arg: None, context: None }
    }

    #[inline(always)]
    pub(super) fn from_task(step: Ref, arg: Option<Ref>, context: Ref) -> Self {
        Self { what: step, arg, context: Some(context) }
    }

    /// An entry for the first step of a task that the loop shows until then.
    #[inline(always)]
    pub(super) fn from_young_task(step: Ref, context: Ref) -> Self {
        // SAFETY: `None` is immortal, and whoever makes an entry is attached.
        let mark = unsafe { Ref::from_borrowed(ffi::Py_None()) };
        Self { what: step, arg: Some(mark), context: Some(context) }
    }

    /// An entry for a native object that [`native::run`] knows.
    #[inline(always)]
    pub(super) fn from_native(object: Ref) -> Self {
        // SAFETY: `None` is immortal, and whoever makes an entry is attached.
        let mark = unsafe { Ref::from_borrowed(ffi::Py_None()) };
        Self { what: object, arg: Some(mark), context: None }
    }

    /// Whether it is a handle, or a native object, that was cancelled. Runs no Python.
    pub(super) fn is_cancelled(&self, py: Python<'_>) -> bool {
        match (&self.context, &self.arg) {
            (Some(_), _) => false,
            // SAFETY: what has neither argument nor context is a handle, and we keep it alive.
            (None, None) => unsafe { handle::is_cancelled(self.handle()) },
            (None, Some(_)) => native::is_cancelled(self.what.as_py().bind(py)),
        }
    }

    /// The handle, of a callback made by [`from_handle`](Self::from_handle).
    #[inline(always)]
    pub(super) fn handle(&self) -> *mut ffi::PyObject {
        self.what.as_ptr()
    }

    pub(super) fn objects(&self) -> impl Iterator<Item = &Py<PyAny>> {
        [Some(&self.what), self.arg.as_ref(), self.context.as_ref()]
            .into_iter()
            .flatten()
            .map(Ref::as_py)
    }

    #[inline(always)]
    pub(super) fn clone_ref(&self, py: Python<'_>) -> Self {
        Self {
            what: self.what.clone_ref(py),
            arg: self.arg.as_ref().map(|arg| arg.clone_ref(py)),
            context: self.context.as_ref().map(|context| context.clone_ref(py)),
        }
    }

    /// Begins to fetch its object, for a run soon.
    #[inline(always)]
    pub(super) fn prefetch(&self) {
        prefetch(self.what.as_ptr().cast());
    }

    /// Begins to fetch the context of a handle, which is at hand itself.
    #[inline(always)]
    pub(super) fn prefetch_context(&self) {
        if self.context.is_none() && self.arg.is_none() {
            let (handle, state) = (self.handle(), state());
            // SAFETY: a live object.
            let kind = unsafe { ffi::Py_TYPE(handle) };
            if [state.handle_type, state.timer_type, state.threadsafe_type].contains(&kind) {
                // SAFETY: the type was checked, and with it the layout. The address is not followed.
                let context = unsafe { handle::context_address(handle) };
                prefetch(std::ptr::without_provenance(context));
            }
        }
    }

    /// Runs it. An exception goes to the loop's exception handler.
    ///
    /// # Errors
    /// `SystemExit`, `KeyboardInterrupt`, and what the exception handler itself lets through.
    #[inline(always)]
    pub(super) fn run(self, loop_: &Bound<'_, LoopCore>) -> PyResult<()> {
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
            (None, Some(_)) => native::run(loop_, self.what.as_py().bind(loop_.py())),
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
                None => state().task_of_step(what),
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
        let farewell = step.leave();
        let result = result.or_else(|error| {
            error.restore(py);
            let args = match future {
                None => state().empty_tuple.clone_ref(py),
                Some(future) => alloc::tuple(py, [future.as_py()])?.into_any().into(),
            };
            let (callback, context) = (self.what.clone_ref(py), context.clone_ref(py));
            report(loop_, None, Scheduled { callback, args, context })
        });
        if farewell == Farewell::PutAside {
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
            handle_types::take_timer_key(self);
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
            let _guard = unsafe { handle_types::lock_threadsafe(loop_.py(), handle) };
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

/// A context that the thread has entered, and leaves again, also by a panic.
pub(super) struct Entered(*mut ffi::PyObject);

impl Entered {
    /// Enters it. `None`: an exception is set; it is no context, or somebody is in it.
    ///
    /// # Safety
    /// The object is alive until the context is left; the thread is attached.
    #[inline(always)]
    pub(super) unsafe fn new(context: *mut ffi::PyObject) -> Option<Self> {
        // SAFETY: by our caller's word; entering refuses what is not a context.
        (unsafe { ffi::PyContext_Enter(context) } == 0).then(|| Self(context))
    }

    /// Leaves it; if that fails, an exception is set.
    #[inline(always)]
    pub(super) fn leave(self) -> bool {
        // SAFETY: by the word of who entered it.
        unsafe { ffi::PyContext_Exit(std::mem::ManuallyDrop::new(self).0) == 0 }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        // SAFETY: as in `leave`.
        if unsafe { ffi::PyContext_Exit(self.0) } != 0 {
            // SAFETY: likewise. The panic says more.
            unsafe { ffi::PyErr_Clear() };
        }
    }
}

/// Hands the exception that is set to the loop's exception handler, as `Handle._run` does.
///
/// # Errors
/// The exception itself if it is `SystemExit` or `KeyboardInterrupt`.
#[cold]
pub(super) fn report(
    loop_: &Bound<'_, LoopCore>,
    handle: Option<*mut ffi::PyObject>,
    scheduled: Scheduled,
) -> PyResult<()> {
    let py = loop_.py();
    let error = alloc::raised(py);
    if error.is_instance_of::<pyo3::exceptions::PySystemExit>(py)
        || error.is_instance_of::<pyo3::exceptions::PyKeyboardInterrupt>(py)
    {
        return Err(error);
    }
    let Scheduled { callback, args, context } = scheduled;
    let callback_object = callback.clone_ref(py);
    let args_object = args.clone_ref(py);
    let handle = match handle {
        // SAFETY: the caller of the callback holds the handle.
        Some(handle) => unsafe { Ref::from_borrowed(handle) },
        // SAFETY: the loop is alive and the references are real.
        None => unsafe {
            handle::new_plain(py, loop_.as_ptr(), Scheduled { callback, args, context })?
        },
    };
    loop_.call_method1(
        intern!(py, "_report_callback_exception"),
        (handle.as_py(), callback_object.as_py(), args_object.as_py(), error),
    )?;
    Ok(())
}
