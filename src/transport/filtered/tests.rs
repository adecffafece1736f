//! What a stream with a filter promises, over real sockets.

#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(clippy::disallowed_methods, reason = "sync::thread is std's here")]

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use super::counting::{Counting, Peer};
use super::*;
use crate::config;
use crate::sync::thread;
use crate::transport::source::NoReactor;
use crate::transport::{Bits, FILTER_MEMORY};

/// A server's stream, and the other end.
struct Pair {
    stream: Stream<Vec<u8>>,
    near: UnixStream,
    far: UnixStream,
    peer: Peer,
    passage: Passage,
}

impl Pair {
    /// Before a word was said.
    fn new() -> Self {
        let (near, far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        let filter = Box::new(Counting::default());
        let first = Ciphertext::default();
        let stream = Stream::filtered(near.as_raw_fd(), Channel::Local, filter, &first);
        let (peer, first) = Peer::client();
        (&far).write_all(&first).unwrap();
        Self { stream, near, far, peer, passage: Passage::default() }
    }

    /// When both have said hello.
    fn open() -> Self {
        let mut pair = Self::new();
        assert!(pair.read().answers);
        pair.flush();
        pair.peer_takes();
        assert!(pair.stream.is_open());
        pair
    }

    fn edge(&self) {
        let token = crate::id::IoToken::of_source(0, 1);
        let edge = crate::reactor::Ready { token, readable: true, writable: true, ended: false };
        let _ = self.stream.ready(edge);
    }

    /// Reads as the owner does.
    fn read(&mut self) -> ReadOutcome {
        self.edge();
        let claim = self.stream.state().claim_read().unwrap();
        let passed = self.stream.read_through(&claim, &mut self.passage, Mutex::lock);
        claim.release_in_turn(passed.more);
        passed
    }

    fn write(&mut self, data: &[u8]) -> io::Result<WriteOutcome> {
        let mut filter = self.stream.filter().unwrap().lock();
        let ciphertext = &mut self.passage.ciphertext;
        let wrote = self.stream.write_through(&mut filter, data, false, ciphertext)?;
        assert_eq!(wrote.taken, data.len());
        Ok(wrote)
    }

    fn flush(&self) {
        assert!(self.stream.flush(&NoReactor).unwrap().drained);
    }

    /// A job, as of another thread.
    fn help(&self) -> Report {
        self.edge();
        self.stream.run(&mut JobContext { scratch: &mut [], registrar: &NoReactor })
    }

    /// What has come to the peer, which answers.
    fn peer_takes(&mut self) {
        self.far.set_nonblocking(true).unwrap();
        let mut came = vec![0; 1 << 20];
        while let Ok(count) = self.far.read(&mut came)
            && count > 0
        {
            let answers = self.peer.take(&came[..count]);
            self.far.write_all(&answers).unwrap();
        }
    }

    fn peer_sends(&mut self, records: &[u8]) {
        self.far.write_all(records).unwrap();
    }

    fn ahead(&self) -> (Vec<u8>, usize) {
        let mut all = Vec::new();
        let mut ends = 0;
        for piece in self.stream.take_ahead() {
            match piece {
                Ahead::Data(data) => all.extend(data),
                Ahead::End => ends += 1,
                Ahead::Failed(error) => panic!("{error}"),
            }
        }
        (all, ends)
    }
}

#[test]
fn what_the_filter_wants_sent_first_is_queued_from_the_beginning() {
    let (near, far) = UnixStream::pair().unwrap();
    let (filter, first) = Counting::client();
    let stream: Stream<Vec<u8>> =
        Stream::filtered(near.as_raw_fd(), Channel::Local, Box::new(filter), &first);
    assert!(stream.state().bits().may_write() && !stream.is_open());
    assert!(stream.flush(&NoReactor).unwrap().drained);
    let mut came = [0; 8];
    assert_eq!((&far).read(&mut came).unwrap(), first.len());
}

#[test]
fn much_that_the_kernel_does_not_take_is_queued_where_it_is_and_little_is_copied() {
    let mut pair = Pair::open();
    let before = pair.peer.received.len();
    let data: Vec<u8> = (0..=250).cycle().take(2_000_000).collect();
    let wrote = pair.write(&data).unwrap();
    assert!(wrote.queued && wrote.sent > 0);
    assert!(pair.passage.ciphertext.room().is_empty(), "the memory is queued");
    // Behind that, and too little to be worth its memory.
    let _ = pair.write(b"little").unwrap();
    assert!(!pair.passage.ciphertext.is_empty(), "the memory stays");
    let mut kept = 0;
    loop {
        pair.peer_takes();
        pair.edge();
        let flushed = pair.stream.flush(&NoReactor).unwrap();
        assert!(flushed.failure.is_none());
        for memory in flushed.spent {
            kept = kept.max(memory.capacity());
            pair.passage.ciphertext.clear();
            pair.passage.ciphertext.give_back(memory);
        }
        if flushed.drained {
            break;
        }
    }
    pair.peer_takes();
    assert!(pair.peer.received[before..] == [&data[..], b"little"].concat());
    assert!(kept > data.len() && pair.passage.ciphertext.room().len() > data.len(), "used again");
}

#[test]
fn a_handshake_is_finished_by_any_thread_and_the_owner_hears_of_it() {
    let mut pair = Pair::new();
    let report = pair.help();
    assert!(report.worked, "{report:?}");
    assert!(pair.stream.is_open() && !pair.stream.is_introduced());
    assert!(pair.stream.state().bits().has_news());
    pair.peer_takes();
    assert_eq!(pair.peer.filter.send(b"x", &mut Ciphertext::default()).unwrap(), 1, "answered");
}

#[test]
fn data_come_out_as_they_went_in_whoever_reads() {
    let mut pair = Pair::open();
    let records = pair.peer.send(b"read by the owner");
    pair.peer_sends(&records);
    let passed = pair.read();
    assert!(!passed.answers && passed.last.is_none());
    assert_eq!(pair.passage.take_plaintext(), b"read by the owner");
    let records = pair.peer.send(b"read ahead");
    pair.peer_sends(&records);
    let report = pair.help();
    assert_eq!(report.bytes_in, records.len() as u64);
    assert_eq!(pair.ahead().0, b"read ahead");
}

#[test]
fn what_was_written_is_not_sent_again_when_something_comes() {
    let mut pair = Pair::open();
    for _ in 0..3 {
        let _ = pair.write(b"once").unwrap();
        let records = pair.peer.send(b"data");
        pair.peer_sends(&records);
        assert!(!pair.read().answers);
    }
    pair.peer_takes();
    assert_eq!(pair.peer.received, b"onceonceonce");
}

#[test]
fn a_record_may_come_in_any_pieces_to_different_threads() {
    let mut pair = Pair::open();
    for round in 0..3 {
        let data: Vec<u8> = (0..200).collect();
        let mut records = pair.peer.send(&data);
        let mut received = Vec::new();
        while !records.is_empty() {
            let rest = records.split_off(1);
            pair.peer_sends(&records);
            records = rest;
            if records.len().is_multiple_of(round + 2) {
                let _ = pair.help();
                received.extend(pair.ahead().0);
            } else {
                let _ = pair.read();
                received.extend(pair.passage.take_plaintext());
            }
        }
        assert_eq!(received, data);
    }
}

#[test]
fn data_are_sent_at_once_and_queued_when_the_kernel_is_full() {
    let mut pair = Pair::open();
    let wrote = pair.write(b"now").unwrap();
    assert!(wrote.sent > 3 && !wrote.queued);
    let big = vec![7; 4 << 20];
    let wrote = pair.write(&big).unwrap();
    assert!(wrote.queued && pair.stream.state().bits().is_queued());
    // What comes later is behind it, whatever room there is by then.
    let wrote = pair.write(b"last").unwrap();
    assert_eq!((wrote.sent, wrote.queued), (0, true));
    while pair.stream.state().bits().is_queued() {
        pair.peer_takes();
        pair.edge();
        drop(pair.stream.flush(&NoReactor));
    }
    pair.peer_takes();
    let received = &pair.peer.received;
    assert_eq!(received.len(), 3 + big.len() + 4);
    assert!(received.starts_with(b"now") && received.ends_with(b"last"));
}

#[test]
fn answers_of_another_thread_are_sent_in_the_order_of_the_records() {
    let mut pair = Pair::open();
    for _ in 0..200 {
        let ping = pair.peer.ping();
        pair.peer_sends(&ping);
        thread::scope(|scope| {
            let stream = &pair.stream;
            let helper = scope.spawn(|| {
                let token = crate::id::IoToken::of_source(0, 1);
                let edge =
                    crate::reactor::Ready { token, readable: true, writable: true, ended: false };
                let _ = stream.ready(edge);
                stream.run(&mut JobContext { scratch: &mut [], registrar: &NoReactor })
            });
            let mut filter = stream.filter().unwrap().lock();
            let mut to = Ciphertext::default();
            let _ = stream.write_through(&mut filter, b"data", false, &mut to).unwrap();
            drop(filter);
            let _ = helper.join().unwrap();
        });
        drop(pair.stream.flush(&NoReactor));
        pair.peer_takes(); // panics if one came before another
    }
    assert_eq!((pair.peer.filter.pongs, pair.peer.received.len()), (200, 800));
}

#[test]
fn the_peers_end_comes_behind_its_data() {
    let mut pair = Pair::open();
    let records = [pair.peer.send(b"data"), pair.peer.close()].concat();
    pair.peer_sends(&records);
    let passed = pair.read();
    assert!(matches!(passed.last, Some(Ahead::End)));
    assert_eq!(pair.passage.take_plaintext(), b"data");
    let mut pair = Pair::open();
    let records = [pair.peer.send(b"data"), pair.peer.close()].concat();
    pair.peer_sends(&records);
    let _ = pair.help();
    assert_eq!(pair.ahead(), (b"data".to_vec(), 1));
}

#[test]
fn a_stream_that_ends_without_a_word_has_failed() {
    let mut pair = Pair::open();
    pair.far.shutdown(std::net::Shutdown::Write).unwrap();
    let Some(Ahead::Failed(error)) = pair.read().last else { panic!("no failure") };
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn a_failure_of_the_filter_comes_behind_what_it_understood() {
    let mut pair = Pair::open();
    let records = [pair.peer.send(b"good"), vec![9, 2, 0]].concat();
    pair.peer_sends(&records);
    let passed = pair.read();
    assert!(matches!(passed.last, Some(Ahead::Failed(_))));
    assert_eq!(pair.passage.take_plaintext(), b"good");
}

#[test]
fn a_connection_that_opens_and_fails_at_once_is_open_first() {
    let mut pair = Pair::new();
    let _ = pair.peer.take(&[1, 0, 0]); // as if the server had answered already
    let records = [pair.peer.send(b"data"), vec![9, 9, 0]].concat();
    pair.peer_sends(&records);
    let passed = pair.read();
    assert!(matches!(passed.last, Some(Ahead::Failed(_))));
    assert_eq!((pair.stream.is_open(), &pair.passage.take_plaintext()[..]), (true, &b"data"[..]));
}

#[test]
fn the_own_end_is_said_behind_all_that_was_written_and_nothing_after_it() {
    let mut pair = Pair::open();
    let _ = pair.write(b"data").unwrap();
    let shut = |pair: &mut Pair| {
        let mut filter = pair.stream.filter().unwrap().lock();
        pair.stream.shut_through(&mut filter, &mut pair.passage.ciphertext).unwrap()
    };
    let (wrote, is_peer_closed) = shut(&mut pair);
    assert!(wrote.sent > 0 && !is_peer_closed);
    assert!(pair.write(b"more").is_err());
    pair.peer_takes();
    assert_eq!((&pair.peer.received[..], pair.peer.filter.peer_closed), (&b"data"[..], true));
    let close = pair.peer.close();
    pair.peer_sends(&close);
    let _ = pair.read();
    let (wrote, is_peer_closed) = shut(&mut pair);
    assert_eq!((wrote.sent, is_peer_closed), (0, true), "said once");
}

#[test]
fn what_is_read_ahead_is_bounded() {
    let mut pair = Pair::open();
    pair.far.set_nonblocking(true).unwrap();
    let mut most = 0;
    for _ in 0..2000 {
        let records = pair.peer.send(&[1; 200]);
        if pair.far.write_all(&records).is_err() {
            break;
        }
        let _ = pair.help();
        most = most.max(pair.stream.ahead_bytes());
    }
    assert!(most >= config::READ_AHEAD / 2, "{most}");
    assert!(most <= config::READ_AHEAD + FILTER_MEMORY, "{most}");
    assert!(pair.stream.state().bits().may_read(), "the rest is in the kernel");
}

#[test]
fn a_peer_that_asks_for_answers_and_does_not_read_them_is_given_up() {
    let mut pair = Pair::open();
    let answered = |pair: &mut Pair, count: usize| {
        let pings: Vec<u8> = (0..count).flat_map(|_| pair.peer.ping()).collect();
        pair.peer_sends(&pings);
        pair.read().last
    };
    for _ in 0..50 {
        assert!(answered(&mut pair, 1000).is_none(), "those before were sent");
        pair.flush();
        pair.peer_takes();
    }
    for _ in 0..20 {
        assert!(answered(&mut pair, 1000).is_none(), "they are few");
    }
    let lasts: Vec<_> = (0..3).filter_map(|_| answered(&mut pair, 1000)).collect();
    assert!(matches!(lasts[..], [.., Ahead::Failed(_)]), "{lasts:?}");
}

#[test]
fn nothing_is_kept_of_a_connection_that_is_idle() {
    let mut pair = Pair::open();
    let records = pair.peer.send(b"data");
    pair.peer_sends(&records);
    let _ = pair.read();
    assert_eq!(pair.stream.filter().unwrap().lock().filter().restore(&mut [0; 8]), 0);
    let bits: Bits = pair.stream.state().bits();
    assert!(bits.is_at_rest(), "{bits:?}");
    drop(pair.near);
}
