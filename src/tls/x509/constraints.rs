//! Name constraints where AWS-LC lets names pass that OpenSSL does not.
//!
//! To AWS-LC a dot at the end of a host's name means nothing, and a mail address in UTF-8 is no mail address. OpenSSL sees
//! both otherwise. How it would match them is not done again here: they are refused.

use std::ptr;

use aws_lc_sys as ffi;

use super::chain::Built;
use super::{Certificate, Code};

/// 1.3.6.1.5.5.7.8.9: `SmtpUTF8Mailbox`.
const UTF8_MAILBOX: [u8; 8] = [0x2B, 0x06, 0x01, 0x05, 0x05, 0x07, 0x08, 0x09];

/// Which kinds of names those above allow or forbid.
#[derive(Clone, Copy, Default)]
struct Constrained {
    hosts: bool,
    mail: bool,
}

/// Refuses names that OpenSSL would see otherwise, below a constraint for their kind, and constraints with such names.
///
/// # Errors
/// OpenSSL's code for a name that is not permitted.
pub(super) fn check(built: &Built) -> Result<(), Code> {
    let mut constrained = Constrained::default();
    // From the trusted one down: what is above counts.
    for (place, certificate) in built.certificates.iter().enumerate().rev() {
        let Constrained { hosts, mail } = constrained;
        let is_odd = |name: &Name<'_>| match name {
            Name::Host(_) | Name::Resource(_) => hosts && has_dot_at_end(name),
            Name::Utf8Mailbox => mail,
            Name::Mail | Name::Other => false,
        };
        if (hosts || mail) && AlternativeNames::of(certificate).is_some_and(|all| all.any(is_odd)) {
            return Err(Code::PERMITTED_VIOLATION);
        }
        let Some(constraints) = Constraints::of(certificate).filter(|_| place > 0) else {
            continue;
        };
        if constraints.any(has_dot_at_end) {
            return Err(Code::PERMITTED_VIOLATION);
        }
        constrained.hosts |=
            constraints.any(|base| matches!(base, Name::Host(_) | Name::Resource(_)));
        constrained.mail |= constraints.any(|base| matches!(base, Name::Mail));
    }
    Ok(())
}

