//! Streams over real pipes and sockets: the write buffer, and the way of a read.
//!
//! A pipe takes 64 KiB, whatever the machine's settings for sockets are, so that the count of
//! instructions around its system calls is the same everywhere.

use std::borrow::Cow;
use std::hint::black_box;
use std::io::{Read, Write, pipe};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use loop_pool::event_loop::{EventLoop, Shared};
use loop_pool::id::IoToken;
use loop_pool::reactor::Ready;
use loop_pool::sys::socket::Channel;
use loop_pool::transport::{Buffer, CopyOf, Input, Schedule, Source, Stream};

use crate::non_blocking;

/// What a pipe holds.
const PIPE: usize = 64 * 1024;

/// Bytes of one message that is read.
const MESSAGE: usize = 1024;

#[derive(Debug)]
struct Chunk(Cow<'static, [u8]>);

// SAFETY: the memory is static, or a vector's on the heap, and is not changed.
unsafe impl Buffer for Chunk {
    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl CopyOf for Chunk {
    fn copy_of(bytes: &[u8]) -> Self {
        Self(Cow::Owned(bytes.to_vec()))
    }

    fn keep(bytes: Vec<u8>) -> Self {
        Self(Cow::Owned(bytes))
    }
}

fn registrar() -> Arc<Shared> {
    Arc::clone(EventLoop::<()>::new().expect("descriptors").shared())
}

fn event(readable: bool, writable: bool) -> Ready {
    Ready { token: IoToken::of_source(0, 1), readable, writable, ended: false }
}

/// Queues so many chunks of `size` bytes, and writes them in as many turns as the pipe needs, which is
/// emptied in between.
///
/// # Panics
/// When the pipe fails, or bytes get lost, which is a bug.
pub fn write(chunks: usize, size: usize) -> impl FnMut() {
    let (mut near, far) = pipe().expect("descriptors");
    let stream = Stream::new(non_blocking(&far), Channel::Pipe, Input::PeerGone);
    assert_eq!(stream.state().start(), Schedule::Unneeded);
    let registrar = registrar();
    let data: &'static [u8] = Box::leak(vec![7; size].into());
    let mut sink = vec![0; PIPE];
    move || {
        // The pipe lives as long as the stream.
        black_box(&far);
        for _ in 0..chunks {
            drop(stream.enqueue(black_box(Chunk(Cow::Borrowed(data))), 0));
        }
        let mut left = chunks * size;
        while left > 0 {
            let _ = black_box(stream.state().ready(event(false, true)));
            let _ = black_box(stream.state().begin_turn());
            let flushed = stream.flush(&*registrar).expect("something is queued");
            let _ = black_box(stream.state().end_turn());
            assert!(flushed.failure.is_none());
            drop(flushed.spent);
            left -= near.read(&mut sink).expect("something was written");
        }
    }
}

/// A message arrives and is read in its stream's turn.
///
/// # Panics
/// When the message is lost, which is a bug.
pub fn read() -> impl FnMut() {
    let (near, mut far) = UnixStream::pair().expect("descriptors");
    let stream: Stream<Chunk> = Stream::new(non_blocking(&near), Channel::Local, Input::Data);
    assert_eq!(stream.state().start(), Schedule::Unneeded);
    let mut scratch = vec![0; loop_pool::config::READ_SIZE];
    move || {
        // The socket lives as long as the stream.
        black_box(&near);
        far.write_all(&[7; MESSAGE]).expect("there is room");
        assert_eq!(stream.state().ready(event(true, false)), Schedule::Needed);
        let claim = stream.state().begin_turn().claim.expect("nobody else reads");
        let (count, more) = stream.read(&claim, &mut scratch).expect("there is something to read");
        claim.release_in_turn(more);
        let _ = black_box(stream.state().end_turn());
        assert_eq!(count, MESSAGE);
    }
}

/// The system calls of [`read`] alone, for comparison.
///
/// # Panics
/// When the message is lost.
pub fn read_bare() -> impl FnMut() {
    let (near, mut far) = UnixStream::pair().expect("descriptors");
    let fd = non_blocking(&near);
    let mut scratch = vec![0; loop_pool::config::READ_SIZE];
    move || {
        black_box(&near);
        far.write_all(&[7; MESSAGE]).expect("there is room");
        let read = Channel::Local.read(fd, &mut scratch).expect("there is something to read");
        assert_eq!(black_box(read).0, MESSAGE);
    }
}
