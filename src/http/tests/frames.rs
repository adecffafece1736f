//! Frames and messages of a WebSocket.

use std::ops::ControlFlow;

use flate2::{Compress, Compression, FlushCompress};

use super::random::Numbers;
use super::*;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

#[derive(Clone, Debug, PartialEq, Eq)]
enum ReceivedMessage {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
    /// The code of the failure.
    Failed(u16),
}

struct Peer {
    socket: WebSocket,
    deflater: Deflater,
    out: Output,
    told: Vec<ReceivedMessage>,
}

impl Peer {
    fn new(deflate: bool) -> Self {
        let socket = WebSocket::new(1000, deflate, Vec::new());
        Self { socket, deflater: Deflater::default(), out: Output::default(), told: Vec::new() }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.take_while(bytes, ControlFlow::Continue(()));
    }

    /// Takes as many messages as the sink, which says so of each, wants.
    fn take_while(&mut self, bytes: &[u8], flow: ControlFlow<()>) {
        let (told, mut bytes) = (&mut self.told, bytes.to_vec());
        let Self { socket, deflater, out, .. } = self;
        socket.receive(&mut bytes, deflater, out, &mut |message| {
            told.push(match message {
                Message::Text(text) => ReceivedMessage::Text(text.to_owned()),
                Message::Binary(bytes) => ReceivedMessage::Binary(bytes.to_vec()),
                Message::Ping(bytes) => ReceivedMessage::Ping(bytes.to_vec()),
                Message::Pong(bytes) => ReceivedMessage::Pong(bytes.to_vec()),
                Message::Close(code, reason) => ReceivedMessage::Close(code, reason.to_owned()),
                Message::Failed(failure) => ReceivedMessage::Failed(failure.code()),
            });
            flow
        });
    }

    fn sent(&mut self) -> Vec<u8> {
        let sent = self.out.bytes().to_vec();
        self.out.clear();
        sent
    }
}

