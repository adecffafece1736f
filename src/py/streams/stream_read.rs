//! What `read`, `readline`, `readexactly` and `readuntil` of our stream readers return: a coroutine
//! without a frame.
//!
//! Like a coroutine it does nothing before it is awaited. Then it takes what it wants out of the buffer,
//! or stays with the reader and yields itself, a future from then on (`stream_waiter`). Who feeds the
//! reader wakes it and hands nothing over: the bytes are taken when the task runs again. So a task that
//! is cancelled in between has taken none.

use std::cell::UnsafeCell;
use std::sync::atomic::Ordering::Relaxed;

use pyo3::exceptions::{
    PyAssertionError, PyAttributeError, PyRuntimeWarning, PyStopAsyncIteration,
};
use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use super::reader_state;
use super::stream_look::{self, Kind, LookOutcome, ReadProgress};
use super::stream_phase::{Phase, Refusal, Turn};
use super::stream_waiter::{Outcome, Parts, Waiter, cancelled_error};
use crate::py::cpython::alloc;
use crate::py::cpython::names::intern;
use crate::py::cpython::object::Ref;
use crate::py::cpython::returned::Returned;

/// A `read` or its like, to be awaited once.
#[pyclass(frozen, module = "loop_pool._core")]
pub(crate) struct StreamRead {
    reader: Ref,
    kind: Kind,
    phase: Phase,
    pub(crate) waiter: Waiter,
    /// Touched by who has the [`Turn`].
    progress: UnsafeCell<ReadProgress>,
}

// SAFETY: one thread at a time touches `progress`, as `phase` says.
unsafe impl Sync for StreamRead {}

/// What it comes to.
enum Step {
    Returns(Ref),
    /// To be woken: it yields itself.
    Waits,
}

/// What one look at the reader comes to.
enum Round {
    Returns(Ref),
    /// It took a part of what is wanted; the end may have come already.
    Again,
    /// What is wanted is not there.
    Short,
}

impl StreamRead {
    pub(crate) fn create(
        py: Python<'_>,
        reader: *mut ffi::PyObject,
        kind: Kind,
    ) -> PyResult<*mut ffi::PyObject> {
        // SAFETY: the reader is alive: a method of it is being called.
        let reader = unsafe { Ref::from_borrowed(reader) };
        let read = Self {
            reader,
            kind,
            phase: Phase::default(),
            waiter: Waiter::default(),
            progress: UnsafeCell::default(),
        };
        Ok(Bound::new(py, read)?.into_ptr())
    }

