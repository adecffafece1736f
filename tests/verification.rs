//! Certificates are verified by many threads at once, and nothing is left of it.

#![cfg(all(feature = "tls", not(loom)))]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::Path;

use loop_pool::tls::{ClientOptions, ClientSettings, RevocationCheck, Roots, Servers};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, date_time_ymd,
};

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str, above: Option<&Issuer>) -> Issuer {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().unwrap();
    match above {
        None => CertifiedIssuer::self_signed(params, key).unwrap(),
        Some(above) => CertifiedIssuer::signed_by(params, key, above).unwrap(),
    }
}

fn leaf(issuer: &Issuer, year: i32) -> Vec<u8> {
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.not_after = date_time_ymd(year, 1, 1);
    params.signed_by(&KeyPair::generate().unwrap(), issuer).unwrap().der().to_vec()
}

fn empty_list(issuer: &Issuer) -> Vec<u8> {
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(2001, 1, 1),
        next_update: date_time_ymd(2900, 1, 1),
        crl_number: 1_u64.into(),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(issuer).unwrap().der().to_vec()
}

/// What a peer sends, and how long the chain is that is found.
type Sent = (Vec<Vec<u8>>, Option<usize>);

/// What verifies by one root and its lists, and chains with what is to be found of each.
fn prepared() -> (ClientSettings, Vec<Sent>) {
    let root = authority("root", None);
    let below = authority("below", Some(&root));
    let other = authority("other", None);
    let mut roots = Roots::default();
    roots.add_pem(root.pem().as_bytes()).unwrap();
    for issuer in [&root, &below] {
        roots.add_revoked(&empty_list(issuer)).unwrap();
    }
    roots.rules().revocation = RevocationCheck::Chain;
    let settings = ClientSettings::new(ClientOptions::new(Servers::AnyName(roots))).unwrap();
    let middle = below.der().to_vec();
    let chains = vec![
        (vec![leaf(&below, 2900), middle.clone()], Some(3)),
        (vec![leaf(&root, 2900)], Some(2)),
        (vec![leaf(&below, 2002), middle.clone()], None),
        (vec![leaf(&other, 2900), middle.clone()], None),
        (vec![leaf(&below, 2900)], None),
        (vec![middle[..100].to_vec(), middle], None),
    ];
    (settings, chains)
}

fn verify(settings: &ClientSettings, chains: &[Sent], times: usize) {
    for _ in 0..times {
        for (sent, expected) in chains {
            let sent: Vec<&[u8]> = sent.iter().map(Vec::as_slice).collect();
            let found = settings.verified_chain(&sent);
            assert_eq!(found.map(|chain| chain.len()), *expected);
        }
    }
}

/// The memory of this process that is in use, in bytes.
fn resident() -> usize {
    let pages = fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn threads_share_what_is_trusted_and_nothing_is_left_of_ten_thousand_verifications() {
    let (settings, chains) = prepared();
    let round = |times| {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| verify(&settings, &chains, times));
            }
        });
    };
    round(20);
    if !Path::new("/proc/self/statm").exists() {
        return;
    }
    let before = resident();
    // Each round verifies six chains in four threads.
    round(420);
    let grown = resident().saturating_sub(before);
    // One certificate that was left each time would be 20 MB.
    assert!(grown < 4 << 20, "{grown} bytes more");
}
