//! Whoever sends more than the client reads waits: the tasks that do, on any loop.

use std::sync::atomic::Ordering::Acquire;

use pyo3::prelude::*;

use super::connection::HttpConnection;
use super::transmit::ask_owner;
use super::waiters::Waiter;
use crate::py::cpython::attach::lock_attached;
use crate::py::cpython::object::Ref;
use crate::py::transport::transport_core::NativeTransport;

impl HttpConnection {
    /// Whether whoever sends more is to wait. Any thread.
    pub(super) fn is_above(&self, py: Python<'_>) -> bool {
        let Some(parts) = self.parts(py) else { return false };
        if self.is_paused.load(Acquire) {
            return true;
        }
        let core = parts.core.get();
        core.stream.queued() > core.link().flow().limits().1
    }

    /// Leaves a waiter, who is woken when enough is sent. Any thread.
    pub(super) fn wait_for_drain(&self, py: Python<'_>, waiter: Waiter) {
        lock_attached(py, &self.state).waiters.push(waiter);
        // The loop pauses, and resumes, only for what it has written itself.
        ask_owner(py, self);
    }

    pub(super) fn forget(&self, py: Python<'_>, future: &Ref) {
        let mut state = lock_attached(py, &self.state);
        let place = state.waiters.iter().position(|waiter| waiter.is(future));
        let gone = place.map(|place| state.waiters.swap_remove(place));
        drop(state);
        drop(gone);
    }

    /// Lets those go on that wait until enough is sent. Any thread.
    pub(super) fn wake_waiters(&self, py: Python<'_>) {
        let waiters = std::mem::take(&mut lock_attached(py, &self.state).waiters);
        for waiter in waiters {
            waiter.wake(py);
        }
    }
}
