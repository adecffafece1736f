//! The command line.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use crate::bulk::Direction;
use crate::socket::{self, Address, LARGEST_DATAGRAM};

pub(crate) const USAGE: &str = "\
usage: load (--port PORT | --unix PATH) [option]...

  --host ADDRESS      default: 127.0.0.1
  --udp               datagrams; each request is one
  --tls FILE          TLS over TCP; the server's certificate is in this file (PEM)
  --resume            TLS sessions are resumed; with --fresh, one in the measured time that is not is
                      an error
  --connections N     default: 64
  --threads N         which share the connections; default: 1
  --size BYTES        of a request and of its response; default: 1024
  --seconds S         the measured time; default: 3
  --warmup S          before it; default: 1
  --pid PID           report the CPU time that this process used in the measured time
  --rate R            open loop: R requests a second in all, whether or not the last are answered
  --fresh             a connection of its own for each request; N at any time without --rate
  --bulk              send nothing, count the bytes that come
  --bulk-send         send without an end, count the bytes that are taken
  --idle N            open N connections, hold them until standard input ends

Without --rate, --bulk, --bulk-send or --idle: a closed loop, one request at a time on each
connection. Prints one line of JSON.";

/// What is measured.
#[derive(Clone, Copy)]
pub(crate) enum Mode {
    /// Each connection sends its next request when the last one is answered.
    Closed,
    /// Likewise, and the next request goes over a new connection.
    Churn,
    /// Requests begin at a fixed rate, `period` apart.
    Open { period: Duration, fresh: bool },
    /// Bytes that the server sends unasked or takes.
    Bulk(Direction),
    /// Nothing: connections that only exist.
    Idle { connections: usize },
}

pub(crate) struct Options {
    pub(crate) server: Address,
    pub(crate) connections: usize,
    pub(crate) threads: u32,
    pub(crate) size: usize,
    pub(crate) measured: Duration,
    pub(crate) warmup: Duration,
    pub(crate) server_pid: Option<u32>,
    pub(crate) mode: Mode,
    pub(crate) resumes: bool,
}

/// What is said of the server's address.
struct Server {
    host: IpAddr,
    port: Option<u16>,
    unix: Option<PathBuf>,
    udp: bool,
    certificate: Option<PathBuf>,
}

impl Server {
    fn address(self, resumes: bool) -> Result<Address, String> {
        let kinds = [self.unix.is_some(), self.udp, self.certificate.is_some()];
        if kinds.into_iter().filter(|chosen| *chosen).count() > 1 {
            return Err("only one of --unix, --udp and --tls can be given".to_owned());
        }
        if resumes && self.certificate.is_none() {
            return Err("--resume is for --tls".to_owned());
        }
        if let Some(path) = self.unix {
            return Ok(Address::Unix(path));
        }
        let port = self.port.ok_or_else(|| format!("--port is missing\n{USAGE}"))?;
        let server = SocketAddr::new(self.host, port);
        match self.certificate {
            Some(file) => trust(&file, resumes).map(|config| Address::Tls(server, config)),
            None if self.udp => Ok(Address::Udp(server)),
            None => Ok(Address::Tcp(server)),
        }
    }
}

fn trust(file: &Path, resumes: bool) -> Result<std::sync::Arc<rustls::ClientConfig>, String> {
    socket::trust(file, resumes).map_err(|error| format!("--tls {}: {error}", file.display()))
}

impl Options {
    /// Read the arguments (without the program's name).
    ///
    /// # Errors
    ///
    /// Says what is wrong with them.
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let host = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let mut server = Server { host, port: None, unix: None, udp: false, certificate: None };
        let mut options = Self {
            server: Address::Tcp(SocketAddr::new(host, 0)),
            connections: 64,
            threads: 1,
            size: 1024,
            measured: Duration::from_secs(3),
            warmup: Duration::from_secs(1),
            server_pid: None,
            mode: Mode::Closed,
            resumes: false,
        };
        let mut fresh = false;
        while let Some(name) = arguments.next() {
            match name.as_str() {
                "--host" => server.host = value(&name, arguments.next())?,
                "--port" => server.port = Some(value(&name, arguments.next())?),
                "--unix" => server.unix = Some(value(&name, arguments.next())?),
                "--udp" => server.udp = true,
                "--tls" => server.certificate = Some(value(&name, arguments.next())?),
                "--connections" => options.connections = positive(&name, arguments.next())?,
                "--threads" => options.threads = value(&name, arguments.next())?,
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
                "--resume" => options.resumes = true,
                "--bulk" => options.mode = Mode::Bulk(Direction::Receive),
                "--bulk-send" => options.mode = Mode::Bulk(Direction::Send),
                "--idle" => {
                    let connections = positive(&name, arguments.next())?;
                    options.mode = Mode::Idle { connections };
                }
                _ => return Err(format!("unknown option {name}\n{USAGE}")),
            }
        }
        if fresh {
            options.mode = match options.mode {
                Mode::Closed => Mode::Churn,
                Mode::Open { period, .. } => Mode::Open { period, fresh },
                _ => return Err("--fresh is only for requests".to_owned()),
            };
        }
        if !(1..=options.connections).contains(&(options.threads as usize)) {
            return Err("--threads must be 1 or more, and at most --connections".to_owned());
        }
        if server.udp && (options.size > LARGEST_DATAGRAM || fresh) {
            return Err(format!("--udp: at most {LARGEST_DATAGRAM} bytes, and not --fresh"));
        }
        options.server = server.address(options.resumes)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(line.split_ascii_whitespace().map(str::to_owned))
    }

    #[test]
    fn the_mode_is_chosen_by_the_options() {
        let mode = |line| parse(line).expect("the options are right").mode;
        assert!(matches!(mode("--port 1"), Mode::Closed));
        assert!(matches!(mode("--port 1 --fresh"), Mode::Churn));
        assert!(matches!(mode("--port 1 --fresh --rate 100"), Mode::Open { fresh: true, period }
            if period == Duration::from_millis(10)));
        assert!(matches!(mode("--port 1 --bulk-send"), Mode::Bulk(Direction::Send)));
    }

    #[test]
    fn the_address_is_chosen_by_the_options() {
        let server = |line| parse(line).expect("the options are right").server;
        assert!(matches!(server("--port 7"), Address::Tcp(address) if address.port() == 7));
        assert!(matches!(server("--port 7 --udp"), Address::Udp(_)));
        assert!(matches!(server("--unix /x"), Address::Unix(path) if path == Path::new("/x")));
    }

    #[test]
    fn wrong_options_are_named() {
        for (line, said) in [
            ("", "--port is missing"),
            ("--port x", "--port x: "),
            ("--port 1 --connections 0", "--connections must be 1 or more"),
            ("--port 1 --threads 0", "--threads must be 1 or more"),
            ("--port 1 --threads 65", "at most --connections"),
            ("--port 1 --rate 0", "--rate: 0 is not between"),
            ("--port 1 --bulk --fresh", "--fresh is only for requests"),
            ("--port 1 --udp --size 70000", "--udp: at most 65507 bytes"),
            ("--port 1 --udp --tls x", "only one of --unix, --udp and --tls"),
            ("--port 1 --tls /nowhere", "--tls /nowhere: "),
            ("--port 1 --resume", "--resume is for --tls"),
            ("--what", "unknown option --what"),
        ] {
            let error = parse(line).err().expect("the options are wrong");
            assert!(error.contains(said), "{line}: {error}");
        }
    }
}
