//! A listening socket. Its connections stay on its loop, or go where an [`AcceptSink`] places them; with a
//! sink any thread may accept.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use super::{
    AcceptSink, Connection, Descriptor, JobContext, ReadClaim, Registrar, Report, Responder,
    Schedule, Source, State,
};
use crate::config;
use crate::id::IoToken;
use crate::reactor::{Edges, Ready};
use crate::sync::{Mutex, OnceLock};
use crate::sys::{clock, descriptor, socket};

/// Bytes of a request that a [`Responder`] is shown.
const LONGEST_ASKED: usize = 4096;

/// For so long a connection that was accepted for a stuck loop may have nothing to be answered, in nanoseconds.
const SILENCE_NS: u64 = 100_000_000;

/// What waits for the owner.
#[derive(Debug, Default)]
struct Arrived {
    connections: VecDeque<Connection>,
    /// Those whose request has not come, with the time until which a responder waits for it.
    silent: Vec<(Connection, u64)>,
    /// Why another thread could not accept.
    failure: Option<io::Error>,
}

/// One listening socket. The descriptor is the owner's: it outlives every claim on the state.
#[derive(Debug)]
pub struct Listener {
    descriptor: Descriptor,
    state: State,
    sink: Option<Arc<dyn AcceptSink>>,
    responder: OnceLock<Arc<dyn Responder>>,
    /// Locked for a few instructions.
    arrived: Mutex<Arrived>,
}

impl Listener {
    /// A listener on a non-blocking socket that the caller keeps open. With a `sink` its connections
    /// are handed over, and come back by [`Source::arrived`] of whichever listener was chosen.
    #[must_use]
    pub fn new(fd: RawFd, sink: Option<Arc<dyn AcceptSink>>) -> Self {
        let descriptor = Descriptor::new(fd);
        let (responder, arrived) = (OnceLock::new(), Mutex::new(Arrived::default()));
        Self { descriptor, state: State::new(), sink, responder, arrived }
    }

    /// Lets `responder` see connections first that another thread accepts for the owner, from now on. Once; any thread.
    pub fn answer_by(&self, responder: Arc<dyn Responder>) {
        let _ = self.responder.set(responder);
    }

    /// Its number, as a name.
    pub fn fd(&self) -> RawFd {
        self.descriptor.number()
    }

    /// The descriptor.
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// Whether it hands its connections over, and takes what is placed on its loop.
    pub fn is_shared(&self) -> bool {
        self.sink.is_some()
    }

