//! Verdicts on certificates, below rustls. How they compare with OpenSSL's, the Python tests show.

use std::sync::Arc;

use rustls::CertificateError;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

use super::super::refusal::refusal;
use super::super::x509::{self, Code, Purpose};
use super::*;

/// A chain below this authority, with so many others between; the leaf first.
fn chain(root: &Authority, between: usize) -> Vec<CertificateDer<'static>> {
    let mut all = Vec::new();
    let mut above = None;
    for number in 0..between {
        let issuer = above.as_ref().unwrap_or(root);
        let next = issuer.below(&format!("authority {number}"));
        all.insert(0, next.pem());
        above = Some(next);
    }
    let issuer = above.as_ref().unwrap_or(root);
    all.insert(
        0,
        issuer.issue_by(&["localhost"], &rcgen::PKCS_ECDSA_P256_SHA256, |_| ()).certificate,
    );
    all.iter().map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).collect()
}

#[test]
fn a_chain_has_up_to_a_hundred_authorities_between() {
    let root = Authority::new("root");
    let store = root.roots().into_store();
    let name = ServerName::try_from("localhost").unwrap();
    for (between, expected) in [(0, Ok(2)), (1, Ok(3)), (100, Ok(102)), (101, Err(Code(22)))] {
        let sent = chain(&root, between);
        let now = UnixTime::now();
        let found = x509::verify(&store, &sent[0], &sent[1..], Purpose::Server, Some(&name), now);
        assert_eq!(found.map(|chain| chain.len()), expected, "{between}");
    }
}

#[test]
fn the_time_is_the_one_that_is_given() {
    let root = Authority::new("root");
    let store = root.roots().into_store();
    let sent = chain(&root, 1);
    let at = |seconds| {
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        x509::verify(&store, &sent[0], &sent[1..], Purpose::Client, None, now).map(|_| ())
    };
    assert_eq!(at(0), Err(Code(9)), "1970");
    assert_eq!(at(1_700_000_000), Ok(()), "2023");
    assert_eq!(at(100_000_000_000), Err(Code(10)), "5138");
    assert!(at(u64::MAX).is_err());
}

#[test]
fn what_is_no_certificate_is_refused() {
    let root = Authority::new("root");
    let store = root.roots().into_store();
    let sent = chain(&root, 0);
    let mut longer = sent[0].to_vec();
    longer.push(0);
    for broken in [&[][..], b"nothing", &sent[0][..sent[0].len() - 1], &longer] {
        let broken = CertificateDer::from(broken);
        for (leaf, others) in [(&broken, &sent[..]), (&sent[0], &[broken.clone()][..])] {
            let found = x509::verify(&store, leaf, others, Purpose::Server, None, UnixTime::now());
            assert_eq!(found, Err(Code(1)));
        }
    }
}

#[test]
fn a_code_comes_through_rustls() {
    let name = ServerName::try_from("example.org").unwrap();
    for number in 1..=94 {
        let rustls::Error::InvalidCertificate(error) = refusal(Code(number), Some(&name)) else {
            panic!("{number}")
        };
        let failure = CertificateFailure::from(&error);
        assert_eq!(failure.code, number);
        if number == 62 {
            let message = "Hostname mismatch, certificate is not valid for 'example.org'.";
            assert_eq!(failure.message, message);
        } else if number != 64 {
            assert_eq!(failure.message, Code(number).text());
        }
    }
    let other = CertificateError::Other(rustls::OtherError(Arc::new(std::fmt::Error)));
    assert_eq!(CertificateFailure::from(&other).code, 1);
}

#[test]
fn nothing_is_left_in_the_queue_of_errors() {
    let (root, other) = (Authority::new("root"), Authority::new("other"));
    let sent = chain(&root, 1);
    let name = ServerName::try_from("example.org").unwrap();
    let broken = CertificateDer::from(&b"nothing"[..]);
    // SAFETY: it may be called at any time.
    let is_empty = || unsafe { aws_lc_sys::ERR_peek_error() == 0 };
    for store in [root.roots().into_store(), other.roots().into_store()] {
        for leaf in [&sent[0], &sent[1], &broken] {
            for (host, now) in [(None, UnixTime::now()), (Some(&name), UnixTime::now())] {
                let _ = x509::verify(&store, leaf, &sent[1..], Purpose::Server, host, now);
                assert!(is_empty());
            }
            let _ = x509::complete(&store, leaf, UnixTime::now());
            let _ = (x509::public_key(leaf), x509::may_sign_handshakes(leaf));
            assert!(is_empty());
        }
    }
}
