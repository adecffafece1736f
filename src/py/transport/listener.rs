//! Listening sockets: what happens when connections arrive.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyString, PyWeakrefReference};

use super::server::ServerCore;
use super::stream::StreamCore;
use super::transport_core::{self, InTurn};
use crate::id::IoToken;
use crate::py::cpython::alloc;
use crate::py::cpython::attach::lock_attached;
use crate::py::cpython::error::{ends_the_program, os_error};
use crate::py::cpython::holder::Holder;
use crate::py::cpython::names::intern;
use crate::py::cpython::returned::Returned;
use crate::py::event_loop::core::LoopCore;
use crate::py::event_loop::io::collect_completions;
use crate::py::event_loop::kept;
#[cfg(feature = "http")]
use crate::transport::Responder;
use crate::transport::{AcceptSink, Connection, Listener, Schedule, Source};

/// A listening socket of one loop. Use `loop_pool.EventLoop`.
#[pyclass(frozen, module = "loop_pool._core")]
pub(crate) struct ListenerCore {
    listener: Arc<Listener>,
    /// Under which it is registered; 0: not.
    token: AtomicU64,
    /// Its Python half, which the loop keeps, and which keeps this: weakly, so that both are freed as
    /// soon as the loop lets go.
    listener_half: Py<PyWeakrefReference>,
    /// What else may close the socket.
    holder: Holder,
}

#[pymethods]
impl ListenerCore {
    /// `fd`: a listening, non-blocking socket that stays open until `stop`. `half`: is told of each
    /// connection (`_connected`) and of a failure, after which accepting rests (`_failed`). With a
    /// `server` each connection goes to the least loaded loop that listens for it. `holder`: the object
    /// that closes the socket.
    #[new]
    #[pyo3(signature = (fd, half, server=None, holder=None))]
    fn new(
        fd: i32,
        half: &Bound<'_, PyAny>,
        server: Option<&Bound<'_, ServerCore>>,
        holder: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let sink = server.map(|server| server.get().sink() as Arc<dyn AcceptSink>);
        let listener = Arc::new(Listener::new(fd, sink));
        let token = AtomicU64::new(0);
        let listener_half = PyWeakrefReference::new(half)?.unbind();
        let this = Self { listener, token, listener_half, holder: Holder::default() };
        if let Some(holder) = holder {
            // SAFETY: `drop` waits for whoever uses the socket.
            unsafe { this.holder.hold(this.listener.descriptor(), holder) };
        }
        Ok(this)
    }

    /// Whether the socket's number still stands for it: the program has not closed it.
    #[getter]
    fn holds(&self) -> bool {
        self.listener.descriptor().is_held()
    }

    /// Begins to accept. Call it on the loop's thread.
    fn start(slf: &Bound<'_, Self>, loop_: &Bound<'_, LoopCore>) -> PyResult<()> {
        let (py, this, core) = (slf.py(), slf.get(), loop_.get());
        core.check_open()?;
        let shared = core.event_loop.shared();
        let fd = this.listener.fd();
        let source: Arc<dyn Source> = this.listener.clone();
        // The table's own reference, given back by `stop`.
        let cookie = kept::strongly(slf.clone().into_any());
        let inserted = transport_core::insert(loop_, fd, &source, cookie);
        let result = match inserted {
            None => Err(alloc::runtime_error(
                py,
                format!("File descriptor {fd} is used by another transport"),
            )),
            Some(token) => {
                this.token.store(token.to_word(), Relaxed);
                this.listener.register(token, &**shared).map_err(|error| {
                    drop(lock_attached(py, &shared.sources).remove(token));
                    os_error(py, &error)
                })
            }
        };
        if result.is_err() {
            // SAFETY: the reference made above, which the table has not, or not any more.
            unsafe { kept::give_up(py, cookie) };
            return result;
        }
        schedule(loop_, slf, this.listener.state().start());
        Ok(())
    }

    /// Under which it is registered with its loop; its bits, as a signed number.
    #[getter]
    fn token(&self) -> Returned<i64> {
        Returned(self.token.load(Relaxed).cast_signed())
    }

    /// Accepts no more, on whichever thread. Any thread.
    fn retire(&self, py: Python<'_>) {
        if self.listener.state().retire() {
            py.detach(|| transport_core::wait_until_unclaimed(self.listener.state()));
        }
    }

    /// Accepts nothing until `resume`. Before `start`.
    fn pause(&self) {
        self.listener.state().pause();
    }