    fn method(&self) -> &'static str {
        match self.kind {
            Kind::Some(_) | Kind::All => "read",
            Kind::Exactly(_) => "readexactly",
            Kind::Line => "readline",
            Kind::Next => "__anext__",
            Kind::Until(_) => "readuntil",
            Kind::Wait(_) => "_wait_for_data",
        }
    }

    /// Lets this thread go on with it.
    fn claim(&self, py: Python<'_>) -> PyResult<Turn<'_>> {
        self.phase.claim().map_err(|refusal| match refusal {
            Refusal::Running => alloc::value_error(py, "coroutine already executing"),
            Refusal::Over => alloc::runtime_error(py, "cannot reuse already awaited coroutine"),
        })
    }

    fn go_on(slf: &Bound<'_, Self>) -> PyResult<Step> {
        let this = slf.get();
        let mut turn = this.claim(slf.py())?;
        // SAFETY: the turn is ours.
        let progress = unsafe { &mut *this.progress.get() };
        let result = Self::advance(slf, turn.is_first, progress);
        if matches!(result, Ok(Step::Waits)) {
            turn.waits();
        }
        result
    }

    fn advance(slf: &Bound<'_, Self>, fresh: bool, progress: &mut ReadProgress) -> PyResult<Step> {
        let (this, py) = (slf.get(), slf.py());
        if fresh {
            this.begin(py, progress)?;
        } else {
            Self::end_wait(slf)?;
            progress.woken = true;
        }
        loop {
            match this.look(py, progress)? {
                Round::Returns(value) => return Ok(Step::Returns(value)),
                Round::Again => {}
                Round::Short => {
                    if Self::wait(slf, progress)? {
                        return Ok(Step::Waits);
                    }
                }
            }
        }
    }

    /// The checks that asyncio's coroutines begin with.
    fn begin(&self, py: Python<'_>, progress: &mut ReadProgress) -> PyResult<()> {
        match &self.kind {
            Kind::Exactly(count) if *count < 0 => {
                return Err(alloc::value_error(py, "readexactly size can not be less than zero"));
            }
            Kind::Until(separator) => {
                progress.separators =
                    Some(Box::new(stream_look::separators(separator.as_py().bind(py))?));
            }
            Kind::Wait(_) => return Ok(()),
            _ => {}
        }
        self.check(py)
    }

    /// # Errors
    /// The exception that the stream has ended with.
    #[inline]
    fn check(&self, py: Python<'_>) -> PyResult<()> {
        // SAFETY: we hold the reader.
        match unsafe { reader_state::exception(self.reader.as_ptr()) } {
            Some(error) => Err(PyErr::from_value(error.as_py().bind(py).clone())),
            None => Ok(()),
        }
    }

    /// Takes what is wanted, if it is there.
    #[inline]
    fn look(&self, py: Python<'_>, progress: &mut ReadProgress) -> PyResult<Round> {
        let mut spent = None;
        let mut resume = None;
        let reader = self.reader.as_ptr();
        // SAFETY: we hold the reader; no Python runs, and what is to be dropped is kept.
        let look = unsafe {
            reader_state::with(reader, |received| {
                let look = stream_look::take(&self.kind, received, progress, &mut spent);
                let length = received.buffer.bytes().len();
                progress.seen = length;
                let took = match look {
                    LookOutcome::Short | LookOutcome::Ended(_) => false,
                    LookOutcome::Overrun(..) => matches!(self.kind, Kind::Line | Kind::Next),
                    _ => !matches!(self.kind, Kind::Some(0) | Kind::Exactly(0) | Kind::Wait(_)),
                };
                if took && received.paused && length <= received.limit {
                    received.paused = false;
                    resume = reader_state::transport(reader);
                }
                look
            })
        };
        drop(spent);
        if let Some(transport) = resume {
            transport.as_py().call_method0(py, intern!(py, "resume_reading"))?;
        }
        let value = match look {
            LookOutcome::Short => return Ok(Round::Short),
            LookOutcome::Whole(chunk) => chunk.0,
            // SAFETY: a new reference, or null with an exception.
            LookOutcome::Part(object) => unsafe { Ref::from_owned_or_err(py, object)? },
            LookOutcome::Ended(object) => {
                // SAFETY: as above.
                let partial = unsafe { Ref::from_owned_or_err(py, object)? };
                return self.ended(py, partial).map(Round::Returns);
            }
            LookOutcome::Overrun(consumed, found) => return Err(self.overrun(py, consumed, found)),
        };
        match self.kind {
            // A round of `read` with each chunk, as asyncio has it.
            Kind::All => self.check(py).and_then(|()| Self::collect(py, progress, &value)),
            Kind::Next => some_line(value).map(Round::Returns),
            Kind::Wait(_) => Ok(Round::Returns(py.None().into_bound(py).into())),
            _ => Ok(Round::Returns(value)),
        }
    }

    /// Adds what one round of `read()` has taken; returns all of it at the end.
    fn collect(py: Python<'_>, progress: &mut ReadProgress, value: &Ref) -> PyResult<Round> {
        let block = value.as_py().bind(py).cast::<PyBytes>()?.as_bytes();
        if block.is_empty() {
            let all = alloc::bytes(py, &progress.collected)?.into_any().into();
            progress.collected = Vec::new();
            return Ok(Round::Returns(all));
        }
        progress.collected.extend_from_slice(block);
        Ok(Round::Again)
    }

    /// The end came before what was wanted.
    #[cold]
    fn ended(&self, py: Python<'_>, partial: Ref) -> PyResult<Ref> {
        let expected = match self.kind {
            Kind::Line => return Ok(partial),
            Kind::Next => return some_line(partial),
            Kind::Exactly(count) => alloc::int(py, count)?.into_any().unbind(),
            _ => py.None(),
        };
        let class =
            py.import(intern!(py, "asyncio"))?.getattr(intern!(py, "IncompleteReadError"))?;
        Err(PyErr::from_value(class.call1((partial.as_py(), expected))?))
    }

    /// More than the limit came before the separator.
    #[cold]
    fn overrun(&self, py: Python<'_>, consumed: usize, found: bool) -> PyErr {
        let text = if found {
            "Separator is found, but chunk is longer than limit"
        } else {
            "Separator is not found, and chunk exceed the limit"
        };
        let make = || -> PyResult<PyErr> {
            let asyncio = py.import(intern!(py, "asyncio"))?;
            let class = asyncio.getattr(intern!(py, "LimitOverrunError"))?;
            Ok(PyErr::from_value(class.call1((alloc::text(py, text)?, alloc::int(py, consumed)?))?))
        };
        let overrun = make().unwrap_or_else(|error| error);
        if matches!(self.kind, Kind::Until(_)) {
            return overrun;
        }
        let error = alloc::value_error(py, text);
        error.set_context(py, Some(overrun));
        error
    }

    #[cold]
    fn already_awaited(&self, py: Python<'_>) -> PyErr {
        let name = match &self.kind {
            Kind::Wait(name) => name.as_py().bind(py).str().map(|name| name.to_string()),
            // `async for` calls `readline`, which calls `readuntil`.
            Kind::Line | Kind::Next => Ok("readuntil".to_owned()),
            _ => Ok(self.method().to_owned()),
        };
        name.map_or_else(
            |error| error,
            |name| {
                alloc::runtime_error(py, format!(
                    "{name}() called while another coroutine is already waiting for incoming data"
                ))
            },
        )
    }

    /// Stays with the reader until something comes. `false`: something has come meanwhile.
    fn wait(slf: &Bound<'_, Self>, progress: &ReadProgress) -> PyResult<bool> {
        let (this, py) = (slf.get(), slf.py());
        let reader = this.reader.as_ptr();
        // Whoever waits while the transport is paused would wait for ever.
        // SAFETY: we hold the reader; no Python runs, and nothing is dropped.
        let (ended, resume) = unsafe {
            reader_state::with(reader, |received| {
                let resumes = received.paused && !received.eof && !reader_state::is_awaited(reader);
                received.paused &= !resumes;
                let resume = if resumes { reader_state::transport(reader) } else { None };
                (received.eof, resume)
            })
        };
        if ended && matches!(this.kind, Kind::Wait(_)) {
            return Err(alloc::error::<PyAssertionError>(py, "_wait_for_data after EOF"));
        }
        if let Some(transport) = resume {
            transport.as_py().call_method0(py, intern!(py, "resume_reading"))?;
        }
        this.check(py)?;
        // SAFETY: we hold the reader; counting runs no Python, and nothing is dropped.
        let (awaited, changed) = unsafe {
            reader_state::with(reader, |received| {
                let awaited = reader_state::is_awaited(reader);
                let changed = received.eof || received.buffer.bytes().len() != progress.seen;
                if !awaited && !changed {
                    this.waiter.begin();
                    reader_state::set_waiter(reader, Ref::from_borrowed(slf.as_ptr()));
                }
                (awaited, changed)
            })
        };
        if awaited {
            return Err(this.already_awaited(py));
        }
        Ok(!changed)
    }

    /// Leaves the reader, and takes what the wait has come to.
    fn leave(slf: &Bound<'_, Self>) -> Parts {
        let this = slf.get();
        let reader = this.reader.as_ptr();
        // SAFETY: we hold the reader; what is to be dropped is returned.
        let (left, parts) = unsafe {
            reader_state::with(reader, |_| {
                (reader_state::take_waiter(reader, Some(slf.as_ptr())), this.waiter.end())
            })
        };
        drop(left);
        parts
    }

    /// # Errors
    /// What the wait was ended with, as by `set_exception`; `RuntimeError` if it was not.
    fn end_wait(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        match Self::leave(slf).outcome {
            Outcome::Woken | Outcome::Idle => Ok(()),
            Outcome::Pending => Err(alloc::runtime_error(py, "await wasn't used with future")),
            Outcome::Cancelled(message) => Err(cancelled_error(py, message.as_ref())),
            Outcome::Failed(error) => Err(PyErr::from_value(error.as_py().bind(py).clone())),
        }
    }

    /// The reader, which lives as long as this.
    #[inline(always)]
    pub(crate) fn reader(&self) -> *mut ffi::PyObject {
        self.reader.as_ptr()
    }

    /// # Errors
    /// `AttributeError` if the reader's `__init__` has not run.
    #[inline(always)]
    pub(crate) fn loop_of(&self, py: Python<'_>) -> PyResult<Ref> {
        // SAFETY: we hold the reader.
        unsafe { reader_state::loop_of(self.reader.as_ptr()) }
            .ok_or_else(|| alloc::error::<PyAttributeError>(py, "the stream reader has no loop"))
    }
}

