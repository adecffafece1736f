//! Models of streams with a filter: in which order records leave, whoever makes and sends them.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use super::filtered::counting::{Counting, Peer};
use super::source::NoReactor;
use super::{Ciphertext, Filter, JobContext, Passage, Report, Source, Stream};
use crate::id::IoToken;
use crate::reactor::Ready;
use crate::sync::{Arc, Mutex, thread};
use crate::sys::socket::Channel;

const READABLE: Ready =
    Ready { token: IoToken::new(0, 0), readable: true, writable: false, ended: false };

/// A stream whose filter has opened it, and its peer.
struct Open {
    stream: Arc<Stream<Vec<u8>>>,
    peer: Peer,
    near: UnixStream,
    far: UnixStream,
}

fn open() -> Open {
    let (near, far) = UnixStream::pair().unwrap();
    let (peer, first) = Peer::client();
    let filter = Box::new(Counting::default());
    let nothing = Ciphertext::default();
    let stream = Stream::filtered(near.as_raw_fd(), Channel::Local, filter, &nothing);
    (&far).write_all(&first).unwrap();
    read(&stream);
    Open { stream: Arc::new(stream), peer, near, far }
}

/// Reads once, and sends what is to be answered.
fn read(stream: &Stream<Vec<u8>>) {
    let _ = stream.ready(READABLE);
    let claim = stream.state().claim_read().unwrap();
    let passed = stream.read_through(&claim, &mut Passage::default(), Mutex::lock);
    let _ = claim.release(passed.more);
    send_ahead(stream);
}

/// Sends what is queued, if nobody else does.
fn send_ahead(stream: &Stream<Vec<u8>>) {
    if let Some(claim) = stream.state().claim_write() {
        let job_context = JobContext { scratch: &mut [], registrar: &NoReactor };
        stream.flush_ahead(claim, &job_context, &mut Report::default());
    }
}

/// Lets the peer take what has come.
fn take(far: &UnixStream, peer: &mut Peer) {
    let mut came = [0; 64];
    let count = { far }.read(&mut came).unwrap();
    let _ = peer.take(&came[..count]);
}

/// The owner writes through a filter while another thread reads through it and answers: records leave in the order in
/// which they were made, whoever sends them.
#[test]
fn loom_records_leave_in_the_order_in_which_they_were_made() {
    loom::model(|| {
        let Open { stream, mut peer, near: _near, far } = open();
        (&far).write_all(&peer.ping()).unwrap();
        let helper = {
            let stream = Arc::clone(&stream);
            thread::spawn(move || read(&stream))
        };
        {
            let mut filter = stream.filter().unwrap().lock();
            let mut to = Ciphertext::default();
            let _ = stream.write_through(&mut filter, b"data", false, &mut to).unwrap();
        }
        drop(stream.flush(&NoReactor));
        helper.join().unwrap();
        drop(stream.flush(&NoReactor));
        take(&far, &mut peer);
        assert_eq!((&peer.received[..], peer.filter.pongs), (&b"data"[..], 1));
    });
}

/// The owner and another thread have a filter make records, as two loops that answer requests of one connection:
/// each record leaves once, in its turn, and the other thread needs nobody to send its own.
#[test]
fn loom_records_of_another_thread_leave_in_their_turn() {
    loom::model(|| {
        let Open { stream, mut peer, near: _near, far } = open();
        let make = |stream: &Stream<Vec<u8>>, queues: bool| {
            let mut locked = stream.filter().unwrap().lock();
            let mut to = Ciphertext::default();
            let (_, wrote, _) = stream
                .make_through(&mut locked, queues, &mut to, |filter: &mut Counting, to| {
                    Filter::send(filter, b"data", to)
                })
                .unwrap();
            wrote
        };
        let other = {
            let stream = Arc::clone(&stream);
            thread::spawn(move || {
                assert!(make(&stream, true).queued);
                send_ahead(&stream);
            })
        };
        if make(&stream, false).queued {
            drop(stream.flush(&NoReactor));
        }
        other.join().unwrap();
        // Whoever found the claim taken has left word, and the owner's turn follows.
        drop(stream.flush(&NoReactor));
        take(&far, &mut peer);
        assert_eq!(&peer.received[..], b"datadata");
    });
}
