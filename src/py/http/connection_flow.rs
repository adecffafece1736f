//! Whoever sends more than the client reads waits: the tasks that do, on any loop.

use std::sync::atomic::Ordering::Acquire;

use pyo3::prelude::*;

use super::connection::HttpConnection;
use super::transmit::ask_owner;
use super::waiters::Waiter;
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
        self.waiters.push(py, waiter);
        // The loop pauses, and resumes, only for what it has written itself.
        ask_owner(py, self);
    }
}
