//! What a loop keeps for its descriptors is bounded in bytes, as the allocator counts them: whatever
//! numbers the kernel gives out, and whatever peers send while nobody gets to it.

#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use loop_pool::config;
use loop_pool::error::LoopError;
use loop_pool::id::IoToken;
use loop_pool::reactor::{Direction, Handle, IoTable, Ready};
use loop_pool::sys::socket::Channel;
use loop_pool::transport::{
    Ahead, Input, JobContext, Listener, Port, Registrar, Source, SourceTable, Stream,
};

const KIB: usize = 1024;

/// What every allocation takes besides, at least.
const HEADER: usize = 16;

/// Counts what each thread holds.
struct Counting;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.set(HELD.get().wrapping_add(layout.size() + HEADER));
        // SAFETY: handed on to our caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        HELD.set(HELD.get().wrapping_sub(layout.size() + HEADER));
        // SAFETY: handed on to our caller.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// What `f` leaves allocated, and returns.
fn kept<R>(f: impl FnOnce() -> R) -> (usize, R) {
    let before = HELD.get();
    let result = f();
    (HELD.get().wrapping_sub(before), result)
}

/// For what needs no reactor.
struct NoReactor;

impl Registrar for NoReactor {
    fn with_handle(&self, _: &mut dyn FnMut(&Handle) -> io::Result<()>) -> Result<(), LoopError> {
        Err(LoopError::Closed)
    }
}

type Bytes = Stream<Vec<u8>>;

/// A stream that nobody gets to, and its peer.
fn stream() -> (Bytes, UnixStream, UnixStream) {
    let (near, far) = UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    let stream = Stream::new(near.as_raw_fd(), Channel::Local, Input::Data);
    let _ = stream.state().start();
    (stream, near, far)
}

/// What a helper does when the kernel has reported it.
fn help(stream: &Bytes, scratch: &mut [u8]) {
    let token = IoToken::of_source(0, 1);
    let _ = stream.ready(Ready { token, readable: true, writable: true, ended: true });
    let _ = stream.run(&mut JobContext { scratch, registrar: &NoReactor });
}

#[test]
fn a_high_descriptor_costs_no_more_than_a_low_one() {
    let of_transport = |fd| {
        let source: Arc<dyn Source> = Arc::new(Listener::new(fd, None));
        let mut table = SourceTable::default();
        kept(|| table.insert(fd, source, 0).unwrap()).0
    };
    let of_reader = |fd| {
        let mut table = IoTable::default();
        kept(|| table.set(fd, Direction::Read, (), None, |_, _, _| Ok(())).is_ok()).0
    };
    for fd in [1_000_000, i32::MAX] {
        assert_eq!(of_transport(fd), of_transport(3));
        assert_eq!(of_reader(fd), of_reader(3));
        assert!(of_transport(fd) < KIB && of_reader(fd) < KIB);
    }
}

#[test]
fn a_transport_takes_little_of_its_loop_s_table() {
    const COUNT: i32 = 10_000;
    let source: Arc<dyn Source> = Arc::new(Listener::new(3, None));
    let mut table = SourceTable::default();
    let (bytes, ()) = kept(|| {
        for fd in 0..COUNT {
            // As of a loop that has a seventh of the process's descriptors.
            let token = table.insert(7 * fd, Arc::clone(&source), 0).unwrap();
            let _ = table.note_work(token);
        }
    });
    assert!(bytes / 10_000 < 110, "{} bytes each", bytes / 10_000);
}

#[test]
fn small_messages_read_ahead_take_no_more_than_the_bound() {
    let (stream, _near, mut far) = stream();
    let mut scratch = vec![0; config::READ_SIZE];
    let (bytes, count) = kept(|| {
        (1..config::READ_AHEAD).find(|_| {
            let before = stream.ahead_bytes();
            far.write_all(b"message").unwrap();
            help(&stream, &mut scratch);
            stream.ahead_bytes() == before
        })
    });
    assert!(count.unwrap() > config::READ_AHEAD / 8, "{count:?} were read ahead");
    assert!(bytes <= config::READ_AHEAD + KIB, "{} KiB", bytes / KIB);
}

/// As when a protocol takes little each time, and pauses: what is put back is not joined to what
/// came meanwhile.
#[test]
fn pieces_that_cannot_be_joined_count_what_they_take() {
    let (stream, _near, mut far) = stream();
    let mut scratch = vec![0; config::READ_SIZE];
    let (bytes, count) = kept(|| {
        (1..10_000).find(|_| {
            let waiting = stream.take_ahead();
            far.write_all(b"x").unwrap();
            help(&stream, &mut scratch);
            stream.put_back_ahead(waiting);
            let before = stream.ahead_bytes();
            far.write_all(b"x").unwrap();
            help(&stream, &mut scratch);
            stream.ahead_bytes() == before
        })
    });
    assert!(bytes <= config::READ_AHEAD + KIB, "{count:?}: {} KiB", bytes / KIB);
    assert!(count.unwrap() > 1000, "{count:?} pieces");
}

#[test]
fn connections_that_end_while_nobody_gets_to_them_take_little_however_often_it_is_reported() {
    const COUNT: usize = 2000;
    let connections: Vec<_> = (0..COUNT).map(|_| stream()).collect();
    let mut scratch = vec![0; config::READ_SIZE];
    let (bytes, ()) = kept(|| {
        for (stream, _near, far) in &connections {
            far.shutdown(std::net::Shutdown::Write).unwrap();
            for _ in 0..100 {
                help(stream, &mut scratch);
            }
        }
    });
    assert!(bytes / COUNT < KIB / 2, "{} bytes each", bytes / COUNT);
    for (stream, ..) in &connections {
        assert!(matches!(stream.take_ahead().make_contiguous(), [Ahead::End]));
        stream.forget();
    }
}
