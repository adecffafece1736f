//! Everything that is looked up once, at import. Each group of facts is in the file that knows it.
//!
//! In: asyncio, as it is then. Out: [`state()`], which lives as long as the process. Must never: run
//! Python afterwards.

use std::ffi::c_int;
use std::sync::OnceLock;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};

use super::classes::{AsyncioClasses, SocketClass};
use super::handle_layout::{
    self, HandleFacts, NativeHandle, SoonFacts, ThreadsafeFacts, TimerFacts,
};
use super::keywords::Keywords;
use super::task_callbacks::TaskCallbacks;
use crate::py::cpython::alloc;
use crate::py::cpython::context::ContextFacts;
use crate::py::cpython::dict_watcher::DictWatcher;
use crate::py::cpython::names::intern;
use crate::py::cpython::object::{Ref, make_immortal};

/// The native classes, which the rooms above make.
pub(crate) struct NativeTypes<'py> {
    pub(crate) loop_type: Bound<'py, PyType>,
    pub(crate) soon: NativeHandle<'py>,
    pub(crate) timer: NativeHandle<'py>,
    pub(crate) threadsafe: NativeHandle<'py>,
}

/// Everything looked up at import; it lives as long as the process.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) handle: HandleFacts,
    pub(crate) soon: SoonFacts,
    pub(crate) timer: TimerFacts,
    pub(crate) threadsafe: ThreadsafeFacts,
    pub(crate) loop_type: *mut ffi::PyTypeObject,
    pub(crate) classes: AsyncioClasses,
    pub(crate) socket: SocketClass,
    pub(crate) keywords: Keywords,
    pub(crate) empty_tuple: Ref,
    /// `None`: contexts cannot be compared.
    pub(crate) context: Option<ContextFacts>,
    /// The callbacks of the C task, once they have been recognised.
    pub(crate) task: TaskCallbacks,
}

// SAFETY: the pointers are to types that are never freed; references are only read.
unsafe impl Send for State {}
// SAFETY: as above.
unsafe impl Sync for State {}

static STATE: OnceLock<State> = OnceLock::new();

/// What was looked up at import.
#[inline(always)]
pub(crate) fn state() -> &'static State {
    debug_assert!(STATE.get().is_some());
    // SAFETY: `initialise` ran before any class of this module could be used.
    unsafe { STATE.get().unwrap_unchecked() }
}

impl State {
    /// Whether tasks are made by the class whose callbacks were recognised.
    pub(crate) fn knows_task_class(&self) -> bool {
        std::ptr::eq(self.classes.task.get().cast(), self.task.class())
    }
}

/// Stops counting references to `objects`, which live as long as the process and which every loop
/// uses; returns how many of them are not counted now. Call it from the thread that made them.
#[pyfunction]
#[pyo3(name = "_stop_counting", signature = (*objects))]
pub(crate) fn stop_counting(objects: &Bound<'_, PyTuple>) -> usize {
    // SAFETY: the tuple holds the objects.
    objects.iter_borrowed().filter(|object| unsafe { make_immortal(object.as_ptr()) }).count()
}

/// Looks everything up. Runs once, at import.
pub(crate) fn initialise(py: Python<'_>, types: NativeTypes<'_>) -> PyResult<()> {
    if STATE.get().is_some() {
        return Ok(());
    }
    let NativeTypes { loop_type, soon, timer, threadsafe } = types;
    let events = py.import(intern!(py, "asyncio.events"))?;
    let (handle, soon, timer, threadsafe) = handle_layout::learn(&events, soon, timer, threadsafe)?;
    let state = State {
        handle,
        soon,
        timer,
        threadsafe,
        loop_type: loop_type.into_ptr().cast(),
        classes: AsyncioClasses::new(&events)?,
        socket: SocketClass::new(py)?,
        keywords: Keywords::new(py)?,
        empty_tuple: PyTuple::empty(py).into_any().into(),
        context: ContextFacts::learn(py),
        task: TaskCallbacks::default(),
    };
    let dicts = state.classes.tracked().map(|attribute| attribute.module);
    STATE
        .set(state)
        .map_err(|_| alloc::runtime_error(py, "loop_pool._core is being imported twice"))?;
    let watcher = DictWatcher::new(py, dict_changes)?;
    // SAFETY: the dicts of modules, which are kept.
    dicts.into_iter().try_for_each(|dict| unsafe { watcher.watch(py, dict) })
}

/// Called before a watched dict changes, with what will stand there.
unsafe extern "C" fn dict_changes(
    _event: c_int,
    dict: *mut ffi::PyObject,
    key: *mut ffi::PyObject,
    new_value: *mut ffi::PyObject,
) -> c_int {
    if let Some(state) = STATE.get()
        && !key.is_null()
    {
        for attribute in state.classes.tracked() {
            // SAFETY: the interpreter passes live objects, attached.
            unsafe { attribute.replaced(dict, key, new_value) };
        }
    }
    0
}
