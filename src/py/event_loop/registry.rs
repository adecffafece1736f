//! The tasks of every loop, for any thread to see: how the run loop shows them, and how they are
//! asked for. The protocol is [`Current`](crate::event_loop::Current)'s, the table
//! [`Registry`]'s.

use std::ptr;
use std::sync::OnceLock;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyWeakrefReference;

use super::callback::Callback;
use super::core::{LoopCore, OwnerClaim};
use crate::config;
use crate::event_loop::LeaveOutcome;
use crate::pool::Registry;
use crate::py::asyncio::state::state;
use crate::py::cpython::alloc;
use crate::py::cpython::attach::lock_attached;
use crate::py::cpython::names::intern;
use crate::py::cpython::object::Ref;
use crate::py::cpython::returned::Returned;
use crate::sync::yield_now;
use crate::sys::clock;

/// A weak reference to a task, without a callback.
#[derive(Debug)]
struct Weak(Ref);

// SAFETY: references may be counted from any attached thread; whoever drops one is attached.
unsafe impl Send for Weak {}
// SAFETY: as above; looking whether it is dead is safe from any thread.
unsafe impl Sync for Weak {}

unsafe extern "C" {
    // Public C API since 3.14; pyo3 does not bind it.
    fn PyWeakref_IsDead(reference: *mut ffi::PyObject) -> std::ffi::c_int;
}

impl Weak {
    fn new(task: &Bound<'_, PyAny>) -> PyResult<Self> {
        Ok(Self(PyWeakrefReference::new(task)?.into_any().into()))
    }

    fn is_dead(&self) -> bool {
        // SAFETY: it is a weak reference, and the thread is attached.
        unsafe { PyWeakref_IsDead(self.0.as_ptr()) != 0 }
    }

    /// The task, unless it is being destroyed.
    fn get(&self) -> Option<Ref> {
        let mut object = std::ptr::null_mut();
        // SAFETY: it is a weak reference, and the thread is attached; the result is a new reference.
        unsafe {
            ffi::compat::PyWeakref_GetRef(self.0.as_ptr(), &raw mut object);
            std::ptr::NonNull::new(object).map(|object| Ref::from_owned(object))
        }
    }
}

fn registry() -> &'static Registry<Weak> {
    static REGISTRY: OnceLock<Registry<Weak>> = OnceLock::new();
    REGISTRY.get_or_init(Registry::default)
}

/// Adds a task to the table. Any thread.
///
/// # Errors
/// `TypeError` if nothing can refer to it weakly; `MemoryError`.
#[cold]
pub(crate) fn add(
    core: &LoopCore,
    task: &Bound<'_, PyAny>,
    created_ns: u64,
    foreign: bool,
) -> PyResult<()> {
    let weak = Weak::new(task)?;
    let (owner, address) = (core.tasks.owner_key, task.as_ptr() as usize);
    let (replaced, swept) = {
        let mut weak_tasks = lock_attached(task.py(), &core.tasks.weak);
        let replaced = registry().add(owner, address, weak, created_ns, foreign, &mut weak_tasks);
        // Two for one, or dead ones would pile up behind the living.
        let mut swept = || registry().sweep_one(owner, &mut weak_tasks, Weak::is_dead);
        (replaced, [swept(), swept()])
    };
    drop((replaced, swept));
    Ok(())
}

/// Looks for dead tasks before the loop sleeps; whether there are more to look at, which wait for
/// another turn. It drops weak references: no Python runs, so nothing becomes ready meanwhile.
pub(crate) fn sweep(py: Python<'_>, core: &LoopCore) -> bool {
    let callbacks = core.event_loop.shared().progress.callbacks();
    let (swept, more) = {
        let mut weak_tasks = lock_attached(py, &core.tasks.weak);
        let count = weak_tasks.due(callbacks, config::SWEEP_PER_TURN);
        let swept = registry().sweep(core.tasks.owner_key, &mut weak_tasks, count, Weak::is_dead);
        (swept, weak_tasks.has_due())
    };
    drop(swept);
    more
}

/// Forgets the tasks of a loop that is closed.
pub(crate) fn forget(py: Python<'_>, core: &LoopCore) {
    let gone = registry().forget(core.tasks.owner_key, &mut lock_attached(py, &core.tasks.weak));
    drop(gone);
}

