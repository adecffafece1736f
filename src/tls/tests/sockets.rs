//! Over sockets, which take as much as they like: short writes, short reads, and ends.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use super::*;

/// An end with its socket, which does not wait.
struct Connected {
    end: End,
    socket: UnixStream,
    /// Encrypted, and not yet taken by the kernel.
    unsent: Vec<u8>,
    /// Not yet encrypted.
    rest: Vec<u8>,
    over: bool,
}

impl Connected {
    fn new(end: End, socket: UnixStream, rest: Vec<u8>) -> Self {
        socket.set_nonblocking(true).unwrap();
        Self { end, socket, unsent: Vec::new(), rest, over: false }
    }

    /// Does what can be done now; says whether that was anything.
    fn go_on(&mut self) -> bool {
        let mut worked = false;
        if self.unsent.is_empty() && !self.end.session.is_handshaking() && !self.rest.is_empty() {
            let taken = self.end.session.send(&self.rest, &mut self.end.out).unwrap();
            self.rest.drain(..taken);
            if self.rest.is_empty() {
                self.end.session.close(&mut self.end.out);
            }
        }
        self.unsent.extend(self.end.give());
        match self.socket.write(&self.unsent) {
            Ok(count) => {
                worked |= count > 0;
                self.unsent.drain(..count);
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        if self.over {
            return worked;
        }
        let at = self.end.session.restore(&mut self.end.scratch);
        match self.socket.read(&mut self.end.scratch[at..]) {
            Ok(count) => {
                worked = true;
                let End { session, out, scratch, plaintext, ended } = &mut self.end;
                let received = session.receive(&mut scratch[..at + count], out, plaintext).unwrap();
                *ended |= received.is_end;
                self.over |= received.is_end;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        worked
    }
}

#[test]
fn both_sides_send_more_than_the_kernel_takes() {
    for version in VERSIONS {
        let Pair { client, server } = pair(version);
        let (near, far) = UnixStream::pair().unwrap();
        let data: Vec<u8> = (0..3_000_000_usize).map(|at| (at % 251) as u8).collect();
        let mut ends =
            [Connected::new(client, near, data.clone()), Connected::new(server, far, data.clone())];
        while ends.iter().any(|one| !one.over || !one.unsent.is_empty()) {
            let worked = ends.iter_mut().fold(false, |any, one| one.go_on() | any);
            assert!(worked, "one of them can always go on");
        }
        for Connected { end, .. } in &ends {
            assert!(end.plaintext == data && end.ended);
            assert_eq!(end.session.pending(), 0);
        }
    }
}