    /// Asks the reactor for the edges.
    ///
    /// # Errors
    /// Those of the kernel, and of a closed loop.
    pub fn register(&self, token: IoToken, registrar: &dyn Registrar) -> io::Result<()> {
        if !self.descriptor.is_held() {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        let registered =
            registrar.with_handle(&mut |handle| handle.register(self.fd(), token, Edges::Read));
        registered.map_err(io::Error::from)
    }

    /// Accepts what waits, `budget` connections at most. Whether more may wait, and what went wrong.
    /// `take` gets each, and `unwanted`: what is to be closed without the claim.
    fn accept(
        &self,
        claim: &ReadClaim<'_>,
        budget: usize,
        take: &mut dyn FnMut(Connection, &mut Vec<Connection>),
        unwanted: &mut Vec<Connection>,
    ) -> (bool, Option<io::Error>) {
        debug_assert!(claim.is_on(&self.state));
        // Another holder of the socket may have made it blocking, and there is no flag for one call.
        let waits = descriptor::is_blocking(self.descriptor.for_call());
        for _ in 0..budget {
            let fd = self.descriptor.for_call();
            if waits && !descriptor::is_readable(fd) {
                return (false, None);
            }
            match socket::accept(fd) {
                Ok(connection) => take(connection, unwanted),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return (false, None),
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => return (true, Some(error)),
            }
        }
        (true, None)
    }

    /// Accepts what waits, on the owner's thread. Connections that stay are added to those of
    /// `take_arrived`.
    ///
    /// # Errors
    /// Those of `accept(2)`. What was accepted before is kept.
    pub fn accept_in_turn(&self, claim: ReadClaim<'_>) -> io::Result<()> {
        let (mut stay, mut unwanted) = (VecDeque::new(), Vec::new());
        let silent = std::mem::take(&mut self.arrived.lock().silent);
        for (connection, _) in silent {
            self.hand_on(connection, &mut stay, &mut unwanted);
        }
        let mut take = |one, unwanted: &mut Vec<_>| self.hand_on(one, &mut stay, unwanted);
        let (more, failure) = self.accept(&claim, config::ACCEPT_BUDGET, &mut take, &mut unwanted);
        self.arrived.lock().connections.append(&mut stay);
        claim.release_in_turn(more);
        failure.map_or(Ok(()), Err)
    }

    /// Lets a connection go where it belongs: with a sink, none stays.
    fn hand_on(
        &self,
        connection: Connection,
        stay: &mut VecDeque<Connection>,
        unwanted: &mut Vec<Connection>,
    ) {
        match &self.sink {
            Some(sink) => unwanted.append(&mut sink.place(connection)),
            None => stay.push_back(connection),
        }
    }

    /// Takes the connections that wait for the owner, and why another thread could not accept.
    pub fn take_arrived(&self) -> (VecDeque<Connection>, Option<io::Error>) {
        let mut arrived = self.arrived.lock();
        let mut connections = std::mem::take(&mut arrived.connections);
        connections.extend(arrived.silent.drain(..).map(|(connection, _)| connection));
        (connections, arrived.failure.take())
    }
}

/// What a responder has made of a connection.
enum Look {
    /// It is to be closed.
    Answered,
    /// Nothing has come yet: a client sends its request at once, but perhaps a moment after it is accepted.
    Nothing,
    /// It is a loop's, and all that has come is unread.
    Other,
}

fn look(responder: &dyn Responder, connection: &Connection) -> Look {
    let (fd, mut bytes) = (connection.0.as_raw_fd(), [0; LONGEST_ASKED]);
    let count = match socket::peek(fd, &mut bytes) {
        Ok(count) => count,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Look::Nothing,
        Err(_) => return Look::Other,
    };
    let Some(response) = responder.response(&bytes[..count]) else { return Look::Other };
    // It is as long as a message is that the kernel takes at once from a new connection. What has failed is the client's
    // end.
    let _ = socket::recv(fd, &mut bytes[..count]);
    let _ = socket::send(fd, &response);
    Look::Answered
}

/// Whether it was a connection that failed, before it was accepted, and not the listener: `accept(2)`
/// hands on what the network had to say of it.
fn is_of_one_connection(error: &io::Error) -> bool {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if error.raw_os_error() == Some(libc::ENONET) {
        return true;
    }
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::EPROTO
                | libc::EPERM
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::ENOPROTOOPT
        )
    )
}

impl Source for Listener {
    fn ready(&self, ready: Ready) -> Schedule {
        self.state.ready(ready)
    }

    fn state(&self) -> &State {
        &self.state
    }

    fn run(&self, _bench: &mut JobContext<'_>) -> Report {
        let mut report = Report::default();
        let responder = self.responder.get();
        if self.sink.is_none() && responder.is_none() {
            return report;
        }
        let Some(claim) = self.state.claim_read() else { return report };
        report.worked = true;
        let (mut stay, mut unwanted, mut silent) = (VecDeque::new(), Vec::new(), Vec::new());
        let now_ns = clock::monotonic_ns();
        let mut look =
            |connection: Connection, until_ns, unwanted: &mut Vec<Connection>| match responder
                .map_or(Look::Other, |responder| look(&**responder, &connection))
            {
                Look::Answered => unwanted.push(connection),
                Look::Nothing if now_ns < until_ns => silent.push((connection, until_ns)),
                _ => self.hand_on(connection, &mut stay, unwanted),
            };
        let waited = std::mem::take(&mut self.arrived.lock().silent);
        for (connection, until_ns) in waited {
            look(connection, until_ns, &mut unwanted);
        }
        let mut take = |one, unwanted: &mut Vec<_>| look(one, now_ns + SILENCE_NS, unwanted);
        let (mut more, failure) =
            self.accept(&claim, config::ACCEPTS_PER_JOB, &mut take, &mut unwanted);
        if !silent.is_empty() {
            self.arrived.lock().silent.append(&mut silent);
            more = true;
        }
        if !stay.is_empty() {
            self.arrived.lock().connections.append(&mut stay);
            report.tell_owner = self.state.note_news() == Schedule::Needed;
        }
        report.again = more && failure.is_none();
        if failure.is_some() {
            self.arrived.lock().failure = failure;
            report.tell_owner |= self.state.note_news() == Schedule::Needed;
        }
        report.tell_owner |= claim.release(more) == Schedule::Needed;
        report
    }

    fn arrived(&self, connection: Connection) -> Result<Schedule, Connection> {
        self.arrived.lock().connections.push_back(connection);
        Ok(self.state.note_news())
    }
}

