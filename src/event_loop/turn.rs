//! A turn of the owner: plan the wait, wait, collect what became ready.

use std::time::Duration;

use super::{EagerStarts, ReadyQueue};
use crate::config;
use crate::reactor::{PollEnd, Ready, TimerHeap};
use crate::sys::clock;
use crate::transport::Scratch;

/// What another thread asks of a loop.
#[derive(Debug)]
pub enum Post<C> {
    /// Run this.
    Call(C),
    /// Run this at the deadline, in seconds of the monotonic clock.
    Timer(f64, C),
    /// Forget this timer.
    CancelTimer(C),
}

impl<C> Post<C> {
    /// What it is about.
    pub fn callback(&self) -> &C {
        match self {
            Self::Call(callback) | Self::Timer(_, callback) | Self::CancelTimer(callback) => {
                callback
            }
        }
    }

    /// As [`callback`](Self::callback), by value.
    pub fn into_callback(self) -> C {
        match self {
            Self::Call(callback) | Self::Timer(_, callback) | Self::CancelTimer(callback) => {
                callback
            }
        }
    }
}

/// Whether and how long to wait for the kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use]
pub enum Plan {
    /// Callbacks are ready, and the last poll is young or what it found has not run yet: do not ask.
    Skip,
    /// Ask, and come back at once.
    Look,
    /// Ask, and sleep until something happens or this much time has passed.
    Wait(Duration),
}

/// How a poll ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Turned {
    /// Whether a signal cut it short.
    pub end: PollEnd,
    /// The clock after the poll.
    pub now_ns: u64,
}

/// The state that only the loop's owner touches. `E` is what the layer above keeps beside.
#[derive(Debug)]
pub struct Local<C, E = ()> {
    /// Callbacks to run.
    pub ready: ReadyQueue<C>,
    /// Callbacks to run later.
    pub timers: TimerHeap<C>,
    /// What the last poll found; kept for its memory.
    pub found: Vec<Ready>,
    /// Memory to read into; its content means nothing between two reads.
    pub scratch: Scratch,
    /// Callbacks that have run, kept until nobody reads their tasks ([`Current`](super::Current)).
    pub aside: Vec<C>,
    /// The tasks that are being started at once.
    pub eager_starts: EagerStarts,
    /// What the layer above keeps.
    pub extension: E,
    /// When the last poll ended, in nanoseconds; 0: poll at the next opportunity.
    last_poll_ns: u64,
    ticks: Ticks,
    /// Turns since the kernel was asked.
    skipped: u32,
    /// Polls in a row that were made because so many turns had passed, and found nothing.
    in_vain: u32,
    /// This turn asks the kernel, however young the last poll is.
    due: bool,
}

impl<C, E> AsMut<EagerStarts> for Local<C, E> {
    fn as_mut(&mut self) -> &mut EagerStarts {
        &mut self.eager_starts
    }
}

/// Knows without the clock that the last poll is young.
#[derive(Debug, Default)]
struct Ticks {
    /// The counter when the last poll ended.
    at_poll: u64,
    /// Clock and counter at some earlier poll, to calibrate by.
    origin: Option<(u64, u64)>,
    /// The poll interval in ticks; 0: not calibrated yet, or not after this poll.
    interval: u64,
    /// Which poll interval that is; zero: none.
    lasts: Duration,
    /// How long the last calibration was.
    calibrated_ns: u64,
    /// Times that it may still be believed before the clock is asked.
    trust: u32,
}

impl Ticks {
    /// Long enough for a ratio that is right to a percent or so.
    const CALIBRATION_NS: u64 = 1_000_000;
    const TRUST: u32 = 256;

