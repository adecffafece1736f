//! `recv` and `recv_into` of a plain `socket.socket`, without an exception if there are no data.
//!
//! A program nearly always asks for an answer before it has arrived. `BlockingIOError` costs more than the
//! system call that it reports, so the call is made here. Sockets of a subclass, and replaced methods, are
//! called as they are.

use std::ffi::c_int;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::slice;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyString};

use crate::config;
use crate::py::asyncio::state::state;
use crate::py::cpython::alloc;
use crate::py::cpython::error::os_error;
use crate::py::cpython::names::intern;
use crate::py::cpython::object::Ref;
use crate::sys::descriptor;
use crate::sys::socket::recv_uninit;

/// What is received, and into what.
pub(crate) enum Receive {
    /// `recv(size)`.
    New { size: usize },
    /// `recv_into(buffer)`.
    Into { buffer: Ref },
}

impl Receive {
    /// Recognises a call of `recv` or `recv_into` that is to be made here.
    pub(crate) fn of(
        sock: &Bound<'_, PyAny>,
        method: &Bound<'_, PyString>,
        argument: &Bound<'_, PyAny>,
    ) -> PyResult<Option<Self>> {
        let py = sock.py();
        let state = state();
        // SAFETY: a live object.
        let kind = unsafe { ffi::Py_TYPE(sock.as_ptr()) };
        if !std::ptr::eq(kind, state.socket.class) {
            return Ok(None);
        }
        let is = |name: &Bound<'_, PyString>, original: &Ref| {
            Ok::<_, PyErr>(
                method.is(name)
                    && std::ptr::eq(sock.get_type().getattr(name)?.as_ptr(), original.as_ptr()),
            )
        };
        if is(intern!(py, "recv"), &state.socket.recv)? {
            // A call that copies more is made detached, by the method itself.
            let size = argument.cast_exact::<PyInt>().ok().and_then(|n| n.extract().ok());
            return Ok(size
                .filter(|size| (1..=config::RECEIVE_ATTACHED).contains(size))
                .map(|size| Self::New { size }));
        }
        if is(intern!(py, "recv_into"), &state.socket.recv_into)? {
            return Ok(Some(Self::Into { buffer: argument.clone().into() }));
        }
        Ok(None)
    }

    /// Receives what is there. `None`: nothing yet.
    pub(crate) fn attempt<'py>(
        &self,
        sock: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = sock.py();
        let fd: RawFd = sock.call_method0(intern!(py, "fileno"))?.extract()?;
        let received = match self {
            Self::New { size } => new_bytes(py, fd, *size)?,
            Self::Into { buffer } => match into_buffer(py, fd, buffer)? {
                Some(received) => received,
                None => return self.by_method(sock).map(Some),
            },
        };
        match received {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let timeout = sock.call_method0(intern!(py, "gettimeout"))?;
                // A socket that may wait does so, as asyncio outside of debug mode lets it.
                if timeout.eq(0)? { Ok(None) } else { self.by_method(sock).map(Some) }
            }
            Err(error) => Err(os_error(py, &error)),
        }
    }

    #[cold]
    fn by_method<'py>(&self, sock: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = sock.py();
        // What may wait may be told so by its timeout only, not by another holder of the socket.
        let timeout = sock.call_method0(intern!(py, "gettimeout"))?;
        let flags = if timeout.eq(0)? { descriptor::NO_WAIT } else { 0 };
        match self {
            Self::New { size } => {
                sock.call_method1(intern!(py, "recv"), (alloc::int(py, *size)?, flags))
            }
            Self::Into { buffer } => {
                sock.call_method1(intern!(py, "recv_into"), (buffer.as_py(), 0, flags))
            }
        }
    }

    /// What it holds, for the garbage collector.
    pub(crate) fn object(&self) -> Option<&Ref> {
        match self {
            Self::New { .. } => None,
            Self::Into { buffer } => Some(buffer),
        }
    }
}

/// The result of a system call, which is no Python exception yet.
type Received<'py> = io::Result<Bound<'py, PyAny>>;

// Public C API; pyo3 does not bind it.
unsafe extern "C" {
    fn _PyBytes_Resize(bytes: *mut *mut ffi::PyObject, size: ffi::Py_ssize_t) -> c_int;
}

fn new_bytes(py: Python<'_>, fd: RawFd, size: usize) -> PyResult<Received<'_>> {
    // SAFETY: the new object is ours alone until it is returned. Its bytes are not initialised, and
    // those that were not received are cut off. Resizing frees the object if it fails.
    unsafe {
        let mut object = ffi::PyBytes_FromStringAndSize(std::ptr::null(), size.cast_signed());
        if object.is_null() {
            return Err(alloc::raised(py));
        }
        let bytes = ffi::PyBytes_AsString(object).cast::<MaybeUninit<u8>>();
        match recv_uninit(fd, slice::from_raw_parts_mut(bytes, size)) {
            Ok(got) => {
                if got < size && _PyBytes_Resize(&raw mut object, got.cast_signed()) != 0 {
                    return Err(alloc::raised(py));
                }
                Ok(Ok(Bound::from_owned_ptr(py, object)))
            }
            Err(error) => {
                ffi::Py_DECREF(object);
                Ok(Err(error))
            }
        }
    }
}

/// `None`: the method is to be called. It knows what to say of something that is no buffer, and it
/// detaches while it fills a large one.
fn into_buffer<'py>(py: Python<'py>, fd: RawFd, buffer: &Ref) -> PyResult<Option<Received<'py>>> {
    let mut view = MaybeUninit::<ffi::Py_buffer>::uninit();
    // SAFETY: attached; the view is filled if the call succeeds, and released before we return. While
    // it is held its bytes stay where they are, and are writable.
    unsafe {
        if ffi::PyObject_GetBuffer(buffer.as_ptr(), view.as_mut_ptr(), ffi::PyBUF_WRITABLE) != 0 {
            drop(alloc::raised_if_any(py));
            return Ok(None);
        }
        let view = view.assume_init_mut();
        let size = view.len.unsigned_abs();
        let received = (1..=config::RECEIVE_ATTACHED)
            .contains(&size)
            .then(|| recv_uninit(fd, slice::from_raw_parts_mut(view.buf.cast(), size)));
        ffi::PyBuffer_Release(view);
        match received {
            None => Ok(None),
            Some(Ok(got)) => Ok(Some(Ok(alloc::int(py, got)?.into_any()))),
            Some(Err(error)) => Ok(Some(Err(error))),
        }
    }
}
