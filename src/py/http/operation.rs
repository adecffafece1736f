//! What `receive` and `send` return: a coroutine without a frame.

use std::sync::OnceLock;

use pyo3::exceptions::PyStopIteration;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::waiters::Waiter;
use crate::py::cpython::alloc;
use crate::py::cpython::attach::lock_attached;
use crate::py::cpython::object::{Ref, make_immortal};
use crate::sync::Mutex;

/// A `receive` or `send` of one connection, to be awaited once, on any loop.
#[pyclass(frozen, module = "loop_pool._core", name = "HTTPOperation")]
pub(crate) struct HttpOperation {
    /// `None`: nothing.
    awaits: Option<Box<dyn Awaited>>,
    /// The future that its task waits for.
    state: Mutex<State>,
}

/// What an operation waits for.
pub(super) trait Awaited: Send + Sync {
    /// Looks whether it is there; if not, the waiter is left where it will be woken. The look comes after that.
    ///
    /// # Errors
    /// Why it will not come.
    fn look(&self, py: Python<'_>, waiter: Option<Waiter>) -> PyResult<Look>;

    /// Takes the waiter back.
    fn forget(&self, py: Python<'_>, future: &Ref);

    /// Shows the collector what it holds.
    ///
    /// # Errors
    /// Those of the collector.
    fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError>;
}

#[derive(Default)]
struct State {
    future: Option<Ref>,
    is_over: bool,
}

/// What a look comes to.
pub(super) enum Look {
    Ready(Option<Ref>),
    /// With somebody else's lock held no longer than it takes to leave the waiter there.
    Wait,
}

/// The one that is over at once, whoever awaits it.
static DONE: OnceLock<Py<HttpOperation>> = OnceLock::new();

impl HttpOperation {
    /// One that is over at once.
    pub(super) fn done(py: Python<'_>) -> PyResult<Py<Self>> {
        if let Some(done) = DONE.get() {
            return Ok(done.clone_ref(py));
        }
        let made = Py::new(py, Self { awaits: None, state: Mutex::new(State::default()) })?;
        // SAFETY: a live object that is never freed: the static keeps it.
        unsafe { make_immortal(made.as_ptr()) };
        Ok(DONE.get_or_init(|| made).clone_ref(py))
    }

    pub(super) fn new(awaits: impl Awaited + 'static) -> Self {
        Self { awaits: Some(Box::new(awaits)), state: Mutex::new(State::default()) }
    }

    /// Gives up the wait.
    fn forget(&self, py: Python<'_>) {
        let future = lock_attached(py, &self.state).future.take();
        if let (Some(awaits), Some(future)) = (&self.awaits, future) {
            awaits.forget(py, &future);
        }
    }

    /// Goes on: `None` at the end with nothing, what is yielded, or `StopIteration` with a value.
    fn step(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let Some(awaits) = &self.awaits else { return Ok(None) };
        if lock_attached(py, &self.state).is_over {
            return Err(alloc::runtime_error(py, "cannot reuse already awaited coroutine"));
        }
        self.forget(py);
        let mut look = awaits.look(py, None)?;
        let mut future = None;
        if matches!(look, Look::Wait) {
            let (waiter, made) = Waiter::begin(py)?;
            let made: Ref = made.into();
            lock_attached(py, &self.state).future = Some(made.clone_ref(py));
            future = Some(made);
            // It is looked again when the waiter is in its place.
            look = awaits.look(py, Some(waiter))?;
        }
        match look {
            Look::Wait => Ok(future.map(|future| future.as_py().clone_ref(py))),
            Look::Ready(value) => {
                if future.is_some() {
                    self.forget(py);
                }
                lock_attached(py, &self.state).is_over = true;
                match value {
                    None => Ok(None),
                    Some(value) => {
                        let value = alloc::tuple(py, [value])?;
                        Err(PyStopIteration::new_err(value.unbind()))
                    }
                }
            }
        }
    }
}

#[pymethods]
impl HttpOperation {
    fn __await__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        self.step(py)
    }

    /// As a coroutine's.
    fn send(&self, py: Python<'_>, _value: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        self.step(py)?.ok_or_else(|| PyStopIteration::new_err(py.None()))
    }

    /// As a coroutine's.
    #[pyo3(signature = (kind, value=None, traceback=None, /))]
    fn throw(
        &self,
        py: Python<'_>,
        kind: &Bound<'_, PyAny>,
        value: Option<&Bound<'_, PyAny>>,
        traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        self.close(py);
        let _ = traceback;
        let error = if kind.is_callable() && kind.hasattr("__mro__")? {
            match value {
                Some(value) if value.is_instance(kind)? => value.clone(),
                Some(value) => kind.call1((value,))?,
                None => kind.call0()?,
            }
        } else {
            kind.clone()
        };
        Err(PyErr::from_value(error))
    }

    /// As a coroutine's.
    fn close(&self, py: Python<'_>) {
        self.forget(py);
        lock_attached(py, &self.state).is_over = true;
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Some(awaits) = &self.awaits {
            awaits.visit(&visit)?;
        }
        if let Some(state) = self.state.lock_for_collector()
            && let Some(future) = &state.future
        {
            visit.call(future.as_py())?;
        }
        Ok(())
    }
}
