//! The monitor: one thread of a pool, without Python, that looks whether loops are stuck inside a
//! callback; it does the socket work of those that are, and tells of those that are for long.
//!
//! While any loop of the pool is awake it looks every [`config::MONITOR_TICK`] whether each is still
//! inside the callback of the look before. One that is counts as stuck: its reactor is handed over,
//! that is, the monitor polls it whenever the right to poll is free, and offers the work it finds to
//! the idle threads and does the rest itself. The stuck loop's epoll is watched by the monitor's own, so nothing waits for
//! the next look. When the loop moves on, it polls for itself again. All this only in a pool whose
//! loops work for each other.
//!
//! A callback that lasts for longer than the pool's limit, if there is one, is told of when it
//! reaches the limit and when it ends (`incidents`, `suspect`).
//!
//! When all loops sleep, so does the monitor: it publishes so, looks once more, and is woken by the
//! first loop that wakes ([`Team::awake`]); the argument is that of parking in
//! `src/scheduler/README.md`. It also sleeps while there is nothing for it to do, until
//! [`Team::set_limit`] wakes it through the kernel, which remembers a wake that comes first.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::Team;
use super::incidents::{Incident, Limit};
use super::suspect::{Look, Suspect, Verdict};
use crate::config;
use crate::event_loop::{Job, Shared};
use crate::id::IoToken;
use crate::reactor::{Driver, Edges, Ready};
use crate::sync::atomic::{
    AtomicBool,
    Ordering::{Relaxed, Release, SeqCst},
    fence,
};
use crate::sync::{JoinHandle, Mutex, spawn};
use crate::sys::clock;
use crate::sys::thread::ThreadId;
use crate::transport::Scratch;

