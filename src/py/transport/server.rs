//! What the listeners of one pool-wide server share.

use std::sync::Arc;

use pyo3::prelude::*;

use crate::id::{IoToken, LoopId};
use crate::pool::PoolAcceptor;

/// What the listeners of one pool-wide server share. Use `loop_pool.create_server`.
#[pyclass(frozen, module = "loop_pool._core")]
pub(crate) struct ServerCore {
    acceptor: Arc<PoolAcceptor>,
}

#[pymethods]
impl ServerCore {
    /// Lets connections be placed on a loop, whose listener is registered under `token`. Any
    /// thread.
    fn add(&self, index: u32, token: i64) {
        if let Some(token) = IoToken::from_word(token.cast_unsigned()) {
            self.acceptor.open(LoopId(index), token);
        }
    }

    /// Places no further connections on a loop; those placed before are in its inbox. Any thread.
    fn remove(&self, py: Python<'_>, index: u32) {
        py.detach(|| self.acceptor.shut(LoopId(index)));
    }
}

impl ServerCore {
    pub(crate) fn new(acceptor: PoolAcceptor) -> Self {
        Self { acceptor: Arc::new(acceptor) }
    }

    pub(crate) fn sink(&self) -> Arc<PoolAcceptor> {
        Arc::clone(&self.acceptor)
    }
}
