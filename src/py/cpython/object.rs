//! Strong references that cost nothing but their count.
//!
//! pyo3's `Py` checks at each drop whether pyo3 has attached this thread. The hot path enters through raw C
//! functions, which pyo3 does not see. [`Ref`] leaves this check to its user.

use std::ffi::CStr;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use pyo3::ffi;
use pyo3::prelude::*;

#[cfg(all(Py_GIL_DISABLED, target_os = "linux", target_arch = "x86_64"))]
use std::sync::atomic::Ordering::Relaxed;

/// Counts a reference, as the interpreter's own inline `Py_INCREF`: pyo3 calls a function for it on
/// the free-threaded build, and a callback is counted some ten times on its way.
///
/// # Safety
/// `object` is alive, and the thread attached.
#[inline(always)]
pub(crate) unsafe fn incref(object: *mut ffi::PyObject) {
    #[cfg(all(Py_GIL_DISABLED, target_os = "linux", target_arch = "x86_64"))]
    // SAFETY: the object is alive; on this platform the interpreter identifies threads by the same
    // pointer, and the local count belongs to the thread that it names.
    unsafe {
        let local = &(*object).ob_ref_local;
        let count = local.load(Relaxed).wrapping_add(1);
        if count == 0 {
            return; // immortal
        }
        if is_owned_here(object) {
            local.store(count, Relaxed);
        } else {
            (*object).ob_ref_shared.fetch_add(1 << SHARED_SHIFT, Relaxed);
        }
    }
    #[cfg(not(all(Py_GIL_DISABLED, target_os = "linux", target_arch = "x86_64")))]
    // SAFETY: handed on to our caller.
    unsafe {
        ffi::Py_INCREF(object);
    }
}

/// Gives a reference up, as the interpreter's own inline `Py_DECREF`.
///
/// # Safety
/// The caller owns a reference to `object`, and the thread is attached.
#[inline(always)]
pub(crate) unsafe fn decref(object: *mut ffi::PyObject) {
    #[cfg(all(Py_GIL_DISABLED, target_os = "linux", target_arch = "x86_64"))]
    // SAFETY: as in `incref`. The last local count and all shared ones are the interpreter's
    // business; a local count above one only goes down.
    unsafe {
        let local = &(*object).ob_ref_local;
        let count = local.load(Relaxed);
        if count == u32::MAX {
            return; // immortal
        }
        if count > 1 && is_owned_here(object) {
            local.store(count - 1, Relaxed);
        } else {
            ffi::Py_DECREF(object);
        }
    }
    #[cfg(not(all(Py_GIL_DISABLED, target_os = "linux", target_arch = "x86_64")))]
    // SAFETY: handed on to our caller.
    unsafe {
        ffi::Py_DECREF(object);
    }
}

/// `_Py_REF_SHARED_SHIFT`: the low bits of the shared count are flags.
#[cfg(all(Py_GIL_DISABLED, target_os = "linux", target_arch = "x86_64"))]
const SHARED_SHIFT: isize = 2;

/// The shared count of an object without an owner (`_Py_REF_MERGED`) that has one reference.
#[cfg(all(Py_GIL_DISABLED, target_os = "linux", target_arch = "x86_64"))]
const ONE_SHARED: isize = 1 << SHARED_SHIFT | 3;

/// Whether the object's local count belongs to this thread.
#[cfg(all(Py_GIL_DISABLED, target_os = "linux", target_arch = "x86_64"))]
#[inline(always)]
unsafe fn is_owned_here(object: *mut ffi::PyObject) -> bool {
    // SAFETY: the object is alive. Another thread may clear the owner, never make us it, so a racy
    // read answers right for this thread.
    unsafe { (&raw const (*object).ob_tid).read_volatile() == crate::sync::thread_token() }
}