/// The monitor's thread, ended by [`stop`](Self::stop).
#[derive(Debug)]
pub struct Monitor {
    team: Arc<Team>,
    stopping: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Monitor {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the process is out of descriptors or threads.
    pub fn start(team: Arc<Team>) -> io::Result<Self> {
        let (driver, handle) = Driver::new()?;
        let stopping = Arc::new(AtomicBool::new(false));
        team.set_monitor(Some(handle));
        let watch = Watch {
            driver,
            stopping: Arc::clone(&stopping),
            seen: team.loops.iter().map(|_| Seen::default()).collect(),
            suspects: team.loops.iter().map(|_| Suspect::default()).collect(),
            team: Arc::clone(&team),
            looked_ns: clock::monotonic_ns(),
            quiet: 0,
            found: Vec::new(),
            jobs: Vec::new(),
            scratch: Scratch::default(),
        };
        let thread = spawn("loop-pool-monitor", move || watch.run())?;
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

/// What the monitor knows of one loop that it may have to work for.
#[derive(Debug, Default)]
struct Seen {
    progress: u64,
    since_ns: u64,
    /// The processor time that its thread had then.
    had: Option<Duration>,
    /// Under which its epoll is watched, while it is stuck.
    stuck: Option<IoToken>,
    /// Seconds for which it was stuck of late.
    recently: f64,
}

impl Seen {
    /// Forgets a part of the time for which the loop was stuck, and publishes the rest; or all of
    /// it, if what was published has been taken back.
    fn fade(&mut self, fading: f64, shared: &Shared) {
        if self.recently != 0.0 {
            self.recently *= if shared.metrics.stuck_us.get() == 0 { 0.0 } else { fading };
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            shared.metrics.stuck_us.set((self.recently * 1e6) as u64);
        }
    }
}

struct Watch {
    team: Arc<Team>,
    stopping: Arc<AtomicBool>,
    driver: Driver,
    /// For the sake of handing over.
    seen: Box<[Seen]>,
    /// For the sake of telling.
    suspects: Box<[Suspect]>,
    /// When it looked last.
    looked_ns: u64,
    /// Looks in a row at which every loop slept.
    quiet: u32,
    found: Vec<Ready>,
    jobs: Vec<Job>,
    scratch: Scratch,
}

impl Watch {
    fn run(mut self) {
        while !self.stopping.load(Relaxed) {
            let wait = if !self.has_duties() {
                config::MAX_WAIT
            } else if self.quiet < config::MONITOR_PATIENCE {
                config::MONITOR_TICK
            } else {
                self.go_to_sleep()
            };
            self.found.clear();
            let mut found = std::mem::take(&mut self.found);
            // Nothing can fail but by a signal, after which we look again.
            let _ = self.driver.poll(wait, &mut found);
            self.found = found;
            self.team.monitor_sleeps.store(false, Relaxed);
            self.look(wait > config::MONITOR_TICK);
        }
        // The loops have ended since the last look, and with them what they were in. One that has not
        // is not told of any more.
        self.team.set_limit(Limit::Off);
        let now_ns = clock::monotonic_ns();
        for (seat, shared) in Arc::clone(&self.team).loops() {
            self.watch(seat, shared, shared.awake_runner(), None, now_ns);
        }
    }

    /// Whether there is anything to look for while loops are awake.
    fn has_duties(&self) -> bool {
        self.team.steals()
            || self.team.limit() != Limit::Off
            || self.suspects.iter().any(Suspect::is_told)
    }

    /// Publishes that the monitor sleeps, and looks once more whether it may.
    fn go_to_sleep(&mut self) -> Duration {
        self.team.monitor_sleeps.store(true, Relaxed);
        // Pairs with the one in `Team::awake`.
        fence(SeqCst);
        if self.team.loops().any(|(_, shared)| shared.awake_runner().is_some()) {
            self.quiet = 0;
            self.team.monitor_sleeps.store(false, Relaxed);
            return config::MONITOR_TICK;
        }
        config::MAX_WAIT
    }

    /// Looks at every loop, tells of those that are inside a callback for long, and works for those
    /// that are stuck.
    fn look(&mut self, slept: bool) {
        let team = Arc::clone(&self.team);
        let now_ns = clock::monotonic_ns();
        let seconds = clock::seconds(now_ns.saturating_sub(self.looked_ns));
        self.looked_ns = now_ns;
        let fading = (-seconds / config::STUCK_MEMORY.as_secs_f64()).exp();
        let mut awake = false;
        for (seat, shared) in team.loops() {
            let runner = shared.awake_runner();
            awake |= runner.is_some();
            let had = runner.and_then(ThreadId::processor_time);
            self.watch(seat, shared, runner, had, now_ns);
            if team.steals() {
                self.seen[seat].fade(fading, shared);
                self.relieve(seat, shared, runner, had, Passed { now_ns, seconds, slept });
            }
        }
        self.quiet = if awake { 0 } else { self.quiet.saturating_add(1) };
    }

    /// Tells of a loop that is inside one callback for too long, or is no more.
    fn watch(
        &mut self,
        seat: usize,
        shared: &Shared,
        runner: Option<ThreadId>,
        had: Option<Duration>,
        now_ns: u64,
    ) {
        let Some(incidents) = self.team.incidents() else { return };
        let present = runner.and_then(|_| shared.progress.present());
        let limit = incidents.limit().of(shared);
        let suspect = &mut self.suspects[seat];
        let is_blocked = || runner.and_then(ThreadId::is_blocked);
        match suspect.look(Look { present, now_ns, had, limit }, is_blocked) {
            Verdict::Quiet => {}
            Verdict::Due(stint, lasted) => {
                let incident = Incident { seat, stint, lasted, ended: false };
                if incidents.tell(incident).is_ok() {
                    suspect.told();
                }
            }
            Verdict::Ended(stint, lasted) => {
                let told = incidents.tell(Incident { seat, stint, lasted, ended: true });
                debug_assert!(told.is_ok(), "there is always room for an end");
            }
        }
    }

    /// Works for a loop that is stuck.
    fn relieve(
        &mut self,
        seat: usize,
        shared: &Arc<Shared>,
        runner: Option<ThreadId>,
        had: Option<Duration>,
        Passed { now_ns, seconds, slept }: Passed,
    ) {
        let progress = shared.progress.callbacks();
        // A loop between its callbacks polls, or helps for as long as its budget lasts.
        let inside = shared.progress.present().is_some();
        let seen = &mut self.seen[seat];
        // While the monitor slept, the loop may have as well.
        let followed = !slept && inside && progress == seen.progress;
        let Some(runner) = runner.filter(|_| followed) else {
            seen.progress = progress;
            seen.since_ns = now_ns;
            seen.had = had;
            self.release(seat);
            return;
        };
        let stuck_for = Duration::from_nanos(now_ns.saturating_sub(seen.since_ns));
        if seen.stuck.is_none()
            && (stuck_for < config::STUCK_AFTER || !is_held_up(runner, seen.had, had, stuck_for))
        {
            return;
        }
        seen.recently += seconds;
        // Nothing is to be placed on it now, however short it has been.
        let at_least = u64::try_from(config::STUCK_STEP.as_micros()).unwrap_or(u64::MAX);
        shared.metrics.stuck_us.set(shared.metrics.stuck_us.get().max(at_least));
        if seen.stuck.is_none() {
            self.take(seat, shared);
        }
        self.work(shared);
    }

    /// Begins to work for a stuck loop: for what its owner has not got to, and for what its reactor
    /// will report.
    fn take(&mut self, seat: usize, shared: &Arc<Shared>) {
        shared.metrics.handoffs.add(1);
        let Ok(selector) = shared.with_handle(crate::reactor::Handle::selector) else { return };
        let token = IoToken::of_source(selector, u32::try_from(seat).unwrap_or(0));
        // If it cannot be watched, the next look finds what it reports.
        let _ = self.team.with_monitor(|handle| handle.register(token, Edges::Read));
        self.seen[seat].stuck = Some(token);
        let jobs = &mut self.jobs;
        shared.pending(|job| jobs.push(job));
    }

    /// Lets the loop go on by itself.
    fn release(&mut self, seat: usize) {
        if let Some(token) = self.seen[seat].stuck.take() {
            // The loop may have been closed, and the number reused: then it is not ours.
            let _ = self.team.with_monitor(|handle| handle.deregister(token));
        }
    }

    /// Polls a stuck loop's reactor and does what it reports. The first jobs are done here, the
    /// others by whoever is idle.
    fn work(&mut self, shared: &Arc<Shared>) {
        self.found.clear();
        if let Some(mut poller) = shared.try_poller() {
            // A loop that was closed has nothing to report.
            let _ = poller.poll(Duration::ZERO, &mut self.found);
        }
        let jobs = &mut self.jobs;
        shared.note(&self.found, |job| jobs.push(job));
        if self.jobs.len() > config::BEHIND && self.team.has_sleeper() {
            let rest = self.jobs.split_off(config::BEHIND / 2);
            self.team.inject(rest.into_iter());
        }
        for job in std::mem::take(&mut self.jobs) {
            if job.run(self.scratch.get(), true).again {
                self.jobs.push(job);
            }
        }
        if !self.jobs.is_empty() {
            // There is more at once: do not wait for the next tick.
            self.team.wake_monitor();
        }
    }
}

/// When a look takes place.
#[derive(Clone, Copy)]
struct Passed {
    now_ns: u64,
    /// Since the look before.
    seconds: f64,
    /// Whether the monitor slept in between.
    slept: bool,
}

/// Whether a thread that has not moved on is really in its callback, and does not merely wait for a
/// processor: then others would only take one from it. `had` and `has`: its processor time, before
/// and now.
pub(super) fn is_held_up(
    runner: ThreadId,
    had: Option<Duration>,
    has: Option<Duration>,
    stuck_for: Duration,
) -> bool {
    match (has, had) {
        (Some(has), Some(had)) if has.saturating_sub(had) >= config::STUCK_AFTER => true,
        (Some(_), Some(_)) => runner.is_blocked().unwrap_or(true),
        // It cannot be asked: a thread seldom waits that long for a processor.
        _ => stuck_for >= 5 * config::STUCK_AFTER,
    }
}
