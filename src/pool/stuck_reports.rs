//! The queue from the monitor to the reporter: which loop has been in one callback for too long, and when
//! it left.
//!
//! In: stuck reports of the monitor. Out: the same, in order, to one waiting reporter, a thread of
//! Python's.
//!
//! Must never: lose a report, or grow without bound.

// monitor                                 reporter
// M1  announce: push the report           R1  announce: state = PARKED
// M2  if the reporter sleeps: wake it     R2  look: reports, over
//                                         R3  if nothing: sleep in the kernel
// end of the pool                         R4  over = look whether it is over
// E1  announce: over = true               R5  take out the reports
// E2  as M2                               R6  none, and over at R4: the end
//
// *No report is slept through.* M1, M2 and R1 to R3 are exactly the protocol of parking
// (`src/scheduler/README.md`), and so are E1 and E2.
//
// *No report is lost at the end.* The monitor has pushed all reports before E1. R4 comes before R5: if
// it is over at R4, everything has been pushed, and R5 finds it; it is the end only if R5 finds
// nothing. In the other order, a report pushed between the two would be lost.
//
// *The order is kept.* One thread pushes, and the inbox keeps the order of one poster.
//
// *It is bounded.* If the reporter does not keep up, there is no room for further begins. Such a
// callback stays due and is reported later, if it lasts. An end always has room, so every reported
// begin gets its end; there is at most one callback per loop.

use std::io;
use std::time::Duration;

use crate::config;
use crate::event_loop::{CallbackEpoch, Inbox, Shared};
use crate::reactor::{Driver, Handle};
use crate::scheduler::{Idle, Park, Wake};
use crate::sync::atomic::{
    AtomicBool, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};
use crate::sync::{Mutex, RwLock};

/// A loop is inside one callback for longer than its limit, or was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StuckReport {
    /// Which loop of the pool.
    pub worker_index: usize,
    /// Which callback.
    pub epoch: CallbackEpoch,
    /// For how long by now, or if it has ended, in all.
    pub lasted: Duration,
    /// Whether it has ended.
    pub ended: bool,
}

/// How long a callback may take before it is told of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// Nobody wants to know.
    Off,
    /// What each loop says itself: [`Shared::slow_after`].
    Own,
    /// The same for all loops, in seconds.
    Seconds(f64),
}

/// [`Limit`] as one word: a float's bits, or one of two that are no limit.
const OFF: u64 = u64::MAX;
const OWN: u64 = u64::MAX - 1;

impl Limit {
    fn to_bits(self) -> u64 {
        match self {
            Self::Off => OFF,
            Self::Own => OWN,
            Self::Seconds(seconds) => seconds.to_bits(),
        }
    }

    fn from_bits(bits: u64) -> Self {
        match bits {
            OFF => Self::Off,
            OWN => Self::Own,
            bits => Self::Seconds(f64::from_bits(bits)),
        }
    }

    /// The limit for one loop. What is no number and what is endless is never reached.
    pub(super) fn of(self, shared: &Shared) -> Option<Duration> {
        let seconds = match self {
            Self::Off => return None,
            Self::Own => shared.slow_after(),
            Self::Seconds(seconds) => seconds,
        };
        if seconds <= 0.0 {
            return Some(Duration::ZERO);
        }
        Duration::try_from_secs_f64(seconds).ok()
    }
}

/// What was told and not yet taken: the protocol without the kernel's part.
#[derive(Debug)]
pub(super) struct Told {
    queue: Inbox<StuckReport>,
    idle: Idle,
    over: AtomicBool,
    /// Incidents told and not yet taken.
    waiting: AtomicUsize,
    /// With so many there is no room for further begins.
    room: usize,
}

impl Told {
    pub(super) fn new(room: usize) -> Self {
        Self {
            queue: Inbox::default(),
            idle: Idle::default(),
            over: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            room,
        }
    }

    /// Tells the reporter. Monitor only.
    ///
    /// # Errors
    /// [`NoRoom`] for a begin, while the reporter is too far behind.
    pub(super) fn tell(&self, stuck_report: StuckReport) -> Result<Wake, NoRoom> {
        if !stuck_report.ended && self.waiting.load(Relaxed) >= self.room {
            return Err(NoRoom);
        }
        self.waiting.fetch_add(1, Relaxed);
        Ok(self.idle.posted(&self.queue.push(stuck_report)))
    }

    /// Says that nothing will be told any more, after the last `tell`.
    pub(super) fn end(&self) -> Wake {
        self.idle.post(|| self.over.store(true, Release))
    }

    /// Whether the reporter may sleep.
    pub(super) fn park(&self) -> Park<'_> {
        self.idle.park(|announced| self.queue.has_come(announced) || self.over.load(Relaxed))
    }

    /// Takes out what was told, oldest first. `None`: nothing was, and nothing will be.
    pub(super) fn take(&self) -> Option<Vec<StuckReport>> {
        let over = self.over.load(Acquire);
        let taken: Vec<_> = self.queue.drain().collect();
        self.waiting.fetch_sub(taken.len(), Relaxed);
        (!taken.is_empty() || !over).then_some(taken)
    }
}

/// The reporter is too far behind to be told of another callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoRoom;

