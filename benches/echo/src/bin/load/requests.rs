//! Requests and their responses, in a closed or an open loop.
//!
//! Latency runs from the time at which a request should have begun. In the open loop that is its
//! place in the schedule, whatever the requests before it took; in the closed loop it is the moment
//! at which the connection became free.

use std::io::{self, ErrorKind};
use std::thread;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};

use crate::connection::{Connection, Pattern};
use crate::options::{Mode, Options};
use crate::socket::Socket;
use crate::system;
use crate::tally::{Line, Measured, Stretch, Tally};

const READ_SIZE: usize = 65536;
/// How long the open loop waits for the last responses.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a server may take to answer the first request of every connection.
const FIRST_RESPONSES: Duration = Duration::from_secs(15);
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
    /// Requests begun so far.
    begun: usize,
}

impl Schedule {
    /// That of one thread of several, which take turns.
    fn new(begin: Instant, period: Duration, thread: u32, threads: u32) -> Self {
        Self { next: begin + period * thread, period: period * threads, begun: 0 }
    }

    /// The number of the next request and the time at which it should begin, if that is before
    /// `now` and before `end`. It counts as begun.
    fn take_due(&mut self, now: Instant, end: Instant) -> Option<(usize, Instant)> {
        if self.next > now || self.next >= end {
            return None;
        }
        let due = (self.begun, self.next);
        self.next += self.period;
        self.begun += 1;
        Some(due)
    }

    /// When the next request should begin, if that is before `end`.
    fn next_before(&self, end: Instant) -> Option<Instant> {
        Some(self.next).filter(|next| *next < end)
    }
}

/// The connections of one thread.
struct Engine<'a> {
    options: &'a Options,
    /// The number of the thread. The first one reads the server's CPU time.
    thread: u32,
    poll: Poll,
    pattern: Pattern,
    buffer: Box<[u8]>,
    /// By token. `None`: closed; `unused` has those.
    connections: Vec<Option<Connection>>,
    unused: Vec<usize>,
    /// A connection of its own for each request.
    fresh: bool,
    schedule: Option<Schedule>,
    tally: Tally,
    /// The measured time; requests that should have begun (open) or end (closed) in it count.
    from: Instant,
    to: Instant,
    /// Before the warm-up: each connection has one request answered, and that is all.
    priming: bool,
    /// First or scheduled requests that are begun or waiting, and not answered yet.
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
    system::raise_descriptor_limit()?;
    let engines = (0..options.threads).map(|thread| Engine::connect(options, thread));
    let mut engines = engines.collect::<io::Result<Vec<_>>>()?;
    for engine in &mut engines {
        engine.prime()?;
        if options.resumes && matches!(options.mode, Mode::Churn) {
            engine.prime_sessions()?;
        }
    }
    let begin = Instant::now();
    let mut outcomes = thread::scope(|scope| {
        let mut others = Vec::new();
        let first = engines.remove(0);
        for engine in engines {
            others.push(scope.spawn(move || engine.run(begin)));
        }
        let mut outcomes = vec![first.run(begin)];
        for other in others {
            outcomes.push(other.join().expect("a thread of the load does not panic"));
        }
        outcomes.into_iter().collect::<io::Result<Vec<_>>>()
    })?;
    let (measured, mut tally, mut slow) = outcomes.remove(0);
    for (_, other, other_slow) in outcomes {
        tally.merge(other);
        slow += other_slow;
    }
    let mut line = Line::new();
    line.add_measured(&measured);
    tally.describe(&mut line);
    line.add("slow_connections", slow);
    line.add("load_threads", options.threads);
    Ok(line)
}

impl<'a> Engine<'a> {
    /// Open a thread's share of the connections.
    fn connect(options: &'a Options, thread: u32) -> io::Result<Self> {
        let now = Instant::now();
        let fresh = matches!(options.mode, Mode::Open { fresh: true, .. } | Mode::Churn);
        let mut engine = Self {
            options,
            thread,
            poll: Poll::new()?,
            pattern: Pattern::new(options.size),
            buffer: vec![0; READ_SIZE].into_boxed_slice(),
            connections: Vec::new(),
            unused: Vec::new(),
            fresh,
            schedule: None,
            tally: Tally::new(),
            from: now,
            to: now,
            priming: false,
            busy: 0,
            slow: 0,
        };
        if !fresh {
            for _ in 0..engine.share() {
                engine.add(Socket::connect(&options.server)?)?;
            }
        }
        Ok(engine)
    }

