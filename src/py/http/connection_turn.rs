//! What a connection does when something has come for it: requests begin, those who wait go on, it closes, its time is up.

use std::sync::atomic::Ordering::{Acquire, Relaxed};

use pyo3::prelude::*;
use pyo3::types::PyString;

use super::app_call;
use super::connection::HttpConnection;
use super::transmit::{ask_owner, look_at, transmit};
use crate::http::{Activity, HttpFilter};
use crate::py::cpython::attach::lock_attached;
use crate::py::cpython::error::both;
use crate::py::cpython::names::intern;
use crate::py::event_loop::core::LoopCore;
use crate::py::transport::transport_methods::pause_if_above;
use crate::sys::clock;
use crate::transport::{Ciphertext, Filter, Source};

/// Seconds in which a client that was refused may read why, and go.
const LINGER: f64 = 1.0;

/// What a look at a connection's HTTP has shown.
struct Seen {
    activity: Activity,
    may_be_sending: bool,
    coming_since_ns: Option<u64>,
}

impl Seen {
    fn of(filter: &HttpFilter) -> Self {
        Self {
            activity: filter.activity(),
            may_be_sending: filter.may_be_sending(),
            coming_since_ns: filter.coming_since_ns(),
        }
    }
}

impl HttpConnection {
    /// Begins the requests that have come, and goes on with what else has. On the loop's thread.
    ///
    /// # Errors
    /// What ends the program.
    pub(super) fn begin_here(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (this, py) = (slf.get(), slf.py());
        let mut result = Ok(());
        loop {
            let next = transmit(py, this, |filter, _| {
                let next = filter.take_request();
                Ok((next, filter.has_news(), Seen::of(filter)))
            })?;
            let Some((next, has_more, seen)) = next else { return result };
            if let Some((id, head)) = next {
                this.had_request.store(true, Relaxed);
                if result.is_ok() {
                    result = app_call::begin(slf, this.server.bind(py), id, head);
                }
                if has_more {
                    continue;
                }
            }
            return both(py, result, Self::go_on(slf, &seen));
        }
    }

    /// Begins on this loop what has come for a connection of another one, which does not get to it; wakes who waits
    /// for more of a body.
    ///
    /// # Errors
    /// What ends the program.
    pub(crate) fn begin_elsewhere(
        loop_: &Bound<'_, LoopCore>,
        slf: &Bound<'_, Self>,
    ) -> PyResult<()> {
        let (this, py) = (slf.get(), slf.py());
        let mut result = Ok(());
        if let Some(server) = this.server.get().on(loop_)? {
            while result.is_ok()
                && let Some(Some((id, head))) =
                    transmit(py, this, |filter, _| Ok(filter.take_offered()))?
            {
                this.had_request.store(true, Relaxed);
                result = app_call::begin(slf, &server, id, head);
            }
        }
        this.wake_readers(py);
        result
    }

    /// Whether nothing is under way: no request is there, or comes. Any thread.
    pub(super) fn is_quiet(&self, py: Python<'_>) -> bool {
        if !lock_attached(py, &self.state).requests.is_empty() {
            return false;
        }
        let quiet = |filter: &mut HttpFilter, _: &mut Ciphertext| filter.is_quiet();
        self.parts(py).is_none_or(|parts| look_at(py, self, &parts.core, quiet).unwrap_or(true))
    }

    /// Lets the connection end when what is under way is answered.
    pub(super) fn drain(&self, py: Python<'_>) {
        let _ = transmit(py, self, |filter, to| filter.respond(to, |http, _| http.drain()));
    }

    fn wake_readers(&self, py: Python<'_>) {
        if self.has_readers.swap(false, Acquire) {
            for request in self.requests(py) {
                request.0.waiters.wake(py);
            }
        }
    }

    /// Goes on when all requests that have come have begun.
    fn go_on(slf: &Bound<'_, Self>, seen: &Seen) -> PyResult<()> {
        let (this, py) = (slf.get(), slf.py());
        this.wake_readers(py);
        let has_waiters = !this.waiters.is_empty(py);
        if has_waiters && !this.is_paused.load(Acquire) {
            if this.is_above(py) {
                // Other threads have written that much. It resumes when enough is sent.
                if let Some(parts) = this.parts(py) {
                    let loop_ = this.loop_(py);
                    pause_if_above(loop_, parts.transport.bind(py), parts.core.get())?;
                }
            } else {
                this.waiters.wake(py);
            }
        }
        if lock_attached(py, &this.state).requests.is_empty() && seen.activity == Activity::Idle {
            // Another loop has answered.
            Self::rest(slf)?;
        }
        let limit = this.server.get().times.request;
        if let (Some(_), true) = (seen.coming_since_ns, limit > 0.0) {
            Self::limit_request(slf, limit)?;
        }
        match seen.activity {
            Activity::Closing if seen.may_be_sending => Self::linger(slf),
            Activity::Closing => this.close(py),
            _ => Ok(()),
        }
    }

