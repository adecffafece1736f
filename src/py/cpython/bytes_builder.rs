//! A bytes object that is filled as its content comes.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};

use pyo3::ffi;
use pyo3::prelude::*;

use super::object::{Ref, decref};
use crate::transport::Plaintext;

/// What a builder has made.
pub(crate) enum Built {
    /// A bytes object that nobody else has.
    Bytes(Ref),
    /// If nothing has come, or there was no memory for an object.
    Memory(Vec<u8>),
}

/// Plaintext that is decrypted into a bytes object, for as long as the thread is attached.
pub(crate) struct BytesBuilder<'py> {
    /// Ours alone, and seen by nobody; null before anything comes, and if there was no memory for it.
    object: *mut ffi::PyObject,
    /// Of the object. There is room for one byte more, which becomes zero in the end.
    size: usize,
    filled: usize,
    /// The size that is expected.
    expected: usize,
    /// What is filled in its stead if there was no memory.
    other: Option<Vec<u8>>,
    attached: PhantomData<Python<'py>>,
}

impl<'py> BytesBuilder<'py> {
    /// With nothing.
    pub(crate) fn new(_: Python<'py>) -> Self {
        Self {
            attached: PhantomData,
            object: ptr::null_mut(),
            size: 0,
            filled: 0,
            expected: 0,
            other: None,
        }
    }

    /// What has come.
    pub(crate) fn finish(mut self) -> Built {
        if self.other.is_none() && self.filled > 0 && self.filled != self.size {
            self.grow(self.filled);
        }
        if let Some(bytes) = self.other.take() {
            return Built::Memory(bytes);
        }
        if self.filled == 0 {
            return Built::Memory(Vec::new());
        }
        let object = std::mem::replace(&mut self.object, ptr::null_mut());
        // SAFETY: the object is ours, and not null, as something has come. It has a byte behind its content, which is
        // zero, and has been something else since.
        unsafe {
            contents(object).add(self.filled).write(0);
            Built::Bytes(Ref::from_owned(NonNull::new_unchecked(object)))
        }
    }

    /// Makes an object of this size with what has come. No Python runs.
    fn grow(&mut self, size: usize) {
        // SAFETY: we are attached; an object without content that nobody sees may be written to. What has come is not
        // longer than the old one with its last byte, or the new one.
        unsafe {
            let made = ffi::PyBytes_FromStringAndSize(ptr::null(), size.cast_signed());
            let before = std::mem::replace(&mut self.object, made);
            self.size = size;
            if made.is_null() {
                ffi::PyErr_Clear();
            }
            if before.is_null() {
                if made.is_null() {
                    self.other = Some(Vec::new());
                }
                return;
            }
            let content = std::slice::from_raw_parts(contents(before), self.filled);
            if made.is_null() {
                self.other = Some(content.to_vec());
            } else {
                contents(made).copy_from_nonoverlapping(content.as_ptr(), self.filled);
            }
            decref(before);
        }
    }
}

impl Drop for BytesBuilder<'_> {
    fn drop(&mut self) {
        if !self.object.is_null() {
            // SAFETY: it is ours, and we are attached.
            unsafe { decref(self.object) };
        }
    }
}

impl Plaintext for BytesBuilder<'_> {
    fn len(&self) -> usize {
        self.other.as_ref().map_or(self.filled, Vec::len)
    }

    fn hint(&mut self, bytes: usize) {
        self.expected = self.filled + bytes;
    }

    fn spare(&mut self, bytes: usize) -> &mut [MaybeUninit<u8>] {
        let needed = self.filled + bytes;
        if self.other.is_none() && (self.object.is_null() || needed > self.size + 1) {
            // The last byte of a record is none of its data. An object of no size would be the one that all have.
            let size = if needed > self.expected + 1 { needed } else { self.expected };
            self.grow(size.max(1));
        }
        if let Some(other) = &mut self.other {
            return Plaintext::spare(other, bytes);
        }
        // SAFETY: so many bytes belong to the object behind what has come, with the one behind its content.
        unsafe {
            let rest = contents(self.object).add(self.filled).cast();
            std::slice::from_raw_parts_mut(rest, self.size + 1 - self.filled)
        }
    }

    unsafe fn filled(&mut self, bytes: usize) {
        match &mut self.other {
            // SAFETY: by the caller's word.
            Some(other) => unsafe { Plaintext::filled(other, bytes) },
            None => self.filled += bytes,
        }
    }
}

/// The memory of a bytes object.
///
/// # Safety
/// `object` is alive.
unsafe fn contents(object: *mut ffi::PyObject) -> *mut u8 {
    // SAFETY: by the caller's word.
    unsafe { ffi::PyBytes_AS_STRING(object).cast_mut().cast() }
}
