//! Detects that one loop stays in a callback, from samples that carry their own time.
//!
//! In: samples of a loop. Out: whether it is *stuck* (in one callback for [`config::STUCK_AFTER`]), and
//! whether to *report* it (for longer than a limit). Only time counts in which the thread ran, or was
//! blocked on something other than a CPU.
//!
//! Must never: read a clock, or know a loop.

// The time that counts is estimated from a few closer looks. A thread that is blocked at such a look
// is assumed to have been blocked, or running, since the look before. Any other thread has used the
// CPU time that the kernel reports. So a callback that computes or sleeps reaches a limit when the
// clock does, and a thread that only waits for a CPU does not: working for it would take another CPU
// away from it.

use std::time::Duration;

use crate::config;
use crate::event_loop::CallbackEpoch;
use crate::sys::clock;
use crate::sys::thread::ThreadId;

/// Closer looks until a callback that is never held up reaches a limit. Each may read a file.
const CLOSER_LOOKS: u32 = 16;

/// What one look at a loop saw.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// The callback that it is in.
    pub(super) callback: Option<CallbackEpoch>,
    pub(super) now_ns: u64,
    /// Whether it matters that the loop is stuck.
    pub(super) helps: bool,
    /// How long a callback may take before it is reported; `None`: nobody wants to know.
    pub(super) limit: Option<Duration>,
}

/// What a look comes to, for the monitor to act on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub(super) struct Action {
    /// The loop is stuck in its callback.
    pub(super) is_stuck: bool,
    pub(super) report: Option<Report>,
    pub(super) suspicion: Suspicion,
}

/// Whether another look soon could find a loop stuck that was not at this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Suspicion {
    /// It is in no callback, or it is known to be stuck.
    #[default]
    None,
    /// It was seen in its callback for the first time.
    New,
    /// It was in the same callback at the look before.
    Lasting,
}

/// What is to be reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// The callback has reached the limit, after this long. Once it has been reported, say so by
    /// [`StuckDetector::reported`].
    Due(CallbackEpoch, Duration),
    /// The callback that was reported has ended, after this long.
    Ended(CallbackEpoch, Duration),
}

/// What is known of the callback that one loop is in.
#[derive(Debug, Default)]
pub(super) struct StuckDetector {
    callback: Option<CallbackEpoch>,
    /// When it was seen first.
    began_ns: u64,
    /// When its thread was last looked at closely, and the processor time that it had had then.
    looked_ns: u64,
    had: Option<Duration>,
    /// For how long until then it had run, or been blocked.
    held: Duration,
    is_stuck: bool,
    is_reported: bool,
}

impl StuckDetector {
    /// Takes a sample into account. `had`: the processor time that the loop's thread has had; `None` if
    /// the kernel cannot be asked. `is_blocked`: whether it waits for something other than a processor.
    /// Both are system calls, and asked no more than needed.
    pub(super) fn look(
        &mut self,
        sample: Sample,
        had: impl FnOnce() -> Option<Duration>,
        is_blocked: impl FnOnce() -> Option<bool>,
    ) -> Action {
        let Sample { callback, now_ns, helps, limit } = sample;
        let Some(epoch) = callback.filter(|_| callback == self.callback) else {
            let ended = self.callback.filter(|_| self.is_reported);
            let report = ended.map(|epoch| Report::Ended(epoch, self.lasted(now_ns)));
            let had = callback.and_then(|_| had());
            *self = Self { callback, began_ns: now_ns, looked_ns: now_ns, had, ..Self::default() };
            let suspicion = callback.map_or(Suspicion::None, |_| Suspicion::New);
            return Action { is_stuck: false, report, suspicion };
        };
        // Who cannot be asked for its processor time seldom waits for a processor that long.
        let stuck_after = config::STUCK_AFTER * if self.had.is_some() { 1 } else { 5 };
        let stuck_after = (helps && !self.is_stuck).then_some(stuck_after);
        // What is seen at one look only may have begun just now.
        let limit = limit.filter(|_| !self.is_reported).map(|it| it.max(config::MONITOR_TICK));
        let since = Duration::from_nanos(now_ns.saturating_sub(self.looked_ns));
        let is_near = |next| self.held + since >= next || since >= next / CLOSER_LOOKS;
        if stuck_after.into_iter().chain(limit).min().is_some_and(is_near) {
            self.look_closely(since, had(), is_blocked);
            self.looked_ns = now_ns;
            self.is_stuck |= stuck_after.is_some_and(|after| self.held >= after);
        }
        let is_due = limit.is_some_and(|limit| self.held >= limit);
        let report = is_due.then(|| Report::Due(epoch, self.lasted(now_ns)));
        let suspicion = if self.is_stuck { Suspicion::None } else { Suspicion::Lasting };
        Action { is_stuck: self.is_stuck && helps, report, suspicion }
    }

