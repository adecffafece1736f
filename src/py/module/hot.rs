//! The methods that a program calls millions of times: `call_soon`, `call_soon_threadsafe`, `call_at`,
//! `call_later`, `time`, `create_future`, `create_task`, and `get_debug`, which each new future and task
//! calls; and those of `watch`.
//!
//! They are plain C methods with the vectorcall convention, added to `LoopCore` next to pyo3's: a task
//! switch calls two of them, and pyo3's argument handling would cost more than the work. Each behaves like
//! asyncio's method of the same name, including debug mode.

use pyo3::exceptions::PyOverflowError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyInt, PyType};

use crate::py::asyncio::arguments::Parsed;
use crate::py::asyncio::future;
use crate::py::asyncio::handle;
use crate::py::asyncio::state::state;
use crate::py::cpython::alloc;
use crate::py::cpython::cfunc::{Arguments, add_methods, fast_def, method_def, raise};
use crate::py::cpython::names::intern;
use crate::py::cpython::object::Ref;
use crate::py::event_loop::callback::Callback;
use crate::py::event_loop::clock_watch;
use crate::py::event_loop::context_sharing::{self, HandleContext};
use crate::py::event_loop::core::LoopCore;
use crate::py::event_loop::create_task;
use crate::py::event_loop::cross_loop;
use crate::py::event_loop::eager;
use crate::py::event_loop::handle_slots;
use crate::py::event_loop::program_clock;
use crate::py::event_loop::registry;
use crate::py::pool::pool_task_run;
use crate::py::socket_ops::watch;
use crate::sys::clock;

/// Adds the methods to `EventLoop`, a subclass of `LoopCore`.
///
/// Not to `LoopCore` itself: a method of the object's own class is found and checked sooner.
#[pyfunction]
#[pyo3(name = "_install_hot_methods", signature = (class, /))]
pub(crate) fn install(class: &Bound<'_, PyType>) -> PyResult<()> {
    if !class.is_subclass_of::<LoopCore>()? {
        return Err(alloc::type_error(
            class.py(),
            "the hot methods belong to a subclass of LoopCore",
        ));
    }
    let mut definitions = vec![
        fast_def(
            c"call_soon",
            call_soon,
            c"call_soon($self, /, callback, *args, context=None)\n--\n\n\
              Run callback(*args) in the next turn; return its asyncio.Handle.\n\n\
              As asyncio.loop.call_soon. From another thread it raises RuntimeError in debug mode, \
              and otherwise works like call_soon_threadsafe.",
        ),
        fast_def(
            c"call_soon_threadsafe",
            call_soon_threadsafe,
            c"call_soon_threadsafe($self, /, callback, *args, context=None)\n--\n\n\
              Run callback(*args) soon and wake the loop; return its handle. Any thread.\n\n\
              As asyncio.loop.call_soon_threadsafe.",
        ),
        fast_def(
            c"call_at",
            call_at,
            c"call_at($self, /, when, callback, *args, context=None)\n--\n\n\
              Run callback(*args) at the loop time `when` (seconds); return its TimerHandle.\n\n\
              As asyncio.loop.call_at.",
        ),
        fast_def(
            c"call_later",
            call_later,
            c"call_later($self, /, delay, callback, *args, context=None)\n--\n\n\
              Run callback(*args) after `delay` seconds; return its TimerHandle.\n\n\
              As asyncio.loop.call_later.",
        ),
        fast_def(
            c"create_task",
            create_task,
            c"create_task($self, /, coro, **kwargs)\n--\n\n\
              Schedule a coroutine and return its task, as asyncio.loop.create_task. Call it from \
              the loop's thread.",
        ),
        method_def(
            c"create_future",
            create_future,
            c"create_future($self, /)\n--\n\nReturn a new asyncio.Future of this loop.",
        ),
        method_def(
            c"get_debug",
            get_debug,
            c"get_debug($self, /)\n--\n\nReturn whether the loop is in debug mode. Any thread.",
        ),
        method_def(
            c"is_running",
            is_running,
            c"is_running($self, /)\n--\n\nReturn whether the loop is running. Any thread.",
        ),
        method_def(
            c"time",
            time,
            c"time($self, /)\n--\n\nReturn time.monotonic(): the loop's clock, in seconds.",
        ),
    ];
    definitions.append(&mut watch::definitions());
    add_methods(class, definitions)
}

