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
  --post BYTES        POST a body of that size, which has to come back
  --websocket BYTES   send binary messages of that size to PATH, which have to come back
  --tls FILE          HTTPS; the server's certificate is in this file (PEM)
  --fresh             a connection of its own for each request, N at any time
  --connections N     default: 64
  --alike PATH        only connections on which PATH is answered the same: those of one loop, if
                      PATH tells the loop; others are opened meanwhile, and stay open, unused
  --begin PATH        with --alike: requested once before the load, on one of the connections
  --idle N            no load: open N connections, have one request answered on each, print a line
                      and hold them until standard input ends
  --rate R            open loop: R requests a second in all, whether or not the last are answered
  --seconds S         the measured time; default: 3
  --warmup S          before it; default: 1
  --server PID        report the CPU time that this process and all below it used meanwhile
  --beside PID        report that of this one and all below it as `beside_cpu_ns`; may be repeated

Without --rate: a closed loop, one request at a time on each connection. With --fresh and --rate
as many connections are open as there are requests under way. Every response has to be a 200 with
a content-length. Prints one line of JSON.";

/// Largest message: longer ones have another header.
const LARGEST_MESSAGE: usize = 65535;

pub(crate) struct Options {
    pub(crate) server: Address,
    /// What requests name as their host.
    pub(crate) host: SocketAddr,
    pub(crate) path: String,
    pub(crate) expect: Option<String>,
    /// Size of the body of each request, which has to come back; `None`: GET.
    pub(crate) post: Option<usize>,
    /// Size of the messages; `None`: HTTP requests.
    pub(crate) websocket: Option<usize>,
    pub(crate) connections: usize,
    /// The path that is answered the same on all connections.
    pub(crate) alike: Option<String>,
    /// The path that is requested before the load.
    pub(crate) begin: Option<String>,
    /// Connections that only exist, instead of a load.
    pub(crate) idle: Option<usize>,
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
            post: None,
            websocket: None,
            connections: 64,
            alike: None,
            begin: None,
            idle: None,
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
                "--post" => options.post = Some(positive(&name, argument())?),
                "--websocket" => {
                    let size = positive(&name, argument())?;
                    if size > LARGEST_MESSAGE {
                        return Err(format!("{name}: {size} is more than {LARGEST_MESSAGE}"));
                    }
                    options.websocket = Some(size);
                }
                "--tls" => certificate = Some(value(&name, argument())?),
                "--fresh" => options.fresh = true,
                "--alike" => options.alike = Some(path(&name, argument())?),
                "--begin" => options.begin = Some(path(&name, argument())?),
                "--idle" => options.idle = Some(positive(&name, argument())?),
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
        options.refuse_what_does_not_fit(certificate.is_some())?;
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

    fn refuse_what_does_not_fit(&self, tls: bool) -> Result<(), String> {
        let (expect, post) = (self.expect.is_some(), self.post.is_some());
        if self.websocket.is_some() && (expect || post || tls || self.fresh) {
            return Err("--expect, --post, --tls and --fresh are not for --websocket".to_owned());
        }
        if expect && post {
            return Err("--expect is not for --post: what is sent has to come back".to_owned());
        }
        if self.begin.is_some() && self.alike.is_none() {
            return Err("--begin is for --alike".to_owned());
        }
        let plain = !(self.websocket.is_some() || tls || self.fresh);
        if (self.alike.is_some() || self.idle.is_some()) && !plain {
            return Err("--alike and --idle are not for --websocket, --tls and --fresh".to_owned());
        }
        Ok(())
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
            ("--port 1 --websocket 9 --post 9", "are not for --websocket"),
            ("--port 1 --post 9 --expect x", "--expect is not for --post"),
            ("--port 1 --begin /x", "--begin is for --alike"),
            ("--port 1 --alike /x --fresh", "--alike and --idle are not for"),
            ("--port 1 --alike /x --tls x", "--alike and --idle are not for"),
            ("--port 1 --idle 9 --websocket 9", "--alike and --idle are not for"),
            ("--port 1 --alike x", "must begin with /"),
            ("--what", "unknown option --what"),
        ] {
            let error = parse(line).err().expect("the options are wrong");
            assert!(error.contains(said), "{line}: {error}");
        }
    }
}
