//! Records of data of TLS 1.3, sealed and opened from where the data are to where they go.
//!
//! rustls makes each record in memory of its own and copies it, and copies the plaintext of each that comes. Of data in
//! bulk that is a fifth of the work. So the keys for TLS 1.3 are made here: rustls has them by its interface for other
//! libraries of ciphers ([`share_keys`]), and decides which are used from when on, with all that a connection says
//! besides data. [`RecordKeys`] are those that it uses at this time, by which a session seals and opens
//! records of data itself.
//!
//! Must never: use a number twice with a key. The counter is the key's, whoever uses it.

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ops::RangeInclusive;
use std::ptr::NonNull;
use std::sync::Arc;

use aws_lc_sys as ffi;
use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, MessageDecrypter, MessageEncrypter,
    NONCE_LEN, Nonce, OutboundOpaqueMessage, OutboundPlainMessage, PrefixedPayload,
    Tls13AeadAlgorithm, UnsupportedOperationError, make_tls13_aad,
};
use rustls::crypto::{self, CryptoProvider};
use rustls::{
    CipherSuite, ConnectionTrafficSecrets, ContentType, Error, ProtocolVersion,
    SupportedCipherSuite, Tls13CipherSuite,
};

use super::hmac;
use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};
use crate::transport::{Ciphertext, Plaintext};

/// The most plaintext of one record.
pub(super) const RECORD: usize = 16 * 1024;

/// What stands before the ciphertext of a record: its kind, version and length.
pub(super) const HEADER: usize = 5;

/// What the authentication takes.
const TAG: usize = 16;

/// What a record is longer than its data: the header, the kind, the authentication.
const OVERHEAD: usize = HEADER + 1 + TAG;

/// The most that may follow a header, with TLS 1.2.
const LONGEST: usize = RECORD + 2047;

/// How the header of a record with data begins.
const DATA: [u8; 3] = [23, 3, 3];

/// The kinds of records that there are.
const KINDS: RangeInclusive<u8> = 20..=24;

// -- keys ----------------------------------------------------------------------------------------------

/// The key of one direction, with the number of the next record.
pub(super) struct Key {
    /// `None` if there was no memory: then nothing can be done with it.
    context: Option<NonNull<ffi::EVP_AEAD_CTX>>,
    iv: Iv,
    /// Each number is used once.
    next: AtomicU64,
    /// So many records may be sealed.
    limit: u64,
}

// SAFETY: the ciphers of `Shared` never change what they have made of a key (it is `const` to them), and any thread
// may use and free it.
unsafe impl Send for Key {}
// SAFETY: as above; the counter is an atomic.
unsafe impl Sync for Key {}

impl Drop for Key {
    fn drop(&mut self) {
        if let Some(context) = self.context {
            // SAFETY: it is ours, and gone after this. It is overwritten.
            unsafe { ffi::EVP_AEAD_CTX_free(context.as_ptr()) }
        }
    }
}

impl Key {
    /// Seals `data` and the record's kind. `sealed` is as long as both and the authentication, and may be uninitialised; it
    /// is written in full. Or `data` is where `sealed` begins.
    ///
    /// # Safety
    /// `data` can be read, `sealed` be written, for so many bytes; they are the same memory or do not overlap.
    unsafe fn seal(&self, kind: u8, data: *const u8, count: usize, sealed: *mut u8) -> Option<()> {
        let context = self.context?;
        let (kind, number) = (&raw const kind, self.next.fetch_add(1, Relaxed));
        let (nonce, header) = (Nonce::new(&self.iv, number).0, make_tls13_aad(count + 1 + TAG));
        let mut length = 0;
        // SAFETY: the context is alive; by the caller's word the memory is there, and is what AWS-LC asks for.
        let done = unsafe {
            ffi::EVP_AEAD_CTX_seal_scatter(
                context.as_ptr(),
                sealed,
                sealed.add(count),
                &raw mut length,
                1 + TAG,
                nonce.as_ptr(),
                NONCE_LEN,
                data,
                count,
                kind,
                1,
                header.as_ptr(),
                HEADER,
            )
        };
        (done == 1 && length == 1 + TAG).then_some(())
    }

