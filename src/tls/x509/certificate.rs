//! One certificate, as AWS-LC has parsed it, and what can be asked of it.

use std::ffi::{c_int, c_long};
use std::ptr::{self, NonNull};

use aws_lc_sys as ffi;

use super::Code;

/// A certificate. A clone is the same one.
pub(super) struct Certificate {
    x509: NonNull<ffi::X509>,
    /// AWS-LC's marks, `EXFLAG_*`, so that they are not read under its lock each time.
    marks: u32,
}

// SAFETY: AWS-LC forbids to read and to mutate an `X509` at once. One is mutated by nobody once `from_der` has returned
// it: it was parsed from bytes, so that no encoding is left to be made, and what AWS-LC caches of its extensions it has
// cached there (under a lock of its own, which it takes for each later look). References are counted atomically.
unsafe impl Send for Certificate {}
// SAFETY: as for `Send`.
unsafe impl Sync for Certificate {}

impl Drop for Certificate {
    fn drop(&mut self) {
        // SAFETY: the reference is ours, and gone after this.
        unsafe { ffi::X509_free(self.as_ptr()) }
    }
}

impl Clone for Certificate {
    fn clone(&self) -> Self {
        // SAFETY: it is alive, and the reference that this counts belongs to the clone. It cannot fail.
        let _ = unsafe { ffi::X509_up_ref(self.as_ptr()) };
        Self { x509: self.x509, marks: self.marks }
    }
}

/// Which keys sign and are signed: AWS-LC's numbers, as `c_int` is what its functions give.
type Nid = c_int;

impl Certificate {
    /// Of just these bytes; `None` if AWS-LC does not read them as a certificate.
    pub(super) fn from_der(der: &[u8]) -> Option<Self> {
        let length = c_long::try_from(der.len()).ok()?;
        let mut at = der.as_ptr();
        // SAFETY: `at` points to `length` bytes, which are copied.
        let made = NonNull::new(unsafe { ffi::d2i_X509(ptr::null_mut(), &raw mut at, length) });
        let made = made.map(|x509| {
            // SAFETY: it is alive. This caches what AWS-LC will ask of the extensions, before anybody else has it.
            let marks = unsafe { ffi::X509_get_extension_flags(x509.as_ptr()) };
            Self { x509, marks }
        });
        forget_errors();
        made.filter(|_| at == der.as_ptr_range().end)
    }

    /// The pointer, good as long as `self` lives. It is `mut` as most of AWS-LC's functions take it so.
    pub(super) fn as_ptr(&self) -> *mut ffi::X509 {
        self.x509.as_ptr()
    }

    /// The bytes that it was made of.
    ///
    /// # Errors
    /// [`Code::UNSPECIFIED`] if AWS-LC has no memory.
    pub(super) fn to_der(&self) -> Result<Vec<u8>, Code> {
        // SAFETY: it is alive and not mutated: both calls say the same length, and the second one writes so many bytes
        // to memory that has room for them.
        unsafe {
            let length = ffi::i2d_X509(self.as_ptr(), ptr::null_mut());
            let mut der = vec![0; usize::try_from(length).map_err(|_| Code::UNSPECIFIED)?];
            let mut at = der.as_mut_ptr();
            if ffi::i2d_X509(self.as_ptr(), &raw mut at) != length {
                return Err(Code::UNSPECIFIED);
            }
            Ok(der)
        }
    }

    /// Its key with the kind of it, in DER.
    pub(super) fn public_key(&self) -> Option<Vec<u8>> {
        // SAFETY: it is alive and not mutated, and has its key as long as it is: both calls say the same length, and
        // the second one writes so many bytes to memory that has room for them.
        unsafe {
            let key = ffi::X509_get_X509_PUBKEY(self.as_ptr());
            let length = ffi::i2d_X509_PUBKEY(key, ptr::null_mut());
            let mut der = vec![0; usize::try_from(length).ok()?];
            let mut at = der.as_mut_ptr();
            (ffi::i2d_X509_PUBKEY(key, &raw mut at) == length).then_some(der)
        }
    }

    /// Whether it is the same, byte by byte.
    pub(super) fn is(&self, other: &Self) -> bool {
        // SAFETY: both are alive; their hashes were made when they were parsed.
        unsafe { ffi::X509_cmp(self.as_ptr(), other.as_ptr()) == 0 }
    }

    // -- names ---------------------------------------------------------------------------------------

