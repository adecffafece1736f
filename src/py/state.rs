//! What is looked up once, at import: asyncio's classes, the layout of its handles, interned names.
//!
//! The private facts about asyncio that the native half relies on are all here: the slots of
//! `Handle` and `TimerHandle`, and the two callbacks by which the C `Task` schedules itself.

use std::ffi::c_int;
use std::sync::OnceLock;
use std::sync::atomic::{
    AtomicPtr, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};

use pyo3::exceptions::PyImportError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyModule, PyString, PyTuple, PyType};

use super::alloc;
use super::handle_types;
use super::names::intern;
use super::object::{Ref, make_immortal};

/// Where `asyncio.Handle` keeps what, in bytes from the start of the object.
#[derive(Debug)]
pub(super) struct HandleLayout {
    pub(super) callback: usize,
    pub(super) args: usize,
    pub(super) cancelled: usize,
    pub(super) loop_: usize,
    pub(super) source_traceback: usize,
    pub(super) repr: usize,
    pub(super) context: usize,
    /// The word that leads to the weak references of an instance of our subclasses; it may stand before
    /// the object.
    pub(super) weak: isize,
}

/// Where `asyncio.TimerHandle` keeps the rest.
#[derive(Debug)]
pub(super) struct TimerLayout {
    pub(super) when: usize,
    pub(super) scheduled: usize,
    /// All of its slots that hold references, those of `asyncio.Handle` among them.
    pub(super) all: Box<[usize]>,
}

/// Everything looked up at import; it lives as long as the process.
#[derive(Debug)]
pub(super) struct State {
    pub(super) handle: HandleLayout,
    pub(super) timer: TimerLayout,
    /// All slots of `asyncio.events._ThreadSafeHandle` that hold references.
    pub(super) threadsafe_slots: Box<[usize]>,
    pub(super) handle_type: *mut ffi::PyTypeObject,
    pub(super) timer_type: *mut ffi::PyTypeObject,
    pub(super) threadsafe_type: *mut ffi::PyTypeObject,
    /// Where the instances of these two keep what is ours, in bytes from their start.
    pub(super) timer_data: usize,
    pub(super) threadsafe_data: usize,
    pub(super) loop_type: *mut ffi::PyTypeObject,
    /// `asyncio.selector_events.BaseSelectorEventLoop`, as it is at import.
    pub(super) selector_loop: Ref,
    /// `socket.socket`.
    pub(super) socket_type: *mut ffi::PyTypeObject,
    /// Its methods `recv` and `recv_into`, as they are at import.
    pub(super) socket_recv: Ref,
    pub(super) socket_recv_into: Ref,
    /// `asyncio.futures.Future`, as it is at this moment.
    pub(super) future_class: Tracked,
    /// `asyncio.tasks.Task`, as it is at this moment.
    pub(super) task_class: Tracked,
    /// `asyncio.current_task`.
    pub(super) current_task: Ref,
    /// `asyncio._get_running_loop`.
    pub(super) get_running_loop: Ref,
    pub(super) empty_tuple: Ref,
    pub(super) kwnames_loop: Ref,
    pub(super) kwnames_context: Ref,
    pub(super) kwnames_task: Ref,
    pub(super) kwnames_named_task: Ref,
    pub(super) name_loop: Ref,
    pub(super) name_context: Ref,
    /// The keyword tuple by which `_asyncio` passes a context, once it has been seen.
    pub(super) context_kwnames: AtomicPtr<ffi::PyObject>,
    /// The C task's type, or null if its callbacks were not recognised.
    task_type: AtomicPtr<ffi::PyTypeObject>,
    /// The type of the C task's step callback, or null if it was not recognised.
    task_step_type: AtomicPtr<ffi::PyTypeObject>,
    /// Where a step callback keeps its task, in bytes from its start.
    step_task: AtomicUsize,
    /// Where it keeps the exception that it is to throw into the coroutine; 0: not known.
    step_error: AtomicUsize,
    /// The definition behind the C task's wakeup callback, or null.
    task_wakeup_def: AtomicPtr<ffi::PyMethodDef>,
    /// The definition behind the C task's method `done`, known when the others are.
    task_done_def: AtomicPtr<ffi::PyMethodDef>,
}

// SAFETY: the pointers are to types that are never freed; references are only read.
unsafe impl Send for State {}
// SAFETY: as above.
unsafe impl Sync for State {}

static STATE: OnceLock<State> = OnceLock::new();

/// What was looked up at import.
#[inline(always)]
pub(super) fn state() -> &'static State {
    debug_assert!(STATE.get().is_some());
    // SAFETY: `initialise` ran before any class of this module could be used.
    unsafe { STATE.get().unwrap_unchecked() }
}

