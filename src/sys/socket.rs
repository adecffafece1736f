//! System calls on sockets that never wait, whatever mode another holder of the socket has set: one call
//! each, repeated only if a signal interrupted it. None raises `SIGPIPE`.

use std::io;
use std::mem::MaybeUninit;
#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
use std::os::fd::AsRawFd;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use super::address::SocketAddress;
use super::descriptor::{self, NO_WAIT, retry};
use super::owned_socket::OwnedSocket;

/// What a call has returned, 0 if it succeeded.
fn done(status: libc::c_int) -> io::Result<()> {
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
const SEND_FLAGS: libc::c_int = libc::MSG_NOSIGNAL | NO_WAIT;
#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
const SEND_FLAGS: libc::c_int = NO_WAIT;

/// Receives into `buffer`; zero bytes mean the end of the stream.
///
/// # Errors
/// Those of `recv(2)`, `WouldBlock` among them.
#[inline]
pub fn recv(fd: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer is valid for its length.
    retry(|| unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), NO_WAIT) })
}

/// As [`recv`], but the bytes stay where they are.
///
/// # Errors
/// As [`recv`].
pub fn peek(fd: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    let flags = NO_WAIT | libc::MSG_PEEK;
    // SAFETY: the buffer is valid for its length.
    retry(|| unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), flags) })
}

/// As [`recv`], into the beginning of memory that may hold anything.
///
/// # Errors
/// As [`recv`].
pub fn recv_uninit(fd: RawFd, buffer: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
    // SAFETY: the kernel writes into the buffer, within its length.
    retry(|| unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), NO_WAIT) })
}

/// As [`recv`], and says whether it stopped at nothing but the end of what there was. On a unix
/// socket it also stops behind bytes that came with descriptors, which are discarded.
///
/// # Errors
/// Those of `recvmsg(2)`.
pub fn recv_whole(fd: RawFd, buffer: &mut [u8]) -> io::Result<(usize, bool)> {
    let mut part = io::IoSliceMut::new(buffer);
    // SAFETY: all-zero bytes are an empty message.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    // `IoSliceMut` is laid out as `iovec`.
    message.msg_iov = (&raw mut part).cast();
    message.msg_iovlen = 1;
    // SAFETY: the message points to one valid part.
    let count = retry(|| unsafe { libc::recvmsg(fd, &raw mut message, NO_WAIT) })?;
    // There is no room for what comes beside the bytes, so the kernel says that it was cut off.
    Ok((count, message.msg_flags & libc::MSG_CTRUNC == 0))
}

/// Receives one message and its sender into `buffer`. What does not fit is lost.
///
/// # Errors
/// Those of `recvfrom(2)`.
pub fn recv_from(fd: RawFd, buffer: &mut [u8]) -> io::Result<(usize, SocketAddress)> {
    let mut count = Ok(0);
    let address = SocketAddress::from_call(|storage, length| {
        // SAFETY: the buffer and the address are valid for their lengths.
        count = retry(|| unsafe {
            let (start, size) = (buffer.as_mut_ptr().cast(), buffer.len());
            libc::recvfrom(fd, start, size, NO_WAIT, storage, length)
        });
    });
    Ok((count?, address))
}

/// Sends what the kernel takes of `data`.
///
/// # Errors
/// Those of `send(2)`, `WouldBlock` among them.
#[inline]
pub fn send(fd: RawFd, data: &[u8]) -> io::Result<usize> {
    // SAFETY: the data are valid for their length.
    retry(|| unsafe { libc::send(fd, data.as_ptr().cast(), data.len(), SEND_FLAGS) })
}

/// Sends one message to `address`.
///
/// # Errors
/// Those of `sendto(2)`; `InvalidInput` for an address that the kernel's form cannot hold.
pub fn send_to(fd: RawFd, data: &[u8], address: &SocketAddress) -> io::Result<usize> {
    address.with_raw(|storage, length| {
        // SAFETY: the data and the address are valid for their lengths.
        retry(|| unsafe {
            libc::sendto(fd, data.as_ptr().cast(), data.len(), SEND_FLAGS, storage, length)
        })
    })?
}

/// Sends what the kernel takes of `parts`, in their order, in one call.
///
/// # Errors
/// Those of `sendmsg(2)`.
pub fn send_vectored(fd: RawFd, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
    // SAFETY: all-zero bytes are an empty message.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    // `IoSlice` is laid out as `iovec`; the kernel only reads through it.
    message.msg_iov = parts.as_ptr().cast_mut().cast();
    message.msg_iovlen = parts.len() as _;
    // SAFETY: the message points to valid parts.
    retry(|| unsafe { libc::sendmsg(fd, &raw const message, SEND_FLAGS) })
}

