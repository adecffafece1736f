//! `loop.sock_recv` and similar: operations that wait for a socket without a closure or a handle.
//!
//! A method tries at once. Only an operation that would block becomes a [`SocketOperation`]. It is an entry
//! of the reactor's table, retries when the descriptor is ready, removes itself when it is done, and
//! completes its future.
//!
//! asyncio deregisters in a callback of the future. Here the coroutine awaits the operation itself, which
//! therefore receives a cancellation, or the closing of the coroutine, directly. A successful operation
//! needs no callback.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use pyo3::exceptions::PyStopIteration;
use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyMemoryView, PyString, PyTuple};

use super::readers;
use super::sock_receive::Receive;
use super::sock_work::{
    self, OperationKind, OperationOutcome, Sendfile, ends_the_run, would_block,
};
use crate::py::asyncio::state::state;
use crate::py::cpython::alloc;
use crate::py::cpython::attach;
use crate::py::cpython::context::{self, Entered};
use crate::py::cpython::descriptor;
use crate::py::cpython::holder::number_of_socket;
use crate::py::cpython::names::intern;
use crate::py::cpython::object::Ref;
use crate::py::event_loop::callback::Callback;
use crate::py::event_loop::core::LoopCore;
use crate::reactor::Direction;

/// An operation that waits for a socket. Await it once.
///
/// It is its own iterator: what it yields and returns is its future's, and what is thrown into it
/// ends the wait.
#[pyclass(frozen, module = "loop_pool._core")]
pub(crate) struct SocketOperation {
    loop_: Py<LoopCore>,
    sock: Ref,
    kind: OperationKind,
    direction: Direction,
    fd: RawFd,
    future: Ref,
    /// What the methods of a subclass of `socket.socket` run in. The class itself looks at none.
    context: Option<Ref>,
    /// The future's own iterator.
    waiter: Option<Ref>,
    /// Where the socket keeps its number, if that is known: it lives as long as this.
    number: Option<SendPointer>,
    /// Set when it is done, was replaced in the table, or nobody waits any more: it is not to run.
    over: AtomicBool,
}

#[pymethods]
impl SocketOperation {
    fn __await__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let end = || PyStopIteration::new_err(());
        let waiter = self.waiter.as_ref().ok_or_else(end)?.as_ptr();
        // SAFETY: `iterator_of` has seen that it is an iterator, and we hold it. The result is a new
        // reference, or null with an exception or, at a plain end, without one.
        unsafe {
            let next = (*ffi::Py_TYPE(waiter)).tp_iternext.ok_or_else(end)?;
            match Bound::from_owned_ptr_or_opt(py, next(waiter)) {
                Some(yielded) => Ok(yielded.unbind()),
                None => Err(alloc::raised_if_any(py).unwrap_or_else(end)),
            }
        }
    }

    fn send(&self, py: Python<'_>, _value: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        self.__next__(py)
    }

    /// Ends the wait by an exception, as when the task is cancelled.
    #[pyo3(signature = (*exception))]
    fn throw<'py>(
        slf: &Bound<'py, Self>,
        exception: &Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        leave(slf)?;
        match &slf.get().waiter {
            Some(waiter) => waiter.as_py().bind(py).call_method1(intern!(py, "throw"), exception),
            None => Err(PyErr::from_value(exception.get_item(0)?)),
        }
    }

    /// Ends the wait of a coroutine that will not go on.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        leave(slf)
    }

    /// Ends the wait when the future is cancelled: as a callback of the future.
    fn __call__(slf: &Bound<'_, Self>, _future: &Bound<'_, PyAny>) -> PyResult<()> {
        leave(slf)
    }

    /// Marks it cancelled, as `asyncio.Handle.cancel`: it does not run again. Its future stays
    /// pending.
    pub(crate) fn cancel(&self) {
        self.over.store(true, Relaxed);
    }

    /// Whether it will not run again.
    pub(crate) fn cancelled(&self) -> bool {
        self.over.load(Relaxed)
    }

    // There is no `__clear__`, since the fields never change. A cycle through them also goes through
    // the loop, the future or a coroutine, and these can be cleared.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.loop_)?;
        let optional = [self.context.as_ref(), self.waiter.as_ref()].into_iter().flatten();
        for object in [&self.sock, &self.future].into_iter().chain(optional) {
            visit.call(object.as_py())?;
        }
        self.kind.objects().try_for_each(|object| visit.call(object))
    }
}

