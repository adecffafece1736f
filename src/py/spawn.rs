//! `spawn`: coroutines that begin on a loop of the pool.
//!
//! Each loop has a [`Book`] of the tasks that were given to it and have not ended: it keeps them
//! alive, and when the loop ends, whoever awaits one is told. The book's lock is also the door: what
//! was let in before it shut is seen by the shutdown that follows.

use pyo3::Borrowed;
use pyo3::ffi;
use pyo3::prelude::*;

use super::alloc;
use super::callback::Callback;
use super::core::LoopCore;
use super::io::{copy_context, lock_attached};
use super::names::intern;
use super::native;
use super::object::Ref;
use super::pool_task::{self, PoolTaskCore};
use super::pool_task_cancel;
use super::pool_task_run;
use crate::pool::Errand;

/// Who is let in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Door {
    /// Every task.
    #[default]
    Open,
    /// Those of the shutdown itself.
    Refuses,
    /// Nobody: the loop has ended.
    Shut,
}

/// The tasks of one loop that have not ended.
#[derive(Default)]
pub(super) struct Book {
    door: Door,
    tasks: Vec<Option<Ref>>,
    free: Vec<usize>,
}

impl Book {
    fn enter(&mut self, task: Ref) -> usize {
        if let Some(place) = self.free.pop() {
            self.tasks[place] = Some(task);
            return place;
        }
        self.tasks.push(Some(task));
        self.tasks.len() - 1
    }

    /// Takes `task` out of its place; `None` if it is not there any more.
    fn leave(&mut self, place: usize, task: *mut ffi::PyObject) -> Option<Ref> {
        let entry = self.tasks.get_mut(place)?;
        if !std::ptr::eq(entry.as_ref()?.as_ptr(), task) {
            return None;
        }
        self.free.push(place);
        entry.take()
    }

    /// The tasks, in no order.
    pub(super) fn tasks(&self) -> impl Iterator<Item = &Ref> {
        self.tasks.iter().flatten()
    }

    /// How many there are.
    fn len(&self) -> u64 {
        (self.tasks.len() - self.free.len()) as u64
    }

    fn take_all(&mut self) -> Vec<Ref> {
        self.free.clear();
        self.tasks.drain(..).flatten().collect()
    }
}

/// Gives `coro` to a loop, which begins it in its own thread. Any thread. `closing`: it is the
/// shutdown's own, which a loop takes on to its end, and which no task factory changes.
///
/// # Errors
/// `RuntimeError` if the loop accepts no new work; `TypeError` for what is no coroutine. The
/// coroutine is left as it is.
#[pyfunction]
#[pyo3(name = "_spawn_on", signature = (loop_, coro, name, context, closing, /))]
pub(super) fn spawn_on<'py>(
    loop_: &Bound<'py, LoopCore>,
    coro: &Bound<'py, PyAny>,
    name: Option<Bound<'py, PyAny>>,
    context: Option<Bound<'py, PyAny>>,
    closing: bool,
) -> PyResult<Bound<'py, PoolTaskCore>> {
    let task = new_task(coro, name, context)?;
    lock_attached(coro.py(), &task.get().parts).own = closing;
    enter(loop_, &task, closing, false)?;
    loop_.get().schedule(Callback::from_native(task.clone().into_any().into()));
    Ok(task)
}

