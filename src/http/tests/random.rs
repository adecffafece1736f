//! Streams that a generator makes, valid and damaged: in pieces they are what they are as a whole.

use std::ops::Range;

use super::cuts::serve;
use super::raw_requests::{HANDSHAKES, REQUESTS};
use super::*;

/// Xorshift: the same numbers in each run.
pub(super) struct Numbers(u64);

impl Numbers {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound
    }

    fn within(&mut self, range: Range<usize>) -> usize {
        range.start + self.below(range.end - range.start)
    }

    fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// A valid request.
fn request(numbers: &mut Numbers) -> Vec<u8> {
    let method = *numbers.one_of(&["GET", "GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE"]);
    let mut raw = format!("{method} /{} HTTP/1.1\r\nHost: a\r\n", numbers.below(1000)).into_bytes();
    for _ in 0..numbers.below(6) {
        let value = "v".repeat(numbers.below(40));
        raw.extend(format!("X-{}:{value} \r\n", numbers.below(100)).bytes());
    }
    let body: Vec<u8> = (0..numbers.below(100)).map(|at| at as u8).collect();
    match numbers.below(3) {
        0 => raw.extend(b"\r\n"),
        1 => {
            raw.extend(format!("Content-Length: {}\r\n\r\n", body.len()).bytes());
            raw.extend(body);
        }
        _ => {
            raw.extend(b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n");
            for chunk in body.chunks(numbers.within(1..40)) {
                raw.extend(format!("{:x}{}\r\n", chunk.len(), numbers.one_of(&["", ";a"])).bytes());
                raw.extend(chunk);
                raw.extend(b"\r\n");
            }
            raw.extend(*numbers.one_of(&[&b"0\r\n\r\n"[..], b"0\r\nA: b\r\n\r\n"]));
        }
    }
    raw
}

/// Changes, doubles or takes out a few bytes.
fn damage(raw: &mut Vec<u8>, numbers: &mut Numbers) {
    for _ in 0..numbers.within(1..4) {
        let at = numbers.below(raw.len());
        let byte = *numbers.one_of(b"\r\n\0 :\t;,0a/\x7f\xff");
        match numbers.below(3) {
            0 => raw[at] = byte,
            1 => raw.insert(at, byte),
            _ => drop(raw.remove(at)),
        }
    }
}

fn hold(raw: &[u8], numbers: &mut Numbers) {
    let mut whole = Server::new();
    serve(&mut whole, raw);
    let sent = whole.sent();
    let mut server = Server::new();
    let mut rest = raw;
    while !rest.is_empty() {
        let longest = *numbers.one_of(&[1, 3, 30, 300]);
        let (piece, after) = rest.split_at(numbers.within(1..longest + 1).min(rest.len()));
        serve(&mut server, piece);
        rest = after;
    }
    let text = || String::from_utf8_lossy(raw).into_owned();
    assert_eq!(server.seen, whole.seen, "{:?}", text());
    assert_eq!(server.sent(), sent, "{:?}", text());
    assert_eq!(server.connection.activity(), whole.connection.activity(), "{:?}", text());
}

/// How many streams are made.
const ROUNDS: u64 = if cfg!(miri) { 20 } else { 4000 };

#[test]
fn valid_streams_in_pieces_are_what_they_are_as_a_whole() {
    for seed in 0..ROUNDS {
        let mut numbers = Numbers::new(seed);
        let count = numbers.within(1..6);
        let raw: Vec<u8> = (0..count).flat_map(|_| request(&mut numbers)).collect();
        hold(&raw, &mut numbers);
        let mut server = Server::new();
        serve(&mut server, &raw);
        assert_eq!(server.requests().len(), count, "{}", String::from_utf8_lossy(&raw));
    }
}

#[test]
fn damaged_streams_in_pieces_are_what_they_are_as_a_whole() {
    for seed in 0..ROUNDS {
        let mut numbers = Numbers::new(seed);
        let count = numbers.within(1..4);
        let mut raw: Vec<u8> = (0..count).flat_map(|_| request(&mut numbers)).collect();
        damage(&mut raw, &mut numbers);
        hold(&raw, &mut numbers);
    }
}

#[test]
fn damaged_requests_of_the_table_in_pieces_are_what_they_are_as_a_whole() {
    let all: Vec<_> = REQUESTS.iter().chain(HANDSHAKES).map(|case| case.1).collect();
    for seed in 0..ROUNDS {
        let mut numbers = Numbers::new(seed);
        let mut raw = numbers.one_of(&all).to_vec();
        damage(&mut raw, &mut numbers);
        hold(&raw, &mut numbers);
    }
}
