//! Certificates that are made for one test.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason,
    RevokedCertParams, SignatureAlgorithm, date_time_ymd,
};

use super::super::{Identity, Roots};

/// An authority, with its key.
pub(super) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
pub(super) struct Pem {
    pub(super) certificate: String,
    pub(super) key: String,
}

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(Self::params(name), key).unwrap())
    }

    /// An authority whose certificate is issued by this one, under the number 1.
    pub(super) fn below(&self, name: &str) -> Self {
        let mut params = Self::params(name);
        params.serial_number = Some(1_u64.into());
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::signed_by(params, key, &self.0).unwrap())
    }

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        params
    }

    /// Its own certificate.
    pub(super) fn pem(&self) -> String {
        self.0.pem()
    }

    /// The roots of those who trust it.
    pub(super) fn roots(&self) -> Roots {
        let mut roots = Roots::default();
        assert_eq!(roots.add_pem(self.0.pem().as_bytes()).unwrap(), 1);
        roots
    }

    /// A certificate that is its own authority.
    pub(super) fn self_signed(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Pem {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        Pem { certificate, key: key.serialize_pem() }
    }

    /// Its list of revoked certificates, good up to the end of this year, in PEM.
    pub(super) fn revoked(&self, numbers: &[u64], until: i32) -> String {
        let this_update = date_time_ymd(2001, 1, 1);
        let revoked = |number: &u64| RevokedCertParams {
            serial_number: (*number).into(),
            revocation_time: this_update,
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update,
            next_update: date_time_ymd(until, 12, 31),
            crl_number: 1_u64.into(),
            issuing_distribution_point: None,
            revoked_certs: numbers.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0).unwrap().pem().unwrap()
    }

    /// A certificate for these names, for servers and clients.
    pub(super) fn issue(&self, names: &[&str]) -> Identity {
        self.issue_by(names, &rcgen::PKCS_ECDSA_P256_SHA256, |_| ()).identity()
    }

    /// As [`issue`](Self::issue), with a key of this kind, and changed by `change`.
    pub(super) fn issue_by(
        &self,
        names: &[&str],
        algorithm: &'static SignatureAlgorithm,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Pem {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate_for(algorithm).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap().pem();
        Pem { certificate, key: key.serialize_pem() }
    }
}

/// The number of a certificate, by which a list names it.
pub(super) fn is_number(number: u64) -> impl FnOnce(&mut CertificateParams) {
    move |params| params.serial_number = Some(number.into())
}

impl Pem {
    /// The roots of those who trust this very certificate.
    pub(super) fn roots(&self) -> Roots {
        let mut roots = Roots::default();
        assert_eq!(roots.add_pem(self.certificate.as_bytes()).unwrap(), 1);
        roots
    }

    pub(super) fn identity(&self) -> Identity {
        Identity::from_pem(self.certificate.as_bytes(), self.key.as_bytes()).unwrap()
    }
}

/// Is an authority's.
pub(super) fn is_authority(params: &mut CertificateParams) {
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
}

/// Was good for a year that is over.
pub(super) fn is_over(params: &mut CertificateParams) {
    (params.not_before, params.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 1, 1));
}

/// Will be good.
pub(super) fn is_to_come(params: &mut CertificateParams) {
    (params.not_before, params.not_after) = (date_time_ymd(2900, 1, 1), date_time_ymd(2901, 1, 1));
}

/// Is for clients alone.
pub(super) fn is_for_clients(params: &mut CertificateParams) {
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
}