/// Accepts one connection: non-blocking, and closed on `exec`. It waits if the listening socket does
/// ([`is_blocking`](super::descriptor::is_blocking)) and no connection is there.
///
/// # Errors
/// Those of `accept(2)`.
pub fn accept(fd: RawFd) -> io::Result<(OwnedSocket, SocketAddress)> {
    let mut accepted = Ok(0);
    let address = SocketAddress::from_call(|storage, length| {
        // SAFETY: the address is valid for its length.
        accepted = retry(|| unsafe { accept_raw(fd, storage, length) } as libc::ssize_t);
    });
    let number = RawFd::try_from(accepted?).map_err(|_| io::ErrorKind::InvalidData)?;
    // SAFETY: the kernel has just made it for us.
    let connection = OwnedSocket::from(unsafe { OwnedFd::from_raw_fd(number) });
    #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
    set_flags(&connection)?;
    Ok((connection, address))
}

#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
unsafe fn accept_raw(
    fd: RawFd,
    storage: *mut libc::sockaddr,
    length: *mut libc::socklen_t,
) -> RawFd {
    // SAFETY: handed on to our caller.
    unsafe { libc::accept4(fd, storage, length, libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) }
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
unsafe fn accept_raw(
    fd: RawFd,
    storage: *mut libc::sockaddr,
    length: *mut libc::socklen_t,
) -> RawFd {
    // SAFETY: handed on to our caller.
    unsafe { libc::accept(fd, storage, length) }
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
fn set_flags(connection: &OwnedSocket) -> io::Result<()> {
    let fd = connection.as_raw_fd();
    // SAFETY: plain calls on a descriptor that is ours.
    unsafe {
        done(libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC))?;
        done(libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK))
    }
}

/// Tells the peer that nothing more will be sent.
///
/// # Errors
/// Those of `shutdown(2)`: `NotConnected` when the peer is gone.
pub fn shutdown_write(fd: RawFd) -> io::Result<()> {
    // SAFETY: a plain call.
    done(unsafe { libc::shutdown(fd, libc::SHUT_WR) })
}

/// The address that a socket is bound to.
///
/// # Errors
/// Those of `getsockname(2)`.
pub fn local_address(fd: RawFd) -> io::Result<SocketAddress> {
    let mut status = -1;
    let address = SocketAddress::from_call(|storage, length| {
        // SAFETY: the address is valid for its length.
        status = unsafe { libc::getsockname(fd, storage, length) };
    });
    done(status).map(|()| address)
}

/// What the descriptor is, as far as it matters for how it is read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// A socket to another machine, or like one.
    Socket,
    /// A unix socket.
    Local,
    /// A pipe.
    Pipe,
    /// A terminal or another device.
    Device,
    /// A socket that is used as a pipe.
    SocketPipe,
}

impl Channel {
    /// What a socket is, by its own address or its peer's.
    #[must_use]
    pub fn of_socket(address: &SocketAddress) -> Self {
        match address {
            SocketAddress::Unix(_) => Self::Local,
            SocketAddress::Inet(_) | SocketAddress::Unknown => Self::Socket,
        }
    }

    /// What is given as a pipe.
    ///
    /// # Errors
    /// Those of `fstat(2)`.
    pub fn of_pipe(fd: RawFd) -> io::Result<Self> {
        let mut status = MaybeUninit::<libc::stat>::uninit();
        // SAFETY: the status is filled if the call succeeds.
        let mode = unsafe {
            if libc::fstat(fd, status.as_mut_ptr()) != 0 {
                return Err(io::Error::last_os_error());
            }
            status.assume_init().st_mode
        };
        Ok(match mode & libc::S_IFMT {
            libc::S_IFIFO => Self::Pipe,
            libc::S_IFSOCK => Self::SocketPipe,
            _ => Self::Device,
        })
    }

    /// Whether it is used as a pipe, whatever it is.
    #[inline]
    #[must_use]
    pub fn is_pipe(self) -> bool {
        matches!(self, Self::Pipe | Self::Device | Self::SocketPipe)
    }

    /// Whether a write that takes less than it was offered has filled it: otherwise only one that
    /// would block has.
    #[inline]
    #[must_use]
    pub fn short_write_fills(self) -> bool {
        matches!(self, Self::Socket | Self::Local)
    }