// -- the run loop ------------------------------------------------------------------------------------

/// Shows a C task that has just asked for its first step; whether its entry is to say so. Called with
/// the callback of any step: a task that goes on after a bare yield is the one that is running.
#[inline(always)]
pub(crate) fn note_step(core: &LoopCore, step: *mut ffi::PyObject) -> bool {
    // SAFETY: the caller has checked that it is a task's step.
    let task = unsafe { state().task.of_step(step) };
    let current = &core.event_loop.shared().current;
    if core.event_loop.local.is_owner() && task as usize != current.running() {
        if current.add_young(task as usize, core.now_ns()) {
            return true;
        }
        note_without_room(core, task);
    } else if !core.event_loop.local.is_owner() {
        note_without_room(core, task);
    }
    false
}

/// As [`note_step`] where entries are handles, in debug mode.
pub(crate) fn note_step_in_debug_mode(core: &LoopCore, callback: *mut ffi::PyObject) {
    if state().task.is_step(callback) {
        // SAFETY: just checked.
        let task = unsafe { state().task.of_step(callback) };
        if task as usize != core.event_loop.shared().current.running() {
            note_without_room(core, task);
        }
    }
}

/// Adds a task to the table at once: it is made on another thread, or very many wait to begin.
#[cold]
fn note_without_room(core: &LoopCore, task: *mut ffi::PyObject) {
    // SAFETY: the step holds the task, and a C method is called attached.
    let task = unsafe { Bound::from_borrowed_ptr(Python::assume_attached(), task) };
    if let Err(error) = add(core, &task, clock::monotonic_ns(), false) {
        error.write_unraisable(task.py(), Some(&task));
    }
}

/// Goes on with a task whose first step has run: it is shown no more, and unless it has ended, it is
/// in the table from now on.
#[inline(always)]
pub(crate) fn begun(py: Python<'_>, core: &LoopCore, task: *mut ffi::PyObject) {
    let current = &core.event_loop.shared().current;
    // SAFETY: the step holds the task.
    let task = unsafe { Bound::from_borrowed_ptr(py, task) };
    current.remove_young(task.as_ptr() as usize, |created_ns| {
        // SAFETY: a live C task.
        if !unsafe { state().task.is_done(task.as_ptr()) }
            && let Err(error) = add(core, &task, created_ns, false)
        {
            error.write_unraisable(py, Some(&task));
        }
    });
}

/// Adds a task to the table that is running, or suspended in its first step.
#[cold]
pub(crate) fn note_now(core: &LoopCore, task: &Bound<'_, PyAny>) {
    if let Err(error) = add(core, task, clock::monotonic_ns(), false) {
        error.write_unraisable(task.py(), Some(task));
    }
}

/// As [`note_now`], of what the program's task factory has made: of one that starts tasks at once.
/// A task that waits for its first step has its entry already.
pub(crate) fn note_suspended(loop_: &Bound<'_, LoopCore>, task: &Bound<'_, PyAny>) {
    let (core, state) = (loop_.get(), state());
    if core.event_loop.local.is_owner()
        && state.task.is_instance(task)
        && !core.event_loop.shared().current.is_last_young(task.as_ptr() as usize)
        // SAFETY: a live C task, as just checked.
        && !unsafe { state.task.is_done(task.as_ptr()) }
        && task.call_method0(intern!(task.py(), "get_loop")).is_ok_and(|its| its.is(loop_))
    {
        note_now(core, task);
    }
}

/// The task that asyncio takes for the loop's current one. On the loop's thread.
///
/// # Errors
/// `MemoryError`.
pub(crate) fn current_here<'py>(
    loop_: &Bound<'py, LoopCore>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let current = state().classes.current_task.as_py().bind(loop_.py()).call1((loop_,))?;
    Ok((!current.is_none()).then_some(current))
}

/// The C task whose step or wakeup a callback is.
pub(crate) fn task_of<'py>(callback: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    let (state, callback) = (state(), callback.as_ptr());
    // SAFETY: the kinds are checked, and with them the layouts; the callback holds its task.
    unsafe {
        let task = if state.task.is_step(callback) {
            state.task.of_step(callback)
        } else if state.task.is_wakeup(callback) {
            (*callback.cast::<ffi::PyCFunctionObject>()).m_self
        } else {
            return None;
        };
        Some(Bound::from_borrowed_ptr(Python::assume_attached(), task))
    }
}