    /// How many of the connections are this thread's.
    fn share(&self) -> usize {
        let (threads, thread) = (self.options.threads as usize, self.thread as usize);
        let rest = self.options.connections % threads;
        self.options.connections / threads + usize::from(thread < rest)
    }

    /// Have one request answered on each connection, so that what it takes to set them up, a TLS
    /// handshake above all, is over before the warm-up.
    ///
    /// # Errors
    ///
    /// The server does not answer. A request that fails otherwise is counted.
    fn prime(&mut self) -> io::Result<()> {
        self.priming = true;
        self.busy = self.connections.len();
        let deadline = Instant::now() + FIRST_RESPONSES;
        for index in 0..self.connections.len() {
            self.begin(index, Instant::now());
        }
        let mut events = Events::with_capacity(1024);
        while self.busy > 0 {
            if Instant::now() > deadline {
                let message = format!("{} connections were never answered", self.busy);
                return Err(io::Error::new(ErrorKind::TimedOut, message));
            }
            self.progress_all(&mut events, LAST_RESPONSES)?;
        }
        self.priming = false;
        Ok(())
    }

    /// Begin to open connections until there are as many as there shall be. Only the first one has a
    /// full handshake: each that ends leaves tickets for two (`complete`).
    ///
    /// # Errors
    ///
    /// The server does not answer. A request that fails otherwise is counted.
    fn prime_sessions(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + FIRST_RESPONSES;
        let mut events = Events::with_capacity(1024);
        self.begin_fresh(Instant::now());
        while self.is_short_of_connections() {
            if Instant::now() > deadline || self.open() == 0 {
                let message = format!("only {} connections were opened", self.open());
                return Err(io::Error::new(ErrorKind::TimedOut, message));
            }
            self.progress_all(&mut events, LAST_RESPONSES)?;
        }
        Ok(())
    }

    /// How many connections there are now.
    fn open(&self) -> usize {
        self.connections.len() - self.unused.len()
    }

    fn is_short_of_connections(&self) -> bool {
        self.open() < self.share()
    }

    /// Wait for events, at most so long, and do what they allow.
    fn progress_all(&mut self, events: &mut Events, timeout: Duration) -> io::Result<()> {
        if self.schedule.is_some() {
            system::poll_precisely(&mut self.poll, events, timeout)?;
        } else {
            match self.poll.poll(events, Some(timeout)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
                result => result?,
            }
        }
        for event in &*events {
            self.progress(event.token().0, event.is_writable(), event.is_readable());
        }
        Ok(())
    }

    /// Measure. Returns also how many connections had a slow request.
    fn run(mut self, begin: Instant) -> io::Result<(Measured, Tally, usize)> {
        self.from = begin + self.options.warmup;
        self.to = self.from + self.options.measured;
        match self.options.mode {
            Mode::Open { period, .. } => {
                system::sleep_precisely();
                let threads = self.options.threads;
                self.schedule = Some(Schedule::new(begin, period, self.thread, threads));
            }
            Mode::Churn => {
                for _ in self.open()..self.share() {
                    self.begin_fresh(Instant::now());
                }
            }
            _ => {
                for index in 0..self.connections.len() {
                    self.begin(index, Instant::now());
                }
            }
        }
        let measured = self.measure()?;
        self.settle();
        Ok((measured, self.tally, self.slow))
    }

