//! HMAC for the keys of TLS 1.3, of which each key is used several times.
//!
//! In: keys and messages of rustls's key schedule. Out: what HKDF makes of them. rustls's own function begins with the
//! key each time, which is half of the work with SHA-384, for which processors have no instructions: here it is done once
//! for a key.

use std::mem::MaybeUninit;

use aws_lc_sys as ffi;
use rustls::crypto::hmac::{Hmac, Key, Tag};

/// HMAC with SHA-256.
pub(super) static SHA256: Sha2 = Sha2 { length: 32, digest: ffi::EVP_sha256 };

/// HMAC with SHA-384.
pub(super) static SHA384: Sha2 = Sha2 { length: 48, digest: ffi::EVP_sha384 };

/// HMAC with one of the hash functions.
pub(super) struct Sha2 {
    length: usize,
    digest: unsafe extern "C" fn() -> *const ffi::EVP_MD,
}

impl Hmac for Sha2 {
    fn with_key(&self, key: &[u8]) -> Box<dyn Key> {
        let mut context = MaybeUninit::uninit();
        // SAFETY: it is initialised by the first call, and moved only afterwards, which AWS-LC allows: all of it is
        // plain data. The key can be read. The digest is constant.
        let (done, context) = unsafe {
            ffi::HMAC_CTX_init(context.as_mut_ptr());
            let (bytes, digest) = (key.as_ptr().cast(), (self.digest)());
            let none = std::ptr::null_mut();
            let done = ffi::HMAC_Init_ex(context.as_mut_ptr(), bytes, key.len(), digest, none);
            (done, context.assume_init())
        };
        let keyed = Box::new(Keyed { context: Context(context), length: self.length });
        // Nothing that it needs may be missing; and a key that is none must not be used.
        assert_eq!(done, 1, "AWS-LC takes any key");
        keyed
    }

    fn hash_output_len(&self) -> usize {
        self.length
    }
}

/// AWS-LC's, overwritten when it is dropped.
struct Context(ffi::HMAC_CTX);

// SAFETY: it is plain data, with pointers to constants.
unsafe impl Send for Context {}
// SAFETY: as above; it is copied, and never changed.
unsafe impl Sync for Context {}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: it is initialised, and not used after this.
        unsafe { ffi::HMAC_CTX_cleanup(&raw mut self.0) }
    }
}

/// A key, as far as it can be hashed before the message.
struct Keyed {
    context: Context,
    length: usize,
}

impl Key for Keyed {
    fn sign_concat(&self, first: &[u8], middle: &[&[u8]], last: &[u8]) -> Tag {
        let mut context = MaybeUninit::uninit();
        // SAFETY: the call initialises it with a copy of ours.
        let mut context = unsafe {
            ffi::HMAC_CTX_copy(context.as_mut_ptr(), &raw const self.context.0);
            Context(context.assume_init())
        };
        let context = &raw mut context.0;
        let mut tag = [0; Tag::MAX_LEN];
        let parts = std::iter::once(&first).chain(middle).chain(std::iter::once(&last));
        // SAFETY: the context is ours, and has a key. The parts can be read. A tag is no longer than the longest one.
        let done = unsafe {
            parts.fold(1, |done, part| done & ffi::HMAC_Update(context, part.as_ptr(), part.len()))
                & ffi::HMAC_Final(context, tag.as_mut_ptr(), std::ptr::null_mut())
        };
        assert_eq!(done, 1, "AWS-LC takes any message");
        Tag::new(&tag[..self.length])
    }

    fn tag_len(&self) -> usize {
        self.length
    }
}

#[cfg(all(test, not(loom)))]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digit = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        (0..hex.len()).step_by(2).map(digit).collect()
    }

    /// RFC 4231, test cases 2 and 6.
    #[test]
    fn tags_are_those_of_the_standard() {
        let jefe = (&b"Jefe"[..], [&b"what do ya "[..], b"want for ", b"nothing?"]);
        let long: (&[u8], [&[u8]; 3]) =
            (&[0xaa; 131], [b"Test Using Larger ", b"Than Block-Size Key", b" - Hash Key First"]);
        for (hmac, (key, [first, middle, last]), expected) in [
            (&SHA256, jefe, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
            (&SHA256, long, "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"),
            (
                &SHA384,
                jefe,
                "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e\
                 8e2240ca5e69e2c78b3239ecfab21649",
            ),
            (
                &SHA384,
                long,
                "4ece084485813e9088d2c63a041bc5b44f9ef1012a2b588f3cd11f05033ac4c6\
                 0c2ef6ab4030fe8296248df163f44952",
            ),
        ] {
            let (keyed, expected) = (hmac.with_key(key), bytes(expected));
            // Signing does not change the key.
            for _ in 0..2 {
                let tag = keyed.sign_concat(first, &[middle], last);
                assert_eq!(tag.as_ref(), expected);
                assert_eq!(keyed.sign(&[first, middle, last]).as_ref(), expected);
            }
            assert_eq!(
                (keyed.tag_len(), hmac.hash_output_len()),
                (expected.len(), keyed.tag_len())
            );
        }
    }
}
