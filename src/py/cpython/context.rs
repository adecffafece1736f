//! Contexts: copying one, entering one, and whether two of them say the same.
//!
//! A context refers to an immutable map of its variables, and gets another with each change. Copies share
//! it. So contexts with the same map say the same, which [`ContextFacts`] can tell. That is private to the
//! interpreter: where it keeps the map is found out at import, and if it cannot be, nothing is told.

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::alloc;
use super::object::{Ref, make_immortal};

/// A copy of the current context.
#[inline(always)]
pub(crate) fn copy_context(py: Python<'_>) -> PyResult<Ref> {
    // SAFETY: attached (`py`); the result is a new reference or null with an exception.
    unsafe { Ref::from_owned_or_err(py, ffi::PyContext_CopyCurrent()) }
}

/// A copy of a context that nobody changes meanwhile.
#[inline(always)]
pub(crate) fn copy_of(py: Python<'_>, context: &Ref) -> PyResult<Ref> {
    // SAFETY: attached; what is no context is refused, with an exception.
    unsafe { Ref::from_owned_or_err(py, ffi::PyContext_Copy(context.as_ptr())) }
}

/// A context without variables.
pub(crate) fn new_context(py: Python<'_>) -> PyResult<Ref> {
    // SAFETY: attached (`py`); the result is a new reference or null with an exception.
    unsafe { Ref::from_owned_or_err(py, ffi::PyContext_New()) }
}

/// Where the interpreter keeps a thread's context, and a context its map, in bytes from the start.
#[derive(Debug)]
pub(crate) struct ContextFacts {
    current: usize,
    map: usize,
    /// The map of contexts without variables, which lives as long as the interpreter.
    empty_map: *mut ffi::PyObject,
    /// Stands for a copy of a context without variables. Immortal.
    empty: Ref,
}

impl ContextFacts {
    /// Looks where it is. `None`: it is not to be found where it is expected.
    pub(crate) fn learn(py: Python<'_>) -> Option<Self> {
        // Only there is it told that nobody else has a context.
        let counts = cfg!(all(Py_GIL_DISABLED, target_os = "linux", target_arch = "x86_64"));
        if counts { Self::look(py).ok().flatten() } else { None }
    }

    fn look(py: Python<'_>) -> PyResult<Option<Self>> {
        let module = py.import("contextvars")?;
        let set = module.getattr("ContextVar")?.call1(("loop_pool",))?.getattr("set")?;
        let class = module.getattr("Context")?.cast_into::<PyType>()?;
        let contexts = [class.call0()?, class.call0()?];
        for (value, context) in contexts.iter().enumerate() {
            context.call_method1("run", (&set, alloc::int(py, value)?))?;
        }
        let copy = contexts[0].call_method0("copy")?;
        let [Some(current), Some(again)] = contexts.each_ref().map(current_places) else {
            return Ok(None);
        };
        let referents = py.import("gc")?.getattr("get_referents")?;
        // SAFETY: a live type.
        let words = unsafe { (*class.as_type_ptr()).tp_basicsize }.unsigned_abs() / WORD;
        let mut maps = Vec::new();
        for context in &contexts {
            let map = referents.call1((context,))?.get_item(0)?;
            // SAFETY: a live context of that size.
            maps.push(unsafe { places(context.as_ptr().cast(), words, map.as_ptr()) });
        }
        let ([current], [map]) = (&current[..], &maps[0][..]) else { return Ok(None) };
        let empty = class.call0()?;
        // SAFETY: attached, and alive.
        if !unsafe { make_immortal(empty.as_ptr()) } {
            return Ok(None);
        }
        let empty = empty.into();
        let mut facts = Self { current: *current, map: *map, empty_map: ptr::null_mut(), empty };
        // SAFETY: a live context that nobody is in.
        facts.empty_map = unsafe { facts.map_of(facts.empty.as_ptr()) };
        // SAFETY: live contexts that nobody is in.
        let [one, other, copy, new] = [&contexts[0], &contexts[1], &copy, &class.call0()?]
            .map(|context| unsafe { facts.map_of(context.as_ptr()) });
        let holds = [*current] == again[..] && maps[0] == maps[1];
        let holds = holds && copy == one && one != other && new == facts.empty_map && new != one;
        Ok(holds.then_some(facts))
    }

