//! Counters of each loop, for `pool.stats()`.
//!
//! In: the owner adds to its own counters (one relaxed store each, no read-modify-write, because nobody
//! else writes them). Out: any thread reads them, one by one. Each loop's counters have their own cache
//! lines.
//!
//! Must never: be written by two threads.

use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A counter with one writer and any number of readers.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Owner thread only: two writers would lose counts.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Adds `n`, from any thread. Not for a counter that an owner adds to as well.
    #[inline]
    pub fn add_shared(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// Takes `n` off, from any thread, as [`add_shared`](Self::add_shared).
    #[inline]
    pub fn sub_shared(&self, n: u64) {
        self.0.fetch_sub(n, Relaxed);
    }

    /// Replaces the value (for gauges). Owner thread only.
    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// The value at some recent moment. Any thread.
    #[must_use]
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What part of the time, of late, a loop was busy: a part of [`ALL`](Self::ALL). Time that passes
/// makes as much of the past be forgotten as it is a part of so many nanoseconds, 268 milliseconds.
#[derive(Debug, Default)]
pub struct BusyShare(AtomicU64);

impl BusyShare {
    const BITS: u32 = 28;
    /// All of the time.
    pub const ALL: u64 = 1 << Self::BITS;

    /// Takes more time into account, in nanoseconds. Owner thread only.
    #[inline]
    pub fn note(&self, busy_ns: u64, idle_ns: u64) {
        self.0.store(self.after(busy_ns, idle_ns), Relaxed);
    }

    /// Forgets all. Owner thread only, or before it notes anything.
    pub fn forget(&self) {
        self.0.store(0, Relaxed);
    }

    /// What it would be after so much more time. Any thread.
    #[inline]
    #[must_use]
    pub fn after(&self, busy_ns: u64, idle_ns: u64) -> u64 {
        // No single callback, as an import is one, makes a loop a busy one.
        let busy = busy_ns.min(Self::ALL / 2);
        let passed = busy + idle_ns.min(Self::ALL - busy);
        let share = self.0.load(Relaxed);
        share - ((share * passed) >> Self::BITS) + busy
    }
}

/// The counters and gauges of one loop.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Turns begun.
    pub turns: Counter,
    /// Polls of the reactor that asked the kernel.
    pub polls: Counter,
    /// When the last poll ended, in nanoseconds of the clock.
    pub polled_ns: Counter,
    /// Nanoseconds outside the kernel's wait, since the loop first ran.
    pub busy_ns: Counter,
    /// Nanoseconds in the kernel's wait.
    pub idle_ns: Counter,
    /// Gauge: what part of the time it was busy of late.
    pub busy: BusyShare,
    /// Gauge: entries in the ready queue when the turn began.
    pub ready: Counter,
    /// Gauge: timers pending.
    pub timers: Counter,
    /// Gauge: transports open. Any thread writes it.
    pub transports: Counter,
    /// When the loop last had something of its own to do, in nanoseconds of the clock.
    pub worked_ns: Counter,
    /// Gauge: connections placed on the loop and not yet taken by it. Who places one adds it, any thread; the
    /// loop takes it off as it takes the connection out of its inbox. A closed loop's says nothing.
    pub arriving: Counter,
    /// Gauge: connections of pool-wide servers that are open here. Any thread writes it.
    pub placed: Counter,
    /// Gauge: microseconds for which the loop was stuck of late. The monitor writes it;
    /// a pool-wide server that begins to listen sets it to 0.
    pub stuck_us: Counter,
    /// Number of the callback in which a pool-wide server began to listen on the loop, the last one.
    pub listened_in: Counter,
    /// Jobs that the owner did for its own transports, or for those of other loops.
    pub jobs: Counter,
    /// Jobs of other loops that the owner did.
    pub stolen_by: Counter,
    /// Coroutines of `spawn` that the owner began.
    pub begun: Counter,
    /// Gauge: nanoseconds that it has taken of late to begin one of them.
    pub begin_ns: Counter,
    /// Coroutines of `spawn` that the owner took over from other loops.
    pub spawned_stolen: Counter,
    /// Bytes that the owner read.
    pub bytes_in: Counter,
    /// Bytes that the owner wrote.
    pub bytes_out: Counter,
    /// Times that another thread woke the owner through the kernel. Any thread writes it.
    pub wakes: Counter,
    /// Times that the reactor was handed over because the owner was stuck. The monitor writes it.
    pub handoffs: Counter,
    /// Jobs of this loop that other threads did. They write it.
    pub jobs_helped: Counter,
    /// Bytes that other threads read for it. They write it.
    pub bytes_in_helped: Counter,
    /// Bytes that other threads wrote for it. They write it.
    pub bytes_out_helped: Counter,
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_busy_share_follows_what_the_loop_does_and_forgets_what_it_did() {
        let busy = BusyShare::default();
        let percent = |share: u64| (share * 100).div_ceil(BusyShare::ALL);
        // A quarter, in turns however long.
        for turn in [if cfg!(miri) { MS / 2 } else { 1000 }, MS, 100 * MS] {
            (0..2000 * MS / turn).for_each(|_| busy.note(turn / 4, 3 * turn / 4));
            assert!((24..=26).contains(&percent(busy.after(0, 0))));
        }
        // What nobody has noted yet counts as well.
        assert!((61..=64).contains(&percent(busy.after(u64::MAX, 0))));
        assert_eq!(busy.after(0, u64::MAX), 0);
        busy.note(0, BusyShare::ALL / 2);
        assert!((12..=13).contains(&percent(busy.after(0, 0))));
        (0..9).for_each(|_| busy.note(1000 * MS, 0));
        assert_eq!(percent(busy.after(0, 0)), 100);
        busy.forget();
        assert_eq!(busy.after(0, 0), 0);
    }
}
