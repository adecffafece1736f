//! What Python asks of a `StreamRead`: the methods of a coroutine, and those of a future that no message passes. The
//! others are in `stream_future`.

use std::sync::atomic::Ordering::Relaxed;

use pyo3::exceptions::PyBaseException;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};

use super::stream_future::{State, invalid_state, settle};
use super::stream_read::{Step, StreamRead, stop};
use super::stream_waiter::{Outcome, cancelled_error};
use crate::py::cpython::alloc;
use crate::py::cpython::object::Ref;
use crate::py::cpython::returned::Returned;
use crate::transport::ReadPhase;

#[pymethods]
impl StreamRead {
    #[getter]
    fn __name__(&self) -> Returned<&'static str> {
        Returned(self.wanted.method())
    }

    #[getter]
    fn __qualname__(&self) -> Returned<String> {
        Returned(format!("StreamReader.{}", self.wanted.method()))
    }

    fn __repr__(slf: &Bound<'_, Self>) -> Returned<String> {
        Returned(format!("<coroutine object {} at {:p}>", slf.get().__qualname__().0, slf.as_ptr()))
    }

    fn __await__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        if slf.get().steps.phase() == ReadPhase::Waiting {
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
        if !value.is_none() && slf.get().steps.phase() == ReadPhase::Fresh {
            let text = "can't send non-None value to a just-started coroutine";
            return Err(alloc::type_error(slf.py(), text));
        }
        Self::__next__(slf)
    }

    #[pyo3(signature = (*exception))]
    fn throw(slf: &Bound<'_, Self>, exception: &Bound<'_, PyTuple>) -> PyResult<Py<PyAny>> {
        let thrown = match exception.iter().collect::<Vec<_>>().as_slice() {
            [class, value, ..] if class.is_instance_of::<PyType>() && !value.is_none() => {
                PyErr::from_value(class.call1((value,))?)
            }
            [thrown, ..] => PyErr::from_value(thrown.clone()),
            [] => {
                let text = "throw expected at least 1 argument, got 0";
                return Err(alloc::type_error(slf.py(), text));
            }
        };
        let _step = slf.get().claim(slf.py())?;
        drop(Self::leave(slf));
        Err(thrown)
    }

    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        if this.steps.phase() != ReadPhase::Over {
            let _step = this.claim(slf.py())?;
            drop(Self::leave(slf));
        }
        Ok(())
    }

    /// As a future's. `None` while it does not wait: then it is a coroutine, and no future.
    #[getter(_asyncio_future_blocking)]
    fn is_blocking(&self) -> Option<bool> {
        (self.steps.phase() == ReadPhase::Waiting).then(|| self.waiter.blocking.load(Relaxed))
    }

    #[setter(_asyncio_future_blocking)]
    fn set_blocking(&self, blocking: bool) {
        self.waiter.blocking.store(blocking, Relaxed);
    }

    /// Whether it does not wait.
    fn done(&self, py: Python<'_>) -> bool {
        !matches!(self.state(py), State::Pending)
    }

    /// Whether its wait was cancelled.
    fn cancelled(&self, py: Python<'_>) -> bool {
        matches!(self.state(py), State::Cancelled(_))
    }

    /// Return None, or raise what its wait ended with.
    fn result(&self, py: Python<'_>) -> PyResult<()> {
        match self.state(py) {
            State::Done => Ok(()),
            State::Pending => Err(invalid_state(py, "Result is not set.")),
            State::Cancelled(message) => Err(cancelled_error(py, message.as_ref())),
            State::Failed(error) => Err(PyErr::from_value(error.as_py().bind(py).clone())),
        }
    }

    /// Return the exception that its wait ended with.
    fn exception<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        match self.state(py) {
            State::Done => Ok(None),
            State::Pending => Err(invalid_state(py, "Exception is not set.")),
            State::Cancelled(message) => Err(cancelled_error(py, message.as_ref())),
            State::Failed(error) => Ok(Some(error.as_py().bind(py).clone())),
        }
    }

    /// End the wait by a `CancelledError`.
    #[pyo3(signature = (msg = None))]
    fn cancel(slf: &Bound<'_, Self>, msg: Option<Bound<'_, PyAny>>) -> PyResult<bool> {
        settle(slf, Outcome::Cancelled(msg.map(Ref::from)))
    }

    /// End the wait; the result is not kept.
    fn set_result(slf: &Bound<'_, Self>, result: &Bound<'_, PyAny>) -> PyResult<()> {
        let _ = result;
        if settle(slf, Outcome::Woken)? {
            return Ok(());
        }
        Err(invalid_state(slf.py(), "invalid state"))
    }

    /// End the wait by an exception.
    fn set_exception(slf: &Bound<'_, Self>, exception: Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let error =
            if exception.is_instance_of::<PyType>() { exception.call0()? } else { exception };
        if !error.is_instance_of::<PyBaseException>() {
            return Err(alloc::type_error(py, "invalid exception object"));
        }
        if settle(slf, Outcome::Failed(error.into()))? {
            return Ok(());
        }
        Err(invalid_state(py, "invalid state"))
    }

    /// Undo `add_done_callback`; return how many were removed.
    fn remove_done_callback(
        &self,
        py: Python<'_>,
        r#fn: &Bound<'_, PyAny>,
    ) -> PyResult<Returned<usize>> {
        // Comparing runs Python, so it is done outside of the section, of which nothing is taken out
        // meanwhile: it may raise.
        // SAFETY: counting runs no Python.
        let callbacks: Vec<Ref> = unsafe {
            self.with_wait(|wait| {
                wait.callbacks().map(|(callback, _)| callback.clone_ref(py)).collect()
            })
        };
        let mut equal = Vec::new();
        for callback in callbacks {
            if callback.as_py().bind(py).eq(r#fn)? {
                equal.push(callback);
            }
        }
        // SAFETY: no Python runs, and what is removed is dropped afterwards.
        let removed = unsafe {
            self.with_wait(|wait| {
                wait.unwatch(|(known, _)| {
                    equal.iter().any(|one| std::ptr::eq(one.as_ptr(), known.as_ptr()))
                })
            })
        };
        Ok(Returned(removed.len()))
    }

    // There is no `__clear__`: a cycle through the fields also goes through the reader or a task, and
    // these can be cleared.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(self.reader.as_py())?;
        if let Some(given) = &self.given {
            visit.call(given.as_py())?;
        }
        self.waiter.traverse(&visit)
    }
}
