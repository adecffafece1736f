//! What a run has counted, and the line of JSON that tells of it.

use std::fmt::{self, Display, Write};
use std::io;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::system;

/// Longest latency that is told apart, in nanoseconds.
const LONGEST_NS: u64 = 60_000_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;

/// CPU times in nanoseconds, all read at one moment.
#[derive(Clone, Copy)]
struct CpuTimes {
    server: u64,
    /// Of all cores together, whoever used them.
    machine: u64,
    own: u64,
}

impl CpuTimes {
    fn read(server_pid: u32) -> io::Result<Self> {
        let server = system::cpu_ns(server_pid)?;
        Ok(Self { server, machine: system::machine_busy_ns()?, own: system::own_cpu_ns() })
    }
}

/// The measured stretch of a run. Wall and CPU time are read together, at both of its ends.
pub(crate) struct Stretch {
    began: Instant,
    /// The server and what it had used by then, if its process was named.
    server: Option<(u32, CpuTimes)>,
}

/// A stretch that has ended.
pub(crate) struct Measured {
    wall: Duration,
    /// CPU time of the server, and of all processes that are neither it nor this one.
    server_and_others_ns: Option<(u64, u64)>,
}

impl Stretch {
    pub(crate) fn begin(server_pid: Option<u32>) -> io::Result<Self> {
        let server = server_pid.map(|pid| CpuTimes::read(pid).map(|times| (pid, times)));
        Ok(Self { server: server.transpose()?, began: Instant::now() })
    }

    pub(crate) fn end(self) -> io::Result<Measured> {
        let wall = self.began.elapsed();
        let mut server_and_others_ns = None;
        if let Some((pid, before)) = self.server {
            let after = CpuTimes::read(pid)?;
            let server = after.server.saturating_sub(before.server);
            let ours = server + after.own.saturating_sub(before.own);
            let others = after.machine.saturating_sub(before.machine).saturating_sub(ours);
            server_and_others_ns = Some((server, others));
        }
        Ok(Measured { wall, server_and_others_ns })
    }
}

/// Latencies and errors of requests.
pub(crate) struct Tally {
    latencies: Histogram<u64>,
    pub(crate) errors: u64,
    first_error: Option<String>,
}

impl Tally {
    pub(crate) fn new() -> Self {
        let latencies = Histogram::new_with_bounds(1, LONGEST_NS, SIGNIFICANT_DIGITS);
        let latencies = latencies.expect("the bounds are constants that hdrhistogram accepts");
        Self { latencies, errors: 0, first_error: None }
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(LONGEST_NS);
        self.latencies.saturating_record(nanoseconds);
    }

    pub(crate) fn note_error(&mut self, error: &impl Display) {
        self.errors += 1;
        if self.first_error.is_none() {
            self.first_error = Some(error.to_string());
        }
    }

    /// Add what was counted to a line of JSON.
    pub(crate) fn describe(&self, line: &mut Line) {
        line.add("requests", self.latencies.len());
        for (name, quantile) in [("p50_us", 0.5), ("p99_us", 0.99), ("p999_us", 0.999)] {
            line.add(name, microseconds(self.latencies.value_at_quantile(quantile)));
        }
        line.add("max_us", microseconds(self.latencies.max()));
        line.add("errors", self.errors);
        if let Some(error) = &self.first_error {
            line.add("first_error", format_args!("{error:?}"));
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "three digits are significant")]
fn microseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e3
}

/// One line of JSON: an object whose values print as JSON.
pub(crate) struct Line(String);

impl Line {
    pub(crate) fn new() -> Self {
        Self(String::new())
    }

    pub(crate) fn add(&mut self, name: &str, value: impl Display) {
        let separator = if self.0.is_empty() { "" } else { ", " };
        write!(self.0, "{separator}\"{name}\": {value}").expect("a string takes any text");
    }

    pub(crate) fn add_measured(&mut self, measured: &Measured) {
        self.add("seconds", measured.wall.as_secs_f64());
        if let Some((server, others)) = measured.server_and_others_ns {
            self.add("server_cpu_ns", server);
            self.add("others_cpu_ns", others);
        }
    }
}

impl Display for Line {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{{{}}}", self.0)
    }
}
