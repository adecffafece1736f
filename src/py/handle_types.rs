//! The native subclasses of asyncio's handles: they add a timer's key, or a lock, beside asyncio's
//! slots (PEP 697), and a `cancel` that runs no Python.

use std::ffi::{c_int, c_void};
use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use pyo3::exceptions::PyImportError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::alloc;
use super::arguments::{method_def, raise};
use super::callback::Callback;
use super::core::LoopCore;
use super::handle::{has_weak, is_cancelled, keep_repr, loop_of, mark_cancelled, slot};
use super::names::intern;
use super::object::{Ref, decref, make_immortal, share_new};
use super::scheduling::{self, NotOwner};
use super::state::state;
use crate::event_loop::{Carrier, Link, Post};
use crate::id::TimerKey;
use crate::sync::thread_token;

// ---------------------------------------------------------------------------------------------
// TimerHandle: the timer's key beside asyncio's slots
// ---------------------------------------------------------------------------------------------

/// The word that holds the [`TimerKey`] of a pending timer, or zero.
///
/// # Safety
/// `handle` is a live instance of our timer type.
#[inline(always)]
unsafe fn timer_word<'a>(handle: *mut ffi::PyObject) -> &'a AtomicU64 {
    // SAFETY: the type reserved the word; only the loop's owner writes it.
    unsafe { &*handle.byte_add(state().timer_data).cast::<AtomicU64>() }
}

/// Notes under which key the timer is pending.
///
/// # Safety
/// `handle` is a live instance of our timer type.
pub(super) unsafe fn set_timer_key(handle: *mut ffi::PyObject, key: TimerKey) {
    // SAFETY: handed on to our caller.
    unsafe { timer_word(handle).store(key.to_bits(), Relaxed) };
}

/// Notes that the timer is no longer pending, and returns the key it had.
pub(super) fn take_timer_key(timer: &Callback) -> Option<TimerKey> {
    let handle = timer.handle();
    // SAFETY: only our timer handles are put into a loop's heap; a bool needs no counting.
    unsafe {
        *slot(handle, state().timer.scheduled) = ffi::Py_False();
        TimerKey::from_bits(timer_word(handle).swap(0, Relaxed))
    }
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
                keep_repr(&Bound::from_borrowed_ptr(py, handle), core)?;
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
pub(super) fn timer_type<'py>(base: &Bound<'py, PyType>) -> PyResult<Bound<'py, PyAny>> {
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

// ---------------------------------------------------------------------------------------------
// ThreadSafeHandle: a lock which is held while the callback runs, as asyncio promises since 3.14;
// and its place in the inbox of its loop
// ---------------------------------------------------------------------------------------------

/// What a handle of `call_soon_threadsafe` keeps beside asyncio's slots.
#[repr(C)]
struct Posted {
    lock: HandleLock,
    /// Written by [`post`], once.
    link: Link<Post<Callback>>,
}

/// What is ours in a handle.
///
/// # Safety
/// `handle` is a live instance of our thread-safe type.
#[inline(always)]
unsafe fn posted(handle: *mut ffi::PyObject) -> NonNull<Posted> {
    // SAFETY: the type reserved the place.
    unsafe { NonNull::new_unchecked(handle.byte_add(state().threadsafe_data).cast()) }
}

/// How the loop gets at a handle that was posted: a strong reference, which the inbox holds.
static CARRIER: Carrier<Post<Callback>> = Carrier { take: take_post, look: look_at_post };

/// # Safety
/// `link` is that of a live handle whose reference the caller takes over; the thread is attached.
unsafe fn take_post(link: NonNull<Link<Post<Callback>>>) -> Post<Callback> {
    let offset = state().threadsafe_data + std::mem::offset_of!(Posted, link);
    // SAFETY: by our caller's word.
    Post::Call(Callback::from_handle(unsafe { Ref::from_owned(link.byte_sub(offset).cast()) }))
}

/// # Safety
/// As for [`take_post`], but that the reference stays where it is.
unsafe fn look_at_post(link: NonNull<Link<Post<Callback>>>, f: &mut dyn FnMut(&Post<Callback>)) {
    // SAFETY: by our caller's word; what is made of the reference is not dropped.
    f(&ManuallyDrop::new(unsafe { take_post(link) }));
}

/// Posts a new handle to its loop, from another thread than the loop's.
///
/// The loop's thread destroys what it has run, so that what was made for this handle is given to all
/// threads.
///
/// # Safety
/// `handle` is of our thread-safe type, and was made by this thread just now for the loop of `core`.
pub(super) unsafe fn post(core: &LoopCore, handle: &Ref) {
    let (object, layout) = (handle.as_ptr(), &state().handle);
    // SAFETY: nobody else knows the handle. The second reference is the inbox's, of which `CARRIER`
    // knows. The handle stays where it is, and is posted this once.
    unsafe {
        for offset in [layout.args, layout.context] {
            share_new(*slot(object, offset), 0);
        }
        share_new(object, 1);
        let link = (&raw mut (*posted(object).as_ptr()).link);
        link.write(Link::new(&CARRIER));
        core.event_loop.post_link(NonNull::new_unchecked(link));
    }
}

