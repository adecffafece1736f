//! A loop whose clock is the program's: `time()` is overridden or patched, `time.monotonic` is
//! replaced, or the selector's `select` is wrapped, as virtual clocks do it. Its turns ask for the time
//! as asyncio's do; so does `call_later`. Nobody else pays for it but by a look at one number: the word
//! of [`clock_watch`], which changes when a class is patched.

use std::time::Duration;

use pyo3::ffi;
use pyo3::prelude::*;

use super::clock_watch;
use super::core::{LoopCore, OwnerState};
use crate::config;
use crate::py::asyncio::arguments::Parsed;
use crate::py::cpython::alloc;
use crate::py::cpython::names::intern;
use crate::sys::clock;

/// `time()` is the program's.
const TIME: u64 = 1 << 61;
/// So is `call_at()`, which `call_later()` asks.
const CALL_AT: u64 = 1 << 62;
/// So is the selector's `select()`.
const SELECT: u64 = 1 << 63;
const FLAGS: u64 = TIME | CALL_AT | SELECT;

/// Says what of a loop's clock is the program's, as it is made, before it runs, when an attribute is
/// set and when its class has changed; `changes`: what `_watch_clock` said before that was looked at.
/// Any thread.
#[pyfunction]
#[pyo3(name = "_set_clock", signature = (loop_, changes, time, call_at, select, /))]
pub(crate) fn set(
    loop_: &Bound<'_, LoopCore>,
    changes: u64,
    time: bool,
    call_at: bool,
    select: bool,
) {
    let flag = |is: bool, flag| if is { flag } else { 0 };
    let flags = flag(time, TIME) | flag(call_at, CALL_AT) | flag(select, SELECT);
    loop_.get().flags.set_clock(changes | flags);
}

/// Whether the loop's turns go by the program's clock.
///
/// # Errors
/// What a class of the program's raises when it is looked at.
#[inline(always)]
pub(crate) fn is_programs(loop_: &Bound<'_, LoopCore>) -> PyResult<bool> {
    let word = clock_watch::word();
    if loop_.get().flags.clock() == word { Ok(false) } else { look(loop_, word) }
}

#[cold]
fn look(loop_: &Bound<'_, LoopCore>, word: u64) -> PyResult<bool> {
    let flags = &loop_.get().flags;
    if flags.clock() & !FLAGS != clock_watch::changes(word) {
        loop_.call_method0(intern!(loop_.py(), "_look_at_clock"))?;
    }
    Ok(flags.clock() & FLAGS != 0 || clock_watch::is_replaced())
}

/// What `time()` of the loop says.
///
/// # Errors
/// Those of the program's method.
pub(crate) fn now(loop_: &Bound<'_, LoopCore>) -> PyResult<f64> {
    loop_.call_method0(intern!(loop_.py(), "time"))?.extract()
}

/// As `BaseEventLoop.call_later`: `None` if the program has no `call_at` of its own, and then the
/// deadline.
///
/// # Errors
/// Those of the program's methods; `TypeError` for a delay that cannot be added.
pub(crate) fn call_later<'py>(
    loop_: &Bound<'py, LoopCore>,
    delay: &Bound<'py, PyAny>,
    callback: *mut ffi::PyObject,
    parsed: &Parsed<'_, 2>,
) -> PyResult<(Bound<'py, PyAny>, Option<Bound<'py, PyAny>>)> {
    let py = loop_.py();
    let when = loop_.call_method0(intern!(py, "time"))?.add(delay)?;
    if loop_.get().flags.clock() & CALL_AT == 0 {
        return Ok((when, None));
    }
    // SAFETY: arguments are alive during the call.
    let callback = unsafe { Bound::from_borrowed_ptr(py, callback) };
    let mut all = vec![when.clone(), callback];
    for argument in parsed.rest {
        // SAFETY: as above.
        all.push(unsafe { Bound::from_borrowed_ptr(py, *argument) });
    }
    let keywords = alloc::dict(py)?;
    keywords.set_item(intern!(py, "context"), parsed.context_object(py))?;
    let all = alloc::tuple_of(py, &all)?;
    let timer = loop_.call_method(intern!(py, "call_at"), all, Some(&keywords))?;
    Ok((when, Some(timer)))
}

/// How long the turn may wait by the program's clock, in seconds; `None`: for ever.
///
/// # Errors
/// Those of the program's `time`.
pub(crate) fn wait(
    loop_: &Bound<'_, LoopCore>,
    ready: bool,
    deadline: Option<f64>,
) -> PyResult<Option<f64>> {
    if ready {
        return Ok(Some(0.0));
    }
    // As asyncio's `MAXIMUM_SELECT_TIMEOUT`.
    let longest = 24.0 * 3600.0;
    deadline.map(|when| Ok((when - now(loop_)?).clamp(0.0, longest))).transpose()
}

/// The wait that the kernel is asked for.
pub(crate) fn limit(wait: Option<f64>) -> Duration {
    wait.and_then(|wait| Duration::try_from_secs_f64(wait).ok())
        .map_or(config::MAX_WAIT, |wait| wait.min(config::MAX_WAIT))
}

/// Whether the program's `select` is to be called.
pub(crate) fn selects(core: &LoopCore) -> bool {
    core.flags.clock() & SELECT != 0
}

/// The time until which timers are due now, a tick of the clock beyond it.
///
/// # Errors
/// Those of the program's `time`.
pub(crate) fn due(loop_: &Bound<'_, LoopCore>) -> PyResult<f64> {
    let now = now(loop_)?;
    Ok(now + clock::RESOLUTION.max(now.next_up() - now))
}

/// Moves the timers that are due by then to the ready queue.
pub(crate) fn collect(local: &mut OwnerState, end: f64) {
    while let Some(callback) = local.timers.pop_due(end) {
        local.ready.push(callback);
    }
}
