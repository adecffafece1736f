//! The CPU time of processes and of all that are below them, and the measured stretch of a run.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::time::Instant;
use std::{fs, mem};

use crate::options::Options;
use crate::system;
use crate::tally::Line;

/// The CPU time in nanoseconds of each process of some trees.
type Times = BTreeMap<u32, u64>;

/// The CPU times of all parties, read at one moment.
struct Reading {
    server: Times,
    beside: Times,
    /// Of all cores together, whoever used them.
    machine: u64,
    own: u64,
}

impl Reading {
    fn take(options: &Options) -> io::Result<Self> {
        let parents = parents()?;
        Ok(Self {
            server: times(&parents, options.server_pid.as_slice())?,
            beside: times(&parents, &options.beside)?,
            machine: system::machine_busy_ns()?,
            own: system::own_cpu_ns(),
        })
    }
}

/// The measured stretch of a run. Wall and CPU time are read together, at both of its ends.
pub(crate) struct Stretch {
    reading: Reading,
    began: Instant,
}

impl Stretch {
    /// # Errors
    ///
    /// A process that is to be measured does not exist, or `/proc` cannot be read.
    pub(crate) fn begin(options: &Options) -> io::Result<Self> {
        Ok(Self { reading: Reading::take(options)?, began: Instant::now() })
    }

    /// End it and describe it.
    ///
    /// # Errors
    ///
    /// As `begin`; also if a process of the server has ended, as what it used is not known then.
    pub(crate) fn end(self, options: &Options) -> io::Result<Line> {
        let wall = self.began.elapsed();
        let (before, after) = (self.reading, Reading::take(options)?);
        if let Some(pid) = before.server.keys().find(|pid| !after.server.contains_key(pid)) {
            return Err(io::Error::other(format!("process {pid} of the server has ended")));
        }
        let (server, beside) =
            (used(&before.server, &after.server), used(&before.beside, &after.beside));
        let known = server + beside + after.own.saturating_sub(before.own);
        let mut line = Line::new();
        line.add("seconds", wall.as_secs_f64());
        if options.server_pid.is_some() {
            line.add("server_cpu_ns", server);
            line.add("server_processes", after.server.len());
        }
        line.add("beside_cpu_ns", beside);
        line.add("load_cpu_ns", after.own.saturating_sub(before.own));
        let machine = after.machine.saturating_sub(before.machine);
        line.add("others_cpu_ns", machine.saturating_sub(known));
        Ok(line)
    }
}

/// What processes used between two readings; those of which only one tells, as far as it does.
fn used(before: &Times, after: &Times) -> u64 {
    let growth = |(pid, time): (&u32, &u64)| {
        time.saturating_sub(before.get(pid).copied().unwrap_or_default())
    };
    after.iter().map(growth).sum()
}

/// The parent of each process there is.
fn parents() -> io::Result<BTreeMap<u32, u32>> {
    let mut parents = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        // One that has ended meanwhile has none.
        if let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat"))
            && let Some(parent) = parent_in(&stat)
        {
            parents.insert(pid, parent);
        }
    }
    Ok(parents)
}

/// The parent that `/proc/PID/stat` tells of: behind the name, which may hold blanks and brackets.
fn parent_in(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// `roots` and everything below them.
fn tree(parents: &BTreeMap<u32, u32>, roots: &[u32]) -> BTreeSet<u32> {
    let mut members: BTreeSet<u32> = roots.iter().copied().collect();
    loop {
        let below = |(pid, parent): (&u32, &u32)| members.contains(parent).then_some(*pid);
        let grown: BTreeSet<u32> =
            members.iter().copied().chain(parents.iter().filter_map(below)).collect();
        if grown.len() == members.len() {
            return members;
        }
        members = grown;
    }
}

fn times(parents: &BTreeMap<u32, u32>, roots: &[u32]) -> io::Result<Times> {
    let mut times = Times::new();
    for pid in tree(parents, roots) {
        match cpu_ns(pid) {
            Ok(time) => _ = times.insert(pid, time),
            // It has ended meanwhile.
            Err(_) if !roots.contains(&pid) => {}
            Err(error) => {
                let text = format!("the CPU time of process {pid}: {error}");
                return Err(io::Error::new(ErrorKind::NotFound, text));
            }
        }
    }
    Ok(times)
}

/// The CPU time of a process in nanoseconds, threads that have ended included.
fn cpu_ns(pid: u32) -> io::Result<u64> {
    let pid = pid.try_into().map_err(|_| io::Error::from(ErrorKind::InvalidInput))?;
    let mut clock: libc::clockid_t = 0;
    // SAFETY: `clock` outlives the call, which writes nothing else.
    let error = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    // SAFETY: the structure is plain integers, for which zero is a value.
    let mut time: libc::timespec = unsafe { mem::zeroed() };
    // SAFETY: `time` outlives the call, which writes nothing else.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_all_that_is_below() {
        let parents = BTreeMap::from([(2, 1), (3, 2), (4, 3), (5, 1), (9, 8)]);
        assert_eq!(tree(&parents, &[2, 9]), BTreeSet::from([2, 3, 4, 9]));
        assert!(tree(&parents, &[]).is_empty());
    }

    #[test]
    fn the_parent_stands_behind_a_name_of_any_kind() {
        assert_eq!(parent_in("12 (a) S (b)) S 7 12 12 0"), Some(7));
        assert_eq!(parent_in("12"), None);
    }

    #[test]
    fn what_began_meanwhile_counts_from_its_beginning() {
        let (before, after) = (Times::from([(1, 10), (2, 5)]), Times::from([(1, 13), (3, 4)]));
        assert_eq!(used(&before, &after), 7);
    }

    #[test]
    fn the_cpu_time_of_this_process_grows() {
        let pid = std::process::id();
        let before = cpu_ns(pid).unwrap();
        while cpu_ns(pid).unwrap() == before {}
        assert!(parents().unwrap().contains_key(&pid));
        assert!(cpu_ns(u32::MAX).is_err());
    }
}