/// A frame as a client sends it; `first` is its first byte.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        length @ ..126 => frame.push(0x80 | length as u8),
        length @ ..0x1_0000 => {
            frame.push(0xfe);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(0xff);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

fn text(text: &str) -> ReceivedMessage {
    ReceivedMessage::Text(text.to_owned())
}

fn closed(code: u16, reason: &str) -> ReceivedMessage {
    ReceivedMessage::Close(Some(code), reason.to_owned())
}

/// A name, bytes, what a program is told of them, and what is sent.
type Case = (&'static str, Vec<u8>, Vec<ReceivedMessage>, Vec<u8>);

/// Sequences of frames: what a program is told of them, and what is sent (RFC 6455, section by section).
fn cases() -> Vec<Case> {
    let close = |code: u16| [&[0x88, 2], &code.to_be_bytes()[..]].concat();
    let failed = |name, frames: &[&[u8]], code| {
        (name, frames.concat(), vec![ReceivedMessage::Failed(code)], close(code))
    };
    let told = |name, frames: &[&[u8]], told: &[ReceivedMessage]| {
        (name, frames.concat(), told.to_vec(), Vec::new())
    };
    let part = |first, payload: &str| frame(first, payload.as_bytes());
    let unmasked = [0x81, 1, b'a'];
    vec![
        told("text: 5.6", &[&part(0x81, "Hello")], &[text("Hello")]),
        told("bytes: 5.6", &[&frame(0x82, &[0, 255])], &[ReceivedMessage::Binary(vec![0, 255])]),
        told("an empty message: 5.6", &[&part(0x81, "")], &[text("")]),
        told(
            "a length of 16 bits: 5.2",
            &[&part(0x81, &"a".repeat(126))],
            &[text(&"a".repeat(126))],
        ),
        told("the longest message", &[&part(0x81, &"a".repeat(1000))], &[text(&"a".repeat(1000))]),
        told("parts: 5.4", &[&part(0x01, "Hel"), &part(0x80, "lo")], &[text("Hello")]),
        told("empty parts: 5.4", &[&part(0x01, ""), &part(0x00, ""), &part(0x80, "")], &[text("")]),
        told(
            "a character in two parts: 5.6",
            &[&frame(0x01, &[0xc3]), &frame(0x80, &[0xa4])],
            &[text("\u{e4}")],
        ),
        (
            "a ping between parts: 5.4",
            [part(0x01, "a"), part(0x89, "p"), part(0x80, "b")].concat(),
            vec![ReceivedMessage::Ping(b"p".to_vec()), text("ab")],
            vec![0x8a, 1, b'p'],
        ),
        told(
            "a pong that nobody asked for: 5.5.3",
            &[&part(0x8a, "x")],
            &[ReceivedMessage::Pong(b"x".to_vec())],
        ),
        (
            "a close: 5.5.1",
            [frame(0x88, b"\x03\xe8bye"), part(0x81, "late")].concat(),
            vec![closed(1000, "bye")],
            close(1000),
        ),
        (
            "a close without a code: 5.5.1",
            part(0x88, ""),
            vec![ReceivedMessage::Close(None, String::new())],
            vec![0x88, 0],
        ),
        (
            "a close of one's own: 7.4.2",
            frame(0x88, &[0x0f, 0xa0]),
            vec![closed(4000, "")],
            close(4000),
        ),
        failed("half a code: 5.5.1", &[&frame(0x88, &[3])], 1002),
        failed("a code that is not sent: 7.4.1", &[&frame(0x88, &[3, 0xed])], 1002),
        failed("a code that is reserved: 7.4.2", &[&frame(0x88, &[7, 0xd0])], 1002),
        failed("a code below all: 7.4.2", &[&frame(0x88, &[0, 99])], 1002),
        failed("a reason that is no UTF-8: 5.5.1", &[&frame(0x88, &[3, 0xe8, 0xff])], 1007),
        failed("no mask: 5.1", &[&unmasked], 1002),
        failed("RSV1 without an extension: 5.2", &[&part(0xc1, "a")], 1002),
        failed("RSV2: 5.2", &[&part(0xa1, "a")], 1002),
        failed("RSV3: 5.2", &[&part(0x91, "a")], 1002),
        failed("RSV1 of a ping: 5.2", &[&part(0xc9, "")], 1002),
        failed("a code of data that is reserved: 5.2", &[&part(0x83, "a")], 1002),
        failed("a code of control that is reserved: 5.2", &[&part(0x8b, "a")], 1002),
        failed("a ping in parts: 5.5", &[&part(0x09, "a")], 1002),
        failed("a ping that is too long: 5.5", &[&part(0x89, &"a".repeat(126))], 1002),
        failed("a part without a beginning: 5.4", &[&part(0x80, "a")], 1002),
        failed("a message within another: 5.4", &[&part(0x01, "a"), &part(0x81, "b")], 1002),
        failed("a length of 16 bits that is short: 5.2", &[&[0x81, 0xfe, 0, 1], &MASK, b"a"], 1002),
        failed(
            "a length of 64 bits that is short: 5.2",
            &[&[0x81, 0xff, 0, 0, 0, 0, 0, 0, 0, 1], &MASK, b"a"],
            1002,
        ),
        failed("a length with its first bit set: 5.2", &[&[0x82], &[0xff; 9], &MASK], 1002),
        failed("text that is no UTF-8: 8.1", &[&frame(0x81, &[0xff])], 1007),
        failed("text that ends in a character: 8.1", &[&frame(0x81, &[0xc3])], 1007),
        failed("a surrogate: 8.1", &[&frame(0x81, &[0xed, 0xa0, 0x80])], 1007),
        failed("a message that is too long: 7.4.1", &[&[0x82, 0xfe, 3, 0xe9], &MASK], 1009),
        failed(
            "parts that are too long together: 7.4.1",
            &[&part(0x01, &"a".repeat(600)), &[0x80, 0xfe, 1, 0x91], &MASK],
            1009,
        ),
    ]
}

#[test]
fn frames_are_what_the_standard_says() {
    for (name, raw, told, sent) in cases() {
        let mut peer = Peer::new(false);
        peer.take(&raw);
        assert_eq!((peer.sent(), &peer.told), (sent, &told), "{name}");
        let is_end =
            matches!(told.last(), Some(ReceivedMessage::Failed(_) | ReceivedMessage::Close(..)));
        assert_eq!((peer.socket.is_closed(), peer.socket.pending()), (is_end, 0), "{name}");
    }
}

#[test]
fn frames_may_be_cut_at_every_byte() {
    for (name, raw, told, sent) in cases() {
        for cut in 0..=raw.len() {
            let mut peer = Peer::new(false);
            peer.take(&raw[..cut]);
            peer.take(&raw[cut..]);
            assert_eq!((peer.sent(), &peer.told), (sent.clone(), &told), "{name}, cut at {cut}");
        }
        let mut peer = Peer::new(false);
        raw.chunks(1).for_each(|byte| peer.take(byte));
        assert_eq!((peer.sent(), &peer.told), (sent, &told), "{name}, byte by byte");
    }
}

#[test]
fn frames_may_be_taken_one_message_at_a_time() {
    for (name, raw, told, sent) in cases() {
        let mut peer = Peer::new(false);
        let mut bytes = &raw[..];
        for count in 1.. {
            peer.take_while(bytes, ControlFlow::Break(()));
            bytes = &[];
            assert!(peer.told.len() <= count, "{name}");
            if peer.socket.is_closed() || peer.told.len() < count {
                break;
            }
        }
        assert_eq!((peer.sent(), &peer.told), (sent, &told), "{name}");
    }
}

#[test]
fn what_is_not_gone_on_to_is_kept_as_it_came() {
    let mut peer = Peer::new(true);
    let message = frame(0xc2, &compressed(&[7; 1000]));
    peer.take_while(&message.repeat(50), ControlFlow::Break(()));
    assert_eq!((peer.told.len(), peer.socket.pending()), (1, message.len() * 49));
    for left in (0..49).rev() {
        peer.take_while(b"", ControlFlow::Break(()));
        assert_eq!(peer.socket.pending(), message.len() * left);
    }
    assert_eq!(peer.told, vec![ReceivedMessage::Binary(vec![7; 1000]); 50]);
}

#[test]
fn no_more_memory_is_taken_to_inflate_than_a_message_may_have() {
    const MOST: usize = 300_000;
    let mut deflater = Deflater::default();
    let deflate = |length| frame(0xc2, Deflater::default().deflate(&vec![7; length]));
    for (length, code) in [(MOST, None), (MOST + 1, Some(1009)), (MOST * 100, Some(1009))] {
        let mut socket = WebSocket::new(MOST, true, Vec::new());
        let (mut out, mut lengths, mut codes) = (Output::default(), Vec::new(), Vec::new());
        socket.receive(&mut deflate(length), &mut deflater, &mut out, &mut |message| {
            match message {
                Message::Binary(bytes) => lengths.push(bytes.len()),
                Message::Failed(failure) => codes.push(failure.code()),
                _ => {}
            }
            ControlFlow::Continue(())
        });
        assert_eq!(codes.first().copied(), code);
        assert_eq!(lengths.len(), usize::from(code.is_none()));
        assert!(deflater.heap() <= MOST + 1, "{length}: {}", deflater.heap());
    }
}

#[test]
fn messages_are_one_frame_without_a_mask() {
    for (length, head) in [
        (0, &[0x82, 0][..]),
        (125, &[0x82, 125]),
        (126, &[0x82, 126, 0, 126]),
        (65536, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
    ] {
        let mut peer = Peer::new(false);
        let Peer { socket, deflater, out, .. } = &mut peer;
        assert!(socket.send(Kind::Binary, &vec![7; length], deflater, out));
        assert_eq!(peer.sent(), [head, &vec![7; length]].concat());
    }
    let mut peer = Peer::new(false);
    let Peer { socket, deflater, out, .. } = &mut peer;
    assert!(socket.send(Kind::Text, b"a", deflater, out) && socket.ping(b"b", out));
    assert!(!socket.ping(&[0; 126], out));
    assert_eq!(peer.sent(), [0x81, 1, b'a', 0x89, 1, b'b']);
}

#[test]
fn nothing_is_sent_after_a_close() {
    let mut peer = Peer::new(false);
    let Peer { socket, deflater, out, .. } = &mut peer;
    assert!(!socket.close(1005, "", out) && !socket.close(0, "", out));
    assert!(socket.close(1001, &"\u{e4}".repeat(100), out));
    assert!(!socket.close(1000, "", out) && !socket.ping(b"", out));
    assert!(!socket.send(Kind::Text, b"late", deflater, out));
    let sent = peer.sent();
    assert_eq!(sent[..4], [0x88, 2 + 122, 3, 0xe9]);
    assert_eq!(sent[4..], *"\u{e4}".repeat(61).as_bytes());
    // What the peer has still sent is taken, and its close is not answered again.
    peer.take(&[frame(0x81, b"a"), frame(0x89, b""), frame(0x88, &[3, 0xe9])].concat());
    assert_eq!(peer.told, [text("a"), ReceivedMessage::Ping(vec![]), closed(1001, "")]);
    assert!(peer.socket.is_closed() && peer.out.is_empty());
}

#[test]
fn memory_grows_with_what_comes_and_not_with_what_is_announced() {
    let mut peer = Peer::new(false);
    peer.take(&[&[0x82, 0xfe, 3, 0xe8][..], &MASK, b"abc"].concat());
    assert_eq!(peer.socket.pending(), 3);
}

// -- compression ----------------------------------------------------------------------------------------

/// A message as a client compresses it.
fn compressed(message: &[u8]) -> Vec<u8> {
    let mut peer = Peer::new(true);
    // Long enough to be compressed.
    let Peer { socket, deflater, out, .. } = &mut peer;
    socket.send(Kind::Binary, message, deflater, out);
    let sent = peer.sent();
    assert_eq!(sent[0], 0xc2);
    let head = match sent[1] {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    sent[head..].to_vec()
}

#[test]
fn a_compressed_message_comes_back_as_it_was() {
    let mut numbers = Numbers::new(7);
    for round in 0..200 {
        let length = 65 + numbers.below(900);
        let message: Vec<u8> = (0..length).map(|_| numbers.below(1 + round) as u8).collect();
        let payload = compressed(&message);
        let mut peer = Peer::new(true);
        for part in [1, 7, payload.len()] {
            let mut parts: Vec<_> = payload.chunks(part).map(|part| frame(0, part)).collect();
            parts[0][0] = 0x42;
            parts.last_mut().unwrap()[0] |= 0x80;
            peer.take(&parts.concat());
            assert_eq!(peer.told.pop(), Some(ReceivedMessage::Binary(message.clone())));
        }
    }
}

#[test]
fn the_example_of_the_standard_is_understood() {
    // RFC 7692, 7.2.3: "Hello" compressed, in parts, stored, with a final block, and in two blocks.
    let fixed = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    let stored = [0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00];
    let last = [0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00];
    let two = [0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00];
    for payload in [&fixed[..], &stored, &last, &two] {
        let mut peer = Peer::new(true);
        peer.take(&frame(0xc1, payload));
        assert_eq!(peer.told, [text("Hello")], "{payload:x?}");
    }
    let mut peer = Peer::new(true);
    peer.take(&[frame(0x41, &fixed[..3]), frame(0x80, &fixed[3..])].concat());
    peer.take(&frame(0x81, b"plain"));
    peer.take(&frame(0xc1, &[0]));
    assert_eq!(peer.told, [text("Hello"), text("plain"), text("")]);
}

#[test]
fn nothing_of_an_earlier_message_is_seen_in_a_later_one() {
    // As a peer would compress it that refers to what it has sent before, or that tries to read what others have.
    let secret: Vec<u8> = (0..200_usize).map(|at| (at * 7 % 251) as u8).collect();
    let mut deflate = Compress::new(Compression::best(), false);
    let payloads = [(); 2].map(|()| {
        let mut payload = Vec::with_capacity(1000);
        deflate.compress_vec(&secret, &mut payload, FlushCompress::Sync).unwrap();
        payload.truncate(payload.len() - 4);
        payload
    });
    assert!(payloads[1].len() < 50, "it refers to the first");
    let mut peer = Peer::new(true);
    peer.take(&frame(0xc2, &payloads[0]));
    assert_eq!(peer.told, [ReceivedMessage::Binary(secret.clone())]);
    peer.take(&frame(0xc2, &payloads[1]));
    let ReceivedMessage::Binary(seen) = &peer.told[1] else { return };
    assert!(seen.windows(8).all(|bytes| secret.windows(8).all(|part| part != bytes)));
}

#[test]
fn short_messages_are_not_compressed() {
    let mut peer = Peer::new(true);
    let Peer { socket, deflater, out, .. } = &mut peer;
    socket.send(Kind::Text, b"abc", deflater, out);
    assert_eq!(peer.sent(), [0x81, 3, b'a', b'b', b'c']);
}

#[test]
fn a_message_that_inflates_too_far_is_refused_on_the_way() {
    let bomb = compressed(&vec![0; 10_000_000]);
    assert!(bomb.len() < 100_000);
    let mut peer = Peer::new(true);
    peer.socket = WebSocket::new(1_000_000, true, Vec::new());
    peer.take(&frame(0xc2, &bomb));
    assert_eq!(peer.told, [ReceivedMessage::Failed(1009)]);
    let mut peer = Peer::new(true);
    for (length, told) in
        [(1000, ReceivedMessage::Binary(vec![0; 1000])), (1001, ReceivedMessage::Failed(1009))]
    {
        peer.take(&frame(0xc2, &compressed(&vec![0; length])));
        assert_eq!(peer.told.pop(), Some(told));
    }
}

#[test]
fn what_is_not_compressed_as_it_says_is_refused() {
    for payload in [&[0xff, 0xff, 0xff][..], &[0x05, 1, 2, 3], b"not deflated"] {
        let mut peer = Peer::new(true);
        peer.take(&frame(0xc1, payload));
        assert_eq!(peer.told, [ReceivedMessage::Failed(1007)], "{payload:?}");
    }
    let mut peer = Peer::new(true);
    peer.take(&[frame(0x01, b"a"), frame(0xc0, b"b")].concat());
    assert_eq!(peer.told, [ReceivedMessage::Failed(1002)], "a part says it again: 7692 6.1");
}

#[test]
fn damaged_frames_in_pieces_are_what_they_are_as_a_whole() {
    let all: Vec<_> = cases().into_iter().map(|case| case.1).collect();
    for seed in 0..if cfg!(miri) { 20 } else { 4000 } {
        let mut numbers = Numbers::new(seed);
        let mut raw = all[numbers.below(all.len())].clone();
        raw.extend(frame(0xc1, &compressed(&[b'x'; 100])));
        let at = numbers.below(raw.len());
        raw[at] = numbers.below(256) as u8;
        let mut whole = Peer::new(true);
        whole.take(&raw);
        let mut peer = Peer::new(true);
        raw.chunks(1 + numbers.below(9)).for_each(|piece| peer.take(piece));
        assert_eq!((peer.sent(), &peer.told), (whole.sent(), &whole.told), "{raw:x?}");
    }
}
