//! Over a socket pair, by several threads: whoever has the lock reads, answers or sends.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use super::random::Numbers;
use super::*;
use crate::sync::{Mutex, thread};

/// A connection with its socket, which does not wait, and the requests that wait for an answer.
struct Served {
    server: Server,
    socket: UnixStream,
    unsent: Vec<u8>,
    /// The first events that were not looked at yet.
    looked_at: usize,
    ready: Vec<(RequestId, String)>,
}

impl Served {
    /// Reads once, if that is of use.
    fn read(&mut self) {
        let mut bytes = [0; 4096];
        if !self.server.connection.wants_input() {
            return;
        }
        match self.socket.read(&mut bytes) {
            Ok(0) => self.server.end(),
            Ok(count) => self.server.take(&bytes[..count]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }

    /// Answers one request, whichever, with its path.
    fn answer(&mut self, numbers: &mut Numbers) {
        let seen = &self.server.seen[self.looked_at..];
        let request = |seen: &Seen| match seen {
            Seen::Request(id, head) => Some((*id, String::from_utf8_lossy(head.path()).into())),
            _ => None,
        };
        self.ready.extend(seen.iter().filter_map(request));
        self.looked_at = self.server.seen.len();
        if !self.ready.is_empty() {
            let (id, path) = self.ready.swap_remove(numbers.below(self.ready.len()));
            self.server.answer(id, &path);
        }
    }

    /// Sends what the kernel takes; says whether it is the end.
    fn send(&mut self) -> bool {
        self.unsent.extend(self.server.out.bytes());
        self.server.out.clear();
        if !self.unsent.is_empty() {
            match self.socket.write(&self.unsent) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        self.unsent.is_empty() && self.server.is_closing()
    }
}

/// How many requests are sent.
const COUNT: usize = if cfg!(miri) { 20 } else { 3000 };

fn stream_of_requests() -> Vec<u8> {
    let mut numbers = Numbers::new(11);
    let mut raw = Vec::new();
    for at in 0..COUNT {
        let close = if at + 1 == COUNT { "Connection: close\r\n" } else { "" };
        let (method, rest) = match numbers.below(8) {
            0 => ("POST", "Content-Length: 5\r\n\r\nabcde"),
            1 => ("PUT", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
            _ => ("GET", "\r\n"),
        };
        raw.extend(format!("{method} /{at} HTTP/1.1\r\nHost: a\r\n{close}{rest}").bytes());
    }
    raw
}

#[test]
fn several_threads_serve_one_connection() {
    let (near, far) = UnixStream::pair().unwrap();
    far.set_nonblocking(true).unwrap();
    let (server, unsent, ready) = (Server::new(), Vec::new(), Vec::new());
    let shared = Mutex::new(Served { server, socket: far, unsent, looked_at: 0, ready });
    let mut received = String::new();
    thread::scope(|scope| {
        for seed in 0..3 {
            let shared = &shared;
            scope.spawn(move || {
                let mut numbers = Numbers::new(seed);
                loop {
                    let mut turn = shared.lock();
                    match numbers.below(3) {
                        0 => turn.read(),
                        1 => turn.answer(&mut numbers),
                        _ => {}
                    }
                    if turn.send() {
                        turn.socket.shutdown(std::net::Shutdown::Write).unwrap();
                        return;
                    }
                    drop(turn);
                    thread::yield_now();
                }
            });
        }
        let mut writer = near.try_clone().unwrap();
        scope.spawn(move || writer.write_all(&stream_of_requests()).unwrap());
        (&near).read_to_string(&mut received).unwrap();
    });
    let bodies: Vec<_> = received.split("\r\n\r\n").skip(1).collect();
    let paths = bodies.iter().map(|body| body.split("HTTP/1.1").next().unwrap());
    let expected = (0..COUNT).map(|at| format!("/{at}"));
    assert!(paths.eq(expected), "all are answered, in their order");
}
