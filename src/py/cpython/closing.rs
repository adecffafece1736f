//! Closes native sockets in threads that may be attached to the interpreter.

use std::os::fd::OwnedFd;

use pyo3::ffi;
use pyo3::prelude::*;

use crate::sys::owned_socket;

/// Has every socket that is ours closed by [`close`].
pub(crate) fn initialise() {
    // Once in a process: a second module, of another interpreter, finds the same function there.
    owned_socket::close_by(close);
}

/// Closes a socket, detached. It may take as long as its peer likes (`SO_LINGER`), and a collection in
/// any other thread would wait for a thread that is attached, and with it all loops.
fn close(descriptor: OwnedFd) {
    // SAFETY: reads this thread's own state.
    if unsafe { ffi::PyThreadState_GetUnchecked() }.is_null() {
        drop(descriptor);
    } else {
        // SAFETY: just seen.
        unsafe { Python::assume_attached() }.detach(|| drop(descriptor));
    }
}
