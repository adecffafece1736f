//! HKDF for the keys of TLS 1.3, of which each key is used several times.
//!
//! In: keys and messages of rustls's key schedule. Out: what HKDF makes of them. rustls's own HMAC begins with the
//! key each time, which is half of the work with SHA-384, for which processors have no instructions: here it is done once
//! for a key. Secrets are overwritten when they are not needed any more.

use std::mem::MaybeUninit;

use aws_lc_sys as ffi;
use rustls::crypto::hmac::{Hmac, Key, Tag};
use rustls::crypto::tls13::{Hkdf, HkdfExpander, HkdfUsingHmac, OkmBlock};

/// HMAC and HKDF with SHA-256.
pub(super) static SHA256: Sha2 = Sha2 { length: 32, digest: ffi::EVP_sha256 };

/// HMAC and HKDF with SHA-384.
pub(super) static SHA384: Sha2 = Sha2 { length: 48, digest: ffi::EVP_sha384 };

/// HMAC and HKDF with one of the hash functions.
pub(super) struct Sha2 {
    length: usize,
    digest: unsafe extern "C" fn() -> *const ffi::EVP_MD,
}

impl Hmac for Sha2 {
    fn with_key(&self, key: &[u8]) -> Box<dyn Key> {
        // SAFETY: all of it is plain data, which AWS-LC sets to zero itself before it begins.
        let context = Context(unsafe { MaybeUninit::zeroed().assume_init() });
        let mut keyed = Box::new(Keyed { context, length: self.length });
        let context = &raw mut keyed.context.0;
        // SAFETY: the context is where it stays. The key can be read. The digest is constant.
        let done = unsafe {
            let (bytes, digest) = (key.as_ptr().cast(), (self.digest)());
            ffi::HMAC_CTX_init(context);
            ffi::HMAC_Init_ex(context, bytes, key.len(), digest, std::ptr::null_mut())
        };
        // Nothing that it needs may be missing; and a key that is none must not be used.
        assert_eq!(done, 1, "AWS-LC takes any key");
        keyed
    }

    fn hash_output_len(&self) -> usize {
        self.length
    }
}

impl Hkdf for Sha2 {
    fn extract_from_zero_ikm(&self, salt: Option<&[u8]>) -> Box<dyn HkdfExpander> {
        self.extract_from_secret(salt, &[0; Tag::MAX_LEN][..self.length])
    }

    fn extract_from_secret(&self, salt: Option<&[u8]>, secret: &[u8]) -> Box<dyn HkdfExpander> {
        let no_salt = [0; Tag::MAX_LEN];
        let tag = self.with_key(salt.unwrap_or(&no_salt[..self.length])).sign(&[secret]);
        // rustls's own keeps it in memory that is not overwritten.
        self.expander_for_okm(&OkmBlock::new(tag.as_ref()))
    }

    fn expander_for_okm(&self, okm: &OkmBlock) -> Box<dyn HkdfExpander> {
        HkdfUsingHmac(self).expander_for_okm(okm)
    }

    fn hmac_sign(&self, key: &OkmBlock, message: &[u8]) -> Tag {
        HkdfUsingHmac(self).hmac_sign(key, message)
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
        // SAFETY: as in `with_key`.
        let mut copy = Context(unsafe { MaybeUninit::zeroed().assume_init() });
        let context = &raw mut copy.0;
        let mut tag = [0; Tag::MAX_LEN];
        let parts = std::iter::once(&first).chain(middle).chain(std::iter::once(&last));
        // SAFETY: the context is ours, and has a key. The parts can be read. A tag is no longer than the longest one.
        let done = unsafe {
            let copied = ffi::HMAC_CTX_copy(context, &raw const self.context.0);
            parts.fold(copied, |done, part| {
                done & ffi::HMAC_Update(context, part.as_ptr(), part.len())
            }) & ffi::HMAC_Final(context, tag.as_mut_ptr(), std::ptr::null_mut())
        };
        assert_eq!(done, 1, "AWS-LC takes any message");
        let result = Tag::new(&tag[..self.length]);
        // SAFETY: it is ours; rustls's copy is overwritten by itself.
        unsafe { ffi::OPENSSL_cleanse(tag.as_mut_ptr().cast(), tag.len()) };
        result
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
