//! What a stream promises, one by one, over real sockets and pipes.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]
#![allow(clippy::disallowed_methods, reason = "sync::thread is std's here")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::test_owner::{Helper, Owner};
use super::*;
use crate::sync::atomic::{AtomicBool, Ordering::Relaxed};
use crate::sync::thread;

pub(super) fn unix() -> (Owner, UnixStream) {
    let (near, far) = UnixStream::pair().unwrap();
    (Owner::new(near, Channel::Local, Input::Data), far)
}

fn tcp() -> (Owner, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (near, _) = listener.accept().unwrap();
    (Owner::new(near, Channel::Socket, Input::Data), far)
}

/// Lets the kernel keep little of what is sent.
fn narrow(owner: &Owner) {
    let bytes: libc::c_int = 4096;
    // SAFETY: the option is an `int`.
    let status = unsafe {
        let length = size_of::<libc::c_int>() as libc::socklen_t;
        let value = (&raw const bytes).cast();
        libc::setsockopt(owner.stream.fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, value, length)
    };
    assert_eq!(status, 0);
}

/// The byte at each place of a stream, like no other nearby: one that is lost, doubled or moved is
/// seen.
fn byte_at(place: usize) -> u8 {
    ((place as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

pub(super) fn pattern(from: usize, length: usize) -> Vec<u8> {
    (from..from + length).map(byte_at).collect()
}

/// Reads to the end on a thread of its own.
fn reading(mut far: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut all = Vec::new();
        far.read_to_end(&mut all).unwrap();
        all
    })
}

#[track_caller]
pub(super) fn assert_same(found: &[u8], wanted: &[u8]) {
    let differs = found.iter().zip(wanted).position(|(found, wanted)| found != wanted);
    assert_eq!((differs, found.len()), (None, wanted.len()), "(first difference, length)");
}

// -- the owner alone -----------------------------------------------------------------------------

fn talk(mut owner: Owner, mut far: impl Read + Write) {
    owner.write(b"hello");
    let mut buffer = [0; 5];
    far.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"hello");
    far.write_all(&pattern(0, 3000)).unwrap();
    owner.run_until(|owner| owner.received.len() == 3000);
    assert_same(&owner.received, &pattern(0, 3000));
    drop(far);
    owner.run_until(|owner| owner.ends > 0);
    assert_eq!((owner.ends, owner.read_failures.len()), (1, 0));
}

#[test]
fn the_owner_reads_and_writes_sockets() {
    let (owner, far) = unix();
    talk(owner, far);
    let (owner, far) = tcp();
    talk(owner, far);
}

#[test]
fn the_owner_reads_and_writes_pipes() {
    let (near, mut far) = std::io::pipe().unwrap();
    let mut reader = Owner::new(near, Channel::Pipe, Input::Data);
    far.write_all(&pattern(0, 3000)).unwrap();
    drop(far);
    reader.run_until(|owner| owner.ends > 0);
    assert_same(&reader.received, &pattern(0, 3000));

    let (far, near) = std::io::pipe().unwrap();
    let mut writer = Owner::new(near, Channel::Pipe, Input::Nothing);
    writer.write(&pattern(0, 1 << 20));
    assert!(writer.stream.queued() > 0, "more than a pipe holds");
    let far = reading(far);
    writer.run_until(|owner| owner.stream.queued() == 0);
    drop(writer);
    assert_same(&far.join().unwrap(), &pattern(0, 1 << 20));
}

#[test]
fn the_owner_of_a_write_end_alone_hears_that_the_reader_is_gone() {
    for (input, hears) in [(Input::PeerGone, true), (Input::Nothing, false)] {
        let (_far, near) = std::io::pipe().unwrap();
        let stream = Stream::<Vec<u8>>::new(near.as_raw_fd(), Channel::Pipe, input);
        let _ = stream.state().start();
        let token = IoToken::new(0, 0);
        let gone = Ready { token, readable: true, writable: true, ended: true };
        assert_eq!(stream.ready(gone) == Schedule::Needed, hears);
        let registrar = crate::transport::source::NoReactor;
        let mut job_context = JobContext { scratch: &mut [0; 1], registrar: &registrar };
        assert_eq!(
            stream.run(&mut job_context),
            Report::default(),
            "another thread does not read it"
        );
        assert_eq!(stream.state().begin_turn().claim.is_some(), hears);
    }
}