    /// What stands for a copy of the thread's current context, if that has no variables.
    #[inline(always)]
    pub(crate) fn empty_if_current(&self, py: Python<'_>) -> Option<Ref> {
        let map = self.current_map(py);
        (map.is_null() || self.is_empty_map(map)).then(|| self.empty.clone_ref(py))
    }

    #[inline(always)]
    pub(crate) fn is_empty_map(&self, map: *mut ffi::PyObject) -> bool {
        ptr::eq(map, self.empty_map)
    }

    /// Whether that is what stands for contexts without variables.
    #[inline(always)]
    pub(crate) fn is_empty(&self, context: *mut ffi::PyObject) -> bool {
        ptr::eq(context, self.empty.as_ptr())
    }

    /// The map of a context, which it holds.
    ///
    /// # Safety
    /// It is a live context which no other thread changes.
    #[inline(always)]
    pub(crate) unsafe fn map_of(&self, context: *mut ffi::PyObject) -> *mut ffi::PyObject {
        // SAFETY: by our caller's word; that is where the map is.
        unsafe { *context.byte_add(self.map).cast::<*mut ffi::PyObject>() }
    }

    /// The map of the thread's current context, which that holds. Null if it has none yet.
    #[inline(always)]
    pub(crate) fn current_map(&self, _py: Python<'_>) -> *mut ffi::PyObject {
        // SAFETY: attached, so that there is a state, which says what the current context is. Only
        // this thread changes that.
        unsafe {
            let state = ffi::PyThreadState_GetUnchecked();
            let context = *state.byte_add(self.current).cast::<*mut ffi::PyObject>();
            if context.is_null() { context } else { self.map_of(context) }
        }
    }
}

const WORD: usize = size_of::<*mut ffi::PyObject>();

/// Where the thread's state refers to a context while the thread is in it. `None`: it cannot be entered.
fn current_places(context: &Bound<'_, PyAny>) -> Option<Vec<usize>> {
    // What is looked at; the state of a thread is longer.
    const STATE_WORDS: usize = 48;
    // SAFETY: a live context; the thread is attached, and has a state of so many words at least, some of
    // which other threads write.
    unsafe {
        let entered = Entered::new(context.as_ptr())?;
        let found = places(ffi::PyThreadState_Get().cast(), STATE_WORDS, context.as_ptr());
        entered.leave().then_some(found)
    }
}

/// Where in so many words that object is referred to, in bytes.
///
/// # Safety
/// So many words may be read there.
unsafe fn places(
    words: *const AtomicPtr<ffi::PyObject>,
    count: usize,
    object: *mut ffi::PyObject,
) -> Vec<usize> {
    // SAFETY: by our caller's word.
    let is_there = |index: &usize| unsafe { (*words.add(*index)).load(Relaxed) == object };
    (0..count).filter(is_there).map(|index| index * WORD).collect()
}

/// A context that the thread has entered, and leaves again, also by a panic.
pub(crate) struct Entered(*mut ffi::PyObject);

impl Entered {
    /// Enters it. `None`: an exception is set; it is no context, or somebody is in it.
    ///
    /// # Safety
    /// The object is alive until the context is left; the thread is attached.
    #[inline(always)]
    pub(crate) unsafe fn new(context: *mut ffi::PyObject) -> Option<Self> {
        // SAFETY: by our caller's word; entering refuses what is not a context.
        (unsafe { ffi::PyContext_Enter(context) } == 0).then(|| Self(context))
    }

    /// Leaves it; if that fails, an exception is set.
    #[inline(always)]
    pub(crate) fn leave(self) -> bool {
        // SAFETY: by the word of who entered it.
        unsafe { ffi::PyContext_Exit(std::mem::ManuallyDrop::new(self).0) == 0 }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        // SAFETY: as in `leave`.
        if unsafe { ffi::PyContext_Exit(self.0) } != 0 {
            // SAFETY: likewise. The panic says more.
            unsafe { ffi::PyErr_Clear() };
        }
    }
}
