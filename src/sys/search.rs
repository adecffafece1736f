//! Searching bytes in bytes, with the C library's functions.

use std::ptr::NonNull;

/// Where `needle`, which is not empty, begins in `bytes` for the first time.
#[must_use]
pub fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    let begin = bytes.as_ptr();
    // SAFETY: both slices are valid for their lengths.
    let found = unsafe {
        match *needle {
            [byte] => libc::memchr(begin.cast(), byte.into(), bytes.len()),
            _ => libc::memmem(begin.cast(), bytes.len(), needle.as_ptr().cast(), needle.len()),
        }
    };
    NonNull::new(found).map(|found| found.addr().get() - begin.addr())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::find;

    #[test]
    fn the_first_place_or_none() {
        assert_eq!(find(b"a\r\nb\r\n", b"\n"), Some(2));
        assert_eq!(find(b"a\r\nb\r\n", b"\r\n"), Some(1));
        assert_eq!(find(b"a\r\nb\r\n", b"\r\nb"), Some(1));
        assert_eq!(find(b"abc", b"d"), None);
        assert_eq!(find(b"abc", b"abcd"), None);
        assert_eq!(find(b"", b"a"), None);
    }
}
