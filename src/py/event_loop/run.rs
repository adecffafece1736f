//! The run loop: the turn of `docs/architecture.md`, on the thread that called `run_forever`.

use std::time::Duration;

use pyo3::prelude::*;

use super::callback::Callback;
use super::context_sharing;
use super::core::{LoopCore, OwnerClaim};
use super::hooks::hooks;
use super::io::drain_posts;
use super::offers::has_helper;
use super::poll::poll;
use super::program_clock;
use super::registry;
use super::scheduling::put_urgent_first;
use crate::config;
use crate::event_loop::{Local, Plan, ReadyQueue};
use crate::pool::{LoopWorker, Unstarted};
use crate::py::asyncio::future;
use crate::py::cpython::names::intern;
use crate::py::cpython::object::Ref;
use crate::py::cpython::returned::Returned;
use crate::sys::clock;

/// Runs turns until the loop is asked to stop.
///
/// # Errors
/// `RuntimeError` if the loop runs already; `SystemExit` and `KeyboardInterrupt` from a callback,
/// and whatever a signal handler raises.
pub(crate) fn run(slf: &Bound<'_, LoopCore>) -> PyResult<()> {
    let core = slf.get();
    let claim = core.event_loop.claim()?;
    let keywords = future::keywords(slf)?;
    let _running = Running::new(core, &claim, keywords);
    // SAFETY: runs no Python.
    unsafe { claim.local(Local::force_poll) };
    let result = loop {
        let turned = turn(slf, &claim);
        if turned.is_err() || core.event_loop.is_stopping() {
            break turned;
        }
    };
    registry::drop_all_aside(core, &claim);
    result
}

/// Lets a run of the loop end from a time on, in the middle of a turn if need be: other threads may
/// post faster than it gets on. On the clock `time.monotonic`, in nanoseconds. Any thread.
#[pyfunction]
#[pyo3(name = "_end_run_at")]
pub(crate) fn end_run_at(loop_: &Bound<'_, LoopCore>, at_ns: u64) {
    loop_.get().event_loop.set_end_of_run(at_ns);
}

/// Whether a run was ended so, before it got to all that was ready. Any thread.
#[pyfunction]
#[pyo3(name = "_was_cut_short")]
pub(crate) fn was_cut_short(loop_: &Bound<'_, LoopCore>) -> bool {
    loop_.get().event_loop.was_cut_short()
}

/// Shows the pool's monitor that the loop runs, and others its thread, until it is dropped.
struct Running<'a> {
    core: &'a LoopCore,
    claim: &'a OwnerClaim<'a>,
}

impl<'a> Running<'a> {
    fn new(core: &'a LoopCore, claim: &'a OwnerClaim<'a>, keywords: Ref) -> Self {
        core.thread.begin();
        core.event_loop.shared().set_running(true);
        // SAFETY: runs no Python: there were no keywords before.
        unsafe {
            claim.local(|local| {
                if let Some(loop_worker) = &local.extension.loop_worker {
                    loop_worker.pool_shared().awake();
                }
                local.extension.keywords = Some(keywords);
            });
        }
        Self { core, claim }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.core.event_loop.shared().set_running(false);
        self.core.thread.end();
        guard_unstarted(self.claim);
        context_sharing::let_go(self.core);
        // SAFETY: runs no Python; they are dropped outside.
        drop(unsafe { self.claim.local(|local| local.extension.keywords.take()) });
    }
}

/// A turn as asyncio's `_run_once`: by `time()`, and by the selector's `select` if that is wrapped.
#[cold]
fn turn_by_programs_clock(slf: &Bound<'_, LoopCore>, claim: &OwnerClaim<'_>) -> PyResult<()> {
    let (py, core) = (slf.py(), slf.get());
    // SAFETY: runs no Python.
    let look =
        || unsafe { claim.local(|local| (!local.ready.is_empty(), local.timers.next_deadline())) };
    let stopping = core.event_loop.is_stopping();
    if program_clock::selects(core) {
        // What is there comes first: the program's clock may leap over a wait.
        poll(py, core, claim, clock::monotonic_ns(), Duration::ZERO)?;
        let (ready, deadline) = look();
        let wait = program_clock::wait(slf, ready || stopping, deadline)?;
        let asked: Option<f64> =
            slf.call_method1(intern!(py, "_select"), (Returned(wait),))?.extract()?;
        if asked != Some(0.0) {
            poll(py, core, claim, clock::monotonic_ns(), program_clock::limit(asked))?;
        }
    } else {
        let (ready, deadline) = look();
        let wait = program_clock::wait(slf, ready || stopping, deadline)?;
        poll(py, core, claim, clock::monotonic_ns(), program_clock::limit(wait))?;
    }
    let end = program_clock::due(slf)?;
    // SAFETY: runs no Python.
    let todo = unsafe {
        claim.local(|local| {
            program_clock::collect(local, end);
            local.ready.len()
        })
    };
    run_callbacks(slf, claim, todo, Whereabouts::Near)?;
    begin_unstarted(slf, claim)
}

