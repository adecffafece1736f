//! Level-triggered registration of a descriptor with a selector that mio created.
//!
//! mio only registers edge-triggered, which suits our transports. `add_reader` and `add_writer` promise
//! level triggering: a callback that reads only a part is called again. Re-arming an edge would cost a
//! system call per event; level-triggered registration costs none, and mio returns these events like any
//! others. That is why this module bypasses mio and uses the selector's descriptor.

use std::io;
use std::os::fd::RawFd;

/// What is to be watched on a descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    /// Readable, or closed by the peer.
    pub read: bool,
    /// Writable, or failed.
    pub write: bool,
}

impl Watch {
    /// Nothing is watched.
    pub const NONE: Self = Self { read: false, write: false };

    /// Whether nothing is watched.
    #[must_use]
    pub fn is_none(self) -> bool {
        self == Self::NONE
    }
}

/// Makes `selector` watch `fd` for `new` instead of `old`, reporting `token` with each event.
///
/// # Errors
/// Those of the kernel: `EPERM` for a regular file, `EBADF` for a closed descriptor. A descriptor
/// that was closed and opened again behind our back is registered anew; removing one that the
/// kernel has already forgotten is no error.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub fn set(selector: RawFd, fd: RawFd, old: Watch, new: Watch, token: usize) -> io::Result<()> {
    let control = |operation: libc::c_int| -> io::Result<()> {
        let mut event = libc::epoll_event { events: events_of(new), u64: token as u64 };
        // SAFETY: `event` outlives the call, and the kernel checks both descriptors.
        if unsafe { libc::epoll_ctl(selector, operation, fd, &raw mut event) } == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    match (old.is_none(), new.is_none()) {
        (true, true) => Ok(()),
        (false, true) => match control(libc::EPOLL_CTL_DEL) {
            // The kernel drops a descriptor from its sets when it is closed; by now the number may
            // belong to nothing, to another socket, or to a file.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ENOENT | libc::EBADF | libc::EPERM)
                ) =>
            {
                Ok(())
            }
            other => other,
        },
        (true, false) => match control(libc::EPOLL_CTL_ADD) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                control(libc::EPOLL_CTL_MOD)
            }
            other => other,
        },
        (false, false) => match control(libc::EPOLL_CTL_MOD) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                control(libc::EPOLL_CTL_ADD)
            }
            other => other,
        },
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn events_of(watch: Watch) -> u32 {
    let mut events = 0;
    if watch.read {
        events |= libc::EPOLLIN;
    }
    if watch.write {
        events |= libc::EPOLLOUT;
    }
    events.cast_unsigned()
}

/// As on Linux, with kqueue's filters, one for each direction.
///
/// # Errors
/// Those of the kernel, as on Linux.
#[cfg(any(target_os = "macos", target_os = "ios", target_os = "freebsd"))]
pub fn set(selector: RawFd, fd: RawFd, old: Watch, new: Watch, token: usize) -> io::Result<()> {
    let control = |filter, add: bool| -> io::Result<()> {
        // SAFETY: all-zero bytes are a valid `kevent`.
        let mut change: libc::kevent = unsafe { std::mem::zeroed() };
        change.ident = fd as libc::uintptr_t;
        change.filter = filter;
        change.flags = if add { libc::EV_ADD } else { libc::EV_DELETE };
        change.udata = token as *mut libc::c_void;
        // SAFETY: one valid change is passed in, and no room for events.
        let status = unsafe {
            libc::kevent(selector, &raw const change, 1, std::ptr::null_mut(), 0, std::ptr::null())
        };
        if status >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        // The kernel drops a descriptor's filters when it is closed.
        if !add && matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EBADF | libc::EPERM)) {
            return Ok(());
        }
        Err(error)
    };
    // If nothing changes the descriptor may be another one, of which the kernel does not know.
    let same = old == new;
    if old.read != new.read || same && new.read {
        control(libc::EVFILT_READ, new.read)?;
    }
    if (old.write != new.write || same && new.write)
        && let Err(error) = control(libc::EVFILT_WRITE, new.write)
    {
        if new.read && !old.read {
            control(libc::EVFILT_READ, false)?;
        }
        return Err(error);
    }
    Ok(())
}
