//! Everything that calls the operating system directly, and nothing else.
//!
//! In: descriptors and numbers. Out: values and `io::Error`. No policy, no state.
//!
//! Must never: block, or know what a loop is.

pub mod address;
pub mod cgroup;
pub mod clock;
pub mod descriptor;
pub mod level_trigger;
pub mod receive;
pub mod search;
pub mod socket;
pub mod thread;
