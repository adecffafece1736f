//! The command line.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use crate::socket::{self, Address};

pub(crate) const USAGE: &str = "\
usage: http-load --port PORT [option]...

  --host ADDRESS      default: 127.0.0.1
  --path PATH         of the requests; default: /
  --expect BODY       what each response has to hold; default: a body of any bytes
  --websocket BYTES   send binary messages of that size to PATH, which have to come back
  --tls FILE          HTTPS; the server's certificate is in this file (PEM)
  --fresh             a connection of its own for each request, N at any time
  --connections N     default: 64
  --rate R            open loop: R requests a second in all, whether or not the last are answered
  --seconds S         the measured time; default: 3
  --warmup S          before it; default: 1
  --server PID        report the CPU time that this process and all below it used meanwhile
  --beside PID        report that of this one and all below it as `beside_cpu_ns`; may be repeated

Without --rate: a closed loop, one request at a time on each connection. Every response has to be
a 200 with a content-length. Prints one line of JSON.";

/// Largest message: longer ones have another header.
const LARGEST_MESSAGE: usize = 65535;

pub(crate) struct Options {
    pub(crate) server: Address,
    /// What requests name as their host.
    pub(crate) host: SocketAddr,
    pub(crate) path: String,
    pub(crate) expect: Option<String>,
    /// Size of the messages; `None`: HTTP requests.
    pub(crate) websocket: Option<usize>,
    pub(crate) connections: usize,
    /// A connection of its own for each request.
    pub(crate) fresh: bool,
    /// From one request to the next; `None`: a closed loop.
    pub(crate) period: Option<Duration>,
    pub(crate) measured: Duration,
    pub(crate) warmup: Duration,
    pub(crate) server_pid: Option<u32>,
    pub(crate) beside: Vec<u32>,
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
        let mut certificate: Option<String> = None;
        let mut options = Self {
            server: Address::Tcp(SocketAddr::new(host, 0)),
            host: SocketAddr::new(host, 0),
            path: "/".to_owned(),
            expect: None,
            websocket: None,
            connections: 64,
            fresh: false,
            period: None,
            measured: Duration::from_secs(3),
            warmup: Duration::from_secs(1),
            server_pid: None,
            beside: Vec::new(),
        };
        while let Some(name) = arguments.next() {
            let mut argument = || arguments.next();
            match name.as_str() {
                "--host" => host = value(&name, argument())?,
                "--port" => port = Some(value(&name, argument())?),
                "--path" => options.path = path(&name, argument())?,
                "--expect" => options.expect = Some(value(&name, argument())?),
                "--websocket" => {
                    let size = positive(&name, argument())?;
                    if size > LARGEST_MESSAGE {
                        return Err(format!("{name}: {size} is more than {LARGEST_MESSAGE}"));
                    }
                    options.websocket = Some(size);
                }
                "--tls" => certificate = Some(value(&name, argument())?),
                "--fresh" => options.fresh = true,
                "--connections" => options.connections = positive(&name, argument())?,
                "--rate" => {
                    let rate: f64 = value(&name, argument())?;
                    if !(0.1..=1e7).contains(&rate) {
                        return Err(format!("--rate: {rate} is not between 0.1 and 10 million"));
                    }
                    options.period = Some(Duration::from_secs_f64(1.0 / rate));
                }
                "--seconds" => options.measured = seconds(&name, argument())?,
                "--warmup" => options.warmup = seconds(&name, argument())?,
                "--server" => options.server_pid = Some(value(&name, argument())?),
                "--beside" => options.beside.push(value(&name, argument())?),
                _ => return Err(format!("unknown option {name}\n{USAGE}")),
            }
        }
        if options.websocket.is_some() {
            let only_for_http =
                [options.expect.is_some(), certificate.is_some(), options.fresh].contains(&true);
            if only_for_http {
                return Err("--expect, --tls and --fresh are not for --websocket".to_owned());
            }
        }
        if options.fresh && options.period.is_some() {
            return Err("--fresh is for a closed loop, not for --rate".to_owned());
        }
        let port = port.ok_or_else(|| format!("--port is missing\n{USAGE}"))?;
        options.host = SocketAddr::new(host, port);
        options.server = match certificate {
            Some(file) => {
                let config = socket::trust(Path::new(&file), false);
                let config = config.map_err(|error| format!("--tls {file}: {error}"))?;
                Address::Tls(options.host, config)
            }
            None => Address::Tcp(options.host),
        };
        Ok(options)
    }
}

fn value<T: FromStr<Err: Display>>(name: &str, text: Option<String>) -> Result<T, String> {
    let text = text.ok_or_else(|| format!("{name} needs a value"))?;
    text.parse().map_err(|error| format!("{name} {text}: {error}"))
}

fn path(name: &str, text: Option<String>) -> Result<String, String> {
    let path: String = value(name, text)?;
    if !path.starts_with('/') || path.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(format!("{name} {path:?}: must begin with / and hold no blanks"));
    }
    Ok(path)
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
    fn the_server_is_spoken_to_as_the_options_say() {
        let options = parse("--port 7 --fresh").expect("the options are right");
        assert!(matches!(options.server, Address::Tcp(server) if server == options.host));
        assert!(options.fresh);
    }

    #[test]
    fn wrong_options_are_named() {
        for (line, said) in [
            ("", "--port is missing"),
            ("--port 1 --tls /nowhere", "--tls /nowhere: "),
            ("--port 1 --websocket 9 --fresh", "are not for --websocket"),
            ("--port 1 --websocket 9 --tls x", "are not for --websocket"),
            ("--port 1 --fresh --rate 9", "--fresh is for a closed loop"),
            ("--what", "unknown option --what"),
        ] {
            let error = parse(line).err().expect("the options are wrong");
            assert!(error.contains(said), "{line}: {error}");
        }
    }
}