impl State {
    /// Whether `callback` is a C task's step: its first, or the one after a bare yield.
    #[inline(always)]
    pub(super) fn is_task_step(&self, callback: *mut ffi::PyObject) -> bool {
        // SAFETY: the caller's object is alive.
        let kind = unsafe { ffi::Py_TYPE(callback) };
        std::ptr::eq(kind, self.task_step_type.load(Relaxed))
    }

    /// Whether tasks are made by the class whose callbacks were recognised.
    pub(super) fn knows_task_class(&self) -> bool {
        std::ptr::eq(self.task_class.get().cast(), self.task_type.load(Relaxed))
    }

    /// Whether `object` is asyncio's C task, or an instance of a subclass.
    pub(super) fn is_task(&self, object: &Bound<'_, PyAny>) -> bool {
        let class = self.task_type.load(Relaxed);
        // SAFETY: live objects; the class is never freed.
        !class.is_null() && unsafe { ffi::PyObject_TypeCheck(object.as_ptr(), class) != 0 }
    }

    /// The task of a step callback, which holds it.
    ///
    /// # Safety
    /// `step` is one, by [`is_task_step`](Self::is_task_step).
    #[inline(always)]
    pub(super) unsafe fn task_of_step(&self, step: *mut ffi::PyObject) -> *mut ffi::PyObject {
        // SAFETY: found there in a sample of the same type, when it was learned.
        unsafe { *step.byte_add(self.step_task.load(Relaxed)).cast() }
    }

    /// Whether a step callback is to throw an exception into its coroutine.
    ///
    /// # Safety
    /// As for [`task_of_step`](Self::task_of_step).
    #[inline(always)]
    pub(super) unsafe fn throws(&self, step: *mut ffi::PyObject) -> bool {
        let offset = self.step_error.load(Relaxed);
        // SAFETY: found there in a sample of the same type; the word is written before the step is known.
        offset != 0 && unsafe { !(*step.byte_add(offset).cast::<*mut ffi::PyObject>()).is_null() }
    }

    /// Whether a C task is done.
    ///
    /// # Safety
    /// `task` is a live C task, one of whose callbacks was recognised; the thread is attached, and
    /// no exception set.
    #[inline(always)]
    pub(super) unsafe fn is_done(&self, task: *mut ffi::PyObject) -> bool {
        // SAFETY: the definition was learned with the callbacks, and is that of a method without
        // arguments, which returns a boolean.
        unsafe {
            let done = (*self.task_done_def.load(Relaxed)).ml_meth.PyCFunction;
            let answer = done(task, std::ptr::null_mut());
            std::ptr::eq(answer, ffi::Py_True())
        }
    }

    /// Whether `callback` is a C task's wakeup by the future that it awaited.
    #[inline(always)]
    pub(super) fn is_task_wakeup(&self, callback: *mut ffi::PyObject) -> bool {
        // SAFETY: the object is alive; once its exact type is known, so is its layout.
        unsafe {
            ffi::PyCFunction_CheckExact(callback) != 0
                && std::ptr::eq(
                    (*callback.cast::<ffi::PyCFunctionObject>()).m_ml,
                    self.task_wakeup_def.load(Relaxed),
                )
        }
    }
}

/// Teaches the loop to recognise the C task's callbacks by a sample of each.
///
/// `step` is what a fresh task passes to `call_soon`, `wakeup` what a future passes when it wakes a
/// task, `task` the task of both and `done` its method; `failing` is a step that is to throw `error`.
/// Samples of another kind (a pure-Python task's) are left unrecognised: such tasks run through ordinary
/// handles.
#[pyfunction]
#[pyo3(name = "_learn_task_callbacks")]
pub(super) fn learn_task_callbacks(
    step: &Bound<'_, PyAny>,
    wakeup: &Bound<'_, PyAny>,
    task: &Bound<'_, PyAny>,
    done: &Bound<'_, PyAny>,
    failing: &Bound<'_, PyAny>,
    error: &Bound<'_, PyAny>,
) -> bool {
    let state = state();
    let step_type = step.get_type();
    // SAFETY: reading the name of a live type.
    let name = unsafe { std::ffi::CStr::from_ptr((*step_type.as_type_ptr()).tp_name) };
    // SAFETY: the type check precedes the access to the layout.
    let definition = |function: &Bound<'_, PyAny>| unsafe {
        let function = function.as_ptr();
        (ffi::PyCFunction_CheckExact(function) != 0)
            .then(|| (*function.cast::<ffi::PyCFunctionObject>()).m_ml)
    };
    let (Some(wakeup_def), Some(done_def)) = (definition(wakeup), definition(done)) else {
        return false;
    };
    // SAFETY: definitions of live functions. The loop calls them with one argument, and with none.
    if unsafe { ((*wakeup_def).ml_flags, (*done_def).ml_flags) } != (ffi::METH_O, ffi::METH_NOARGS)
    {
        return false;
    }
    let word_of = |step: &Bound<'_, PyAny>, held: &Bound<'_, PyAny>| {
        // SAFETY: a live type; the words of one of its instances.
        unsafe {
            let size = (*step_type.as_type_ptr()).tp_basicsize.unsigned_abs();
            (size_of::<ffi::PyObject>()..size).step_by(size_of::<usize>()).find(|offset| {
                let word = *step.as_ptr().byte_add(*offset).cast::<*mut ffi::PyObject>();
                std::ptr::eq(word, held.as_ptr())
            })
        }
    };
    let step_task = word_of(step, task);
    if failing.get_type().is(&step_type) {
        state.step_error.store(word_of(failing, error).unwrap_or(0), Relaxed);
    }
    let Some(step_task) = step_task else { return false };
    if !name.to_bytes().starts_with(b"_asyncio.") {
        return false;
    }
    // The type lives as long as `_asyncio`, which is never unloaded; keep it alive all the same.
    state.task_done_def.store(done_def, Relaxed);
    state.step_task.store(step_task, Relaxed);
    state.task_wakeup_def.store(wakeup_def, Relaxed);
    state.task_type.store(task.get_type().into_ptr().cast(), Relaxed);
    state.task_step_type.store(step_type.into_ptr().cast(), Relaxed);
    true
}