    /// OpenSSL's hash of the subject, by which files in folders of certificates are named.
    pub(super) fn subject_hash(&self) -> u32 {
        // SAFETY: it is alive, and so is its subject, which is not mutated.
        unsafe { ffi::X509_NAME_hash(ffi::X509_get_subject_name(self.as_ptr())) }
    }

    /// Whether both have the same subject.
    pub(super) fn has_subject_of(&self, other: &Self) -> bool {
        // SAFETY: both are alive, and so are their subjects, which are not mutated.
        unsafe {
            let [one, other] = [self, other].map(|each| ffi::X509_get_subject_name(each.as_ptr()));
            ffi::X509_NAME_cmp(one, other) == 0
        }
    }

    /// Whether its subject is the name of the other one's issuer.
    pub(super) fn is_named_by(&self, issued: &Self) -> bool {
        // SAFETY: both are alive, and so are their names, which are not mutated.
        unsafe {
            let subject = ffi::X509_get_subject_name(self.as_ptr());
            ffi::X509_NAME_cmp(subject, ffi::X509_get_issuer_name(issued.as_ptr())) == 0
        }
    }

    /// Whether subject and issuer have no parts.
    pub(super) fn empty_names(&self) -> (bool, bool) {
        // SAFETY: it is alive, and so are its names.
        unsafe {
            let subject = ffi::X509_get_subject_name(self.as_ptr());
            let issuer = ffi::X509_get_issuer_name(self.as_ptr());
            (ffi::X509_NAME_entry_count(subject) == 0, ffi::X509_NAME_entry_count(issuer) == 0)
        }
    }

    // -- issuers -------------------------------------------------------------------------------------

    /// Whether it is likely to have issued the other one, as OpenSSL sees it: names, identifiers and kinds of keys
    /// agree. Whether its key usage lets it, is asked later.
    pub(super) fn may_have_issued(&self, issued: &Self) -> bool {
        // SAFETY: both are alive.
        let found = unsafe { ffi::X509_check_issued(self.as_ptr(), issued.as_ptr()) };
        // AWS-LC asks for the key usage last.
        let is_likely = matches!(found, ffi::X509_V_OK | ffi::X509_V_ERR_KEYUSAGE_NO_CERTSIGN);
        is_likely
            && self.is_consistent()
            && issued.is_consistent()
            && self.has_key_for_signature_of(issued)
    }

    /// Whether it seems to have issued itself, as OpenSSL sees it.
    pub(super) fn is_self_signed(&self) -> bool {
        self.may_have_issued(self)
    }

    fn has_key_for_signature_of(&self, issued: &Self) -> bool {
        let Some((kind, _)) = self.key() else { return false };
        let Some((signature, _, needed)) = issued.signature() else { return false };
        let is_pss = signature == ffi::NID_rsassaPss;
        kind == needed || is_pss && matches!(kind, ffi::EVP_PKEY_RSA | ffi::EVP_PKEY_RSA_PSS)
    }

    /// The algorithm of its signature, with the digest, and the kind of key that it takes.
    fn signature(&self) -> Option<(Nid, Nid, Nid)> {
        let (mut digest, mut key) = (ffi::NID_undef, ffi::NID_undef);
        // SAFETY: it is alive; both pointers are good for a write.
        unsafe {
            let signature = ffi::X509_get_signature_nid(self.as_ptr());
            let is_known = ffi::OBJ_find_sigid_algs(signature, &raw mut digest, &raw mut key) == 1;
            is_known.then_some((signature, digest, key))
        }
    }

    /// The kind of its key, and its size in bits; `None` if AWS-LC has no use for it.
    fn key(&self) -> Option<(Nid, c_int)> {
        // SAFETY: it is alive, and has its key as long as it is.
        let key = unsafe { ffi::X509_get0_pubkey(self.as_ptr()) };
        if key.is_null() {
            forget_errors();
            return None;
        }
        // SAFETY: the key is alive, as above.
        Some(unsafe { (ffi::EVP_PKEY_id(key), ffi::EVP_PKEY_bits(key)) })
    }

    /// Whether it has a key of RSA.
    pub(super) fn has_rsa_key(&self) -> bool {
        matches!(self.key(), Some((ffi::EVP_PKEY_RSA | ffi::EVP_PKEY_RSA_PSS, _)))
    }

    // -- strength: OpenSSL's security level 2 --------------------------------------------------------

    /// Whether its key is worth 112 bits.
    pub(super) fn has_strong_key(&self) -> bool {
        match self.key() {
            Some((ffi::EVP_PKEY_RSA | ffi::EVP_PKEY_RSA_PSS, bits)) => bits >= 2048,
            Some((ffi::EVP_PKEY_EC, bits)) => bits >= 224,
            Some((ffi::EVP_PKEY_ED25519, _)) => true,
            _ => false,
        }
    }

