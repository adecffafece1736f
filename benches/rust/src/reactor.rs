//! Polls with so many descriptors ready, a wake, and the table of callbacks.

use std::hint::black_box;
use std::io::Write;
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use loop_pool::id::IoToken;
use loop_pool::reactor::{Direction, Driver, IoTable, Ready};
use loop_pool::sys::level_trigger::Watch;

use crate::non_blocking;

/// A poll that finds so many descriptors ready.
///
/// # Panics
/// When it finds other than these, which is a bug.
pub fn poll(ready: usize) -> impl FnMut() {
    const READ: Watch = Watch { read: true, write: false };
    let (mut driver, handle) = Driver::new().expect("descriptors");
    let pairs: Vec<_> = (0..ready)
        .map(|_| {
            let (near, mut far) = UnixStream::pair().expect("descriptors");
            let token = IoToken::new(0, 1);
            handle.watch(non_blocking(&near), token, Watch::NONE, READ).expect("it is a socket");
            far.write_all(b"x").expect("there is room");
            (near, far)
        })
        .collect();
    let mut found = Vec::new();
    move || {
        black_box(&pairs);
        let polled = driver.poll(Duration::ZERO, &mut found);
        let _ = black_box(polled.expect("the selector is open"));
        assert_eq!(found.len(), ready);
        found.clear();
    }
}

/// A wake by the kernel, and the poll that it ends.
///
/// # Panics
/// When the selector fails.
pub fn wake() -> impl FnMut() {
    let (mut driver, handle) = Driver::new().expect("descriptors");
    let mut found = Vec::new();
    move || {
        handle.wake();
        let polled = driver.poll(Duration::from_secs(60), &mut found);
        let _ = black_box(polled.expect("the selector is open"));
    }
}

/// The callback of a ready descriptor among so many is looked up.
///
/// # Panics
/// When the table refuses a descriptor, which is a bug.
pub fn collect(descriptors: RawFd) -> impl FnMut() {
    let mut table = IoTable::default();
    let mut tokens = Vec::new();
    for fd in 0..descriptors {
        let set = table.set(fd, Direction::Read, [7_usize; 2], None, |token, _, _| {
            tokens.push(token);
            Ok(())
        });
        assert!(set.is_ok());
    }
    let mut next = 0;
    move || {
        next = (next + 1) % tokens.len();
        let token = tokens[next];
        let ready = Ready { token, readable: true, writable: false, ended: false };
        table.collect(black_box(ready), |_, callback| {
            black_box(callback);
        });
    }
}