    fn polled(&mut self, now_ns: u64, interval: Duration) {
        let now = clock::ticks();
        self.at_poll = now;
        self.trust = Self::TRUST;
        let (origin_ns, origin) = *self.origin.get_or_insert((now_ns, now));
        let elapsed = now_ns.saturating_sub(origin_ns);
        // The thread may have been held up between its looks at clock and counter. The longer the
        // calibration, the less that matters.
        let due =
            if self.lasts == interval { 2 * self.calibrated_ns } else { Self::CALIBRATION_NS };
        if elapsed >= due {
            self.calibrated_ns = elapsed;
            let ticks = u128::from(now.saturating_sub(origin));
            let ticks = ticks * interval.as_nanos() / u128::from(elapsed);
            self.interval = u64::try_from(ticks).unwrap_or(0);
            self.lasts = interval;
        }
    }

    #[inline(always)]
    fn within_interval(&mut self) -> bool {
        if self.trust == 0 || clock::ticks().wrapping_sub(self.at_poll) >= self.interval {
            return false;
        }
        self.trust -= 1;
        true
    }
}

impl<C, E> Local<C, E> {
    pub(super) fn new(extension: E) -> Self {
        Self {
            ready: ReadyQueue::default(),
            timers: TimerHeap::default(),
            found: Vec::new(),
            scratch: Scratch::default(),
            aside: Vec::new(),
            eager_starts: EagerStarts::default(),
            extension,
            last_poll_ns: 0,
            ticks: Ticks::default(),
            skipped: 0,
            in_vain: 0,
            due: false,
        }
    }

    /// When the last poll ended, in nanoseconds; 0 before the first.
    #[must_use]
    pub fn last_poll_ns(&self) -> u64 {
        self.last_poll_ns
    }

    /// Notes that the kernel was asked; `in_vain`: it had nothing, and did not let the loop sleep.
    pub fn polled(&mut self, turned: Turned, in_vain: bool) {
        self.last_poll_ns = turned.now_ns;
        self.in_vain = if in_vain { self.in_vain + u32::from(self.due) } else { 0 };
        self.skipped = 0;
        self.due = false;
        self.ticks.polled(turned.now_ns, self.interval());
    }

    /// Makes the next turn ask the kernel, however young the last poll is.
    pub fn force_poll(&mut self) {
        self.last_poll_ns = 0;
        self.ticks.trust = 0;
    }

    /// Whether this turn needs neither the kernel nor the clock: callbacks are ready, no timer is
    /// pending, and the last poll is younger than the poll interval; and if the kernel `watches`
    /// descriptors, it was asked two turns ago at most. Once in each turn.
    #[inline(always)]
    pub fn may_skip(&mut self, watches: impl FnOnce() -> bool) -> bool {
        self.skipped += 1;
        if self.skipped >= config::TURNS_PER_POLL {
            self.due = watches() && !self.computes();
            if self.due {
                return false;
            }
            self.skipped = 0;
        }
        !self.ready.is_empty() && self.timers.is_empty() && self.ticks.within_interval()
    }

    /// Whether it had turns for long without anything to hear from the kernel.
    fn computes(&self) -> bool {
        self.in_vain >= config::POLLS_IN_VAIN
    }

    /// How old the last poll may be while callbacks are ready.
    fn interval(&self) -> Duration {
        if self.computes() { config::COMPUTING_POLL_INTERVAL } else { config::POLL_INTERVAL }
    }

    /// Decides on this turn's poll. `stopping`: the turn is the last one and must not sleep.
    pub fn plan(&mut self, now_ns: u64, stopping: bool) -> Plan {
        if self.ready.has_events() {
            return Plan::Skip;
        }
        if !self.ready.is_empty() || stopping {
            let age = now_ns.saturating_sub(self.last_poll_ns);
            return if !self.due && u128::from(age) < self.interval().as_nanos() {
                // The clock agrees with the counter so far.
                self.ticks.trust = Ticks::TRUST;
                Plan::Skip
            } else {
                Plan::Look
            };
        }
        let Some(deadline) = self.timers.next_deadline() else {
            return Plan::Wait(config::MAX_WAIT);
        };
        let wait = deadline - clock::seconds(now_ns);
        if wait <= 0.0 {
            Plan::Look
        } else {
            // Infinity and NaN are never due, so the limit serves.
            Plan::Wait(
                Duration::try_from_secs_f64(wait)
                    .map_or(config::MAX_WAIT, |wait| wait.min(config::MAX_WAIT)),
            )
        }
    }