/// Stops counting references to `objects`, which live as long as the process and which every loop
/// uses; returns how many of them are not counted now. Call it from the thread that made them.
#[pyfunction]
#[pyo3(name = "_stop_counting", signature = (*objects))]
pub(super) fn stop_counting(objects: &Bound<'_, PyTuple>) -> usize {
    // SAFETY: the tuple holds the objects.
    objects.iter_borrowed().filter(|object| unsafe { make_immortal(object.as_ptr()) }).count()
}

/// Looks everything up. Runs once, at import.
pub(super) fn initialise(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
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
    let timer_type = handle_types::timer_type(&timer_class)?;
    let threadsafe_type = handle_types::threadsafe_type(&threadsafe_class)?;
    let slot = |class: &Bound<'_, PyType>, name: &str| slot_offset(class, name);
    let state = State {
        handle: HandleLayout {
            callback: slot(&handle_class, "_callback")?,
            args: slot(&handle_class, "_args")?,
            cancelled: slot(&handle_class, "_cancelled")?,
            loop_: slot(&handle_class, "_loop")?,
            source_traceback: slot(&handle_class, "_source_traceback")?,
            repr: slot(&handle_class, "_repr")?,
            context: slot(&handle_class, "_context")?,
            weak: handle_types::weak_offset([&timer_type, &threadsafe_type])?,
        },
        timer: TimerLayout {
            when: slot(&timer_class, "_when")?,
            scheduled: slot(&timer_class, "_scheduled")?,
            all: all_slots(&timer_class)?,
        },
        threadsafe_slots: all_slots(&threadsafe_class)?,
        handle_type: handle_class.into_ptr().cast(),
        timer_type: timer_type.clone().into_ptr().cast(),
        timer_data: handle_types::data_offset(&timer_type),
        threadsafe_data: handle_types::data_offset(&threadsafe_type),
        threadsafe_type: threadsafe_type.clone().into_ptr().cast(),
        loop_type: py.get_type::<super::core::LoopCore>().into_ptr().cast(),
        selector_loop: py
            .import(intern!(py, "asyncio.selector_events"))?
            .getattr(intern!(py, "BaseSelectorEventLoop"))?
            .into(),
        socket_recv: socket_class.getattr(intern!(py, "recv"))?.into(),
        socket_recv_into: socket_class.getattr(intern!(py, "recv_into"))?.into(),
        socket_type: socket_class.into_ptr().cast(),
        future_class: Tracked::new(&futures, intern!(py, "Future"))?,
        task_class: Tracked::new(&asyncio.getattr(intern!(py, "tasks"))?, intern!(py, "Task"))?,
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
        task_type: AtomicPtr::default(),
        task_step_type: AtomicPtr::default(),
        step_task: AtomicUsize::new(0),
        step_error: AtomicUsize::new(0),
        task_wakeup_def: AtomicPtr::default(),
        task_done_def: AtomicPtr::default(),
    };
    super::future::learn(&futures.getattr(intern!(py, "Future"))?.cast_into::<PyType>()?);
    let dicts = [state.task_class.module, state.future_class.module];
    module.add("TimerHandle", timer_type)?;
    module.add("_ThreadSafeHandle", threadsafe_type)?;
    STATE
        .set(state)
        .map_err(|_| alloc::runtime_error(py, "loop_pool._core is being imported twice"))?;
    watch(py, dicts)
}

