//! The part of a loop that other threads access: its reactor, its transports, and the results of work done
//! for it. It contains no callback, so any thread may hold it, outlive the loop's owner, and drop it.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_utils::CachePadded;

use super::{Current, Drain, Inbox, LoopProgress, Turned};
use crate::config;
use crate::error::LoopError;
use crate::id::{IoToken, LoopId};
use crate::metrics::{Counter, Metrics};
use crate::reactor::{Driver, Handle, Ready};
use crate::scheduler::{Idle, SearchKind, Wake};
use crate::sync::announce::Announced;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use crate::sync::{Mutex, MutexGuard, RwLock};
use crate::sys::clock;
use crate::sys::thread::ThreadId;
use crate::transport::{Connection, JobContext, Registrar, Report, Schedule, Source, SourceTable};

/// What another thread has done for a loop and the loop has to go on with.
#[derive(Debug)]
pub enum Completion {
    /// The transport has something for its owner.
    Turn(IoToken),
    /// The listener's server got a connection.
    Accepted(IoToken, Connection),
    /// Something has come for a transport of another loop, which does not get to it: whoever looks first begins it.
    Offered(Arc<Shared>, IoToken),
}

/// Work on one transport that needs no Python, and the loop to tell of it.
#[derive(Clone, Debug)]
pub struct Job {
    /// The loop that owns the transport.
    pub owner: Arc<Shared>,
    /// The transport's registration with it.
    pub token: IoToken,
    /// The transport.
    pub source: Arc<dyn Source>,
}

impl Job {
    /// Does the work and tells the owner, also of one that panics: its claims are free again, and what
    /// it has left is the owner's to do. Any thread, detached; `helps`: it is not the owner's. Returns
    /// what was done.
    pub fn run(&self, scratch: &mut [u8], helps: bool) -> Report {
        let mut job_context = JobContext { scratch, registrar: &*self.owner };
        let run = catch_unwind(AssertUnwindSafe(|| self.source.run(&mut job_context)));
        let report = run.unwrap_or_else(|panic| {
            let nothing =
                Ready { readable: false, writable: false, ended: false, token: self.token };
            self.tell(self.source.ready(nothing) == Schedule::Needed);
            resume_unwind(panic)
        });
        if report.worked {
            self.owner.metrics.note(&report, helps);
        }
        self.tell(report.tell_owner);
        report
    }

    fn tell(&self, needed: bool) {
        if needed {
            self.owner.complete(Completion::Turn(self.token));
        }
    }
}

/// What posters write: on a cache line of its own, away from what the owner writes.
#[derive(Debug, Default)]
struct Intake {
    completions: Inbox<Completion>,
    idle: Idle,
}

/// What tells whoever places a coroutine of `spawn` how much the loop has to do.
#[derive(Debug, Default)]
pub struct Load {
    /// Gauge: coroutines of `spawn` that have begun here and not ended. Written under the lock of what is
    /// counted.
    pub spawned: Counter,
    /// Counts the coroutines of `spawn` that any loop could have begun, and that have ended here; but not
    /// those that somebody awaited before they began. It wraps. Written under the same lock.
    pub ended: Counter,
    /// Counts the coroutines of `spawn` that were made here, for whatever loop; those that take as long to
    /// make as to run. It wraps.
    pub made: Counter,
    /// When the owner slept last, in nanoseconds of the clock.
    pub slept_ns: Counter,
    /// Gauge: streams whose filter has not opened them yet, so that what comes for them takes long. Any thread.
    pub opening: Counter,
    is_looking: AtomicBool,
}

impl Load {
    /// Whether the owner has nothing to do, and looks for a post before it sleeps. Any thread.
    #[inline]
    pub fn is_looking(&self) -> bool {
        self.is_looking.load(Relaxed)
    }

    /// Says so until it is dropped. Owner only; behind the end of its look comes the fence of
    /// [`Idle::park`], before it looks at anything else.
    pub fn look(&self) -> Looking<'_> {
        self.is_looking.store(true, Relaxed);
        Looking(self)
    }
}