    /// Opens what stands behind the header of a record with the number `number`. `opened` has room for it without the
    /// authentication, and may be uninitialised; it is written in full. Or it is where `sealed` begins.
    ///
    /// # Safety
    /// `sealed` can be read for `count` bytes, and `opened` be written for `TAG` less; they are the same memory or do not
    /// overlap.
    unsafe fn open(
        &self,
        number: u64,
        sealed: *const u8,
        count: usize,
        opened: *mut u8,
    ) -> Option<()> {
        let (context, inner) = (self.context?, count.checked_sub(TAG)?);
        let (nonce, header) = (Nonce::new(&self.iv, number).0, make_tls13_aad(count));
        // SAFETY: as in `seal`.
        let done = unsafe {
            ffi::EVP_AEAD_CTX_open_gather(
                context.as_ptr(),
                opened,
                nonce.as_ptr(),
                NONCE_LEN,
                sealed,
                inner,
                sealed.add(inner),
                TAG,
                header.as_ptr(),
                HEADER,
            )
        };
        (done == 1).then_some(())
    }

    /// Whether so many more records may be sealed by it, and some of rustls's after these.
    pub(super) fn lasts_for(&self, records: usize) -> bool {
        self.next.load(Relaxed).saturating_add(records as u64 + 16) < self.limit
    }

    /// Appends records with `data` to `to`: full ones, but for the last. `None` if AWS-LC fails.
    pub(super) fn seal_data(&self, data: &[u8], to: &mut Ciphertext) -> Option<()> {
        let records = data.len().div_ceil(RECORD);
        let mut room = to.spare(data.len() + records * OVERHEAD);
        let mut made = 0;
        for data in data.chunks(RECORD) {
            let (record, rest) = room.split_at_mut(data.len() + OVERHEAD);
            let (header, sealed) = record.split_at_mut(HEADER);
            header.copy_from_slice(&make_tls13_aad(data.len() + 1 + TAG).map(MaybeUninit::new));
            // SAFETY: both are as long as is needed, and `to` is borrowed as mutable.
            unsafe { self.seal(DATA[0], data.as_ptr(), data.len(), sealed.as_mut_ptr().cast())? };
            made += data.len() + OVERHEAD;
            room = rest;
        }
        // SAFETY: these were written.
        unsafe { to.filled_spare(made) };
        Some(())
    }

    /// Opens the records at the front of `ciphertext`, as long as they are whole and have data; says how many bytes they
    /// are. What comes next, if it is whole, is rustls's: it has not been counted.
    pub(super) fn open_data(&self, ciphertext: &[u8], plaintext: &mut dyn Plaintext) -> usize {
        let mut used = 0;
        while let First::Record(length) = first(&ciphertext[used..])
            && ciphertext[used..].starts_with(&DATA)
        {
            let sealed = &ciphertext[used + HEADER..used + length];
            let Some(inner) = sealed.len().checked_sub(TAG).filter(|inner| *inner <= RECORD + 1)
            else {
                break;
            };
            let opened = &mut plaintext.spare(inner)[..inner];
            let number = self.next.load(Relaxed);
            let opened = opened.as_mut_ptr().cast();
            // SAFETY: there is room, and the ciphertext is elsewhere.
            let done = unsafe { self.open(number, sealed.as_ptr(), sealed.len(), opened) };
            if done.is_none() {
                break;
            }
            // SAFETY: `open` has written so many.
            let opened = unsafe { std::slice::from_raw_parts(opened, inner) };
            // The kind is the last byte that is not zero.
            let count = match opened.iter().rposition(|byte| *byte != 0) {
                Some(count) if count > 0 && opened[count] == DATA[0] => count,
                _ => break,
            };
            self.next.store(number + 1, Relaxed);
            // SAFETY: as above.
            unsafe { plaintext.filled(count) };
            used += length;
        }
        used
    }

    /// As if so few records were left until the key is worn.
    #[cfg(test)]
    pub(super) fn wear_out(&self, left: u64) {
        self.next.store(self.limit - left, Relaxed);
    }

    /// A record of any kind.
    #[cfg(test)]
    pub(super) fn record(&self, kind: u8, inner: &[u8]) -> Vec<u8> {
        let mut record = make_tls13_aad(inner.len() + 1 + TAG).to_vec();
        record.resize(HEADER + inner.len() + 1 + TAG, 0);
        // SAFETY: the record is that long.
        let done =
            unsafe { self.seal(kind, inner.as_ptr(), inner.len(), record[HEADER..].as_mut_ptr()) };
        assert!(done.is_some());
        record
    }
}

