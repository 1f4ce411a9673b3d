//! The test authority and the server's certificates, good and bad.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use super::NAMES;

/// Writes `ca.pem`, and `NAME.crt` and `NAME.key` for each certificate.
pub(super) fn write(folder: &Path, address: Ipv4Addr) -> Result<()> {
    let (pem, ours) = authority("HTTP test authority")?;
    let (_, unknown) = authority("An authority that nobody knows")?;
    fs::write(folder.join("ca.pem"), pem)?;
    let names: Vec<String> = std::iter::once(address.to_string()).chain(NAMES.map(str::to_owned)).collect();
    let mut expired = leaf(names.clone())?;
    expired.not_before = date_time_ymd(2020, 1, 1);
    expired.not_after = date_time_ymd(2020, 2, 1);
    for (name, params, issuer) in [
        ("server", leaf(names.clone())?, &ours),
        ("wrong_name", leaf(vec!["elsewhere.test".to_owned()])?, &ours),
        ("expired", expired, &ours),
        ("unknown_root", leaf(names)?, &unknown),
    ] {
        let key = KeyPair::generate()?;
        fs::write(folder.join(format!("{name}.crt")), params.signed_by(&key, issuer)?.pem())?;
        fs::write(folder.join(format!("{name}.key")), key.serialize_pem())?;
    }
    Ok(())
}

/// Python's TLS insists on the usages that RFC 5280 asks of an authority.
fn authority(name: &str) -> Result<(String, Issuer<'static, KeyPair>)> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, name);
    let pem = params.self_signed(&key)?.pem();
    Ok((pem, Issuer::new(params, key)))
}

fn leaf(names: Vec<String>) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, "server");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}
