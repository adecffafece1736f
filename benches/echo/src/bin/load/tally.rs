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
    cpu: Option<CpuUsed>,
}

/// CPU time in nanoseconds.
struct CpuUsed {
    server: u64,
    /// This process.
    load: u64,
    /// All processes that are neither of them.
    others: u64,
}

impl Stretch {
    pub(crate) fn begin(server_pid: Option<u32>) -> io::Result<Self> {
        let server = server_pid.map(|pid| CpuTimes::read(pid).map(|times| (pid, times)));
        Ok(Self { server: server.transpose()?, began: Instant::now() })
    }

    pub(crate) fn end(self) -> io::Result<Measured> {
        let wall = self.began.elapsed();
        let mut cpu = None;
        if let Some((pid, before)) = self.server {
            let after = CpuTimes::read(pid)?;
            let server = after.server.saturating_sub(before.server);
            let load = after.own.saturating_sub(before.own);
            let all = after.machine.saturating_sub(before.machine);
            cpu = Some(CpuUsed { server, load, others: all.saturating_sub(server + load) });
        }
        Ok(Measured { wall, cpu })
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

    /// Add what another one has counted.
    pub(crate) fn merge(&mut self, other: Self) {
        self.latencies.add(&other.latencies).expect("both have the same bounds");
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
    }

    /// Add what was counted to a line of JSON.
    pub(crate) fn describe(&self, line: &mut Line) {
        line.add("requests", self.latencies.len());
        for (name, quantile) in [
            ("p50_us", 0.5),
            ("p90_us", 0.9),
            ("p99_us", 0.99),
            ("p999_us", 0.999),
            ("p9999_us", 0.9999),
        ] {
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
        if let Some(cpu) = &measured.cpu {
            self.add("server_cpu_ns", cpu.server);
            self.add("load_cpu_ns", cpu.load);
            self.add("others_cpu_ns", cpu.others);
        }
    }
}

impl Display for Line {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{{{}}}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn describe(tally: &Tally) -> String {
        let mut line = Line::new();
        tally.describe(&mut line);
        line.to_string()
    }

    /// What stands behind a name in a line of JSON.
    fn text<'a>(line: &'a str, name: &str) -> &'a str {
        let (_, rest) = line.split_once(&format!("\"{name}\": ")).expect("the name is there");
        &rest[..rest.find([',', '}']).expect("something follows")]
    }

    fn number(line: &str, name: &str) -> f64 {
        text(line, name).parse().expect("it is a number")
    }

    #[test]
    fn quantiles_are_within_a_thousandth() {
        let mut tally = Tally::new();
        for micros in 1..=10_000 {
            tally.record(Duration::from_micros(micros));
        }
        let line = describe(&tally);
        assert_eq!(text(&line, "requests"), "10000");
        for (name, expected) in
            [("p50_us", 5_000.0), ("p90_us", 9_000.0), ("p99_us", 9_900.0), ("max_us", 10_000.0)]
        {
            let value = number(&line, name);
            assert!((value / expected - 1.0).abs() < 2e-3, "{name}: {value}");
        }
    }

    #[test]
    fn two_tallies_count_as_one() {
        let (mut one, mut other) = (Tally::new(), Tally::new());
        one.record(Duration::from_micros(10));
        other.record(Duration::from_micros(30));
        other.note_error(&"broken");
        one.merge(other);
        let line = describe(&one);
        assert_eq!(text(&line, "requests"), "2");
        assert_eq!(text(&line, "errors"), "1");
        assert!((number(&line, "max_us") - 30.0).abs() < 0.1);
        assert!(line.contains(r#""first_error": "broken""#), "{line}");
    }

    #[test]
    fn what_is_too_long_is_counted_as_the_longest() {
        let mut tally = Tally::new();
        tally.record(Duration::from_secs(3_600));
        assert_eq!(tally.latencies.len(), 1);
        assert!(tally.latencies.max() >= LONGEST_NS);
    }
}