/// How many bytes from the front rustls is to be given: what it holds, and the whole records behind that, or `one` of
/// them. All of it, and `true`, if something else comes, on which it is to fail.
pub(super) fn whole(ciphertext: &[u8], held: usize, one: bool) -> (usize, bool) {
    let mut given = held;
    loop {
        match first(&ciphertext[given..]) {
            First::Record(length) => given += length,
            First::Part => return (given, false),
            First::Other => return (ciphertext.len(), true),
        }
        if one {
            return (given, false);
        }
    }
}

/// How many bytes the whole records with data have at the front of `ciphertext`, unless they are padded, or have
/// something else.
pub(super) fn data_in(mut ciphertext: &[u8]) -> usize {
    let mut data = 0;
    while let First::Record(length) = first(ciphertext)
        && ciphertext.starts_with(&DATA)
    {
        data += length.saturating_sub(OVERHEAD);
        ciphertext = &ciphertext[length..];
    }
    data
}

/// What ciphertext begins with.
enum First {
    /// A record of so many bytes.
    Record(usize),
    /// A part of one, or nothing.
    Part,
    /// What is none.
    Other,
}

#[inline]
fn first(ciphertext: &[u8]) -> First {
    let is_none = match ciphertext {
        [] => false,
        [kind] | [kind, _] => !KINDS.contains(kind),
        [kind, version, ..] => !KINDS.contains(kind) || *version != DATA[1],
    };
    if is_none {
        return First::Other;
    }
    let Some(&[high, low]) = ciphertext.get(DATA.len()..HEADER) else { return First::Part };
    match usize::from(u16::from_be_bytes([high, low])) {
        length if length > LONGEST || (length == 0 && ciphertext[0] != DATA[0]) => First::Other,
        length if ciphertext.len() < HEADER + length => First::Part,
        length => First::Record(HEADER + length),
    }
}

// -- which keys rustls uses ----------------------------------------------------------------------------

/// The keys of a connection by which rustls has last sealed and opened data itself, unless it has made others since. None
/// but with TLS 1.3.
///
/// So the first data that go by new keys, either way, are rustls's: it sends what has to go before, and counts how
/// often a peer changes its keys without sending anything.
#[derive(Default)]
pub(super) struct RecordKeys {
    pub(super) seal: Option<Arc<Key>>,
    pub(super) open: Option<Arc<Key>>,
}

thread_local! {
    /// Those of the connection that rustls works for.
    static IN_USE: Cell<RecordKeys> = const { Cell::new(RecordKeys { seal: None, open: None }) };
}

impl RecordKeys {
    /// Lets rustls work for the connection: `f` calls it.
    #[inline]
    pub(super) fn during<R>(&mut self, f: impl FnOnce() -> R) -> R {
        /// Takes them out again, also if rustls panics: they are not another connection's.
        struct Taken<'a>(&'a mut RecordKeys);
        impl Drop for Taken<'_> {
            fn drop(&mut self) {
                *self.0 = IN_USE.take();
            }
        }
        IN_USE.set(std::mem::take(self));
        let _taken = Taken(self);
        f()
    }

    fn change(f: impl FnOnce(&mut Self)) {
        let mut keys = IN_USE.take();
        f(&mut keys);
        IN_USE.set(keys);
    }
}

// -- what rustls has of them ---------------------------------------------------------------------------

