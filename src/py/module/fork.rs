//! Disconnects a forked child from the loops of its parent, without any effect on the parent. Both share
//! the sockets, and one epoll instance per loop.

use pyo3::prelude::*;

use crate::py::cpython::error::os_error;
use crate::py::event_loop::callback::Callback;
use crate::py::event_loop::core::LoopCore;

/// Leaves a loop's reactor, its transports and listeners to the parent process. With `renew` the loop
/// gets a reactor of its own and may run. Called in the child's only thread, before anything else.
///
/// # Errors
/// `OSError`: the process is out of descriptors, and the loop cannot be used.
#[pyfunction]
#[pyo3(name = "_after_fork_in_child", signature = (loop_, renew, /))]
pub(crate) fn after_fork(loop_: &Bound<'_, LoopCore>, renew: bool) -> PyResult<()> {
    let (py, event_loop) = (loop_.py(), &loop_.get().event_loop);
    let shared = event_loop.shared();
    let renewed = shared.after_fork(renew);
    // A lock that is held is held by a thread that is not here.
    let callbacks = event_loop.io.try_lock().map(|mut io| std::mem::take(&mut *io));
    if let Some(sources) = shared.sources.try_lock() {
        for entry in sources.iter() {
            entry.source.after_fork();
        }
    }
    drop(shared.drain_completions());
    drop(callbacks.map(|table| table.into_callbacks().collect::<Vec<Callback>>()));
    renewed.map_err(|error| os_error(py, &error))
}
