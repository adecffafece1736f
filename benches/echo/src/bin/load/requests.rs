//! Requests and their responses, in a closed or an open loop.
//!
//! Latency runs from the time at which a request should have begun. In the open loop that is its
//! place in the schedule, whatever the requests before it took; in the closed loop it is the moment
//! at which the connection became free.

use std::io::{self, ErrorKind};
use std::net;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::connection::{Connection, Pattern};
use crate::options::{Mode, Options};
use crate::system;
use crate::tally::{Line, Measured, Stretch, Tally};

const READ_SIZE: usize = 65536;
/// How long the open loop waits for the last responses.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it looks for them.
const LAST_RESPONSES: Duration = Duration::from_millis(50);
/// A connection is slow if one of its requests took this long.
const SLOW: Duration = Duration::from_millis(10);
/// A response that is due for this long when a closed loop ends will not come.
const STALLED: Duration = Duration::from_secs(1);

/// The beginnings of requests in an open loop.
struct Schedule {
    next: Instant,
    period: Duration,
    /// A connection of its own for each request.
    fresh: bool,
    /// Requests begun so far.
    begun: usize,
}

struct Engine<'a> {
    options: &'a Options,
    poll: Poll,
    pattern: Pattern,
    buffer: Box<[u8]>,
    /// By token. `None`: closed; `unused` has those.
    connections: Vec<Option<Connection>>,
    unused: Vec<usize>,
    schedule: Option<Schedule>,
    tally: Tally,
    /// The measured time; requests that should have begun (open) or end (closed) in it count.
    from: Instant,
    to: Instant,
    /// Scheduled requests that are begun or waiting, and not answered yet.
    busy: usize,
    /// Connections on which a request was slow, of those that are closed.
    slow: usize,
}

/// Measure; returns the line of JSON.
///
/// # Errors
///
/// The server cannot be reached in the beginning, or its CPU time not be read.
pub(crate) fn run(options: &Options) -> io::Result<Line> {
    let mut engine = Engine::new(options)?;
    let measured = engine.measure()?;
    engine.settle();
    let mut line = Line::new();
    line.add_measured(&measured);
    engine.tally.describe(&mut line);
    line.add("slow_connections", engine.slow);
    Ok(line)
}

impl<'a> Engine<'a> {
    fn new(options: &'a Options) -> io::Result<Self> {
        let now = Instant::now();
        let mut engine = Self {
            options,
            poll: Poll::new()?,
            pattern: Pattern::new(options.size),
            buffer: vec![0; READ_SIZE].into_boxed_slice(),
            connections: Vec::new(),
            unused: Vec::new(),
            schedule: None,
            tally: Tally::new(),
            from: now,
            to: now,
            busy: 0,
            slow: 0,
        };
        let fresh = matches!(options.mode, Mode::Open { fresh: true, .. });
        if !fresh {
            for _ in 0..options.connections {
                let stream = net::TcpStream::connect(options.server)?;
                stream.set_nonblocking(true)?;
                engine.add(TcpStream::from_std(stream))?;
            }
        }
        let now = Instant::now();
        engine.from = now + options.warmup;
        engine.to = engine.from + options.measured;
        match options.mode {
            Mode::Open { period, fresh } => {
                system::sleep_precisely();
                engine.schedule = Some(Schedule { next: now, period, fresh, begun: 0 });
            }
            _ => {
                for index in 0..engine.connections.len() {
                    engine.begin(index, Instant::now());
                }
            }
        }
        Ok(engine)
    }

    fn measure(&mut self) -> io::Result<Measured> {
        let mut events = Events::with_capacity(1024);
        let mut stretch = None;
        let mut measured = None;
        loop {
            let now = Instant::now();
            if stretch.is_none() && measured.is_none() && now >= self.from {
                stretch = Some(Stretch::begin(self.options.server_pid)?);
            }
            if now >= self.to
                && let Some(stretch) = stretch.take()
            {
                measured = Some(stretch.end()?);
            }
            if let Some(measured) = measured.take_if(|_| self.is_done(now)) {
                return Ok(measured);
            }
            let due = self.begin_scheduled(now);
            let edge = [self.from, self.to].into_iter().find(|edge| now < *edge);
            let edge = edge.unwrap_or(now + LAST_RESPONSES);
            let wake = due.map_or(edge, |due| due.min(edge));
            let timeout = wake.saturating_duration_since(Instant::now());
            if self.schedule.is_some() {
                system::poll_precisely(&mut self.poll, &mut events, timeout)?;
            } else {
                match self.poll.poll(&mut events, Some(timeout)) {
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    result => result?,
                }
            }
            for event in &events {
                self.progress(event.token().0, event.is_writable(), event.is_readable());
            }
        }
    }