/// The provider with its suites of TLS 1.3 changed: their keys are [`Key`]s.
pub(super) fn share_keys(mut provider: CryptoProvider) -> CryptoProvider {
    for suite in &mut provider.cipher_suites {
        let SupportedCipherSuite::Tls13(theirs) = *suite else { continue };
        // SAFETY: these functions take nothing, and give what lives as long as the program.
        let (cipher, hkdf) = unsafe {
            match theirs.common.suite {
                CipherSuite::TLS13_AES_128_GCM_SHA256 => {
                    (ffi::EVP_aead_aes_128_gcm(), &hmac::SHA256)
                }
                CipherSuite::TLS13_AES_256_GCM_SHA384 => {
                    (ffi::EVP_aead_aes_256_gcm(), &hmac::SHA384)
                }
                CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => {
                    (ffi::EVP_aead_chacha20_poly1305(), &hmac::SHA256)
                }
                _ => continue,
            }
        };
        let limit = theirs.common.confidentiality_limit;
        // Once in a program: the provider is made once.
        let shared: &'static Shared =
            Box::leak(Box::new(Shared { theirs: theirs.aead_alg, cipher, limit }));
        *suite = SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite {
            common: crypto::CipherSuiteCommon {
                suite: theirs.common.suite,
                hash_provider: theirs.common.hash_provider,
                confidentiality_limit: limit,
            },
            hkdf_provider: hkdf,
            aead_alg: shared,
            quic: None,
        })));
    }
    provider
}

/// A cipher whose keys are shared with the sessions.
struct Shared {
    theirs: &'static dyn Tls13AeadAlgorithm,
    cipher: *const ffi::EVP_AEAD,
    limit: u64,
}

// SAFETY: the cipher is constant.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    fn key(&self, key: &AeadKey, iv: Iv) -> Arc<Key> {
        let key = key.as_ref();
        // SAFETY: the key can be read for its length.
        let context = unsafe { ffi::EVP_AEAD_CTX_new(self.cipher, key.as_ptr(), key.len(), TAG) };
        let (context, next) = (NonNull::new(context), AtomicU64::new(0));
        Arc::new(Key { context, iv, next, limit: self.limit })
    }
}

impl Tls13AeadAlgorithm for Shared {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        RecordKeys::change(|keys| keys.seal = None);
        Box::new(Sealer(self.key(&key, iv)))
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        RecordKeys::change(|keys| keys.open = None);
        Box::new(Opener(self.key(&key, iv)))
    }

    fn key_len(&self) -> usize {
        self.theirs.key_len()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: Iv,
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.theirs.extract_keys(key, iv)
    }
}

struct Sealer(Arc<Key>);

impl MessageEncrypter for Sealer {
    /// The number is the key's, and not rustls's, which does not know of all records.
    fn encrypt(
        &mut self,
        message: OutboundPlainMessage<'_>,
        _: u64,
    ) -> Result<OutboundOpaqueMessage, Error> {
        let count = message.payload.len();
        let mut payload = PrefixedPayload::with_capacity(self.encrypted_payload_len(count));
        payload.extend_from_chunks(&message.payload);
        payload.extend_from_slice(&[0; 1 + TAG]);
        let kind = message.typ.into();
        let sealed = payload.as_mut().as_mut_ptr();
        // SAFETY: the payload is that long, and begins with the data.
        unsafe { self.0.seal(kind, sealed, count, sealed) }.ok_or(Error::EncryptError)?;
        if message.typ == ContentType::ApplicationData {
            RecordKeys::change(|keys| keys.seal = Some(Arc::clone(&self.0)));
        }
        let version = ProtocolVersion::TLSv1_2;
        Ok(OutboundOpaqueMessage::new(ContentType::ApplicationData, version, payload))
    }

    fn encrypted_payload_len(&self, count: usize) -> usize {
        count + 1 + TAG
    }
}

struct Opener(Arc<Key>);

impl MessageDecrypter for Opener {
    /// As with [`Sealer`], the number is the key's.
    fn decrypt<'a>(
        &mut self,
        mut message: InboundOpaqueMessage<'a>,
        _: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let payload = &mut message.payload;
        let (count, number) = (payload.len(), self.0.next.load(Relaxed));
        let sealed = payload.as_mut_ptr();
        // SAFETY: the payload is that long, and opened where it is.
        unsafe { self.0.open(number, sealed, count, sealed) }.ok_or(Error::DecryptError)?;
        self.0.next.store(number + 1, Relaxed);
        payload.truncate(count - TAG);
        let message = message.into_tls13_unpadded_message()?;
        if message.typ == ContentType::ApplicationData {
            // What follows an empty record is rustls's: it counts those that come in a row.
            let open = (!message.payload.is_empty()).then(|| Arc::clone(&self.0));
            RecordKeys::change(|keys| keys.open = open);
        }
        Ok(message)
    }
}
