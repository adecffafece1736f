//! Decides whether a loop of a pool spins before it sleeps.
//!
//! In: how the last sleeps and spins ended. Out: how long to spin on the inbox. A coroutine spawned on
//! another loop often returns within microseconds, and sleeping in between costs two kernel wakeups.
//!
//! Must never: be relied upon: a spinning loop has not published that it sleeps, so nobody wakes it.

// If another thread's post ended the last sleep within `config::SHORT_SLEEP`, the loop expects the
// next post as soon, and spins for `config::LOOK_FOR` before it sleeps. If nothing arrives, it has
// wasted that CPU time, and spins again only after a growing number of further short sleeps: a loop
// that spins in vain soon stops spinning. After a spin it continues with the last look and the sleep
// of `Idle`, as any other loop.

use std::time::Duration;

use crate::config;

/// What one loop has learnt from its last sleeps.
#[derive(Debug, Default)]
pub(super) struct AdaptiveSpin {
    /// The last sleep was short, or the last look found something.
    expects: bool,
    /// Looks in vain, one after another.
    in_vain: u32,
    /// Short sleeps to let pass before it looks again.
    skip: u32,
}

impl AdaptiveSpin {
    /// For how long to look before this sleep; `None`: not at all.
    pub(super) fn look(&mut self) -> Option<Duration> {
        if !self.expects {
            return None;
        }
        self.expects = false;
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        Some(config::LOOK_FOR)
    }

    /// Notes whether something came while the loop looked.
    pub(super) fn looked(&mut self, found: bool) {
        self.expects = found;
        if found {
            self.in_vain = 0;
        } else {
            self.in_vain = (self.in_vain + 1).min(config::LOOKS_IN_VAIN);
            self.skip = (1 << self.in_vain) - 1;
        }
    }

    /// Notes a sleep that another thread's post has ended.
    pub(super) fn slept(&mut self, slept: Duration) {
        self.expects |= slept < config::SHORT_SLEEP;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_micros(20);

    #[test]
    fn it_looks_after_a_short_sleep_and_as_long_as_it_finds_something() {
        let mut spin = AdaptiveSpin::default();
        assert_eq!(spin.look(), None);
        spin.slept(Duration::from_millis(1));
        assert_eq!(spin.look(), None);
        spin.slept(SHORT);
        for _ in 0..10 {
            assert!(spin.look().is_some());
            spin.looked(true);
        }
    }

    #[test]
    fn who_looks_in_vain_looks_less_and_less_often() {
        let mut spin = AdaptiveSpin::default();
        let mut looks = 0;
        for _ in 0..1000 {
            spin.slept(SHORT);
            if spin.look().is_some() {
                looks += 1;
                spin.looked(false);
            }
        }
        assert!(looks < 16, "{looks} looks");
        while spin.look().is_none() {
            spin.slept(SHORT);
        }
        spin.looked(true);
        assert!(spin.look().is_some());
    }
}
