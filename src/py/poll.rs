//! How a turn asks the kernel: what the loop's thread does detached from the interpreter, for itself
//! and for the other loops of its pool, and when it sleeps.

use std::time::Duration;

use pyo3::prelude::*;

use super::callback::Callback;
use super::core::LoopCore;
use super::io::{self, Found};
use super::run::drain_posts;
use crate::config;
use crate::error::LoopError;
use crate::event_loop::{Claim, EventLoop, Local, Turned};
use crate::pool::{Budget, Hand};
use crate::reactor::{PollEnd, Ready};
use crate::scheduler::{Outlook, Park};
use crate::transport::Scratch;

/// Asks the kernel, detached, sleeping at most for `limit`; makes what it found ready. Returns the
/// clock afterwards.
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
    let polled = py.detach(|| match &mut hand {
        Some(hand) => wait_and_help(event_loop, hand, &mut scratch, began_ns, limit, &mut found),
        None if limit.is_zero() => look(event_loop, &mut found),
        None => wait(event_loop, || Some(limit), &mut found),
    });
    if let Ok(turned) = &polled {
        let turned = *turned;
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
    let turned = polled?;
    if turned.end == PollEnd::Interrupted {
        py.check_signals()?;
    }
    Ok(turned.now_ns)
}

/// Waits for the kernel for as long as the last look before the sleep says; `None`: not at all.
fn wait(
    event_loop: &EventLoop<Callback>,
    last_look: impl FnOnce() -> Option<Duration>,
    found: &mut Vec<Ready>,
) -> Result<Turned, LoopError> {
    let mut poller = event_loop.shared().poller();
    let mut limit = Duration::ZERO;
    let has_work = || match last_look() {
        Some(wait) => {
            limit = wait;
            false
        }
        None => true,
    };
    match event_loop.park(&poller, has_work) {
        Park::Sleep(_parked) => poller.poll(limit, found),
        Park::Work => poller.poll(Duration::ZERO, found),
    }
}

/// Asks the kernel without waiting.
fn look(event_loop: &EventLoop<Callback>, found: &mut Vec<Ready>) -> Result<Turned, LoopError> {
    event_loop.shared().poller().poll(Duration::ZERO, found)
}

/// As [`wait`], in a pool: does what the loop has left lying, then what others have, and waits only
/// if there is nothing; and searches once more if it is woken for that. A coroutine that it takes is
/// begun at the end of the turn. `began_ns`: when the turn began, which is as good as now.
fn wait_and_help(
    event_loop: &EventLoop<Callback>,
    hand: &mut Hand,
    scratch: &mut Scratch,
    began_ns: u64,
    limit: Duration,
    found: &mut Vec<Ready>,
) -> Result<Turned, LoopError> {
    let shared = event_loop.shared();
    let steals = hand.team().steals();
    let is_wanted = || event_loop.has_posts();
    // The next timer is due then.
    let until_ns = if limit.is_zero() {
        u64::MAX
    } else {
        began_ns.saturating_add(u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX))
    };
    if (steals && hand.run_own(shared, scratch, &Budget::new(began_ns, until_ns, is_wanted)))
        || limit.is_zero()
    {
        return look(event_loop, found);
    }
    let looked = hand.look_before_sleep(shared, is_wanted);
    let (mut limit, mut watch) = (limit, None);
    let (waited, busy, work, outlook, summons) = loop {
        let (mut work, mut outlook) = (false, Outlook::Clear);
        let last_look = || {
            work = steals && hand.has_work();
            outlook = hand.look_out(&mut watch);
            match outlook {
                Outlook::Clear if !work => Some(limit),
                Outlook::Waiting if !work => Some(limit.min(config::BEGIN_SOON)),
                _ => None,
            }
        };
        let waited = wait(event_loop, last_look, found);
        let summons = hand.hear(shared, &mut watch);
        let now_ns = waited.as_ref().map_or(u64::MAX, |turned| turned.now_ns);
        let busy = !found.is_empty() || is_wanted() || now_ns >= until_ns;
        let is_done =
            work || summons.is_some() || matches!(outlook, Outlook::Own | Outlook::Due(_));
        if busy || is_done || watch.is_none() || hand.has_errands() {
            break (waited, busy, work, outlook, summons);
        }
        // Nothing but the watch: go on with it.
        limit = Duration::from_nanos(until_ns - now_ns);
    };
    if let Outlook::Due(seat) = outlook
        && !busy
    {
        hand.take_over(shared, seat);
    }
    hand.stand_down(watch);
    if let Ok(turned) = &waited
        && !looked
        && is_wanted()
    {
        hand.slept(Duration::from_nanos(turned.now_ns.saturating_sub(began_ns)));
    }
    hand.team().awake();
    let now_ns = waited.as_ref().map_or(u64::MAX, |turned| turned.now_ns);
    shared.load.set_slept_ns(now_ns);
    let budget = Budget::new(now_ns, until_ns, is_wanted);
    let helped =
        summons.is_some_and(|summons| hand.answer(summons, shared, scratch, busy, &budget));
    if work && !busy && !helped {
        hand.help(shared, scratch, &budget);
    }
    waited
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
