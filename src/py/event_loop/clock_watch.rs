//! What a program may put in the place of the clock under a loop while the loop runs: `time.monotonic`,
//! `asyncio.base_events.time`, `time` of one of asyncio's loop classes, `time` or `call_at` of the loop's own class.
//!
//! In: the changes of those dicts, by a watcher. Out: one word, which a loop compares with the one that
//! it knows. A watcher is called before the change, with other threads at work: so it takes down what
//! is to stand there where that decides, and a loop looks at its class by a copy of its dict, which
//! waits for a change under way. Nothing here runs Python while a dict changes.

use std::ffi::{CStr, c_int};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::py::cpython::alloc;
use crate::py::cpython::dict_watcher::DictWatcher;
use crate::py::cpython::names::intern;
use crate::py::cpython::object::{Ref, is_builtin};

/// `time.monotonic` is another function than the interpreter's.
const MONOTONIC: u64 = 1 << 0;
/// asyncio has another module in the place of `time`.
const MODULE: u64 = 1 << 1;
/// The first of asyncio's loop classes has another `time`; the others' bits follow.
const BASE: u64 = 1 << 2;
/// All of these: `time()` of every loop is what asyncio's says.
const REPLACED: u64 = 0xff;
/// A change of a class's `time` or `call_at` counts by this.
const CHANGE: u64 = 1 << 8;

/// asyncio's loop classes, from the outermost.
const BASES: [(&str, &str); 3] = [
    ("asyncio.unix_events", "_UnixSelectorEventLoop"),
    ("asyncio.selector_events", "BaseSelectorEventLoop"),
    ("asyncio.base_events", "BaseEventLoop"),
];

static WORD: AtomicU64 = AtomicU64::new(0);

/// What was looked up at import. All of it is kept for ever.
#[derive(Debug)]
struct Watched {
    watcher: DictWatcher,
    /// The module `time`, and its dict.
    time: Ref,
    time_dict: *mut ffi::PyObject,
    /// The dict of `asyncio.base_events`.
    asyncio_dict: *mut ffi::PyObject,
    /// The dicts of asyncio's loop classes, and what is `time` there; null if nothing is.
    bases: [(*mut ffi::PyObject, *mut ffi::PyObject); BASES.len()],
}

// SAFETY: the pointers are compared, and never followed.
unsafe impl Send for Watched {}
// SAFETY: as above.
unsafe impl Sync for Watched {}

static WATCHED: OnceLock<Watched> = OnceLock::new();

// Public C API since 3.12; pyo3 does not bind it.
unsafe extern "C" {
    fn PyType_GetDict(kind: *mut ffi::PyTypeObject) -> *mut ffi::PyObject;
}

/// What was replaced, and how often a class has changed. A loop that knows this very word, and has no
/// clock of the program's, has the kernel's.
#[inline(always)]
pub(crate) fn word() -> u64 {
    WORD.load(Relaxed)
}

/// Whether `time()` of every loop is what asyncio's says.
#[inline(always)]
pub(crate) fn is_replaced() -> bool {
    word() & REPLACED != 0
}

/// What asyncio's `time()` of a loop says.
///
/// # Errors
/// Those of what the program has put in its place.
#[cold]
pub(crate) fn time_of_base(
    py: Python<'_>,
    loop_: *mut ffi::PyObject,
) -> PyResult<*mut ffi::PyObject> {
    // SAFETY: our caller's object is alive: its method is called.
    let loop_ = unsafe { Bound::from_borrowed_ptr(py, loop_) };
    loop_.call_method0(intern!(py, "_time_of_base")).map(Bound::into_ptr)
}

/// How often a class has changed, as part of a word.
pub(crate) fn changes(word: u64) -> u64 {
    word & !REPLACED
}

