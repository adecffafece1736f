//! Calls on descriptors that others may share: a child that inherited one, or a duplicate. They refer to
//! one open file, whose `O_NONBLOCK` any holder may clear, so these calls do not rely on it.

use std::io;
use std::os::fd::RawFd;

/// The flag that tells one call on a socket not to wait.
pub const NO_WAIT: libc::c_int = libc::MSG_DONTWAIT;

/// Bytes that a pipe takes without waiting when it has any room (`PIPE_BUF`), and that a
/// terminal takes, even if it expands each of them.
const PIPE_PIECE: usize =
    if cfg!(any(target_os = "linux", target_os = "android")) { 4096 } else { 512 };
const TERMINAL_PIECE: usize = 32;

/// Whether calls on it wait now. Another holder may change that at any time.
#[must_use]
pub fn is_blocking(fd: RawFd) -> bool {
    // SAFETY: a plain call; the kernel checks the descriptor.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    flags != -1 && flags & libc::O_NONBLOCK == 0
}

/// What `poll(2)` says now of `events`; 0: nothing.
fn poll(fd: RawFd, events: libc::c_short) -> libc::c_short {
    let mut entry = libc::pollfd { fd, events, revents: 0 };
    // SAFETY: one entry, which outlives the call.
    if unsafe { libc::poll(&raw mut entry, 1, 0) } == 1 { entry.revents } else { 0 }
}

/// Whether a call that takes something from it would not wait, as far as nobody else does so first.
#[must_use]
pub fn is_readable(fd: RawFd) -> bool {
    poll(fd, libc::POLLIN) != 0
}

/// Whether the other end is gone.
fn is_hung_up(fd: RawFd) -> bool {
    poll(fd, libc::POLLIN) & (libc::POLLHUP | libc::POLLERR) != 0
}

/// Whether 0 bytes read from it mean that nothing is there, and not the end: a terminal or serial
/// line with `VMIN` 0.
fn reads_nothing(fd: RawFd) -> bool {
    let mut settings = std::mem::MaybeUninit::<libc::termios>::uninit();
    // SAFETY: the settings are filled if the call succeeds; what is no terminal has none.
    let settings = unsafe {
        if libc::tcgetattr(fd, settings.as_mut_ptr()) != 0 {
            return false;
        }
        settings.assume_init()
    };
    settings.c_lflag & libc::ICANON == 0 && settings.c_cc[libc::VMIN] == 0 && !is_hung_up(fd)
}

/// Reads from a terminal or another device, or from a pipe where the kernel cannot be asked not to
/// wait. It may wait if another holder made it blocking and takes at this moment what is there.
///
/// # Errors
/// Those of `read(2)`; `WouldBlock` if nothing is there.
pub fn read_device(fd: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    if !is_readable(fd) {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    // SAFETY: the buffer is valid for its length.
    let count = retry(|| unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) })?;
    if count == 0 && reads_nothing(fd) {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    Ok(count)
}

/// Writes what a terminal or another device takes of `parts`: less than it could, if it would wait.
///
/// # Errors
/// Those of `writev(2)`; `WouldBlock` if there is no room.
pub fn write_device(fd: RawFd, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
    write_piece(fd, parts, TERMINAL_PIECE)
}

fn write_piece(fd: RawFd, parts: &[io::IoSlice<'_>], piece: usize) -> io::Result<usize> {
    if !is_blocking(fd) {
        let count = libc::c_int::try_from(parts.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: `IoSlice` is laid out as `iovec`, and the parts are valid.
        return retry(|| unsafe { libc::writev(fd, parts.as_ptr().cast(), count) });
    }
    let Some(part) = parts.iter().find(|part| !part.is_empty()) else { return Ok(0) };
    if poll(fd, libc::POLLOUT) == 0 {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    let part = &part[..part.len().min(piece)];
    // SAFETY: the part is valid for its length.
    retry(|| unsafe { libc::write(fd, part.as_ptr().cast(), part.len()) })
}

/// `preadv2` or `pwritev2`, which not every C library has, at the offset of the file: -1, which is one
/// argument on 64 bits and two on 32. A pipe has none.
///
/// # Safety
/// So many parts are valid.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "small numbers")]
unsafe fn without_waiting(
    call: libc::c_long,
    fd: RawFd,
    parts: *const libc::iovec,
    count: usize,
) -> io::Result<usize> {
    // All bits of a register count.
    let [fd, count, offset, flags] = [fd.into(), count as i64, -1, libc::RWF_NOWAIT.into()];
    let [fd, count, offset, flags] = [fd, count, offset, flags].map(|it: i64| it as libc::c_long);
    // SAFETY: by our caller's word.
    retry(|| unsafe {
        libc::syscall(call, fd, parts, count, offset, offset, flags) as libc::ssize_t
    })
}

/// Whether the kernel does not know how not to wait on that kind of file.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn cannot_ask(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL | libc::EPERM)
    )
}

/// Reads from a pipe.
///
/// # Errors
/// Those of `read(2)`; `WouldBlock` if nothing is there.
pub fn read_pipe(fd: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        let part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        // SAFETY: one valid part.
        let read = unsafe { without_waiting(libc::SYS_preadv2, fd, &raw const part, 1) };
        if !read.as_ref().is_err_and(cannot_ask) {
            return read;
        }
    }
    read_device(fd, buffer)
}

