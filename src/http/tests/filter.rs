//! The filter over another one, in memory: what waits for a program, and what it wants sent.

use super::*;
use crate::transport::{Ciphertext, Filter, Plaintext};

/// Below it: each byte is one more, both ways.
#[derive(Debug, Default)]
struct Shifted {
    is_closed: bool,
}

impl Filter for Shifted {
    fn restore(&self, _: &mut [u8]) -> usize {
        0
    }

    fn receive(
        &mut self,
        read: &mut [u8],
        plaintext: &mut dyn Plaintext,
        _: &mut Ciphertext,
    ) -> std::io::Result<()> {
        let plain: Vec<u8> = read.iter().map(|byte| byte.wrapping_sub(1)).collect();
        plaintext.append(&plain);
        Ok(())
    }

    fn receive_end(&mut self, _: &mut Ciphertext) -> std::io::Result<()> {
        Ok(())
    }

    fn send(&mut self, data: &[u8], to: &mut Ciphertext) -> std::io::Result<usize> {
        to.extend(&shifted(data));
        Ok(data.len())
    }

    fn close(&mut self, _: &mut Ciphertext) {
        self.is_closed = true;
    }

    fn is_open(&self) -> bool {
        true
    }

    fn is_peer_closed(&self) -> bool {
        false
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn std::any::Any {
        self
    }
}

fn shifted(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| byte.wrapping_add(1)).collect()
}

fn filter(change: impl FnOnce(&mut Settings)) -> HttpFilter {
    let mut settings = Settings { date: false, ..Settings::default() };
    change(&mut settings);
    HttpFilter::new(Arc::new(settings), None)
}

/// What it wants sent in answer.
fn take(filter: &mut HttpFilter, bytes: &[u8]) -> Vec<u8> {
    let mut answers = Ciphertext::default();
    filter.receive(&mut bytes.to_vec(), &mut Vec::new(), &mut answers).unwrap();
    answers.bytes().to_vec()
}

fn respond(filter: &mut HttpFilter, id: RequestId, body: &[u8]) -> Vec<u8> {
    let mut to = Ciphertext::default();
    filter
        .respond(&mut to, |connection, out| {
            connection.respond(id, 200, NO_FIELDS, Payload::Whole(body), out)
        })
        .unwrap()
        .unwrap();
    to.bytes().to_vec()
}

const GET: &[u8] = b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n";
const POST: &[u8] = b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\n";

#[test]
fn a_request_is_news_until_it_is_taken() {
    let mut filter = filter(|_| ());
    assert!(!filter.has_news() && filter.take_request().is_none());
    assert!(take(&mut filter, &GET[..10]).is_empty());
    assert_eq!(filter.activity(), Activity::ReceivingHead);
    take(&mut filter, &GET[10..]);
    assert!(filter.has_news() && filter.has_offers());
    let (id, head) = filter.take_request().unwrap();
    assert_eq!(head.path(), b"/a");
    assert!(!filter.has_news(), "it is with whoever took it");
    assert_eq!(
        respond(&mut filter, id, b"yes"),
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nyes"
    );
    assert!(!filter.has_news() && filter.activity() == Activity::Idle);
}

#[test]
fn each_request_is_begun_once_by_whoever_comes_first() {
    let mut filter = filter(|_| ());
    take(&mut filter, &GET.repeat(3));
    let ids = [
        filter.take_offered().unwrap().0,
        filter.take_request().unwrap().0,
        filter.take_offered().unwrap().0,
    ];
    assert!(filter.take_request().is_none() && filter.take_offered().is_none());
    // They are answered in another order, and leave in theirs.
    assert!(respond(&mut filter, ids[2], b"2").is_empty());
    assert!(respond(&mut filter, ids[0], b"0").ends_with(b"0"));
    let rest = respond(&mut filter, ids[1], b"1");
    assert_eq!(rest.split(|byte| *byte == b'H').count(), 1 + 2, "two responses");
    assert!(rest.ends_with(b"2"));
}

#[test]
fn a_websocket_is_not_for_other_loops() {
    let mut filter = filter(|_| ());
    let ask = b"GET /a HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    take(&mut filter, ask);
    assert!(filter.take_offered().is_none());
    let (id, head) = filter.take_request().unwrap();
    let mut to = Ciphertext::default();
    filter.accept(id, &head, None, NO_FIELDS, &mut to).unwrap().unwrap();
    assert!(to.bytes().starts_with(b"HTTP/1.1 101 "));
    take(&mut filter, &[0x81, 0x82, 1, 2, 3, 4, b'h' ^ 1, b'i' ^ 2]);
    assert!(filter.has_news() && !filter.has_offers());
    assert_eq!(filter.take_message(&mut to), Some(SocketMessage::Text("hi".into())));
    assert_eq!(filter.take_message(&mut to), None);
}