    /// Whether the digest that was signed is worth 112 bits.
    pub(super) fn has_strong_digest(&self) -> bool {
        const STRONG: [Nid; 4] =
            [ffi::NID_sha224, ffi::NID_sha256, ffi::NID_sha384, ffi::NID_sha512];
        match self.signature() {
            Some((ffi::NID_ED25519, ..)) => true,
            Some((ffi::NID_rsassaPss, ..)) => self.has_strong_pss(),
            Some((_, digest, _)) => STRONG.contains(&digest),
            None => false,
        }
    }

    /// Whether its RSA-PSS signature has a digest of SHA-2, said in the usual way.
    fn has_strong_pss(&self) -> bool {
        /// SEQUENCE { [0] SEQUENCE { OBJECT IDENTIFIER 2.16.840.1.101.3.4.2.x, where x is 1 to 3 for SHA-256 to SHA-512,
        /// and 4 for SHA-224. In an encoding of fewer than 128 bytes, as they all are.
        const SHA2: [u8; 10] = [0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];
        let mut algorithm = ptr::null();
        let (mut kind, mut value) = (0, ptr::null());
        // SAFETY: it is alive, and has its algorithm with the parameters as long as it is. The parameters are a sequence
        // as a string if their kind says so, and a string has so many bytes as its length says.
        let parameters = unsafe {
            ffi::X509_get0_signature(ptr::null_mut(), &raw mut algorithm, self.as_ptr());
            ffi::X509_ALGOR_get0(ptr::null_mut(), &raw mut kind, &raw mut value, algorithm);
            if kind != ffi::V_ASN1_SEQUENCE || value.is_null() {
                return false;
            }
            let string = value.cast::<ffi::ASN1_STRING>();
            let length = usize::try_from(ffi::ASN1_STRING_length(string)).unwrap_or(0);
            std::slice::from_raw_parts(ffi::ASN1_STRING_get0_data(string), length)
        };
        matches!(parameters, [0x30, _, 0xA0, _, 0x30, _, rest @ ..]
            if rest.strip_prefix(&SHA2).is_some_and(|rest| matches!(rest, [1..=4, ..])))
    }

    // -- dates ---------------------------------------------------------------------------------------

    /// Whether it is good at this time, in seconds since the epoch.
    pub(super) fn is_valid_at(&self, now: i64) -> bool {
        // SAFETY: it is alive, and has its dates as long as it is. A comparison is 0 if a date cannot be read.
        unsafe {
            ffi::X509_cmp_time_posix(ffi::X509_get0_notBefore(self.as_ptr()), now) < 0
                && ffi::X509_cmp_time_posix(ffi::X509_get0_notAfter(self.as_ptr()), now) > 0
        }
    }

    /// When it ends, in seconds since the epoch; those that cannot be read have always ended.
    pub(super) fn end(&self) -> i64 {
        let mut end = i64::MIN;
        // SAFETY: it is alive, and has its dates as long as it is; the pointer is good for a write.
        let is_read = unsafe {
            ffi::ASN1_TIME_to_posix(ffi::X509_get0_notAfter(self.as_ptr()), &raw mut end) == 1
        };
        if !is_read {
            forget_errors();
        }
        if is_read { end } else { i64::MIN }
    }

    // -- extensions ----------------------------------------------------------------------------------

    /// Whether it has one of AWS-LC's marks, `EXFLAG_*`.
    pub(super) fn has(&self, mark: c_int) -> bool {
        // They are bits of a word that has no sign.
        self.marks & mark.cast_unsigned() != 0
    }

    /// Whether its extensions are what they should be. OpenSSL finds no issuer for one that is not.
    pub(super) fn is_consistent(&self) -> bool {
        // A proxy's name is that of whom it stands for, with an addition, and it is no authority.
        let is_odd_proxy = || {
            let has = |nid| self.extension(nid).is_some();
            has(ffi::NID_proxyCertInfo)
                && (self.has(ffi::EXFLAG_CA) || has(ffi::NID_subject_alt_name))
        };
        !self.has(ffi::EXFLAG_INVALID) && self.key_usage() != Some(0) && !is_odd_proxy()
    }

    /// What its key may be used for, in AWS-LC's bits; `None` if it does not say.
    pub(super) fn key_usage(&self) -> Option<c_int> {
        // SAFETY: it is alive.
        let usage = unsafe { ffi::X509_get_key_usage(self.as_ptr()) };
        self.has(ffi::EXFLAG_KUSAGE).then_some(usage.cast_signed())
    }

