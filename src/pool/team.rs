//! The loops of a pool as their threads see each other: whose socket work may be done by whom.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::patience::Patience;
use super::placement::STUCK_LOAD;
use super::starts::{self, Errand, Starter};
use super::{Incidents, Limit, Placement};
use crate::config;
use crate::event_loop::{Job, Shared};
use crate::id::LoopId;
use crate::reactor::Handle;
use crate::scheduler::{Crew, CrewId, Found, RunQueues, Seat, Sleepers, Summons, Worker};
use crate::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Relaxed, SeqCst},
    fence,
};
use crate::sync::{Mutex, OnceLock, RwLock};
use crate::sys::clock;
use crate::transport::Scratch;

/// What the threads of one pool share to work for each other.
pub struct Team {
    crew: Arc<Crew<Job>>,
    /// Coroutines that have not begun, for whichever loop gets to them first.
    pub(super) starts: RunQueues<Errand>,
    /// Whether the threads do each other's work at all; connections are placed in any case.
    steals: bool,
    /// How many of the threads can run at once.
    pub(super) cores: usize,
    /// The loops, set when each one's thread has begun.
    pub(super) loops: Box<[OnceLock<Arc<Shared>>]>,
    /// Shares in the crew that no thread has taken yet.
    workers: Mutex<Vec<Option<Worker<Job>>>>,
    /// The monitor sleeps until a loop wakes it.
    pub(super) monitor_sleeps: AtomicBool,
    /// The monitor's reactor, while there is a monitor.
    monitor: RwLock<Option<Handle>>,
    /// Where it tells of loops that are inside one callback for too long, once somebody has asked.
    incidents: OnceLock<Incidents>,
    pub(super) placement: Placement,
}

impl fmt::Debug for Team {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Team").field("loops", &self.loops.len()).finish_non_exhaustive()
    }
}

/// Whether the loop's thread sleeps, and has done nothing of its own for long enough that it is not
/// just between two events: to wake it for others' work would take it from its own.
fn is_free(shared: &Shared, now_ns: u64) -> bool {
    shared.idle().is_parked()
        && u128::from(now_ns.saturating_sub(shared.metrics.worked_ns.get()))
            >= config::FREE_AFTER.as_nanos()
}

impl Sleepers for Team {
    fn is_parked(&self, seat: Seat) -> bool {
        let now_ns = clock::monotonic_ns();
        self.loops[seat.0].get().is_some_and(|shared| is_free(shared, now_ns))
    }

    fn summon(&self, seat: Seat) -> bool {
        let Some(shared) = self.loops[seat.0].get() else { return false };
        summon(shared, HELPERS)
    }
}

/// The numbers of the crews.
const HELPERS: CrewId = CrewId(0);

pub(super) fn summon(shared: &Shared, crew: CrewId) -> bool {
    let summoned = shared.idle().summon(crew);
    if summoned {
        shared.metrics.wakes.add_shared(1);
        shared.wake();
    }
    summoned
}

impl Team {
    /// For a pool of so many loops, which do each other's socket work or not, on so many cores.
    #[must_use]
    pub fn new(loops: usize, steals: bool, cores: usize) -> Arc<Self> {
        let (crew, workers) = Crew::new(loops);
        Arc::new(Self {
            crew,
            starts: starts::new_queues(loops),
            steals,
            cores,
            loops: std::iter::repeat_with(OnceLock::new).take(loops).collect(),
            workers: Mutex::new(workers.into_iter().map(Some).collect()),
            monitor_sleeps: AtomicBool::new(false),
            monitor: RwLock::new(None),
            incidents: OnceLock::new(),
            placement: Placement::new(u32::try_from(loops).unwrap_or(u32::MAX)),
        })
    }

    /// Where the monitor tells of stuck loops; made at the first call.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn make_incidents(&self) -> io::Result<&Incidents> {
        if self.incidents.get().is_none() {
            // Who comes second drops his own.
            let _ = self.incidents.set(Incidents::new()?);
        }
        self.incidents().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    /// Where the monitor tells of stuck loops, if anybody has asked.
    #[must_use]
    pub fn incidents(&self) -> Option<&Incidents> {
        self.incidents.get()
    }

    /// Sets how long a callback may take before it is told of. Nothing before `make_incidents`.
    pub fn set_limit(&self, limit: Limit) {
        if let Some(incidents) = self.incidents() {
            incidents.set_limit(limit);
            // It may have slept because there was nothing for it to do.
            self.wake_monitor();
        }
    }