#[test]
fn what_the_kernel_has_no_room_for_is_written_when_it_has() {
    for (mut owner, far) in [both(unix()), both(tcp())] {
        narrow(&owner);
        for part in 0..100 {
            owner.write(&pattern(part * 10_000, 10_000));
        }
        assert!(owner.stream.queued() > 0);
        owner.stream.shut_write().unwrap();
        let far = reading(std::fs::File::from(far));
        owner.run_until(|owner| owner.stream.queued() == 0);
        assert_same(&far.join().unwrap(), &pattern(0, 1_000_000));
        assert!(owner.write_failures.is_empty());
    }
}

fn both((owner, far): (Owner, impl Into<OwnedFd>)) -> (Owner, OwnedFd) {
    (owner, far.into())
}

/// The end is reported together with the last bytes, and never again.
#[test]
fn an_end_that_comes_with_the_last_bytes_is_seen() {
    let (mut owner, mut far) = tcp();
    far.write_all(b"bye").unwrap();
    far.shutdown(std::net::Shutdown::Write).unwrap();
    owner.run_until(|owner| owner.ends > 0);
    assert_eq!((&*owner.received, owner.ends), (&b"bye"[..], 1));
}

// -- where a short read is not the last ----------------------------------------------------------

/// A read stops before urgent data, whatever comes behind them.
#[test]
fn what_follows_urgent_data_is_read() {
    let (mut owner, mut far) = tcp();
    far.write_all(b"before").unwrap();
    // SAFETY: one byte of a literal.
    let sent = unsafe { libc::send(far.as_raw_fd(), b"!".as_ptr().cast(), 1, libc::MSG_OOB) };
    assert_eq!(sent, 1);
    far.write_all(b"after").unwrap();
    owner.run_until(|owner| owner.received.len() == 11);
    assert_eq!(owner.received, b"beforeafter");
}

/// A read stops behind bytes that came with descriptors. Those are discarded.
#[test]
fn what_follows_passed_descriptors_is_read() {
    let (mut owner, mut far) = unix();
    send_with_descriptor(&far, b"with");
    far.write_all(b"without").unwrap();
    owner.run_until(|owner| owner.received.len() == 11);
    assert_eq!(owner.received, b"withwithout");
}

fn send_with_descriptor(far: &UnixStream, data: &[u8]) {
    let size = size_of::<libc::c_int>() as libc::c_uint;
    let part = IoSlice::new(data);
    let mut control = [0_u64; 4];
    // SAFETY: the message points to one part and to aligned room for one descriptor's header, which
    // is written before it is sent.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = (&raw const part).cast_mut().cast();
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(size) as _;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size) as _;
        libc::CMSG_DATA(header).cast::<libc::c_int>().write_unaligned(far.as_raw_fd());
        let sent = libc::sendmsg(far.as_raw_fd(), &raw const message, 0);
        assert_eq!(usize::try_from(sent), Ok(data.len()));
    }
}

// -- another thread, while the owner is idle -----------------------------------------------------

#[test]
fn another_thread_writes_what_is_queued_in_order() {
    let (mut owner, mut far) = unix();
    for part in 0..100 {
        owner.queue(&pattern(part * 10, 10));
    }
    let report = owner.helper.run_elsewhere();
    assert_eq!((report.bytes_out, report.tell_owner, report.again), (1000, true, false));
    let mut buffer = [0; 1000];
    far.read_exact(&mut buffer).unwrap();
    assert_same(&buffer, &pattern(0, 1000));
    let spent = owner.stream.take_news();
    assert!(spent.drained && spent.spent.len() == 100, "the owner drops them");
    owner.turn();
    assert!(!owner.helper.reactor.has_entry());
    assert_eq!(owner.helper.run_elsewhere(), Report::default());
}

#[test]
fn the_owner_gets_back_what_it_wrote_and_what_it_gives_up() {
    let (owner, _far) = unix();
    owner.queue(b"written");
    let flushed = owner.stream.flush(&*owner.helper.reactor).unwrap();
    assert_eq!((flushed.bytes, flushed.spent.len()), (7, 1));
    owner.queue(b"given up");
    assert!(!owner.stream.state().retire());
    owner.stream.forget();
    assert_eq!(owner.stream.queued(), 0);
    assert!(owner.stream.take_queue().is_empty());
}

#[test]
fn the_write_side_is_shut_by_whoever_writes_the_last_byte() {
    let (owner, mut far) = unix();
    owner.queue(b"last words");
    owner.stream.shut_write().unwrap();
    let _ = owner.helper.run_elsewhere();
    let mut all = Vec::new();
    far.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"last words");
}