/// Leaves `coro` to the loop of the pool that has the least to do. `None`: no loop of an open pool runs
/// in this thread, or it cannot do it now.
///
/// # Errors
/// `TypeError` for what is no coroutine. It is left as it is.
#[pyfunction]
#[pyo3(name = "_spawn", signature = (coro, name, context, /))]
pub(super) fn spawn<'py>(
    coro: &Bound<'py, PyAny>,
    name: Option<Bound<'py, PyAny>>,
    context: Option<Bound<'py, PyAny>>,
) -> PyResult<Option<Bound<'py, PoolTaskCore>>> {
    let py = coro.py();
    let Some(running) = pool_task::running_loop(py)? else { return Ok(None) };
    let Ok(loop_) = running.cast::<LoopCore>() else { return Ok(None) };
    let owner = loop_.get();
    if !owner.event_loop.local.is_owner() {
        return Ok(None);
    }
    let task = new_task(coro, name, context)?;
    // What the task's making ran may have closed the door. From here on no Python runs.
    if lock_attached(py, &owner.book).door != Door::Open {
        give_back(&task);
        return Ok(None);
    }
    let errand = Errand::new(task.clone().into_ptr() as usize);
    // SAFETY: we own the loop; no Python runs.
    let left = unsafe {
        owner.hand.with(|hand| match hand {
            Some(hand) => Ok(hand.leave_to_all(errand)),
            None => Err(errand),
        })
    };
    match left {
        Ok(refused) => {
            cancel(py, refused);
            Ok(Some(task))
        }
        Err(errand) => {
            drop(task_of(py, errand));
            give_back(&task);
            Ok(None)
        }
    }
}

/// Gives the coroutine back that a task was made of.
fn give_back(task: &Bound<'_, PoolTaskCore>) {
    let coro = lock_attached(task.py(), &task.get().parts).coro.take();
    drop(coro);
}

