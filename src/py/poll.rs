//! How a turn asks the kernel, detached from the interpreter, and makes ready what it found. In a pool
//! the thread works for other loops meanwhile ([`Hand::wait`](crate::pool::Hand::wait)).

use std::time::Duration;

use pyo3::prelude::*;

use super::callback::Callback;
use super::core::LoopCore;
use super::io::{self, Found};
use super::run::drain_posts;
use crate::config;
use crate::event_loop::{Claim, Local, Turned};
use crate::reactor::{PollEnd, Ready};
use crate::transport::Scratch;

/// Asks the kernel, detached, sleeping at most for `limit`; makes what it found ready. Returns the
/// clock afterwards, by which timers are due.
pub(super) fn poll(
    py: Python<'_>,
    core: &LoopCore,
    claim: &Claim<'_, Local<Callback>>,
    began_ns: u64,
    limit: Duration,
) -> PyResult<u64> {
    let event_loop = &core.event_loop;
    // SAFETY: runs no Python.
    let (mut found, last_ns) =
        unsafe { claim.local(|local| (std::mem::take(&mut local.found), local.last_poll_ns())) };
    // SAFETY: the claim; no Python runs.
    let mut hand = unsafe { core.hand.with(Option::take) };
    let lends = hand.as_ref().is_some_and(|hand| hand.team().steals());
    let mut scratch = Scratch::default();
    if lends {
        // SAFETY: runs no Python.
        scratch = unsafe { claim.local(Local::take_scratch) };
    }
    let until_ns = match u64::try_from(limit.as_nanos()) {
        // SAFETY: runs no Python.
        Ok(0) => unsafe { claim.local(|local| local.due_ns()) },
        limit => began_ns.saturating_add(limit.unwrap_or(u64::MAX)),
    };
    let polled = py.detach(|| match &mut hand {
        Some(hand) => hand.wait(event_loop, &mut scratch, (began_ns, until_ns), limit, &mut found),
        None if limit.is_zero() => event_loop.look(&mut found).map(without_help),
        None => event_loop.wait(|| Some(limit), &mut found).map(without_help),
    });
    if let Ok((turned, _)) = polled {
        account(core, began_ns, last_ns, turned, limit);
        io::collect(py, core, &found, |found| {
            // SAFETY: runs no Python.
            unsafe {
                claim.local(|local| match found {
                    Found::Level(callback) => local.ready.push_event(callback),
                    Found::Edge(callback) => local.ready.push(callback),
                });
            }
        });
        if let Some(hand) = &hand {
            if !found.is_empty() || event_loop.has_posts() {
                event_loop.metrics().worked_ns.set(turned.now_ns);
            }
            if found.len() > config::BEHIND {
                io::offer(py, core, hand, &found);
            }
        }
        // SAFETY: runs no Python.
        unsafe { claim.local(|local| local.polled(turned, limit.is_zero() && found.is_empty())) };
        drain_posts(py, core, claim);
    }
    // SAFETY: runs no Python.
    unsafe {
        if lends {
            claim.local(|local| local.give_scratch(scratch));
        }
        core.hand.with(|place| *place = hand);
    }
    give_back(claim, found);
    let (turned, now_ns) = polled?;
    if turned.end == PollEnd::Interrupted {
        py.check_signals()?;
    }
    Ok(now_ns)
}

/// Nothing was done behind the poll.
fn without_help(turned: Turned) -> (Turned, u64) {
    (turned, turned.now_ns)
}

fn give_back(claim: &Claim<'_, Local<Callback>>, mut found: Vec<Ready>) {
    found.clear();
    // SAFETY: runs no Python; events are plain numbers.
    unsafe { claim.local(|local| local.found = found) };
}

/// Idle time is time in a wait that was allowed to sleep; all else since the first poll is busy.
fn account(core: &LoopCore, began_ns: u64, last_ns: u64, turned: Turned, limit: Duration) {
    let metrics = core.event_loop.metrics();
    metrics.polls.add(1);
    metrics.polled_ns.set(turned.now_ns);
    if last_ns != 0 {
        metrics.busy_ns.add(began_ns.saturating_sub(last_ns));
    }
    let spent = turned.now_ns.saturating_sub(began_ns);
    if limit.is_zero() { metrics.busy_ns.add(spent) } else { metrics.idle_ns.add(spent) }
}
