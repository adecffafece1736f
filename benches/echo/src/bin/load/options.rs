//! The command line.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

pub(crate) const USAGE: &str = "\
usage: load --port PORT [option]...

  --host ADDRESS      default: 127.0.0.1
  --connections N     default: 64
  --size BYTES        of a request and of its response; default: 1024
  --seconds S         the measured time; default: 3
  --warmup S          before it; default: 1
  --pid PID           report the CPU time that this process used in the measured time
  --rate R            open loop: R requests a second in all, whether or not the last are answered
  --fresh             with --rate: a connection of its own for each request
  --bulk              send nothing, count the bytes that come
  --idle N            open N connections, hold them until standard input ends

Without --rate, --bulk or --idle: a closed loop, one request at a time on each connection.
Prints one line of JSON.";

/// What is measured.
pub(crate) enum Mode {
    /// Each connection sends its next request when the last one is answered.
    Closed,
    /// Requests begin at a fixed rate, `period` apart.
    Open { period: Duration, fresh: bool },
    /// Bytes that the server sends unasked.
    Bulk,
    /// Nothing: connections that only exist.
    Idle { connections: usize },
}

pub(crate) struct Options {
    pub(crate) server: SocketAddr,
    pub(crate) connections: usize,
    pub(crate) size: usize,
    pub(crate) measured: Duration,
    pub(crate) warmup: Duration,
    pub(crate) server_pid: Option<u32>,
    pub(crate) mode: Mode,
}

impl Options {
    /// Read the arguments (without the program's name).
    ///
    /// # Errors
    ///
    /// Says what is wrong with them.
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut host = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let mut port = None;
        let mut options = Self {
            server: SocketAddr::new(host, 0),
            connections: 64,
            size: 1024,
            measured: Duration::from_secs(3),
            warmup: Duration::from_secs(1),
            server_pid: None,
            mode: Mode::Closed,
        };
        let mut fresh = false;
        while let Some(name) = arguments.next() {
            match name.as_str() {
                "--host" => host = value(&name, arguments.next())?,
                "--port" => port = Some(value(&name, arguments.next())?),
                "--connections" => options.connections = positive(&name, arguments.next())?,
                "--size" => options.size = positive(&name, arguments.next())?,
                "--seconds" => options.measured = seconds(&name, arguments.next())?,
                "--warmup" => options.warmup = seconds(&name, arguments.next())?,
                "--pid" => options.server_pid = Some(value(&name, arguments.next())?),
                "--rate" => {
                    let rate: f64 = value(&name, arguments.next())?;
                    if !(0.1..=1e7).contains(&rate) {
                        return Err(format!("--rate: {rate} is not between 0.1 and 10 million"));
                    }
                    let period = Duration::from_secs_f64(1.0 / rate);
                    options.mode = Mode::Open { period, fresh: false };
                }
                "--fresh" => fresh = true,
                "--bulk" => options.mode = Mode::Bulk,
                "--idle" => {
                    let connections = positive(&name, arguments.next())?;
                    options.mode = Mode::Idle { connections };
                }
                _ => return Err(format!("unknown option {name}\n{USAGE}")),
            }
        }
        if fresh {
            let Mode::Open { fresh, .. } = &mut options.mode else {
                return Err("--fresh needs --rate".to_owned());
            };
            *fresh = true;
        }
        let port = port.ok_or_else(|| format!("--port is missing\n{USAGE}"))?;
        options.server = SocketAddr::new(host, port);
        Ok(options)
    }
}

fn value<T: FromStr<Err: Display>>(name: &str, text: Option<String>) -> Result<T, String> {
    let text = text.ok_or_else(|| format!("{name} needs a value"))?;
    text.parse().map_err(|error| format!("{name} {text}: {error}"))
}

fn positive(name: &str, text: Option<String>) -> Result<usize, String> {
    match value(name, text)? {
        0 => Err(format!("{name} must be 1 or more")),
        number => Ok(number),
    }
}

fn seconds(name: &str, text: Option<String>) -> Result<Duration, String> {
    Duration::try_from_secs_f64(value(name, text)?).map_err(|error| format!("{name}: {error}"))
}
