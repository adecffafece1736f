//! What the monitor knows of the callback that one loop is in, and when it is to be told of.
//!
//! Told of is a callback that has been under way for longer than a limit. What counts is the time in
//! which its thread ran, or waited for something other than a processor: that is estimated from a few
//! samples. The thread of a sample that finds it blocked is taken to have been blocked, or to have
//! run, since the sample before; any other has had the processor time that the kernel says. So a
//! callback that burns its processor, or sleeps, reaches the limit when the clock does, and a thread
//! that only stands in line for a processor does not.

use std::time::Duration;

use crate::config;
use crate::event_loop::Stint;

/// Samples taken until a callback that is never held up reaches its limit. Each may read a file.
const SAMPLES: u32 = 16;

/// What is to be done after a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Verdict {
    /// Nothing.
    Quiet,
    /// The callback has reached its limit, after this long: tell of it, and note that by
    /// [`Suspect::told`].
    Due(Stint, Duration),
    /// The callback that was told of has ended, after this long.
    Ended(Stint, Duration),
}

/// One look at a loop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// The callback that it is in.
    pub(super) present: Option<Stint>,
    pub(super) now_ns: u64,
    /// The processor time that its thread has had; `None` if the kernel cannot be asked.
    pub(super) had: Option<Duration>,
    /// How long a callback may take; `None`: nobody wants to know.
    pub(super) limit: Option<Duration>,
}

/// What the monitor knows of the callback that one loop is in.
#[derive(Debug, Default)]
pub(super) struct Suspect {
    stint: Option<Stint>,
    /// When it was seen first.
    began_ns: u64,
    /// When its thread was last looked at more closely, and the processor time that it had had then.
    sampled_ns: u64,
    had: Option<Duration>,
    /// For how long until then it had run, or been blocked.
    held: Duration,
    told: bool,
}

impl Suspect {
    /// Takes a look into account. `is_blocked`: whether the thread waits for something other than a
    /// processor; it costs, and is asked seldom.
    pub(super) fn look(
        &mut self,
        look: Look,
        is_blocked: impl FnOnce() -> Option<bool>,
    ) -> Verdict {
        let Look { present, now_ns, had, limit } = look;
        if present.is_none() || present != self.stint {
            let verdict = self.end(now_ns);
            let (began_ns, sampled_ns) = (now_ns, now_ns);
            *self = Self { stint: present, began_ns, sampled_ns, had, ..Self::default() };
            return verdict;
        }
        let (Some(stint), Some(limit), false) = (present, limit, self.told) else {
            return Verdict::Quiet;
        };
        // What is seen at one look only may have begun just now.
        let limit = limit.max(config::MONITOR_TICK);
        let since = Duration::from_nanos(now_ns.saturating_sub(self.sampled_ns));
        if self.held + since < limit && since < limit / SAMPLES {
            return Verdict::Quiet;
        }
        self.sample(since, had, is_blocked);
        self.sampled_ns = now_ns;
        if self.held < limit { Verdict::Quiet } else { Verdict::Due(stint, self.lasted(now_ns)) }
    }

    /// Notes that the callback has been told of, so that its end will be.
    pub(super) fn told(&mut self) {
        self.told = true;
    }

    /// Whether the end of a callback is still to be told.
    pub(super) fn is_told(&self) -> bool {
        self.told
    }

    fn end(&self, now_ns: u64) -> Verdict {
        match self.stint {
            Some(stint) if self.told => Verdict::Ended(stint, self.lasted(now_ns)),
            _ => Verdict::Quiet,
        }
    }

    fn lasted(&self, now_ns: u64) -> Duration {
        Duration::from_nanos(now_ns.saturating_sub(self.began_ns))
    }

    fn sample(
        &mut self,
        since: Duration,
        had: Option<Duration>,
        is_blocked: impl FnOnce() -> Option<bool>,
    ) {
        let ran = match (had, self.had) {
            (Some(now), Some(before)) => now.saturating_sub(before),
            _ => Duration::ZERO,
        };
        self.had = had;
        // A thread that cannot be asked is given no excuse.
        let held_up = 4 * ran >= 3 * since || had.is_none() || is_blocked().unwrap_or(true);
        self.held += if held_up { since } else { ran };
    }
}

