//! asyncio's classes and functions, and the standard library's class of sockets, as they are at import,
//! or as a program has replaced them since.
//!
//! In: the modules, at import, and changes of their dicts. Out: borrowed pointers, and references. Must
//! never: run Python afterwards.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyModule;

use super::tracked::TrackedAttribute;
use crate::py::cpython::names::intern;
use crate::py::cpython::object::Ref;

/// asyncio's.
#[derive(Debug)]
pub(crate) struct AsyncioClasses {
    /// `asyncio.futures.Future`, as it is at this moment.
    pub(crate) future: TrackedAttribute,
    /// `asyncio.tasks.Task`, as it is at this moment.
    pub(crate) task: TrackedAttribute,
    /// `asyncio.selector_events.BaseSelectorEventLoop`, as it is at import.
    pub(crate) selector_loop: Ref,
    /// `asyncio.current_task`.
    pub(crate) current_task: Ref,
    /// `asyncio._get_running_loop`.
    pub(crate) get_running_loop: Ref,
}

impl AsyncioClasses {
    pub(super) fn new(events: &Bound<'_, PyModule>) -> PyResult<Self> {
        let py = events.py();
        let asyncio = py.import(intern!(py, "asyncio"))?;
        let [futures, tasks] =
            [asyncio.getattr(intern!(py, "futures"))?, asyncio.getattr(intern!(py, "tasks"))?];
        let selector_events = py.import(intern!(py, "asyncio.selector_events"))?;
        Ok(Self {
            future: TrackedAttribute::new(&futures, intern!(py, "Future"))?,
            task: TrackedAttribute::new(&tasks, intern!(py, "Task"))?,
            selector_loop: selector_events.getattr(intern!(py, "BaseSelectorEventLoop"))?.into(),
            current_task: asyncio.getattr(intern!(py, "current_task"))?.into(),
            get_running_loop: events.getattr(intern!(py, "_get_running_loop"))?.into(),
        })
    }

    /// The attributes that are to hear of changes of their modules' dicts, which are kept.
    pub(super) fn tracked(&self) -> [&TrackedAttribute; 2] {
        [&self.task, &self.future]
    }
}

/// `socket.socket`, and its methods, as they are at import.
#[derive(Debug)]
pub(crate) struct SocketClass {
    pub(crate) class: *mut ffi::PyTypeObject,
    pub(crate) recv: Ref,
    pub(crate) recv_into: Ref,
}

impl SocketClass {
    pub(super) fn new(py: Python<'_>) -> PyResult<Self> {
        let class = py.import(intern!(py, "socket"))?.getattr(intern!(py, "socket"))?;
        Ok(Self {
            recv: class.getattr(intern!(py, "recv"))?.into(),
            recv_into: class.getattr(intern!(py, "recv_into"))?.into(),
            class: class.into_ptr().cast(),
        })
    }
}
