//! Native objects that stand in a loop's queues themselves, without a handle: what runs when their
//! turn comes.

use pyo3::intern;
use pyo3::prelude::*;

use super::core::LoopCore;
use super::datagram::DatagramCore;
use super::listener::{self, ListenerCore};
use super::pool_task_run;
use super::sock::{self, SocketOperation};
use super::stream::StreamCore;
use super::{datagram_turn, stream_turn, transport};
use crate::sys::clock;

/// Runs the entry of a native object. Errors of the program's own callbacks are reported within.
///
/// # Errors
/// `SystemExit` and `KeyboardInterrupt`, and what an exception handler lets through.
pub(super) fn run(loop_: &Bound<'_, LoopCore>, object: &Bound<'_, PyAny>) -> PyResult<()> {
    let result =
        if loop_.get().is_debug() { run_timed(loop_, object) } else { dispatch(loop_, object) };
    match result {
        Err(error) if !transport::ends_the_program(loop_.py(), &error) => {
            let error = error.into_value(loop_.py());
            loop_.call_method1(intern!(loop_.py(), "_report_native_exception"), (object, error))?;
            Ok(())
        }
        result => result,
    }
}

#[inline(always)]
fn dispatch(loop_: &Bound<'_, LoopCore>, object: &Bound<'_, PyAny>) -> PyResult<()> {
    if let Some(task) = pool_task_run::cast(object) {
        return pool_task_run::begin(loop_, task);
    }
    if let Ok(operation) = object.cast_exact::<SocketOperation>() {
        return sock::ready(loop_, operation);
    }
    if let Ok(listener) = object.cast_exact::<ListenerCore>() {
        return listener::run(loop_, listener);
    }
    // SAFETY: what is no other native object is a transport.
    let core = unsafe { transport::core_of(object.as_ptr())? };
    // SAFETY: the slot keeps it alive, as the transport is during the call.
    let half = unsafe { Bound::<PyAny>::ref_from_ptr(loop_.py(), core) };
    if let Ok(half) = half.cast_exact::<DatagramCore>() {
        return datagram_turn::run(loop_, object, half.get());
    }
    // SAFETY: what is no other native half is a stream's.
    stream_turn::run(loop_, object, unsafe { transport::cast::<StreamCore>(core) })
}

/// In debug mode a slow turn is logged, as asyncio logs a slow handle.
#[cold]
fn run_timed(loop_: &Bound<'_, LoopCore>, object: &Bound<'_, PyAny>) -> PyResult<()> {
    let began_ns = clock::monotonic_ns();
    let result = dispatch(loop_, object);
    let took = clock::seconds(clock::monotonic_ns() - began_ns);
    let told = loop_.call_method1(intern!(loop_.py(), "_report_slow"), (object, took));
    result.and(told.map(drop))
}

/// Whether the entry of a native object was cancelled. Runs no Python.
pub(super) fn is_cancelled(object: &Bound<'_, PyAny>) -> bool {
    object.cast_exact::<SocketOperation>().is_ok_and(|operation| operation.get().cancelled())
}
