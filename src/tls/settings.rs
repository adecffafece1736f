//! Settings: what all connections of one context share. They are made once and never change; they may be used
//! by any thread, and a clone is the same settings.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::server::NoServerSessionStorage;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, KeyLog, NoKeyLog, ServerConfig, SupportedProtocolVersion};

use super::identity::{Always, ByName};
use super::key_log::KeyLogFile;
use super::options::{ClientOptions, Clients, Common, ServerOptions, Servers, Version};
use super::provider::{provider, ticketer};
use super::settings_error::{NotNative, SettingsError};
use super::verify;

/// A server's. A ticket that one loop has given is good for all connections with the same settings.
#[derive(Clone, Debug)]
pub struct ServerSettings(pub(super) Arc<ServerConfig>);

/// A client's, with the sessions that it remembers.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    pub(super) named: Arc<ClientConfig>,
    /// For servers of which no name is known; `None` if it is to be verified.
    pub(super) nameless: Option<Arc<ClientConfig>>,
}

impl ServerSettings {
    /// Settings of these options.
    ///
    /// # Errors
    /// If rustls cannot do what they say, or nobody can.
    pub fn new(options: ServerOptions) -> Result<Self, SettingsError> {
        let ServerOptions { common, identity, by_name, clients, tickets } = options;
        let builder = ServerConfig::builder_with_provider(Arc::clone(provider()))
            .with_protocol_versions(&versions(&common)?)?;
        let verifier = |roots, is_required| {
            Ok::<_, SettingsError>(Arc::new(verify::Clients::new(roots, is_required)?))
        };
        let builder = match clients {
            Clients::All => builder.with_no_client_auth(),
            Clients::Verified(roots) => builder.with_client_cert_verifier(verifier(roots, false)?),
            Clients::Certified(roots) => builder.with_client_cert_verifier(verifier(roots, true)?),
        };
        let by_name = by_name.into_iter().map(|(name, one)| (name.to_lowercase(), one)).collect();
        let mut config =
            builder.with_cert_resolver(Arc::new(ByName { default: identity, by_name }));
        config.send_tls13_tickets = tickets;
        if tickets == 0 {
            config.session_storage = Arc::new(NoServerSessionStorage {});
        } else {
            // Nothing is kept of a session here: all of it is in the ticket.
            config.ticketer = ticketer()?;
        }
        config.key_log = key_log(&common)?;
        config.alpn_protocols = common.alpn;
        Ok(Self(Arc::new(config)))
    }
}

impl ClientSettings {
    /// Settings of these options.
    ///
    /// # Errors
    /// If rustls cannot do what they say, or nobody can.
    pub fn new(options: ClientOptions) -> Result<Self, SettingsError> {
        let ClientOptions { common, servers, identity, sessions } = options;
        let builder = ClientConfig::builder_with_provider(Arc::clone(provider()))
            .with_protocol_versions(&versions(&common)?)?;
        let (roots, checks_name) = match servers {
            Servers::Named(roots) => (Some(roots), true),
            Servers::AnyName(roots) => (Some(roots), false),
            Servers::All => (None, false),
        };
        let verifier = Arc::new(verify::Servers::new(roots, checks_name)?);
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => builder.with_client_cert_resolver(Arc::new(Always(identity))),
        };
        config.resumption = match sessions {
            0 => Resumption::disabled(),
            sessions => Resumption::in_memory_sessions(sessions),
        };
        config.key_log = key_log(&common)?;
        config.alpn_protocols = common.alpn;
        let nameless = (!checks_name).then(|| {
            let mut config = config.clone();
            // A session is found by the name of its server.
            config.resumption = Resumption::disabled();
            Arc::new(config)
        });
        Ok(Self { named: Arc::new(config), nameless })
    }
}

/// The versions that are enabled, of those that rustls has.
fn versions(common: &Common) -> Result<Vec<&'static SupportedProtocolVersion>, SettingsError> {
    if common.ciphers.is_some() {
        return Err(NotNative::Ciphers.into());
    }
    let is_enabled = |version| common.minimum <= version && version <= common.maximum;
    let all = [(Version::Tls12, &TLS12), (Version::Tls13, &TLS13)];
    let enabled: Vec<_> =
        all.into_iter().filter(|(version, _)| is_enabled(*version)).map(|(_, it)| it).collect();
    match enabled.is_empty() {
        false => Ok(enabled),
        true if common.minimum > common.maximum => {
            Err(SettingsError::Invalid("the lowest version is above the highest".to_owned()))
        }
        true => Err(NotNative::OldVersions.into()),
    }
}

fn key_log(common: &Common) -> Result<Arc<dyn KeyLog>, SettingsError> {
    Ok(match &common.key_log {
        None => Arc::new(NoKeyLog {}),
        Some(path) => Arc::new(KeyLogFile::open(path)?),
    })
}
