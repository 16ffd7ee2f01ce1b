//! A runtime layer in files: each file is a key, its directories are the key's first parts.

use std::path::Path;

use anyhow::{Context as _, bail};
use outrider_config::convert::runtime_entry;
use outrider_config::model::{DiskLayer, RuntimeEntries};

/// How deep directories may nest, as in Envoy.
const MAX_DEPTH: usize = 16;

/// The keys of `layer`; none where it is not there or cannot be used.
pub(crate) fn read(layer: &DiskLayer) -> RuntimeEntries {
    load(layer).ok().flatten().unwrap_or_default()
}

/// The keys of `layer`; `None` when its directory is not there.
///
/// # Errors
/// A file cannot be read, or is no text.
pub(super) fn load(layer: &DiskLayer) -> anyhow::Result<Option<RuntimeEntries>> {
    let root = layer.directory();
    let root = Path::new(&root);
    if !root.is_dir() {
        return Ok(None);
    }
    let mut entries = RuntimeEntries::new();
    walk(root, "", 1, &mut entries)?;
    Ok(Some(entries))
}

fn walk(directory: &Path, prefix: &str, depth: usize, entries: &mut RuntimeEntries) -> anyhow::Result<()> {
    if depth > MAX_DEPTH {
        bail!("{}: directories nest deeper than {MAX_DEPTH}", directory.display());
    }
    let unreadable = || format!("{} cannot be read", directory.display());
    for entry in std::fs::read_dir(directory).with_context(unreadable)? {
        let entry = entry.with_context(unreadable)?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        let key = if prefix.is_empty() { name.into_owned() } else { format!("{prefix}.{name}") };
        // Through links: that is how mounted configuration looks.
        let Ok(kind) = std::fs::metadata(&path) else { continue };
        if kind.is_dir() {
            walk(&path, &key, depth + 1, entries)?;
        } else if kind.is_file() {
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("{} cannot be read", path.display()))?;
            let text = without_comments(&text);
            entries.insert(key, runtime_entry(&text));
        }
    }
    Ok(())
}

/// The lines that do not begin with `#`.
fn without_comments(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use outrider_config::model::RuntimeValue;

    use super::*;

    #[test]
    fn files_are_keys_and_comments_are_none_of_the_value() {
        let root = std::env::temp_dir().join(format!("outrider-runtime-{}", std::process::id()));
        std::fs::create_dir_all(root.join("sub/a/b")).unwrap();
        std::fs::write(root.join("sub/a/b/c"), "# why\n5\n").unwrap();
        std::fs::write(root.join("sub/share"), "numerator: 4\ndenominator: MILLION\n").unwrap();
        let layer = |subdirectory: &str| DiskLayer {
            symlink_root: Arc::from(root.to_string_lossy()),
            subdirectory: Arc::from(subdirectory),
        };
        let entries = load(&layer("sub")).unwrap().unwrap();
        assert_eq!(entries["a.b.c"].value, RuntimeValue::Number(5.0));
        assert_eq!(entries["share"].value, RuntimeValue::Fraction { numerator: 4, denominator: 1_000_000 });
        assert_eq!(load(&layer("absent")).unwrap(), None);
        std::fs::write(root.join("sub/share"), [0xff, 0xfe]).unwrap();
        assert!(load(&layer("sub")).is_err());
        std::fs::remove_dir_all(root).unwrap();
    }
}
