//! An authority of our own, in `DATA-DIR/ca`: made at the first start, kept, and replaced when asked.
//!
//! Each generation of the root is a folder (`1`, `2`, ...) that appears whole and is never written over: `root.pem`, `root.key`, and
//! `issuer.pem` with the intermediate and its key, which alone is renewed. `state.json` says which generation signs. A greater
//! one is announced: it is in the trust bundle, and signs from when everybody who had a certificate at that moment has
//! got another, and with it the bundle.

mod dropped;

use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, GeneralSubtree, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, NameConstraints,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::authority::{Authority, BACKDATE, date, seconds};
use super::identity::TrustDomain;
use super::trust::Trust;
use crate::api::auth::{private_folder, write_private};
pub use dropped::drop_roots;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long a root is believed.
const ROOT_LIFE: Duration = DAY.saturating_mul(3650);
/// How long an intermediate is.
const ISSUER_LIFE: Duration = DAY.saturating_mul(365);
/// An intermediate is renewed when it has no longer than this.
const RENEW: Duration = DAY.saturating_mul(120);
/// A root that has no longer than this is complained about.
const COMPLAIN: Duration = DAY.saturating_mul(365);

/// The folder of an authority of our own.
#[derive(Debug)]
pub struct Own {
    folder: PathBuf,
    domain: TrustDomain,
    /// What was last complained about, in days before the root's end.
    complained: Option<i64>,
}

/// What signs, and which roots belong to it.
#[derive(Debug)]
pub struct Loaded {
    /// What signs.
    pub authority: Authority,
    /// The roots that are configured: the signing one first, then one that is announced.
    pub roots: Vec<CertificateDer<'static>>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
struct State {
    /// The generation that signs.
    signing: u64,
    /// When the next one takes over, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    switch_at: Option<i64>,
}

impl Own {
    /// That below a data directory.
    pub fn new(data_dir: &Path, domain: &TrustDomain) -> Self {
        Self { folder: data_dir.join("ca"), domain: domain.clone(), complained: None }
    }

    /// Makes what is missing, renews what ends, moves a rotation on, and reads what is there. Asked every few seconds.
    ///
    /// # Errors
    /// When something is damaged; it is never written over.
    pub fn load(&mut self, trust: &mut Trust, now: SystemTime) -> anyhow::Result<Loaded> {
        private_folder(&self.folder)?;
        dropped::forget(&self.folder, trust)?;
        let generations = generations(&self.folder)?;
        let mut state = self.state(&generations)?;
        let Some(mut state) = state.take() else {
            make(&self.folder, 1, &self.domain, now)?;
            write_state(&self.folder, State { signing: 1, switch_at: None })?;
            tracing::info!(folder = %self.folder.display(), trust_domain = %self.domain, "a certificate authority was made");
            return self.load(trust, now);
        };
        let next = generations.iter().copied().find(|it| *it > state.signing);
        let moment = seconds(now);
        let mut roots = vec![self.root(state.signing)?];
        if let Some(next) = next {
            let new = self.root(next)?;
            // It signs well before it is announced.
            drop(self.authority(next, now)?);
            let at = match state.switch_at {
                Some(at) => at,
                None => {
                    let at = roots.first().and_then(|it| trust.horizon(it)).unwrap_or(moment).max(moment);
                    state.switch_at = Some(at);
                    write_state(&self.folder, state)?;
                    tracing::info!(
                        generation = next,
                        signs_from = date(at),
                        "a new root is announced: it is in the trust bundle"
                    );
                    at
                }
            };
            if moment >= at {
                state = State { signing: next, switch_at: None };
                write_state(&self.folder, state)?;
                tracing::info!(
                    generation = next,
                    "the new root signs; the one before is believed until its last certificate ends"
                );
                roots = vec![new];
            } else {
                roots.push(new);
            }
        }
        let authority = self.authority(state.signing, now)?;
        self.complain(&authority, roots.first(), now);
        Ok(Loaded { authority, roots })
    }