/// The loop behind `self`.
///
/// # Safety
/// `slf` is a live `LoopCore`: the method descriptor has checked it.
#[inline(always)]
unsafe fn this<'a, 'py>(py: Python<'py>, slf: &'a *mut ffi::PyObject) -> &'a Bound<'py, LoopCore> {
    // SAFETY: `Bound` is laid out as its pointer beside the zero-sized token, as pyo3's own
    // `ref_from_ptr` relies on; the type is checked.
    unsafe { Bound::<PyAny>::ref_from_ptr(py, slf).cast_unchecked() }
}

/// Runs the body of a method with the vectorcall convention: errors and panics become exceptions.
///
/// # Safety
/// As the convention says; `slf` is a live `LoopCore`.
#[inline(always)]
unsafe fn enter(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    kwnames: *mut ffi::PyObject,
    body: impl FnOnce(&Bound<'_, LoopCore>, &Arguments<'_>) -> PyResult<*mut ffi::PyObject>,
) -> *mut ffi::PyObject {
    // SAFETY: handed on to our caller.
    raise(|py| unsafe { body(this(py, &slf), &Arguments::new(args, count, kwnames)) })
}

/// asyncio's checks in debug mode: the callback, and for most methods the thread.
#[cold]
fn check_in_debug_mode(
    loop_: &Bound<'_, LoopCore>,
    callback: *mut ffi::PyObject,
    method: &str,
    thread: bool,
) -> PyResult<()> {
    let py = loop_.py();
    if thread {
        loop_.call_method0(intern!(py, "_check_thread"))?;
    }
    // SAFETY: an argument is alive during the call.
    let callback = unsafe { Bound::from_borrowed_ptr(py, callback) };
    loop_.call_method1(intern!(py, "_check_callback"), (callback, alloc::text(py, method)?))?;
    Ok(())
}

/// In debug mode a handle is made by its class, which notes where it was created.
#[cold]
fn handle_in_debug_mode<'py, const N: usize>(
    loop_: &Bound<'py, LoopCore>,
    class: *mut ffi::PyTypeObject,
    when: Option<&Bound<'py, PyAny>>,
    callback: *mut ffi::PyObject,
    parsed: &Parsed<'_, N>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = loop_.py();
    // SAFETY: the class lives as long as the process; an argument is alive during the call.
    let (class, callback) = unsafe {
        (
            Bound::from_borrowed_ptr(py, class.cast::<ffi::PyObject>()),
            Bound::from_borrowed_ptr(py, callback),
        )
    };
    let args = parsed.rest_tuple(py)?;
    let args = args.as_py().bind(py).clone();
    let context = parsed.context_object(py);
    match when {
        Some(when) => class.call1((when, callback, args, loop_, context)),
        None => class.call1((callback, args, loop_, context)),
    }
}

unsafe extern "C" fn call_soon(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    let body = |loop_: &Bound<'_, LoopCore>, args: &Arguments<'_>| {
        let py = loop_.py();
        let core = loop_.get();
        core.check_open()?;
        let parsed = Parsed::new(py, "call_soon", ["callback"], args)?;
        let [callback] = parsed.required;
        if let &[task] = parsed.rest
            && let Some(pool_task) = pool_task_run::settled_by(py, callback)
        {
            // SAFETY: an argument is alive during the call.
            let task = unsafe { Bound::from_borrowed_ptr(py, task) };
            if pool_task_run::settle_returned(&pool_task, &task) {
                return Ok(py.None().into_ptr());
            }
        }
        if core.flags.is_debug() {
            if cross_loop::wakes_from_elsewhere(loop_, callback, &parsed)? {
                return Ok(py.None().into_ptr());
            }
            check_in_debug_mode(loop_, callback, "call_soon", true)
                .inspect_err(|_| cross_loop::forget_refused_task(py, callback))?;
            let state = state();
            // SAFETY: an argument is alive during the call, and its kind is checked.
            if state.task.is_step(callback) && unsafe { state.task.throws(callback) } {
                cross_loop::explain_step(py, callback);
            }
            registry::note_step_in_debug_mode(core, callback);
            let class = state.soon.class;
            let handle = handle_in_debug_mode(loop_, class, None, callback, &parsed)?;
            core.schedule(Callback::from_handle(handle.clone().into()));
            return Ok(handle.into_ptr());
        }
        if let Some(context) = parsed.context
            && let Some(task) = task_callback(py, core, callback, parsed.rest, context)
        {
            core.schedule(task);
            return Ok(py.None().into_ptr());
        }
        let HandleContext { context, is_shared } = match parsed.given_context() {
            Some(context) => HandleContext { context, is_shared: false },
            None => context_sharing::copy_for_handle(py, core)?,
        };
        let scheduled = parsed.scheduled_in(py, callback, context)?;
        // SAFETY: the loop is alive.
        let handle = unsafe { handle::new_soon(py, slf, scheduled, is_shared)? };
        core.schedule(Callback::from_handle(handle.clone_ref(py)));
        Ok(handle.into_ptr())
    };
    // SAFETY: called by the interpreter as the convention says.
    unsafe { enter(slf, args, count, kwnames, body) }
}

