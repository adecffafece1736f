//! Requests and their answers, in a closed or an open loop.
//!
//! Latency runs from the time at which a request should have begun. In the open loop that is its
//! place in the schedule, whatever the requests before it took; in the closed loop it is the moment
//! at which the connection became free.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::ask;
use crate::exchange::Exchange;
use crate::options::Options;
use crate::processes::Stretch;
use crate::socket::Socket;
use crate::system;
use crate::tally::{Line, Tally};

const READ_SIZE: usize = 65536;
/// How long the open loop waits for the last answers.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it looks for them.
const LAST_ANSWERS: Duration = Duration::from_millis(50);
/// An answer that is due for this long when a closed loop ends will not come.
const STALLED: Duration = Duration::from_secs(1);

/// One connection, with at most one request on it.
struct Connection {
    socket: Socket,
    /// When the request should have begun that is under way.
    intended: Option<Instant>,
    /// How much of it is sent.
    sent: usize,
    /// What has come of its answer.
    received: Vec<u8>,
    /// When the requests should have begun for which the connection was not free yet.
    waiting: VecDeque<Instant>,
}

impl Connection {
    /// Begin a request: send what the socket takes.
    fn begin(&mut self, intended: Instant, exchange: &Exchange) -> io::Result<()> {
        self.intended = Some(intended);
        self.sent = 0;
        self.send(exchange)
    }

    /// Send what is left of the request, as far as the socket takes it.
    fn send(&mut self, exchange: &Exchange) -> io::Result<()> {
        let request = exchange.request();
        while self.intended.is_some() && self.sent < request.len() {
            match self.socket.write(&request[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.socket.flush()
    }

    /// Whether a request waits for what the server says in the TLS handshake.
    fn waits_for_handshake(&self) -> bool {
        self.socket.is_tls() && self.intended.is_some() && self.sent == 0
    }

    /// Read and check what has come. Returns when the request was intended that is now answered.
    ///
    /// # Errors
    ///
    /// As `read`; `InvalidData` for bytes that are not expected, `UnexpectedEof` if the server
    /// closed the connection.
    fn receive(&mut self, exchange: &Exchange, buffer: &mut [u8]) -> io::Result<Option<Instant>> {
        let invalid = |text: String| io::Error::new(ErrorKind::InvalidData, text);
        let mut answered = None;
        loop {
            let count = match self.socket.read(buffer) {
                Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "closed by server")),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(answered),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if self.intended.is_none() || self.sent < exchange.request().len() {
                return Err(invalid("an answer to nothing that was asked".to_owned()));
            }
            self.received.extend_from_slice(&buffer[..count]);
            if let Some(length) = exchange.answer(&self.received).map_err(invalid)? {
                if length < self.received.len() {
                    return Err(invalid("more bytes than the answer has".to_owned()));
                }
                self.received.clear();
                answered = self.intended.take();
            }
            // A TLS session may hold more, of which no event would tell.
            if count < buffer.len() && !self.socket.is_tls() {
                return Ok(answered);
            }
        }
    }
}

/// The beginnings of requests in an open loop.
struct Schedule {
    next: Instant,
    period: Duration,
    /// Requests begun so far.
    begun: usize,
}

struct Engine<'a> {
    options: &'a Options,
    exchange: Exchange,
    poll: Poll,
    buffer: Box<[u8]>,
    /// By token. `None`: closed; `unused` has those that did not fail.
    connections: Vec<Option<Connection>>,
    unused: Vec<usize>,
    /// Connections that are not used, and only stay open.
    idle: Vec<net::TcpStream>,
    schedule: Option<Schedule>,
    tally: Tally,
    /// The measured time; requests that should have begun (open) or end (closed) in it count.
    from: Instant,
    to: Instant,
    /// Scheduled requests that are begun or waiting, and not answered yet.
    due: usize,
}

/// Measure; returns the line of JSON.
///
/// # Errors
///
/// The server cannot be reached in the beginning, or its CPU time not be read.
pub(crate) fn run(options: &Options) -> io::Result<Line> {
    system::raise_descriptor_limit()?;
    let mut engine = Engine::new(options)?;
    let mut line = engine.measure()?;
    engine.settle();
    engine.tally.describe(&mut line);
    Ok(line)
}

impl<'a> Engine<'a> {
    fn new(options: &'a Options) -> io::Result<Self> {
        let now = Instant::now();
        let mut engine = Self {
            options,
            exchange: Exchange::new(options),
            poll: Poll::new()?,
            buffer: vec![0; READ_SIZE].into_boxed_slice(),
            connections: Vec::with_capacity(options.connections),
            unused: Vec::new(),
            idle: Vec::new(),
            schedule: None,
            tally: Tally::new(),
            from: now,
            to: now,
            due: 0,
        };
        engine.open()?;
        let now = Instant::now();
        engine.from = now + options.warmup;
        engine.to = engine.from + options.measured;
        if let Some(period) = options.period {
            system::sleep_precisely();
            engine.schedule = Some(Schedule { next: now, period, begun: 0 });
        } else {
            for index in 0..engine.connections.len() {
                engine.begin(index, Instant::now());
            }
        }
        Ok(engine)
    }