    /// When the next timer is due, in nanoseconds of the clock; never: the highest number.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
    pub fn due_ns(&self) -> u64 {
        let deadline = self.timers.next_deadline().filter(|deadline| !deadline.is_nan());
        deadline.map_or(u64::MAX, |deadline| (deadline * 1e9) as u64)
    }

    /// Moves the timers that are due to the ready queue. As in asyncio, a deadline within the
    /// clock's resolution of now counts as due. They are moved, not looked into: what they lead to may be
    /// far from the processor, and is touched once, when it runs. Returns how many there were.
    pub fn collect_timers(&mut self, now_ns: u64) -> usize {
        if self.timers.is_empty() {
            return 0;
        }
        let before = self.timers.len();
        // After 97 days of uptime neighbouring floats are further apart than the resolution.
        let now = clock::seconds(now_ns);
        let end = now + clock::RESOLUTION.max(now.next_up() - now);
        while let Some(callback) = self.timers.pop_due(end) {
            self.ready.push(callback);
        }
        before - self.timers.len()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn local() -> Local<u32> {
        Local::new(())
    }

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn nothing_to_do_waits_as_long_as_may_be() {
        assert_eq!(local().plan(SECOND, false), Plan::Wait(config::MAX_WAIT));
    }

    #[test]
    fn the_next_timer_bounds_the_wait() {
        let mut local = local();
        local.timers.insert(1.5, 1);
        assert_eq!(local.plan(SECOND, false), Plan::Wait(Duration::from_millis(500)));
        assert_eq!(local.plan(2 * SECOND, false), Plan::Look);
        assert_eq!(local.due_ns(), SECOND + SECOND / 2);
        for never in [f64::INFINITY, f64::NAN] {
            let mut local = super::tests::local();
            local.timers.insert(never, 1);
            assert_eq!(local.plan(SECOND, false), Plan::Wait(config::MAX_WAIT));
            assert_eq!(local.due_ns(), u64::MAX);
        }
    }

    #[test]
    fn a_young_poll_is_not_repeated_while_callbacks_are_ready() {
        let mut local = local();
        local.ready.push(1);
        local.polled(Turned { end: PollEnd::Done, now_ns: SECOND }, false);
        assert_eq!(local.plan(SECOND + 1000, false), Plan::Skip);
        assert_eq!(local.plan(2 * SECOND, false), Plan::Look);
        local.force_poll();
        assert_eq!(local.plan(SECOND + 1000, false), Plan::Look);
    }

    #[test]
    fn the_kernel_is_not_asked_again_before_what_it_found_has_run() {
        let mut local = local();
        local.ready.push_event(1);
        assert_eq!(local.plan(SECOND, false), Plan::Skip);
        assert_eq!(local.plan(SECOND, true), Plan::Skip);
        local.ready.pop();
        assert_eq!(local.plan(SECOND, true), Plan::Look);
    }

    #[test]
    fn the_tick_counter_is_believed_only_after_calibration_and_only_so_often() {
        let mut local = local();
        local.ready.push(1);
        assert!(!local.may_skip(|| false), "never polled");
        let began = clock::monotonic_ns();
        local.polled(Turned { end: PollEnd::Done, now_ns: began }, false);
        assert!(!local.may_skip(|| false), "not calibrated");
        let mut now_ns = began;
        while now_ns < began + Ticks::CALIBRATION_NS {
            now_ns = clock::monotonic_ns();
        }
        local.polled(Turned { end: PollEnd::Done, now_ns }, false);
        // An interval that never passes, as of a counter that stands still.
        local.ticks.interval = u64::MAX;
        for _ in 0..Ticks::TRUST {
            assert!(local.may_skip(|| false));
        }
        assert!(!local.may_skip(|| false), "believed too often");
        assert_eq!(local.plan(now_ns + 1, false), Plan::Skip);
        assert!(local.may_skip(|| false), "the clock has confirmed it");
        local.polled(Turned { end: PollEnd::Done, now_ns }, false);
        local.timers.insert(1.0, 2);
        assert!(!local.may_skip(|| false), "timers need the clock");
    }

    #[test]
    fn a_calibration_that_went_wrong_does_not_last() {
        let mut local = local();
        let until = |end_ns: u64| loop {
            let now_ns = clock::monotonic_ns();
            if now_ns >= end_ns {
                return Turned { end: PollEnd::Done, now_ns };
            }
        };
        let origin_ns = clock::monotonic_ns();
        local.polled(Turned { end: PollEnd::Done, now_ns: origin_ns }, false);
        let first = until(origin_ns + Ticks::CALIBRATION_NS);
        local.polled(first, false);
        // As if the thread had been held up for long between its looks.
        local.ticks.interval = u64::MAX;
        let elapsed = first.now_ns - origin_ns;
        local.polled(until(origin_ns + 2 * elapsed), false);
        assert_ne!(local.ticks.interval, u64::MAX);
    }

    #[test]
    fn watched_descriptors_are_asked_for_in_each_third_turn_until_that_is_in_vain() {
        let mut local = local();
        local.ready.push(1);
        let now_ns = clock::monotonic_ns();
        let turned = Turned { end: PollEnd::Done, now_ns };
        local.polled(turned, false);
        // Intervals that never pass, as of a counter that stands still.
        local.ticks.interval = u64::MAX;
        for _ in 0..config::POLLS_IN_VAIN {
            for _ in 1..config::TURNS_PER_POLL {
                assert!(local.may_skip(|| true));
                assert_eq!(local.plan(now_ns, false), Plan::Skip);
            }
            assert!(!local.may_skip(|| true));
            assert_eq!(local.plan(now_ns, false), Plan::Look);
            local.polled(turned, true);
        }
        local.ticks.interval = u64::MAX;
        for _ in 0..config::TURNS_PER_POLL {
            assert!(local.may_skip(|| true), "it computes");
        }
        let computing = u64::try_from(config::COMPUTING_POLL_INTERVAL.as_nanos()).unwrap();
        assert_eq!(local.plan(now_ns + computing - 1, false), Plan::Skip);
        assert_eq!(local.plan(now_ns + computing, false), Plan::Look);
        local.polled(turned, false);
        local.ticks.interval = u64::MAX;
        for _ in 1..config::TURNS_PER_POLL {
            assert!(local.may_skip(|| true));
        }
        assert!(!local.may_skip(|| true), "something was found");
        local.polled(turned, false);
        for _ in 0..config::TURNS_PER_POLL {
            assert!(local.may_skip(|| false), "nothing is watched");
        }
    }

    #[test]
    fn a_timer_due_now_fires_now_after_a_year_of_uptime() {
        let mut local = local();
        let now_ns = 400 * 24 * 3600 * SECOND + 1;
        local.timers.insert(clock::seconds(now_ns), 1);
        assert_eq!(local.collect_timers(now_ns), 1);
        assert_eq!(local.ready.len(), 1);
    }

    #[test]
    fn due_timers_join_the_ready_queue_behind_what_is_there() {
        let mut local = local();
        local.timers.insert(2.0, 2);
        local.timers.insert(1.0, 1);
        local.timers.insert(9.0, 9);
        local.ready.push(0);
        assert_eq!(local.collect_timers(3 * SECOND), 2);
        assert_eq!(local.ready.iter().copied().collect::<Vec<_>>(), [0, 1, 2]);
    }
}