/// A C task's step or wakeup, which needs no handle.
#[inline(always)]
fn task_callback(
    py: Python<'_>,
    core: &LoopCore,
    callback: *mut ffi::PyObject,
    rest: &[*mut ffi::PyObject],
    context: *mut ffi::PyObject,
) -> Option<Callback> {
    let state = state();
    // SAFETY: arguments are alive during the call.
    unsafe {
        match *rest {
            [] if state.task.is_step(callback) => {
                if state.task.throws(callback) {
                    cross_loop::explain_step(py, callback);
                }
                let (step, context) = (Ref::from_borrowed(callback), Ref::from_borrowed(context));
                let is_first = registry::note_step(core, callback);
                Some(Callback::from_step(step, context, is_first))
            }
            // `None` is no future.
            [future] if state.task.is_wakeup(callback) && !std::ptr::eq(future, ffi::Py_None()) => {
                Some(Callback::from_wakeup(
                    Ref::from_borrowed(callback),
                    Ref::from_borrowed(future),
                    Ref::from_borrowed(context),
                ))
            }
            _ => None,
        }
    }
}

unsafe extern "C" fn call_soon_threadsafe(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    let body = |loop_: &Bound<'_, LoopCore>, args: &Arguments<'_>| {
        let py = loop_.py();
        let core = loop_.get();
        core.check_open()?;
        let parsed = Parsed::new(py, "call_soon_threadsafe", ["callback"], args)?;
        let [callback] = parsed.required;
        if core.flags.is_debug() {
            check_in_debug_mode(loop_, callback, "call_soon_threadsafe", false)?;
            let class = state().threadsafe.class;
            let handle = handle_in_debug_mode(loop_, class, None, callback, &parsed)?;
            // The last frame noted is that of the class's own `__init__`.
            let traceback = handle.getattr(intern!(py, "_source_traceback"))?;
            if traceback.is_truthy()? {
                traceback.call_method0(intern!(py, "pop"))?;
            }
            core.schedule(Callback::from_handle(handle.clone().into()));
            return Ok(handle.into_ptr());
        }
        let scheduled = parsed.scheduled(py, callback)?;
        // SAFETY: the loop is alive.
        let handle = unsafe { handle::new_threadsafe(py, slf, scheduled)? };
        if core.event_loop.local.is_owner() {
            core.schedule(Callback::from_handle(handle.clone_ref(py)));
        } else {
            // SAFETY: the handle is new, and of this loop.
            unsafe { handle_slots::post(core, &handle) };
        }
        Ok(handle.into_ptr())
    };
    // SAFETY: called by the interpreter as the convention says.
    unsafe { enter(slf, args, count, kwnames, body) }
}

/// A deadline in seconds. One that is too large for a float never comes.
#[inline(always)]
fn deadline_of(when: &Bound<'_, PyAny>) -> PyResult<f64> {
    when.extract().or_else(|error: PyErr| {
        if error.is_instance_of::<PyOverflowError>(when.py()) && when.is_instance_of::<PyInt>() {
            return Ok(if when.gt(0)? { f64::INFINITY } else { f64::NEG_INFINITY });
        }
        Err(error)
    })
}

/// `now + delay`, as Python adds them: what a float cannot be added to is no delay.
#[inline(always)]
fn after<'py>(delay: &Bound<'py, PyAny>, now: f64) -> PyResult<Bound<'py, PyAny>> {
    let py = delay.py();
    if delay.is_exact_instance_of::<PyFloat>() || delay.is_exact_instance_of::<PyInt>() {
        return Ok(alloc::float(py, now + delay.extract::<f64>()?)?.into_any());
    }
    alloc::float(py, now)?.add(delay)
}

/// The part that `call_at` and `call_later` share.
#[inline(always)]
fn schedule_timer(
    loop_: &Bound<'_, LoopCore>,
    when: &Bound<'_, PyAny>,
    callback: *mut ffi::PyObject,
    parsed: &Parsed<'_, 2>,
) -> PyResult<*mut ffi::PyObject> {
    let py = loop_.py();
    let core = loop_.get();
    core.check_open()?;
    let deadline = deadline_of(when)?;
    if core.flags.is_debug() {
        check_in_debug_mode(loop_, callback, "call_at", true)?;
        let class = state().timer.class;
        let timer = handle_in_debug_mode(loop_, class, Some(when), callback, parsed)?;
        timer.setattr(intern!(py, "_scheduled"), true)?;
        core.schedule_at(deadline, Callback::from_handle(timer.clone().into()));
        return Ok(timer.into_ptr());
    }
    let scheduled = parsed.scheduled(py, callback)?;
    // SAFETY: the loop is alive.
    let timer = unsafe { handle::new_timer(py, loop_.as_ptr(), when.clone().into(), scheduled)? };
    core.schedule_at(deadline, Callback::from_handle(timer.clone_ref(py)));
    Ok(timer.into_ptr())
}