/// A module's attribute, followed when it is replaced: programs put other classes in the place of
/// asyncio's `Task` and `Future`, and `BaseEventLoop` looks them up at each use. A look-up would
/// count a reference to an object that all loops share; this costs one load.
#[derive(Debug)]
pub(super) struct Tracked {
    /// The module's dict, alive as long as the process.
    module: *mut ffi::PyObject,
    name: Ref,
    value: AtomicPtr<ffi::PyObject>,
}

impl Tracked {
    fn new(module: &Bound<'_, PyAny>, name: &Bound<'_, PyString>) -> PyResult<Self> {
        Ok(Self {
            module: module.cast::<PyModule>()?.dict().into_ptr(),
            name: name.clone().into_any().into(),
            value: AtomicPtr::new(module.getattr(name)?.into_ptr()),
        })
    }

    /// The present value, borrowed; it is never freed.
    #[inline(always)]
    pub(super) fn get(&self) -> *mut ffi::PyObject {
        self.value.load(Acquire)
    }

    /// # Safety
    /// `dict`, `key` and `new_value` are live objects, and the thread attached.
    unsafe fn replaced(
        &self,
        dict: *mut ffi::PyObject,
        key: *mut ffi::PyObject,
        new_value: *mut ffi::PyObject,
    ) {
        // SAFETY: handed on to our caller. The reference is given to the static: a class that was
        // current once may be in use by any thread, so it is never released.
        unsafe {
            if std::ptr::eq(dict, self.module)
                && !new_value.is_null()
                && ffi::PyUnicode_Check(key) != 0
                && ffi::PyUnicode_Compare(key, self.name.as_ptr()) == 0
            {
                ffi::Py_INCREF(new_value);
                self.value.store(new_value, Release);
            }
        }
    }
}

type DictWatcher = unsafe extern "C" fn(
    c_int,
    *mut ffi::PyObject,
    *mut ffi::PyObject,
    *mut ffi::PyObject,
) -> c_int;

// Public C API since 3.12; pyo3 does not bind it.
unsafe extern "C" {
    fn PyDict_AddWatcher(callback: DictWatcher) -> c_int;
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

fn watch(py: Python<'_>, dicts: [*mut ffi::PyObject; 2]) -> PyResult<()> {
    // SAFETY: the callback is static, the dicts are live.
    unsafe {
        let watcher = PyDict_AddWatcher(dict_changes);
        if watcher < 0 || dicts.into_iter().any(|dict| ffi::PyDict_Watch(watcher, dict) < 0) {
            return Err(alloc::raised(py));
        }
    }
    Ok(())
}

/// The offsets of all slots of a Python class that hold references, its bases' among them.
fn all_slots(class: &Bound<'_, PyType>) -> PyResult<Box<[usize]>> {
    let py = class.py();
    let mut offsets = Vec::new();
    for base in class.mro().iter() {
        let Ok(slots) = base.getattr(intern!(py, "__slots__")) else { continue };
        for name in slots.try_iter()? {
            let name: String = name?.extract()?;
            if !name.starts_with("__") {
                offsets.push(slot_offset(class, &name)?);
            }
        }
    }
    Ok(offsets.into())
}

/// The offset of a slot of a Python class, found by looking where a marked value lands. This needs
/// no knowledge of how the interpreter lays slots out, and fails cleanly if it changes.
pub(super) fn slot_offset(class: &Bound<'_, PyType>, name: &str) -> PyResult<usize> {
    let py = class.py();
    let object = class.call_method1(intern!(py, "__new__"), (class,))?;
    let marker = py.import(intern!(py, "builtins"))?.getattr(intern!(py, "object"))?.call0()?;
    object.setattr(alloc::text(py, name)?, &marker)?;
    let word = size_of::<*mut ffi::PyObject>();
    // SAFETY: a live type.
    let size = unsafe { (*class.as_type_ptr()).tp_basicsize };
    let found: Vec<usize> = (size_of::<ffi::PyObject>()..usize::try_from(size)?)
        .step_by(word)
        .filter(|offset| {
            // SAFETY: within the object, and aligned as the object is.
            let value = unsafe { *object.as_ptr().byte_add(*offset).cast::<*mut ffi::PyObject>() };
            std::ptr::eq(value, marker.as_ptr())
        })
        .collect();
    object.delattr(alloc::text(py, name)?)?;
    match found[..] {
        [offset] => Ok(offset),
        _ => Err(alloc::error::<PyImportError>(
            py,
            format!(
                "loop_pool does not know this version of asyncio: {}.{name} is not a slot",
                class.name()?
            ),
        )),
    }
}
