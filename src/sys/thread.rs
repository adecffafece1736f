//! The state of one of our threads in the kernel, queried by another thread.

use std::time::Duration;

/// How many cores the calling thread is allowed on. `None`: the system does not say.
#[must_use]
pub fn affinity() -> Option<usize> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        // More than any kernel is built for.
        let mut mask = [0_u64; 256];
        // SAFETY: the kernel writes to a place of ours, as much as it is told that there is.
        let asked =
            unsafe { libc::sched_getaffinity(0, size_of_val(&mask), mask.as_mut_ptr().cast()) };
        (asked == 0).then(|| mask.iter().map(|word| word.count_ones() as usize).sum())
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    None
}

/// A thread of this process, as the kernel names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadId(u32);

impl ThreadId {
    /// The calling thread. Other systems than Linux have no such names.
    #[must_use]
    pub fn current() -> Self {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        {
            // SAFETY: a plain call.
            Self(unsafe { libc::gettid() }.cast_unsigned())
        }
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        Self(0)
    }

    /// The name as a number, and back; 0 names no thread.
    #[must_use]
    pub fn to_bits(self) -> u64 {
        self.0.into()
    }

    /// See [`to_bits`](Self::to_bits).
    #[must_use]
    pub fn from_bits(bits: u64) -> Option<Self> {
        u32::try_from(bits).ok().filter(|id| *id != 0).map(Self)
    }

    /// The processor time that the thread has had. `None` if it has ended, or cannot be asked.
    #[must_use]
    pub fn processor_time(self) -> Option<Duration> {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        {
            // As `pthread_getcpuclockid` makes it: the complement of the thread, and that it is one.
            const PER_THREAD_SCHEDULER: libc::clockid_t = 0b110;
            let clock = (!self.0.cast_signed() << 3) | PER_THREAD_SCHEDULER;
            let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            // SAFETY: the kernel checks the clock, and writes to a place of ours.
            if unsafe { libc::clock_gettime(clock, &raw mut now) } != 0 {
                return None;
            }
            Some(Duration::new(now.tv_sec.try_into().ok()?, now.tv_nsec.try_into().ok()?))
        }
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        None
    }

    /// Whether the thread waits for something other than a processor. `None` if it has ended, or
    /// cannot be asked.
    #[must_use]
    pub fn is_blocked(self) -> Option<bool> {
        let text = std::fs::read_to_string(format!("/proc/self/task/{}/stat", self.0)).ok()?;
        // The name, in parentheses, may hold anything; the state follows it.
        let state = text.rsplit_once(") ")?.1;
        Some(!state.starts_with('R'))
    }
}

#[cfg(all(test, not(loom), target_os = "linux"))]
mod tests {
    use super::*;
    use crate::sync::thread;

    #[test]
    fn a_thread_that_works_and_one_that_waits_are_told_apart() {
        let me = ThreadId::current();
        assert_eq!(ThreadId::from_bits(me.to_bits()), Some(me));
        assert_eq!(me.is_blocked(), Some(false));
        let before = me.processor_time().unwrap();
        while me.processor_time().unwrap() == before {}
        let (mut far, near) = std::os::unix::net::UnixStream::pair().unwrap();
        thread::scope(|scope| {
            let waiting = scope.spawn(move || {
                use std::io::{Read, Write};
                let mut near = near;
                near.write_all(&ThreadId::current().to_bits().to_ne_bytes()).unwrap();
                near.read(&mut [0]).unwrap()
            });
            let mut bits = [0; 8];
            std::io::Read::read_exact(&mut far, &mut bits).unwrap();
            let other = ThreadId::from_bits(u64::from_ne_bytes(bits)).unwrap();
            while other.is_blocked() != Some(true) {}
            drop(far);
            assert_eq!(waiting.join().unwrap(), 0);
        });
        assert_eq!(ThreadId::from_bits(0), None);
    }
}
