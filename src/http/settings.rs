//! What a server takes: one set of bounds for all its connections.

use std::sync::Arc;

use crate::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// The most header fields that a head may have, whatever the settings say.
pub const MAX_FIELDS: usize = 256;

/// A path that is answered without the program, also while nobody could run that: whether the server takes requests.
#[derive(Debug)]
pub struct Readiness {
    /// The path, as it stands in requests.
    pub path: Box<[u8]>,
    is_ready: AtomicBool,
}

impl Readiness {
    /// Of a server that is not ready yet.
    #[must_use]
    pub fn new(path: Box<[u8]>) -> Self {
        Self { path, is_ready: AtomicBool::new(false) }
    }

    /// Says whether the server is ready. Any thread.
    pub fn set(&self, is_ready: bool) {
        self.is_ready.store(is_ready, Relaxed);
    }

    /// The status and the body of the answer.
    pub(super) fn answer(&self) -> (u16, &'static [u8]) {
        if self.is_ready.load(Relaxed) { (200, b"ready\n") } else { (503, b"not ready\n") }
    }
}

/// Bounds and choices of a server. They are made once, shared by all its connections and threads, and never
/// changed.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bytes of a request line with its header section, and of a trailer section. Less than 1 KiB counts as that,
    /// and more than 16 MiB as that.
    pub max_head: usize,
    /// Fields of a header section, and of a trailer section. At most [`MAX_FIELDS`].
    pub max_fields: usize,
    /// Bytes of a request's body; `None`: any number.
    pub max_body: Option<u64>,
    /// Bytes of a body that are read and thrown away after the response has ended, so that the connection can be
    /// kept. If there are more, it is closed.
    pub max_discarded: u64,
    /// Requests of one connection that are begun and not answered. Further ones wait, unparsed. One that may
    /// change something is alone in any case.
    pub max_pipelined: usize,
    /// Whether requests for a WebSocket are taken as such. Otherwise their `Upgrade` is ignored.
    pub websocket: bool,
    /// Bytes of a message of a WebSocket, also after it is inflated.
    pub max_message: usize,
    /// Messages of a WebSocket that wait for the program. With more of them nothing is read.
    pub max_messages: usize,
    /// What is answered without the program.
    pub readiness: Option<Arc<Readiness>>,
    /// Whether messages are compressed for clients that offer it.
    pub deflate: bool,
    /// The field `server` of responses that have none.
    pub server: Option<Box<str>>,
    /// Whether responses get a field `date`, if they have none.
    pub date: bool,
}

impl Settings {
    /// [`max_head`](Self::max_head) within its bounds.
    #[inline]
    pub(super) fn head_limit(&self) -> usize {
        self.max_head.clamp(1024, 16 * 1024 * 1024)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_head: 64 * 1024,
            max_fields: 128,
            max_body: None,
            max_discarded: 64 * 1024,
            max_pipelined: 16,
            websocket: true,
            max_message: 16 * 1024 * 1024,
            max_messages: 32,
            readiness: None,
            deflate: true,
            server: None,
            date: true,
        }
    }
}
