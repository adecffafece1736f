//! An echo server with nothing in it but mio: the limit that servers are measured against.
//!
//! `bare-echo` serves TCP, `bare-echo --udp` datagrams, `bare-echo --unix PATH` a unix socket.
//! One thread, edge-triggered. Prints its port as one line of JSON (0: a unix socket has none) and
//! ends when standard input does. What it may skip, it skips: no timers, no limits, no back-pressure but TCP's own.

use std::collections::HashMap;
use std::env;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};

use mio::event::{Event, Source};
use mio::net::{TcpListener, TcpStream, UdpSocket, UnixListener, UnixStream};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

const LISTENER: Token = Token(usize::MAX);
const STANDARD_INPUT: Token = Token(usize::MAX - 1);
const READ_SIZE: usize = 65536;

/// A listening socket, whose kind does not matter to the echo.
trait Listener: Source {
    type Stream: Read + Write + Source;

    /// The next connection; `WouldBlock` if there is none.
    fn accept(&self) -> io::Result<Self::Stream>;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    fn accept(&self) -> io::Result<TcpStream> {
        let (stream, _) = TcpListener::accept(self)?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    fn accept(&self) -> io::Result<UnixStream> {
        UnixListener::accept(self).map(|(stream, _)| stream)
    }
}

/// One connection. Nothing is read while `pending` holds bytes that the socket would not take.
struct Client<S> {
    stream: S,
    pending: Vec<u8>,
    /// The socket may hold bytes that no further event will tell of.
    readable: bool,
    /// The peer has closed its side, so a short read is not the last one.
    ending: bool,
}

impl<S: Read + Write> Client<S> {
    /// Echo what there is. `Ok(false)`: the connection has come to its end.
    fn echo(&mut self, event: &Event, buffer: &mut [u8]) -> io::Result<bool> {
        self.readable |= event.is_readable();
        self.ending |= event.is_read_closed();
        if !self.flush()? {
            return Ok(true);
        }
        while self.readable {
            match self.stream.read(buffer) {
                Ok(0) => return Ok(false),
                Ok(count) => {
                    self.readable = count == buffer.len() || self.ending;
                    if !self.send(&buffer[..count])? {
                        return Ok(true);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Whether the socket took all of `data`; what it did not take is pending.
    fn send(&mut self, data: &[u8]) -> io::Result<bool> {
        let sent = write(&mut self.stream, data)?;
        self.pending.extend_from_slice(&data[sent..]);
        Ok(self.pending.is_empty())
    }

    /// Whether nothing is pending any more.
    fn flush(&mut self) -> io::Result<bool> {
        if !self.pending.is_empty() {
            let sent = write(&mut self.stream, &self.pending)?;
            self.pending.drain(..sent);
        }
        Ok(self.pending.is_empty())
    }
}

/// Write until the socket is full; returns how much it took.
fn write(stream: &mut impl Write, data: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    while sent < data.len() {
        match stream.write(&data[sent..]) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}

fn accept<L: Listener>(
    poll: &Poll,
    listener: &L,
    clients: &mut HashMap<Token, Client<L::Stream>>,
    next: &mut usize,
) -> io::Result<()> {
    loop {
        let mut stream = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        let token = Token(*next);
        *next += 1;
        poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        let client = Client { stream, pending: Vec::new(), readable: false, ending: false };
        clients.insert(token, client);
    }
}

/// Have the end of standard input reported, if it is something that epoll can watch.
fn watch_standard_input(poll: &Poll) -> io::Result<()> {
    match poll.registry().register(&mut SourceFd(&0), STANDARD_INPUT, Interest::READABLE) {
        Err(error) if error.kind() != ErrorKind::PermissionDenied => Err(error),
        _ => Ok(()),
    }
}

fn announce(port: u16) {
    println!("{{\"port\": {port}}}");
}

/// Send datagrams back to where they come from, until standard input ends.
fn serve_datagrams(mut socket: UdpSocket) -> io::Result<()> {
    let mut poll = Poll::new()?;
    poll.registry().register(&mut socket, LISTENER, Interest::READABLE)?;
    watch_standard_input(&poll)?;
    announce(socket.local_addr()?.port());
    let mut buffer = vec![0; READ_SIZE].into_boxed_slice();
    let mut events = Events::with_capacity(16);
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        }
        for event in &events {
            if event.token() == STANDARD_INPUT {
                return Ok(());
            }
            loop {
                match socket.recv_from(&mut buffer) {
                    // What the socket does not take is lost, as datagrams may be.
                    Ok((count, peer)) => drop(socket.send_to(&buffer[..count], peer)),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
        }
    }
}

/// Echo what connections send, until standard input ends.
fn serve<L: Listener>(mut listener: L, port: u16) -> io::Result<()> {
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    watch_standard_input(&poll)?;
    announce(port);

    let mut clients = HashMap::new();
    let mut next = 0;
    let mut buffer = vec![0; READ_SIZE].into_boxed_slice();
    let mut events = Events::with_capacity(1024);
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        }
        for event in &events {
            match event.token() {
                LISTENER => accept(&poll, &listener, &mut clients, &mut next)?,
                STANDARD_INPUT => return Ok(()),
                token => {
                    let Some(client) = clients.get_mut(&token) else { continue };
                    // A connection that fails is the peer's affair, and closed as any other.
                    if !matches!(client.echo(event, &mut buffer), Ok(true)) {
                        clients.remove(&token);
                    }
                }
            }
        }
    }
}

fn main() -> io::Result<()> {
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => {
            let listener = TcpListener::bind(local)?;
            let port = listener.local_addr()?.port();
            serve(listener, port)
        }
        ["--udp"] => serve_datagrams(UdpSocket::bind(local)?),
        ["--unix", path] => serve(UnixListener::bind(path)?, 0),
        _ => Err(io::Error::other("usage: bare-echo [--udp | --unix PATH]")),
    }
}
