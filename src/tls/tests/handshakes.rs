//! Handshakes that succeed, and what comes of them.

use super::*;

#[test]
fn both_sides_know_what_was_agreed_on() {
    for version in VERSIONS {
        let mut pair = pair(version);
        assert!(pair.client.session.negotiated().is_none());
        pair = pair.shaken();
        let [client, server] =
            [&pair.client, &pair.server].map(|end| end.session.negotiated().unwrap());
        assert_eq!(client, server);
        assert_eq!((client.version, client.alpn, client.is_resumed), (version, None, false));
        let name = client.cipher.name;
        assert!(name.starts_with(if version == Version::Tls13 { "TLS_" } else { "ECDHE-ECDSA-" }));
        assert_eq!(client.cipher.bits, if name.contains("128") { 128 } else { 256 });
        assert_eq!(pair.client.session.peer_certificates().count(), 1);
        assert_eq!(pair.server.session.peer_certificates().count(), 0);
        pair.echo(1);
    }
}

#[test]
fn the_handshake_is_told_once_to_each_side() {
    for version in VERSIONS {
        let mut pair = pair(version);
        let mut told = [0, 0];
        loop {
            let (to_server, to_client) = (pair.client.give(), pair.server.give());
            if to_server.is_empty() && to_client.is_empty() {
                break;
            }
            told[0] += usize::from(pair.server.take(&to_server).unwrap().is_handshaken);
            told[1] += usize::from(pair.client.take(&to_client).unwrap().is_handshaken);
        }
        assert_eq!(told, [1, 1]);
    }
}

#[test]
fn versions_that_both_have_are_used_and_the_highest_is_preferred() {
    for (of_client, of_server, agreed) in [
        ((Version::Tls10, Version::Tls13), (Version::Tls12, Version::Tls13), Some(Version::Tls13)),
        ((Version::Tls12, Version::Tls12), (Version::Tls12, Version::Tls13), Some(Version::Tls12)),
        ((Version::Tls12, Version::Tls13), (Version::Tls11, Version::Tls12), Some(Version::Tls12)),
        ((Version::Tls12, Version::Tls12), (Version::Tls13, Version::Tls13), None),
        ((Version::Tls13, Version::Tls13), (Version::Tls12, Version::Tls12), None),
    ] {
        let (_, mut client, mut server) = options(Version::Tls13);
        (client.common.minimum, client.common.maximum) = of_client;
        (server.common.minimum, server.common.maximum) = of_server;
        let (client, server) = settings(client, server);
        let mut pair = Pair::new(&client, &server);
        let failures = pair.pump();
        assert_eq!(pair.client.session.negotiated().map(|it| it.version), agreed);
        let refused = [Some(Failure::Alert(70)), Some(Failure::NoSharedVersion)];
        assert_eq!(failures, if agreed.is_some() { [None, None] } else { refused });
    }
}

#[test]
fn keys_of_all_usual_kinds() {
    for algorithm in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_RSA_SHA256,
    ] {
        for version in VERSIONS {
            let (authority, client, mut server) = options(version);
            let pem = authority.issue_by(&["localhost"], algorithm, |_| ());
            server.identity = pem.identity();
            let (client, server) = settings(client, server);
            Pair::new(&client, &server).shaken().echo(100);
        }
    }
}

#[test]
fn alpn_takes_the_first_of_the_servers_that_the_client_has() {
    let all = |names: &[&str]| names.iter().map(|it| it.as_bytes().to_vec()).collect::<Vec<_>>();
    for version in VERSIONS {
        for (of_client, of_server, agreed) in [
            (&["http/1.1", "h2"][..], &["h2", "http/1.1"][..], Some("h2")),
            (&["http/1.1"], &["h2", "http/1.1"], Some("http/1.1")),
            (&[], &["h2"], None),
            (&["h2"], &[], None),
        ] {
            let (_, mut client, mut server) = options(version);
            (client.common.alpn, server.common.alpn) = (all(of_client), all(of_server));
            let (client, server) = settings(client, server);
            let pair = Pair::new(&client, &server).shaken();
            for end in [&pair.client, &pair.server] {
                let alpn = end.session.negotiated().unwrap().alpn;
                assert_eq!(alpn.as_deref(), agreed.map(str::as_bytes));
            }
        }
    }
}

