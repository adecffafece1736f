//! Receiving without waiting, whatever mode the socket is in.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;

/// Receives what is there, into the beginning of `buffer`; returns how much. 0 is the end.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] if there is nothing yet; others of the kernel.
pub fn receive(fd: RawFd, buffer: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
    // SAFETY: the kernel writes into the buffer, within its length, and checks the descriptor.
    let got =
        unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT) };
    usize::try_from(got).map_err(|_| io::Error::last_os_error())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn what_is_there_and_the_end_even_of_a_blocking_socket() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let mut buffer = [MaybeUninit::uninit(); 4];
        let nothing = receive(far.as_raw_fd(), &mut buffer).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        near.write_all(b"12345").unwrap();
        assert_eq!(receive(far.as_raw_fd(), &mut buffer).unwrap(), 4);
        // SAFETY: four bytes were written.
        assert_eq!(buffer.map(|byte| unsafe { byte.assume_init() }), *b"1234");
        assert_eq!(receive(far.as_raw_fd(), &mut buffer).unwrap(), 1);
        drop(near);
        assert_eq!(receive(far.as_raw_fd(), &mut buffer).unwrap(), 0);
        assert_eq!(receive(-1, &mut buffer).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }
}
