//! asyncio's own types and constants, as facts: what its handles look like, and how its C task calls back.
//!
//! In: asyncio, as it is at import. Out: offsets, classes, and ways to make and read its objects without
//! running Python. Must never: know a loop of ours.

pub(crate) mod arguments;
pub(crate) mod classes;
pub(crate) mod future;
pub(crate) mod handle;
pub(crate) mod handle_layout;
pub(crate) mod keywords;
pub(crate) mod learn;
pub(crate) mod state;
pub(crate) mod stream_feed;
pub(crate) mod stream_layout;
pub(crate) mod task_callbacks;
pub(crate) mod tracked;
