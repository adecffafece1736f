//! Bytes without requests: how many the server sends unasked, or takes, in each millisecond.
//!
//! Every stream repeats the bytes 0 to 250, so that a byte which is missing or comes twice shows.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};

use crate::options::Options;
use crate::socket::Socket;
use crate::system;
use crate::tally::{Line, Stretch};

const PIECE: usize = 256 * 1024;
const BUCKET: Duration = Duration::from_millis(1);
/// How long the last bytes may take that TLS sessions hold.
const LAST_BYTES: Duration = Duration::from_secs(5);
/// After so many bytes a stream repeats itself.
const CYCLE: usize = 251;

/// What is done with the streams.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Direction {
    /// Read and check what the server sends.
    Receive,
    /// Send what the server takes.
    Send,
}

/// One connection and the number of bytes that went over it.
struct Stream {
    socket: Socket,
    position: usize,
}

/// A cycle more than the longest piece, so that one can begin anywhere in a cycle.
fn cycles() -> Box<[u8]> {
    (0..=u8::MAX).take(CYCLE).cycle().take(PIECE + CYCLE).collect()
}

impl Stream {
    /// The bytes that come next.
    fn ahead<'a>(&self, cycles: &'a [u8]) -> &'a [u8] {
        &cycles[self.position % CYCLE..][..PIECE]
    }

    /// Move bytes once; returns how many.
    fn advance(
        &mut self,
        direction: Direction,
        cycles: &[u8],
        buffer: &mut [u8],
    ) -> io::Result<usize> {
        let ahead = self.ahead(cycles);
        let count = match direction {
            Direction::Send => self.socket.write(ahead)?,
            Direction::Receive => {
                let count = self.socket.read(buffer)?;
                if count == 0 {
                    return Err(io::Error::new(ErrorKind::UnexpectedEof, "closed by server"));
                }
                if buffer[..count] != ahead[..count] {
                    return Err(io::Error::new(ErrorKind::InvalidData, "not the bytes expected"));
                }
                count
            }
        };
        self.position += count;
        Ok(count)
    }

    /// Send what a TLS session still holds, and read what the server has said meanwhile: a socket
    /// that is closed with something unread resets its connection.
    fn finish(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let deadline = Instant::now() + LAST_BYTES;
        while self.socket.wants_flush() {
            if Instant::now() > deadline {
                return Err(io::Error::new(ErrorKind::TimedOut, "the server takes no more bytes"));
            }
            self.socket.flush()?;
            thread::sleep(BUCKET);
        }
        match self.socket.read(buffer) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }
}

/// Count; returns the line of JSON. Its `start_ns` is the beginning of the first bucket on the
/// clock of Python's `time.monotonic_ns()`; `total` counts the warm-up as well.
///
/// # Errors
///
/// The server cannot be reached, a connection of it ends, or it sends other bytes than it should.
pub(crate) fn run(options: &Options, direction: Direction) -> io::Result<Line> {
    let mut poll = Poll::new()?;
    let mut streams = Vec::new();
    for index in 0..options.connections {
        let mut socket = Socket::connect(&options.server)?;
        let interest = match direction {
            // A handshake goes both ways.
            _ if socket.is_tls() => Interest::READABLE | Interest::WRITABLE,
            Direction::Send => Interest::WRITABLE,
            Direction::Receive => Interest::READABLE,
        };
        poll.registry().register(&mut socket, Token(index), interest)?;
        streams.push(Stream { socket, position: 0 });
    }
    let cycles = cycles();
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; PIECE].into_boxed_slice();
    // Connections that may have more, served in turn so that a fast one starves nobody.
    let mut ready = VecDeque::new();
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
            if direction == Direction::Send {
                for stream in &mut streams {
                    stream.finish(&mut buffer)?;
                }
            }
            line.add("bytes", buckets.iter().sum::<u64>());
            line.add("total", streams.iter().map(|stream| stream.position).sum::<usize>());
            line.add("load_threads", 1);
            line.add("start_ns", start_ns);
            line.add("bucket_ns", BUCKET.as_nanos());
            line.add("buckets", format_args!("{buckets:?}"));
            return Ok(line);
        }
        let timeout = if ready.is_empty() { BUCKET } else { Duration::ZERO };
        match poll.poll(&mut events, Some(timeout)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        }
        for event in &events {
            if !ready.contains(&event.token()) {
                ready.push_back(event.token());
            }
        }
        for _ in 0..ready.len() {
            let Some(token) = ready.pop_front() else { break };
            let count = match streams[token.0].advance(direction, &cycles, &mut buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) if error.kind() == ErrorKind::Interrupted => 0,
                Err(error) => return Err(error),
            };
            ready.push_back(token);
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

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::socket::Address;

    #[test]
    fn received_bytes_are_checked_across_pieces() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = Address::Tcp(listener.local_addr().expect("it is bound"));
        let socket = Socket::connect(&address).expect("it listens");
        let (mut server, _) = listener.accept().expect("somebody has connected");
        let (cycles, mut buffer) = (cycles(), vec![0; PIECE]);
        let mut stream = Stream { socket, position: 0 };
        let mut receive = |stream: &mut Stream, until: usize| -> io::Result<()> {
            while stream.position < until {
                match stream.advance(Direction::Receive, &cycles, &mut buffer) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        std::thread::yield_now();
                    }
                    result => drop(result?),
                }
            }
            Ok(())
        };
        server.write_all(&(0..200).collect::<Vec<u8>>()).expect("the client reads");
        receive(&mut stream, 200).expect("the bytes are right");
        server.write_all(&(200..=250).chain(0..10).collect::<Vec<u8>>()).expect("it reads");
        receive(&mut stream, 261).expect("the bytes are right");
        server.write_all(&[11]).expect("the client reads");
        let error = receive(&mut stream, 262).expect_err("one byte was left out");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }
}
