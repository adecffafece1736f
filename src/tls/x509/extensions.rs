//! What OpenSSL 3 asks of each certificate of a chain, beside what AWS-LC asks of it again later.
//!
//! The order is OpenSSL's, so that the first thing that is wrong has its code.

use std::ffi::{c_int, c_long};

use aws_lc_sys as ffi;

use super::chain::Built;
use super::store::RevocationCheck;
use super::{Certificate, Code, Purpose};

/// What makes a certificate an authority's.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Authority {
    /// It is none.
    No,
    /// It says so.
    Yes,
    /// It has signed itself, and is older than the extension by which it would say so.
    OldRoot,
    /// Its key may sign, and it says nothing else. OpenSSL lets it, unless it is to be strict; AWS-LC does not.
    KeyUsage,
}

/// Checks the extensions, and what RFC 5280 wants of certificates if it is to be `strict`.
///
/// # Errors
/// The code of what is wrong.
pub(super) fn check(built: &Built, purpose: Purpose, is_strict: bool) -> Result<(), Code> {
    let chain = &built.certificates;
    // How many authorities there are between the peer's certificate and the one at hand.
    let mut between: c_long = 0;
    for (place, certificate) in chain.iter().enumerate() {
        let (is_first, is_last) = (place == 0, place + 1 == chain.len());
        check_kind(certificate, is_first, is_strict)?;
        if is_strict && chain.len() > 1 {
            check_strictly(certificate, is_last)?;
        }
        if !certificate.is_good_for(number_of(purpose), !is_first) {
            return Err(Code::INVALID_PURPOSE);
        }
        if place > 1 && certificate.path_length().is_some_and(|length| between > length) {
            return Err(Code::PATH_LENGTH_EXCEEDED);
        }
        if !is_first && !certificate.has(ffi::EXFLAG_SI) {
            between += 1;
        }
    }
    Ok(())
}

/// Checks keys and digests: OpenSSL's security level 2, which Python's contexts have.
///
/// # Errors
/// The code of what is too weak.
pub(super) fn check_strength(built: &Built) -> Result<(), Code> {
    let chain = &built.certificates;
    for (place, certificate) in chain.iter().enumerate() {
        if place > 0 && !certificate.has_strong_key() {
            return Err(Code::CA_KEY_TOO_SMALL);
        }
        // Nobody looks at the signature of the trusted one.
        if place + 1 < chain.len() && !certificate.has_strong_digest() {
            return Err(Code::CA_MD_TOO_WEAK);
        }
    }
    Ok(())
}

/// Refuses certificates whose lists are said to be of some reasons alone: OpenSSL wants lists of all the others too, and
/// AWS-LC takes any list.
///
/// # Errors
/// The code for a list that is not there.
pub(super) fn check_lists(built: &Built, revocation: RevocationCheck) -> Result<(), Code> {
    let count = match revocation {
        RevocationCheck::None => 0,
        RevocationCheck::Leaf => 1,
        RevocationCheck::Chain => built.certificates.len(),
    };
    let is_partial = built.certificates.iter().take(count).any(Certificate::has_lists_by_reason);
    if is_partial { Err(Code::UNABLE_TO_GET_CRL) } else { Ok(()) }
}

fn number_of(purpose: Purpose) -> c_int {
    match purpose {
        Purpose::Server => ffi::X509_PURPOSE_SSL_SERVER,
        Purpose::Client => ffi::X509_PURPOSE_SSL_CLIENT,
    }
}

/// Checks whether it may stand where it does.
fn check_kind(certificate: &Certificate, is_first: bool, is_strict: bool) -> Result<(), Code> {
    if !certificate.is_consistent() {
        return Err(Code::UNSPECIFIED);
    }
    // OpenSSL knows proxies, if only to refuse them. AWS-LC does not.
    if certificate.has(ffi::EXFLAG_CRITICAL) && certificate.extension(PROXY) != Some(true) {
        return Err(Code::UNHANDLED_CRITICAL_EXTENSION);
    }
    if certificate.extension(PROXY).is_some() {
        return Err(Code::PROXY_NOT_ALLOWED);
    }
    // OpenSSL verifies these resources up the chain. They are for routers, and refused here.
    let has = |nid| certificate.extension(nid).is_some();
    if has(ffi::NID_sbgp_ipAddrBlock) || has(ffi::NID_sbgp_autonomousSysNum) {
        return Err(Code::UNNESTED_RESOURCE);
    }
    match authority(certificate) {
        Authority::OldRoot | Authority::KeyUsage if is_strict => Err(Code::INVALID_CA),
        Authority::No | Authority::KeyUsage if !is_first => Err(Code::INVALID_CA),
        _ => Ok(()),
    }
}