/// The address of a number that is read only.
#[derive(Clone, Copy)]
struct SendPointer(*const RawFd);

// SAFETY: what is there is read at once, and written by the interpreter only.
unsafe impl Send for SendPointer {}
// SAFETY: as above.
unsafe impl Sync for SendPointer {}

impl SocketOperation {
    /// Whether the socket has not been closed since, so that the number is its own.
    pub(crate) fn holds(&self) -> bool {
        // SAFETY: the socket is alive, as this keeps it.
        self.number.is_none_or(|number| unsafe { number.0.read_volatile() } == self.fd)
    }

    /// Tries again, in the context of whoever waits.
    fn attempt<'py>(&self, py: Python<'py>) -> PyResult<OperationOutcome<'py>> {
        let sock = self.sock.as_py().bind(py);
        let Some(context) = &self.context else { return Ok(self.kind.attempt(sock, true)) };
        // SAFETY: attached (`py`), and the context is alive.
        let entered = unsafe { Entered::new(context.as_ptr()) };
        let Some(entered) = entered else { return Err(alloc::raised(py)) };
        let attempt = self.kind.attempt(sock, true);
        if entered.leave() { Ok(attempt) } else { Err(alloc::raised(py)) }
    }
}

/// Takes the operation out of the loop's table, if it still stands there.
fn leave(operation: &Bound<'_, SocketOperation>) -> PyResult<()> {
    let this = operation.get();
    this.cancel();
    let loop_ = this.loop_.bind(operation.py());
    readers::forget(loop_, this.direction, this.fd, operation.as_any(), this.holds())
}

/// Runs an operation whose descriptor is ready. The program's errors go into its future.
///
/// # Errors
/// `SystemExit` and `KeyboardInterrupt` out of the socket's method, and what the loop's exception
/// handler lets through.
pub(crate) fn ready(
    loop_: &Bound<'_, LoopCore>,
    operation: &Bound<'_, SocketOperation>,
) -> PyResult<()> {
    let py = loop_.py();
    let this = operation.get();
    if this.cancelled() {
        return Ok(());
    }
    let result = is_done(operation).and_then(|done| {
        if done {
            leave(operation)?;
            return Ok(OperationOutcome::Again);
        }
        this.attempt(py)
    });
    let result = match result {
        Ok(OperationOutcome::Again) => return Ok(()),
        Ok(OperationOutcome::Raise(error)) => return Err(error),
        Ok(OperationOutcome::Done(outcome)) => settle(operation, outcome),
        Err(error) => Err(error),
    };
    match result {
        Ok(()) => Ok(()),
        Err(error) => report(loop_, operation, error),
    }
}

/// Whether the future is done already: cancelled, since nobody else has it.
fn is_done(operation: &Bound<'_, SocketOperation>) -> PyResult<bool> {
    let py = operation.py();
    let this = operation.get();
    let future = this.future.as_py().bind(py);
    if let OperationKind::Sendfile(sendfile) = &this.kind {
        let cancelled = future.call_method0(intern!(py, "cancelled"))?.is_truthy()?;
        if cancelled {
            sendfile.end(&py.import(intern!(py, "os"))?, 0)?;
        }
    }
    future.call_method0(intern!(py, "done"))?.is_truthy()
}

/// Takes the operation out of the table and settles its future.
fn settle<'py>(
    operation: &Bound<'py, SocketOperation>,
    outcome: PyResult<Bound<'py, PyAny>>,
) -> PyResult<()> {
    let left = leave(operation);
    set(operation.get().future.as_py().bind(operation.py()), outcome)?;
    left
}

fn set<'py>(future: &Bound<'py, PyAny>, outcome: PyResult<Bound<'py, PyAny>>) -> PyResult<()> {
    let py = future.py();
    match outcome {
        Ok(value) => future.call_method1(intern!(py, "set_result"), (value,))?,
        Err(error) => future.call_method1(intern!(py, "set_exception"), (error.into_value(py),))?,
    };
    Ok(())
}