/// Shows a task as the loop's current one during `f`. On the loop's thread.
///
/// # Errors
/// Those of `f`.
pub(crate) fn show<R>(
    loop_: &Bound<'_, LoopCore>,
    task: Bound<'_, PyAny>,
    f: impl FnOnce() -> PyResult<R>,
) -> PyResult<R> {
    let core = loop_.get();
    let step = core.event_loop.shared().current.enter(task.as_ptr() as usize);
    let result = f();
    if step.leave() == LeaveOutcome::PutAside {
        put_aside(core, Callback::from_handle(task.into()));
    }
    result
}

/// Drops all that was put aside, as the run ends: there may be no further turn.
pub(crate) fn drop_all_aside(core: &LoopCore, claim: &OwnerClaim<'_>) {
    // SAFETY: runs no Python.
    while unsafe { claim.local(|local| !local.aside.is_empty()) } {
        drop_aside(core, claim);
        // A reader is a few instructions long, and waits for nobody.
        yield_now();
    }
}

/// Drops what was put aside while somebody was reading.
#[inline(always)]
pub(crate) fn drop_aside(core: &LoopCore, claim: &OwnerClaim<'_>) {
    // SAFETY: runs no Python; they are dropped outside.
    let aside = unsafe {
        claim.local(|local| {
            if local.aside.is_empty() || !core.event_loop.shared().current.is_unread() {
                return Vec::new();
            }
            std::mem::take(&mut local.aside)
        })
    };
    drop(aside);
}

/// Keeps an entry whose task somebody may be reading. On the loop's thread, which shows tasks.
#[cold]
pub(crate) fn put_aside(core: &LoopCore, entry: Callback) {
    // SAFETY: pushing runs no Python.
    let refused =
        unsafe { core.event_loop.local.give_owner(entry, |local, entry| local.aside.push(entry)) };
    debug_assert!(refused.is_ok(), "another thread has shown a task");
    // It is never dropped while somebody reads.
    std::mem::forget(refused);
}

// -- what is asked for --------------------------------------------------------------------------------

/// A reference to the object at an address.
///
/// # Safety
/// It is alive, and the thread attached.
unsafe fn taken(address: usize) -> Option<Ref> {
    // SAFETY: by our caller's word.
    (address != 0).then(|| unsafe { Ref::from_borrowed(address as *mut ffi::PyObject) })
}

/// Has the loop that runs in another thread keep its tasks for as long as a look at them takes.
fn lend<'a>(loop_: &Bound<'_, LoopCore>, tasks: impl Iterator<Item = &'a Ref>) {
    let core = loop_.get();
    if !core.event_loop.local.is_owner() && core.event_loop.shared().is_running() {
        core.tasks.borrowed.add(loop_.py(), tasks);
    }
}

/// The task that a loop is running, or None. Any thread.
#[pyfunction]
#[pyo3(name = "_current_task", signature = (loop_, /))]
pub(crate) fn current_task(loop_: &Bound<'_, LoopCore>) -> Option<Py<PyAny>> {
    let current = &loop_.get().event_loop.shared().current;
    // SAFETY: what is shown is alive while we read.
    let task = current.read(|shown| unsafe { taken(shown.running()) })?;
    lend(loop_, std::iter::once(&task));
    Some(task.as_py().clone_ref(loop_.py()))
}

/// What `tasks` says of each.
type Listed = (Py<PyAny>, u64, bool);