    /// Open the connections that the load begins with, and ask what is to be asked before it.
    fn open(&mut self) -> io::Result<()> {
        let Options { host, connections, alike, begin, .. } = self.options;
        if let Some(path) = alike {
            let mut found = ask::find_alike(*host, path, *connections)?;
            if let (Some(path), Some(stream)) = (begin, found.chosen.first_mut()) {
                ask::get(stream, *host, path)?;
            }
            self.idle = found.others;
            for stream in found.chosen {
                stream.set_nonblocking(true)?;
                self.add(Socket::Tcp(TcpStream::from_std(stream)))?;
            }
        } else if !(self.options.fresh && self.options.period.is_some()) {
            for _ in 0..*connections {
                let socket = self.connect()?;
                self.add(socket)?;
            }
        }
        Ok(())
    }

    /// A connection that is ready for requests; a TLS handshake is left to the first one.
    fn connect(&self) -> io::Result<Socket> {
        if !self.exchange.has_handshake() {
            return Socket::connect(&self.options.server);
        }
        let mut stream = net::TcpStream::connect(self.options.host)?;
        self.exchange.open(&mut stream)?;
        stream.set_nonblocking(true)?;
        Ok(Socket::Tcp(TcpStream::from_std(stream)))
    }

    fn add(&mut self, mut socket: Socket) -> io::Result<usize> {
        let index = self.unused.pop().unwrap_or(self.connections.len());
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut socket, Token(index), interest)?;
        socket.set_nodelay()?;
        let connection = Some(Connection {
            socket,
            intended: None,
            sent: 0,
            received: Vec::new(),
            waiting: VecDeque::new(),
        });
        if index == self.connections.len() {
            self.connections.push(connection);
        } else {
            self.connections[index] = connection;
        }
        Ok(index)
    }

    /// Begin a request on a connection of its own.
    fn begin_fresh(&mut self, intended: Instant) {
        let socket = Socket::begin_to_connect(&self.options.server);
        match socket.and_then(|socket| self.add(socket)) {
            Ok(index) => self.begin(index, intended),
            Err(error) => {
                self.tally.note_error(&error);
                if self.schedule.is_some() {
                    self.due -= 1;
                }
            }
        }
    }

    fn measure(&mut self) -> io::Result<Line> {
        let mut events = Events::with_capacity(1024);
        let mut stretch = None;
        let mut measured = None;
        loop {
            let now = Instant::now();
            if stretch.is_none() && measured.is_none() && now >= self.from {
                stretch = Some(Stretch::begin(self.options)?);
            }
            if now >= self.to
                && let Some(stretch) = stretch.take()
            {
                measured = Some(stretch.end(self.options)?);
            }
            if let Some(measured) = measured.take_if(|_| self.is_done(now)) {
                return Ok(measured);
            }
            let due = self.begin_scheduled(now);
            let edge = [self.from, self.to].into_iter().find(|edge| now < *edge);
            let edge = edge.unwrap_or(now + LAST_ANSWERS);
            let wake = due.map_or(edge, |due| due.min(edge));
            let timeout = wake.saturating_duration_since(Instant::now());
            system::poll_precisely(&mut self.poll, &mut events, timeout)?;
            for event in &events {
                self.progress(event.token().0, event.is_writable(), event.is_readable());
            }
        }
    }

    /// Whether, after the measured time, nothing is left to wait for.
    fn is_done(&self, now: Instant) -> bool {
        self.schedule.is_none() || self.due == 0 || now > self.to + PATIENCE
    }