#[test]
fn the_name_that_is_asked_for_chooses_the_certificate() {
    for version in VERSIONS {
        let (authority, client, mut server) = options(version);
        server.by_name = ["one.example", "TWO.example"]
            .map(|name| (name.to_owned(), authority.issue(&[name])))
            .to_vec();
        let (client, server) = settings(client, server);
        let mut seen = Vec::new();
        for name in ["one.example", "two.example", "Two.Example", "localhost"] {
            let pair = Pair::named(&client, &server, name).shaken();
            seen.push(pair.client.session.peer_certificates().next().unwrap().to_vec());
        }
        assert_eq!(seen[1], seen[2], "the case does not count");
        seen.dedup();
        assert_eq!(seen.len(), 3);
    }
}

#[test]
fn an_address_is_a_name_too() {
    for version in VERSIONS {
        let (authority, client, mut server) = options(version);
        server.identity = authority.issue(&["127.0.0.1", "::1"]);
        let (client, server) = settings(client, server);
        for address in ["127.0.0.1", "::1"] {
            Pair::named(&client, &server, address).shaken().echo(10);
        }
    }
}

#[test]
fn what_is_no_name_is_refused() {
    let (_, client, server) = options(Version::Tls13);
    let (client, _) = settings(client, server);
    for name in ["", "a b", "-", &"x".repeat(300)] {
        let failure = Session::client(&client, Some(name), &mut Ciphertext::default()).unwrap_err();
        assert!(matches!(failure, Failure::Internal(_)), "{name:?}: {failure}");
    }
}

#[test]
fn a_server_without_a_name_is_connected_to_if_the_name_is_not_verified() {
    for version in VERSIONS {
        let (authority, mut client, mut server) = options(version);
        server.by_name = vec![("0.0.0.0".to_owned(), authority.issue(&["not this one"]))];
        for servers in [Servers::All, Servers::AnyName(authority.roots())] {
            client.servers = servers;
            let (client, server) = settings(client.clone(), server.clone());
            for _ in 0..2 {
                let mut out = Ciphertext::default();
                let session = Session::client(&client, None, &mut out).unwrap();
                let mut pair = Pair::named(&client, &server, "localhost");
                pair.client = End::new(session, out);
                pair = pair.shaken();
                assert!(!pair.client.session.negotiated().unwrap().is_resumed);
                pair.echo(10);
            }
        }
        client.servers = Servers::Named(authority.roots());
        let (client, _) = settings(client, server);
        let refused = Session::client(&client, None, &mut Ciphertext::default());
        assert!(matches!(refused, Err(Failure::Internal(_))));
    }
}

#[test]
fn a_session_is_resumed_on_any_connection_of_the_same_settings() {
    for version in VERSIONS {
        let (_, mut client, server) = options(version);
        client.servers = Servers::All;
        let (client, server) = settings(client, server);
        let mut first = Pair::new(&client, &server).shaken();
        assert!(!first.server.session.negotiated().unwrap().is_resumed);
        first.echo(10);
        // As it is with another loop: a clone of the settings.
        let (client, server) = (client.clone(), server.clone());
        for _ in 0..3 {
            let mut pair = Pair::new(&client, &server).shaken();
            for end in [&pair.client, &pair.server] {
                assert!(end.session.negotiated().unwrap().is_resumed);
            }
            assert_eq!(pair.client.session.peer_certificates().count(), 1, "as it was then");
            pair.echo(10);
        }
    }
}

#[test]
fn without_tickets_or_without_memory_nothing_is_resumed() {
    for version in VERSIONS {
        for tickets in [true, false] {
            let (_, mut client, mut server) = options(version);
            client.servers = Servers::All;
            if tickets {
                client.sessions = 0;
            } else {
                server.tickets = 0;
            }
            let (client, server) = settings(client, server);
            for _ in 0..2 {
                let pair = Pair::new(&client, &server).shaken();
                assert!(!pair.client.session.negotiated().unwrap().is_resumed);
            }
        }
    }
}

#[test]
fn a_ticket_of_other_settings_is_no_reason_to_fail() {
    for version in VERSIONS {
        let (_, mut client, server) = options(version);
        client.servers = Servers::All;
        let (client, old) = settings(client, server.clone());
        drop(Pair::new(&client, &old).shaken());
        let new = ServerSettings::new(server).unwrap();
        let mut pair = Pair::new(&client, &new).shaken();
        assert!(!pair.server.session.negotiated().unwrap().is_resumed);
        pair.echo(10);
    }
}

