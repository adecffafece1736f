//! Readers and writers of a socket that the program has closed: its number may have been reused.

use std::os::fd::RawFd;

use pyo3::prelude::*;

use crate::py::cpython::attach::lock_attached;
use crate::py::cpython::names::intern;
use crate::py::event_loop::callback::Callback;
use crate::py::event_loop::core::LoopCore;
use crate::py::event_loop::hooks::hooks;
use crate::reactor::Direction;

/// Whether a transport of the loop has that number.
pub(crate) fn is_transports(py: Python<'_>, core: &LoopCore, fd: RawFd) -> bool {
    lock_attached(py, &core.event_loop.shared().sources).at(fd).is_some()
}

/// Takes out of the table what waits for an earlier descriptor of that number, before another one is put
/// there. Operations among it fail. The kernel is told of what is left by whoever puts it there.
///
/// # Errors
/// What an object's `fileno` raises that is no `Exception`.
pub(crate) fn displace(loop_: &Bound<'_, LoopCore>, fd: RawFd) -> PyResult<()> {
    let (py, core) = (loop_.py(), loop_.get());
    let (sides, source) = {
        let io = lock_attached(py, &core.event_loop.io);
        let Some(sides) = io.get(fd) else { return Ok(()) };
        let clone = |callback: Option<&Callback>| callback.map(|one| one.clone_ref(py));
        (sides.map(clone), clone(io.source(fd)))
    };
    let source_is_gone = match source.as_ref().and_then(|source| source.objects().next()) {
        Some(source) => is_gone(source.bind(py), fd)?,
        None => false,
    };
    for (direction, callback) in [Direction::Read, Direction::Write].into_iter().zip(sides) {
        let Some(callback) = callback else { continue };
        let Some(object) = callback.objects().next() else { continue };
        let holds = (hooks().holds)(object.bind(py));
        let gone = holds.map_or(source_is_gone, |holds| !holds);
        if gone {
            let taken =
                lock_attached(py, &core.event_loop.io).remove(fd, direction, |_, _, _| Ok(()));
            drop(taken);
            if holds.is_some() {
                core.schedule(callback);
            }
        }
    }
    Ok(())
}

/// Whether the object has closed its descriptor, or has another one.
fn is_gone(source: &Bound<'_, PyAny>, fd: RawFd) -> PyResult<bool> {
    let py = source.py();
    match source.call_method0(intern!(py, "fileno")) {
        Ok(number) => Ok(number.extract::<RawFd>().is_ok_and(|number| number != fd)),
        Err(error) if error.is_instance_of::<pyo3::exceptions::PyException>(py) => Ok(true),
        Err(error) => Err(error),
    }
}