    /// Count the requests that were not answered.
    fn settle(&mut self) {
        let now = Instant::now();
        let limit = if self.schedule.is_some() { Duration::ZERO } else { STALLED };
        for connection in self.connections.iter().flatten() {
            let overdue = connection.intended.is_some_and(|since| now - since > limit);
            for _ in 0..usize::from(overdue) + connection.waiting.len() {
                self.tally.note_error(&"not answered");
            }
        }
    }

    /// Begin the requests whose time has come. Returns when the next one's comes.
    fn begin_scheduled(&mut self, now: Instant) -> Option<Instant> {
        let to = self.to;
        loop {
            let schedule = self.schedule.as_mut().filter(|schedule| schedule.next < to)?;
            if schedule.next > now {
                return Some(schedule.next);
            }
            let (intended, number) = (schedule.next, schedule.begun);
            schedule.next += schedule.period;
            schedule.begun += 1;
            self.due += 1;
            if self.options.fresh {
                self.begin_fresh(intended);
                continue;
            }
            let index = number % self.connections.len();
            match &mut self.connections[index] {
                Some(connection) if connection.intended.is_some() => {
                    connection.waiting.push_back(intended);
                }
                Some(_) => self.begin(index, intended),
                None => {
                    self.due -= 1;
                    self.tally.note_error(&"its connection is closed");
                }
            }
        }
    }

    fn begin(&mut self, index: usize, intended: Instant) {
        let Some(connection) = &mut self.connections[index] else { return };
        if let Err(error) = connection.begin(intended, &self.exchange) {
            self.fail(index, &error);
        }
    }

    /// Send and receive what a connection can.
    fn progress(&mut self, index: usize, writable: bool, readable: bool) {
        let Some(connection) = &mut self.connections[index] else { return };
        if writable && let Err(error) = connection.send(&self.exchange) {
            return self.fail(index, &error);
        }
        if !readable {
            return;
        }
        match connection.receive(&self.exchange, &mut self.buffer) {
            Ok(None) if connection.waits_for_handshake() => {
                if let Err(error) = connection.send(&self.exchange) {
                    self.fail(index, &error);
                }
            }
            Ok(None) => {}
            Ok(Some(intended)) => self.complete(index, intended),
            Err(error) => self.fail(index, &error),
        }
    }

    /// Record the answered request of a connection and begin its next.
    fn complete(&mut self, index: usize, intended: Instant) {
        let now = Instant::now();
        let decisive = if self.schedule.is_some() { intended } else { now };
        if (self.from..self.to).contains(&decisive) {
            self.tally.record(now - intended);
        }
        if self.options.fresh {
            self.close(index);
            self.unused.push(index);
        }
        if self.schedule.is_none() {
            return if self.options.fresh {
                self.begin_fresh(now);
            } else {
                self.begin(index, now);
            };
        }
        self.due -= 1;
        let next =
            self.connections[index].as_mut().and_then(|connection| connection.waiting.pop_front());
        if let Some(intended) = next {
            self.begin(index, intended);
        }
    }

    /// Count the requests of a connection that fail with it, and close it.
    fn fail(&mut self, index: usize, error: &io::Error) {
        self.tally.note_error(error);
        if let Some(connection) = self.close(index) {
            let lost = usize::from(connection.intended.is_some()) + connection.waiting.len();
            for _ in 1..lost {
                self.tally.note_error(&"its connection is closed");
            }
            if self.schedule.is_some() {
                self.due -= lost;
            }
        }
    }

    fn close(&mut self, index: usize) -> Option<Connection> {
        let mut connection = self.connections[index].take()?;
        // Closing the descriptor does as much.
        let _ = self.poll.registry().deregister(&mut connection.socket);
        Some(connection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ask::tests::serve;

    #[test]
    fn each_request_of_an_open_loop_can_have_a_connection_of_its_own() {
        let (host, ends) = serve(|_, request| format!("{request}"));
        let port = host.port();
        let line = format!("--port {port} --fresh --rate 100 --seconds 0.3 --warmup 0 --expect 0");
        let options = Options::parse(line.split_whitespace().map(str::to_owned)).unwrap();
        let said = run(&options).unwrap().to_string();
        assert!(said.contains("\"requests\": 30") && said.contains("\"errors\": 0"), "{said}");
        let mut ended: Vec<_> = (0..30).map(|_| ends.recv().unwrap()).collect();
        ended.sort_unstable();
        assert_eq!(ended, (0..30).collect::<Vec<_>>());
    }
}
