//! The monitor: a native thread of a pool that detects loops stuck in a callback.
//!
//! In: the progress words of all loops, sampled every [`config::MONITOR_REST`] while any loop is awake, or
//! sooner where that matters, and evaluated by the [detector](super::detector). Out: socket work of stuck loops, done by the
//! [helper](super::helper), and reports ([`StuckReports`](super::StuckReports)).
//!
//! Must never: run Python, or sample while all loops sleep.

// When all loops sleep, so does the monitor. It parks like a loop (`src/scheduler/README.md`); the
// post that wakes it is that a loop is awake (`PoolShared::awake`). It also sleeps while there is
// nothing to do, until `PoolShared::set_limit` wakes it through the kernel, which remembers a wakeup
// that comes first.
//
// How soon it looks again: a loop is stuck if it is in the same callback at two looks, so from the
// first of them on, where it was seen in a callback that is new, the next one follows after a tick.
// Otherwise the monitor rests. Loops that are busy with short callbacks are seen in a new one at
// nearly every look; so if the tick has brought nothing but new ones, a rest follows all the same. A
// callback that begins is thus seen after a rest at most, and found stuck a tick later; or it was seen
// at the end of a tick, and is found stuck after a rest. A loop that is known to be stuck wakes the
// monitor by its epoll, and needs no looks for that it is still so.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::PoolShared;
use super::detector::{Action, RecentlyStuck, Report, Sample, StuckDetector, Suspicion};
use super::helper::Helper;
use super::stuck_reports::{Limit, StuckReport};
use crate::config;
use crate::event_loop::{CallbackEpoch, Shared};
use crate::scheduler::{Park, Parked};
use crate::sync::atomic::{
    AtomicBool,
    Ordering::{Relaxed, Release},
};
use crate::sync::{JoinHandle, Mutex, spawn};
use crate::sys::clock;
use crate::sys::thread::ThreadId;

/// The monitor's thread, ended by [`stop`](Self::stop).
#[derive(Debug)]
pub struct Monitor {
    pool_shared: Arc<PoolShared>,
    stopping: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Monitor {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the process is out of descriptors or threads.
    pub fn start(pool_shared: Arc<PoolShared>) -> io::Result<Self> {
        let stopping = Arc::new(AtomicBool::new(false));
        let watch = Watch::new(Arc::clone(&pool_shared), clock::monotonic_ns())?;
        let until = Arc::clone(&stopping);
        let thread = spawn("loop-pool-monitor", move || watch.run(&until))?;
        Ok(Self { pool_shared, stopping, thread: Mutex::new(Some(thread)) })
    }

    /// Ends the thread and waits for it. Detached.
    pub fn stop(&self) {
        self.stopping.store(true, Release);
        self.pool_shared.wake_monitor();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            let ended = thread.join();
            debug_assert!(ended.is_ok(), "the monitor panicked");
        }
        self.pool_shared.set_monitor(None);
    }
}

/// What the monitor knows of one loop.
#[derive(Debug, Default)]
struct Watched {
    detector: StuckDetector,
    recently: RecentlyStuck,
}

#[derive(Debug)]
struct Watch {
    pool_shared: Arc<PoolShared>,
    watched: Box<[Watched]>,
    helper: Helper,
    /// When it looked last.
    looked_ns: u64,
    /// Looks in a row at which every loop slept.
    quiet: u32,
    /// Whether the next look is due after a tick.
    is_alert: bool,
}

impl Watch {
    fn new(pool_shared: Arc<PoolShared>, now_ns: u64) -> io::Result<Self> {
        let watched = pool_shared.loops.iter().map(|_| Watched::default()).collect();
        let helper = Helper::new(Arc::clone(&pool_shared))?;
        let (looked_ns, quiet, is_alert) = (now_ns, 0, false);
        Ok(Self { pool_shared, watched, helper, looked_ns, quiet, is_alert })
    }

    fn run(mut self, stopping: &AtomicBool) {
        let pool_shared = Arc::clone(&self.pool_shared);
        while !stopping.load(Relaxed) {
            let (limit, parked) = self.next_wait(&pool_shared);
            self.helper.wait(limit);
            drop(parked);
            self.look(clock::monotonic_ns());
        }
        // The loops have ended since the last look, and with them what they were in. One that has not
        // is not reported any more.
        self.pool_shared.set_limit(Limit::Off);
        let now_ns = clock::monotonic_ns();
        for (worker_index, shared) in Arc::clone(&self.pool_shared).loops() {
            let _ = self.look_at(worker_index, shared, shared.awake_runner(), now_ns);
        }
    }