    /// Reads; zero bytes mean the end. The second value: whether a read that is shorter than the
    /// buffer has brought all there was, as far as this call can tell. A terminal gives a line at a
    /// time.
    ///
    /// # Errors
    /// Those of the kernel.
    #[inline]
    pub fn read(self, fd: RawFd, buffer: &mut [u8]) -> io::Result<(usize, bool)> {
        match self {
            Self::Socket => Ok((recv(fd, buffer)?, true)),
            Self::Local => recv_whole(fd, buffer),
            Self::Pipe => Ok((descriptor::read_pipe(fd, buffer)?, false)),
            Self::Device => Ok((descriptor::read_device(fd, buffer)?, false)),
            Self::SocketPipe => Ok((recv(fd, buffer)?, false)),
        }
    }

    /// Writes what the kernel takes of `parts`.
    ///
    /// # Errors
    /// Those of the kernel.
    #[inline]
    pub fn write(self, fd: RawFd, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
        match (self, parts) {
            (Self::Pipe, parts) => descriptor::write_pipe(fd, parts),
            (Self::Device, parts) => descriptor::write_device(fd, parts),
            (_, [part]) => send(fd, part),
            (_, parts) => send_vectored(fd, parts),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn an_accepted_connection_does_not_block_and_knows_its_peer() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (connection, peer) = accept(listener.as_raw_fd()).unwrap();
        let fd = connection.as_raw_fd();
        assert_eq!(peer, SocketAddress::Inet(client.local_addr().unwrap()));
        assert_eq!(local_address(fd).unwrap(), SocketAddress::Inet(listener.local_addr().unwrap()));
        assert_eq!(recv(fd, &mut [0; 4]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(client);
        while recv(fd, &mut [0; 4]).is_err() {}
        assert_eq!(recv(fd, &mut [0; 4]).unwrap(), 0);
    }

    #[test]
    fn parts_arrive_in_their_order_on_sockets_and_pipes() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let parts = [io::IoSlice::new(b"ab"), io::IoSlice::new(b"c")];
        assert_eq!(Channel::Socket.write(far.as_raw_fd(), &parts).unwrap(), 3);
        far.write_all(b"d").unwrap();
        let mut buffer = [0; 9];
        let own = local_address(near.as_raw_fd()).unwrap();
        assert_eq!(Channel::of_socket(&own), Channel::Local, "though it has no name");
        assert_eq!(Channel::Local.read(near.as_raw_fd(), &mut buffer).unwrap(), (4, true));
        assert_eq!(&buffer[..4], b"abcd");
        let (reader, writer) = std::io::pipe().unwrap();
        assert_eq!(Channel::Pipe.write(writer.as_raw_fd(), &parts).unwrap(), 3);
        assert_eq!(Channel::Pipe.read(reader.as_raw_fd(), &mut buffer).unwrap(), (3, false));
        assert_eq!(&buffer[..3], b"abc");
    }

    #[test]
    fn nothing_waits_though_the_socket_would() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let fd = near.as_raw_fd();
        let would_block = |result: io::Result<usize>| {
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        };
        let mut buffer = [0; 4096];
        would_block(recv(fd, &mut buffer));
        would_block(recv_whole(fd, &mut buffer).map(|(count, _)| count));
        would_block(recv_from(fd, &mut buffer).map(|(count, _)| count));
        for channel in [Channel::Socket, Channel::Local, Channel::SocketPipe] {
            would_block(channel.read(fd, &mut buffer).map(|(count, _)| count));
            while channel.write(fd, &[io::IoSlice::new(&buffer)]).is_ok() {}
            would_block(channel.write(fd, &[io::IoSlice::new(&buffer)]));
            would_block(channel.write(fd, &[io::IoSlice::new(b"a"), io::IoSlice::new(b"b")]));
            io::Read::read_exact(&mut far, &mut buffer).unwrap();
        }
        assert_eq!(Channel::of_pipe(fd).unwrap(), Channel::SocketPipe);
        let (reader, _) = std::io::pipe().unwrap();
        assert_eq!(Channel::of_pipe(reader.as_raw_fd()).unwrap(), Channel::Pipe);
        assert!(Channel::of_pipe(-1).is_err());
    }

    #[test]
    fn a_message_carries_its_sender() {
        let (near, far) =
            (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let to = SocketAddress::Inet(near.local_addr().unwrap());
        assert_eq!(send_to(far.as_raw_fd(), b"hello", &to).unwrap(), 5);
        let mut buffer = [0; 9];
        let (count, from) = recv_from(near.as_raw_fd(), &mut buffer).unwrap();
        assert_eq!(
            (&buffer[..count], from),
            (&b"hello"[..], SocketAddress::Inet(far.local_addr().unwrap()))
        );
    }

    #[test]
    fn a_gone_reader_is_an_error_and_no_signal() {
        let (near, far) = UnixStream::pair().unwrap();
        drop(far);
        assert_eq!(send(near.as_raw_fd(), b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
