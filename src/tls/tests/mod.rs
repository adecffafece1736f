//! Pairs of a client and a server in memory, and what may go wrong between them.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod certificates;
mod cuts;
mod ends;
mod handshakes;
mod keys;
mod records;
mod refusals;
mod renegotiations;
mod sockets;
mod verification;

use std::collections::VecDeque;

use super::*;
use certificates::Authority;

/// One end of a connection, with all that is to happen to its bytes.
struct End {
    session: Session,
    out: Ciphertext,
    scratch: Vec<u8>,
    plaintext: Vec<u8>,
    ended: bool,
}

impl End {
    fn new(session: Session, out: Ciphertext) -> Self {
        let scratch = vec![0xAA; MIN_SCRATCH];
        Self { session, out, scratch, plaintext: Vec::new(), ended: false }
    }

    /// Takes ciphertext as if one read had brought it.
    fn take(&mut self, ciphertext: &[u8]) -> Result<Received, Failure> {
        let at = self.session.restore(&mut self.scratch);
        let end = at + ciphertext.len();
        self.scratch[at..end].copy_from_slice(ciphertext);
        let ciphertext = &mut self.scratch[..end];
        let got = self.session.receive(ciphertext, &mut self.out, &mut self.plaintext)?;
        self.ended |= got.is_end;
        Ok(got)
    }

    /// All that is to be sent, as one piece.
    fn give(&mut self) -> Vec<u8> {
        let bytes = self.out.bytes().to_vec();
        self.out.clear();
        bytes
    }

    fn send_all(&mut self, mut plaintext: &[u8]) -> Vec<u8> {
        let mut all = Vec::new();
        while !plaintext.is_empty() {
            let taken = self.session.send(plaintext, &mut self.out).unwrap();
            assert!(taken > 0, "there is room");
            plaintext = &plaintext[taken..];
            all.extend(self.give());
        }
        all
    }
}

struct Pair {
    client: End,
    server: End,
}

impl Pair {
    fn new(client: &ClientSettings, server: &ServerSettings) -> Self {
        Self::named(client, server, "localhost")
    }

    fn named(client: &ClientSettings, server: &ServerSettings, name: &str) -> Self {
        let mut out = Ciphertext::default();
        let client = Session::client(client, Some(name), &mut out).unwrap();
        let server = Session::server(server).unwrap();
        Self { client: End::new(client, out), server: End::new(server, Ciphertext::default()) }
    }

    /// Passes bytes in both directions until there are none, in pieces of the sizes that `cut` says. The first
    /// failure of each side.
    fn pump_cut(&mut self, mut cut: impl FnMut() -> usize) -> [Option<Failure>; 2] {
        let mut failures = [None, None];
        let mut ways = [VecDeque::new(), VecDeque::new()];
        loop {
            ways[0].extend(self.client.give());
            ways[1].extend(self.server.give());
            if ways.iter().all(VecDeque::is_empty) {
                return failures;
            }
            for (way, end) in [(0, &mut self.server), (1, &mut self.client)] {
                let size = cut().clamp(1, 64 * 1024).min(ways[way].len());
                let piece: Vec<_> = ways[way].drain(..size).collect();
                if !piece.is_empty()
                    && let Err(failure) = end.take(&piece)
                {
                    failures[1 - way].get_or_insert(failure);
                }
            }
        }
    }

    fn pump(&mut self) -> [Option<Failure>; 2] {
        self.pump_cut(|| usize::MAX)
    }

    /// Finishes the handshake.
    fn shaken(mut self) -> Self {
        assert_eq!(self.pump(), [None, None]);
        assert!(!self.client.session.is_handshaking() && !self.server.session.is_handshaking());
        self
    }

    /// Sends data both ways, which arrive.
    fn echo(&mut self, size: usize) {
        let data: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
        for from_client in [true, false] {
            let (from, to) = if from_client {
                (&mut self.client, &mut self.server)
            } else {
                (&mut self.server, &mut self.client)
            };
            to.plaintext.clear();
            let ciphertext = from.send_all(&data);
            for piece in ciphertext.chunks(64 * 1024) {
                let _ = to.take(piece).unwrap();
            }
            assert!(to.plaintext == data, "all of {size} bytes arrive as they were");
            assert_eq!(to.session.pending(), 0, "nothing is kept");
        }
    }
}

/// Numbers without a pattern, the same in each run: Marsaglia's xorshift.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

const VERSIONS: [Version; 2] = [Version::Tls12, Version::Tls13];

/// Options of a server called `localhost` and of a client that trusts it, for one version.
fn options(version: Version) -> (Authority, ClientOptions, ServerOptions) {
    let authority = Authority::new("an authority");
    let mut server = ServerOptions::new(authority.issue(&["localhost"]));
    let mut client = ClientOptions::new(Servers::Named(authority.roots()));
    for common in [&mut server.common, &mut client.common] {
        (common.minimum, common.maximum) = (version, version);
    }
    (authority, client, server)
}

fn settings(client: ClientOptions, server: ServerOptions) -> (ClientSettings, ServerSettings) {
    (ClientSettings::new(client).unwrap(), ServerSettings::new(server).unwrap())
}

/// A pair with what is usual, before its handshake.
fn pair(version: Version) -> Pair {
    let (_, client, server) = options(version);
    let (client, server) = settings(client, server);
    Pair::new(&client, &server)
}
