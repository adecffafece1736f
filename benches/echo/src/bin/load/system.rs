//! What is asked of the system besides sockets: clocks, limits, the CPU time of a process.

use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;
use std::{fs, mem};

use mio::{Events, Poll};

/// The CPU time of a process in nanoseconds, its live threads together (`schedstat`).
///
/// # Errors
///
/// There is no such process, or the kernel keeps no such statistics.
pub(crate) fn cpu_ns(pid: u32) -> io::Result<u64> {
    let mut total = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = match fs::read_to_string(thread?.path().join("schedstat")) {
            // The thread ended meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            result => result?,
        };
        let first = text.split_ascii_whitespace().next().and_then(|number| number.parse().ok());
        total += first.unwrap_or(0_u64);
    }
    if total == 0 {
        return Err(io::Error::other("the kernel keeps no schedstat"));
    }
    Ok(total)
}

/// The CPU time of this process in nanoseconds.
pub(crate) fn own_cpu_ns() -> u64 {
    read_clock(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// The time in nanoseconds for which the cores of this machine have not been idle, added up.
///
/// # Errors
///
/// `/proc/stat` cannot be read.
pub(crate) fn machine_busy_ns() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/stat")?;
    let first = text.lines().next().unwrap_or_default();
    let ticks = first.split_ascii_whitespace().skip(1).map(|number| number.parse().unwrap_or(0));
    // user nice system idle iowait irq softirq steal; what follows is contained in these.
    let busy: u64 =
        ticks.take(8).enumerate().map(|(i, n)| if i == 3 || i == 4 { 0 } else { n }).sum();
    // SAFETY: takes one integer and touches no memory of ours.
    let ticks_per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Ok(busy * 1_000_000_000 / u64::try_from(ticks_per_second).unwrap_or(100))
}

/// `CLOCK_MONOTONIC` in nanoseconds: what Python's `time.monotonic_ns()` returns.
pub(crate) fn monotonic_ns() -> u64 {
    read_clock(libc::CLOCK_MONOTONIC)
}

fn read_clock(clock: libc::clockid_t) -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` outlives the call, which writes nothing else.
    unsafe { libc::clock_gettime(clock, &raw mut now) };
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// Let this process open as many descriptors as it may.
///
/// # Errors
///
/// As `getrlimit` and `setrlimit`.
pub(crate) fn raise_descriptor_limit() -> io::Result<()> {
    // SAFETY: the structure is plain integers, for which zero is a value.
    let mut limit: libc::rlimit = unsafe { mem::zeroed() };
    // SAFETY: `limit` outlives the call, which writes nothing else.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` outlives the call, which only reads it.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// As `Poll::poll`, to the microsecond: epoll's own time-out counts milliseconds.
///
/// # Errors
///
/// As `Poll::poll`, but for an interruption, which only ends the wait.
pub(crate) fn poll_precisely(
    poll: &mut Poll,
    events: &mut Events,
    timeout: Duration,
) -> io::Result<()> {
    if !timeout.is_zero() {
        wait_readable(poll.as_raw_fd(), timeout);
    }
    match poll.poll(events, Some(Duration::ZERO)) {
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
        result => result,
    }
}

/// Wait until a descriptor is readable or the time has passed. May return early.
fn wait_readable(descriptor: RawFd, timeout: Duration) {
    let mut watched = libc::pollfd { fd: descriptor, events: libc::POLLIN, revents: 0 };
    let timeout = libc::timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // SAFETY: one `pollfd` and one `timespec`, both outlive the call; no signal mask.
    unsafe { libc::ppoll(&raw mut watched, 1, &raw const timeout, std::ptr::null()) };
}

/// Wake from sleep when asked to, not up to 50 us later (the kernel's default).
pub(crate) fn sleep_precisely() {
    let one_nanosecond: libc::c_ulong = 1;
    // SAFETY: takes one integer and touches no memory of ours.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, one_nanosecond) };
}
