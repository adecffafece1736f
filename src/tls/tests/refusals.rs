//! Certificates and settings that are refused, and how it is said.

use rcgen::CertificateParams;

use super::certificates::{is_authority, is_for_clients, is_number, is_over, is_to_come};
use super::*;

/// The client's failure to accept a server with this certificate, called by this name, and the server's word.
fn refused(
    version: Version,
    change: impl FnOnce(&mut CertificateParams),
    name: &str,
) -> (CertificateFailure, Failure) {
    let (authority, client, mut server) = options(version);
    let pem = authority.issue_by(&["localhost"], &rcgen::PKCS_ECDSA_P256_SHA256, change);
    server.identity = pem.identity();
    let (client, server) = settings(client, server);
    let mut pair = Pair::named(&client, &server, name);
    let [client, server] = pair.pump();
    assert!(pair.client.session.is_handshaking());
    let Some(Failure::Certificate(client)) = client else { panic!("{client:?}") };
    (client, server.unwrap())
}

#[test]
fn a_certificate_that_is_not_good_is_refused_with_the_code_of_openssl() {
    for version in VERSIONS {
        let (failure, alert) = refused(version, is_over, "localhost");
        assert_eq!((failure.code, &*failure.message), (10, "certificate has expired"));
        assert_eq!(alert, Failure::Alert(45));
        let (failure, _) = refused(version, is_to_come, "localhost");
        assert_eq!((failure.code, &*failure.message), (9, "certificate is not yet valid"));
        let (failure, _) = refused(version, is_for_clients, "localhost");
        assert_eq!((failure.code, &*failure.message), (26, "unsuitable certificate purpose"));
        let (failure, alert) = refused(version, |_| (), "other.example");
        assert_eq!(failure.code, 62);
        let message = "Hostname mismatch, certificate is not valid for 'other.example'.";
        assert_eq!(failure.message, message);
        assert_eq!(alert, Failure::Alert(42));
        let (failure, _) = refused(version, |_| (), "127.0.0.1");
        assert_eq!(failure.code, 64);
        let message = "IP address mismatch, certificate is not valid for '127.0.0.1'.";
        assert_eq!(failure.message, message);
    }
}

#[test]
fn an_authority_that_is_not_known_is_refused() {
    for version in VERSIONS {
        for any_name in [false, true] {
            let (_, mut client, server) = options(version);
            let roots = Authority::new("another").roots();
            client.servers = if any_name { Servers::AnyName(roots) } else { Servers::Named(roots) };
            let (client, server) = settings(client, server);
            let [client, server] = Pair::new(&client, &server).pump();
            let client = client.unwrap();
            let Failure::Certificate(failure) = &client else { panic!("{client:?}") };
            let message = "unable to get local issuer certificate";
            assert_eq!((failure.code, &*failure.message), (20, message));
            assert_eq!(client.reason(), "CERTIFICATE_VERIFY_FAILED");
            let server = server.unwrap();
            assert_eq!(server, Failure::Alert(48));
            assert_eq!(server.reason(), "TLSV1_ALERT_UNKNOWN_CA");
        }
    }
}

#[test]
fn a_certificate_that_is_trusted_itself_is_good_for_its_name_and_its_time() {
    type Change = fn(&mut CertificateParams);
    fn nothing(_: &mut CertificateParams) {}
    fn is_old_authority(params: &mut CertificateParams) {
        is_authority(params);
        is_over(params);
    }
    let changes: [(Change, Option<i32>); 4] =
        [(nothing, None), (is_authority, None), (is_over, Some(10)), (is_old_authority, Some(10))];
    for version in VERSIONS {
        for (change, code) in changes {
            let pem = Authority::self_signed(&["localhost"], change);
            for (name, any_name) in [("localhost", false), ("other.example", false), ("x", true)] {
                let (_, mut client, mut server) = options(version);
                let roots = pem.roots();
                client.servers =
                    if any_name { Servers::AnyName(roots) } else { Servers::Named(roots) };
                server.identity = pem.identity();
                let (client, server) = settings(client, server);
                let [failure, _] = Pair::named(&client, &server, name).pump();
                let found = failure.map(|failure| match failure {
                    Failure::Certificate(why) => why.code,
                    other => panic!("{other:?}"),
                });
                // As OpenSSL, which looks at names before dates.
                let is_named = any_name || name == "localhost";
                assert_eq!(found, if is_named { code } else { Some(62) });
            }
            // Of a client, too.
            let (authority, mut client, mut server) = options(version);
            client.servers = Servers::Named(authority.roots());
            client.identity = Some(pem.identity());
            server.clients = Clients::Certified(pem.roots());
            let (client, server) = settings(client, server);
            let [_, failure] = Pair::new(&client, &server).pump();
            assert_eq!(failure.is_some(), code.is_some());
        }
    }
}

