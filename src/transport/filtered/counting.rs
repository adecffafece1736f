//! A filter for the tests: it numbers its records, and refuses those of the peer that come in another order.
//!
//! A record is its kind, its number, the length of its data, and the data, each byte of which is changed by the
//! number.

use std::any::Any;
use std::io;

use crate::transport::{Ciphertext, Filter, Plaintext};

const HELLO: u8 = 1;
const DATA: u8 = 2;
/// It is answered by a [`PONG`], as records of TLS may be.
const PING: u8 = 3;
const PONG: u8 = 4;
const CLOSE: u8 = 5;

const HEAD: usize = 3;
const LONGEST: usize = 255;

/// One end.
#[derive(Debug, Default)]
pub(in crate::transport) struct Counting {
    sent: u8,
    received: u8,
    pending: Vec<u8>,
    is_open: bool,
    is_closed: bool,
    pub(in crate::transport) peer_closed: bool,
    pub(in crate::transport) pongs: usize,
}

impl Counting {
    /// The end that says hello first.
    pub(in crate::transport) fn client() -> (Self, Ciphertext) {
        let mut this = Self::default();
        let mut first = Ciphertext::default();
        this.put(HELLO, &[], &mut first);
        (this, first)
    }

    fn put(&mut self, kind: u8, data: &[u8], to: &mut Ciphertext) {
        let number = self.sent;
        self.sent = number.wrapping_add(1);
        let length = u8::try_from(data.len()).unwrap();
        to.reserve(HEAD + data.len());
        let room = to.room();
        room[..HEAD].copy_from_slice(&[kind, number, length]);
        for (place, byte) in room[HEAD..].iter_mut().zip(data) {
            *place = byte ^ number;
        }
        to.filled(HEAD + data.len());
    }

    /// Appends what the peer answers.
    pub(in crate::transport) fn ping(&mut self, to: &mut Ciphertext) {
        self.put(PING, &[], to);
    }

    fn take(
        &mut self,
        record: &[u8],
        plaintext: &mut dyn Plaintext,
        answers: &mut Ciphertext,
    ) -> io::Result<()> {
        let (kind, number) = (record[0], record[1]);
        if number != self.received {
            let said = format!("record {number} came as {}", self.received);
            return Err(io::Error::other(said));
        }
        self.received = number.wrapping_add(1);
        match kind {
            HELLO if !self.is_open => {
                self.is_open = true;
                // The client has said it already.
                if self.sent == 0 {
                    self.put(HELLO, &[], answers);
                }
            }
            DATA => {
                let data: Vec<u8> = record[HEAD..].iter().map(|byte| byte ^ number).collect();
                plaintext.append(&data);
            }
            PING => self.put(PONG, &[], answers),
            PONG => self.pongs += 1,
            CLOSE => self.peer_closed = true,
            _ => return Err(io::Error::other("not a record")),
        }
        Ok(())
    }
}

impl Filter for Counting {
    fn restore(&self, memory: &mut [u8]) -> usize {
        memory[..self.pending.len()].copy_from_slice(&self.pending);
        self.pending.len()
    }

    fn receive(
        &mut self,
        mut read: &mut [u8],
        plaintext: &mut dyn Plaintext,
        answers: &mut Ciphertext,
    ) -> io::Result<()> {
        while read.len() >= HEAD && read.len() >= HEAD + usize::from(read[2]) {
            let (record, rest) = read.split_at_mut(HEAD + usize::from(read[2]));
            self.take(record, plaintext, answers)?;
            read = rest;
        }
        self.pending = read.to_vec();
        Ok(())
    }

    fn receive_end(&mut self, _: &mut Ciphertext) -> io::Result<()> {
        if self.peer_closed { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn send(&mut self, data: &[u8], to: &mut Ciphertext) -> io::Result<usize> {
        if self.is_closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if !self.is_open {
            return Ok(0);
        }
        for piece in data.chunks(LONGEST) {
            self.put(DATA, piece, to);
        }
        Ok(data.len())
    }

    fn close(&mut self, to: &mut Ciphertext) {
        if !self.is_closed {
            self.is_closed = true;
            self.put(CLOSE, &[], to);
        }
    }

    fn is_open(&self) -> bool {
        self.is_open
    }

    fn is_peer_closed(&self) -> bool {
        self.peer_closed
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

/// The other end of a connection, by hand.
#[derive(Debug, Default)]
pub(in crate::transport) struct Peer {
    pub(in crate::transport) filter: Counting,
    pub(in crate::transport) received: Vec<u8>,
}

impl Peer {
    /// What it sends first.
    pub(in crate::transport) fn client() -> (Self, Vec<u8>) {
        let (filter, first) = Counting::client();
        (Self { filter, received: Vec::new() }, first.bytes().to_vec())
    }

    /// What it sends.
    pub(in crate::transport) fn send(&mut self, data: &[u8]) -> Vec<u8> {
        let mut to = Ciphertext::default();
        let _ = self.filter.send(data, &mut to).unwrap();
        to.bytes().to_vec()
    }

    /// What it asks to be answered.
    pub(in crate::transport) fn ping(&mut self) -> Vec<u8> {
        let mut to = Ciphertext::default();
        self.filter.ping(&mut to);
        to.bytes().to_vec()
    }

    /// Its word that it sends no more.
    pub(in crate::transport) fn close(&mut self) -> Vec<u8> {
        let mut to = Ciphertext::default();
        self.filter.close(&mut to);
        to.bytes().to_vec()
    }

    /// Takes what came: panics if the records are not in the order of their numbers. Returns its answers.
    pub(in crate::transport) fn take(&mut self, came: &[u8]) -> Vec<u8> {
        let mut read = self.filter.pending.clone();
        read.extend_from_slice(came);
        let mut answers = Ciphertext::default();
        self.filter.receive(&mut read, &mut self.received, &mut answers).unwrap();
        answers.bytes().to_vec()
    }
}
