//! What a loop's shared part promises to those that work for the loop.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use super::*;
use crate::transport::{AcceptSink, Listener};

/// Takes connections, unless it has been told to panic first.
#[derive(Debug, Default)]
struct Sink {
    panics: AtomicBool,
    taken: AtomicUsize,
}

impl AcceptSink for Sink {
    fn place(&self, connection: Connection) -> Vec<Connection> {
        assert!(!self.panics.swap(false, Relaxed), "nobody takes it");
        self.taken.fetch_add(1, Relaxed);
        vec![connection]
    }
}

#[test]
fn a_job_that_panics_gives_its_claim_back_and_leaves_the_rest_to_the_owner() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let sink = Arc::new(Sink::default());
    let listener = Arc::new(Listener::new(socket.as_raw_fd(), Some(sink.clone())));
    let _ = listener.state().start();
    let clients = [(); 2].map(|()| TcpStream::connect(socket.local_addr().unwrap()).unwrap());
    let owner = Arc::new(Shared::new().unwrap());
    let source: Arc<dyn Source> = listener.clone();
    let token = owner.sources.lock().insert(socket.as_raw_fd(), source.clone(), 0).unwrap();
    let job = Job { owner: Arc::clone(&owner), token, source };
    let readable = Ready { token, readable: true, writable: false, ended: false };
    assert_eq!(listener.ready(readable), Schedule::Needed);
    assert!(listener.state().begin_turn().claim.is_some(), "the owner's turn, without accepting");

    sink.panics.store(true, Relaxed);
    assert!(catch_unwind(AssertUnwindSafe(|| job.run(&mut [0; 8], true))).is_err());
    assert!(!listener.state().bits().is_claimed());
    let told: Vec<_> = owner.drain_completions().collect();
    assert!(matches!(told[..], [Completion::Turn(told)] if told == token), "{told:?}");

    // The first connection was lost with the panic; the other is there for whoever comes next.
    let turn = listener.state().begin_turn();
    listener.accept_in_turn(turn.claim.unwrap()).unwrap();
    assert_eq!(sink.taken.load(Relaxed), clients.len() - 1);
    assert!(!listener.state().retire(), "nobody would wait for a claim");
}
