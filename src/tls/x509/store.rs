//! What certificates are verified by: those that are trusted, lists of revoked ones, and what is asked.

use std::ffi::{c_long, c_ulong};
use std::fmt;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

use aws_lc_sys as ffi;

use super::certificate::{Certificate, forget_errors};

/// Which certificates of a chain must not be revoked. One that is in no list's domain is refused too, and so
/// is a list that is out of date.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RevocationCheck {
    /// None is looked up.
    #[default]
    None,
    /// The peer's own (`VERIFY_CRL_CHECK_LEAF`).
    Leaf,
    /// All but the root's (`VERIFY_CRL_CHECK_CHAIN`).
    Chain,
}

/// What is asked of a chain, as OpenSSL's flags say it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// A chain may end with any trusted certificate, not only with one that signed itself
    /// (`VERIFY_X509_PARTIAL_CHAIN`).
    pub partial_chain: bool,
    /// Certificates have to keep to RFC 5280 in the letter (`VERIFY_X509_STRICT`).
    pub strict: bool,
    /// A name in the subject does not count as the host's, also if there is no other
    /// (`hostname_checks_common_name` is off).
    pub ignores_common_name: bool,
    /// Which certificates are looked up in the lists.
    pub revocation: RevocationCheck,
}

/// See the head of this file. It never changes once it is used: all threads share one.
#[derive(Clone, Debug, Default)]
pub(in crate::tls) struct Store {
    /// Those of the first source in which a name is found count, as with OpenSSL, which looks into a folder only if it
    /// knows no certificate of that name. In each, the order is that in which they were added.
    sources: Vec<Vec<Certificate>>,
    lists: Vec<List>,
    pub(in crate::tls) rules: Rules,
}

impl Store {
    /// Trusts a certificate, as one of the source of this number. Whether it could be read.
    #[must_use]
    pub(in crate::tls) fn add(&mut self, source: usize, der: &[u8]) -> bool {
        let Some(certificate) = Certificate::from_der(der) else { return false };
        self.push(source, certificate);
        true
    }

    /// As [`add`](Self::add), of a file that OpenSSL finds by this hash: if it is not that of the certificate, it
    /// would not be found.
    #[must_use]
    pub(in crate::tls) fn add_by_hash(&mut self, source: usize, hash: u32, der: &[u8]) -> bool {
        let Some(certificate) = Certificate::from_der(der) else { return false };
        if certificate.subject_hash() == hash {
            self.push(source, certificate);
        }
        true
    }

    /// Whether another certificate of the first source has the subject of this one.
    pub(in crate::tls) fn has_name_of(&self, der: &[u8]) -> bool {
        let source = self.sources.first().map(Vec::as_slice).unwrap_or_default();
        Certificate::from_der(der).is_some_and(|one| {
            source.iter().any(|each| each.has_subject_of(&one) && !each.is(&one))
        })
    }

    fn push(&mut self, source: usize, certificate: Certificate) {
        if self.sources.len() <= source {
            self.sources.resize_with(source + 1, Vec::new);
        }
        self.sources[source].push(certificate);
    }

    /// Adds a list of revoked certificates. Whether it could be read.
    #[must_use]
    pub(in crate::tls) fn add_list(&mut self, der: &[u8]) -> bool {
        List::from_der(der).filter(|list| !list.has_empty_scope()).is_some_and(|list| {
            // OpenSSL uses one only with the list that it changes, if it is told to.
            if !list.is_delta() {
                self.lists.push(list);
            }
            true
        })
    }

    /// The trusted certificates that have the name of this one's issuer.
    fn named_as_issuer<'a>(
        &'a self,
        issued: &'a Certificate,
    ) -> impl Iterator<Item = &'a Certificate> {
        let source =
            self.sources.iter().find(|source| source.iter().any(|each| each.is_named_by(issued)));
        source.into_iter().flatten().filter(|each| each.is_named_by(issued))
    }

    /// The trusted certificate that has issued this one.
    pub(super) fn issuer(&self, issued: &Certificate, now: i64) -> Option<Certificate> {
        best_issuer(self.named_as_issuer(issued), issued, now).cloned()
    }

    /// This very certificate, if it is trusted.
    pub(super) fn find(&self, certificate: &Certificate) -> Option<Certificate> {
        let named = |each: &&Certificate| each.has_subject_of(certificate);
        let source = self.sources.iter().find(|source| source.iter().any(|each| named(&each)))?;
        source.iter().find(|each| each.is(certificate)).cloned()
    }

    /// The lists, in a stack for AWS-LC.
    pub(super) fn lists(&self) -> Option<Lists<'_>> {
        Lists::new(&self.lists)
    }

    /// AWS-LC's flags for the rules.
    pub(super) fn flags(&self) -> c_ulong {
        let flags = match self.rules.revocation {
            RevocationCheck::None => 0,
            RevocationCheck::Leaf => ffi::X509_V_FLAG_CRL_CHECK,
            RevocationCheck::Chain => ffi::X509_V_FLAG_CRL_CHECK | ffi::X509_V_FLAG_CRL_CHECK_ALL,
        };
        c_ulong::from(flags.cast_unsigned())
    }
}