/// Hands an error that belongs to no future to the loop's exception handler.
///
/// # Errors
/// The error itself if it is `SystemExit` or `KeyboardInterrupt`.
#[cold]
fn report(
    loop_: &Bound<'_, LoopCore>,
    operation: &Bound<'_, SocketOperation>,
    error: PyErr,
) -> PyResult<()> {
    let py = loop_.py();
    if ends_the_run(py, &error) {
        return Err(error);
    }
    let context = alloc::dict(py)?;
    context.set_item(
        intern!(py, "message"),
        alloc::text(py, &format!("Exception in callback {}", operation.repr()?))?,
    )?;
    context.set_item(intern!(py, "exception"), error)?;
    context.set_item(intern!(py, "future"), operation.get().future.as_py())?;
    loop_.call_method1(intern!(py, "call_exception_handler"), (context,))?;
    Ok(())
}

/// What a method gives back at once: the result, or the operation to await.
type Started<'py> = PyResult<Bound<'py, PyAny>>;

/// `sock_recv`, `sock_recv_into`, `sock_recvfrom`, `sock_recvfrom_into`, `sock_sendto`.
pub(crate) fn start_call<'py>(
    loop_: &Bound<'py, LoopCore>,
    direction: Direction,
    sock: &Bound<'py, PyAny>,
    method: &Bound<'py, PyString>,
    argument: Bound<'py, PyAny>,
    second: Option<Bound<'py, PyAny>>,
) -> Started<'py> {
    let kind = match Receive::of(sock, method, &argument)? {
        Some(receive) => OperationKind::Receive(receive),
        None => OperationKind::Call {
            method: method.clone().into_any().into(),
            argument: argument.into(),
            second: second.map(Ref::from),
        },
    };
    match kind.attempt(sock, false) {
        OperationOutcome::Again => wait(loop_, direction, sock, kind),
        OperationOutcome::Done(outcome) => outcome,
        OperationOutcome::Raise(error) => Err(error),
    }
}

/// `sock_sendall`. Returns `None` if all was sent at once.
pub(crate) fn start_send_all<'py>(
    loop_: &Bound<'py, LoopCore>,
    sock: &Bound<'py, PyAny>,
    data: &Bound<'py, PyAny>,
) -> Started<'py> {
    let py = loop_.py();
    let sent = match sock_work::send(sock, data) {
        Ok(sent) => sent.extract::<usize>()?,
        Err(error) if would_block(py, &error) => 0,
        Err(error) => return Err(error),
    };
    if sent == data.len()? {
        return Ok(py.None().into_bound(py));
    }
    let view = PyMemoryView::from(data)?.into_any().into();
    let kind = OperationKind::SendAll { view, sent: AtomicUsize::new(sent) };
    wait(loop_, Direction::Write, sock, kind)
}

/// `sock_connect`, to an address that is resolved. Returns `None` if it succeeded at once.
pub(crate) fn start_connect<'py>(
    loop_: &Bound<'py, LoopCore>,
    sock: &Bound<'py, PyAny>,
    address: Bound<'py, PyAny>,
) -> Started<'py> {
    let py = loop_.py();
    match sock_work::connect(sock, &address) {
        Ok(_) => Ok(py.None().into_bound(py)),
        // Interrupted, the attempt goes on in the background.
        Err(error) if would_block(py, &error) => {
            wait(loop_, Direction::Write, sock, OperationKind::Connect { address: address.into() })
        }
        Err(error) => Err(error),
    }
}

/// `sock_accept`.
pub(crate) fn start_accept<'py>(
    loop_: &Bound<'py, LoopCore>,
    sock: &Bound<'py, PyAny>,
) -> Started<'py> {
    match OperationKind::Accept.attempt(sock, false) {
        OperationOutcome::Again => wait(loop_, Direction::Read, sock, OperationKind::Accept),
        OperationOutcome::Done(outcome) => outcome,
        OperationOutcome::Raise(error) => Err(error),
    }
}