/// A re-entrant lock on a `PyMutex`, which detaches while it waits.
#[repr(C)]
struct HandleLock {
    mutex: ffi::PyMutex,
    /// The thread that holds it, or 0; only that thread can find its own token here.
    holder: AtomicUsize,
}

/// Releases a [`HandleLock`], unless an outer frame of this thread holds it.
pub(super) struct HandleGuard<'a> {
    lock: Option<&'a HandleLock>,
}

impl Drop for HandleGuard<'_> {
    fn drop(&mut self) {
        if let Some(lock) = self.lock {
            lock.holder.store(0, Relaxed);
            // SAFETY: this thread locked it.
            unsafe { ffi::PyMutex_Unlock((&raw const lock.mutex).cast_mut()) };
        }
    }
}

/// Locks a handle of `call_soon_threadsafe`, waiting detached for a callback that runs elsewhere.
///
/// # Safety
/// `handle` is a live instance of our thread-safe type, held alive past the guard.
pub(super) unsafe fn lock_threadsafe<'a>(
    _py: Python<'_>,
    handle: *mut ffi::PyObject,
) -> HandleGuard<'a> {
    // SAFETY: the type reserved the lock, zeroed, which means unlocked.
    let lock = unsafe { &(*posted(handle).as_ptr()).lock };
    if lock.holder.load(Relaxed) == thread_token() {
        return HandleGuard { lock: None };
    }
    // SAFETY: the mutex does not move; waiting for it detaches.
    unsafe { ffi::PyMutex_Lock((&raw const lock.mutex).cast_mut()) };
    lock.holder.store(thread_token(), Relaxed);
    HandleGuard { lock: Some(lock) }
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
                keep_repr(&Bound::from_borrowed_ptr(py, handle), core.get())?;
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
                let base = state().handle_type.cast::<ffi::PyObject>();
                Bound::from_borrowed_ptr(py, base)
                    .call_method1(intern!(py, "_run"), (Bound::from_borrowed_ptr(py, handle),))?;
            }
        }
        Ok(py.None().into_ptr())
    })
}

/// Makes the native subclass of `asyncio.events._ThreadSafeHandle`.
pub(super) fn threadsafe_type<'py>(base: &Bound<'py, PyType>) -> PyResult<Bound<'py, PyAny>> {
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
pub(super) fn data_offset(class: &Bound<'_, PyAny>) -> usize {
    // SAFETY: this adds an offset to a pointer, whatever it points to.
    unsafe {
        let data = ffi::PyObject_GetTypeData(class.as_ptr(), class.as_ptr().cast());
        data as usize - class.as_ptr() as usize
    }
}

/// Where the instances of both classes keep the word for their weak references, from their start.
///
/// # Errors
/// `ImportError` if they have none, or not in one place.
pub(super) fn weak_offset(classes: [&Bound<'_, PyAny>; 2]) -> PyResult<isize> {
    // SAFETY: a live type.
    let offset = |class: &Bound<'_, PyAny>| unsafe {
        (*class.as_ptr().cast::<ffi::PyTypeObject>()).tp_weaklistoffset
    };
    match classes.map(offset) {
        [one, other] if one == other && one != 0 => Ok(one),
        _ => Err(alloc::error::<PyImportError>(
            classes[0].py(),
            "loop_pool does not know this version of asyncio: no weak reference to a handle",
        )),
    }
}

/// The interpreter keeps pointers to method definitions for ever.
fn leak_methods<const N: usize>(methods: [ffi::PyMethodDef; N]) -> *mut c_void {
    let mut methods = Vec::from(methods);
    methods.push(ffi::PyMethodDef::zeroed());
    Box::leak(methods.into_boxed_slice()).as_mut_ptr().cast()
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
            let held = ptr::replace(slot(handle, *offset), ptr::null_mut());
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

unsafe extern "C" fn timer_dealloc(handle: *mut ffi::PyObject) {
    // SAFETY: called by the interpreter for an instance of our timer type.
    unsafe { dealloc(handle, &state().timer.all) };
}

unsafe extern "C" fn threadsafe_dealloc(handle: *mut ffi::PyObject) {
    // SAFETY: called by the interpreter for an instance of our thread-safe type.
    unsafe { dealloc(handle, &state().threadsafe_slots) };
}

/// A native heap type over a Python class, with `extra` zeroed bytes beside its slots (PEP 697).
/// Allocation and traversal are the base's.
fn native_subclass<'py>(
    base: &Bound<'py, PyType>,
    name: &'static std::ffi::CStr,
    doc: &'static std::ffi::CStr,
    extra: usize,
    methods: *mut c_void,
    dealloc: ffi::destructor,
) -> PyResult<Bound<'py, PyAny>> {
    let py = base.py();
    let mut slots = [
        ffi::PyType_Slot { slot: ffi::Py_tp_methods, pfunc: methods },
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
        Ok(made)
    }
}