    /// How long a callback may take before it is told of.
    pub(super) fn limit(&self) -> Limit {
        self.incidents().map_or(Limit::Off, Incidents::limit)
    }

    /// Takes a loop's place; `None` if it is taken, or there is none of that number.
    pub fn join(self: &Arc<Self>, id: LoopId, shared: &Arc<Shared>) -> Option<Hand> {
        let seat = id.0 as usize;
        let worker = self.workers.lock().get_mut(seat)?.take()?;
        self.loops[seat].set(Arc::clone(shared)).ok()?;
        Some(Hand {
            worker,
            starter: Starter::new(Seat(seat), self.loops.len()),
            patience: Patience::default(),
            team: Arc::clone(self),
        })
    }

    /// Whether the threads do each other's work.
    #[must_use]
    pub fn steals(&self) -> bool {
        self.steals
    }

    /// The loops that have joined.
    pub(super) fn loops(&self) -> impl Iterator<Item = (usize, &Arc<Shared>)> {
        self.loops.iter().enumerate().filter_map(|(seat, one)| Some((seat, one.get()?)))
    }

    /// Whether an idle thread could be woken to help.
    #[must_use]
    pub fn has_sleeper(&self) -> bool {
        let now_ns = clock::monotonic_ns();
        self.loops().any(|(_, shared)| is_free(shared, now_ns))
    }

    /// Hands jobs to whoever comes first. Any thread.
    pub(super) fn inject(&self, jobs: impl Iterator<Item = Job>) {
        jobs.for_each(|job| self.crew.inject(job));
        self.crew.wake_one(self);
    }

    /// Tells the monitor that a loop is awake, if it sleeps. A loop calls it when its wait has ended
    /// and before it runs anything.
    pub fn awake(&self) {
        // Pairs with the monitor's: either it sees us awake, or we see that it sleeps.
        fence(SeqCst);
        if self.monitor_sleeps.load(Relaxed) && self.monitor_sleeps.swap(false, Acquire) {
            self.wake_monitor();
        }
    }

    pub(super) fn wake_monitor(&self) {
        self.with_monitor(|handle| {
            let woken = handle.wake();
            debug_assert!(woken.is_ok(), "the waker is open while its lock is held");
        });
    }

    /// Calls `f` with the monitor's reactor, if there is a monitor.
    pub(super) fn with_monitor<R>(&self, f: impl FnOnce(&Handle) -> R) -> Option<R> {
        // The lock is written when the monitor begins and ends: then there is nothing to tell it.
        self.monitor.try_read()?.as_ref().map(f)
    }

    /// Sets the monitor's reactor; with `None` its descriptors are given back.
    pub(super) fn set_monitor(&self, handle: Option<Handle>) {
        drop(self.monitor.replace(handle));
    }
}

/// For how long a thread may do jobs before it turns to its own loop again.
#[derive(Debug)]
pub struct Budget<F> {
    until_ns: u64,
    is_wanted: F,
}

impl<F: Fn() -> bool> Budget<F> {
    /// From `now_ns` on for [`config::JOBS_FOR`], and no longer than until `until_ns`, or until the
    /// loop is wanted: something was posted to it.
    pub fn new(now_ns: u64, until_ns: u64, is_wanted: F) -> Self {
        let limit = u64::try_from(config::JOBS_FOR.as_nanos()).unwrap_or(u64::MAX);
        Self { until_ns: until_ns.min(now_ns.saturating_add(limit)), is_wanted }
    }

    pub(super) fn is_spent(&self) -> bool {
        (self.is_wanted)() || clock::monotonic_ns() >= self.until_ns
    }
}

/// One loop's share in its team; its thread's.
#[derive(Debug)]
pub struct Hand {
    worker: Worker<Job>,
    pub(super) starter: Starter,
    patience: Patience,
    pub(super) team: Arc<Team>,
}

impl Hand {
    /// The team.
    #[must_use]
    pub fn team(&self) -> &Arc<Team> {
        &self.team
    }

    /// Offers jobs to idle threads, and wakes one if none searches already.
    pub fn offer(&self, jobs: impl Iterator<Item = Job>) {
        jobs.for_each(|job| self.worker.push(job));
        self.team.crew.wake_one(&*self.team);
    }

