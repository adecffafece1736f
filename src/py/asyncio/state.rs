//! What is looked up once, at import: asyncio's classes, and the layout of its handles.
//!
//! In: asyncio, as it is then. Out: facts that live as long as the process. The slots of `Handle` and
//! `TimerHandle` are here, the callbacks of the C `Task` in `task_callbacks`. Must never: run Python afterwards.

use std::ffi::c_int;
use std::sync::OnceLock;
use std::sync::atomic::AtomicPtr;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};

use super::task_callbacks::TaskCallbacks;
use super::tracked::TrackedAttribute;
use crate::py::cpython::alloc;
use crate::py::cpython::dict_watcher::DictWatcher;
use crate::py::cpython::names::intern;
use crate::py::cpython::object::{Ref, make_immortal};
use crate::py::cpython::slots::{all_slots, slot_offset};

/// Where `asyncio.Handle` keeps what, in bytes from the start of the object.
#[derive(Debug)]
pub(crate) struct HandleLayout {
    pub(crate) callback: usize,
    pub(crate) args: usize,
    pub(crate) cancelled: usize,
    pub(crate) loop_: usize,
    pub(crate) source_traceback: usize,
    pub(crate) repr: usize,
    pub(crate) context: usize,
    /// The word that leads to the weak references of an instance of our subclasses; it may stand before
    /// the object.
    pub(crate) weak: isize,
}

/// Where `asyncio.TimerHandle` keeps the rest.
#[derive(Debug)]
pub(crate) struct TimerLayout {
    pub(crate) when: usize,
    pub(crate) scheduled: usize,
    /// All of its slots that hold references, those of `asyncio.Handle` among them.
    pub(crate) all: Box<[usize]>,
}

impl HandleLayout {
    fn of(class: &Bound<'_, PyType>, weak: isize) -> PyResult<Self> {
        Ok(Self {
            callback: slot_offset(class, "_callback")?,
            args: slot_offset(class, "_args")?,
            cancelled: slot_offset(class, "_cancelled")?,
            loop_: slot_offset(class, "_loop")?,
            source_traceback: slot_offset(class, "_source_traceback")?,
            repr: slot_offset(class, "_repr")?,
            context: slot_offset(class, "_context")?,
            weak,
        })
    }
}

impl TimerLayout {
    fn of(class: &Bound<'_, PyType>) -> PyResult<Self> {
        Ok(Self {
            when: slot_offset(class, "_when")?,
            scheduled: slot_offset(class, "_scheduled")?,
            all: all_slots(class)?,
        })
    }
}

/// A native subclass of one of asyncio's handles.
pub(crate) struct NativeHandle<'py> {
    pub(crate) class: Bound<'py, PyAny>,
    /// Where an instance keeps what is ours, in bytes from its start.
    pub(crate) data: usize,
    /// Where it keeps the word for its weak references.
    pub(crate) weak: isize,
}

/// The native classes, which the rooms above make.
pub(crate) struct NativeTypes<'py> {
    pub(crate) loop_type: Bound<'py, PyType>,
    pub(crate) timer: NativeHandle<'py>,
    pub(crate) threadsafe: NativeHandle<'py>,
}

