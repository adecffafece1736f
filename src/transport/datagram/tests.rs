//! Datagrams over real sockets: bounds, order, errors, and who may do what.

use super::*;
use crate::transport::source::NoReactor;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;

fn event(readable: bool, writable: bool) -> Ready {
    Ready { token: IoToken::new(0, 0), readable, writable, ended: false }
}

fn pair() -> (Datagrams<Vec<u8>>, UnixDatagram, UnixDatagram) {
    let (near, far) = UnixDatagram::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    far.set_nonblocking(true).unwrap();
    let datagrams = Datagrams::new(near.as_raw_fd());
    assert_eq!(datagrams.state().start(), Schedule::Unneeded);
    (datagrams, near, far)
}

fn run(datagrams: &Datagrams<Vec<u8>>) -> Report {
    let mut scratch = vec![0; config::READ_SIZE];
    datagrams.run(&mut JobContext { scratch: &mut scratch, registrar: &NoReactor })
}

/// The data of what was received ahead; an error as `None`.
fn ahead(datagrams: &Datagrams<Vec<u8>>) -> Vec<Option<Vec<u8>>> {
    let data = |one| match one {
        DatagramOutcome::Datagram(data, _) => Some(data.into_vec()),
        DatagramOutcome::Failed(_) => None,
    };
    datagrams.take_ahead().into_iter().map(data).collect()
}

fn drain(socket: &UnixDatagram) -> Vec<Vec<u8>> {
    let mut buffer = [0; 100];
    std::iter::from_fn(|| socket.recv(&mut buffer).ok().map(|count| buffer[..count].to_vec()))
        .collect()
}

/// Queues small datagrams until the kernel takes no more; returns how many it took.
fn fill(datagrams: &Datagrams<Vec<u8>>) -> usize {
    for sent in 0.. {
        match datagrams.send(b"x", &Target::Peer) {
            Ok(()) => {}
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                return sent;
            }
        }
    }
    unreachable!("the queue of a socket is bounded")
}

#[test]
fn what_is_received_ahead_keeps_its_borders_and_waits_for_the_owner() {
    let (datagrams, _near, far) = pair();
    for data in [&b"one"[..], b"", b"three"] {
        far.send(data).unwrap();
    }
    assert_eq!(datagrams.ready(event(true, false)), Schedule::Needed);
    assert!(run(&datagrams).worked);
    assert_eq!(datagrams.read_ahead(), 8 + 3 * HEADER);
    assert_eq!(
        ahead(&datagrams),
        [Some(b"one".to_vec()), Some(Vec::new()), Some(b"three".to_vec())]
    );
    assert_eq!(datagrams.read_ahead(), 0);
    let turn = datagrams.state().begin_turn();
    assert!(turn.claim.is_none(), "it was read to the end");
    assert_eq!(datagrams.state().end_turn(), Schedule::Unneeded);
}

#[test]
fn receiving_ahead_is_bounded_by_their_number_and_goes_on_when_they_are_taken() {
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    receiver.set_nonblocking(true).unwrap();
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.connect(receiver.local_addr().unwrap()).unwrap();
    let datagrams = Datagrams::<Vec<u8>>::new(receiver.as_raw_fd());
    let _ = datagrams.state().start();
    // Small ones in two steps, as the kernel's buffer holds some hundreds of them.
    let step = config::READ_AHEAD_DATAGRAMS / 2 + 1;
    for number in 0..2 {
        for _ in 0..step {
            sender.send(&[number]).unwrap();
        }
        let _ = datagrams.ready(event(true, false));
        assert!(run(&datagrams).worked);
    }
    assert!(!run(&datagrams).worked, "it is full");
    assert_eq!(ahead(&datagrams).len(), config::READ_AHEAD_DATAGRAMS);
    assert!(run(&datagrams).worked, "it stayed readable");
    assert_eq!(ahead(&datagrams), [Some(vec![1]), Some(vec![1])]);
}

#[test]
fn receiving_ahead_is_bounded_by_their_size() {
    let (datagrams, _near, far) = pair();
    let size = config::READ_AHEAD / 4;
    let mut came = 0;
    for _ in 0..5 {
        far.send(&vec![b'x'; size]).unwrap();
        let _ = datagrams.ready(event(true, false));
        came += usize::from(run(&datagrams).worked);
    }
    assert_eq!(came, 4);
    assert_eq!(ahead(&datagrams).len(), 4);
    assert!(run(&datagrams).worked);
    assert_eq!(ahead(&datagrams).len(), 1);
}

