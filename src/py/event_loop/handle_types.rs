//! The native subclasses of asyncio's handles. They add a word, a timer's key or a lock to asyncio's slots
//! (PEP 697), and what goes with it.

use std::ffi::{c_int, c_void};
use std::ptr::{self};
use std::sync::atomic::AtomicU64;

use super::callback::Callback;
use super::handle_slots::{Posted, lock_threadsafe, loop_of};
use super::scheduling::{self, NotOwner};
use crate::py::asyncio::handle::{self, has_weak, is_cancelled, keep_repr, mark_cancelled};
use crate::py::asyncio::handle_layout::NativeHandle;
use crate::py::asyncio::state::state;
use crate::py::cpython::alloc;
use crate::py::cpython::cfunc::{method_def, raise};
use crate::py::cpython::names::intern;
use crate::py::cpython::object::{Ref, decref, make_immortal};
use crate::py::cpython::slots::slot;
use pyo3::exceptions::PyAttributeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

unsafe extern "C" fn context(handle: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    raise(|py| {
        // SAFETY: the descriptor has checked the type; the caller holds the handle.
        match unsafe { handle::context(py, handle)? } {
            Some(context) => Ok(context.into_ptr()),
            None => Err(alloc::error::<PyAttributeError>(py, "_context")),
        }
    })
}

unsafe extern "C" fn set_context(
    handle: *mut ffi::PyObject,
    context: *mut ffi::PyObject,
    _: *mut c_void,
) -> c_int {
    // SAFETY: the descriptor has checked the type; the caller holds both, and is attached.
    unsafe { drop(handle::replace_context(handle, ffi::Py_XNewRef(context))) };
    0
}

/// The attribute `_context`.
fn context_attribute() -> ffi::PyType_Slot {
    // The interpreter keeps pointers to them for ever.
    let attributes = Box::leak(Box::new([
        ffi::PyGetSetDef {
            name: c"_context".as_ptr(),
            get: Some(context),
            set: Some(set_context),
            doc: c"The contextvars.Context in which the callback runs.".as_ptr(),
            closure: ptr::null_mut(),
        },
        ffi::PyGetSetDef::default(),
    ]));
    ffi::PyType_Slot { slot: ffi::Py_tp_getset, pfunc: attributes.as_mut_ptr().cast() }
}

/// Makes the native subclass of `asyncio.Handle`.
pub(crate) fn soon_type<'py>(base: &Bound<'py, PyType>) -> PyResult<NativeHandle<'py>> {
    native_subclass(
        base,
        c"loop_pool._core.Handle",
        c"The asyncio.Handle of call_soon, which gets a context of its own when somebody asks for it.",
        size_of::<usize>(),
        leak_methods([]),
        soon_dealloc,
    )
}

unsafe extern "C" fn timer_cancel(
    handle: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    raise(|py| {
        // SAFETY: the method descriptor has checked that `handle` is of our timer type.
        unsafe {
            if is_cancelled(handle) {
                return Ok(py.None().into_ptr());
            }
            if let Some(core) = loop_of(py, handle) {
                let core = core.get();
                keep_repr(&Bound::from_borrowed_ptr(py, handle), core.flags.is_debug())?;
                let Some(taken) = mark_cancelled(handle) else {
                    return Ok(py.None().into_ptr());
                };
                let timer = Callback::from_handle(Ref::from_borrowed(handle));
                match core.forget_timer(&timer) {
                    Ok(pending) => drop(pending),
                    Err(NotOwner) => scheduling::forget_timer_of_idle_loop(core, timer),
                }
                drop(taken);
            } else {
                drop(mark_cancelled(handle));
            }
            Ok(py.None().into_ptr())
        }
    })
}

/// Makes the native subclass of `asyncio.TimerHandle`.
pub(crate) fn timer_type<'py>(base: &Bound<'py, PyType>) -> PyResult<NativeHandle<'py>> {
    let methods = leak_methods([method_def(
        c"cancel",
        timer_cancel,
        c"cancel($self, /)\n--\n\nCancel the call and free its place in the loop at once.",
    )]);
    native_subclass(
        base,
        c"loop_pool._core.TimerHandle",
        c"An asyncio.TimerHandle whose cancellation frees its place in the loop at once.",
        size_of::<AtomicU64>(),
        methods,
        timer_dealloc,
    )
}

unsafe extern "C" fn threadsafe_cancel(
    handle: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    raise(|py| {
        // SAFETY: the method descriptor has checked the type; the caller holds the handle.
        let taken = unsafe {
            let _guard = lock_threadsafe(py, handle);
            if !is_cancelled(handle)
                && let Some(core) = loop_of(py, handle)
            {
                keep_repr(&Bound::from_borrowed_ptr(py, handle), core.get().flags.is_debug())?;
            }
            mark_cancelled(handle)
        };
        drop(taken);
        Ok(py.None().into_ptr())
    })
}

unsafe extern "C" fn threadsafe_cancelled(
    handle: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    raise(|py| {
        // SAFETY: the method descriptor has checked the type; the caller holds the handle.
        let cancelled = unsafe {
            let _guard = lock_threadsafe(py, handle);
            is_cancelled(handle)
        };
        Ok(cancelled.into_pyobject(py)?.to_owned().into_any().into_ptr())
    })
}

unsafe extern "C" fn threadsafe_run(
    handle: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    raise(|py| {
        // SAFETY: the method descriptor has checked the type; the caller holds the handle past the
        // guard; `asyncio.Handle` lives as long as the process.
        unsafe {
            let _guard = lock_threadsafe(py, handle);
            if !is_cancelled(handle) {
                let base = state().handle.class.cast::<ffi::PyObject>();
                Bound::from_borrowed_ptr(py, base)
                    .call_method1(intern!(py, "_run"), (Bound::from_borrowed_ptr(py, handle),))?;
            }
        }
        Ok(py.None().into_ptr())
    })
}

