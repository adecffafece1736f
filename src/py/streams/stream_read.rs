//! What `read`, `readline`, `readexactly` and `readuntil` of our stream readers return: a coroutine
//! without a frame.
//!
//! Like a coroutine it does nothing before it is awaited. Then it takes what it wants out of the buffer,
//! or stays with the reader and yields itself, a future from then on (`stream_waiter`). Who feeds the
//! reader wakes it and hands nothing over: the bytes are taken when the task runs again. So a task that
//! is cancelled in between has taken none.

use std::ptr::NonNull;

use pyo3::exceptions::{
    PyAssertionError, PyAttributeError, PyRuntimeWarning, PyStopAsyncIteration,
};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use super::reader_state::{self, Chunk};
use super::stream_waiter::{Outcome, Wait, Waiter, cancelled_error};
use crate::py::cpython::alloc;
use crate::py::cpython::names::intern;
use crate::py::cpython::object::Ref;
use crate::py::cpython::payload::Borrowed;
use crate::transport::{
    Answer, BeforeWait, FirstStep, LookOutcome, NoSeparator, Overrun, ReadPhase, ReadProgress,
    ReadSteps, Separators, Step as ReadStep, StepRefusal, TakeOutcome, WaitOutcome, WaitPhase,
    Wanted,
};

/// A `read` or its like, to be awaited once.
#[pyclass(frozen, module = "loop_pool._core")]
pub(crate) struct StreamRead {
    pub(super) reader: Ref,
    pub(super) wanted: Wanted,
    /// The separators of [`Wanted::Until`]; for [`Wanted::Arrival`] the method of that name.
    pub(super) given: Option<Ref>,
    pub(super) steps: ReadSteps<ReadProgress>,
    pub(crate) waiter: Waiter,
}