unsafe extern "C" fn call_at(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    let body = |loop_: &Bound<'_, LoopCore>, args: &Arguments<'_>| {
        let py = loop_.py();
        let parsed = Parsed::new(py, "call_at", ["when", "callback"], args)?;
        let [when, callback] = parsed.required;
        // SAFETY: an argument is alive during the call.
        let when = unsafe { Bound::from_borrowed_ptr(py, when) };
        if when.is_none() {
            return Err(alloc::type_error(py, "when cannot be None"));
        }
        schedule_timer(loop_, &when, callback, &parsed)
    };
    // SAFETY: called by the interpreter as the convention says.
    unsafe { enter(slf, args, count, kwnames, body) }
}

unsafe extern "C" fn call_later(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    let body = |loop_: &Bound<'_, LoopCore>, args: &Arguments<'_>| {
        let py = loop_.py();
        let parsed = Parsed::new(py, "call_later", ["delay", "callback"], args)?;
        let [delay, callback] = parsed.required;
        // SAFETY: an argument is alive during the call.
        let delay = unsafe { Bound::from_borrowed_ptr(py, delay) };
        if delay.is_none() {
            return Err(alloc::type_error(py, "delay must not be None"));
        }
        if program_clock::is_programs(loop_)? {
            let (when, timer) = program_clock::call_later(loop_, &delay, callback, &parsed)?;
            let ours = || schedule_timer(loop_, &when, callback, &parsed);
            return timer.map_or_else(ours, |timer| Ok(timer.into_ptr()));
        }
        let when = after(&delay, clock::seconds(clock::monotonic_ns()))?;
        schedule_timer(loop_, &when, callback, &parsed)
    };
    // SAFETY: called by the interpreter as the convention says.
    unsafe { enter(slf, args, count, kwnames, body) }
}

unsafe extern "C" fn time(slf: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    if clock_watch::is_replaced() {
        return raise(|py| clock_watch::time_of_base(py, slf));
    }
    // SAFETY: called attached; the result is a new reference.
    unsafe { ffi::PyFloat_FromDouble(clock::seconds(clock::monotonic_ns())) }
}

unsafe extern "C" fn get_debug(
    slf: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called attached, on a live `LoopCore`; the result is immortal.
    unsafe {
        let is_debug = this(Python::assume_attached(), &slf).get().flags.is_debug();
        if is_debug { ffi::Py_True() } else { ffi::Py_False() }
    }
}

unsafe extern "C" fn is_running(
    slf: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    raise(|py| {
        // SAFETY: the interpreter calls it with a live `LoopCore`.
        let loop_ = unsafe { this(py, &slf) };
        let running = if loop_.get().event_loop.local.is_owner() {
            eager::asked_whether_running(loop_)?;
            true
        } else {
            !loop_.getattr(intern!(py, "_thread_id"))?.is_none()
        };
        Ok(running.into_pyobject(py)?.to_owned().into_any().into_ptr())
    })
}

unsafe extern "C" fn create_future(
    slf: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called attached, on a live `LoopCore`, which keeps its keywords as long as it runs.
    unsafe { future::create(slf, this(Python::assume_attached(), &slf).get().keywords()) }
}

unsafe extern "C" fn create_task(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    let body = |loop_: &Bound<'_, LoopCore>, args: &Arguments<'_>| {
        let py = loop_.py();
        let core = loop_.get();
        core.check_open()?;
        if let &[coro] = args.positional
            && (core.flags.starts_eagerly() || !args.kwnames.is_null())
            // SAFETY: called by the interpreter as the convention says.
            && let Some(task) = unsafe { eager::create(loop_, coro, args)? }
        {
            return Ok(task);
        }
        if let &[coro] = args.positional
            && !core.flags.has_task_factory()
        {
            if kwnames.is_null() {
                return create_task::plain(loop_, coro);
            }
            return create_task::with_keywords(py, slf, coro, args);
        }
        create_task::by_dict(loop_, args)
    };
    // SAFETY: called by the interpreter as the convention says.
    unsafe { enter(slf, args, count, kwnames, body) }
}