/// The owner looks for a post before it sleeps.
#[derive(Debug)]
#[must_use = "it looks while this lives"]
pub struct Looking<'a>(&'a Load);

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        self.0.is_looking.store(false, Relaxed);
    }
}

/// The part of a loop that other threads work on.
#[derive(Debug)]
pub struct Shared {
    intake: CachePadded<Intake>,
    /// Counters and gauges; the owner writes them, but for those that say otherwise.
    pub metrics: CachePadded<Metrics>,
    /// How much it has to do, for whoever places more there.
    pub load: CachePadded<Load>,
    /// The task that is running, and those that have yet to begin.
    pub current: CachePadded<Current>,
    /// The callback that the owner is in: it writes it at each one, the monitor looks whether it
    /// moves.
    pub progress: CachePadded<LoopProgress>,
    /// Which loop of its pool it is; outside of one, 0.
    id: AtomicU32,
    /// The thread that runs the loop, as the kernel names it; 0: none does. Its own to write.
    runner: AtomicU64,
    /// Seconds from which on the program calls a callback slow, as the bits of a float.
    slow_after: AtomicU64,
    /// The transports. Held for a few instructions; nothing is dropped under it.
    pub sources: Mutex<SourceTable>,
    /// `None` when the loop is closed. Held by whoever polls: the owner in its turn, from before it
    /// publishes that it sleeps; another thread for a moment, while the owner is stuck.
    driver: Mutex<Option<Driver>>,
    /// `None` when the loop is closed. Read for a wake or a registration; written by `close`, and in a
    /// forked child.
    handle: RwLock<Option<Handle>>,
    /// In a forked child: the reactor is the parent's, and nothing may be asked of it.
    is_parents: AtomicBool,
    /// How many descriptors it watches.
    watched: Arc<AtomicUsize>,
}

/// The right to poll a loop's reactor.
#[derive(Debug)]
pub struct Poller<'a>(MutexGuard<'a, Option<Driver>>);

impl Poller<'_> {
    /// Asks the kernel what is ready, waiting at most for `timeout`, and appends it to `found`.
    /// Call it detached: it may sleep.
    ///
    /// # Errors
    /// Those of the kernel; [`LoopError::Closed`] after `close`.
    pub fn poll(&mut self, timeout: Duration, found: &mut Vec<Ready>) -> Result<Turned, LoopError> {
        let driver = self.0.as_mut().ok_or(LoopError::Closed)?;
        let end = driver.poll(timeout, found).map_err(|error| LoopError::Io("poll", error))?;
        Ok(Turned { end, now_ns: clock::monotonic_ns() })
    }
}

impl Shared {
    pub(super) fn new() -> io::Result<Self> {
        let (driver, handle) = Driver::new()?;
        let watched = handle.watched();
        Ok(Self {
            intake: CachePadded::default(),
            metrics: CachePadded::default(),
            load: CachePadded::default(),
            progress: CachePadded::default(),
            current: CachePadded::new(Current::new()),
            id: AtomicU32::new(0),
            runner: AtomicU64::new(0),
            slow_after: AtomicU64::new(config::SLOW_AFTER.to_bits()),
            sources: Mutex::new(SourceTable::default()),
            driver: Mutex::new(Some(driver)),
            handle: RwLock::new(Some(handle)),
            is_parents: AtomicBool::new(false),
            watched,
        })
    }

    /// Whether the kernel may have something to report besides what every loop watches. Any thread.
    #[inline]
    pub fn watches_descriptors(&self) -> bool {
        self.watched.load(Relaxed) > config::OWN_DESCRIPTORS
    }

    /// Which loop of its pool it is. Any thread.
    pub fn id(&self) -> LoopId {
        LoopId(self.id.load(Relaxed))
    }

    /// See [`id`](Self::id). Once, as it joins the pool.
    pub fn set_id(&self, id: LoopId) {
        self.id.store(id.0, Relaxed);
    }