/// Writes what a pipe takes of `parts`.
///
/// # Errors
/// Those of `writev(2)`; `WouldBlock` if there is no room.
pub fn write_pipe(fd: RawFd, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        // SAFETY: `IoSlice` is laid out as `iovec`, and the parts are valid.
        let written =
            unsafe { without_waiting(libc::SYS_pwritev2, fd, parts.as_ptr().cast(), parts.len()) };
        if !written.as_ref().is_err_and(cannot_ask) {
            return written;
        }
    }
    write_piece(fd, parts, PIPE_PIECE)
}

/// Repeats a call that a signal interrupted.
pub(super) fn retry(mut call: impl FnMut() -> libc::ssize_t) -> io::Result<usize> {
    loop {
        if let Ok(count) = usize::try_from(call()) {
            return Ok(count);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(all(test, not(loom)))]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::io::{IoSlice, Read};
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

    type Write = fn(RawFd, &[IoSlice<'_>]) -> io::Result<usize>;
    type Fetch = fn(RawFd, &mut [u8]) -> io::Result<usize>;

    /// The master and the slave of a terminal that changes nothing.
    fn terminal() -> (OwnedFd, OwnedFd) {
        let (mut master, mut slave) = (-1, -1);
        // SAFETY: the descriptors are new; the settings are filled before they are used.
        unsafe {
            let none = std::ptr::null_mut();
            assert_eq!(
                libc::openpty(&raw mut master, &raw mut slave, none, none.cast(), none.cast()),
                0
            );
            let mut settings = std::mem::zeroed();
            assert_eq!(libc::tcgetattr(slave, &raw mut settings), 0);
            libc::cfmakeraw(&raw mut settings);
            assert_eq!(libc::tcsetattr(slave, libc::TCSANOW, &raw const settings), 0);
            (OwnedFd::from_raw_fd(master), OwnedFd::from_raw_fd(slave))
        }
    }

    #[test]
    fn nothing_waits_though_the_descriptor_would() {
        let (reader, writer) = std::io::pipe().unwrap();
        let (master, slave) = terminal();
        let pairs: [(RawFd, RawFd, Fetch, Write); 3] = [
            (reader.as_raw_fd(), writer.as_raw_fd(), read_pipe, write_pipe),
            (reader.as_raw_fd(), writer.as_raw_fd(), read_device, |fd, parts| {
                write_piece(fd, parts, PIPE_PIECE)
            }),
            (slave.as_raw_fd(), master.as_raw_fd(), read_device, write_device),
        ];
        for (from, to, read, write) in pairs {
            assert!(is_blocking(from) && is_blocking(to));
            let mut buffer = vec![0; 70_000];
            let nothing = read(from, &mut buffer).unwrap_err();
            assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
            let data = vec![7; 70_000];
            let mut written = 0;
            let full = loop {
                match write(to, &[IoSlice::new(&data)]) {
                    Ok(count) => written += count,
                    Err(error) => break error,
                }
            };
            assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
            let mut received = 0;
            while received < written {
                match read(from, &mut buffer) {
                    Ok(count) => received += count,
                    // The kernel passes on what was written to a terminal in a thread of its own.
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
            }
            assert_eq!(read(from, &mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
    }

    #[test]
    fn the_end_is_told_from_a_terminal_that_has_nothing() {
        let (master, slave) = terminal();
        // SAFETY: the settings are filled before they are used.
        unsafe {
            let mut settings = std::mem::zeroed();
            assert_eq!(libc::tcgetattr(slave.as_raw_fd(), &raw mut settings), 0);
            settings.c_cc[libc::VMIN] = 0;
            assert_eq!(libc::tcsetattr(slave.as_raw_fd(), libc::TCSANOW, &raw const settings), 0);
        }
        assert!(reads_nothing(slave.as_raw_fd()));
        let nothing = read_device(slave.as_raw_fd(), &mut [0; 4]).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        drop(master);
        assert!(!reads_nothing(slave.as_raw_fd()));
        assert!(matches!(read_device(slave.as_raw_fd(), &mut [0; 4]), Ok(0) | Err(_)));
        let (mut reader, writer) = std::io::pipe().unwrap();
        drop(writer);
        assert_eq!(read_pipe(reader.as_raw_fd(), &mut [0; 4]).unwrap(), 0);
        assert_eq!(read_device(reader.as_raw_fd(), &mut [0; 4]).unwrap(), 0);
        assert_eq!(reader.read(&mut [0; 4]).unwrap(), 0);
    }
}
