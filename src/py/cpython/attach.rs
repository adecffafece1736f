//! Taking locks in threads that are attached to the interpreter.

use pyo3::ffi;
use pyo3::prelude::*;

use crate::sync::{Mutex, MutexGuard};

/// Locks a mutex without ever waiting for it attached: the holder may need the collector to finish,
/// and the collector needs us to detach.
pub(crate) fn lock_attached<'a, T>(_py: Python<'_>, mutex: &'a Mutex<T>) -> MutexGuard<'a, T> {
    loop {
        if let Some(guard) = mutex.try_lock() {
            return guard;
        }
        // Wait until it is free, and give it back before attaching: a thread that attaches while
        // the interpreter ends never returns.
        // SAFETY: the thread is attached (`py`), and is again before anything else runs.
        unsafe {
            let saved = ffi::PyEval_SaveThread();
            drop(mutex.lock());
            ffi::PyEval_RestoreThread(saved);
        }
    }
}
