//! The figures of a loop, by name.

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::core::LoopCore;
use crate::py::cpython::alloc;
use crate::py::cpython::attach::lock_attached;
use crate::transport::Entry;

/// The counters and gauges of one loop, for `pool.stats()`. Any thread.
pub(crate) fn of_loop<'py>(core: &LoopCore, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
    let metrics = core.event_loop.metrics();
    let io = lock_attached(py, &core.event_loop.io).len();
    let (sources, read_ahead) = {
        let sources = lock_attached(py, &core.event_loop.shared().sources);
        let ahead = |entry: &Entry| entry.source.read_ahead();
        (sources.iter().count(), sources.iter().map(ahead).sum::<usize>())
    };
    let (tasks, tasks_swept) = {
        let weak_tasks = lock_attached(py, &core.tasks.weak);
        (weak_tasks.len() as u64, weak_tasks.swept())
    };
    let values = alloc::dict(py)?;
    for (name, value) in [
        ("ready", metrics.ready.get()),
        ("timers", metrics.timers.get()),
        ("descriptors", (io + sources) as u64),
        ("callbacks", core.event_loop.shared().progress.callbacks()),
        ("turns", metrics.turns.get()),
        ("polls", metrics.polls.get()),
        ("busy_ns", metrics.busy_ns.get()),
        ("idle_ns", metrics.idle_ns.get()),
        ("jobs", metrics.jobs.get()),
        ("stolen_from", metrics.jobs_helped.get()),
        ("stolen_by", metrics.stolen_by.get()),
        ("handoffs", metrics.handoffs.get()),
        ("wakes", metrics.wakes.get()),
        ("spawned", metrics.begun.get()),
        ("spawned_stolen", metrics.spawned_stolen.get()),
        ("bytes_in", metrics.bytes_in.get() + metrics.bytes_in_helped.get()),
        ("bytes_out", metrics.bytes_out.get() + metrics.bytes_out_helped.get()),
        ("transports", metrics.transports.get()),
        ("read_ahead", read_ahead as u64),
        ("tasks", tasks),
        ("tasks_swept", tasks_swept),
    ] {
        values.set_item(alloc::text(py, name)?, alloc::int(py, value)?)?;
    }
    Ok(values)
}
