//! The two callbacks with which the C `Task` schedules itself, recognised from a sample of each.

use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::Relaxed};

use pyo3::ffi;
use pyo3::prelude::*;

use crate::py::cpython::object::Ref;
use crate::py::cpython::slots::in_critical_section;

/// What is known of the C task's callbacks; nothing, until they have been recognised.
#[derive(Debug, Default)]
pub(crate) struct TaskCallbacks {
    /// The C task's type, or null if its callbacks were not recognised.
    pub(super) class: AtomicPtr<ffi::PyTypeObject>,
    /// The type of the C task's step callback, or null if it was not recognised.
    pub(super) step_type: AtomicPtr<ffi::PyTypeObject>,
    /// Where a step callback keeps its task, in bytes from its start.
    pub(super) step_task: AtomicUsize,
    /// Where it keeps the exception that it is to throw into the coroutine; 0: not known.
    pub(super) step_error: AtomicUsize,
    /// The definition behind the C task's wakeup callback, or null.
    pub(super) wakeup_def: AtomicPtr<ffi::PyMethodDef>,
    /// Where a C task keeps its name, in bytes from its start; 0: not known.
    pub(super) name: AtomicUsize,
    /// The definition behind the C task's method `done`, known when the others are.
    pub(super) done_def: AtomicPtr<ffi::PyMethodDef>,
}

impl TaskCallbacks {
    /// The C task's type, or null.
    #[inline(always)]
    pub(super) fn class(&self) -> *mut ffi::PyTypeObject {
        self.class.load(Relaxed)
    }

    /// Whether `callback` is a C task's step: its first, or the one after a bare yield.
    #[inline(always)]
    pub(crate) fn is_step(&self, callback: *mut ffi::PyObject) -> bool {
        // SAFETY: the caller's object is alive.
        let kind = unsafe { ffi::Py_TYPE(callback) };
        std::ptr::eq(kind, self.step_type.load(Relaxed))
    }

    /// Whether `object` is asyncio's C task, or an instance of a subclass.
    pub(crate) fn is_instance(&self, object: &Bound<'_, PyAny>) -> bool {
        let class = self.class.load(Relaxed);
        // SAFETY: live objects; the class is never freed.
        !class.is_null() && unsafe { ffi::PyObject_TypeCheck(object.as_ptr(), class) != 0 }
    }

    /// The task of a step callback, which holds it.
    ///
    /// # Safety
    /// `step` is one, by [`is_step`](Self::is_step).
    #[inline(always)]
    pub(crate) unsafe fn of_step(&self, step: *mut ffi::PyObject) -> *mut ffi::PyObject {
        // SAFETY: found there in a sample of the same type, when it was learned.
        unsafe { *step.byte_add(self.step_task.load(Relaxed)).cast() }
    }

    /// Whether a step callback is to throw an exception into its coroutine.
    ///
    /// # Safety
    /// As for [`of_step`](Self::of_step).
    #[inline(always)]
    pub(crate) unsafe fn throws(&self, step: *mut ffi::PyObject) -> bool {
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
    pub(crate) unsafe fn is_done(&self, task: *mut ffi::PyObject) -> bool {
        // SAFETY: the definition was learned with the callbacks, and is that of a method without
        // arguments, which returns a boolean.
        unsafe {
            let done = (*self.done_def.load(Relaxed)).ml_meth.PyCFunction;
            let answer = done(task, std::ptr::null_mut());
            std::ptr::eq(answer, ffi::Py_True())
        }
    }

    /// Whether `task` is a C task, and of no subclass.
    #[inline(always)]
    pub(crate) fn is_exact(&self, task: *mut ffi::PyObject) -> bool {
        // SAFETY: the caller's object is alive.
        std::ptr::eq(unsafe { ffi::Py_TYPE(task) }, self.class())
    }

    /// The number of a C task that was given no name and has not been asked for it: `Task-N` is made of it
    /// then. `None` for any other object.
    ///
    /// # Safety
    /// `task` is alive; the thread is attached.
    pub(crate) unsafe fn number(&self, task: *mut ffi::PyObject) -> Option<Ref> {
        let offset = self.name.load(Relaxed);
        if offset == 0 || !self.is_exact(task) {
            return None;
        }
        // SAFETY: found there in a sample of the same type; whoever asks for the name replaces it in the
        // task's critical section.
        unsafe {
            in_critical_section(task, || {
                let name = *task.byte_add(offset).cast::<*mut ffi::PyObject>();
                (!name.is_null() && ffi::PyLong_CheckExact(name) != 0)
                    .then(|| Ref::from_borrowed(name))
            })
        }
    }

    /// Whether `callback` is a C task's wakeup by the future that it awaited.
    #[inline(always)]
    pub(crate) fn is_wakeup(&self, callback: *mut ffi::PyObject) -> bool {
        // SAFETY: the object is alive; once its exact type is known, so is its layout.
        unsafe {
            ffi::PyCFunction_CheckExact(callback) != 0
                && std::ptr::eq(
                    (*callback.cast::<ffi::PyCFunctionObject>()).m_ml,
                    self.wakeup_def.load(Relaxed),
                )
        }
    }
}
