//! Bytes that a server sends unasked: how many came in each millisecond.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read};
use std::net;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::options::Options;
use crate::system;
use crate::tally::{Line, Stretch};

const READ_SIZE: usize = 256 * 1024;
const BUCKET: Duration = Duration::from_millis(1);

/// Count; returns the line of JSON. Its `start_ns` is the beginning of the first bucket on the
/// clock of Python's `time.monotonic_ns()`.
///
/// # Errors
///
/// The server cannot be reached, or a connection of it ends.
pub(crate) fn run(options: &Options) -> io::Result<Line> {
    let mut poll = Poll::new()?;
    let mut streams = Vec::new();
    for index in 0..options.connections {
        let stream = net::TcpStream::connect(options.server)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        poll.registry().register(&mut stream, Token(index), Interest::READABLE)?;
        streams.push(stream);
    }
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; READ_SIZE].into_boxed_slice();
    // Connections that may have more, served in turn so that a fast one starves nobody.
    let mut readable = VecDeque::new();
    let mut buckets: Vec<u64> = Vec::new();
    let mut started: Option<(Instant, u64, Stretch)> = None;
    let from = Instant::now() + options.warmup;
    loop {
        let now = Instant::now();
        if started.is_none() && now >= from {
            let stretch = Stretch::begin(options.server_pid)?;
            started = Some((Instant::now(), system::monotonic_ns(), stretch));
        }
        if now >= from + options.measured
            && let Some((_, start_ns, stretch)) = started.take()
        {
            let mut line = Line::new();
            line.add_measured(&stretch.end()?);
            line.add("bytes", buckets.iter().sum::<u64>());
            line.add("start_ns", start_ns);
            line.add("bucket_ns", BUCKET.as_nanos());
            line.add("buckets", format_args!("{buckets:?}"));
            return Ok(line);
        }
        let timeout = if readable.is_empty() { BUCKET } else { Duration::ZERO };
        match poll.poll(&mut events, Some(timeout)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        }
        for event in &events {
            if !readable.contains(&event.token()) {
                readable.push_back(event.token());
            }
        }
        for _ in 0..readable.len() {
            let Some(token) = readable.pop_front() else { break };
            let count = match streams[token.0].read(&mut buffer) {
                Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "closed by server")),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) if error.kind() == ErrorKind::Interrupted => 0,
                Err(error) => return Err(error),
            };
            readable.push_back(token);
            if let Some((start, ..)) = &started {
                let bucket = start.elapsed().as_nanos() / BUCKET.as_nanos();
                let bucket = usize::try_from(bucket).unwrap_or(usize::MAX - 1);
                if bucket >= buckets.len() {
                    buckets.resize(bucket + 1, 0);
                }
                buckets[bucket] += count as u64;
            }
        }
    }
}
