//! AWS-LC's verdict on a chain.

use std::ffi::{CStr, c_ulong};
use std::ptr::NonNull;

use aws_lc_sys as ffi;
use rustls::pki_types::{IpAddr, ServerName};

use super::chain::Built;
use super::store::{Stack, Store};
use super::{Certificate, Code, Purpose};

/// A store of AWS-LC's, for one verification.
struct Trusted(NonNull<ffi::X509_STORE>);

impl Drop for Trusted {
    fn drop(&mut self) {
        // SAFETY: the reference is ours, and gone after this.
        unsafe { ffi::X509_STORE_free(self.0.as_ptr()) }
    }
}

/// One verification of AWS-LC's.
struct Verification(NonNull<ffi::X509_STORE_CTX>);

impl Drop for Verification {
    fn drop(&mut self) {
        // SAFETY: it is ours, and gone after this.
        unsafe { ffi::X509_STORE_CTX_free(self.0.as_ptr()) }
    }
}

/// Lets AWS-LC verify just this chain, of which it is to trust the last certificate alone.
///
/// # Errors
/// OpenSSL's code for what AWS-LC finds wrong; [`Code::UNSPECIFIED`] if it finds another chain, or has no memory.
pub(super) fn confirm(
    store: &Store,
    built: &Built,
    purpose: Purpose,
    host: Option<&ServerName<'_>>,
    now: i64,
) -> Result<(), Code> {
    let chain = &built.certificates;
    let (leaf, trusted) = (&chain[0], &chain[chain.len() - 1]);
    let between = chain.get(1..chain.len() - 1).unwrap_or_default();
    let between = Stack::new(between.iter().map(Certificate::as_ptr)).ok_or(Code::UNSPECIFIED)?;
    let lists = store.lists().ok_or(Code::UNSPECIFIED)?;
    // SAFETY: the certificates, the lists, and both stacks live until the end of this function, and `verification`,
    // which borrows them, is dropped before. A store takes references of its own. The parameters belong to the
    // verification. Nothing that is called here calls back into Rust, so nothing can unwind through C. What AWS-LC
    // changes is the verification, which this thread alone has, and counts of references.
    unsafe {
        let made = NonNull::new(ffi::X509_STORE_new()).ok_or(Code::UNSPECIFIED)?;
        let made = Trusted(made);
        require(ffi::X509_STORE_add_cert(made.0.as_ptr(), trusted.as_ptr()))?;
        let verification = NonNull::new(ffi::X509_STORE_CTX_new()).ok_or(Code::UNSPECIFIED)?;
        let verification = Verification(verification);
        let context = verification.0.as_ptr();
        require(ffi::X509_STORE_CTX_init(
            context,
            made.0.as_ptr(),
            leaf.as_ptr(),
            between.as_ptr().cast(),
        ))?;
        require(ffi::X509_STORE_CTX_set_default(context, name_of(purpose).as_ptr()))?;
        ffi::X509_STORE_CTX_set0_crls(context, lists.as_ptr());
        let parameters = ffi::X509_STORE_CTX_get0_param(context);
        // Whether a chain may end where it does was decided when it was built.
        let flags =
            (ffi::X509_V_FLAG_TRUSTED_FIRST | ffi::X509_V_FLAG_PARTIAL_CHAIN).cast_unsigned();
        require(ffi::X509_VERIFY_PARAM_set_flags(
            parameters,
            store.flags() | c_ulong::from(flags),
        ))?;
        ffi::X509_VERIFY_PARAM_set_time_posix(parameters, now);
        if store.rules.ignores_common_name {
            let never = ffi::X509_CHECK_FLAG_NEVER_CHECK_SUBJECT.cast_unsigned();
            ffi::X509_VERIFY_PARAM_set_hostflags(parameters, never);
        }
        if let Some(host) = host {
            require(set_host(parameters, host))?;
        }
        if ffi::X509_verify_cert(context) != 1 {
            return Err(Code::of_library(ffi::X509_STORE_CTX_get_error(context)));
        }
        let found = ffi::X509_STORE_CTX_get0_chain(context).cast::<ffi::OPENSSL_STACK>();
        let is_the_same = ffi::OPENSSL_sk_num(found) == chain.len()
            && chain.iter().enumerate().all(|(place, each)| {
                let found = ffi::OPENSSL_sk_value(found, place);
                ffi::X509_cmp(found.cast(), each.as_ptr()) == 0
            });
        if is_the_same { Ok(()) } else { Err(Code::UNSPECIFIED) }
    }
}

/// An error unless C has said yes.
fn require(said: i32) -> Result<(), Code> {
    if said == 1 { Ok(()) } else { Err(Code::UNSPECIFIED) }
}

fn name_of(purpose: Purpose) -> &'static CStr {
    match purpose {
        Purpose::Server => c"ssl_server",
        Purpose::Client => c"ssl_client",
    }
}

/// Says which host has to be in the certificate. Not 1 if it could not be said.
///
/// # Safety
/// The parameters are alive.
unsafe fn set_host(parameters: *mut ffi::X509_VERIFY_PARAM, host: &ServerName<'_>) -> i32 {
    // SAFETY: the parameters are alive by our caller's word; so many bytes as are said are copied.
    let set_ip = |bytes: &[u8]| unsafe {
        ffi::X509_VERIFY_PARAM_set1_ip(parameters, bytes.as_ptr(), bytes.len())
    };
    match host {
        ServerName::DnsName(name) => {
            let name: &str = name.as_ref();
            // SAFETY: as above.
            unsafe {
                ffi::X509_VERIFY_PARAM_set1_host(parameters, name.as_ptr().cast(), name.len())
            }
        }
        ServerName::IpAddress(IpAddr::V4(address)) => set_ip(address.as_ref()),
        ServerName::IpAddress(IpAddr::V6(address)) => set_ip(address.as_ref()),
        _ => 0,
    }
}