    /// Whether the owner sleeps, and who is to wake it.
    pub fn idle(&self) -> &Idle {
        &self.intake.idle
    }

    /// Notes that the calling thread runs the loop, or that none does any more.
    pub fn set_running(&self, running: bool) {
        let runner = if running { ThreadId::current().to_bits().max(1) } else { 0 };
        self.runner.store(runner, Relaxed);
    }

    /// Whether some thread runs the loop.
    pub fn is_running(&self) -> bool {
        self.runner.load(Relaxed) != 0
    }

    /// The thread that runs the loop and neither sleeps nor is being woken: it could be stuck.
    pub fn awake_runner(&self) -> Option<ThreadId> {
        let runner = ThreadId::from_bits(self.runner.load(Relaxed))?;
        self.intake.idle.is_awake().then_some(runner)
    }

    /// Seconds from which on the program calls a callback slow. Any thread.
    pub fn slow_after(&self) -> f64 {
        f64::from_bits(self.slow_after.load(Relaxed))
    }

    /// See [`slow_after`](Self::slow_after). Any thread.
    pub fn set_slow_after(&self, seconds: f64) {
        self.slow_after.store(seconds.to_bits(), Relaxed);
    }

    /// Waits for the right to poll. Detached, and only while the owner is not stuck.
    pub fn poller(&self) -> Poller<'_> {
        Poller(self.driver.lock())
    }

    /// The right to poll, if nobody has it.
    pub fn try_poller(&self) -> Option<Poller<'_>> {
        self.driver.try_lock().map(Poller)
    }

    /// Ends the owner's present wait, or else its next one. Any thread; after `close`, nothing.
    pub fn wake(&self) {
        let _ = self.with_handle(Handle::wake);
    }

    /// Wakes the owner if it sleeps, for something that was announced where it looks. Any thread.
    #[inline]
    pub fn posted(&self, announced: &Announced) {
        if self.intake.idle.posted(announced) == Wake::Needed {
            self.rouse();
        }
    }

    /// Has the owner search for a scheduler, and wakes it, if it sleeps. Any thread.
    #[must_use = "the scheduler counts the one who was summoned"]
    pub fn summon(&self, kind: SearchKind) -> bool {
        let summoned = self.intake.idle.summon(kind);
        if summoned {
            self.rouse();
        }
        summoned
    }

    #[cold]
    fn rouse(&self) {
        self.metrics.wakes.add_shared(1);
        self.wake();
    }

    /// Hands something to the owner, and wakes it if it sleeps. Any thread.
    pub fn complete(&self, completion: Completion) {
        self.posted(&self.intake.completions.push(completion));
    }

    /// Whether the loop has been closed, or is being closed and will look once more at what was
    /// handed over.
    pub fn is_closed(&self) -> bool {
        self.handle.try_read().is_none_or(|handle| handle.is_none())
    }

    /// Whether anything was handed over and not yet taken.
    #[inline]
    pub fn has_completions(&self) -> bool {
        !self.intake.completions.is_empty()
    }

    /// As [`has_completions`](Self::has_completions), on the last look before a sleep.
    pub(super) fn have_completions_come(&self, announced: &Announced) -> bool {
        self.intake.completions.has_come(announced)
    }

    /// Takes out what was handed over, oldest first. Owner only; anybody once it is closed.
    #[inline]
    pub fn drain_completions(&self) -> Drain<Completion> {
        self.intake.completions.drain()
    }

    /// As [`drain_completions`](Self::drain_completions) of a closed loop: the connections, which nobody
    /// takes any more.
    #[must_use]
    pub fn drain_connections(&self) -> Vec<Connection> {
        let connection = |completion| match completion {
            Completion::Accepted(_, connection) => Some(connection),
            Completion::Turn(_) | Completion::Offered(..) => None,
        };
        self.drain_completions().filter_map(connection).collect()
    }

    /// Notes what a poll by another thread than the owner found, and hands `job` what can be done
    /// without the owner; the owner hears of it by its inbox. Callbacks of `add_reader` are left to
    /// the owner's own poll, which finds them again.
    pub fn note(self: &Arc<Self>, found: &[Ready], mut job: impl FnMut(Job)) {
        for ready in found.iter().filter(|ready| ready.token.is_source()) {
            let (source, schedule) = match self.sources.lock().ready(*ready) {
                Some((entry, schedule)) => (Arc::clone(&entry.source), schedule),
                None => continue,
            };
            if schedule == Schedule::Needed {
                self.complete(Completion::Turn(ready.token));
            }
            job(Job { owner: Arc::clone(self), token: ready.token, source });
        }
    }

    /// Hands `job` every transport with work that does not need the owner: with `only_writes`, those that have
    /// something to write.
    pub fn pending(self: &Arc<Self>, only_writes: bool, mut job: impl FnMut(Job)) {
        self.sources.lock().pending(only_writes, |token, source| {
            job(Job { owner: Arc::clone(self), token, source: Arc::clone(source) });
        });
    }

    /// Gives the descriptors back.
    ///
    /// Waits for a wake, a registration or a poll under way on another thread, each a few
    /// instructions and a syscall long and free of Python, so it may be called attached.
    pub(super) fn close(&self) {
        if self.is_parents() {
            return; // a thread that is not here may hold the locks
        }
        let handle = self.handle.replace(None);
        let driver = self.driver.lock().take();
        drop((handle, driver));
    }

    /// Whether this is a forked child that has no reactor of its own for the loop.
    pub fn is_parents(&self) -> bool {
        self.is_parents.load(Relaxed)
    }

    /// Leaves the reactor to the parent process, in a forked child whose only thread this is. The
    /// kernel is told nothing: parent and child share what is registered. `renew`: the loop gets
    /// another reactor, with which nothing is registered.
    ///
    /// # Errors
    /// When the process is out of descriptors. The loop has none then.
    pub fn after_fork(&self, renew: bool) -> io::Result<()> {
        self.is_parents.store(true, Relaxed);
        // If a thread of the parent's held a lock, nobody will release it.
        let Some(mut driver) = self.driver.try_lock() else { return Ok(()) };
        let fresh = if renew && driver.is_some() { Some(Driver::new()?) } else { None };
        let (new_driver, new_handle) = fresh.unzip();
        let is_new = new_driver.is_some();
        if let Ok(handle) = self.handle.try_replace(new_handle) {
            // Both are closed, and no more: the parent's stay as they are.
            drop((handle, std::mem::replace(&mut *driver, new_driver)));
            self.is_parents.store(!is_new, Relaxed);
        }
        Ok(())
    }

    /// Calls `f` with the reactor's shared half. Any thread.
    ///
    /// # Errors
    /// [`LoopError::Closed`] after `close`.
    pub fn with_handle<R>(&self, f: impl FnOnce(&Handle) -> R) -> Result<R, LoopError> {
        if self.is_parents() {
            return Err(LoopError::Closed);
        }
        // Written by `close` alone, but in a forked child: a failed try means that the loop is closed.
        let handle = self.handle.try_read().ok_or(LoopError::Closed)?;
        handle.as_ref().map(f).ok_or(LoopError::Closed)
    }
}

impl Registrar for Shared {
    fn with_handle(&self, f: &mut dyn FnMut(&Handle) -> io::Result<()>) -> Result<(), LoopError> {
        Shared::with_handle(self, f)?.map_err(|error| LoopError::Io("epoll", error))
    }
}

impl Metrics {
    fn note(&self, report: &Report, helped: bool) {
        if helped {
            self.jobs_helped.add_shared(1);
            self.bytes_in_helped.add_shared(report.bytes_in);
            self.bytes_out_helped.add_shared(report.bytes_out);
        } else {
            self.bytes_in.add(report.bytes_in);
            self.bytes_out.add(report.bytes_out);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