    /// Whether any job waits anywhere.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.team.crew.has_work()
    }

    /// Does what was offered and nobody took, one job at least, as long as the budget lasts. Returns
    /// whether jobs are left.
    pub fn run_own(
        &mut self,
        own: &Arc<Shared>,
        scratch: &mut Scratch,
        budget: &Budget<impl Fn() -> bool>,
    ) -> bool {
        while let Some(job) = self.worker.pop() {
            self.run(own, scratch, job);
            if budget.is_spent() {
                return !self.worker.is_empty();
            }
        }
        false
    }

    /// Looks for a job of anybody's and does it, and what was taken along with it as far as the budget
    /// lasts; the rest lies on the deque. Returns whether there was one.
    pub fn help(
        &mut self,
        own: &Arc<Shared>,
        scratch: &mut Scratch,
        budget: &Budget<impl Fn() -> bool>,
    ) -> bool {
        let found = self.worker.find(&*self.team);
        self.run_found(own, scratch, found, budget)
    }

    // -- before and after a sleep ----------------------------------------------------------------

    /// Looks whether something comes, before a sleep, if that is to be expected. Detached.
    pub fn look_before_sleep(&mut self, own: &Shared, has_come: impl Fn() -> bool) -> bool {
        let Some(limit) = self.patience.look() else { return false };
        own.load.set_looking(true);
        let began_ns = clock::monotonic_ns();
        let found = loop {
            if has_come() || self.has_errands() {
                break true;
            }
            if u128::from(clock::monotonic_ns().saturating_sub(began_ns)) > limit.as_nanos() {
                break false;
            }
            (0..16).for_each(|_| std::hint::spin_loop());
        };
        own.load.set_looking(false);
        self.patience.looked(found);
        found
    }

    /// Notes a sleep that another thread's post has ended.
    pub fn slept(&mut self, slept: Duration) {
        self.patience.slept(slept);
    }

    // -- answering -------------------------------------------------------------------------------

    /// Answers a summons of the jobs' crew, after the owner's wait. `busy`: the loop has work of its
    /// own. Returns whether a job was done.
    pub fn answer(
        &mut self,
        summons: Summons,
        own: &Arc<Shared>,
        scratch: &mut Scratch,
        busy: bool,
        budget: &Budget<impl Fn() -> bool>,
    ) -> bool {
        if busy {
            self.worker.decline(summons, &*self.team);
            return false;
        }
        let found = self.worker.answer(summons, &*self.team);
        self.run_found(own, scratch, found, budget)
    }

    fn run_found(
        &mut self,
        own: &Arc<Shared>,
        scratch: &mut Scratch,
        found: Option<Found<Job>>,
        budget: &Budget<impl Fn() -> bool>,
    ) -> bool {
        let Some(Found { job, .. }) = found else { return false };
        self.run(own, scratch, job);
        if !budget.is_spent() {
            self.run_own(own, scratch, budget);
        }
        true
    }

    fn run(&mut self, own: &Arc<Shared>, scratch: &mut Scratch, job: Job) {
        let stolen = !Arc::ptr_eq(own, &job.owner);
        let report = job.run(scratch.get(), stolen);
        if report.worked {
            own.metrics.jobs.add(1);
            own.metrics.stolen_by.add(u64::from(stolen));
        }
        if report.again {
            self.worker.push(job);
        }
    }

    /// Does all that is left, before the thread ends: nobody else may know of it. Returns the
    /// coroutines that have not begun.
    pub fn leave(mut self, own: &Arc<Shared>) -> Vec<Errand> {
        if !self.worker.is_empty() {
            let mut scratch = Scratch::default();
            while self.run_own(own, &mut scratch, &Budget::new(0, 0, || false)) {}
        }
        self.close_errands()
    }
}

/// How loaded a loop is, for placing connections: above all whether it was stuck of late, then what
/// was placed on it and what waits. What the program opened there by itself, such as the idle
/// connections to a database, says nothing of what the loop does, nor was it spread by anybody.
#[must_use]
pub fn load_of(shared: &Shared) -> u64 {
    let metrics = &shared.metrics;
    let held = metrics.placed.get() + metrics.ready.get() + metrics.arriving.get();
    held.saturating_add(stuck_load(shared))
}

/// The part of a loop's load that is due to its being stuck of late: 0, or at least [`STUCK_LOAD`].
pub(super) fn stuck_load(shared: &Shared) -> u64 {
    let steps = u128::from(shared.metrics.stuck_us.get()) / config::STUCK_STEP.as_micros();
    u64::try_from(steps * u128::from(STUCK_LOAD)).unwrap_or(u64::MAX)
}

#[cfg(all(test, not(loom)))]
mod tests;