#[test]
fn an_error_stands_in_its_place_and_ends_nothing() {
    let gone = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.connect(gone).unwrap();
    let datagrams = Datagrams::<Vec<u8>>::new(socket.as_raw_fd());
    let _ = datagrams.state().start();
    datagrams.send(b"x", &Target::Peer).unwrap();
    let far = UdpSocket::bind(gone).unwrap();
    far.send_to(b"y", socket.local_addr().unwrap()).unwrap();
    let _ = datagrams.ready(event(true, true));
    assert!(run(&datagrams).worked);
    assert_eq!(ahead(&datagrams), [None, Some(b"y".to_vec())]);
}

#[test]
fn nothing_is_received_while_paused_and_nothing_is_lost() {
    let (datagrams, _near, far) = pair();
    datagrams.state().pause();
    far.send(b"x").unwrap();
    assert_eq!(datagrams.ready(event(true, false)), Schedule::Unneeded);
    assert!(!run(&datagrams).worked);
    assert_eq!(datagrams.state().resume(), Schedule::Needed);
    let claim = datagrams.state().begin_turn().claim.unwrap();
    assert_eq!(datagrams.receive(&claim, &mut [0; 8]).unwrap().0, 1);
    claim.release_in_turn(true);
    assert_eq!(datagrams.state().end_turn(), Schedule::Needed);
}

#[test]
fn another_thread_sends_what_waits_in_order_and_the_owner_drops_the_buffers() {
    let (datagrams, _near, far) = pair();
    for data in ["a", "", "c"] {
        assert!(datagrams.enqueue(data.into(), Target::Peer).is_empty());
    }
    assert_eq!(datagrams.queued(), 2 + 3 * HEADER);
    let report = run(&datagrams);
    assert_eq!((report.bytes_out, report.tell_owner, report.again), (2, true, false));
    assert_eq!(drain(&far), [&b"a"[..], b"", b"c"]);
    assert_eq!(datagrams.queued(), 0);
    assert!(!datagrams.bits().is_queued());
    let news = datagrams.take_news();
    assert_eq!(news.spent, [&b"a"[..], b"", b"c"]);
    assert!(news.failures.is_empty());
}

#[test]
fn others_have_a_turn_after_so_many_datagrams() {
    let [near, far] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    near.set_nonblocking(true).unwrap();
    near.connect(far.local_addr().unwrap()).unwrap();
    let datagrams = Datagrams::<Vec<u8>>::new(near.as_raw_fd());
    let _ = datagrams.state().start();
    for _ in 0..=config::DATAGRAM_BUDGET {
        let _ = datagrams.enqueue(b"x".to_vec(), Target::Peer);
    }
    for (bytes, again) in [(config::DATAGRAM_BUDGET as u64, true), (1, false)] {
        let report = run(&datagrams);
        assert_eq!((report.bytes_out, report.again), (bytes, again));
    }
}

#[test]
fn a_full_kernel_keeps_the_rest_until_it_has_room() {
    let (datagrams, _near, far) = pair();
    let sent = fill(&datagrams);
    let _ = datagrams.enqueue(b"y".to_vec(), Target::Peer);
    // It was never registered, so there is nobody to ask for the edge.
    assert!(datagrams.flush(&NoReactor).is_some());
    assert!(datagrams.bits().is_queued());
    assert!(datagrams.flush(&NoReactor).is_none(), "full until the kernel says otherwise");
    assert_eq!(drain(&far).len(), sent);
    assert_eq!(datagrams.ready(event(false, true)), Schedule::Needed);
    let delivered = datagrams.flush(&NoReactor).unwrap();
    assert_eq!((delivered.bytes, delivered.spent), (1, vec![b"y".to_vec()]));
    assert_eq!(drain(&far), [b"y"]);
}