#[test]
fn a_self_signed_certificate_that_is_not_trusted_is_said_to_be_one() {
    for change in [is_authority, |_: &mut CertificateParams| ()] {
        let (_, client, mut server) = options(Version::Tls13);
        server.identity = Authority::self_signed(&["localhost"], change).identity();
        let (client, server) = settings(client, server);
        let [failure, _] = Pair::new(&client, &server).pump();
        let Some(Failure::Certificate(failure)) = failure else { panic!("{failure:?}") };
        assert_eq!((failure.code, &*failure.message), (18, "self-signed certificate"));
    }
}

#[test]
fn any_name_will_do_if_names_are_not_verified_and_nothing_else_is_let_pass() {
    for version in VERSIONS {
        let (authority, mut client, mut server) = options(version);
        client.servers = Servers::AnyName(authority.roots());
        let (client_settings, server_settings) = settings(client.clone(), server.clone());
        Pair::named(&client_settings, &server_settings, "other.example").shaken().echo(10);
        let pem = authority.issue_by(&["localhost"], &rcgen::PKCS_ECDSA_P256_SHA256, is_over);
        server.identity = pem.identity();
        let (client, server) = settings(client, server);
        let [client, _] = Pair::new(&client, &server).pump();
        assert!(matches!(client, Some(Failure::Certificate(CertificateFailure { code: 10, .. }))));
    }
}

#[test]
fn a_client_that_verifies_nothing_accepts_every_certificate() {
    for version in VERSIONS {
        let (_, mut client, mut server) = options(version);
        client.servers = Servers::All;
        let other = Authority::new("another");
        let pem = other.issue_by(&["x.example"], &rcgen::PKCS_ECDSA_P256_SHA256, is_over);
        server.identity = pem.identity();
        let (client, server) = settings(client, server);
        let mut pair = Pair::new(&client, &server).shaken();
        assert_eq!(pair.client.session.peer_certificates().count(), 1);
        pair.echo(10);
    }
}

#[test]
fn a_client_that_has_to_have_a_certificate_and_has_none_is_refused() {
    for (version, alert) in [(Version::Tls12, 40), (Version::Tls13, 116)] {
        let (authority, client, mut server) = options(version);
        server.clients = Clients::Certified(authority.roots());
        let (client, server) = settings(client, server);
        let [client, server] = Pair::new(&client, &server).pump();
        assert_eq!(server, Some(Failure::NoCertificate));
        assert!(
            client == Some(Failure::Alert(alert)) || client == Some(Failure::Alert(116)),
            "{client:?}"
        );
    }
}

#[test]
fn a_clients_certificate_that_is_not_good_is_refused() {
    for version in VERSIONS {
        for is_unknown in [false, true] {
            let (authority, mut client, mut server) = options(version);
            server.clients = Clients::Verified(authority.roots());
            let issuer = if is_unknown { Authority::new("another") } else { authority };
            let change = if is_unknown { |_: &mut _| () } else { is_over };
            let pem = issuer.issue_by(&["me"], &rcgen::PKCS_ECDSA_P256_SHA256, change);
            client.identity = Some(pem.identity());
            let (client, server) = settings(client, server);
            let [client, server] = Pair::new(&client, &server).pump();
            let Some(Failure::Certificate(failure)) = server else { panic!("{server:?}") };
            assert_eq!(failure.code, if is_unknown { 20 } else { 10 });
            let alert = if is_unknown { 48 } else { 45 };
            assert_eq!(client, Some(Failure::Alert(alert)));
        }
    }
}

/// The code by which a server's certificate with the number 7 is refused, if it is, and the same of a client's.
fn codes(version: Version, check: RevocationCheck, revoked: &[u64], until: i32) -> [i32; 2] {
    [true, false].map(|of_server| {
        let (authority, mut client, mut server) = options(version);
        let mut roots = authority.roots();
        let list = authority.revoked(revoked, until);
        assert_eq!(roots.add_revoked_pem(list.as_bytes()).unwrap(), 1);
        roots.rules().revocation = check;
        let algorithm = &rcgen::PKCS_ECDSA_P256_SHA256;
        let identity = authority.issue_by(&["localhost"], algorithm, is_number(7)).identity();
        if of_server {
            server.identity = identity;
            client.servers = Servers::Named(roots);
        } else {
            client.identity = Some(identity);
            server.clients = Clients::Certified(roots);
        }
        let (client, server) = settings(client, server);
        let [client, server] = Pair::new(&client, &server).pump();
        match if of_server { client } else { server } {
            None => 0,
            Some(Failure::Certificate(failure)) => failure.code,
            Some(other) => panic!("{other}"),
        }
    })
}