    /// Hands over every connection that was placed here before, in its last turn: after `retire`,
    /// and after the server has let the loop go. Loop's thread.
    fn hand_over(&self, py: Python<'_>, loop_: &Bound<'_, LoopCore>) -> PyResult<()> {
        let core = loop_.get();
        let mut found = Vec::new();
        collect_completions(py, core, |callback| found.push(callback));
        for callback in found {
            core.schedule(callback);
        }
        let mut result = Ok(());
        for connection in self.listener.take_arrived().0 {
            self.introduce(py, connection, &mut result);
        }
        result
    }

    /// Stops accepting for good, after which the socket may be closed. Connections that were
    /// placed here and not yet taken are closed. Any thread.
    fn stop(&self, py: Python<'_>, loop_: &Bound<'_, LoopCore>) {
        let shared = loop_.get().event_loop.shared();
        self.retire(py);
        let Some(token) = IoToken::from_word(self.token.swap(0, Relaxed)) else { return };
        let entry = lock_attached(py, &shared.sources).remove(token);
        // Nothing arrives any more that is not in the table.
        let arrived = self.listener.take_arrived();
        drop(arrived); // to close one may take long
        if let Some(entry) = entry {
            transport_core::deregister(loop_, self.listener.descriptor());
            // SAFETY: the table's own reference.
            unsafe { kept::give_up(py, entry.cookie) };
        }
    }

    /// Accepts again, after a failure.
    fn resume(slf: &Bound<'_, Self>, loop_: &Bound<'_, LoopCore>) {
        schedule(loop_, slf, slf.get().listener.state().resume());
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.listener_half)?;
        self.holder.traverse(&visit)
    }
}

impl Drop for ListenerCore {
    fn drop(&mut self) {
        if self.listener.state().retire() {
            transport_core::wait_until_unclaimed(self.listener.state());
        }
        drop(self.listener.take_arrived()); // to close one may take long
    }
}

impl ListenerCore {
    /// Lets `responder` see connections first that another thread accepts. Once; any thread.
    #[cfg(feature = "http")]
    pub(crate) fn answer_by(&self, responder: Arc<dyn Responder>) {
        self.listener.answer_by(responder);
    }

    fn introduce(&self, py: Python<'_>, connection: Connection, result: &mut PyResult<()>) {
        let handed = Bound::new(py, StreamCore::accepted(connection, self.listener.is_shared()))
            .and_then(|core| self.tell(intern!(py, "_connected"), core));
        keep_worst(py, result, handed);
    }

    /// Calls a method of the Python half. If that has gone, so have the loop's interest and the
    /// connection.
    fn tell<'py>(
        &self,
        method: &Bound<'py, PyString>,
        argument: impl IntoPyObject<'py>,
    ) -> PyResult<()> {
        match self.listener_half.bind(method.py()).upgrade() {
            Some(half) => half.call_method1(method, (argument,)).map(drop),
            None => Ok(()),
        }
    }
}

fn schedule(loop_: &Bound<'_, LoopCore>, listener: &Bound<'_, ListenerCore>, needed: Schedule) {
    if needed == Schedule::Needed {
        let token = IoToken::from_word(listener.get().token.load(Relaxed));
        transport_core::make_entry(loop_, listener.as_ptr(), token);
    }
}

/// Hands over the connections that have come, on the loop's thread.
///
/// # Errors
/// What ends the program, from a protocol factory; every connection has been handed over then.
pub(crate) fn run(loop_: &Bound<'_, LoopCore>, slf: &Bound<'_, ListenerCore>) -> PyResult<()> {
    let (py, this) = (slf.py(), slf.get());
    let state = this.listener.state();
    let turn = state.begin_turn();
    if turn.bits.is_dead() {
        return Ok(());
    }
    let token = || IoToken::from_word(this.token.load(Relaxed));
    let _in_turn = InTurn { loop_, object: slf.as_ptr(), state, token };
    let accepted = turn.claim.map_or(Ok(()), |claim| this.listener.accept_in_turn(claim));
    let (connections, failure) = this.listener.take_arrived();
    let mut result = Ok(());
    for connection in connections {
        this.introduce(py, connection, &mut result);
    }
    if let Some(error) = accepted.err().or(failure) {
        state.pause();
        let error = os_error(py, &error).into_value(py);
        keep_worst(py, &mut result, this.tell(intern!(py, "_failed"), error));
    }
    result
}

/// Keeps the first error, but for one that ends the program, which comes before all others.
fn keep_worst(py: Python<'_>, kept: &mut PyResult<()>, next: PyResult<()>) {
    let worse = match (&kept, &next) {
        (_, Ok(())) => false,
        (Ok(()), Err(_)) => true,
        (Err(first), Err(error)) => ends_the_program(py, error) && !ends_the_program(py, first),
    };
    if worse {
        *kept = next;
    }
}
