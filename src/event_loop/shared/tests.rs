//! What a loop's shared part promises to those that work for the loop.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use super::*;
use crate::scheduler::{Park, Parked};
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

/// A loop's part, and a listener registered with it of which something is reported.
fn with_listener() -> (Arc<Shared>, Arc<Listener>, Ready) {
    let owner = Arc::new(Shared::new().unwrap());
    let listener = Arc::new(Listener::new(-1, Some(Arc::new(Sink::default()))));
    let _ = listener.state().start();
    let token = owner.sources.lock().insert(7, listener.clone(), 0).unwrap();
    let readable = Ready { token, readable: true, writable: false, ended: false };
    (owner, listener, readable)
}

fn turns(owner: &Shared) -> Vec<IoToken> {
    let token = |completion| match completion {
        Completion::Turn(token) => token,
        Completion::Accepted(..) | Completion::Offered(..) => unreachable!("nothing else came"),
    };
    owner.drain_completions().map(token).collect()
}

fn sleep(owner: &Shared) -> Parked<'_> {
    let Park::Sleep(parked) = owner.idle().park(|_| false) else { panic!("no work") };
    parked
}

#[test]
fn what_another_thread_s_poll_finds_becomes_jobs_and_one_word_to_the_owner() {
    let (owner, listener, readable) = with_listener();
    // A callback of `add_reader` is the owner's to find; and a transport may have gone.
    let reader = Ready { token: IoToken::new(7, 1), ..readable };
    let gone = Ready { token: IoToken::of_source(8, 1), ..readable };
    let mut jobs = Vec::new();
    for _ in 0..2 {
        owner.note(&[reader, readable, gone], |job| jobs.push(job.token));
    }
    assert_eq!((&jobs[..], turns(&owner)), (&[readable.token; 2][..], vec![readable.token]));
    // What the owner has not got to is found without the kernel.
    owner.pending(false, |job| jobs.push(job.token));
    assert_eq!(jobs.len(), 3);
    let _ = listener.state().begin_turn().claim.map(|claim| claim.release_in_turn(false));
    owner.pending(false, |_| panic!("nothing is left"));
}

#[test]
fn a_sleeper_is_woken_by_the_first_word_to_it_and_hears_all() {
    let (owner, _, readable) = with_listener();
    let mut poller = owner.poller();
    let parked = sleep(&owner);
    (0..3).for_each(|_| owner.complete(Completion::Turn(readable.token)));
    assert_eq!(owner.metrics.wakes.get(), 1);
    // What ends a failed test is the runner's limit.
    let _ = poller.poll(config::MAX_WAIT, &mut Vec::new()).unwrap();
    drop(parked);
    assert_eq!(turns(&owner).len(), 3);
    owner.complete(Completion::Turn(readable.token));
    assert_eq!(owner.metrics.wakes.get(), 1, "it is awake");
}

#[test]
fn only_a_sleeper_is_summoned_and_it_is_woken_for_it() {
    let (owner, ..) = with_listener();
    assert!(!owner.summon(SearchKind(1)));
    let mut poller = owner.poller();
    let parked = sleep(&owner);
    assert!(owner.summon(SearchKind(1)) && !owner.summon(SearchKind(1)));
    assert_eq!(owner.metrics.wakes.get(), 1);
    let _ = poller.poll(config::MAX_WAIT, &mut Vec::new()).unwrap();
    drop(parked);
    assert_eq!(owner.idle().take_permit().map(|permit| permit.kind()), Some(SearchKind(1)));
}

#[test]
fn whose_thread_runs_and_does_not_sleep_could_be_stuck() {
    let (owner, ..) = with_listener();
    assert_eq!((owner.awake_runner(), owner.is_running()), (None, false));
    owner.set_running(true);
    assert_eq!(owner.awake_runner(), Some(ThreadId::current()));
    let parked = sleep(&owner);
    assert_eq!((owner.awake_runner(), owner.is_running()), (None, true));
    drop(parked);
    assert!(owner.awake_runner().is_some());
    owner.set_running(false);
    assert_eq!((owner.awake_runner(), owner.is_running()), (None, false));
}

#[test]
fn what_others_do_for_a_loop_is_counted_apart_from_what_it_does_itself() {
    let (owner, ..) = with_listener();
    let report = Report { bytes_in: 3, bytes_out: 4, ..Report::default() };
    owner.metrics.note(&report, true);
    (0..2).for_each(|_| owner.metrics.note(&report, false));
    let Metrics { jobs_helped, bytes_in_helped, bytes_out_helped, bytes_in, bytes_out, .. } =
        &*owner.metrics;
    let helped = [jobs_helped, bytes_in_helped, bytes_out_helped].map(Counter::get);
    assert_eq!((helped, bytes_in.get(), bytes_out.get()), ([1, 3, 4], 6, 8));
}
