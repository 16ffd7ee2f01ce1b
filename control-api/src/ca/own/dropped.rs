//! The end of a rotation before its time: a former root is no longer believed, whatever hangs from it.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context as _, bail, ensure};

use super::{Own, alone, generations, read_certificate};
use crate::ca::authority::{date, seconds};
use crate::ca::identity::TrustDomain;
use crate::ca::trust::Trust;

/// What the folder of a generation is called that was dropped, before its number.
const DROPPED: &str = "dropped-";

/// Has all former roots taken out of the trust bundle; the control plane finds that by itself. Gives their generations.
///
/// # Errors
/// When there is none, when a rotation is under way, or when certificates under one are still valid and it is not forced: whoever has
/// one is cut off until it gets another.
pub fn drop_roots(
    data_dir: &Path,
    domain: &TrustDomain,
    force: bool,
    now: SystemTime,
) -> anyhow::Result<Vec<u64>> {
    let own = Own::new(data_dir, domain);
    ensure!(own.folder.exists(), "{}: there is no authority here", own.folder.display());
    let _alone = alone(&own.folder)?;
    let generations = generations(&own.folder)?;
    let Some(state) = own.state(&generations)? else {
        bail!("{}: there is no authority here", own.folder.display())
    };
    if let Some(next) = generations.iter().find(|it| **it > state.signing) {
        bail!(
            "{}: a rotation is under way: generation {next} does not sign yet, and all certificates are under the one before; come back \
             when it does",
            own.folder.display()
        );
    }
    let former: Vec<u64> = generations.into_iter().filter(|it| *it < state.signing).collect();
    ensure!(
        !former.is_empty(),
        "{}: there is no former root, generation {} is the only one",
        own.folder.display(),
        state.signing
    );
    let trust = Trust::open(Some(own.folder.join("trust.json")))?;
    for generation in &former {
        let until = trust.horizon(&own.root(*generation)?).filter(|until| *until > seconds(now));
        if let Some(until) = until
            && !force
        {
            bail!(
                "{}: certificates under root {generation} may be valid until {}; it goes by itself then. With --force it goes now, \
                 and whoever has such a certificate is cut off until it has another",
                own.folder.display(),
                date(until)
            );
        }
    }
    for generation in &former {
        let place = own.folder.join(generation.to_string());
        fs::rename(&place, own.folder.join(format!("{DROPPED}{generation}")))
            .with_context(|| place.display().to_string())?;
    }
    let synced = fs::File::open(&own.folder).and_then(|it| it.sync_all());
    synced.with_context(|| own.folder.display().to_string())?;
    Ok(former)
}

/// Forgets the roots of generations that were dropped.
///
/// # Errors
/// When one cannot be read, or it cannot be written down.
pub(super) fn forget(folder: &Path, trust: &mut Trust) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry.with_context(|| folder.display().to_string())?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(DROPPED)) {
            trust.forget(&read_certificate(&entry.path().join("root.pem"))?)?;
        }
    }
    Ok(())
}
