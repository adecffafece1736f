//! What an operation on a socket does when its descriptor is ready: asyncio's `_sock_recv`,
//! `_sock_sendall`, `_sock_connect_cb`, `_sock_accept` and `_sock_sendfile_native_impl`.
//!
//! The socket object's own methods make the system calls, so subclasses of `socket.socket` and all address
//! families work.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use pyo3::exceptions::{
    PyBlockingIOError, PyConnectionError, PyInterruptedError, PyKeyboardInterrupt, PyOSError,
    PySystemExit,
};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use super::sock_receive::Receive;
use crate::py::asyncio::state::state;
use crate::py::cpython::alloc;
use crate::py::cpython::names::intern;
use crate::py::cpython::object::Ref;
use crate::sys::descriptor::{self, NO_WAIT};

/// The operation to perform. Only the loop's thread changes the counters.
pub(crate) enum OperationKind {
    /// Call a method until it does not block: `recvfrom`, `recvfrom_into`, `sendto`, and of other
    /// classes than `socket.socket` also `recv` and `recv_into`.
    Call { method: Ref, argument: Ref, second: Option<Ref> },
    /// Receive without an exception when nothing is there.
    Receive(Receive),
    /// Send what is left of a view.
    SendAll { view: Ref, sent: AtomicUsize },
    /// Ask how a connection attempt ended.
    Connect { address: Ref },
    /// Accept a connection.
    Accept,
    /// Send a part of a file.
    Sendfile(Sendfile),
}

/// A file on its way into a socket.
pub(crate) struct Sendfile {
    file: Ref,
    offset: AtomicU64,
    /// How many bytes to send; `None`: all there are.
    count: Option<u64>,
    block: u64,
    sent: AtomicU64,
}

/// How a try ended.
pub(crate) enum OperationOutcome<'py> {
    /// It would block, or there is more to do.
    Again,
    /// This is the outcome.
    Done(PyResult<Bound<'py, PyAny>>),
    /// `SystemExit` or `KeyboardInterrupt`, which end the run loop. The operation stays.
    Raise(PyErr),
}

impl<'py> OperationOutcome<'py> {
    /// Sorts the result of a call, as the `except` clauses of asyncio do.
    pub(crate) fn of(py: Python<'py>, result: PyResult<Option<Bound<'py, PyAny>>>) -> Self {
        match result {
            Ok(Some(value)) => Self::Done(Ok(value)),
            Ok(None) => Self::Again,
            Err(error) if would_block(py, &error) => Self::Again,
            Err(error) if ends_the_run(py, &error) => Self::Raise(error),
            Err(error) => Self::Done(Err(error)),
        }
    }
}

/// Whether the call is to be tried again: `BlockingIOError` or `InterruptedError`.
pub(crate) fn would_block(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PyBlockingIOError>(py) || error.is_instance_of::<PyInterruptedError>(py)
}

/// Whether it is `SystemExit` or `KeyboardInterrupt`, which no future gets.
pub(crate) fn ends_the_run(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PySystemExit>(py) || error.is_instance_of::<PyKeyboardInterrupt>(py)
}

impl OperationKind {
    /// Tries once. `registered`: whether the descriptor has been reported ready.
    pub(crate) fn attempt<'py>(
        &self,
        sock: &Bound<'py, PyAny>,
        registered: bool,
    ) -> OperationOutcome<'py> {
        let py = sock.py();
        let result = match self {
            Self::Call { method, argument, second } => {
                call(sock, method, argument, second.as_ref()).map(Some)
            }
            Self::Receive(receive) => receive.attempt(sock),
            Self::SendAll { view, sent } => send_more(sock, view.as_py().bind(py), sent),
            Self::Connect { address } => check_connected(sock, address.as_py().bind(py)),
            Self::Accept => accept(sock).map(Some),
            Self::Sendfile(sendfile) => sendfile.send_more(sock, registered),
        };
        OperationOutcome::of(py, result)
    }

    /// Every object held, for the garbage collector.
    pub(crate) fn objects(&self) -> impl Iterator<Item = &Py<PyAny>> {
        let held = match self {
            Self::Call { method, argument, second } => {
                [Some(method), Some(argument), second.as_ref()]
            }
            Self::SendAll { view: object, .. }
            | Self::Connect { address: object }
            | Self::Sendfile(Sendfile { file: object, .. }) => [Some(object), None, None],
            Self::Receive(receive) => [receive.object(), None, None],
            Self::Accept => [None, None, None],
        };
        held.into_iter().flatten().map(Ref::as_py)
    }
}

