//! What a stream transport's protocol is, as far as it decides how data are handed to it.

use std::sync::atomic::{
    AtomicU8,
    Ordering::{Acquire, Release},
};

/// It is called for each piece of data.
const PLAIN: u8 = 0;
/// It is a `BufferedProtocol`, with a buffer of its own.
const BUFFERED: u8 = 1;
/// It is exactly asyncio's `StreamReaderProtocol`, whose reader may be fed natively.
const STREAMS: u8 = 2;
/// It is the HTTP server's, which asks the transport's filter for what has come.
const HTTP: u8 = 3;

/// The kind of the present protocol, which its loop's thread may replace at any time.
#[derive(Debug)]
pub(crate) struct ProtocolKind(AtomicU8);

impl ProtocolKind {
    pub(crate) fn new() -> Self {
        Self(AtomicU8::new(PLAIN))
    }

    /// Says what the protocol is; it cannot be both.
    pub(crate) fn set(&self, buffered: bool, streams: bool) {
        let kind = if buffered {
            BUFFERED
        } else if streams {
            STREAMS
        } else {
            PLAIN
        };
        self.0.store(kind, Release);
    }

    /// Says that the protocol is the HTTP server's.
    pub(crate) fn set_http(&self) {
        self.0.store(HTTP, Release);
    }

    /// Whether it is the HTTP server's.
    #[inline(always)]
    pub(crate) fn is_http(&self) -> bool {
        self.0.load(Acquire) == HTTP
    }

    /// Whether it has a buffer of its own.
    #[inline(always)]
    pub(crate) fn is_buffered(&self) -> bool {
        self.0.load(Acquire) == BUFFERED
    }

    /// Whether it is asyncio's own for streams.
    #[inline(always)]
    pub(crate) fn is_streams(&self) -> bool {
        self.0.load(Acquire) == STREAMS
    }
}