    fn state(&self, generations: &[u64]) -> anyhow::Result<Option<State>> {
        let path = self.folder.join("state.json");
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return match generations {
                    [] => Ok(None),
                    // The first start ended half-way.
                    [1] => Ok(Some(State { signing: 1, switch_at: None })),
                    _ => bail!(
                        "{}: it is missing, and there are several roots here; write {{\"signing\": N}} into it, N being the \
                         folder that signed",
                        path.display()
                    ),
                };
            }
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        let state: State = serde_json::from_slice(&text).with_context(|| {
            format!(
                "{}: damaged; write {{\"signing\": N}} into it, N being the folder that signs",
                path.display()
            )
        })?;
        ensure!(
            generations.contains(&state.signing),
            "{}: the folder {} that signs is missing; restore it from a backup. To begin anew, which cuts all workloads off \
             until they have new certificates, move {} away",
            path.display(),
            state.signing,
            self.folder.display()
        );
        Ok(Some(state))
    }

    fn root(&self, generation: u64) -> anyhow::Result<CertificateDer<'static>> {
        read_certificate(&self.folder.join(generation.to_string()).join("root.pem"))
    }

    /// What signs with a generation; its intermediate is renewed when it ends soon.
    fn authority(&self, generation: u64, now: SystemTime) -> anyhow::Result<Authority> {
        let folder = self.folder.join(generation.to_string());
        let root = self.root(generation)?;
        let path = folder.join("issuer.pem");
        let issuer = read_certificate(&path)?;
        let left = not_after(&issuer).with_context(|| path.display().to_string())? - seconds(now);
        // Close to the root's own end there is nothing to gain.
        let root_left = not_after(&root)? - seconds(now);
        if left < secs(RENEW) && root_left > secs(RENEW) {
            renew(&folder, &self.domain, now)?;
            tracing::info!(generation, "the intermediate certificate was renewed");
        }
        let (issuer, key) = (read_certificate(&path)?, read_key(&path)?);
        Authority::new(vec![issuer], key, &[root], &super::trial(&self.domain), now)
            .with_context(|| damaged(&path))
    }

    fn complain(&mut self, authority: &Authority, root: Option<&CertificateDer<'_>>, now: SystemTime) {
        let Some(Ok(end)) = root.map(not_after) else { return };
        let days = (end - seconds(now)) / secs(DAY);
        if end - seconds(now) < secs(COMPLAIN) && self.complained != Some(days) {
            self.complained = Some(days);
            tracing::warn!(
                days,
                until = date(end.min(authority.not_after())),
                "the root ends: run `outrider-control rotate-ca --data-dir DIR`"
            );
        }
    }
}

/// Makes the next root beside the one that signs. The control plane finds it by itself. Gives its generation.
///
/// # Errors
/// When there is no authority there, or a rotation is under way.
pub fn rotate(data_dir: &Path, domain: &TrustDomain, now: SystemTime) -> anyhow::Result<u64> {
    let own = Own::new(data_dir, domain);
    let _alone = if own.folder.exists() { Some(alone(&own.folder)?) } else { None };
    let generations = if own.folder.exists() { generations(&own.folder)? } else { Vec::new() };
    let Some(state) = own.state(&generations)? else {
        bail!(
            "{}: there is no authority here; it is made at the control plane's first start with --data-dir",
            own.folder.display()
        );
    };
    if let Some(next) = generations.iter().find(|it| **it > state.signing) {
        bail!(
            "{}: a rotation is under way already: generation {next} signs {}",
            own.folder.display(),
            state.switch_at.map_or_else(
                || "soon after the control plane has seen it".to_owned(),
                |at| format!("from {} on", date(at))
            )
        );
    }
    let next = state.signing + 1;
    make(&own.folder, next, domain, now)?;
    Ok(next)
}

/// Waits until nobody else makes a root here; nobody does while the file is open.
fn alone(folder: &Path) -> anyhow::Result<fs::File> {
    let path = folder.join(".lock");
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.with_context(|| path.display().to_string())?;
    file.lock().with_context(|| format!("{}: cannot be locked", path.display()))?;
    Ok(file)
}

/// The generations in a folder, in order.
fn generations(folder: &Path) -> anyhow::Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let name = entry.with_context(|| folder.display().to_string())?.file_name();
        found.extend(name.to_str().and_then(|name| name.parse::<u64>().ok()));
    }
    found.sort_unstable();
    Ok(found)
}

