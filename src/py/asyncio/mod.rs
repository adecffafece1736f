//! asyncio's own types and constants, as facts.

pub(crate) mod arguments;
pub(crate) mod future;
pub(crate) mod handle;
pub(crate) mod learn;
pub(crate) mod state;
pub(crate) mod stream_feed;
pub(crate) mod task_callbacks;
pub(crate) mod tracked;