/// Makes an object that lives as long as the process immortal: nobody counts its references any
/// more. Returns whether it is immortal now.
///
/// Every loop counts references to the same few objects of asyncio. The instances of a C type, for
/// one, give their reference to the type up on one shared word, so N loops that run tasks would
/// fight over its cache line at each step. (CPython makes its own static types immortal for this.)
///
/// Only an object that this thread owns is changed: its local count is written by this thread alone,
/// so no count of another thread can undo the change. On a build with the GIL nothing is done.
///
/// # Safety
/// `object` is alive, and the thread attached.
pub(crate) unsafe fn make_immortal(object: *mut ffi::PyObject) -> bool {
    #[cfg(all(Py_GIL_DISABLED, target_os = "linux", target_arch = "x86_64"))]
    // SAFETY: as `_Py_SetImmortalUntracked` does it, on the owner's thread. Other threads look at
    // the local count first; what they still add to the shared one means nothing from then on.
    unsafe {
        if (*object).ob_ref_local.load(Relaxed) == u32::MAX {
            return true;
        }
        if !is_owned_here(object) {
            return false;
        }
        (*object).ob_ref_local.store(u32::MAX, Relaxed);
        (&raw mut (*object).ob_tid).write_volatile(0);
        true
    }
    #[cfg(not(all(Py_GIL_DISABLED, target_os = "linux", target_arch = "x86_64")))]
    {
        let _ = object;
        false
    }
}

/// Whether the caller's reference is the only one there is. May say no without need.
///
/// # Safety
/// `object` is alive, and the thread attached.
#[inline(always)]
pub(crate) unsafe fn is_unique(object: *mut ffi::PyObject) -> bool {
    #[cfg(all(Py_GIL_DISABLED, target_os = "linux", target_arch = "x86_64"))]
    // SAFETY: the object is alive. With one local reference, which is ours, no shared one, and no
    // weak one (which would set a flag in the shared word), nobody else could make another.
    unsafe {
        is_owned_here(object)
            && (*object).ob_ref_local.load(Relaxed) == 1
            && (*object).ob_ref_shared.load(Relaxed) == 0
    }
    #[cfg(all(Py_GIL_DISABLED, not(all(target_os = "linux", target_arch = "x86_64"))))]
    // SAFETY: handed on to our caller.
    unsafe {
        ffi::PyUnstable_Object_IsUniquelyReferenced(object) == 1
    }
    // With the GIL the count says nothing of weak references, and counting is cheap.
    #[cfg(not(Py_GIL_DISABLED))]
    {
        let _ = object;
        false
    }
}

/// Gives a new object to all threads, with `more` further references to it: from then on none counts
/// it for itself alone, and whichever gives up the last reference destroys it. An object that is not
/// new, or is known to others, is left as it is but for the references.
///
/// Otherwise an object that one thread made and hands to another goes back to its maker to be
/// destroyed, by way of a lock and an interruption of the maker.
///
/// # Safety
/// `object` is alive, the caller owns a reference to it, and the thread is attached.
#[inline(always)]
pub(crate) unsafe fn share_new(object: *mut ffi::PyObject, more: u8) {
    #[cfg(all(Py_GIL_DISABLED, target_os = "linux", target_arch = "x86_64"))]
    // SAFETY: as the interpreter's own `_Py_MergeZeroLocalRefcount`, with the count kept. The one
    // reference is the caller's, and there is no weak one: nobody else looks at the object.
    unsafe {
        if (*object).ob_ref_local.load(Relaxed) == 1
            && is_owned_here(object)
            && (*object).ob_ref_shared.load(Relaxed) == 0
        {
            let more = isize::from(more) << SHARED_SHIFT;
            (*object).ob_ref_shared.store(ONE_SHARED + more, Relaxed);
            (*object).ob_ref_local.store(0, Relaxed);
            (&raw mut (*object).ob_tid).write_volatile(0);
            return;
        }
    }
    for _ in 0..more {
        // SAFETY: handed on to our caller.
        unsafe { incref(object) };
    }
}

/// As [`is_unique`], of an object that was given to all threads by [`share_new`]; `weak` says
/// whether weak references to it exist.
///
/// # Safety
/// As for `is_unique`.
#[inline(always)]
pub(crate) unsafe fn is_unique_shared(
    object: *mut ffi::PyObject,
    weak: impl FnOnce() -> bool,
) -> bool {
    #[cfg(all(Py_GIL_DISABLED, target_os = "linux", target_arch = "x86_64"))]
    // SAFETY: the object is alive. The one reference is ours, and without a weak one nobody could
    // make another. What another thread did before it gave its own up comes before this (acquire).
    unsafe {
        (*object).ob_ref_local.load(Relaxed) == 0
            && (*object).ob_ref_shared.load(std::sync::atomic::Ordering::Acquire) == ONE_SHARED
            && !weak()
    }
    #[cfg(not(all(Py_GIL_DISABLED, target_os = "linux", target_arch = "x86_64")))]
    {
        let _ = (object, weak);
        false
    }
}