/// Makes a generation: in a folder beside, which then gets its name.
fn make(folder: &Path, generation: u64, domain: &TrustDomain, now: SystemTime) -> anyhow::Result<()> {
    let new = folder.join(format!(".new-{generation}"));
    if new.exists() {
        // What an interrupted attempt left was never in use.
        fs::remove_dir_all(&new).with_context(|| new.display().to_string())?;
    }
    private_folder(&new)?;
    let key = KeyPair::generate()?;
    let root = root_params(domain, generation, now)?.self_signed(&key)?;
    write_private(&new.join("root.pem"), &root.pem())?;
    write_private(&new.join("root.key"), &key.serialize_pem())?;
    renew(&new, domain, now)?;
    let place = folder.join(generation.to_string());
    ensure!(!place.exists(), "{}: it is there already, and is not written over", place.display());
    fs::rename(&new, &place).with_context(|| place.display().to_string())?;
    fs::File::open(folder).and_then(|it| it.sync_all()).with_context(|| folder.display().to_string())
}

/// Makes a new intermediate in a generation's folder.
fn renew(folder: &Path, domain: &TrustDomain, now: SystemTime) -> anyhow::Result<()> {
    let (at, key_at) = (folder.join("root.pem"), folder.join("root.key"));
    let (root, key) = (read_certificate(&at)?, read_key(&key_at)?);
    let end = not_after(&root).with_context(|| at.display().to_string())?;
    let issuer = Issuer::from_ca_cert_der(&root, key).with_context(|| damaged(&at))?;
    let own = KeyPair::generate()?;
    let mut params = authority_params(&format!("Outrider intermediate for {domain}"), 0)?;
    params.use_authority_key_identifier_extension = true;
    // It signs URIs and nothing else: whoever stole it could not pass for a host, wherever the root is installed.
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: Vec::new(),
        excluded_subtrees: vec![
            GeneralSubtree::DnsName(String::new()),
            GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])),
            GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])),
        ],
    });
    let life = u64::try_from(end - seconds(now)).map_or(Duration::ZERO, Duration::from_secs);
    lives(&mut params, now, life.min(ISSUER_LIFE));
    let certificate = params.signed_by(&own, &issuer)?;
    // One file, so that certificate and key are always those of each other.
    write_private(&folder.join("issuer.pem"), &format!("{}{}", certificate.pem(), own.serialize_pem()))
}

fn root_params(domain: &TrustDomain, generation: u64, now: SystemTime) -> anyhow::Result<CertificateParams> {
    let mut params = authority_params(&format!("Outrider root {generation} for {domain}"), 1)?;
    lives(&mut params, now, ROOT_LIFE);
    Ok(params)
}

fn authority_params(name: &str, below: u8) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}

fn lives(params: &mut CertificateParams, now: SystemTime, life: Duration) {
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + life).into();
}

fn write_state(folder: &Path, state: State) -> anyhow::Result<()> {
    write_private(&folder.join("state.json"), &format!("{}\n", serde_json::to_string(&state)?))
}

fn read_certificate(path: &Path) -> anyhow::Result<CertificateDer<'static>> {
    CertificateDer::from_pem_file(path).with_context(|| damaged(path))
}

fn read_key(path: &Path) -> anyhow::Result<KeyPair> {
    // Not through `?` on the text itself: no part of a key gets into a message.
    let text = fs::read_to_string(path).with_context(|| damaged(path))?;
    super::supplied::key_of(&text).with_context(|| damaged(path))
}

fn damaged(path: &Path) -> String {
    format!(
        "{}: damaged or missing, and not written over; restore it from a backup (to begin anew, which cuts all workloads off until \
         they have new certificates, move the folder ca away)",
        path.display()
    )
}

fn not_after(der: &CertificateDer<'_>) -> anyhow::Result<i64> {
    let (_, it) = X509Certificate::from_der(der).map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(it.validity().not_after.timestamp())
}

fn secs(duration: Duration) -> i64 {
    super::authority::as_seconds(duration)
}