    /// Lets a request that is coming be refused when its time is over.
    fn limit_request(slf: &Bound<'_, Self>, seconds: f64) -> PyResult<()> {
        let (this, py) = (slf.get(), slf.py());
        if lock_attached(py, &this.state).request_timer.is_some() {
            return Ok(());
        }
        let timer = Self::call_later(slf, seconds, intern!(py, "_request_timed_out"))?;
        lock_attached(py, &this.state).request_timer = Some(timer.into());
        Ok(())
    }

    /// Says that no more is sent, and throws away for a while what the client still sends.
    fn linger(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (this, py) = (slf.get(), slf.py());
        if this.is_ended() || this.is_tls(py)? {
            return this.close(py);
        }
        if lock_attached(py, &this.state).linger_timer.is_some() {
            return Ok(());
        }
        this.say_end(py)?;
        let timer = Self::call_later(slf, LINGER, intern!(py, "_give_up"))?;
        lock_attached(py, &this.state).linger_timer = Some(timer.into());
        Ok(())
    }

    /// Says that no more is sent, behind what is. TLS has a word for it, and its transport waits for the answer. Any
    /// thread.
    pub(super) fn say_end(&self, py: Python<'_>) -> PyResult<()> {
        if self.is_tls(py)? {
            return Ok(());
        }
        let Some(parts) = self.parts(py) else { return Ok(()) };
        parts.transport.bind(py).call_method0(intern!(py, "_say_end")).map(drop)
    }

    fn is_tls(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.ends(py)?.is_tls)
    }

    /// Notes that the connection is idle, if it is: it is closed after a while.
    pub(super) fn rest(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (this, py) = (slf.get(), slf.py());
        let Some(keep_alive) = this.server.get().times.keep_alive else { return Ok(()) };
        if !this.loop_(py).get().event_loop.local.is_owner() {
            ask_owner(py, this);
            return Ok(());
        }
        let now = now();
        let needs_timer = {
            let mut state = lock_attached(py, &this.state);
            let is_idle = state.requests.is_empty() && !this.is_lost();
            state.idle_since = now;
            is_idle && state.timer.is_none()
        };
        if needs_timer { Self::set_timer(slf, keep_alive) } else { Ok(()) }
    }

    fn set_timer(slf: &Bound<'_, Self>, seconds: f64) -> PyResult<()> {
        let (this, py) = (slf.get(), slf.py());
        let timer = Self::call_later(slf, seconds, intern!(py, "_timed_out"))?;
        lock_attached(py, &this.state).timer = Some(timer.into());
        Ok(())
    }

    fn call_later<'py>(
        slf: &Bound<'py, Self>,
        seconds: f64,
        method: &Bound<'py, PyString>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let call = slf.getattr(method)?;
        slf.get().loop_(py).call_method1(intern!(py, "call_later"), (seconds, call))
    }

    /// Closes a connection that was idle for too long.
    pub(super) fn end_idle(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (this, py) = (slf.get(), slf.py());
        let since = {
            let mut state = lock_attached(py, &this.state);
            let timer = state.timer.take();
            let since = state.idle_since;
            drop(state);
            drop(timer);
            since
        };
        if !this.is_quiet(py) || this.is_lost() {
            return Ok(());
        }
        let keep_alive = this.server.get().times.keep_alive.unwrap_or(f64::INFINITY);
        let left = since + keep_alive - now();
        if left <= 0.0 { this.close(py) } else { Self::set_timer(slf, left) }
    }

    /// Refuses a request that has not come in time.
    pub(super) fn refuse_late(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (this, py) = (slf.get(), slf.py());
        let timer = lock_attached(py, &this.state).request_timer.take();
        drop(timer);
        let limit = this.server.get().times.request;
        let is_paused =
            this.parts(py).is_some_and(|parts| parts.core.get().stream.state().bits().is_paused());
        let late = transmit(py, this, |filter, to| {
            let Some(since) = filter.coming_since_ns() else { return Ok(None) };
            if is_paused || filter.is_full() {
                // It is the application that does not read.
                return Ok(Some(limit));
            }
            let left = limit - (now() - clock::seconds(since));
            if left > 0.0 {
                return Ok(Some(left));
            }
            filter.time_out(to).map(|()| None)
        })?;
        match late.flatten() {
            // It is another one.
            Some(left) => Self::limit_request(slf, left),
            None => Ok(()),
        }
    }
}

fn now() -> f64 {
    clock::seconds(clock::monotonic_ns())
}