    /// Notes that the callback has been reported, so that its end will be.
    pub(super) fn reported(&mut self) {
        self.is_reported = true;
    }

    /// The callback that the loop was in at the last look.
    pub(super) fn callback(&self) -> Option<CallbackEpoch> {
        self.callback
    }

    /// Whether the end of a callback is still to be reported.
    pub(super) fn is_reported(&self) -> bool {
        self.is_reported
    }

    fn lasted(&self, now_ns: u64) -> Duration {
        Duration::from_nanos(now_ns.saturating_sub(self.began_ns))
    }

    fn look_closely(
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

/// For how long a loop was stuck of late, in seconds, of which it forgets a part as time passes.
#[derive(Debug, Default)]
pub(super) struct RecentlyStuck(f64);

impl RecentlyStuck {
    /// Lets time pass. `stuck_ns`: so much of it counts, if the loop is stuck. `published_us`: what this
    /// returned before; 0 if that has been taken back, so that all of it is forgotten. Returns what is to
    /// be published.
    pub(super) fn pass(&mut self, passed_ns: u64, stuck_ns: Option<u64>, published_us: u64) -> u64 {
        let kept = (-clock::seconds(passed_ns) / config::STUCK_MEMORY.as_secs_f64()).exp();
        self.0 *= if published_us == 0 { 0.0 } else { kept };
        let mut least_us = 0;
        if let Some(stuck_ns) = stuck_ns {
            self.0 += clock::seconds(stuck_ns);
            // Nothing is to be placed on it now, however short it has been.
            least_us = u64::try_from(config::STUCK_STEP.as_micros()).unwrap_or(u64::MAX);
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        least_us.max((self.0 * 1e6) as u64)
    }
}

/// Whether a thread that has not moved on is really in its callback, and does not merely wait for a
/// processor. `had` and `has`: its processor time, before and now; if it computes, it has used `at_least`
/// so much.
pub(super) fn is_held_up(
    runner: ThreadId,
    had: Option<Duration>,
    has: Option<Duration>,
    stuck_for: Duration,
    at_least: Duration,
) -> bool {
    match (has, had) {
        (Some(has), Some(had)) if has.saturating_sub(had) >= at_least => true,
        (Some(_), Some(_)) => runner.is_blocked().unwrap_or(true),
        // It cannot be asked: a thread seldom waits that long for a processor.
        _ => stuck_for >= 5 * at_least,
    }
}

#[cfg(all(test, not(loom)))]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(100);

    /// Milliseconds that are long enough for all that is awaited.
    const LONG: u64 = if cfg!(miri) { 450 } else { 1000 };

    /// A thread whose clocks the test sets.
    struct Model {
        detector: StuckDetector,
        now: Duration,
        ran: Duration,
        limit: Option<Duration>,
        /// How often the kernel was asked for its processor time, and whether it is blocked.
        timed: u32,
        asked: u32,
    }

    impl Model {
        fn new() -> Self {
            let (detector, now) = (StuckDetector::default(), Duration::from_secs(1));
            let limit = Some(LIMIT);
            Self { detector, now, ran: Duration::ZERO, limit, timed: 0, asked: 0 }
        }

        /// Lets a millisecond pass, of which the thread runs so much, and looks.
        fn tick(&mut self, callback: Option<u64>, ran_us: u64, blocked: bool) -> Action {
            self.now += config::MONITOR_TICK;
            self.ran += Duration::from_micros(ran_us);
            let sample = Sample {
                callback: callback.map(CallbackEpoch::from_number),
                now_ns: self.now.as_nanos().try_into().unwrap(),
                helps: true,
                limit: self.limit,
            };
            let had = || {
                self.timed += 1;
                Some(self.ran)
            };
            self.detector.look(sample, had, || {
                self.asked += 1;
                Some(blocked)
            })
        }

        /// Lets some more pass, in one callback, until what is awaited.
        fn until(
            &mut self,
            is_it: impl Fn(Action) -> bool,
            ran_us: impl Fn(u64) -> u64,
            blocked: bool,
        ) -> Option<u64> {
            (0..LONG).find(|ms| is_it(self.tick(Some(1), ran_us(*ms), blocked)))
        }

        /// Milliseconds until the callback is to be reported.
        fn due(&mut self, ran_us: impl Fn(u64) -> u64, blocked: bool) -> Option<u64> {
            self.until(|it| matches!(it.report, Some(Report::Due(..))), ran_us, blocked)
        }

        /// Milliseconds until its loop is stuck.
        fn stuck(&mut self, ran_us: impl Fn(u64) -> u64, blocked: bool) -> Option<u64> {
            self.until(|it| it.is_stuck, ran_us, blocked)
        }

        fn report(&mut self, callback: Option<u64>) -> Option<Report> {
            self.tick(callback, 1000, false).report
        }
    }

    fn due(callback: u64, ms: u64) -> Report {
        Report::Due(CallbackEpoch::from_number(callback), Duration::from_millis(ms))
    }

    #[test]
    fn a_callback_is_due_when_it_has_run_or_been_blocked_for_as_long_as_the_limit() {
        assert_eq!(Model::new().due(|_| 1000, false), Some(100));
        assert_eq!(Model::new().due(|_| 0, true), Some(100));
        // Half of it was one, half the other.
        assert_eq!(Model::new().due(|ms| if ms < 50 { 1000 } else { 0 }, true), Some(100));
    }

    #[test]
    fn a_loop_is_stuck_at_the_second_look_and_until_another_callback_begins() {
        for (ran_us, blocked) in [(1000, false), (0, true)] {
            let mut model = Model::new();
            assert_eq!(model.stuck(|_| ran_us, blocked), Some(1));
            assert!((0..300).all(|_| model.tick(Some(1), 0, false).is_stuck));
            assert!(!model.tick(Some(2), 1000, true).is_stuck);
            assert!(model.tick(Some(2), 1000, true).is_stuck);
            assert!(!model.tick(None, 1000, true).is_stuck);
        }
    }

    #[test]
    fn a_thread_that_waits_for_a_processor_is_neither_due_nor_stuck() {
        assert_eq!(Model::new().due(|_| 0, false), None);
        assert_eq!(Model::new().stuck(|_| 0, false), None);
        // One that gets a quarter takes four times as long.
        assert!(Model::new().due(|_| 250, false).is_some_and(|ms| (390..=430).contains(&ms)));
        assert_eq!(Model::new().stuck(|_| 250, false), Some(4));
    }

    #[test]
    fn a_wait_for_a_processor_does_not_count_though_a_block_follows_it() {
        let mut model = Model::new();
        assert_eq!(model.stuck(|_| 1000, false), Some(1));
        assert!((0..50).all(|_| model.tick(Some(1), 0, false).report.is_none()));
        let due = model.due(|_| 0, true);
        assert!(due.is_some_and(|ms| (90..=105).contains(&ms)), "{due:?}");
    }

    #[test]
    fn a_thread_that_cannot_be_asked_is_stuck_after_five_times_as_long() {
        let mut detector = StuckDetector::default();
        let mut stuck = (0..100).map(|ms: u64| {
            let callback = Some(CallbackEpoch::from_number(1));
            let now_ns = ms * 1_000_000;
            let sample = Sample { callback, now_ns, helps: true, limit: None };
            detector.look(sample, || None, || None).is_stuck
        });
        assert_eq!(stuck.position(|stuck| stuck), Some(5));
    }

    #[test]
    fn the_kernel_is_asked_a_few_times_only() {
        let mut busy = Model::new();
        busy.due(|_| 1000, false);
        assert_eq!(busy.asked, 0);
        let mut blocked = Model::new();
        blocked.due(|_| 0, true);
        assert!(blocked.asked <= CLOSER_LOOKS + 2, "{}", blocked.asked);
        let asked = blocked.asked;
        blocked.detector.reported();
        blocked.due(|_| 0, true);
        assert_eq!(blocked.asked, asked, "it has been reported");
    }

    #[test]
    fn short_callbacks_and_sleep_are_nothing() {
        let mut model = Model::new();
        for callback in 0..LONG {
            let new = Action { suspicion: Suspicion::New, ..Action::default() };
            assert_eq!(model.tick(Some(callback), 1000, false), new);
            assert_eq!(model.tick(None, 0, true), Action::default());
        }
        assert_eq!(u64::from(model.timed), LONG, "not while it is in none");
    }

    #[test]
    fn a_loop_is_suspected_from_when_it_is_seen_in_a_callback_until_it_is_stuck() {
        let mut model = Model::new();
        model.limit = None;
        // It waits for a processor.
        let suspicions = [0, 0, 1000, 1000].map(|us| model.tick(Some(1), us, false).suspicion);
        let [new, lasting, none] = [Suspicion::New, Suspicion::Lasting, Suspicion::None];
        assert_eq!(suspicions, [new, lasting, none, none]);
        let timed = model.timed;
        assert!((0..100).all(|_| model.tick(Some(1), 1000, false).is_stuck));
        assert_eq!(model.timed, timed, "that it is stuck is known");
        assert_eq!(model.tick(Some(2), 1000, false).suspicion, new);
        assert_eq!(model.tick(None, 0, true).suspicion, none);
    }

    #[test]
    fn it_stays_due_until_it_is_reported_and_then_ends_once() {
        let mut model = Model::new();
        assert!((0..=99).all(|_| model.report(Some(7)).is_none()));
        assert_eq!(model.report(Some(7)), Some(due(7, 100)));
        // There was no room.
        assert_eq!(model.report(Some(7)), Some(due(7, 101)));
        model.detector.reported();
        assert!(model.detector.is_reported());
        assert_eq!(model.report(Some(7)), None);
        let ended = Report::Ended(CallbackEpoch::from_number(7), Duration::from_millis(103));
        assert_eq!(model.report(Some(8)), Some(ended));
        assert_eq!(model.report(None), None);
    }

    #[test]
    fn a_callback_that_was_not_reported_ends_silently() {
        let mut model = Model::new();
        assert_eq!(model.due(|_| 1000, false), Some(100));
        assert_eq!(model.report(None), None);
    }

    #[test]
    fn who_does_not_care_hears_nothing_and_one_look_is_never_enough() {
        let mut detector = StuckDetector::default();
        let callback = Some(CallbackEpoch::from_number(1));
        let mut look = |ms: u64, limit| {
            let now_ns = ms * 1_000_000;
            let sample = Sample { callback, now_ns, helps: false, limit };
            detector.look(sample, || None, || None)
        };
        let nothing = |suspicion| Action { suspicion, ..Action::default() };
        assert_eq!(look(1, Some(Duration::ZERO)), nothing(Suspicion::New));
        assert_eq!(look(1, Some(Duration::ZERO)), nothing(Suspicion::Lasting));
        assert_eq!(look(900, None), nothing(Suspicion::Lasting));
        let late = look(901, Some(Duration::ZERO));
        assert!(matches!(late, Action { is_stuck: false, report: Some(Report::Due(..)), .. }));
    }

    #[test]
    fn what_was_stuck_is_forgotten_by_and_by_or_at_once() {
        let mut recently = RecentlyStuck::default();
        let step = u64::try_from(config::STUCK_STEP.as_micros()).unwrap();
        assert_eq!(recently.pass(1_000_000, None, 0), 0);
        // However short: nothing is to be placed on it meanwhile.
        assert_eq!(recently.pass(1_000_000, Some(1_000_000), 0), step);
        assert!(recently.pass(1_000_000, None, step) < 1000);
        let mut published = 999;
        for _ in 0..100 {
            published = recently.pass(1_000_000, Some(1_000_000), published);
        }
        assert!((90_000..=101_000).contains(&published), "{published}");
        published = recently.pass(1_000_000_000, None, published);
        assert!((30_000..=40_000).contains(&published), "{published}");
        // Taken back by a server that begins to listen.
        assert_eq!(recently.pass(1_000_000, None, 0), 0);
    }
}