const PROXY: c_int = ffi::NID_proxyCertInfo;

fn authority(certificate: &Certificate) -> Authority {
    if !may_sign(certificate, true) {
        return Authority::No;
    }
    if certificate.has(ffi::EXFLAG_BCONS) {
        return if certificate.has(ffi::EXFLAG_CA) { Authority::Yes } else { Authority::No };
    }
    // OpenSSL knows another kind, by an extension of Netscape's. AWS-LC does not, and refuses it.
    match certificate.has(ffi::EXFLAG_V1) && certificate.is_self_signed() {
        true => Authority::OldRoot,
        false if certificate.key_usage().is_some() => Authority::KeyUsage,
        false => Authority::No,
    }
}

/// Whether its key may sign certificates; `unsaid`: what is so if it does not say.
fn may_sign(certificate: &Certificate, unsaid: bool) -> bool {
    may(certificate, ffi::X509v3_KU_KEY_CERT_SIGN, unsaid)
}

/// Whether its key may sign other data than certificates and lists.
pub(super) fn may_sign_data(certificate: &Certificate) -> bool {
    may(certificate, ffi::X509v3_KU_DIGITAL_SIGNATURE, true)
}

fn may(certificate: &Certificate, usage: c_int, unsaid: bool) -> bool {
    certificate.key_usage().map_or(unsaid, |allowed| allowed & usage != 0)
}

/// Checks what RFC 5280 wants, of a chain of more than one certificate. `is_last`: it is the trusted one.
fn check_strictly(certificate: &Certificate, is_last: bool) -> Result<(), Code> {
    let is_authority = certificate.has(ffi::EXFLAG_CA);
    let require = |is_so: bool, code| if is_so { Ok(()) } else { Err(code) };
    if certificate.path_length().is_some() {
        require(is_authority, Code::PATHLEN_INVALID_FOR_NON_CA)?;
        require(may_sign(certificate, false), Code::PATHLEN_WITHOUT_KEY_CERT_SIGN)?;
    }
    if is_authority {
        let is_critical = certificate.extension(ffi::NID_basic_constraints) != Some(false);
        require(is_critical, Code::CA_BCONS_NOT_CRITICAL)?;
        require(certificate.key_usage().is_some(), Code::CA_CERT_MISSING_KEY_USAGE)?;
    } else {
        require(!may_sign(certificate, false), Code::KEY_CERT_SIGN_INVALID_FOR_NON_CA)?;
    }
    check_names(certificate, is_authority)?;
    require(certificate.has_one_algorithm(), Code::SIGNATURE_ALGORITHM_INCONSISTENCY)?;
    if !certificate.is_version_3() {
        return require(!certificate.has_extensions(), Code::EXTENSIONS_REQUIRE_VERSION_3);
    }
    let (has_identifier, has_issuer, has_number) = certificate.authority_key();
    require(is_last || has_identifier, Code::MISSING_AUTHORITY_KEY_IDENTIFIER)?;
    // OpenSSL 4 asks for both or none. It has a number for this that OpenSSL 3 does not know.
    require(has_issuer == has_number, Code::UNSPECIFIED)?;
    let has_own = certificate.extension(ffi::NID_subject_key_identifier).is_some();
    require(!is_authority || has_own, Code::MISSING_SUBJECT_KEY_IDENTIFIER)
}

fn check_names(certificate: &Certificate, is_authority: bool) -> Result<(), Code> {
    let require = |is_so: bool, code| if is_so { Ok(()) } else { Err(code) };
    let (no_subject, no_issuer) = certificate.empty_names();
    require(!no_issuer, Code::ISSUER_NAME_EMPTY)?;
    let others = certificate.extension(ffi::NID_subject_alt_name);
    if no_subject {
        let needs_one = is_authority || may(certificate, ffi::X509v3_KU_CRL_SIGN, false);
        require(!needs_one && others.is_some(), Code::SUBJECT_NAME_EMPTY)?;
        require(others != Some(false), Code::EMPTY_SUBJECT_SAN_NOT_CRITICAL)?;
    }
    require(
        others.is_none() || certificate.alternative_names() != Some(0),
        Code::EMPTY_SUBJECT_ALT_NAME,
    )
}