    /// Whether, after the measured time, nothing is left to wait for.
    fn is_done(&self, now: Instant) -> bool {
        match self.schedule {
            Some(_) => self.busy == 0 || now > self.to + PATIENCE,
            None => true,
        }
    }

    /// Count the requests that were not answered.
    fn settle(&mut self) {
        let now = Instant::now();
        let limit = if self.schedule.is_some() { Duration::ZERO } else { STALLED };
        for connection in self.connections.iter().flatten() {
            let overdue = connection.waits_since().is_some_and(|since| now - since > limit);
            for _ in 0..usize::from(overdue) + connection.waiting.len() {
                self.tally.note_error(&"not answered");
            }
            self.slow += usize::from(overdue || connection.worst >= SLOW);
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
            let (intended, number, fresh) = (schedule.next, schedule.begun, schedule.fresh);
            schedule.next += schedule.period;
            schedule.begun += 1;
            self.busy += 1;
            if fresh {
                match TcpStream::connect(self.options.server).and_then(|stream| self.add(stream)) {
                    Ok(index) => self.begin(index, intended),
                    Err(error) => self.fail(None, &error),
                }
                continue;
            }
            let index = number % self.connections.len();
            match &mut self.connections[index] {
                Some(connection) if connection.is_busy() => connection.waiting.push_back(intended),
                Some(_) => self.begin(index, intended),
                None => self.fail(None, &"its connection is closed"),
            }
        }
    }

    fn add(&mut self, mut stream: TcpStream) -> io::Result<usize> {
        let index = self.unused.pop().unwrap_or(self.connections.len());
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut stream, Token(index), interest)?;
        stream.set_nodelay(true)?;
        let connection = Some(Connection::new(stream, index));
        if index == self.connections.len() {
            self.connections.push(connection);
        } else {
            self.connections[index] = connection;
        }
        Ok(index)
    }

    fn begin(&mut self, index: usize, intended: Instant) {
        let Some(connection) = &mut self.connections[index] else { return };
        if let Err(error) = connection.begin(intended, &self.pattern) {
            self.fail(Some(index), &error);
        }
    }

    /// Send and receive what a connection can.
    fn progress(&mut self, index: usize, writable: bool, readable: bool) {
        let Some(connection) = self.connections.get_mut(index).and_then(Option::as_mut) else {
            return;
        };
        if writable && let Err(error) = connection.send(&self.pattern) {
            return self.fail(Some(index), &error);
        }
        if !readable {
            return;
        }
        match connection.receive(&self.pattern, &mut self.buffer) {
            Ok(None) => {}
            Ok(Some(intended)) => self.complete(index, intended),
            Err(error) => self.fail(Some(index), &error),
        }
    }

    /// Record the answered request of a connection and begin its next.
    fn complete(&mut self, index: usize, intended: Instant) {
        let now = Instant::now();
        let Some(connection) = &mut self.connections[index] else { return };
        let decisive = if self.schedule.is_some() { intended } else { now };
        if (self.from..self.to).contains(&decisive) {
            let latency = now - intended;
            self.tally.record(latency);
            connection.worst = connection.worst.max(latency);
        }
        match &self.schedule {
            None => self.begin(index, now),
            Some(schedule) => {
                self.busy -= 1;
                if schedule.fresh {
                    self.close(index);
                } else if let Some(intended) = connection.waiting.pop_front() {
                    self.begin(index, intended);
                }
            }
        }
    }

    /// Count a request that failed, and with it its connection if it has one.
    fn fail(&mut self, index: Option<usize>, error: &dyn std::fmt::Display) {
        self.tally.note_error(&error);
        let mut lost = 1;
        if let Some(index) = index {
            if let Some(connection) = &self.connections[index] {
                lost = usize::from(connection.is_busy()) + connection.waiting.len();
            }
            self.close(index);
        }
        self.busy = self.busy.saturating_sub(lost);
    }

    fn close(&mut self, index: usize) {
        if let Some(mut connection) = self.connections[index].take() {
            self.slow += usize::from(connection.worst >= SLOW);
            // Closing the descriptor does as much.
            let _ = self.poll.registry().deregister(&mut connection.stream);
            if self.schedule.as_ref().is_some_and(|schedule| schedule.fresh) {
                self.unused.push(index);
            }
        }
    }
}
