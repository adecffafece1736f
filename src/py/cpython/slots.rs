//! The slots of Python classes: their offsets, and how they are read and written on the free-threaded
//! build.

use pyo3::exceptions::PyImportError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::alloc;
use super::names::intern;

/// The slot at `offset` of an object.
///
/// # Safety
/// `handle` is a live object, and `offset` that of a slot of its class.
#[inline(always)]
pub(crate) unsafe fn slot(handle: *mut ffi::PyObject, offset: usize) -> *mut *mut ffi::PyObject {
    // SAFETY: within the object, by the caller's word.
    unsafe { handle.byte_add(offset).cast() }
}

/// Runs `f` in the critical section of `object`.
///
/// # Safety
/// `object` is alive, and the thread attached. Where `f` runs Python, the interpreter leaves the section
/// whenever that waits.
#[inline(always)]
pub(crate) unsafe fn in_critical_section<R>(
    object: *mut ffi::PyObject,
    f: impl FnOnce() -> R,
) -> R {
    #[cfg(Py_GIL_DISABLED)]
    {
        struct Section(std::mem::MaybeUninit<ffi::PyCriticalSection>);

        impl Drop for Section {
            #[inline(always)]
            fn drop(&mut self) {
                // SAFETY: it was begun at this place, by this thread.
                unsafe { ffi::PyCriticalSection_End(self.0.as_mut_ptr()) };
            }
        }

        let mut section = Section(std::mem::MaybeUninit::uninit());
        // SAFETY: the section is a local of this frame, and ends with it.
        unsafe { ffi::PyCriticalSection_Begin(section.0.as_mut_ptr(), object) };
        f()
    }
    #[cfg(not(Py_GIL_DISABLED))]
    {
        let _ = object;
        f()
    }
}

/// Runs `f` in the critical sections of two objects at once.
///
/// # Safety
/// As for [`in_critical_section`], of both.
#[inline(always)]
pub(crate) unsafe fn in_critical_sections<R>(
    one: *mut ffi::PyObject,
    other: *mut ffi::PyObject,
    f: impl FnOnce() -> R,
) -> R {
    #[cfg(Py_GIL_DISABLED)]
    {
        struct Sections(std::mem::MaybeUninit<ffi::PyCriticalSection2>);

        impl Drop for Sections {
            #[inline(always)]
            fn drop(&mut self) {
                // SAFETY: they were begun at this place, by this thread.
                unsafe { ffi::PyCriticalSection2_End(self.0.as_mut_ptr()) };
            }
        }

        let mut sections = Sections(std::mem::MaybeUninit::uninit());
        // SAFETY: the sections are a local of this frame, and end with it.
        unsafe { ffi::PyCriticalSection2_Begin(sections.0.as_mut_ptr(), one, other) };
        f()
    }
    #[cfg(not(Py_GIL_DISABLED))]
    {
        let _ = (one, other);
        f()
    }
}

/// The offsets of all slots of a Python class that hold references, its bases' among them.
pub(crate) fn all_slots(class: &Bound<'_, PyType>) -> PyResult<Box<[usize]>> {
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
pub(crate) fn slot_offset(class: &Bound<'_, PyType>, name: &str) -> PyResult<usize> {
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
                "loop_pool does not support this version of asyncio: {}.{name} is not a slot",
                class.name()?
            ),
        )),
    }
}