fn turn(slf: &Bound<'_, LoopCore>, claim: &OwnerClaim<'_>) -> PyResult<()> {
    let py = slf.py();
    let core = slf.get();
    let event_loop = &core.event_loop;
    let metrics = event_loop.metrics();
    metrics.turns.add(1);

    registry::drop_aside(core, claim);
    core.tasks.borrowed.drop_some(|| core.now_ns());
    drain_posts(py, core, claim);
    // SAFETY: runs no Python.
    if unsafe { claim.local(|local| local.may_skip(|| event_loop.shared().watches_descriptors())) }
    {
        // SAFETY: runs no Python.
        let todo = unsafe { claim.local(|local| local.ready.len()) };
        metrics.ready.set(todo as u64);
        run_callbacks(slf, claim, todo, Whereabouts::Near)?;
        return begin_unstarted(slf, claim);
    }
    context_sharing::let_go_of_unused(core);
    if program_clock::is_programs(slf)? {
        return turn_by_programs_clock(slf, claim);
    }
    let began_ns = clock::monotonic_ns();
    // SAFETY: runs no Python.
    let plan = unsafe { claim.local(|local| local.plan(began_ns, event_loop.is_stopping())) };
    let now_ns = match plan {
        Plan::Skip => began_ns,
        Plan::Look => poll(py, core, claim, began_ns, Duration::ZERO)?,
        Plan::Wait(limit) => {
            // Nothing is ready: placement looks at this while the loop sleeps.
            metrics.ready.set(0);
            // SAFETY: runs no Python.
            metrics.timers.set(unsafe { claim.local(|local| local.timers.len() as u64) });
            let limit = if registry::sweep(py, core) { Duration::ZERO } else { limit };
            let limit = core.tasks.borrowed.limit(limit);
            poll(py, core, claim, began_ns, limit)?
        }
    };
    // SAFETY: runs no Python.
    let (todo, whereabouts) = unsafe {
        claim.local(|local| {
            let fired = local.collect_timers(now_ns);
            let far = fired >= FAR;
            metrics.ready.set(local.ready.len() as u64);
            metrics.timers.set(local.timers.len() as u64);
            (local.ready.len(), if far { Whereabouts::Far } else { Whereabouts::Near })
        })
    };
    if todo > 0 {
        guard_unstarted(claim);
    }
    run_callbacks(slf, claim, todo, whereabouts)?;
    // SAFETY: runs no Python.
    unsafe { claim.local(|local| local.ready.trim()) };
    begin_unstarted(slf, claim)
}

/// Begins coroutines of `spawn` that wait here for whichever loop gets to them first: one after
/// another, each with its first step, so that the others may be taken by idle loops meanwhile.
#[inline(always)]
fn begin_unstarted(slf: &Bound<'_, LoopCore>, claim: &OwnerClaim<'_>) -> PyResult<()> {
    // SAFETY: runs no Python.
    if unsafe { claim.local(|local| local.extension.loop_worker.is_none()) } {
        return Ok(());
    }
    match next_unstarted(slf.py(), claim) {
        Some(unstarted) => begin_unstarted_from(slf, claim, unstarted),
        None => Ok(()),
    }
}

#[inline(always)]
fn guard_unstarted(claim: &OwnerClaim<'_>) {
    // SAFETY: runs no Python.
    unsafe {
        claim.local(|local| {
            if let Some(loop_worker) = &mut local.extension.loop_worker {
                loop_worker.guard_unstarted();
            }
        });
    }
}

#[inline(always)]
fn next_unstarted(py: Python<'_>, claim: &OwnerClaim<'_>) -> Option<Unstarted> {
    // SAFETY: runs no Python.
    unsafe { claim.local(|local| take_unstarted(py, local.extension.loop_worker.as_deref_mut()?)) }
}

/// Runs no Python.
#[inline(always)]
fn take_unstarted(py: Python<'_>, loop_worker: &mut LoopWorker) -> Option<Unstarted> {
    loop {
        let unstarted = loop_worker.next_unstarted()?;
        if !loop_worker.was_alone() || (hooks().is_awaited)(py, &unstarted) {
            return Some(unstarted);
        }
        let kept = loop_worker.pass_on(unstarted);
        if kept.is_some() {
            return kept;
        }
    }
}