#[cfg(all(test, not(loom)))]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(100);

    /// A thread whose clocks the test sets.
    struct Model {
        suspect: Suspect,
        now: Duration,
        ran: Duration,
        asked: u32,
    }

    impl Model {
        fn new() -> Self {
            let (suspect, now) = (Suspect::default(), Duration::from_secs(1));
            Self { suspect, now, ran: Duration::ZERO, asked: 0 }
        }

        /// Lets a millisecond pass, of which the thread runs so much, and looks.
        fn tick(&mut self, callback: Option<u64>, ran_us: u64, blocked: bool) -> Verdict {
            self.now += config::MONITOR_TICK;
            self.ran += Duration::from_micros(ran_us);
            let look = Look {
                present: callback.map(Stint::from_number),
                now_ns: self.now.as_nanos().try_into().unwrap(),
                had: Some(self.ran),
                limit: Some(LIMIT),
            };
            self.suspect.look(look, || {
                self.asked += 1;
                Some(blocked)
            })
        }

        /// Milliseconds until the callback is to be told of.
        fn due(&mut self, ran_us: impl Fn(u64) -> u64, blocked: bool) -> Option<u64> {
            (0..1000)
                .find(|ms| matches!(self.tick(Some(1), ran_us(*ms), blocked), Verdict::Due(..)))
        }
    }

    fn due(callback: u64, ms: u64) -> Verdict {
        Verdict::Due(Stint::from_number(callback), Duration::from_millis(ms))
    }

    #[test]
    fn a_callback_is_due_when_it_has_run_or_been_blocked_for_as_long_as_the_limit() {
        assert_eq!(Model::new().due(|_| 1000, false), Some(100));
        assert_eq!(Model::new().due(|_| 0, true), Some(100));
        // Half of it was one, half the other.
        assert_eq!(Model::new().due(|ms| if ms < 50 { 1000 } else { 0 }, true), Some(100));
    }

    #[test]
    fn a_thread_that_waits_for_a_processor_is_not() {
        assert_eq!(Model::new().due(|_| 0, false), None);
        // One that gets a quarter takes four times as long.
        assert!(Model::new().due(|_| 250, false).is_some_and(|ms| (390..=430).contains(&ms)));
    }

    #[test]
    fn the_kernel_is_asked_a_few_times_only() {
        let mut busy = Model::new();
        busy.due(|_| 1000, false);
        assert_eq!(busy.asked, 0);
        let mut blocked = Model::new();
        blocked.due(|_| 0, true);
        assert!(blocked.asked <= SAMPLES + 1, "{}", blocked.asked);
        let asked = blocked.asked;
        blocked.suspect.told();
        blocked.due(|_| 0, true);
        assert_eq!(blocked.asked, asked, "it has been told");
    }

    #[test]
    fn short_callbacks_and_sleep_are_never_due() {
        let mut model = Model::new();
        for callback in 0..1000 {
            assert_eq!(model.tick(Some(callback), 1000, false), Verdict::Quiet);
            assert_eq!(model.tick(Some(callback), 1000, false), Verdict::Quiet);
            assert_eq!(model.tick(None, 0, true), Verdict::Quiet);
        }
    }

    #[test]
    fn it_stays_due_until_it_is_told_and_then_ends_once() {
        let mut model = Model::new();
        for _ in 0..=99 {
            assert_eq!(model.tick(Some(7), 1000, false), Verdict::Quiet);
        }
        assert_eq!(model.tick(Some(7), 1000, false), due(7, 100));
        // There was no room.
        assert_eq!(model.tick(Some(7), 1000, false), due(7, 101));
        model.suspect.told();
        assert!(model.suspect.is_told());
        assert_eq!(model.tick(Some(7), 1000, false), Verdict::Quiet);
        let ended = Verdict::Ended(Stint::from_number(7), Duration::from_millis(103));
        assert_eq!(model.tick(Some(8), 1000, false), ended);
        assert_eq!(model.tick(None, 0, false), Verdict::Quiet);
    }

    #[test]
    fn a_callback_that_was_not_told_ends_silently() {
        let mut model = Model::new();
        assert_eq!(model.due(|_| 1000, false), Some(100));
        assert_eq!(model.tick(None, 0, false), Verdict::Quiet);
    }

    #[test]
    fn without_a_limit_nothing_is_due_and_one_look_is_never_enough() {
        let mut suspect = Suspect::default();
        let present = Some(Stint::from_number(1));
        let mut look = |ms: u64, limit| {
            let look = Look { present, now_ns: ms * 1_000_000, had: None, limit };
            suspect.look(look, || None)
        };
        assert_eq!(look(1, Some(Duration::ZERO)), Verdict::Quiet);
        assert_eq!(look(1, Some(Duration::ZERO)), Verdict::Quiet);
        assert_eq!(look(900, None), Verdict::Quiet);
        assert!(matches!(look(901, Some(Duration::ZERO)), Verdict::Due(..)));
    }
}
