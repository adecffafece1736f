//! The exports of the extension module: the methods of `LoopCore`, and the wiring between the rooms.
//!
//! In: calls from Python. Out: calls of the rooms below. Must never: be imported by them.

pub(crate) mod fork;
pub(crate) mod hot;
pub(crate) mod loop_methods;
pub(crate) mod native;