/// The way from the monitor to the reporter.
#[derive(Debug)]
pub struct StuckReports {
    told: Told,
    /// A [`Limit`].
    limit: AtomicU64,
    /// By which the reporter sleeps: held by it while it waits. `None` after the end.
    driver: Mutex<Option<Driver>>,
    /// By which it is woken. Written once, by `give_back`.
    handle: RwLock<Option<Handle>>,
}

impl StuckReports {
    /// With nothing to tell yet.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn new() -> io::Result<Self> {
        let (driver, handle) = Driver::new()?;
        Ok(Self {
            told: Told::new(config::INCIDENTS_WAITING),
            limit: AtomicU64::new(OFF),
            driver: Mutex::new(Some(driver)),
            handle: RwLock::new(Some(handle)),
        })
    }

    /// How long a callback may take. Any thread.
    pub fn limit(&self) -> Limit {
        Limit::from_bits(self.limit.load(Relaxed))
    }

    /// Sets it; the monitor is to be woken after it, as it sleeps while it has nothing to do.
    pub(super) fn set_limit(&self, limit: Limit) {
        self.limit.store(limit.to_bits(), Release);
    }

    /// Tells the reporter. Monitor only.
    ///
    /// # Errors
    /// [`NoRoom`] for a begin, while the reporter is too far behind.
    pub(super) fn tell(&self, stuck_report: StuckReport) -> Result<(), NoRoom> {
        let wake = self.told.tell(stuck_report)?;
        self.wake(wake);
        Ok(())
    }

    /// Says that nothing will be told any more, when the monitor has ended. Any thread.
    pub fn end(&self) {
        self.wake(self.told.end());
    }

    fn wake(&self, wake: Wake) {
        // The lock is only ever written by `wait`, which then needs no waking.
        if wake == Wake::Needed
            && let Some(handle) = self.handle.try_read()
            && let Some(handle) = &*handle
        {
            handle.wake();
        }
    }

    /// Waits until something is told, and takes it out, oldest first. `None` after the end, when the
    /// descriptors have been given back. The reporter only, detached.
    pub fn wait(&self) -> Option<Vec<StuckReport>> {
        let mut place = self.driver.lock();
        let mut found = Vec::new();
        loop {
            let driver = place.as_mut()?;
            if let Park::Sleep(_parked) = self.told.park() {
                // Nothing can fail but by a signal, after which we look again.
                let _ = driver.poll(config::MAX_WAIT, &mut found);
            }
            match self.told.take() {
                Some(taken) if taken.is_empty() => {}
                None => {
                    drop((place.take(), self.handle.replace(None)));
                    return None;
                }
                some => return some,
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::sync::thread;

    fn stuck_report(number: u64, ended: bool) -> StuckReport {
        StuckReport {
            worker_index: 0,
            epoch: CallbackEpoch::from_number(number),
            lasted: Duration::ZERO,
            ended,
        }
    }

    #[test]
    fn a_begin_needs_room_and_an_end_does_not() {
        let told = Told::new(1);
        assert_eq!(told.tell(stuck_report(1, false)), Ok(Wake::Unneeded));
        assert_eq!(told.tell(stuck_report(2, false)), Err(NoRoom));
        assert_eq!(told.tell(stuck_report(1, true)), Ok(Wake::Unneeded));
        assert_eq!(told.take(), Some(vec![stuck_report(1, false), stuck_report(1, true)]));
        assert_eq!(told.tell(stuck_report(2, false)), Ok(Wake::Unneeded));
    }

    #[test]
    fn what_was_told_before_the_end_is_taken_after_it() {
        let told = Told::new(1);
        assert_eq!(told.take(), Some(vec![]));
        assert_eq!(told.tell(stuck_report(1, false)), Ok(Wake::Unneeded));
        assert_eq!(told.end(), Wake::Unneeded);
        assert_eq!(told.take(), Some(vec![stuck_report(1, false)]));
        assert_eq!(told.take(), None);
    }

    #[test]
    fn a_reporter_hears_all_and_then_the_end() {
        let stuck_reports = Arc::new(StuckReports::new().unwrap());
        let reporter = {
            let stuck_reports = Arc::clone(&stuck_reports);
            #[allow(clippy::disallowed_methods, reason = "sync::thread is std's here")]
            thread::spawn(move || {
                let mut heard = Vec::new();
                while let Some(mut taken) = stuck_reports.wait() {
                    heard.append(&mut taken);
                }
                heard
            })
        };
        let all: Vec<_> = (1..=100).map(|number| stuck_report(number, true)).collect();
        for each in &all {
            stuck_reports.tell(*each).unwrap();
        }
        stuck_reports.end();
        assert_eq!(reporter.join().unwrap(), all);
        assert_eq!(stuck_reports.wait(), None);
    }

    #[test]
    fn a_limit_is_one_word() {
        let shared = crate::event_loop::EventLoop::<u32>::new().unwrap();
        let of = |limit| {
            assert_eq!(Limit::from_bits(Limit::to_bits(limit)), limit);
            limit.of(shared.shared())
        };
        assert_eq!(of(Limit::Off), None);
        assert_eq!(of(Limit::Own), Some(Duration::from_millis(100)));
        shared.shared().set_slow_after(-1.0);
        assert_eq!(of(Limit::Own), Some(Duration::ZERO));
        assert_eq!(of(Limit::Seconds(0.25)), Some(Duration::from_millis(250)));
        assert_eq!(of(Limit::Seconds(f64::INFINITY)), None);
        assert_eq!(Limit::Seconds(f64::NAN).of(shared.shared()), None);
    }
}