#[cfg(all(test, not(loom)))]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::id::IoToken;
    use crate::sys::address::SocketAddress;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    #[derive(Debug)]
    struct Sink(Mutex<Vec<Connection>>);

    impl AcceptSink for Sink {
        fn place(&self, connection: Connection) -> Vec<Connection> {
            self.0.lock().push(connection);
            Vec::new()
        }
    }

    fn listening() -> TcpListener {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        listener
    }

    fn ready() -> Ready {
        Ready { token: IoToken::new(0, 0), readable: true, writable: false, ended: false }
    }

    #[test]
    fn what_the_network_says_of_one_connection_is_no_failure_of_the_listener() {
        let is_of_one = |code| is_of_one_connection(&io::Error::from_raw_os_error(code));
        assert!([libc::ECONNABORTED, libc::EPROTO, libc::EHOSTUNREACH].into_iter().all(is_of_one));
        assert!(
            ![libc::EMFILE, libc::ENOMEM, libc::EBADF, libc::EINVAL].into_iter().any(is_of_one)
        );
    }

    #[test]
    fn a_plain_listener_keeps_its_connections_for_its_owner() {
        let socket = listening();
        let listener = Listener::new(socket.as_raw_fd(), None);
        let _ = listener.state().start();
        let client = TcpStream::connect(socket.local_addr().unwrap()).unwrap();
        assert_eq!(listener.ready(ready()), Schedule::Needed);
        let mut scratch = [0; 1];
        let registrar = crate::transport::source::NoReactor;
        let mut job_context = JobContext { scratch: &mut scratch, registrar: &registrar };
        assert_eq!(
            listener.run(&mut job_context),
            Report::default(),
            "it is not for other threads"
        );
        let turn = listener.state().begin_turn();
        listener.accept_in_turn(turn.claim.unwrap()).unwrap();
        let (connections, failure) = listener.take_arrived();
        assert!(failure.is_none());
        let peers: Vec<_> = connections.into_iter().map(|(_, peer)| peer).collect();
        assert_eq!(peers, [SocketAddress::Inet(client.local_addr().unwrap())]);
        assert_eq!(listener.state().end_turn(), Schedule::Unneeded);
    }

    /// Takes nothing.
    #[derive(Debug)]
    struct Closed;

    impl AcceptSink for Closed {
        fn place(&self, connection: Connection) -> Vec<Connection> {
            vec![connection]
        }
    }

    #[test]
    fn what_nobody_takes_is_closed_without_the_claim() {
        use crate::sync::OnceLock;
        use crate::sync::atomic::{AtomicUsize, Ordering::Relaxed};
        use std::os::fd::OwnedFd;

        static LISTENER: OnceLock<Listener> = OnceLock::new();
        static FREE: AtomicUsize = AtomicUsize::new(0);

        fn close(descriptor: OwnedFd) {
            if let Some(listener) = LISTENER.get().filter(|_| ours(&descriptor)) {
                let _ = listener.ready(ready()); // nobody claims what is not ready
                FREE.fetch_add(listener.state().claim_read().is_some().into(), Relaxed);
            }
            drop(descriptor);
        }

        fn ours(descriptor: &OwnedFd) -> bool {
            let port = |address| match address {
                Ok(SocketAddress::Inet(address)) => Some(address.port()),
                _ => None,
            };
            let listener = LISTENER.get().map_or(-1, Listener::fd);
            port(socket::local_address(descriptor.as_raw_fd()))
                == port(socket::local_address(listener))
        }

        let socket = listening();
        assert!(crate::sys::owned_socket::close_by(close));
        let listener =
            LISTENER.get_or_init(|| Listener::new(socket.as_raw_fd(), Some(Arc::new(Closed))));
        let _ = listener.state().start();
        for by_helper in [false, true] {
            let _client = connect(&socket, 1);
            let _ = listener.ready(ready());
            if by_helper {
                let registrar = crate::transport::source::NoReactor;
                assert!(
                    listener
                        .run(&mut JobContext { scratch: &mut [], registrar: &registrar })
                        .worked
                );
            } else {
                let turn = listener.state().begin_turn();
                listener.accept_in_turn(turn.claim.unwrap()).unwrap();
                let _ = listener.state().end_turn();
            }
        }
        assert_eq!(FREE.load(Relaxed), 2);
    }

    fn connect(socket: &TcpListener, count: usize) -> Vec<TcpStream> {
        let address = socket.local_addr().unwrap();
        (0..count).map(|_| TcpStream::connect(address).unwrap()).collect()
    }

    #[test]
    fn others_have_a_turn_after_so_many_connections() {
        let socket = listening();
        let _clients = connect(&socket, config::ACCEPT_BUDGET + 1);
        let listener = Listener::new(socket.as_raw_fd(), None);
        let _ = listener.state().start();
        let _ = listener.ready(ready());
        for (accepted, next) in [(config::ACCEPT_BUDGET, Schedule::Needed), (1, Schedule::Unneeded)]
        {
            let turn = listener.state().begin_turn();
            listener.accept_in_turn(turn.claim.unwrap()).unwrap();
            assert_eq!(listener.take_arrived().0.len(), accepted);
            assert_eq!(listener.state().end_turn(), next);
        }
    }

    #[test]
    fn who_accepts_for_another_loop_is_soon_back_at_its_own() {
        let socket = listening();
        let _clients = connect(&socket, config::ACCEPTS_PER_JOB + 1);
        let sink = Arc::new(Sink(Mutex::new(Vec::new())));
        let listener = Listener::new(socket.as_raw_fd(), Some(sink.clone()));
        let _ = listener.state().start();
        let _ = listener.ready(ready());
        let registrar = crate::transport::source::NoReactor;
        for (accepted, again) in [(config::ACCEPTS_PER_JOB, true), (1, false)] {
            let report = listener.run(&mut JobContext { scratch: &mut [], registrar: &registrar });
            assert_eq!((report.worked, report.again), (true, again));
            assert_eq!(std::mem::take(&mut *sink.0.lock()).len(), accepted);
        }
    }

    #[test]
    fn with_a_sink_any_thread_accepts_and_the_owner_hears_of_failures_only() {
        let socket = listening();
        let sink = Arc::new(Sink(Mutex::new(Vec::new())));
        let listener = Listener::new(socket.as_raw_fd(), Some(sink.clone()));
        let _ = listener.state().start();
        let _client = TcpStream::connect(socket.local_addr().unwrap()).unwrap();
        assert_eq!(listener.ready(ready()), Schedule::Needed);
        let mut scratch = [0; 1];
        let registrar = crate::transport::source::NoReactor;
        let mut job_context = JobContext { scratch: &mut scratch, registrar: &registrar };
        assert_eq!(listener.run(&mut job_context), Report { worked: true, ..Report::default() });
        assert_eq!(sink.0.lock().len(), 1);
    }

    /// Answers who asks, and nobody else.
    #[derive(Debug)]
    struct Answers;
    impl Responder for Answers {
        fn response(&self, bytes: &[u8]) -> Option<Vec<u8>> {
            (bytes == b"asks").then(|| b"answer".to_vec())
        }
    }

    #[test]
    fn who_accepts_for_another_loop_answers_those_who_ask_and_nobody_else() {
        use std::io::{Read, Write};

        for shared in [false, true] {
            let socket = listening();
            let sink = Arc::new(Sink(Mutex::new(Vec::new())));
            let taker = shared.then(|| sink.clone() as Arc<dyn AcceptSink>);
            let listener = Listener::new(socket.as_raw_fd(), taker);
            listener.answer_by(Arc::new(Answers));
            assert_eq!(listener.state.start(), Schedule::Unneeded);
            let registrar = crate::transport::source::NoReactor;
            for (said, answered) in [("asks", true), ("other", false)] {
                let mut client = connect(&socket, 1).pop().unwrap();
                client.write_all(said.as_bytes()).unwrap();
                let _ = listener.ready(ready());
                let report =
                    listener.run(&mut JobContext { scratch: &mut [], registrar: &registrar });
                assert!(report.worked);
                let placed = std::mem::take(&mut *sink.0.lock());
                let kept = Vec::from(listener.take_arrived().0);
                assert_eq!(
                    (placed.len(), kept.len()),
                    match (answered, shared) {
                        (true, _) => (0, 0),
                        (false, true) => (1, 0),
                        (false, false) => (0, 1),
                    }
                );
                if answered {
                    let mut answer = String::new();
                    client.read_to_string(&mut answer).unwrap();
                    assert_eq!(answer, "answer", "and the connection has ended");
                } else if !said.is_empty() {
                    let (left, _) = &placed.into_iter().chain(kept).next().unwrap();
                    let mut unread = [0; 8];
                    let count = socket::recv(left.as_raw_fd(), &mut unread).unwrap();
                    assert_eq!(&unread[..count], said.as_bytes(), "it is the loop's to read");
                }
                let _ = listener.state.begin_turn();
            }
        }
    }
}