#[test]
fn a_revoked_certificate_is_refused_if_it_is_looked_up() {
    for version in VERSIONS {
        for check in [RevocationCheck::Leaf, RevocationCheck::Chain] {
            assert_eq!(codes(version, check, &[3, 7], 2900), [23, 23]);
            assert_eq!(codes(version, check, &[3], 2900), [0, 0]);
            assert_eq!(codes(version, check, &[3], 2002), [12, 12], "the list is out of date");
        }
        assert_eq!(codes(version, RevocationCheck::None, &[7], 2900), [0, 0]);
    }
}

#[test]
fn a_certificate_of_an_authority_without_a_list_is_refused_if_it_is_looked_up() {
    for any_name in [false, true] {
        let (authority, mut client, server) = options(Version::Tls13);
        let mut roots = authority.roots();
        let other = Authority::new("another");
        roots.add_revoked_pem(other.revoked(&[], 2900).as_bytes()).unwrap();
        roots.rules().revocation = RevocationCheck::Leaf;
        client.servers = if any_name { Servers::AnyName(roots) } else { Servers::Named(roots) };
        let (client, server) = settings(client, server);
        let [client, _] = Pair::new(&client, &server).pump();
        let Some(Failure::Certificate(failure)) = client else { panic!("{client:?}") };
        assert_eq!((failure.code, &*failure.message), (3, "unable to get certificate CRL"));
    }
}

#[test]
fn certificates_between_are_sent_and_looked_up_if_the_whole_chain_is() {
    for (check, code) in
        [(RevocationCheck::None, 0), (RevocationCheck::Leaf, 0), (RevocationCheck::Chain, 23)]
    {
        let (authority, mut client, mut server) = options(Version::Tls13);
        let below = authority.below("another");
        let mut pem = below.issue_by(&["localhost"], &rcgen::PKCS_ECDSA_P256_SHA256, |_| ());
        pem.certificate.push_str(&below.pem());
        server.identity = pem.identity();
        let mut roots = authority.roots();
        for list in [authority.revoked(&[1], 2900), below.revoked(&[], 2900)] {
            roots.add_revoked_pem(list.as_bytes()).unwrap();
        }
        roots.rules().revocation = check;
        client.servers = Servers::Named(roots);
        let (client, server) = settings(client, server);
        let mut pair = Pair::new(&client, &server);
        match pair.pump()[0].clone() {
            None => assert_eq!((code, pair.client.session.peer_certificates().count()), (0, 2)),
            Some(Failure::Certificate(failure)) => assert_eq!(failure.code, code),
            Some(other) => panic!("{other}"),
        }
    }
}

#[test]
fn without_a_list_everything_that_is_looked_up_is_refused() {
    let (authority, mut client, server) = options(Version::Tls13);
    let mut roots = authority.roots();
    roots.rules().revocation = RevocationCheck::Leaf;
    client.servers = Servers::Named(roots.clone());
    let (client, server) = settings(client, server);
    let [client, _] = Pair::new(&client, &server).pump();
    assert!(matches!(client, Some(Failure::Certificate(CertificateFailure { code: 3, .. }))));
    assert!(roots.add_revoked_pem(b"-----BEGIN X509 CRL-----\nAAAA").is_err());
    let broken = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n";
    let error = roots.add_revoked_pem(broken.as_bytes()).unwrap_err();
    assert!(matches!(error, SettingsError::NotNative(NotNative::Unreadable)), "{error}");
}

#[test]
fn protocols_of_alpn_that_do_not_meet_are_refused() {
    for version in VERSIONS {
        let (_, mut client, mut server) = options(version);
        client.common.alpn = vec![b"h2".to_vec()];
        server.common.alpn = vec![b"http/1.1".to_vec()];
        let (client, server) = settings(client, server);
        let [client, server] = Pair::new(&client, &server).pump();
        assert_eq!(server, Some(Failure::NoSharedProtocol));
        assert_eq!(client, Some(Failure::Alert(120)));
    }
}