#[test]
fn a_budget_bounds_what_one_job_writes() {
    let (mut owner, far) = unix();
    let all = pattern(0, 4 << 20);
    owner.queue(&all);
    let far = reading(far);
    let mut most = 0;
    while owner.stream.queued() > 0 {
        let report = owner.helper.run_elsewhere();
        most = most.max(report.bytes_out);
        if !report.again && owner.stream.queued() > 0 {
            owner.poll();
        }
    }
    assert!(most <= config::JOB_BUDGET as u64, "{most}");
    owner.give_up();
    assert_same(&far.join().unwrap(), &all);
}

#[test]
fn reading_ahead_stops_at_the_bound_and_goes_on_when_it_was_taken() {
    const ALL: usize = config::READ_AHEAD * 3;
    let (mut owner, mut far) = unix();
    let writer = thread::spawn(move || far.write_all(&pattern(0, ALL)).unwrap());
    while owner.stream.ahead.room() > 0 {
        owner.helper.poll();
        let _ = owner.helper.run_elsewhere();
    }
    owner.helper.poll();
    assert_eq!(owner.helper.run_elsewhere(), Report::default());
    let ahead = owner.stream.ahead_bytes();
    assert!((config::READ_AHEAD / 2..config::READ_AHEAD).contains(&ahead), "{ahead}");
    owner.run_until(|owner| owner.ends > 0);
    writer.join().unwrap();
    assert_same(&owner.received, &pattern(0, ALL));
}

#[test]
fn the_end_comes_after_the_data_and_once() {
    let (mut owner, mut far) = unix();
    far.write_all(b"abc").unwrap();
    owner.poll();
    let _ = owner.helper.run_elsewhere();
    far.write_all(b"def").unwrap();
    drop(far);
    for _ in 0..3 {
        owner.poll();
        let _ = owner.helper.run_elsewhere();
        // As if the kernel reported it once more.
        let _ = owner.stream.ready(Ready {
            token: owner.stream.link().token().unwrap(),
            readable: true,
            writable: false,
            ended: true,
        });
    }
    owner.run_until(|owner| !owner.helper.reactor.has_entry());
    assert_eq!((&*owner.received, owner.ends), (&b"abcdef"[..], 1));
}

/// Closes with a reset.
fn reset(far: TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the option is a `linger`.
    let status = unsafe {
        let length = size_of::<libc::linger>() as libc::socklen_t;
        let value = (&raw const linger).cast();
        libc::setsockopt(far.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, value, length)
    };
    assert_eq!(status, 0);
    drop(far);
}

#[test]
fn a_failure_comes_after_the_data_and_once() {
    let (mut owner, mut far) = tcp();
    far.write_all(b"abc").unwrap();
    owner.poll();
    let _ = owner.helper.run_elsewhere();
    reset(far);
    owner.poll_for_end();
    let _ = owner.helper.run_elsewhere();
    owner.run_until(|owner| !owner.helper.reactor.has_entry());
    assert_eq!(owner.received, b"abc");
    assert_eq!((owner.ends, &*owner.read_failures), (0, &[io::ErrorKind::ConnectionReset][..]));
}

#[test]
fn the_first_failure_to_write_is_the_one_that_is_told() {
    let (mut owner, far) = tcp();
    owner.stream.state().pause();
    reset(far);
    owner.poll_for_end();
    owner.queue(b"too late");
    for _ in 0..2 {
        let _ = owner.helper.run_elsewhere();
        let token = owner.stream.link().token().unwrap();
        let _ = owner.stream.ready(Ready { token, readable: false, writable: true, ended: true });
    }
    let news = owner.stream.take_news();
    assert_eq!(news.failure.unwrap().kind(), io::ErrorKind::ConnectionReset);
}

// -- what the owner is told ----------------------------------------------------------------------

/// If the reactor cannot be asked to report room, nobody may wait for its report.
#[test]
fn a_reactor_that_refuses_is_a_failure_and_not_a_wait() {
    let (mut owner, _far) = unix();
    narrow(&owner);
    owner.helper.reactor.refuses.store(2, Relaxed);
    owner.queue(&pattern(0, 1 << 20));
    owner.flush();
    assert_eq!(owner.write_failures.len(), 1);
    assert_eq!(owner.stream.queued(), 0, "what is left is lost with the stream");
    assert_eq!(owner.helper.reactor.refuses.load(Relaxed), 0, "it was asked again");
}