fn some_line(line: Ref) -> PyResult<Ref> {
    // SAFETY: it is a bytes object.
    if unsafe { ffi::Py_SIZE(line.as_ptr()) } == 0 {
        return Err(PyStopAsyncIteration::new_err(()));
    }
    Ok(line)
}

/// The exception that ends a coroutine with `value`, made without asking what is being handled.
fn stop(py: Python<'_>, value: &Ref) -> PyErr {
    // SAFETY: a live class and a live argument; the result is a new reference, or null with an error.
    unsafe {
        let made = ffi::PyObject_CallOneArg(ffi::PyExc_StopIteration, value.as_ptr());
        match Ref::from_owned_or_err(py, made) {
            Ok(made) => PyErr::from_value(made.as_py().bind(py).clone()),
            Err(error) => error,
        }
    }
}

#[pymethods]
impl StreamRead {
    #[getter]
    fn __name__(&self) -> Returned<&'static str> {
        Returned(self.method())
    }

    #[getter]
    fn __qualname__(&self) -> Returned<String> {
        Returned(format!("StreamReader.{}", self.method()))
    }

    fn __repr__(slf: &Bound<'_, Self>) -> Returned<String> {
        Returned(format!("<coroutine object {} at {:p}>", slf.get().__qualname__().0, slf.as_ptr()))
    }

    fn __await__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        if slf.get().phase.is_waiting() {
            return Err(alloc::runtime_error(slf.py(), "coroutine is being awaited already"));
        }
        Ok(slf)
    }

    fn __next__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        match Self::go_on(slf)? {
            Step::Waits => Ok(slf.clone()),
            Step::Returns(value) => Err(stop(slf.py(), &value)),
        }
    }

    fn send<'py>(slf: &Bound<'py, Self>, value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, Self>> {
        if !value.is_none() && slf.get().phase.is_fresh() {
            let text = "can't send non-None value to a just-started coroutine";
            return Err(alloc::type_error(slf.py(), text));
        }
        Self::__next__(slf)
    }

    #[pyo3(signature = (*exception))]
    fn throw(slf: &Bound<'_, Self>, exception: &Bound<'_, PyTuple>) -> PyResult<Py<PyAny>> {
        let thrown = match exception.iter().collect::<Vec<_>>().as_slice() {
            [class, value, ..]
                if class.is_instance_of::<pyo3::types::PyType>() && !value.is_none() =>
            {
                PyErr::from_value(class.call1((value,))?)
            }
            [thrown, ..] => PyErr::from_value(thrown.clone()),
            [] => {
                let text = "throw expected at least 1 argument, got 0";
                return Err(alloc::type_error(slf.py(), text));
            }
        };
        let _turn = slf.get().claim(slf.py())?;
        drop(Self::leave(slf));
        Err(thrown)
    }

    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        if !this.phase.is_over() {
            let _turn = this.claim(slf.py())?;
            drop(Self::leave(slf));
        }
        Ok(())
    }

    /// As a future's. `None` while it does not wait: then it is a coroutine, and no future.
    #[getter(_asyncio_future_blocking)]
    fn is_blocking(&self) -> Option<bool> {
        self.phase.is_waiting().then(|| self.waiter.blocking.load(Relaxed))
    }

    #[setter(_asyncio_future_blocking)]
    fn set_blocking(&self, blocking: bool) {
        self.waiter.blocking.store(blocking, Relaxed);
    }

    // There is no `__clear__`: a cycle through the fields also goes through the reader or a task, and
    // these can be cleared.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(self.reader.as_py())?;
        if let Kind::Until(object) | Kind::Wait(object) = &self.kind {
            visit.call(object.as_py())?;
        }
        self.waiter.traverse(&visit)
    }
}

impl Drop for StreamRead {
    fn drop(&mut self) {
        if self.phase.is_fresh() {
            self.warn();
        }
    }
}

impl StreamRead {
    /// As the interpreter warns of a coroutine that nobody awaited.
    #[cold]
    fn warn(&self) {
        let text = format!("coroutine 'StreamReader.{}' was never awaited", self.method());
        let Ok(text) = std::ffi::CString::new(text) else { return };
        // SAFETY: objects are freed attached. An exception that is on its way stays so.
        unsafe {
            let py = Python::assume_attached();
            let raised = ffi::PyErr_GetRaisedException();
            if let Err(error) = PyErr::warn(py, &py.get_type::<PyRuntimeWarning>(), &text, 1) {
                error.write_unraisable(py, None);
            }
            ffi::PyErr_SetRaisedException(raised);
        }
    }
}