    fn measure(&mut self) -> io::Result<Measured> {
        let mut events = Events::with_capacity(1024);
        let mut stretch = None;
        let mut measured = None;
        loop {
            let now = Instant::now();
            if stretch.is_none() && measured.is_none() && now >= self.from {
                let server = self.options.server_pid.filter(|_| self.thread == 0);
                stretch = Some(Stretch::begin(server)?);
            }
            if now >= self.to
                && let Some(stretch) = stretch.take()
            {
                measured = Some(stretch.end()?);
            }
            // Before the end is looked for: this thread may have slept until after it.
            let due = self.begin_scheduled(now);
            if let Some(measured) = measured.take_if(|_| self.is_done(now)) {
                return Ok(measured);
            }
            let edge = [self.from, self.to].into_iter().find(|edge| now < *edge);
            let edge = edge.unwrap_or(now + LAST_RESPONSES);
            let wake = due.map_or(edge, |due| due.min(edge));
            let timeout = wake.saturating_duration_since(Instant::now());
            self.progress_all(&mut events, timeout)?;
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
        while let Some((number, intended)) = self.schedule.as_mut()?.take_due(now, self.to) {
            self.busy += 1;
            if self.fresh {
                self.begin_fresh(intended);
                continue;
            }
            let index = number % self.connections.len();
            match &mut self.connections[index] {
                Some(connection) if connection.is_busy() => connection.waiting.push_back(intended),
                Some(_) => self.begin(index, intended),
                None => self.fail(None, &"its connection is closed"),
            }
        }
        self.schedule.as_ref()?.next_before(self.to)
    }

    fn add(&mut self, mut socket: Socket) -> io::Result<usize> {
        let index = self.unused.pop().unwrap_or(self.connections.len());
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut socket, Token(index), interest)?;
        socket.set_nodelay()?;
        let connection = Some(Connection::new(socket, index));
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
            Err(error) => self.fail(None, &error),
        }
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
            Ok(None) if connection.waits_for_handshake() => {
                if let Err(error) = connection.send(&self.pattern) {
                    self.fail(Some(index), &error);
                }
            }
            Ok(None) => {}
            Ok(Some(intended)) => self.complete(index, intended),
            Err(error) => self.fail(Some(index), &error),
        }
    }

    /// Record the answered request of a connection and begin its next.
    fn complete(&mut self, index: usize, intended: Instant) {
        let now = Instant::now();
        let Some(connection) = &mut self.connections[index] else { return };
        if self.priming {
            self.busy -= 1;
            return;
        }
        let decisive = if self.schedule.is_some() { intended } else { now };
        if (self.from..self.to).contains(&decisive) {
            let latency = now - intended;
            self.tally.record(latency);
            connection.worst = connection.worst.max(latency);
            let is_full = connection.socket.was_resumed() == Some(false);
            if self.options.resumes && self.fresh && is_full {
                self.tally.note_error(&"a session was not resumed");
            }
        }
        if self.schedule.is_some() {
            self.busy -= 1;
        }
        let next = connection.waiting.pop_front();
        match (&self.schedule, self.fresh) {
            (Some(_), true) => self.close(index),
            (Some(_), false) => {
                if let Some(intended) = next {
                    self.begin(index, intended);
                }
            }
            (None, true) => {
                self.close(index);
                self.begin_fresh(now);
                if self.options.resumes && self.is_short_of_connections() {
                    self.begin_fresh(now);
                }
            }
            (None, false) => self.begin(index, now),
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
            let _ = self.poll.registry().deregister(&mut connection.socket);
            if self.fresh {
                self.unused.push(index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_millis(10);

    #[test]
    fn requests_that_are_late_keep_their_intended_times() {
        let begin = Instant::now();
        let (now, end) = (begin + PERIOD * 3, begin + PERIOD * 100);
        let mut schedule = Schedule::new(begin, PERIOD, 0, 1);
        let mut due = Vec::new();
        while let Some(request) = schedule.take_due(now, end) {
            due.push(request);
        }
        assert_eq!(due, (0..4).zip((0..4).map(|n| begin + PERIOD * n)).collect::<Vec<_>>());
        assert_eq!(schedule.next_before(end), Some(begin + PERIOD * 4));
    }

    #[test]
    fn nothing_begins_after_the_end() {
        let begin = Instant::now();
        let end = begin + PERIOD * 2;
        let mut schedule = Schedule::new(begin, PERIOD, 0, 1);
        let mut count = 0;
        while schedule.take_due(end + PERIOD * 50, end).is_some() {
            count += 1;
        }
        assert_eq!(count, 2);
        assert_eq!(schedule.next_before(end), None);
    }

    #[test]
    fn the_threads_together_keep_the_rate() {
        let begin = Instant::now();
        let end = begin + PERIOD * 12;
        let mut times = Vec::new();
        for thread in 0..3 {
            let mut schedule = Schedule::new(begin, PERIOD, thread, 3);
            while let Some((_, intended)) = schedule.take_due(end, end) {
                times.push(intended);
            }
        }
        times.sort();
        assert_eq!(times, (0..12).map(|n| begin + PERIOD * n).collect::<Vec<_>>());
    }
}