/// The tasks of a loop as (task, nanoseconds of the clock when it was made, whether it registered
/// itself); some may be done, and one may be there twice. Any thread.
///
/// # Errors
/// `MemoryError`.
#[pyfunction]
#[pyo3(name = "_tasks", signature = (loop_, /))]
pub(crate) fn tasks(loop_: &Bound<'_, LoopCore>) -> PyResult<Returned<Vec<Listed>>> {
    let (py, core) = (loop_.py(), loop_.get());
    let mut all = Vec::new();
    // The young ones first: one that is suspended meanwhile is in the table before it is shown no
    // more.
    core.event_loop.shared().current.read(|shown| {
        all.extend(shown.young().filter_map(|(task, created_ns)| {
            // SAFETY: what is shown is alive while we read.
            unsafe { taken(task) }.map(|task| (task, created_ns, false))
        }));
    });
    registry().each(core.tasks.owner_key, |entry| {
        if let Some(task) = entry.reference.get() {
            all.push((task, entry.created_ns, entry.foreign));
        }
    });
    let running = core.event_loop.shared().current.read(|shown| {
        // SAFETY: as above.
        unsafe { taken(shown.running()) }
    });
    let here = if core.event_loop.local.is_owner() { current_here(loop_)? } else { None };
    for task in [running, here.map(Ref::from)].into_iter().flatten() {
        if !all.iter().any(|(known, _, _)| ptr::eq(known.as_ptr(), task.as_ptr())) {
            all.push((task, core.now_ns(), false));
        }
    }
    lend(loop_, all.iter().map(|(task, _, _)| task));
    let all = all.into_iter();
    let object = |(task, created_ns, foreign): (Ref, _, _)| {
        (task.as_py().clone_ref(py), created_ns, foreign)
    };
    Ok(Returned(all.map(object).collect()))
}

/// Adds a task that keeps itself visible. Any thread.
#[pyfunction]
#[pyo3(name = "_register", signature = (loop_, task, /))]
pub(crate) fn register(loop_: &Bound<'_, LoopCore>, task: &Bound<'_, PyAny>) -> PyResult<()> {
    add(loop_.get(), task, clock::monotonic_ns(), true)
}

/// Takes a task out that is about to end. Any thread.
#[pyfunction]
#[pyo3(name = "_unregister", signature = (loop_, task, /))]
pub(crate) fn unregister(loop_: &Bound<'_, LoopCore>, task: &Bound<'_, PyAny>) {
    drop(registry().remove(loop_.get().tasks.owner_key, task.as_ptr() as usize));
}

/// Shows a task as the current one that asyncio has entered, of a loop that runs in this thread.
///
/// # Errors
/// `RuntimeError` if another thread runs the loop.
#[pyfunction]
#[pyo3(name = "_enter", signature = (loop_, task, /))]
pub(crate) fn enter(loop_: &Bound<'_, LoopCore>, task: &Bound<'_, PyAny>) -> PyResult<()> {
    let core = loop_.get();
    check_owner(loop_)?;
    // Whoever entered it leaves it: the asyncio function that undoes this comes to `leave`.
    let before = core.event_loop.shared().current.enter(task.as_ptr() as usize).keep_on();
    let entered = (before, task.clone().into());
    // SAFETY: pushing runs no Python. We are the owner, as just checked.
    let _ = unsafe {
        core.event_loop.local.give_owner(entered, |local, entered| {
            local.extension.entered.push(entered);
        })
    };
    Ok(())
}

/// Undoes [`enter`], when asyncio has left the task. Nothing if it was not entered.
///
/// # Errors
/// `RuntimeError` if another thread runs the loop.
#[pyfunction]
#[pyo3(name = "_leave", signature = (loop_, task, /))]
pub(crate) fn leave(loop_: &Bound<'_, LoopCore>, task: &Bound<'_, PyAny>) -> PyResult<()> {
    let core = loop_.get();
    check_owner(loop_)?;
    let current = &core.event_loop.shared().current;
    // SAFETY: runs no Python.
    let entered = unsafe {
        core.event_loop.local.if_owner(|local| {
            let all = &mut local.extension.entered;
            let place =
                all.iter().rposition(|(_, known)| ptr::eq(known.as_ptr(), task.as_ptr()))?;
            Some(all.remove(place))
        })
    };
    let Some((before, task)) = entered.flatten() else { return Ok(()) };
    // As long as this one is shown, the step has not ended in which it was entered, and what was
    // shown before is alive.
    let unread = if current.running() == task.as_ptr() as usize {
        current.leave(before) == LeaveOutcome::Drop
    } else {
        current.is_unread()
    };
    if !unread {
        put_aside(core, Callback::from_handle(task));
    }
    Ok(())
}

fn check_owner(loop_: &Bound<'_, LoopCore>) -> PyResult<()> {
    if loop_.get().event_loop.local.is_owner() {
        return Ok(());
    }
    let text = format!("{} is not run by this thread", loop_.repr()?);
    Err(alloc::runtime_error(loop_.py(), text))
}