/// The task that an errand is.
fn task_of(py: Python<'_>, errand: Errand) -> Bound<'_, PoolTaskCore> {
    // SAFETY: the reference that `spawn` gave away.
    unsafe {
        Bound::from_owned_ptr(py, errand.into_reference() as *mut ffi::PyObject)
            .cast_into_unchecked()
    }
}

/// Whether somebody has awaited the task that an errand is. Runs no Python.
pub(super) fn is_awaited(py: Python<'_>, errand: &Errand) -> bool {
    // SAFETY: the reference that `spawn` gave away, which the errand keeps.
    unsafe {
        Borrowed::from_ptr(py, errand.reference() as *mut ffi::PyObject)
            .cast_unchecked::<PoolTaskCore>()
            .get()
            .is_awaited()
    }
}

/// Begins a coroutine that was left to all, on the loop that got to it. While the loop takes on
/// nothing more, it is cancelled.
///
/// # Errors
/// `SystemExit` and `KeyboardInterrupt` of a task that starts at once.
pub(super) fn begin(loop_: &Bound<'_, LoopCore>, errand: Errand) -> PyResult<()> {
    let task = task_of(loop_.py(), errand);
    // One that is awaited already was not made for others to begin meanwhile.
    let lingers = !task.get().is_awaited();
    if enter(loop_, &task, false, lingers).is_err() {
        cancel_unbegun(&task);
        return Ok(());
    }
    pool_task_run::begin(loop_, &task).or_else(|error| native::report(loop_, &task, error))
}

/// Cancels what was left to all and waits on this loop. On its thread.
pub(super) fn cancel_errands(py: Python<'_>, core: &LoopCore) {
    if !core.event_loop.local.is_owner() {
        return;
    }
    // SAFETY: we own the loop; no Python runs.
    let errands = unsafe {
        core.hand.with(|hand| hand.as_mut().map_or_else(Vec::new, |hand| hand.take_errands()))
    };
    cancel(py, errands);
}

/// Cancels coroutines that have not begun.
pub(super) fn cancel(py: Python<'_>, errands: Vec<Errand>) {
    for errand in errands {
        cancel_unbegun(&task_of(py, errand));
    }
}

fn cancel_unbegun(task: &Bound<'_, PoolTaskCore>) {
    let py = task.py();
    let coro = lock_attached(py, &task.get().parts).coro.take();
    if let Some(coro) = coro
        && let Err(error) =
            pool_task_cancel::end_unbegun(task, &coro, &py.None().into_bound(py).into())
    {
        error.write_unraisable(py, Some(task.as_any()));
    }
}

/// Makes a task of a coroutine.
fn new_task<'py>(
    coro: &Bound<'py, PyAny>,
    name: Option<Bound<'py, PyAny>>,
    context: Option<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PoolTaskCore>> {
    let py = coro.py();
    check_coroutine(coro)?;
    let name = match name {
        Some(name) => Some(name.str()?.into_any().into()),
        None => None,
    };
    let context = match context {
        Some(context) => context.into(),
        None => copy_context(py)?,
    };
    pool_task::make(py, coro.clone().into(), name, context)
}

fn check_coroutine(coro: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = coro.py();
    // SAFETY: a live object.
    if unsafe { ffi::PyCoro_CheckExact(coro.as_ptr()) } != 0 {
        return Ok(());
    }
    let asyncio = py.import(intern!(py, "asyncio"))?;
    if asyncio.call_method1(intern!(py, "iscoroutine"), (coro,))?.is_truthy()? {
        return Ok(());
    }
    Err(alloc::type_error(py, format!("a coroutine was expected, got {coro:?}")))
}

/// Writes a task into a loop's book. `lingers`: it counts there for a while when it has ended.
fn enter(
    loop_: &Bound<'_, LoopCore>,
    task: &Bound<'_, PoolTaskCore>,
    closing: bool,
    lingers: bool,
) -> PyResult<()> {
    let py = loop_.py();
    let entry = Ref::from(task.clone().into_any());
    let mut entry = Some(entry);
    let (door, place) = {
        let mut book = lock_attached(py, &loop_.get().book);
        let allowed = if closing { Door::Refuses } else { Door::Open };
        let place =
            if book.door <= allowed { entry.take().map(|entry| book.enter(entry)) } else { None };
        loop_.get().event_loop.shared().load.spawned.set(book.len());
        (book.door, place)
    };
    let Some(place) = place else {
        let name = loop_.call_method0(intern!(py, "_name"))?;
        return Err(alloc::runtime_error(
            py,
            match door {
                Door::Shut => format!("{name} has ended"),
                _ => format!("{name} accepts no new work: the pool is closing"),
            },
        ));
    };
    let mut parts = lock_attached(py, &task.get().parts);
    parts.loop_ = Some(loop_.clone().unbind());
    parts.place = place;
    parts.lingers = lingers;
    drop(parts);
    Ok(())
}

/// Takes a task that has ended out of its loop's book. Any thread.
pub(super) fn leave(
    py: Python<'_>,
    core: &LoopCore,
    place: usize,
    lingers: bool,
    task: &Bound<'_, PoolTaskCore>,
) {
    let left = {
        let mut book = lock_attached(py, &core.book);
        let left = book.leave(place, task.as_ptr());
        let load = &core.event_loop.shared().load;
        load.spawned.set(book.len());
        if lingers {
            load.ended.add(1);
        }
        left
    };
    drop(left);
}

/// Lets no further task in but those of the shutdown. Any thread.
pub(super) fn refuse(py: Python<'_>, core: &LoopCore) {
    let mut book = lock_attached(py, &core.book);
    book.door = book.door.max(Door::Refuses);
}

/// Lets nobody in any more, and returns those that have not ended.
pub(super) fn shut(py: Python<'_>, core: &LoopCore) -> Vec<Py<PyAny>> {
    let left = {
        let mut book = lock_attached(py, &core.book);
        book.door = Door::Shut;
        core.event_loop.shared().load.spawned.set(0);
        book.take_all()
    };
    left.iter().map(|task| task.as_py().clone_ref(py)).collect()
}

/// The `asyncio` tasks among a loop's tasks. Any thread.
pub(super) fn running(py: Python<'_>, core: &LoopCore) -> Vec<Py<PyAny>> {
    let tasks: Vec<Ref> = {
        let book = lock_attached(py, &core.book);
        book.tasks().map(|task| task.clone_ref(py)).collect()
    };
    tasks
        .iter()
        .filter_map(|task| {
            // SAFETY: the book holds nothing else.
            let task = unsafe { task.as_py().bind(py).cast_unchecked::<PoolTaskCore>() };
            let parts = lock_attached(py, &task.get().parts);
            parts.task.as_ref().map(|task| task.as_py().clone_ref(py))
        })
        .collect()
}