/// The mark may be set when less than that is queued already.
#[test]
fn the_owner_hears_of_a_mark_that_was_passed_before_it_was_set() {
    let (mut owner, mut far) = unix();
    narrow(&owner);
    owner.write(&pattern(0, 100_000));
    let queued = owner.stream.queued();
    owner.stream.tell_below(queued);
    assert!(far.read(&mut vec![0; 20_000]).unwrap() > 0);
    owner.poll();
    let report = owner.helper.run_elsewhere();
    assert!(report.bytes_out > 0 && owner.stream.queued() > 0);
    assert!(owner.stream.state().bits().has_news(), "{report:?}");
}

// -- many threads --------------------------------------------------------------------------------

/// Threads that do whatever there is to do, until they are told to stop.
struct Helpers(Vec<thread::JoinHandle<()>>, std::sync::Arc<AtomicBool>);

impl Helpers {
    fn start(helper: &Helper) -> Self {
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let spawn = |_| {
            let (helper, stop) = (helper.clone(), std::sync::Arc::clone(&stop));
            thread::spawn(move || {
                let mut scratch = vec![0; 5000];
                while !stop.load(Relaxed) {
                    if !helper.run(&mut scratch).worked {
                        helper.poll();
                        thread::yield_now();
                    }
                }
            })
        };
        Self((0..2).map(spawn).collect(), stop)
    }

    fn stop(self) {
        self.1.store(true, Relaxed);
        self.0.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

/// An owner and two others work on one stream, with a peer that sends and receives at once. Each byte
/// tells its place.
fn hammer(mut owner: Owner, far: OwnedFd) {
    narrow(&owner);
    let mut sending = std::fs::File::from(far.try_clone().unwrap());
    let came = reading(std::fs::File::from(far));
    let until = Instant::now() + Duration::from_secs(1);
    let sender = thread::spawn(move || {
        let mut sent = 0;
        while Instant::now() < until {
            sending.write_all(&pattern(sent, 1 + sent % 7001)).unwrap();
            sent += 1 + sent % 7001;
        }
        socket::shutdown_write(sending.as_raw_fd()).unwrap();
        sent
    });
    let helpers = Helpers::start(&owner.helper);
    let (mut wrote, mut turns) = (0_usize, 0_usize);
    while Instant::now() < until {
        turns += 1;
        match turns % 16 {
            3 => owner.stream.state().pause(),
            7 => owner.schedule(owner.stream.state().resume()),
            _ => {}
        }
        if owner.stream.queued() < 100_000 {
            let data = pattern(wrote, 1 + (wrote ^ turns) % 9001);
            if turns % 5 == 0 {
                owner.queue(&data);
            } else {
                owner.write(&data);
            }
            wrote += data.len();
        }
        // Busy with something else now and then, so that the others get to it.
        (0..turns % 64).for_each(|_| thread::yield_now());
        let has_entry = owner.helper.reactor.has_entry();
        if has_entry { owner.turn() } else { owner.poll_for(Duration::from_millis(1)) }
    }
    owner.schedule(owner.stream.state().resume());
    owner.stream.shut_write().unwrap();
    owner.run_until(|owner| owner.ends > 0 && owner.stream.queued() == 0);
    helpers.stop();
    assert_same(&owner.received, &pattern(0, sender.join().unwrap()));
    assert_same(&came.join().unwrap(), &pattern(0, wrote));
    assert!(owner.write_failures.is_empty() && owner.read_failures.is_empty());
}

#[test]
fn no_byte_is_lost_doubled_or_moved_on_a_unix_socket() {
    let (owner, far) = both(unix());
    hammer(owner, far);
}

#[test]
fn no_byte_is_lost_doubled_or_moved_over_tcp() {
    let (owner, far) = both(tcp());
    hammer(owner, far);
}

/// Nobody touches the descriptor once the owner has given it up, nor what was queued.
#[test]
fn an_abort_ends_the_work_of_others() {
    for round in 0..100 {
        let (mut owner, mut far) = unix();
        narrow(&owner);
        let helpers = Helpers::start(&owner.helper);
        far.write_all(&pattern(0, 50_000)).unwrap();
        (0..100).for_each(|_| owner.queue(&pattern(0, 5000)));
        (0..round * 10).for_each(|_| thread::yield_now());
        owner.give_up();
        assert!(owner.stream.take_queue().is_empty() && owner.stream.take_ahead().is_empty());
        helpers.stop();
        assert_eq!(owner.helper.run_elsewhere(), Report::default());
    }
}
