//! Strong references that cost nothing but their count.
//!
//! pyo3's `Py` asks at each drop whether this thread is attached through pyo3; the hot path enters
//! through raw C functions, which pyo3 does not see. A [`Ref`] leaves that question to its owner.

use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use pyo3::ffi;
use pyo3::prelude::*;

/// A strong reference to a Python object.
///
/// Invariant: it is created, cloned and dropped by attached threads only, and never dropped under
/// a lock or while a loop's owner state is borrowed, since that may run Python code.
#[repr(transparent)]
#[derive(Debug)]
pub(super) struct Ref(ManuallyDrop<Py<PyAny>>);

impl Ref {
    /// Takes over a strong reference.
    ///
    /// # Safety
    /// `object` is a strong reference which the caller gives away.
    #[inline(always)]
    pub(super) unsafe fn from_owned(object: NonNull<ffi::PyObject>) -> Self {
        // SAFETY: by the type's invariant this thread is attached; the count is the caller's gift.
        let bound = unsafe { Bound::from_owned_ptr(Python::assume_attached(), object.as_ptr()) };
        Self(ManuallyDrop::new(bound.unbind()))
    }

    /// Takes over the result of a C call, or the exception that stands in for it.
    ///
    /// # Safety
    /// `object` is a strong reference which the caller gives away, or null with an exception set.
    #[inline(always)]
    pub(super) unsafe fn from_owned_or_err(
        py: Python<'_>,
        object: *mut ffi::PyObject,
    ) -> PyResult<Self> {
        match NonNull::new(object) {
            // SAFETY: handed on to our caller.
            Some(object) => Ok(unsafe { Self::from_owned(object) }),
            None => Err(PyErr::fetch(py)),
        }
    }

    /// Makes a new strong reference.
    ///
    /// # Safety
    /// `object` points to a live object, and the thread is attached.
    #[inline(always)]
    pub(super) unsafe fn from_borrowed(object: *mut ffi::PyObject) -> Self {
        // SAFETY: the object is alive, so it may be counted, and is not null.
        unsafe {
            ffi::Py_INCREF(object);
            Self::from_owned(NonNull::new_unchecked(object))
        }
    }

    /// A second strong reference. The caller is attached.
    #[inline(always)]
    pub(super) fn clone_ref(&self, _py: Python<'_>) -> Self {
        // SAFETY: we hold the object alive.
        unsafe { Self::from_borrowed(self.as_ptr()) }
    }

    #[inline(always)]
    pub(super) fn as_ptr(&self) -> *mut ffi::PyObject {
        self.0.as_ptr()
    }

    /// Gives the strong reference away.
    #[inline(always)]
    pub(super) fn into_ptr(self) -> *mut ffi::PyObject {
        let object = self.as_ptr();
        std::mem::forget(self);
        object
    }

    /// The same reference as pyo3 knows it.
    #[inline(always)]
    pub(super) fn as_py(&self) -> &Py<PyAny> {
        &self.0
    }
}

impl Drop for Ref {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: we own one count, and the dropping thread is attached by the type's invariant.
        unsafe { ffi::Py_DECREF(self.as_ptr()) };
    }
}

impl From<Bound<'_, PyAny>> for Ref {
    fn from(object: Bound<'_, PyAny>) -> Self {
        Self(ManuallyDrop::new(object.unbind()))
    }
}
