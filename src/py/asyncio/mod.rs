//! asyncio's own types and constants: the layout of its handles, and the callbacks of its C task.
//!
//! In: asyncio, as it is at import. Out: offsets, classes, and functions that create and read its objects
//! without running Python. Must never: know a loop of ours.

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