    /// How many authorities may follow below it, if it says so.
    pub(super) fn path_length(&self) -> Option<c_long> {
        // SAFETY: it is alive.
        let length = unsafe { ffi::X509_get_pathlen(self.as_ptr()) };
        (length != -1).then_some(length)
    }

    /// Whether AWS-LC finds it good for this purpose (`X509_PURPOSE_*`), be it as an authority's.
    pub(super) fn is_good_for(&self, purpose: c_int, as_authority: bool) -> bool {
        // SAFETY: it is alive.
        unsafe { ffi::X509_check_purpose(self.as_ptr(), purpose, c_int::from(as_authority)) == 1 }
    }

    /// Whether the extension of this number is critical; `None` if there is none.
    pub(super) fn extension(&self, nid: Nid) -> Option<bool> {
        // SAFETY: it is alive, and has its extensions as long as it is. A place that is -1 is none.
        unsafe {
            let place = ffi::X509_get_ext_by_NID(self.as_ptr(), nid, -1);
            (place >= 0).then(|| {
                ffi::X509_EXTENSION_get_critical(ffi::X509_get_ext(self.as_ptr(), place)) == 1
            })
        }
    }

    /// How many alternative names of the subject it has; `None` if it has not the extension.
    pub(super) fn alternative_names(&self) -> Option<usize> {
        let (names, none) = (ffi::NID_subject_alt_name, ptr::null_mut());
        // SAFETY: it is alive; what comes is such names in a stack of their own, which is freed.
        unsafe {
            let names = ffi::X509_get_ext_d2i(self.as_ptr(), names, none, none);
            if names.is_null() {
                return None;
            }
            let count = ffi::OPENSSL_sk_num(names.cast());
            ffi::GENERAL_NAMES_free(names.cast());
            Some(count)
        }
    }

    /// Whether it says of a place of lists that those there are of some reasons.
    pub(super) fn has_lists_by_reason(&self) -> bool {
        let (points, none) = (ffi::NID_crl_distribution_points, ptr::null_mut());
        // SAFETY: it is alive; what comes is such places in a stack of their own, or null. It is freed when it has been
        // looked at.
        unsafe {
            let points = ffi::X509_get_ext_d2i(self.as_ptr(), points, none, none);
            let stack = points.cast::<ffi::OPENSSL_STACK>();
            let found = (0..ffi::OPENSSL_sk_num(stack)).any(|place| {
                let point = ffi::OPENSSL_sk_value(stack, place).cast::<ffi::DIST_POINT>();
                !(*point).reasons.is_null()
            });
            ffi::CRL_DIST_POINTS_free(points.cast());
            found
        }
    }

    /// What it says of its issuer's key: whether its identifier, its issuer, and its number.
    pub(super) fn authority_key(&self) -> (bool, bool, bool) {
        // SAFETY: it is alive.
        unsafe {
            (
                !ffi::X509_get0_authority_key_id(self.as_ptr()).is_null(),
                !ffi::X509_get0_authority_issuer(self.as_ptr()).is_null(),
                !ffi::X509_get0_authority_serial(self.as_ptr()).is_null(),
            )
        }
    }

    /// Whether it has extensions of any kind.
    pub(super) fn has_extensions(&self) -> bool {
        // SAFETY: it is alive.
        unsafe { ffi::X509_get_ext_count(self.as_ptr()) > 0 }
    }

    /// Whether its version is 3.
    pub(super) fn is_version_3(&self) -> bool {
        // SAFETY: it is alive. Versions are counted from 0.
        unsafe { ffi::X509_get_version(self.as_ptr()) >= 2 }
    }

    /// Whether the algorithm that is signed is the one that it is said to be signed by.
    pub(super) fn has_one_algorithm(&self) -> bool {
        let mut algorithm = ptr::null();
        // SAFETY: it is alive, and has both as long as it is.
        unsafe {
            ffi::X509_get0_signature(ptr::null_mut(), &raw mut algorithm, self.as_ptr());
            ffi::X509_ALGOR_cmp(algorithm, ffi::X509_get0_tbs_sigalg(self.as_ptr())) == 0
        }
    }
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Certificate({:08x})", self.subject_hash())
    }
}

/// Empties this thread's queue of AWS-LC's errors, in which nobody looks.
pub(super) fn forget_errors() {
    // SAFETY: it may be called at any time.
    unsafe { ffi::ERR_clear_error() }
}
