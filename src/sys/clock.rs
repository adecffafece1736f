//! The monotonic clock, with the units and the source of Python's `time.monotonic()`.

#[cfg(target_vendor = "apple")]
const CLOCK: libc::clockid_t = libc::CLOCK_UPTIME_RAW;
#[cfg(not(target_vendor = "apple"))]
const CLOCK: libc::clockid_t = libc::CLOCK_MONOTONIC;

/// Nanoseconds of the system's monotonic clock.
///
/// The clock that CPython's `time.monotonic()` reads, so values compare with it: on Apple's systems
/// the one that stands still while the machine sleeps.
#[must_use]
#[inline]
#[allow(clippy::cast_sign_loss, reason = "the monotonic clock does not go below zero")]
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid, writable timespec; the call keeps no pointer to it.
    let status = unsafe { libc::clock_gettime(CLOCK, &raw mut now) };
    debug_assert_eq!(status, 0, "the monotonic clock is always there");
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Seconds since 1970 (UTC) of the system's clock, which may be set: for what is shown.
#[must_use]
#[inline]
pub fn unix_seconds() -> u64 {
    #[cfg(target_os = "linux")]
    const SHOWN: libc::clockid_t = libc::CLOCK_REALTIME_COARSE;
    #[cfg(not(target_os = "linux"))]
    const SHOWN: libc::clockid_t = libc::CLOCK_REALTIME;
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid, writable timespec; the call keeps no pointer to it.
    let status = unsafe { libc::clock_gettime(SHOWN, &raw mut now) };
    debug_assert_eq!(status, 0, "the system's clock is always there");
    u64::try_from(now.tv_sec).unwrap_or(0)
}

/// Nanoseconds as the float seconds that asyncio deals in: one rounding, as CPython does it.
#[must_use]
#[inline]
#[allow(clippy::cast_precision_loss, reason = "as CPython: a double holds 104 days of ns exactly")]
pub fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// The clock's resolution in seconds: a nanosecond, as `clock_getres` reports it and as
/// `time.get_clock_info('monotonic').resolution` is on every supported system.
pub const RESOLUTION: f64 = 1e-9;

/// A counter that is cheaper to read than the clock, for "has about this much time passed?" only.
///
/// Its unit is not known beforehand, and on a broken machine it may stand still or jump: callers
/// calibrate it against the clock, and bound how often they believe it.
#[must_use]
#[inline(always)]
pub fn ticks() -> u64 {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        // SAFETY: every x86-64 processor has the instruction.
        unsafe { std::arch::x86_64::_rdtsc() }
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    {
        monotonic_ns()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_clock_does_not_go_back() {
        let first = monotonic_ns();
        assert!(monotonic_ns() >= first);
    }
}