/// Called before a watched dict changes, with what will stand there; null: nothing.
unsafe extern "C" fn dict_changes(
    _event: c_int,
    dict: *mut ffi::PyObject,
    key: *mut ffi::PyObject,
    new: *mut ffi::PyObject,
) -> c_int {
    // SAFETY: the interpreter passes live objects, attached.
    let is = |name: &CStr| unsafe {
        ffi::PyUnicode_Check(key) != 0 && ffi::PyUnicode_EqualToUTF8(key, name.as_ptr()) != 0
    };
    let Some(watched) = WATCHED.get() else { return 0 };
    if key.is_null() {
        return 0;
    }
    if std::ptr::eq(dict, watched.time_dict) {
        if is(c"monotonic") {
            // SAFETY: as above.
            let own =
                new.is_null() || unsafe { is_builtin(new, watched.time.as_ptr(), c"monotonic") };
            note(MONOTONIC, !own);
        }
    } else if std::ptr::eq(dict, watched.asyncio_dict) {
        if is(c"time") {
            note(MODULE, !std::ptr::eq(new, watched.time.as_ptr()));
        }
    } else if let Some(base) = watched.bases.iter().position(|(known, _)| *known == dict) {
        if is(c"time") {
            note(BASE << base, !std::ptr::eq(new, watched.bases[base].1));
        }
    } else if is(c"time") || is(c"call_at") {
        WORD.fetch_add(CHANGE, Relaxed);
    }
    0
}

fn note(bit: u64, replaced: bool) {
    if replaced {
        WORD.fetch_or(bit, Relaxed);
    } else {
        WORD.fetch_and(!bit, Relaxed);
    }
}

/// Looks everything up. Runs once, at import.
pub(crate) fn initialise(py: Python<'_>) -> PyResult<()> {
    let time = py.import(intern!(py, "time"))?;
    let asyncio = py.import("asyncio.base_events")?;
    let (time_dict, asyncio_dict) = (time.dict().into_ptr(), asyncio.dict().into_ptr());
    let mut bases = [(std::ptr::null_mut(), std::ptr::null_mut()); BASES.len()];
    for (base, (module, name)) in bases.iter_mut().zip(BASES) {
        let class = py.import(module)?.getattr(name)?.cast_into::<PyType>()?;
        let dict = dict_of(&class)?;
        // SAFETY: a live dict; what stands there is never freed by us, and only compared.
        let function = unsafe { ffi::PyDict_GetItemString(dict.as_ptr(), c"time".as_ptr()) };
        *base = (dict.into_ptr(), function);
    }
    let monotonic = time.getattr(intern!(py, "monotonic"))?;
    // SAFETY: live objects.
    note(MONOTONIC, unsafe { !is_builtin(monotonic.as_ptr(), time.as_ptr(), c"monotonic") });
    note(MODULE, !asyncio.getattr(intern!(py, "time"))?.is(&time));
    let watcher = DictWatcher::new(py, dict_changes)?;
    for dict in [time_dict, asyncio_dict].into_iter().chain(bases.map(|(dict, _)| dict)) {
        // SAFETY: live dicts.
        unsafe { watcher.watch(py, dict)? };
    }
    let all = Watched { watcher, time: time.into_any().into(), time_dict, asyncio_dict, bases };
    WATCHED.set(all).map_err(|_| alloc::runtime_error(py, "loop_pool._core is imported twice"))
}

/// Watches a loop's class and its bases up to `last`; returns how often a class had changed before, for
/// `_set_clock`. What is read of the class afterwards is as new as that. Any thread.
#[pyfunction]
#[pyo3(name = "_watch_clock", signature = (kind, last, /))]
pub(crate) fn watch(kind: &Bound<'_, PyType>, last: &Bound<'_, PyType>) -> PyResult<u64> {
    let py = kind.py();
    let Some(watched) = WATCHED.get() else { return Ok(0) };
    let known = changes(word());
    for class in kind.mro().iter() {
        let class = class.cast_into::<PyType>()?;
        let dict = dict_of(&class)?;
        // SAFETY: a live dict. The copy waits for whoever changes it at this moment.
        unsafe {
            watched.watcher.watch(py, dict.as_ptr())?;
            drop(Bound::from_owned_ptr_or_err(py, ffi::PyDict_Copy(dict.as_ptr()))?);
        }
        if class.is(last) {
            break;
        }
    }
    Ok(known)
}

fn dict_of<'py>(class: &Bound<'py, PyType>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: a live type; a new reference, or null with an exception set.
    unsafe {
        let dict = PyType_GetDict(class.as_type_ptr());
        Bound::from_owned_ptr_or_err(class.py(), dict)
    }
}