#[test]
fn room_that_the_kernel_does_not_tell_of_is_tried_again_by_the_owner_alone() {
    let (datagrams, _near, far) = pair();
    let datagrams = datagrams.untold();
    let sent = fill(&datagrams);
    let _ = datagrams.enqueue(b"y".to_vec(), Target::Peer);
    assert!(!datagrams.waits_untold(), "it was not tried yet");
    let report = run(&datagrams);
    assert!(report.tell_owner, "the owner has to try again");
    assert!(datagrams.waits_untold());
    assert!(!datagrams.state().begin_turn().bits.may_write());
    assert_eq!(datagrams.ready(event(false, true)), Schedule::Unneeded);
    assert!(datagrams.flush(&NoReactor).is_none(), "that was about something else");
    assert_eq!(datagrams.retry(), Schedule::Needed);
    assert!(datagrams.flush(&NoReactor).is_some());
    assert!(datagrams.waits_untold(), "it is full as before");
    assert_eq!(drain(&far).len(), sent);
    let _ = datagrams.retry();
    assert_eq!(datagrams.flush(&NoReactor).unwrap().bytes, 1);
    assert!(!datagrams.waits_untold());
    assert_eq!(drain(&far), [b"y"]);
}

#[test]
fn a_datagram_that_cannot_be_sent_is_told_and_the_next_one_goes() {
    let (datagrams, _near, far) = pair();
    let nowhere = Target::Address(SocketAddress::Unix(b"/nonexistent/socket".as_slice().into()));
    let _ = datagrams.enqueue(b"bad".to_vec(), nowhere);
    let _ = datagrams.enqueue(b"good".to_vec(), Target::Peer);
    let first = datagrams.flush(&NoReactor).unwrap();
    assert_eq!((first.failures.len(), first.spent.len()), (1, 1));
    assert!(datagrams.bits().may_write());
    let second = datagrams.flush(&NoReactor).unwrap();
    assert!(second.failures.is_empty());
    assert_eq!(drain(&far), [b"good"]);
}

#[test]
fn what_the_owner_sends_itself_holds_up_what_comes_after_it() {
    let (datagrams, _near, far) = pair();
    for (data, target) in [("a", Target::Peer), ("b", Target::Owner), ("c", Target::Peer)] {
        let _ = datagrams.enqueue(data.into(), target);
    }
    let report = run(&datagrams);
    assert!(report.tell_owner && !report.again);
    assert!(!run(&datagrams).worked, "it is the owner's turn");
    assert_eq!(drain(&far), [b"a"]);
    assert_eq!(datagrams.with_first(|data, _| data.clone()), Some(b"b".to_vec()));
    assert_eq!(datagrams.pop_own(), [b"a", b"b"]);
    assert!(datagrams.pop_own().is_empty(), "the next one is not the owner's");
    assert!(run(&datagrams).worked);
    assert_eq!(drain(&far), [b"c"]);
}

#[test]
fn the_owner_hears_when_the_queue_falls_below_its_mark() {
    let (datagrams, _near, far) = pair();
    let sent = fill(&datagrams);
    datagrams.tell_below(2 * (1 + HEADER));
    for _ in 0..4 {
        let _ = datagrams.enqueue(b"y".to_vec(), Target::Peer);
    }
    let mut buffer = [0; 1];
    for _ in 0..2 {
        far.recv(&mut buffer).unwrap();
    }
    let report = run(&datagrams);
    assert!(report.tell_owner);
    assert_eq!(datagrams.queued(), 2 * (1 + HEADER));
    assert_eq!(drain(&far).len(), sent);
}

#[test]
fn a_retired_socket_sends_and_receives_no_more() {
    let (datagrams, _near, far) = pair();
    let _ = datagrams.enqueue(b"x".to_vec(), Target::Peer);
    far.send(b"y").unwrap();
    let _ = datagrams.ready(event(true, true));
    assert!(!datagrams.state().retire());
    assert!(!run(&datagrams).worked);
    assert!(datagrams.flush(&NoReactor).is_none());
    datagrams.forget();
    assert_eq!((datagrams.queued(), drain(&far).len()), (0, 0));
}

#[test]
fn what_is_sent_is_lost_from_an_abort_on_or_with_the_socket() {
    use crate::transport::{Abort, Close};
    let (datagrams, _near, _far) = pair();
    assert_eq!(datagrams.close(), Close::LoseSoon);
    assert!(datagrams.state().bits().is_read_closed());
    assert!(datagrams.is_lost(true) && !datagrams.is_lost(false), "as asyncio's");
    assert_eq!(datagrams.link().ending().abort(), Abort::Ignore);
    assert!(!datagrams.state().retire());
    assert!(datagrams.is_lost(true) && datagrams.is_lost(false));
}