/// A name, or what is said of names, as far as it matters here.
enum Name<'a> {
    Host(&'a [u8]),
    Resource(&'a [u8]),
    Mail,
    Utf8Mailbox,
    Other,
}

/// Whether the host that it names, if it names one, ends with a dot.
fn has_dot_at_end(name: &Name<'_>) -> bool {
    match name {
        Name::Host(host) => host.ends_with(b"."),
        Name::Resource(uri) => host_of(uri).ends_with(b"."),
        Name::Mail | Name::Utf8Mailbox | Name::Other => false,
    }
}

/// The host in a URI; all of it if it is a host alone, as in a constraint.
fn host_of(uri: &[u8]) -> &[u8] {
    let slashes = uri.windows(3).position(|each| each == b"://");
    let rest = slashes.map_or(uri, |place| &uri[place + 3..]);
    rest.split(|each| b":/?#".contains(each)).next().unwrap_or_default()
}

/// The alternative names of a certificate's subject.
struct AlternativeNames(ptr::NonNull<ffi::GENERAL_NAMES>);

impl AlternativeNames {
    fn of(certificate: &Certificate) -> Option<Self> {
        let (kind, none) = (ffi::NID_subject_alt_name, ptr::null_mut());
        // SAFETY: it is alive; what comes for this kind is such names, which are ours.
        let names = unsafe { ffi::X509_get_ext_d2i(certificate.as_ptr(), kind, none, none) };
        ptr::NonNull::new(names.cast()).map(Self)
    }

    fn any(&self, is_it: impl Fn(&Name<'_>) -> bool) -> bool {
        let stack = self.0.as_ptr().cast_const().cast();
        // SAFETY: the stack is alive as long as `self`, and so are the names that it is of.
        unsafe { elements(stack).any(|name| is_it(&read(name.cast()))) }
    }
}

impl Drop for AlternativeNames {
    fn drop(&mut self) {
        // SAFETY: they are ours, and gone after this.
        unsafe { ffi::GENERAL_NAMES_free(self.0.as_ptr()) }
    }
}

/// What a certificate says of the names below it.
struct Constraints(ptr::NonNull<ffi::NAME_CONSTRAINTS>);

impl Constraints {
    fn of(certificate: &Certificate) -> Option<Self> {
        let (kind, none) = (ffi::NID_name_constraints, ptr::null_mut());
        // SAFETY: it is alive; what comes for this kind is such constraints, which are ours.
        let constraints = unsafe { ffi::X509_get_ext_d2i(certificate.as_ptr(), kind, none, none) };
        ptr::NonNull::new(constraints.cast()).map(Self)
    }

    /// Whether it is one of what is permitted, or of what is excluded.
    fn any(&self, is_it: impl Fn(&Name<'_>) -> bool) -> bool {
        // SAFETY: the constraints are alive as long as `self`, and so are both stacks, of which each may be null, and
        // what they are of: a `GENERAL_SUBTREE` always has a name.
        unsafe {
            let constraints = self.0.as_ref();
            [constraints.permittedSubtrees, constraints.excludedSubtrees].into_iter().any(|stack| {
                elements(stack.cast_const().cast())
                    .any(|each| is_it(&read((*each.cast::<ffi::GENERAL_SUBTREE>()).base)))
            })
        }
    }
}

impl Drop for Constraints {
    fn drop(&mut self) {
        // SAFETY: they are ours, and gone after this.
        unsafe { ffi::NAME_CONSTRAINTS_free(self.0.as_ptr()) }
    }
}

/// What is in a stack; nothing if it is null.
///
/// # Safety
/// The stack outlives the iterator, or is null.
unsafe fn elements(
    stack: *const ffi::OPENSSL_STACK,
) -> impl Iterator<Item = *mut std::ffi::c_void> {
    // SAFETY: it is alive by our caller's word; a null one has no elements.
    let count = unsafe { ffi::OPENSSL_sk_num(stack) };
    // SAFETY: as above.
    (0..count).map(move |place| unsafe { ffi::OPENSSL_sk_value(stack, place) })
}

/// # Safety
/// The name is alive, and outlives what is returned.
unsafe fn read<'a>(name: *const ffi::GENERAL_NAME) -> Name<'a> {
    let mut kind = 0;
    // SAFETY: it is alive by our caller's word, and the value is of the kind that it is said to be: a string for hosts
    // and URIs, whose bytes live as long as it. `kind` is good for a write.
    unsafe {
        let value = ffi::GENERAL_NAME_get0_value(name, &raw mut kind);
        match kind {
            ffi::GEN_DNS => Name::Host(bytes(value.cast())),
            ffi::GEN_URI => Name::Resource(bytes(value.cast())),
            ffi::GEN_EMAIL => Name::Mail,
            ffi::GEN_OTHERNAME if is_utf8_mailbox(name) => Name::Utf8Mailbox,
            _ => Name::Other,
        }
    }
}

/// # Safety
/// As of [`read`].
unsafe fn bytes<'a>(string: *const ffi::ASN1_STRING) -> &'a [u8] {
    // SAFETY: it is alive, and has so many bytes as its length says. None may be null.
    unsafe {
        let length = usize::try_from(ffi::ASN1_STRING_length(string)).unwrap_or(0);
        let start = ffi::ASN1_STRING_get0_data(string);
        if start.is_null() { &[] } else { std::slice::from_raw_parts(start, length) }
    }
}

/// # Safety
/// As of [`read`], for a name of another kind than those that have a number.
unsafe fn is_utf8_mailbox(name: *const ffi::GENERAL_NAME) -> bool {
    let mut kind = ptr::null_mut();
    // SAFETY: it is alive, and has its kind as long as it is; an identifier has so many bytes as its length says. The
    // pointer is good for a write.
    unsafe {
        if ffi::GENERAL_NAME_get0_otherName(name, &raw mut kind, ptr::null_mut()) != 1 {
            return false;
        }
        let (start, length) = (ffi::OBJ_get0_data(kind), ffi::OBJ_length(kind));
        !start.is_null() && std::slice::from_raw_parts(start, length) == UTF8_MAILBOX
    }
}
