//! How a stream ends, and what it tells a program that writes.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::Read;

use super::tests::unix;
use super::*;
use crate::transport::{Drained, WriteGate};

fn write_end() -> Stream<Vec<u8>> {
    Stream::new(-1, Channel::Pipe, Input::PeerGone)
}

#[test]
fn a_close_reads_no_more_and_ends_when_the_queue_is_written() {
    let (owner, mut far) = unix();
    owner.queue(b"last words");
    assert_eq!(owner.stream.close(), Close::WaitForQueue);
    assert!(owner.stream.state().bits().is_read_closed());
    let _ = owner.helper.run_elsewhere();
    let news = owner.stream.state().begin_turn().bits.has_news();
    assert!(news && owner.stream.take_news().drained);
    assert_eq!(owner.stream.link().ending().drained(), Drained::LoseNow);
    let mut words = [0; 10];
    far.read_exact(&mut words).unwrap();
    assert_eq!(&words, b"last words");
}

#[test]
fn a_write_end_that_closes_hears_of_its_reader_and_drops_what_is_written() {
    for (queued, close) in [(true, Close::WaitForQueue), (false, Close::LoseSoon)] {
        let stream = write_end();
        if queued {
            drop(stream.enqueue(b"data".to_vec(), 0));
        }
        assert_eq!(stream.close(), close);
        assert!(!stream.state().bits().is_read_closed());
        assert!(stream.link().ending().write_gate() != WriteGate::Open);
    }
}

#[test]
fn a_write_side_is_not_shut_by_one_that_closes() {
    let (owner, mut far) = unix();
    owner.queue(b"x");
    assert_eq!(owner.stream.close(), Close::WaitForQueue);
    owner.stream.shut_write().unwrap();
    let _ = owner.helper.run_elsewhere();
    far.set_nonblocking(true).unwrap();
    let mut buffer = [0; 10];
    assert_eq!(far.read(&mut buffer).unwrap(), 1);
    let error = far.read(&mut buffer).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "the end is the descriptor's");
}

#[test]
fn marks_are_the_programs_and_those_of_a_pipe_resume_at_nothing() {
    let (owner, _far) = unix();
    owner.stream.set_limits((4, 6));
    assert_eq!(owner.stream.link().flow().limits(), (4, 6));
    owner.queue(b"seventh");
    assert!(owner.stream.link().pauses());
    owner.stream.set_protocol_paused(true);
    assert!(owner.stream.link().flow().is_paused() && !owner.stream.link().resumes());
    owner.stream.set_limits((7, 7));
    assert!(owner.stream.link().resumes(), "with what is queued");

    let pipe = write_end();
    drop(pipe.enqueue(vec![0; 7], 0));
    pipe.set_protocol_paused(true);
    pipe.set_limits((7, 7));
    assert!(!pipe.link().resumes());
    pipe.forget();
    assert!(pipe.link().resumes());
}

/// Whoever writes for the owner tells it when a paused protocol is to go on.
#[test]
fn a_helper_tells_the_owner_of_the_mark_that_was_set() {
    let (owner, _far) = unix();
    owner.queue(b"data");
    owner.stream.set_protocol_paused(true);
    assert!(owner.helper.run_elsewhere().tell_owner);
    assert!(owner.stream.link().resumes());
}