/// Takes a message; says what is sent on the way.
fn take_message(filter: &mut HttpFilter) -> (Option<SocketMessage>, Vec<u8>) {
    let mut to = Ciphertext::default();
    (filter.take_message(&mut to), to.bytes().to_vec())
}

#[test]
fn no_more_messages_are_looked_at_than_the_program_takes() {
    // Without a mask: one of zeros.
    let frame = |first: u8, payload: &[u8]| {
        let length = (payload.len() as u16).to_be_bytes();
        [&[first, 0xfe][..], &length, &[0; 4], payload].concat()
    };
    let mut deflate = Deflater::default();
    let bomb = frame(0xc2, deflate.deflate(&vec![7; 1_000_000]));
    let mut filter = filter(|settings| settings.max_message = 1_000_000);
    let ask = b"GET /a HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        sec-websocket-extensions: permessage-deflate\r\n\r\n";
    take(&mut filter, ask);
    let (id, head) = filter.take_request().unwrap();
    filter.accept(id, &head, None, NO_FIELDS, &mut Ciphertext::default()).unwrap().unwrap();

    let ping = [0x89, 0x80, 0, 0, 0, 0];
    let close = [0x88, 0x80, 0, 0, 0, 0];
    let answered = take(&mut filter, &[&bomb.repeat(5)[..], &ping, &bomb, &close].concat());
    assert!(answered.is_empty() && filter.is_full());
    assert!(filter.take_request().is_none() && !filter.has_news());
    for count in 0..5 {
        let (message, sent) = take_message(&mut filter);
        assert!(matches!(message, Some(SocketMessage::Binary(bytes)) if bytes.len() == 1_000_000));
        // Behind the fifth one it goes on: with the sixth, and not with the end.
        assert_eq!(sent.is_empty(), count < 4);
        assert!(filter.is_full() && !matches!(filter.activity(), Activity::Closing));
        assert!(!filter.has_news(), "nobody but who takes messages is concerned");
    }
    let (message, sent) = take_message(&mut filter);
    assert!(matches!(message, Some(SocketMessage::Binary(_))));
    assert_eq!(sent, [0x88, 0]);
    assert!(filter.has_news() && filter.activity() == Activity::Closing);
    assert_eq!(take_message(&mut filter).0, Some(SocketMessage::Close(None, "".into())));
    assert!(!filter.is_full() && take_message(&mut filter).0.is_none());
}

#[test]
fn messages_that_are_too_many_wait_as_they_came() {
    let mut filter = filter(|settings| settings.max_messages = 2);
    let ask = b"GET /a HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    take(&mut filter, ask);
    // Also what comes behind the handshake.
    let message = |text: u8| [0x81, 0x81, 0, 0, 0, 0, text];
    take(&mut filter, &(b'a'..=b'z').flat_map(message).collect::<Vec<u8>>());
    let (id, head) = filter.take_request().unwrap();
    filter.accept(id, &head, None, NO_FIELDS, &mut Ciphertext::default()).unwrap().unwrap();
    take(&mut filter, &(b'A'..=b'Z').flat_map(message).collect::<Vec<u8>>()[..4]);
    take(&mut filter, &(b'A'..=b'Z').flat_map(message).collect::<Vec<u8>>()[4..]);
    let mut text = String::new();
    while let (Some(SocketMessage::Text(part)), _) = take_message(&mut filter) {
        text += &part;
    }
    let all: String = (b'a'..=b'z').chain(b'A'..=b'Z').map(char::from).collect();
    assert_eq!(text, all);
}

