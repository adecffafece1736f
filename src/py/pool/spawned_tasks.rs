//! The tasks of `spawn` that a loop keeps until they end, and that are told when the loop ends.

use pyo3::prelude::*;

use super::pool_task::PoolTaskCore;
use crate::pool::Admission;
use crate::py::cpython::alloc;
use crate::py::cpython::attach::lock_attached;
use crate::py::cpython::names::intern;
use crate::py::cpython::object::Ref;
use crate::py::event_loop::core::LoopCore;

/// Adds a task to those of a loop. `lingers`: it counts there for a while when it has ended.
pub(crate) fn enter(
    loop_: &Bound<'_, LoopCore>,
    task: &Bound<'_, PoolTaskCore>,
    closing: bool,
    lingers: bool,
) -> PyResult<()> {
    let py = loop_.py();
    let entry = Ref::from(task.clone().into_any());
    let (added, admission) = {
        let mut tasks = lock_attached(py, &loop_.get().tasks.spawned);
        let added = tasks.add(entry, closing);
        loop_.get().event_loop.shared().load.spawned.set(tasks.len());
        (added, tasks.admission())
    };
    let Ok(place) = added else {
        let name = loop_.call_method0(intern!(py, "_name"))?;
        return Err(alloc::runtime_error(
            py,
            match admission {
                Admission::Closed => format!("{name} has ended"),
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

/// Takes a task that has ended from those of its loop. Any thread.
pub(crate) fn leave(
    py: Python<'_>,
    core: &LoopCore,
    place: usize,
    lingers: bool,
    task: &Bound<'_, PoolTaskCore>,
) {
    let left = {
        let mut tasks = lock_attached(py, &core.tasks.spawned);
        let left = tasks.remove(place, |known| std::ptr::eq(known.as_ptr(), task.as_ptr()));
        let load = &core.event_loop.shared().load;
        load.spawned.set(tasks.len());
        if lingers {
            load.ended.add(1);
        }
        left
    };
    drop(left);
}

/// Lets no further task in but those of the shutdown. Any thread.
pub(crate) fn refuse(py: Python<'_>, core: &LoopCore) {
    lock_attached(py, &core.tasks.spawned).begin_closing();
}

/// Lets nobody in any more, and returns those that have not ended.
pub(crate) fn shut(py: Python<'_>, core: &LoopCore) -> Vec<Py<PyAny>> {
    let left = {
        let mut tasks = lock_attached(py, &core.tasks.spawned);
        core.event_loop.shared().load.spawned.set(0);
        tasks.close()
    };
    left.iter().map(|task| task.as_py().clone_ref(py)).collect()
}

/// The `asyncio` tasks among a loop's tasks. Any thread.
pub(crate) fn running(py: Python<'_>, core: &LoopCore) -> Vec<Py<PyAny>> {
    let tasks: Vec<Ref> = {
        let tasks = lock_attached(py, &core.tasks.spawned);
        tasks.iter().map(|task| task.clone_ref(py)).collect()
    };
    tasks
        .iter()
        .filter_map(|task| {
            // SAFETY: nothing else was added.
            let task = unsafe { task.as_py().bind(py).cast_unchecked::<PoolTaskCore>() };
            let parts = lock_attached(py, &task.get().parts);
            parts.state.task().map(|task| task.as_py().clone_ref(py))
        })
        .collect()
}