/// Makes the native subclass of `asyncio.events._ThreadSafeHandle`.
pub(crate) fn threadsafe_type<'py>(base: &Bound<'py, PyType>) -> PyResult<NativeHandle<'py>> {
    let methods = leak_methods([
        method_def(
            c"cancel",
            threadsafe_cancel,
            c"cancel($self, /)\n--\n\nCancel the call; wait for it if it runs in another thread.",
        ),
        method_def(
            c"cancelled",
            threadsafe_cancelled,
            c"cancelled($self, /)\n--\n\nWhether it was cancelled; wait for a run elsewhere.",
        ),
        method_def(
            c"_run",
            threadsafe_run,
            c"_run($self, /)\n--\n\nRun the callback, holding cancellation from elsewhere off.",
        ),
    ]);
    native_subclass(
        base,
        c"loop_pool._core._ThreadSafeHandle",
        c"The handle of call_soon_threadsafe: cancelling it waits for a callback that runs.",
        size_of::<Posted>(),
        methods,
        threadsafe_dealloc,
    )
}

/// Where the instances of a native subclass keep their extra bytes, from their start.
fn data_offset(class: &Bound<'_, PyAny>) -> usize {
    // SAFETY: this adds an offset to a pointer, whatever it points to.
    unsafe {
        let data = ffi::PyObject_GetTypeData(class.as_ptr(), class.as_ptr().cast());
        data as usize - class.as_ptr() as usize
    }
}

/// The interpreter keeps pointers to method definitions for ever.
fn leak_methods<const N: usize>(methods: [ffi::PyMethodDef; N]) -> ffi::PyType_Slot {
    let mut methods = Vec::from(methods);
    methods.push(ffi::PyMethodDef::zeroed());
    let methods = Box::leak(methods.into_boxed_slice()).as_mut_ptr();
    ffi::PyType_Slot { slot: ffi::Py_tp_methods, pfunc: methods.cast() }
}

/// Destroys a handle, of which `slots` are all slots that hold references: as the interpreter destroys
/// the instance of any Python class, which has to find out each time what there is to do.
///
/// # Safety
/// The last reference to `handle` is gone; the slots are those of its class.
#[inline(always)]
unsafe fn dealloc(handle: *mut ffi::PyObject, slots: &[usize]) {
    // SAFETY: nobody else has the handle, but by weak references until they are cleared. The handle
    // holds a reference to its type.
    unsafe {
        ffi::PyObject_GC_UnTrack(handle.cast());
        if has_weak(handle) {
            ffi::PyObject_ClearWeakRefs(handle);
        }
        for offset in slots {
            // Nobody can reach the handle any more, so that the slot may stay as it is.
            let held = *slot(handle, *offset);
            if !held.is_null() {
                decref(held);
            }
        }
        let class = ffi::Py_TYPE(handle);
        if let Some(free) = (*class).tp_free {
            free(handle.cast());
        }
        decref(class.cast());
    }
}

unsafe extern "C" fn soon_dealloc(handle: *mut ffi::PyObject) {
    // SAFETY: called by the interpreter for an instance of our type for `call_soon`.
    unsafe { dealloc(handle, &state().soon.slots) };
}

unsafe extern "C" fn timer_dealloc(handle: *mut ffi::PyObject) {
    // SAFETY: called by the interpreter for an instance of our timer type.
    unsafe { dealloc(handle, &state().timer.slots) };
}

unsafe extern "C" fn threadsafe_dealloc(handle: *mut ffi::PyObject) {
    // SAFETY: called by the interpreter for an instance of our thread-safe type.
    unsafe { dealloc(handle, &state().threadsafe.slots) };
}

/// A native heap type over a Python class, with `extra` zeroed bytes beside its slots (PEP 697).
/// Allocation and traversal are the base's.
fn native_subclass<'py>(
    base: &Bound<'py, PyType>,
    name: &'static std::ffi::CStr,
    doc: &'static std::ffi::CStr,
    extra: usize,
    methods: ffi::PyType_Slot,
    dealloc: ffi::destructor,
) -> PyResult<NativeHandle<'py>> {
    let py = base.py();
    let mut slots = [
        methods,
        context_attribute(),
        ffi::PyType_Slot { slot: ffi::Py_tp_dealloc, pfunc: dealloc as *mut c_void },
        ffi::PyType_Slot { slot: ffi::Py_tp_doc, pfunc: doc.as_ptr().cast_mut().cast() },
        ffi::PyType_Slot { slot: 0, pfunc: ptr::null_mut() },
    ];
    let mut spec = ffi::PyType_Spec {
        name: name.as_ptr(),
        basicsize: -c_int::try_from(extra)?,
        itemsize: 0,
        flags: u32::try_from(ffi::Py_TPFLAGS_DEFAULT)?,
        slots: slots.as_mut_ptr(),
    };
    // SAFETY: the spec is copied; names and methods are static.
    unsafe {
        let made = ffi::PyType_FromMetaclass(
            ptr::null_mut(),
            ptr::null_mut(),
            &raw mut spec,
            base.as_ptr(),
        );
        let made = Bound::from_owned_ptr_or_err(py, made)?;
        // It lives as long as the process, and all loops would count its instances.
        make_immortal(made.as_ptr());
        let weak = (*made.as_ptr().cast::<ffi::PyTypeObject>()).tp_weaklistoffset;
        Ok(NativeHandle { data: data_offset(&made), weak, class: made })
    }
}
