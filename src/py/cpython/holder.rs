//! The object that owns a descriptor: a socket or file of the program, which may close it while a transport
//! uses it.
//!
//! CPython stores the number at the beginning of the object, and overwrites it before it closes or detaches
//! the descriptor. Its offset is determined at import. Objects whose offset is unknown are trusted, as in
//! asyncio.

use std::os::fd::RawFd;
use std::sync::OnceLock;

use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyString, PyType};

use super::names::intern;
use super::object::Ref;
use crate::transport::Descriptor;

/// Kept as long as the native half that uses the descriptor.
#[derive(Default)]
pub(crate) struct Holder(OnceLock<Ref>);

impl Holder {
    /// Lets `descriptor` be used only as long as `object` has not closed it. Once; before, or by the
    /// loop's thread.
    ///
    /// # Safety
    /// When this is dropped, nobody uses the descriptor any more.
    pub(crate) unsafe fn hold(&self, descriptor: &Descriptor, object: &Bound<'_, PyAny>) {
        let Some((object, copy)) = copy_of_number(object) else { return };
        // SAFETY: the object is alive and of a class that keeps a number there.
        let known = unsafe { copy.read_volatile() } == descriptor.number();
        if known && self.0.set(object).is_ok() {
            // SAFETY: the object is kept, by our caller's word as long as that is used.
            unsafe { descriptor.is_closed_by(copy) };
        }
    }

    /// For the garbage collector.
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.0.get().map_or(Ok(()), |object| visit.call(object.as_py()))
    }
}

/// The object that has a number of its own, and where: of a buffered file, what it reads or writes.
/// `None` if that is not known.
pub(crate) fn copy_of_number(object: &Bound<'_, PyAny>) -> Option<(Ref, *const RawFd)> {
    let py = object.py();
    let classes = classes(py);
    let known = |object: &Bound<'_, PyAny>| {
        let found = is_a(object, classes.socket.as_ref()) || is_a(object, classes.file.as_ref());
        found.then(|| Ref::from(object.clone()))
    };
    let found = known(object).or_else(|| {
        let buffer =
            inner(object, intern!(object.py(), "buffer")).unwrap_or_else(|| object.clone());
        known(&inner(&buffer, intern!(object.py(), "raw"))?)
    })?;
    let copy = number_at(found.as_ptr());
    Some((found, copy))
}

/// Where a socket keeps its number, if that is known; valid as long as the socket is alive.
#[inline]
pub(crate) fn number_of_socket(sock: &Bound<'_, PyAny>) -> Option<*const RawFd> {
    is_a(sock, classes(sock.py()).socket.as_ref()).then(|| number_at(sock.as_ptr()))
}

fn is_a(object: &Bound<'_, PyAny>, class: Option<&Py<PyType>>) -> bool {
    // SAFETY: both are alive.
    class.is_some_and(|class| unsafe {
        ffi::PyObject_TypeCheck(object.as_ptr(), class.as_ptr().cast()) != 0
    })
}

fn inner<'py>(
    object: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
) -> Option<Bound<'py, PyAny>> {
    object.getattr_opt(name).ok().flatten()
}

/// Where an object keeps what follows its header.
fn number_at(object: *mut ffi::PyObject) -> *const RawFd {
    object.wrapping_add(1).cast()
}

/// The classes whose instances keep the number there.
struct Classes {
    socket: Option<Py<PyType>>,
    file: Option<Py<PyType>>,
}

fn classes(py: Python<'_>) -> &'static Classes {
    static CLASSES: OnceLock<Classes> = OnceLock::new();
    CLASSES.get().unwrap_or_else(|| {
        // Not under the lock of the cell: this runs Python.
        let file = py.import(intern!(py, "os")).and_then(|os| os.getattr(intern!(py, "devnull")));
        let found = Classes {
            socket: learn(py, intern!(py, "_socket"), intern!(py, "socket"), ()).ok().flatten(),
            file: file
                .and_then(|file| learn(py, intern!(py, "_io"), intern!(py, "FileIO"), (file,)))
                .ok()
                .flatten(),
        };
        CLASSES.get_or_init(|| found)
    })
}

/// The class, if its instances keep their number after the header, and overwrite it when they close.
fn learn<'py, A: pyo3::call::PyCallArgs<'py>>(
    py: Python<'py>,
    module: &Bound<'py, PyString>,
    class: &Bound<'py, PyString>,
    arguments: A,
) -> PyResult<Option<Py<PyType>>> {
    let class = py.import(module)?.getattr(class)?;
    let sample = class.call1(arguments)?;
    let number: RawFd = sample.call_method0(intern!(py, "fileno"))?.extract()?;
    let at = number_at(sample.as_ptr());
    let large = class.getattr(intern!(py, "__basicsize__"))?.extract::<usize>()?
        >= size_of::<ffi::PyObject>() + size_of::<RawFd>();
    // SAFETY: the object is alive, and large enough if this is read.
    let read = || large && unsafe { at.read_volatile() } == number;
    let before = read();
    sample.call_method0(intern!(py, "close"))?;
    let is_there = before && !read();
    Ok(if is_there { Some(class.cast_into::<PyType>()?.unbind()) } else { None })
}
