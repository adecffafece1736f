//! What the extension module exports: the methods of `LoopCore`, and what ties the rooms together.
//!
//! In: calls from Python. Out: calls of the rooms below. Must never: be named by them.

pub(crate) mod fork;
pub(crate) mod hot;
pub(crate) mod loop_methods;
pub(crate) mod native;
