//! The monitor: one thread of a pool, without Python, that looks whether loops are stuck inside a
//! callback.
//!
//! While any loop of the pool is awake it looks at each every [`config::MONITOR_TICK`]. What a loop's
//! samples come to, its [detector](super::detector) says. Of a loop that is stuck the
//! [helper](super::helper) does the socket work, if the pool's loops work for each other; and a
//! callback that lasts for longer than the pool's limit, if there is one, is reported
//! ([`StuckReports`](super::StuckReports)).
//!
//! When all loops sleep, so does the monitor: it parks as a loop does (`src/scheduler/README.md`), and
//! what is posted to it is that a loop is awake ([`PoolShared::awake`]). It also sleeps while there is
//! nothing for it to do, until [`PoolShared::set_limit`] wakes it through the kernel, which remembers a wake
//! that comes first.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::PoolShared;
use super::detector::{RecentlyStuck, Report, Sample, StuckDetector};
use super::helper::Helper;
use super::stuck_reports::{Limit, StuckReport};
use crate::config;
use crate::event_loop::Shared;
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
    team: Arc<PoolShared>,
    stopping: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Monitor {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the process is out of descriptors or threads.
    pub fn start(team: Arc<PoolShared>) -> io::Result<Self> {
        let stopping = Arc::new(AtomicBool::new(false));
        let watch = Watch::new(Arc::clone(&team), clock::monotonic_ns())?;
        let until = Arc::clone(&stopping);
        let thread = spawn("loop-pool-monitor", move || watch.run(&until))?;
        Ok(Self { team, stopping, thread: Mutex::new(Some(thread)) })
    }

    /// Ends the thread and waits for it. Detached.
    pub fn stop(&self) {
        self.stopping.store(true, Release);
        self.team.wake_monitor();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            let ended = thread.join();
            debug_assert!(ended.is_ok(), "the monitor panicked");
        }
        self.team.set_monitor(None);
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
    team: Arc<PoolShared>,
    watched: Box<[Watched]>,
    helper: Helper,
    /// When it looked last.
    looked_ns: u64,
    /// Looks in a row at which every loop slept.
    quiet: u32,
}

impl Watch {
    fn new(team: Arc<PoolShared>, now_ns: u64) -> io::Result<Self> {
        let watched = team.loops.iter().map(|_| Watched::default()).collect();
        let helper = Helper::new(Arc::clone(&team))?;
        Ok(Self { team, watched, helper, looked_ns: now_ns, quiet: 0 })
    }

    fn run(mut self, stopping: &AtomicBool) {
        let team = Arc::clone(&self.team);
        while !stopping.load(Relaxed) {
            let (limit, parked) = self.next_wait(&team);
            self.helper.wait(limit);
            drop(parked);
            self.look(clock::monotonic_ns());
        }
        // The loops have ended since the last look, and with them what they were in. One that has not
        // is not reported any more.
        self.team.set_limit(Limit::Off);
        let now_ns = clock::monotonic_ns();
        for (seat, shared) in Arc::clone(&self.team).loops() {
            self.look_at(seat, shared, shared.awake_runner(), now_ns);
        }
    }

    /// For how long there is nothing to look at, if nothing comes. For longer than a tick, while it has
    /// duties, only by the proof that the first loop to wake wakes it.
    fn next_wait<'a>(&mut self, team: &'a PoolShared) -> (Duration, Option<Parked<'a>>) {
        if self.helper.has_jobs() {
            (Duration::ZERO, None)
        } else if !self.has_duties() {
            (config::MAX_WAIT, None)
        } else if self.quiet < config::MONITOR_PATIENCE {
            (config::MONITOR_TICK, None)
        } else {
            self.go_to_sleep(team)
        }
    }

    /// Whether there is anything to look for while loops are awake.
    fn has_duties(&self) -> bool {
        self.team.steals()
            || self.team.limit() != Limit::Off
            || self.watched.iter().any(|watched| watched.detector.is_reported())
    }

    /// Announces that the monitor sleeps, and looks once more whether it may.
    fn go_to_sleep<'a>(&mut self, team: &'a PoolShared) -> (Duration, Option<Parked<'a>>) {
        let is_awake = |_: &_| team.loops().any(|(_, shared)| shared.awake_runner().is_some());
        match team.monitor_idle.park(is_awake) {
            Park::Sleep(parked) => (config::MAX_WAIT, Some(parked)),
            Park::Work => {
                self.quiet = 0;
                (config::MONITOR_TICK, None)
            }
        }
    }

    /// Looks at every loop, reports those that are inside a callback for long, and has those helped
    /// that are stuck.
    fn look(&mut self, now_ns: u64) {
        let team = Arc::clone(&self.team);
        let passed_ns = now_ns.saturating_sub(self.looked_ns);
        self.looked_ns = now_ns;
        let mut awake = false;
        for (seat, shared) in team.loops() {
            let runner = shared.awake_runner();
            awake |= runner.is_some();
            if runner.is_some() && team.steals() {
                team.see_to_unstarted(seat);
            }
            let is_stuck = self.look_at(seat, shared, runner, now_ns);
            let (recently, published) =
                (&mut self.watched[seat].recently, &shared.metrics.stuck_us);
            let stuck_us = recently.pass(passed_ns, is_stuck, published.get());
            if stuck_us != published.get() {
                published.set(stuck_us);
            }
            self.helper.follow(seat, shared, is_stuck);
        }
        self.helper.run_jobs(now_ns);
        self.quiet = if awake { 0 } else { self.quiet.saturating_add(1) };
    }

    /// Looks at one loop, and reports its callback if it is time. Returns whether it is stuck.
    fn look_at(
        &mut self,
        seat: usize,
        shared: &Shared,
        runner: Option<ThreadId>,
        now_ns: u64,
    ) -> bool {
        let incidents = self.team.incidents();
        let sample = Sample {
            callback: runner.and_then(|_| shared.progress.present()),
            now_ns,
            had: runner.and_then(ThreadId::processor_time),
            helps: self.team.steals(),
            limit: incidents.and_then(|incidents| incidents.limit().of(shared)),
        };
        let detector = &mut self.watched[seat].detector;
        let action = detector.look(sample, || runner.and_then(ThreadId::is_blocked));
        let (stint, lasted, ended) = match action.report {
            None => return action.is_stuck,
            Some(Report::Due(stint, lasted)) => (stint, lasted, false),
            Some(Report::Ended(stint, lasted)) => (stint, lasted, true),
        };
        let incident = StuckReport { seat, stint, lasted, ended };
        let told = incidents.is_some_and(|incidents| incidents.tell(incident).is_ok());
        debug_assert!(told || !ended, "there is always room for an end");
        if told && !ended {
            detector.reported();
        }
        action.is_stuck
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