/// `sock_sendfile`, for a future that asyncio made.
pub(crate) fn start_sendfile<'py>(
    loop_: &Bound<'py, LoopCore>,
    future: &Bound<'py, PyAny>,
    sock: &Bound<'py, PyAny>,
    sendfile: Sendfile,
) -> PyResult<()> {
    let py = loop_.py();
    let kind = OperationKind::Sendfile(sendfile);
    match kind.attempt(sock, false) {
        OperationOutcome::Again => {
            let operation = register(loop_, Direction::Write, sock, kind, future.clone(), None)?;
            future.call_method1(intern!(py, "add_done_callback"), (operation,))?;
        }
        OperationOutcome::Done(outcome) => set(future, outcome)?,
        OperationOutcome::Raise(error) => return Err(error),
    }
    Ok(())
}

/// Makes an operation with a future of its own, for a coroutine to await.
fn wait<'py>(
    loop_: &Bound<'py, LoopCore>,
    direction: Direction,
    sock: &Bound<'py, PyAny>,
    kind: OperationKind,
) -> Started<'py> {
    let py = loop_.py();
    let future = loop_.call_method0(intern!(py, "create_future"))?;
    let waiter = iterator_of(&future)?;
    let operation = register(loop_, direction, sock, kind, future, Some(waiter))?;
    Ok(operation.into_any())
}

/// What `await future` drives.
fn iterator_of(future: &Bound<'_, PyAny>) -> PyResult<Ref> {
    let py = future.py();
    // SAFETY: a live object of a live type, whose slot returns a new reference or null with an
    // exception.
    unsafe {
        let slots = (*ffi::Py_TYPE(future.as_ptr())).tp_as_async;
        let Some(await_) = slots.as_ref().and_then(|slots| slots.am_await) else {
            return Err(alloc::type_error(py, format!("create_future() made {future:?}")));
        };
        let iterator = Ref::from_owned_or_err(py, await_(future.as_ptr()))?;
        if ffi::PyIter_Check(iterator.as_ptr()) == 0 {
            return Err(alloc::type_error(py, "__await__() of a future made no iterator"));
        }
        Ok(iterator)
    }
}

/// Makes an operation and puts it into the loop's table.
fn register<'py>(
    loop_: &Bound<'py, LoopCore>,
    direction: Direction,
    sock: &Bound<'py, PyAny>,
    kind: OperationKind,
    future: Bound<'py, PyAny>,
    waiter: Option<Ref>,
) -> PyResult<Bound<'py, SocketOperation>> {
    let py = loop_.py();
    let number = sock.call_method0(intern!(py, "fileno"))?;
    ensure_no_transport(loop_, &number)?;
    let fd = descriptor::descriptor(&number)?;
    // SAFETY: a live object.
    let class = unsafe { ffi::Py_TYPE(sock.as_ptr()) };
    let plain = std::ptr::eq(class, state().socket.class);
    let operation = SocketOperation {
        loop_: loop_.clone().unbind(),
        sock: sock.clone().into(),
        kind,
        direction,
        fd,
        future: future.into(),
        context: if plain { None } else { Some(context::copy_context(py)?) },
        waiter,
        number: number_of_socket(sock).map(SendPointer),
        over: AtomicBool::new(false),
    };
    let operation = Bound::new(py, operation)?;
    let callback = Callback::from_native(operation.clone().into_any().into());
    readers::register(loop_, direction, fd, callback, None)?;
    Ok(operation)
}

/// As `BaseSelectorEventLoop._ensure_fd_no_transport`, which is asked only if some transport has, or
/// had, that descriptor.
pub(crate) fn ensure_no_transport(
    loop_: &Bound<'_, LoopCore>,
    fd: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let py = loop_.py();
    let known = loop_.getattr(intern!(py, "_transports"))?.getattr(intern!(py, "data"))?;
    let native = fd.extract().is_ok_and(|fd: i32| {
        attach::lock_attached(py, &loop_.get().event_loop.shared().sources).at(fd).is_some()
    });
    if native || (!known.is_empty()? && known.contains(fd)?) {
        loop_.call_method1(intern!(py, "_ensure_fd_no_transport"), (fd,))?;
    }
    Ok(())
}