/// Whether it is a `socket.socket` and of no subclass, whose methods may take other arguments.
fn is_plain(sock: &Bound<'_, PyAny>) -> bool {
    // SAFETY: a live object.
    std::ptr::eq(unsafe { ffi::Py_TYPE(sock.as_ptr()) }, state().socket.class)
}

/// `sock.send(data)`.
pub(crate) fn send<'py>(
    sock: &Bound<'py, PyAny>,
    data: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let name = intern!(sock.py(), "send");
    if is_plain(sock) {
        sock.call_method1(name, (data, NO_WAIT))
    } else {
        sock.call_method1(name, (data,))
    }
}

/// Begins to connect. The kernel has no flag for that call.
pub(crate) fn connect<'py>(
    sock: &Bound<'py, PyAny>,
    address: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = sock.py();
    // As in asyncio, which asks for the descriptor first.
    let fd: RawFd = sock.call_method0(intern!(py, "fileno"))?.extract()?;
    if is_plain(sock)
        && descriptor::is_blocking(fd)
        && sock.call_method0(intern!(py, "gettimeout"))?.eq(0)?
    {
        sock.call_method1(intern!(py, "setblocking"), (false,))?;
    }
    sock.call_method1(intern!(py, "connect"), (address,))
}

fn call<'py>(
    sock: &Bound<'py, PyAny>,
    method: &Ref,
    argument: &Ref,
    second: Option<&Ref>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = sock.py();
    // SAFETY: `method` was extracted from a `str`.
    let method = unsafe { method.as_py().bind(py).cast_unchecked::<PyString>() };
    if is_plain(sock) {
        let argument = argument.as_py();
        let is = |name: &Bound<'_, PyString>| method.is(name);
        if let Some(second) = second.map(Ref::as_py) {
            if is(intern!(py, "sendto")) {
                return sock.call_method1(method, (argument, NO_WAIT, second));
            }
            return sock.call_method1(method, (argument, second, NO_WAIT));
        }
        if is(intern!(py, "recv_into")) {
            return sock.call_method1(method, (argument, 0, NO_WAIT));
        }
        return sock.call_method1(method, (argument, NO_WAIT));
    }
    match second {
        None => sock.call_method1(method, (argument.as_py(),)),
        Some(second) => sock.call_method1(method, (argument.as_py(), second.as_py())),
    }
}

fn send_more<'py>(
    sock: &Bound<'py, PyAny>,
    view: &Bound<'py, PyAny>,
    sent: &AtomicUsize,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = sock.py();
    let length = view.len()?;
    let start = sent.load(Relaxed);
    let rest = alloc::view_of(view, start, length)?;
    let start = start + send(sock, &rest)?.extract::<usize>()?;
    if start == length {
        return Ok(Some(py.None().into_bound(py)));
    }
    sent.store(start, Relaxed);
    Ok(None)
}

fn check_connected<'py>(
    sock: &Bound<'py, PyAny>,
    address: &Bound<'py, PyAny>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = sock.py();
    let names = py.import(intern!(py, "socket"))?;
    let level = names.getattr(intern!(py, "SOL_SOCKET"))?;
    let option = names.getattr(intern!(py, "SO_ERROR"))?;
    let error = sock.call_method1(intern!(py, "getsockopt"), (level, option))?;
    if error.ne(0)? {
        let text = format!("Connect call failed {}", address.str()?.to_str()?);
        let text = alloc::text(py, &text)?;
        return Err(alloc::error_with(&py.get_type::<PyOSError>(), (error, text)));
    }
    Ok(Some(py.None().into_bound(py)))
}

/// Accepts a connection and makes it non-blocking; returns `(conn, address)`.
fn accept<'py>(sock: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = sock.py();
    // A closed or foreign object fails as in asyncio, which asks for the descriptor first.
    let number = sock.call_method0(intern!(py, "fileno"))?;
    if is_plain(sock) {
        let fd = number.extract()?;
        if descriptor::is_blocking(fd)
            && !descriptor::is_readable(fd)
            && sock.call_method0(intern!(py, "gettimeout"))?.eq(0)?
        {
            let text = alloc::text(py, "no connection yet")?;
            return Err(alloc::os_error(py, libc::EAGAIN, &text));
        }
    }
    let accepted = sock.call_method0(intern!(py, "accept"))?;
    let pair = match accepted.cast_into::<PyTuple>() {
        Ok(pair) => pair,
        Err(other) => {
            let all = other.into_inner().try_iter()?.collect::<PyResult<Vec<_>>>()?;
            alloc::tuple_of(py, &all)?
        }
    };
    if pair.len() != 2 {
        return Err(alloc::value_error(
            py,
            format!(
                "accept() returned {} values instead of a connection and its address",
                pair.len()
            ),
        ));
    }
    pair.get_item(0)?.call_method1(intern!(py, "setblocking"), (false,))?;
    Ok(pair.into_any())
}