/// Everything looked up at import; it lives as long as the process.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) handle: HandleLayout,
    pub(crate) timer: TimerLayout,
    /// All slots of `asyncio.events._ThreadSafeHandle` that hold references.
    pub(crate) threadsafe_slots: Box<[usize]>,
    pub(crate) handle_type: *mut ffi::PyTypeObject,
    pub(crate) timer_type: *mut ffi::PyTypeObject,
    pub(crate) threadsafe_type: *mut ffi::PyTypeObject,
    /// Where the instances of these two keep what is ours, in bytes from their start.
    pub(crate) timer_data: usize,
    pub(crate) threadsafe_data: usize,
    pub(crate) loop_type: *mut ffi::PyTypeObject,
    /// `asyncio.selector_events.BaseSelectorEventLoop`, as it is at import.
    pub(crate) selector_loop: Ref,
    /// `socket.socket`.
    pub(crate) socket_type: *mut ffi::PyTypeObject,
    /// Its methods `recv` and `recv_into`, as they are at import.
    pub(crate) socket_recv: Ref,
    pub(crate) socket_recv_into: Ref,
    /// `asyncio.futures.Future`, as it is at this moment.
    pub(crate) future_class: TrackedAttribute,
    /// `asyncio.tasks.Task`, as it is at this moment.
    pub(crate) task_class: TrackedAttribute,
    /// `asyncio.current_task`.
    pub(crate) current_task: Ref,
    /// `asyncio._get_running_loop`.
    pub(crate) get_running_loop: Ref,
    pub(crate) empty_tuple: Ref,
    pub(crate) kwnames_loop: Ref,
    pub(crate) kwnames_context: Ref,
    pub(crate) kwnames_task: Ref,
    pub(crate) kwnames_named_task: Ref,
    pub(crate) name_loop: Ref,
    pub(crate) name_context: Ref,
    /// The keyword tuple by which `_asyncio` passes a context, once it has been seen.
    pub(crate) context_kwnames: AtomicPtr<ffi::PyObject>,
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
        std::ptr::eq(self.task_class.get().cast(), self.task.class())
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
    let asyncio = py.import(intern!(py, "asyncio"))?;
    let events = py.import(intern!(py, "asyncio.events"))?;
    let handle_class = events.getattr(intern!(py, "Handle"))?.cast_into::<PyType>()?;
    let timer_class = events.getattr(intern!(py, "TimerHandle"))?.cast_into::<PyType>()?;
    let threadsafe_class =
        events.getattr(intern!(py, "_ThreadSafeHandle"))?.cast_into::<PyType>()?;
    let futures = asyncio.getattr(intern!(py, "futures"))?;
    let socket_class = py.import(intern!(py, "socket"))?.getattr(intern!(py, "socket"))?;
    let NativeTypes { loop_type, timer, threadsafe } = types;
    let state = State {
        handle: HandleLayout::of(&handle_class, timer.weak)?,
        timer: TimerLayout::of(&timer_class)?,
        threadsafe_slots: all_slots(&threadsafe_class)?,
        handle_type: handle_class.into_ptr().cast(),
        timer_type: timer.class.into_ptr().cast(),
        timer_data: timer.data,
        threadsafe_data: threadsafe.data,
        threadsafe_type: threadsafe.class.into_ptr().cast(),
        loop_type: loop_type.into_ptr().cast(),
        selector_loop: py
            .import(intern!(py, "asyncio.selector_events"))?
            .getattr(intern!(py, "BaseSelectorEventLoop"))?
            .into(),
        socket_recv: socket_class.getattr(intern!(py, "recv"))?.into(),
        socket_recv_into: socket_class.getattr(intern!(py, "recv_into"))?.into(),
        socket_type: socket_class.into_ptr().cast(),
        future_class: TrackedAttribute::new(&futures, intern!(py, "Future"))?,
        task_class: TrackedAttribute::new(
            &asyncio.getattr(intern!(py, "tasks"))?,
            intern!(py, "Task"),
        )?,
        current_task: asyncio.getattr(intern!(py, "current_task"))?.into(),
        get_running_loop: events.getattr(intern!(py, "_get_running_loop"))?.into(),
        empty_tuple: PyTuple::empty(py).into_any().into(),
        kwnames_loop: alloc::tuple(py, [intern!(py, "loop")])?.into_any().into(),
        kwnames_context: alloc::tuple(py, [intern!(py, "context")])?.into_any().into(),
        kwnames_task: alloc::tuple(py, [intern!(py, "loop"), intern!(py, "context")])?
            .into_any()
            .into(),
        kwnames_named_task: alloc::tuple(
            py,
            [intern!(py, "loop"), intern!(py, "context"), intern!(py, "name")],
        )?
        .into_any()
        .into(),
        name_loop: intern!(py, "loop").clone().into_any().into(),
        name_context: intern!(py, "context").clone().into_any().into(),
        context_kwnames: AtomicPtr::default(),
        task: TaskCallbacks::default(),
    };
    let dicts = [state.task_class.module, state.future_class.module];
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
        // SAFETY: the interpreter passes live objects, attached.
        unsafe {
            state.task_class.replaced(dict, key, new_value);
            state.future_class.replaced(dict, key, new_value);
        }
    }
    0
}