/// Has the processor fetch the two cache lines from `address` on, wherever that is.
#[inline(always)]
pub(crate) fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        const LINE: usize = 64;
        // SAFETY: every x86-64 processor has the instruction, which touches nothing.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(address.cast());
            _mm_prefetch::<_MM_HINT_T0>(address.wrapping_add(LINE).cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = address;
    }
}

/// A strong reference to a Python object.
///
/// Invariant: it is created, cloned and dropped by attached threads only, and never dropped under
/// a lock or while a loop's owner state is borrowed, since that may run Python code.
#[repr(transparent)]
#[derive(Debug)]
pub(crate) struct Ref(ManuallyDrop<Py<PyAny>>);

impl Ref {
    /// Takes over a strong reference.
    ///
    /// # Safety
    /// `object` is a strong reference which the caller gives away.
    #[inline(always)]
    pub(crate) unsafe fn from_owned(object: NonNull<ffi::PyObject>) -> Self {
        // SAFETY: by the type's invariant this thread is attached; the count is the caller's gift.
        let bound = unsafe { Bound::from_owned_ptr(Python::assume_attached(), object.as_ptr()) };
        Self(ManuallyDrop::new(bound.unbind()))
    }

    /// Makes a new strong reference.
    ///
    /// # Safety
    /// `object` points to a live object, and the thread is attached.
    #[inline(always)]
    pub(crate) unsafe fn from_borrowed(object: *mut ffi::PyObject) -> Self {
        // SAFETY: the object is alive, so it may be counted, and is not null.
        unsafe {
            incref(object);
            Self::from_owned(NonNull::new_unchecked(object))
        }
    }

    /// A second strong reference. The caller is attached.
    #[inline(always)]
    pub(crate) fn clone_ref(&self, _py: Python<'_>) -> Self {
        // SAFETY: we hold the object alive.
        unsafe { Self::from_borrowed(self.as_ptr()) }
    }

    #[inline(always)]
    pub(crate) fn as_ptr(&self) -> *mut ffi::PyObject {
        self.0.as_ptr()
    }

    /// Gives the strong reference away.
    #[inline(always)]
    pub(crate) fn into_ptr(self) -> *mut ffi::PyObject {
        let object = self.as_ptr();
        std::mem::forget(self);
        object
    }

    /// Drops it where the compiler may not call the glue for that, but has to inline it.
    #[inline(always)]
    pub(crate) fn drop_inline(self) {
        // SAFETY: as for `drop`.
        unsafe { decref(self.into_ptr()) };
    }

    /// The same reference as pyo3 knows it.
    #[inline(always)]
    pub(crate) fn as_py(&self) -> &Py<PyAny> {
        &self.0
    }
}

impl Drop for Ref {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: we own one count, and the dropping thread is attached by the type's invariant.
        unsafe { decref(self.as_ptr()) };
    }
}

/// A second strong reference to what may be there. The caller is attached.
#[inline(always)]
pub(crate) fn copied(py: Python<'_>, reference: Option<&Ref>) -> Option<Ref> {
    reference.map(|reference| reference.clone_ref(py))
}

impl From<Bound<'_, PyAny>> for Ref {
    fn from(object: Bound<'_, PyAny>) -> Self {
        Self(ManuallyDrop::new(object.unbind()))
    }
}

/// Whether a function is the interpreter's own of that name in a built-in module.
///
/// # Safety
/// The objects are alive, and the thread attached.
pub(crate) unsafe fn is_builtin(
    function: *mut ffi::PyObject,
    module: *mut ffi::PyObject,
    name: &CStr,
) -> bool {
    // SAFETY: one of exactly that type has that layout; its definition lives as long as it.
    unsafe {
        ffi::PyCFunction_CheckExact(function) != 0
            && ffi::PyCFunction_GetSelf(function) == module
            && CStr::from_ptr((*(*function.cast::<ffi::PyCFunctionObject>()).m_ml).ml_name) == name
    }
}