#[test]
fn a_clients_certificate_is_known_to_the_server() {
    for version in VERSIONS {
        for required in [true, false] {
            let (authority, mut client, mut server) = options(version);
            let roots = authority.roots();
            server.clients =
                if required { Clients::Certified(roots) } else { Clients::Verified(roots) };
            client.identity = Some(authority.issue(&["a client"]));
            client.servers = Servers::All;
            let (client, server) = settings(client, server);
            for _ in 0..2 {
                let mut pair = Pair::new(&client, &server).shaken();
                let session = &pair.server.session;
                assert!(!session.negotiated().unwrap().is_resumed, "it is verified each time");
                assert_eq!(session.peer_certificates().count(), 1);
                pair.echo(10);
            }
        }
    }
}

#[test]
fn a_client_that_verifies_servers_resumes_nothing() {
    for version in VERSIONS {
        let (authority, mut client, server) = options(version);
        for servers in [Servers::Named(authority.roots()), Servers::AnyName(authority.roots())] {
            client.servers = servers;
            let (client, server) = settings(client.clone(), server.clone());
            for _ in 0..2 {
                let pair = Pair::new(&client, &server).shaken();
                assert!(!pair.client.session.negotiated().unwrap().is_resumed);
            }
        }
    }
}

#[test]
fn the_chain_that_was_verified_ends_with_what_is_trusted() {
    let (authority, mut client, mut server) = options(Version::Tls13);
    let below = authority.below("another");
    let mut pem = below.issue_by(&["localhost"], &rcgen::PKCS_ECDSA_P256_SHA256, |_| ());
    pem.certificate.push_str(&below.pem());
    server.identity = pem.identity();
    client.servers = Servers::Named(authority.roots());
    client.identity = Some(authority.issue(&["me"]));
    server.clients = Clients::Certified(authority.roots());
    let (client, server) = settings(client, server);
    let pair = Pair::new(&client, &server).shaken();
    let given: Vec<&[u8]> = pair.client.session.peer_certificates().collect();
    let verified = client.verified_chain(&given).unwrap();
    assert_eq!((given.len(), verified.len()), (2, 3));
    assert_eq!(verified[..2], given[..]);
    let given: Vec<&[u8]> = pair.server.session.peer_certificates().collect();
    assert_eq!(server.verified_chain(&given).unwrap()[1], verified[2], "the root's");
    assert!(client.verified_chain(&[]).is_none());
    assert!(client.verified_chain(&given[..1]).is_none_or(|chain| chain.len() == 2));
    let nobody = ClientSettings::new(ClientOptions::new(Servers::All)).unwrap();
    assert!(!nobody.verifies() && nobody.verified_chain(&given).is_none());
}

#[test]
fn who_trusts_the_authority_of_its_own_certificate_sends_it_too() {
    let (authority, mut client, mut server) = options(Version::Tls13);
    let below = authority.below("another");
    server.identity = below.issue(&["localhost"]);
    let mut roots = authority.roots();
    roots.add_pem(below.pem().as_bytes()).unwrap();
    server.clients = Clients::Verified(roots);
    client.servers = Servers::Named(authority.roots());
    let (client, server) = settings(client, server);
    let pair = Pair::new(&client, &server).shaken();
    assert_eq!(pair.client.session.peer_certificates().count(), 3);
}

#[test]
fn a_client_without_a_certificate_is_accepted_if_it_need_not_have_one() {
    for version in VERSIONS {
        let (authority, client, mut server) = options(version);
        server.clients = Clients::Verified(authority.roots());
        let (client, server) = settings(client, server);
        let pair = Pair::new(&client, &server).shaken();
        assert_eq!(pair.server.session.peer_certificates().count(), 0);
    }
}

#[test]
fn secrets_are_logged_if_asked_for() {
    for (version, lines) in [(Version::Tls12, 1), (Version::Tls13, 5)] {
        let path = std::env::temp_dir().join(format!("keys-{version:?}-{}", std::process::id()));
        let (_, mut client, server) = options(version);
        client.common.key_log = Some(path.clone());
        let (client, server) = settings(client, server);
        drop(Pair::new(&client, &server).shaken());
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(text.lines().count(), lines, "{text}");
        for line in text.lines() {
            let words: Vec<_> = line.split(' ').collect();
            assert_eq!((words.len(), words[1].len()), (3, 64), "{line}");
        }
    }
}

#[test]
fn a_session_goes_from_thread_to_thread_and_settings_are_shared() {
    fn is_send<T: Send>() {}
    fn is_shared<T: Send + Sync>() {}
    is_send::<Session>();
    is_send::<Ciphertext>();
    is_shared::<ServerSettings>();
    is_shared::<ClientSettings>();
    is_shared::<Failure>();
}