/// What it comes to.
pub(super) enum Step {
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
        wanted: Wanted,
        given: Option<Ref>,
    ) -> PyResult<*mut ffi::PyObject> {
        // SAFETY: the reader is alive: a method of it is being called.
        let reader = unsafe { Ref::from_borrowed(reader) };
        let read =
            Self { reader, wanted, given, steps: ReadSteps::default(), waiter: Waiter::default() };
        Ok(Bound::new(py, read)?.into_ptr())
    }

    /// Lets this thread go on with it.
    pub(super) fn claim(&self, py: Python<'_>) -> PyResult<ReadStep<'_, ReadProgress>> {
        self.steps.begin().map_err(|refusal| match refusal {
            StepRefusal::Running => alloc::value_error(py, "coroutine already executing"),
            StepRefusal::Over => alloc::runtime_error(py, "cannot reuse already awaited coroutine"),
        })
    }

    pub(super) fn go_on(slf: &Bound<'_, Self>) -> PyResult<Step> {
        let mut step = slf.get().claim(slf.py())?;
        let is_first = step.is_first();
        let result = step.with(|progress| Self::advance(slf, is_first, progress));
        if matches!(result, Ok(Step::Waits)) {
            step.wait();
        }
        result
    }

    fn advance(slf: &Bound<'_, Self>, fresh: bool, progress: &mut ReadProgress) -> PyResult<Step> {
        let (this, py) = (slf.get(), slf.py());
        if fresh {
            this.begin(py, progress)?;
        } else {
            Self::end_wait(slf)?;
            progress.wake();
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
        match self.wanted.first_step() {
            FirstStep::NegativeSize => {
                return Err(alloc::value_error(py, "readexactly size can not be less than zero"));
            }
            FirstStep::Separators => {
                if let Some(given) = &self.given {
                    progress.ends_by(separators(given.as_py().bind(py))?);
                }
            }
            FirstStep::Look => return Ok(()),
            FirstStep::Check => {}
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
        let reader = self.reader.as_ptr();
        // SAFETY: we hold the reader; no Python runs, and what is to be dropped is returned.
        let (LookOutcome { found, spent, .. }, resume) = unsafe {
            reader_state::with(reader, |held| {
                let looked = held.state.look(self.wanted, progress, made);
                let resume = if looked.resumes { held.transport() } else { None };
                (looked, resume)
            })
        };
        drop(spent);
        if let Some(transport) = resume {
            transport.as_py().call_method0(py, intern!(py, "resume_reading"))?;
        }
        let (value, ended) = match found {
            TakeOutcome::Wait => return Ok(Round::Short),
            TakeOutcome::Whole(Chunk(whole)) => (whole, false),
            // SAFETY: a new reference.
            TakeOutcome::Part(object) => (unsafe { Ref::from_owned(object) }, false),
            // SAFETY: as above.
            TakeOutcome::Ended(object) => (unsafe { Ref::from_owned(object) }, true),
            TakeOutcome::Overrun(overrun) => return Err(self.overrun(py, overrun)),
            TakeOutcome::Failed => return Err(alloc::raised(py)),
        };
        match self.wanted.answer(ended) {
            Answer::Bytes => Ok(Round::Returns(value)),
            Answer::Line => some_line(value).map(Round::Returns),
            Answer::Nothing => Ok(Round::Returns(py.None().into_bound(py).into())),
            Answer::Incomplete(expected) => Err(incomplete(py, &value, expected)),
            Answer::Collect => {
                // A round of `read` with each chunk, as asyncio has it.
                self.check(py)?;
                let block = value.as_py().bind(py).cast::<PyBytes>()?.as_bytes();
                let Some(all) = progress.collect(block) else { return Ok(Round::Again) };
                Ok(Round::Returns(alloc::bytes(py, &all)?.into_any().into()))
            }
        }
    }

    /// More than the limit came before the separator.
    #[cold]
    fn overrun(&self, py: Python<'_>, Overrun { consumed, found }: Overrun) -> PyErr {
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
        if self.wanted == Wanted::Until {
            return overrun;
        }
        let error = alloc::value_error(py, text);
        error.set_context(py, Some(overrun));
        error
    }

    #[cold]
    fn already_awaited(&self, py: Python<'_>) -> PyErr {
        let name = match (self.wanted, &self.given) {
            (Wanted::Arrival, Some(name)) => {
                name.as_py().bind(py).str().map(|name| name.to_string())
            }
            // `async for` calls `readline`, which calls `readuntil`.
            (Wanted::Line | Wanted::Next, _) => Ok(Wanted::Until.method().to_owned()),
            (wanted, _) => Ok(wanted.method().to_owned()),
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
        // SAFETY: we hold the reader; no Python runs, and nothing is dropped.
        let (before, resume) = unsafe {
            reader_state::with(reader, |held| {
                let before = held.state.before_wait(held.is_awaited());
                let resumes = before == BeforeWait::Resume;
                (before, if resumes { held.transport() } else { None })
            })
        };
        if before == BeforeWait::Ended && this.wanted == Wanted::Arrival {
            return Err(alloc::error::<PyAssertionError>(py, "_wait_for_data after EOF"));
        }
        if let Some(transport) = resume {
            transport.as_py().call_method0(py, intern!(py, "resume_reading"))?;
        }
        this.check(py)?;
        // SAFETY: we hold the reader; counting runs no Python, and nothing is dropped.
        let outcome = unsafe {
            reader_state::with(reader, |held| {
                let outcome = held.state.begin_wait(progress, held.is_awaited());
                if outcome == WaitOutcome::Begins {
                    this.waiter.begin(held);
                    held.set_waiter(Ref::from_borrowed(slf.as_ptr()));
                }
                outcome
            })
        };
        match outcome {
            WaitOutcome::Begins => Ok(true),
            WaitOutcome::LookAgain => Ok(false),
            WaitOutcome::Awaited => Err(this.already_awaited(py)),
        }
    }

    /// Leaves the reader, and takes what the wait has come to.
    pub(super) fn leave(slf: &Bound<'_, Self>) -> Wait {
        let this = slf.get();
        let reader = this.reader.as_ptr();
        // SAFETY: we hold the reader; what is to be dropped is returned.
        let (left, wait) = unsafe {
            reader_state::with(reader, |held| {
                (held.take_waiter(Some(slf.as_ptr())), this.waiter.wait(held).end())
            })
        };
        drop(left);
        wait
    }

    /// # Errors
    /// What the wait was ended with, as by `set_exception`; `RuntimeError` if it was not.
    fn end_wait(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        match Self::leave(slf).into_phase() {
            WaitPhase::Idle | WaitPhase::Settled(Outcome::Woken) => Ok(()),
            WaitPhase::Pending => Err(alloc::runtime_error(py, "await wasn't used with future")),
            WaitPhase::Settled(Outcome::Cancelled(message)) => {
                Err(cancelled_error(py, message.as_ref()))
            }
            WaitPhase::Settled(Outcome::Failed(error)) => {
                Err(PyErr::from_value(error.as_py().bind(py).clone()))
            }
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

/// A bytes object of what a read takes of the buffer; `None` with an exception.
#[inline(always)]
fn made(bytes: &[u8]) -> Option<NonNull<ffi::PyObject>> {
    // SAFETY: the memory is valid for its length, and objects are made attached. It runs no Python code.
    NonNull::new(unsafe {
        ffi::PyBytes_FromStringAndSize(bytes.as_ptr().cast(), bytes.len().cast_signed())
    })
}

/// The separators that `readuntil` was given.
///
/// # Errors
/// `TypeError` for what is no bytes; `ValueError` without any, or with an empty one.
fn separators(given: &Bound<'_, PyAny>) -> PyResult<Separators> {
    let copy = |one: &Bound<'_, PyAny>| -> PyResult<Box<[u8]>> {
        Ok(Borrowed::new(one, false)?.bytes().into())
    };
    let all = match given.cast::<PyTuple>() {
        Ok(several) => several.iter().map(|one| copy(&one)).collect::<PyResult<_>>()?,
        Err(_) => vec![copy(given)?],
    };
    Separators::new(all).map_err(|none| {
        alloc::value_error(
            given.py(),
            match none {
                NoSeparator::Missing => "Separator should contain at least one element",
                NoSeparator::Empty => "Separator should be at least one-byte string",
            },
        )
    })
}

/// `asyncio.IncompleteReadError`: the end came before what was wanted.
#[cold]
fn incomplete(py: Python<'_>, partial: &Ref, expected: Option<isize>) -> PyErr {
    let make = || -> PyResult<PyErr> {
        let expected = match expected {
            Some(count) => alloc::int(py, count)?.into_any().unbind(),
            None => py.None(),
        };
        let class =
            py.import(intern!(py, "asyncio"))?.getattr(intern!(py, "IncompleteReadError"))?;
        Ok(PyErr::from_value(class.call1((partial.as_py(), expected))?))
    };
    make().unwrap_or_else(|error| error)
}

fn some_line(line: Ref) -> PyResult<Ref> {
    // SAFETY: it is a bytes object.
    if unsafe { ffi::Py_SIZE(line.as_ptr()) } == 0 {
        return Err(PyStopAsyncIteration::new_err(()));
    }
    Ok(line)
}

/// The exception that ends a coroutine with `value`, made without asking what is being handled.
pub(super) fn stop(py: Python<'_>, value: &Ref) -> PyErr {
    // SAFETY: a live class and a live argument; the result is a new reference, or null with an error.
    unsafe {
        let made = ffi::PyObject_CallOneArg(ffi::PyExc_StopIteration, value.as_ptr());
        match Ref::from_owned_or_err(py, made) {
            Ok(made) => PyErr::from_value(made.as_py().bind(py).clone()),
            Err(error) => error,
        }
    }
}

impl Drop for StreamRead {
    fn drop(&mut self) {
        if self.steps.phase() == ReadPhase::Fresh {
            self.warn();
        }
    }
}

impl StreamRead {
    /// As the interpreter warns of a coroutine that nobody awaited.
    #[cold]
    fn warn(&self) {
        let text = format!("coroutine 'StreamReader.{}' was never awaited", self.wanted.method());
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