    /// For how long there is nothing to look at, if nothing comes. For longer than a rest, while it has
    /// duties, only by the proof that the first loop to wake wakes it.
    fn next_wait<'a>(&mut self, pool_shared: &'a PoolShared) -> (Duration, Option<Parked<'a>>) {
        if self.helper.has_jobs() {
            (Duration::ZERO, None)
        } else if !self.has_duties() {
            (config::MAX_WAIT, None)
        } else if self.quiet < config::QUIET_LOOKS {
            (if self.is_alert { config::MONITOR_TICK } else { config::MONITOR_REST }, None)
        } else {
            self.go_to_sleep(pool_shared)
        }
    }

    /// Whether there is anything to look for while loops are awake.
    fn has_duties(&self) -> bool {
        self.pool_shared.steals() || self.reports()
    }

    /// Whether somebody wants to know of loops that are inside a callback for long, or of the end of one
    /// that was reported: to a tick.
    fn reports(&self) -> bool {
        self.pool_shared.limit() != Limit::Off
            || self.watched.iter().any(|watched| watched.detector.is_reported())
    }

    /// Announces that the monitor sleeps, and looks once more whether it may.
    fn go_to_sleep<'a>(&mut self, pool_shared: &'a PoolShared) -> (Duration, Option<Parked<'a>>) {
        let is_awake =
            |_: &_| pool_shared.loops().any(|(_, shared)| shared.awake_runner().is_some());
        match pool_shared.monitor_idle.park(is_awake) {
            Park::Sleep(parked) => (config::MAX_WAIT, Some(parked)),
            Park::Work => {
                self.quiet = 0;
                (config::MONITOR_REST, None)
            }
        }
    }

    /// Looks at every loop, reports those that are inside a callback for long, and has those helped
    /// that are stuck.
    fn look(&mut self, now_ns: u64) {
        let pool_shared = Arc::clone(&self.pool_shared);
        let passed_ns = now_ns.saturating_sub(self.looked_ns);
        self.looked_ns = now_ns;
        let mut awake = false;
        let mut is_any_stuck = false;
        let mut has_unstarted = false;
        let mut suspicion = Suspicion::None;
        for (worker_index, shared) in pool_shared.loops() {
            let runner = shared.awake_runner();
            awake |= runner.is_some();
            if runner.is_some() && pool_shared.steals() {
                has_unstarted |= pool_shared.see_to_unstarted(worker_index);
            }
            let action = self.look_at(worker_index, shared, runner, now_ns);
            let is_stuck = action.is_stuck;
            is_any_stuck |= is_stuck;
            suspicion = suspicion.max(action.suspicion);
            let watched = &mut self.watched[worker_index];
            let published = &shared.metrics.stuck_us;
            // The callback in which it began to listen is of the time before.
            let callback = watched.detector.callback().map(CallbackEpoch::number);
            let counts = callback != Some(shared.metrics.listened_in.get());
            let counted = is_stuck.then_some(if counts { passed_ns } else { 0 });
            let stuck_us = watched.recently.pass(passed_ns, counted, published.get());
            if stuck_us != published.get() {
                published.set(stuck_us);
            }
            self.helper.follow(worker_index, shared, is_stuck);
        }
        self.helper.run_jobs(now_ns);
        self.is_alert = suspicion == Suspicion::Lasting
            || (suspicion == Suspicion::New && !self.is_alert)
            || has_unstarted
            || self.reports()
            || self.helper.is_due()
            // What it has left to others it takes back if they do not come for it.
            || (is_any_stuck && pool_shared.scheduler_shared.has_work());
        self.quiet = if awake { 0 } else { self.quiet.saturating_add(1) };
    }

    /// Looks at one loop, and reports its callback if it is time. Returns what the look came to.
    fn look_at(
        &mut self,
        worker_index: usize,
        shared: &Shared,
        runner: Option<ThreadId>,
        now_ns: u64,
    ) -> Action {
        let stuck_reports = self.pool_shared.stuck_reports();
        let sample = Sample {
            callback: runner.and_then(|_| shared.progress.present()),
            now_ns,
            helps: self.pool_shared.steals(),
            limit: stuck_reports.and_then(|stuck_reports| stuck_reports.limit().of(shared)),
        };
        let detector = &mut self.watched[worker_index].detector;
        let had = || runner.and_then(ThreadId::processor_time);
        let action = detector.look(sample, had, || runner.and_then(ThreadId::is_blocked));
        let (epoch, lasted, ended) = match action.report {
            None => return action,
            Some(Report::Due(epoch, lasted)) => (epoch, lasted, false),
            Some(Report::Ended(epoch, lasted)) => (epoch, lasted, true),
        };
        let stuck_report = StuckReport { worker_index, epoch, lasted, ended };
        let told =
            stuck_reports.is_some_and(|stuck_reports| stuck_reports.tell(stuck_report).is_ok());
        debug_assert!(told || !ended, "there is always room for an end");
        if told && !ended {
            detector.reported();
        }
        action
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