/// Of those that may have issued this one, the first that is good now; or else the one that ended last, the first of
/// them.
pub(super) fn best_issuer<'a>(
    candidates: impl Iterator<Item = &'a Certificate>,
    issued: &Certificate,
    now: i64,
) -> Option<&'a Certificate> {
    let mut best: Option<&Certificate> = None;
    for candidate in candidates.filter(|each| each.may_have_issued(issued)) {
        if candidate.is_valid_at(now) {
            return Some(candidate);
        }
        if best.is_none_or(|best| candidate.end() > best.end()) {
            best = Some(candidate);
        }
    }
    best
}

/// A list of revoked certificates, as AWS-LC has parsed it.
struct List(NonNull<ffi::X509_CRL>);

// SAFETY: as a `Certificate`: AWS-LC reads what it needs of it when it parses it, and nobody mutates it. What AWS-LC does
// at the first look into its entries, which is to sort them, it does under a lock of its own.
unsafe impl Send for List {}
// SAFETY: as for `Send`.
unsafe impl Sync for List {}

impl List {
    fn from_der(der: &[u8]) -> Option<Self> {
        let length = c_long::try_from(der.len()).ok()?;
        let mut at = der.as_ptr();
        // SAFETY: `at` points to `length` bytes, which are copied.
        let list = NonNull::new(unsafe { ffi::d2i_X509_CRL(ptr::null_mut(), &raw mut at, length) });
        forget_errors();
        let list = list.map(Self)?;
        (at == der.as_ptr_range().end).then_some(list)
    }
}

impl List {
    /// Whether it is a list of changes to another one.
    fn is_delta(&self) -> bool {
        // SAFETY: it is alive.
        unsafe { ffi::X509_CRL_get_ext_by_NID(self.0.as_ptr(), ffi::NID_delta_crl, -1) >= 0 }
    }

    /// Whether it says for what it is, and then says nothing: OpenSSL uses no such list, AWS-LC does.
    fn has_empty_scope(&self) -> bool {
        let (scope, none) = (ffi::NID_issuing_distribution_point, ptr::null_mut());
        // SAFETY: it is alive; what comes for this kind is of this type, or null, and freed when it has been looked at.
        let is_empty = unsafe {
            let scope = ffi::X509_CRL_get_ext_d2i(self.0.as_ptr(), scope, none, none);
            let scope = scope.cast::<ffi::ISSUING_DIST_POINT>();
            let is_empty = scope.as_ref().is_some_and(|scope| {
                let marks = [scope.onlyuser, scope.onlyCA, scope.indirectCRL, scope.onlyattr];
                scope.distpoint.is_null()
                    && scope.onlysomereasons.is_null()
                    && marks.iter().all(|mark| *mark <= 0)
            });
            ffi::ISSUING_DIST_POINT_free(scope);
            is_empty
        };
        forget_errors();
        is_empty
    }
}

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: the reference is ours, and gone after this.
        unsafe { ffi::X509_CRL_free(self.0.as_ptr()) }
    }
}

impl Clone for List {
    fn clone(&self) -> Self {
        // SAFETY: it is alive, and the reference that this counts belongs to the clone. It cannot fail.
        let _ = unsafe { ffi::X509_CRL_up_ref(self.0.as_ptr()) };
        Self(self.0)
    }
}

impl fmt::Debug for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("List")
    }
}

/// A stack of pointers that owns nothing of what they point to.
pub(super) struct Stack(NonNull<ffi::OPENSSL_STACK>);

impl Stack {
    /// `None` if there is no memory.
    pub(super) fn new<T>(pointers: impl Iterator<Item = *mut T>) -> Option<Self> {
        // SAFETY: it may be called at any time.
        let stack = Self(NonNull::new(unsafe { ffi::OPENSSL_sk_new_null() })?);
        for pointer in pointers {
            // SAFETY: the stack is alive; that what it points to is alive is up to who uses it.
            if unsafe { ffi::OPENSSL_sk_push(stack.as_ptr(), pointer.cast()) } == 0 {
                return None;
            }
        }
        Some(stack)
    }

    pub(super) fn as_ptr(&self) -> *mut ffi::OPENSSL_STACK {
        self.0.as_ptr()
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: it is ours, and gone after this.
        unsafe { ffi::OPENSSL_sk_free(self.as_ptr()) }
    }
}

/// A stack of a store's lists, which it outlives.
pub(super) struct Lists<'a>(Stack, PhantomData<&'a [List]>);

impl<'a> Lists<'a> {
    fn new(lists: &'a [List]) -> Option<Self> {
        let stack = Stack::new(lists.iter().map(|list| list.0.as_ptr()))?;
        Some(Self(stack, PhantomData))
    }

    pub(super) fn as_ptr(&self) -> *mut ffi::stack_st_X509_CRL {
        // A stack of lists is one of pointers: C has them under names of their own.
        self.0.as_ptr().cast()
    }
}
