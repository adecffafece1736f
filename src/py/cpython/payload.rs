//! Data that a transport has to write: a bytes object by reference, anything else as a copy, because the
//! program may change it.

use pyo3::ffi;
use pyo3::prelude::*;

use super::alloc;
use super::object::Ref;
use crate::transport::{Buffer, CopyOf};

/// Bytes to write.
#[derive(Debug)]
pub(crate) enum Payload {
    /// A `bytes` object, which cannot change. Dropped by its loop's thread, attached: no job ever
    /// holds the last reference.
    Bytes(Ref),
    /// A copy, or what was made to be written.
    Own(Vec<u8>),
}

// SAFETY: the bytes are read by any thread; the reference is dropped as `Ref` demands.
unsafe impl Send for Payload {}

// SAFETY: a bytes object's memory stays where it is and does not change while it is referenced; a
// vector's does not move with the vector.
unsafe impl Buffer for Payload {
    #[inline]
    fn bytes(&self) -> &[u8] {
        match self {
            // SAFETY: the reference keeps a bytes object alive; reading it needs no attachment.
            Self::Bytes(object) => unsafe { bytes_of(object.as_ptr()) },
            Self::Own(bytes) => bytes,
        }
    }
}

impl CopyOf for Payload {
    fn copy_of(bytes: &[u8]) -> Self {
        Self::Own(bytes.into())
    }

    fn keep(bytes: Vec<u8>) -> Self {
        Self::Own(bytes)
    }
}

/// The memory of a bytes object.
///
/// # Safety
/// `object` is a live bytes object, for as long as the result is used.
#[inline(always)]
pub(crate) unsafe fn bytes_of<'a>(object: *mut ffi::PyObject) -> &'a [u8] {
    // SAFETY: by the caller's word.
    unsafe {
        let length = ffi::Py_SIZE(object).unsigned_abs();
        std::slice::from_raw_parts(ffi::PyBytes_AS_STRING(object).cast(), length)
    }
}

/// A buffer that a program lent, released when it is dropped.
pub(crate) struct Borrowed(ffi::Py_buffer);

impl Borrowed {
    /// The contiguous memory of `object`, to be read, or with `writable` to be written.
    ///
    /// # Errors
    /// Those of the object: `TypeError` without the buffer protocol, `BufferError`.
    pub(crate) fn new(object: &Bound<'_, PyAny>, writable: bool) -> PyResult<Self> {
        let flags = if writable { ffi::PyBUF_WRITABLE } else { ffi::PyBUF_SIMPLE };
        let mut view = ffi::Py_buffer::new();
        // SAFETY: the object is alive; the view is released once, by `drop`.
        if unsafe { ffi::PyObject_GetBuffer(object.as_ptr(), &raw mut view, flags) } != 0 {
            return Err(alloc::raised(object.py()));
        }
        Ok(Self(view))
    }

    /// The memory. Another thread of the program may change it meanwhile, as with any C extension.
    pub(crate) fn bytes(&self) -> &[u8] {
        if self.0.len == 0 {
            return &[];
        }
        // SAFETY: the view holds that much memory until it is released.
        unsafe { std::slice::from_raw_parts(self.0.buf.cast(), self.0.len.unsigned_abs()) }
    }

    /// The memory, of a view made to be written.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        if self.0.len == 0 {
            return &mut [];
        }
        // SAFETY: as above; it was asked for as writable.
        unsafe { std::slice::from_raw_parts_mut(self.0.buf.cast(), self.0.len.unsigned_abs()) }
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        // SAFETY: made by `PyObject_GetBuffer`, on an attached thread, and released here alone.
        unsafe { ffi::PyBuffer_Release(&raw mut self.0) };
    }
}