#[test]
fn what_is_no_tls_is_refused_at_once() {
    for text in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], &[0; 100], &[0xFF; 5]] {
        let (_, client, server) = options(Version::Tls13);
        let (client, server) = settings(client, server);
        let mut pair = Pair::new(&client, &server);
        assert_eq!(pair.server.take(text), Err(Failure::NotTls));
        assert!(!pair.server.out.is_empty(), "an alert says so");
        assert_eq!(pair.client.take(text), Err(Failure::NotTls));
        assert_eq!(pair.server.session.pending(), 0);
    }
}

#[test]
fn options_that_rustls_cannot_do_are_not_native() {
    let why = |change: &dyn Fn(&mut Common)| {
        let (_, mut client, mut server) = options(Version::Tls13);
        change(&mut client.common);
        change(&mut server.common);
        let client = ClientSettings::new(client).unwrap_err();
        let server = ServerSettings::new(server).unwrap_err();
        assert_eq!(client.to_string(), server.to_string());
        client
    };
    let old = why(&|common| {
        (common.minimum, common.maximum) = (Version::Tls10, Version::Tls11);
    });
    assert!(matches!(old, SettingsError::NotNative(NotNative::OldVersions)));
    let ciphers = why(&|common| common.ciphers = Some("HIGH".to_owned()));
    assert!(matches!(ciphers, SettingsError::NotNative(NotNative::Ciphers)));
    let reversed = why(&|common| {
        (common.minimum, common.maximum) = (Version::Tls13, Version::Tls12);
    });
    assert!(matches!(reversed, SettingsError::Invalid(_)));
    let no_file = why(&|common| common.key_log = Some("/nowhere/at/all".into()));
    assert!(matches!(no_file, SettingsError::Io(_)));
}

#[test]
fn nobody_is_accepted_without_authorities() {
    let (_, mut client, server) = options(Version::Tls13);
    for servers in [Servers::Named(Roots::default()), Servers::AnyName(Roots::default())] {
        client.servers = servers;
        let (client, server) = settings(client.clone(), server.clone());
        let [client, _] = Pair::new(&client, &server).pump();
        assert!(matches!(client, Some(Failure::Certificate(CertificateFailure { code: 20, .. }))));
    }
    let (_, mut client, mut server) = options(Version::Tls13);
    for clients in [Clients::Verified(Roots::default()), Clients::Certified(Roots::default())] {
        server.clients = clients;
        client.identity = Some(Authority::new("another").issue(&["me"]));
        let (client, server) = settings(client.clone(), server.clone());
        let [_, server] = Pair::new(&client, &server).pump();
        assert!(matches!(server, Some(Failure::Certificate(CertificateFailure { code: 20, .. }))));
    }
}

#[test]
fn an_identity_is_a_certificate_and_the_key_that_fits_it() {
    let authority = Authority::new("an authority");
    let [one, other] =
        [(); 2].map(|()| authority.issue_by(&["x"], &rcgen::PKCS_ECDSA_P256_SHA256, |_| ()));
    let try_it = |chain: &str, key: &str| Identity::from_pem(chain.as_bytes(), key.as_bytes());
    let both = format!("some words\n{}{}", one.key, one.certificate);
    assert!(try_it(&both, &both).is_ok(), "one file may hold both");
    let error = try_it(&one.certificate, &other.key).unwrap_err();
    assert!(matches!(error, SettingsError::Invalid(_)), "{error}");
    for (chain, key) in [("", &*one.key), (&*one.certificate, ""), ("x", "y"), (&*one.key, "")] {
        let error = try_it(chain, key).unwrap_err();
        assert!(matches!(error, SettingsError::Invalid(_)), "{error}");
    }
    let cut = &one.certificate[..one.certificate.len() / 2];
    assert!(matches!(try_it(cut, &one.key), Err(SettingsError::Invalid(_))));
    for locked in [
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
        "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n\
         AAAA\n-----END EC PRIVATE KEY-----\n",
    ] {
        let error = try_it(&one.certificate, locked).unwrap_err();
        assert!(matches!(error, SettingsError::NotNative(NotNative::EncryptedKey)), "{error}");
    }
    let unknown = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let error = try_it(&one.certificate, unknown).unwrap_err();
    assert!(matches!(error, SettingsError::NotNative(NotNative::Key(_))), "{error}");
}

#[test]
fn trusted_certificates_that_cannot_be_read_are_not_native() {
    let mut roots = Authority::new("an authority").roots();
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let error = roots.add_pem(broken.as_bytes()).unwrap_err();
    assert!(matches!(error, SettingsError::NotNative(NotNative::Unreadable)), "{error}");
    assert!(roots.add_pem(b"-----BEGIN CERTIFICATE-----\nAAAA").is_err());
}
