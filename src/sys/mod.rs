//! All direct calls of the operating system, and nothing else.
//!
//! In: descriptors and numbers. Out: values and `io::Error`. No policy, and no state except how a socket is
//! closed (`owned_socket`).
//!
//! Must never: block, or know what a loop is.

pub mod address;
pub mod cgroup;
pub mod clock;
pub mod descriptor;
pub mod level_trigger;
pub mod owned_socket;
pub mod search;
pub mod socket;
pub mod thread;
