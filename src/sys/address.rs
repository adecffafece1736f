//! Socket addresses as values, converted to and from the kernel's format.

use std::io;
use std::mem::{MaybeUninit, offset_of};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// The address of one end of a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketAddress {
    /// Internet.
    Inet(SocketAddr),
    /// Unix: a path without its end mark, or an abstract name with its leading zero; empty when the
    /// socket has none.
    Unix(Box<[u8]>),
    /// None was given, or a family that this module does not know.
    Unknown,
}

/// The families of addresses that this module knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `AF_INET`.
    V4,
    /// `AF_INET6`.
    V6,
    /// `AF_UNIX`.
    Unix,
}

impl Family {
    /// The family of that number, if it is known.
    #[must_use]
    pub const fn of_number(number: i32) -> Option<Self> {
        match number {
            libc::AF_INET => Some(Self::V4),
            libc::AF_INET6 => Some(Self::V6),
            libc::AF_UNIX => Some(Self::Unix),
            _ => None,
        }
    }
}

/// The longest path of a unix socket, without its end mark.
pub const LONGEST_PATH: usize = size_of::<libc::sockaddr_un>() - PATH - 1;

#[allow(clippy::cast_possible_truncation, reason = "an address is shorter than 4 GiB")]
const STORAGE: libc::socklen_t = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
/// A family as addresses hold it: all of them are small numbers.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "see above")]
const fn family(number: libc::c_int) -> libc::sa_family_t {
    number as libc::sa_family_t
}

const PATH: usize = offset_of!(libc::sockaddr_un, sun_path);

impl SocketAddress {
    /// The address that `call` writes to where it is pointed. If it writes none: `Unknown`.
    pub(super) fn from_call(call: impl FnOnce(*mut libc::sockaddr, *mut libc::socklen_t)) -> Self {
        let mut storage = MaybeUninit::<libc::sockaddr_storage>::zeroed();
        let mut length = STORAGE;
        call(storage.as_mut_ptr().cast(), &raw mut length);
        // SAFETY: all-zero bytes are an address of no family; the kernel wrote a valid one over them.
        unsafe { Self::from_raw(&storage.assume_init(), length.min(STORAGE) as usize) }
    }

    /// # Safety
    /// `length` bytes of `storage` were written by the kernel, or none.
    unsafe fn from_raw(storage: &libc::sockaddr_storage, length: usize) -> Self {
        let at = std::ptr::from_ref(storage);
        match libc::c_int::from(storage.ss_family) {
            libc::AF_INET if length >= size_of::<libc::sockaddr_in>() => {
                // SAFETY: the family says what it is, and it is whole.
                let raw = unsafe { &*at.cast::<libc::sockaddr_in>() };
                let ip = Ipv4Addr::from(u32::from_be(raw.sin_addr.s_addr));
                Self::Inet(SocketAddrV4::new(ip, u16::from_be(raw.sin_port)).into())
            }
            libc::AF_INET6 if length >= size_of::<libc::sockaddr_in6>() => {
                // SAFETY: as above.
                let raw = unsafe { &*at.cast::<libc::sockaddr_in6>() };
                let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
                let port = u16::from_be(raw.sin6_port);
                let flow = u32::from_be(raw.sin6_flowinfo);
                Self::Inet(SocketAddrV6::new(ip, port, flow, raw.sin6_scope_id).into())
            }
            libc::AF_UNIX => {
                let length = length.clamp(PATH, size_of::<libc::sockaddr_un>()) - PATH;
                // SAFETY: within the storage, which was zeroed.
                let name = unsafe { std::slice::from_raw_parts(at.cast::<u8>().add(PATH), length) };
                // A path ends at its mark; an abstract name is as long as the kernel says.
                let end = match name.first() {
                    None | Some(0) => name.len(),
                    Some(_) => name.iter().position(|byte| *byte == 0).unwrap_or(name.len()),
                };
                Self::Unix(name[..end].into())
            }
            _ => Self::Unknown,
        }
    }

    /// Calls `f` with the address in the kernel's form.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is too long, and for no address.
    pub(super) fn with_raw<R>(
        &self,
        f: impl FnOnce(*const libc::sockaddr, libc::socklen_t) -> R,
    ) -> io::Result<R> {
        // SAFETY: all-zero bytes are a valid storage.
        let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let at = &raw mut storage;
        let length = match self {
            Self::Inet(SocketAddr::V4(address)) => {
                // SAFETY: the storage is large enough for every family, and aligned for it.
                let raw = unsafe { &mut *at.cast::<libc::sockaddr_in>() };
                raw.sin_family = family(libc::AF_INET);
                raw.sin_port = address.port().to_be();
                raw.sin_addr.s_addr = u32::from(*address.ip()).to_be();
                size_of::<libc::sockaddr_in>()
            }
            Self::Inet(SocketAddr::V6(address)) => {
                // SAFETY: as above.
                let raw = unsafe { &mut *at.cast::<libc::sockaddr_in6>() };
                raw.sin6_family = family(libc::AF_INET6);
                raw.sin6_port = address.port().to_be();
                raw.sin6_flowinfo = address.flowinfo().to_be();
                raw.sin6_addr.s6_addr = address.ip().octets();
                raw.sin6_scope_id = address.scope_id();
                size_of::<libc::sockaddr_in6>()
            }
            Self::Unix(name) => {
                // One byte stays for the end mark of a path.
                let path = !matches!(name.first(), None | Some(0));
                if PATH + name.len() + usize::from(path) > size_of::<libc::sockaddr_un>() {
                    return Err(io::ErrorKind::InvalidInput.into());
                }
                // SAFETY: as above; the name fits, by the check.
                unsafe {
                    (*at.cast::<libc::sockaddr_un>()).sun_family = family(libc::AF_UNIX);
                    let to = at.cast::<u8>().add(PATH);
                    std::ptr::copy_nonoverlapping(name.as_ptr(), to, name.len());
                }
                PATH + name.len() + usize::from(path)
            }
            Self::Unknown => return Err(io::ErrorKind::InvalidInput.into()),
        };
        #[cfg(any(target_os = "macos", target_os = "ios", target_os = "freebsd"))]
        // SAFETY: as above.
        unsafe {
            (*at.cast::<libc::sockaddr>()).sa_len = u8::try_from(length).unwrap_or(u8::MAX);
        }
        let length = libc::socklen_t::try_from(length).unwrap_or(STORAGE);
        Ok(f(at.cast_const().cast(), length))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn there_and_back(address: &SocketAddress) -> SocketAddress {
        SocketAddress::from_call(|storage, length| {
            let written = address.with_raw(|raw, size| {
                // SAFETY: both are addresses of at least that size.
                unsafe {
                    std::ptr::copy_nonoverlapping(raw.cast::<u8>(), storage.cast(), size as usize);
                    *length = size;
                }
            });
            assert!(written.is_ok());
        })
    }

    #[test]
    fn addresses_survive_the_kernels_form() {
        for text in ["127.0.0.1:80", "[::1]:65535", "[fe80::1%3]:7"] {
            let address = SocketAddress::Inet(text.parse().unwrap());
            assert_eq!(there_and_back(&address), address);
        }
        for name in [&b""[..], b"/tmp/socket", b"\0abstract\0name"] {
            let address = SocketAddress::Unix(name.into());
            assert_eq!(there_and_back(&address), address);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for address in [SocketAddress::Unix(vec![b'x'; 108].into()), SocketAddress::Unknown] {
            let error = address.with_raw(|_, _| ()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }
}