/// Bytes of a file that one call sends at most.
const SENDFILE_BLOCK: u64 = 2 * 1024 * 1024;

/// Bytes of a file that are read at once where the kernel cannot send it without waiting.
const PIECE: u64 = 256 * 1024;

impl Sendfile {
    pub(crate) fn new(file: Ref, offset: u64, count: Option<u64>, block: u64) -> Self {
        Self { file, offset: AtomicU64::new(offset), count, block, sent: AtomicU64::new(0) }
    }

    /// Sends one block. The file's position is set at the end, whatever that is.
    fn send_more<'py>(
        &self,
        sock: &Bound<'py, PyAny>,
        registered: bool,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = sock.py();
        let os = py.import(intern!(py, "os"))?;
        let sent = self.sent.load(Relaxed);
        let block = self.count.map_or(self.block, |count| count.saturating_sub(sent));
        if block == 0 {
            return self.end(&os, sent).map(Some);
        }
        let socket = sock.call_method0(intern!(py, "fileno"))?;
        let offset = self.offset.load(Relaxed);
        // The call reads the file, perhaps from a disk that is slower than the socket: others have their turn between.
        let block = block.min(SENDFILE_BLOCK);
        let now = if is_plain(sock) && socket.extract().is_ok_and(descriptor::is_blocking) {
            // `sendfile` would wait until all is sent.
            let (block, offset) = (alloc::int(py, block.min(PIECE))?, alloc::int(py, offset)?);
            let piece = (self.file.as_py(), block, offset);
            os.call_method1(intern!(py, "pread"), piece).and_then(|data| {
                if data.len()? == 0 { Ok(alloc::int(py, 0)?.into_any()) } else { send(sock, &data) }
            })
        } else {
            let (block, offset) = (alloc::int(py, block)?, alloc::int(py, offset)?);
            let call = (socket, self.file.as_py(), offset, block);
            os.call_method1(intern!(py, "sendfile"), call)
        };
        match now.and_then(|now| now.extract::<u64>()) {
            Ok(0) => self.end(&os, sent).map(Some),
            Ok(now) => {
                self.offset.store(offset + now, Relaxed);
                self.sent.store(sent + now, Relaxed);
                Ok(None)
            }
            Err(error) if would_block(py, &error) || ends_the_run(py, &error) => Err(error),
            Err(error) => {
                let error = if error.is_instance_of::<PyOSError>(py) {
                    failure(py, error, registered, sent)?
                } else {
                    error
                };
                self.end(&os, sent)?;
                Err(error)
            }
        }
    }

    /// Puts the file's position after what was sent. Returns the number of bytes sent.
    pub(crate) fn end<'py>(
        &self,
        os: &Bound<'py, PyModule>,
        sent: u64,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = os.py();
        let start = os.getattr(intern!(py, "SEEK_SET"))?;
        os.call_method1(
            intern!(py, "lseek"),
            (self.file.as_py(), alloc::int(py, self.offset.load(Relaxed))?, start),
        )?;
        Ok(alloc::int(py, sent)?.into_any())
    }
}

/// What an `OSError` of `sendfile` becomes: before the first byte, the wish for the fallback.
fn failure(py: Python<'_>, error: PyErr, registered: bool, sent: u64) -> PyResult<PyErr> {
    if sent == 0 {
        let exceptions = py.import(intern!(py, "asyncio.exceptions"))?;
        let class = exceptions.getattr(intern!(py, "SendfileNotAvailableError"))?;
        return Ok(PyErr::from_value(class.call1((alloc::text(py, "os.sendfile call failed")?,))?));
    }
    let number = error.value(py).getattr(intern!(py, "errno"))?;
    let exact = error.get_type(py).is(py.get_type::<PyConnectionError>());
    if registered && !exact && number.eq(libc::ENOTCONN)? {
        // The peer left in the middle: the same exception on all systems.
        let normal = alloc::error_with(
            &py.get_type::<PyConnectionError>(),
            (alloc::text(py, "socket is not connected")?, alloc::int(py, libc::ENOTCONN)?),
        );
        normal.set_cause(py, Some(error));
        return Ok(normal);
    }
    Ok(error)
}