fn begin_unstarted_from(
    slf: &Bound<'_, LoopCore>,
    claim: &OwnerClaim<'_>,
    first: Unstarted,
) -> PyResult<()> {
    let core = slf.get();
    let shared = core.event_loop.shared();
    let mut now_ns = clock::monotonic_ns();
    let end_ns = now_ns + u64::try_from(config::BEGIN_FOR.as_nanos()).unwrap_or(0);
    let mut next = Some(first);
    let mut left = config::BEGUN_PER_TURN;
    while let Some(unstarted) = next {
        let began_ns = now_ns;
        {
            let busy = shared.progress.busy();
            busy.begin();
            shared.metrics.begun.add(1);
            (hooks().begin)(slf, unstarted)?;
        }
        // SAFETY: runs no Python.
        let todo = unsafe { claim.local(|local| local.ready.len()) };
        run_callbacks(slf, claim, todo, Whereabouts::Near)?;
        now_ns = clock::monotonic_ns();
        let took = &shared.metrics.begin_ns;
        took.set(took.get().midpoint(now_ns.saturating_sub(began_ns)));
        left -= 1;
        if left == 0 || core.event_loop.is_stopping() || now_ns > end_ns {
            break;
        }
        next = next_unstarted(slf.py(), claim);
    }
    Ok(())
}

/// Runs the callbacks that were ready when the phase began; those that they make ready wait for
/// the next turn. Between batches the inbox and the reactor are looked at, so that neither waits
/// for longer than a batch.
fn run_callbacks(
    slf: &Bound<'_, LoopCore>,
    claim: &OwnerClaim<'_>,
    mut todo: usize,
    whereabouts: Whereabouts,
) -> PyResult<()> {
    let core = slf.get();
    todo += put_urgent_first(core, claim);
    let behind = Behind(core);
    while todo > 0 {
        let batch = todo.min(config::CALLBACK_BATCH);
        todo -= batch;
        behind.set(batch >= config::BEHIND && has_helper(claim));
        // Each callback may take long, so the clock is asked after each once there is an end.
        let ends = core.event_loop.has_end_of_run();
        let busy = core.event_loop.shared().progress.busy();
        for at in 1..=batch {
            todo += put_urgent_first(core, claim);
            // SAFETY: runs no Python.
            let Some(callback) =
                (unsafe { claim.local(|local| next_callback(&mut local.ready, whereabouts)) })
            else {
                return Ok(());
            };
            // The monitor looks whether it moves.
            busy.begin();
            callback.run(slf)?;
            if ends && core.event_loop.cut_run_short(clock::monotonic_ns(), todo + batch - at) {
                return Ok(());
            }
        }
        drop(busy);
        if todo > 0 {
            drain_posts(slf.py(), core, claim);
            let now_ns = clock::monotonic_ns();
            // SAFETY: runs no Python.
            let plan = unsafe { claim.local(|local| local.plan(now_ns, true)) };
            if plan == Plan::Look {
                poll(slf.py(), core, claim, now_ns, Duration::ZERO)?;
            }
        }
    }
    Ok(())
}

/// Says of a loop whether it has more to run than it gets to soon, which ends with this, however the
/// callbacks end.
struct Behind<'a>(&'a LoopCore);

impl Behind<'_> {
    fn set(&self, behind: bool) {
        self.0.flags.set_behind(behind);
    }
}

impl Drop for Behind<'_> {
    fn drop(&mut self) {
        self.set(false);
    }
}

/// Where the objects of the callbacks are that a turn runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whereabouts {
    /// Made of late, one after another: near the processor.
    Near,
    /// Made some time ago, and not in this order: as timers are.
    Far,
}

/// So many timers that fire at once make it worth while to look ahead.
const FAR: usize = 4;

/// Takes the next callback, and has the processor fetch what those behind it will need.
#[inline(always)]
fn next_callback(ready: &mut ReadyQueue<Callback>, whereabouts: Whereabouts) -> Option<Callback> {
    let callback = ready.pop();
    if whereabouts == Whereabouts::Far {
        look_ahead(ready);
    }
    callback
}

/// Not inlined: the run loop stays small.
#[inline(never)]
fn look_ahead(ready: &ReadyQueue<Callback>) {
    const OBJECT_AHEAD: usize = 4;
    const CONTEXT_AHEAD: usize = 1;
    if let Some(callback) = ready.peek(OBJECT_AHEAD) {
        callback.prefetch();
    }
    if let Some(callback) = ready.peek(CONTEXT_AHEAD) {
        callback.prefetch_context();
    }
}