#[test]
fn a_body_waits_and_is_bounded() {
    let mut filter = filter(|_| ());
    take(&mut filter, POST);
    let (id, _) = filter.take_request().unwrap();
    assert_eq!(filter.take_body(id), BodyPart::Nothing);
    take(&mut filter, b"abc");
    assert!(filter.has_news());
    assert_eq!(filter.take_body(id), BodyPart::Data(b"abc".to_vec(), true, None));
    take(&mut filter, b"def");
    assert_eq!(filter.take_body(id), BodyPart::Data(b"def".to_vec(), false, None));
    assert_eq!(filter.take_body(id), BodyPart::Cut, "there is no more of it");
    respond(&mut filter, id, b"");

    take(&mut filter, b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n");
    let (id, _) = filter.take_request().unwrap();
    let mut taken = 0;
    while !filter.is_full() {
        take(&mut filter, &[b'x'; 1000]);
        taken += 1000;
    }
    assert!((64_000..70_000).contains(&taken), "{taken}");
    assert!(matches!(filter.take_body(id), BodyPart::Data(data, true, _) if data.len() == taken));
    assert!(!filter.is_full());
}

#[test]
fn what_is_behind_a_request_is_bounded_too() {
    let mut filter = filter(|_| ());
    take(&mut filter, POST);
    take(&mut filter, b"abcdef");
    let (id, _) = filter.take_request().unwrap();
    while !filter.is_full() {
        take(&mut filter, &GET.repeat(100));
    }
    respond(&mut filter, id, b"");
    assert!(filter.has_news(), "the next ones have begun");
}

#[test]
fn a_body_that_nobody_will_read_is_forgotten() {
    let mut filter = filter(|_| ());
    take(&mut filter, POST);
    take(&mut filter, b"abc");
    let (id, _) = filter.take_request().unwrap();
    respond(&mut filter, id, b"no");
    assert_eq!(filter.take_body(id), BodyPart::Cut);
    assert!(!filter.is_full());
}

#[test]
fn readiness_is_answered_here() {
    let readiness = Arc::new(Readiness::new(b"/ready".to_vec().into()));
    let mut filter = filter(|settings| settings.readiness = Some(Arc::clone(&readiness)));
    let ask = b"GET /ready HTTP/1.1\r\nhost: x\r\n\r\n";
    assert!(take(&mut filter, ask).starts_with(b"HTTP/1.1 503 "));
    readiness.set(true);
    let all = take(&mut filter, &[ask, GET, ask].concat());
    assert!(all.starts_with(b"HTTP/1.1 200 ") && all.ends_with(b"ready\n"));
    let (id, head) = filter.take_request().unwrap();
    assert_eq!(head.path(), b"/a");
    assert!(filter.take_request().is_none());
    let rest = respond(&mut filter, id, b"");
    assert!(rest.ends_with(b"ready\n"), "the last one is answered behind it");
}

#[test]
fn what_is_refused_ends_the_connection_and_may_go_on() {
    let mut filter = filter(|_| ());
    assert!(take(&mut filter, b"nonsense\r\n\r\n").starts_with(b"HTTP/1.1 400 "));
    assert!(filter.has_news() && filter.activity() == Activity::Closing);
    assert!(filter.may_be_sending());
}

#[test]
fn a_client_that_asks_for_the_end_sends_no_more() {
    let mut filter = filter(|_| ());
    take(&mut filter, b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let (id, _) = filter.take_request().unwrap();
    respond(&mut filter, id, b"");
    assert!(filter.has_news() && filter.activity() == Activity::Closing);
    assert!(!filter.may_be_sending());
}

#[test]
fn a_head_has_to_come_as_a_whole_and_a_body_to_go_on() {
    let mut filter = filter(|_| ());
    assert_eq!(filter.coming_since_ns(), None);
    take(&mut filter, &POST[..20]);
    let since = filter.coming_since_ns().unwrap();
    assert!(filter.has_news(), "whoever has a clock hears of it");
    take(&mut filter, &POST[20..30]);
    assert_eq!(filter.coming_since_ns(), Some(since));
    take(&mut filter, &POST[30..]);
    take(&mut filter, b"abc");
    assert!(filter.coming_since_ns().unwrap() >= since);
    let (id, _) = filter.take_request().unwrap();
    let mut to = Ciphertext::default();
    filter.time_out(&mut to).unwrap();
    assert!(to.bytes().starts_with(b"HTTP/1.1 408 "));
    assert_eq!(filter.take_body(id), BodyPart::Cut);
}

#[test]
fn bytes_pass_the_filter_below_both_ways() {
    let settings = Arc::new(Settings { date: false, ..Settings::default() });
    let mut filter = HttpFilter::new(settings, Some(Box::new(Shifted::default())));
    take(&mut filter, &shifted(GET));
    let (id, _) = filter.take_request().unwrap();
    let sent = respond(&mut filter, id, b"yes");
    assert_eq!(sent, shifted(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nyes"));
    assert_eq!(take(&mut filter, &shifted(b"nonsense\r\n\r\n"))[0], b'H' + 1);
    filter.close(&mut Ciphertext::default());
    let below: &Shifted = (&filter as &dyn Filter).find().unwrap();
    assert!(below.is_closed);
}
