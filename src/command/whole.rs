//! A file for another program, written whole or not at all: whoever reads it never sees half of it.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::{CommandError, Out};

/// Writes `bytes` to the file `path`; what was there stays until all of them are on the disk. A pipe or a device gets
/// them as they come.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), CommandError> {
    let failed = |error| CommandError::Failed(format!("{}: {error}", path.display()));
    // A link stays one: what it leads to is replaced.
    let path_there = fs::canonicalize(path).ok();
    if path_there.as_ref().is_some_and(|there| !there.is_file()) {
        let mut out = Out::file(path)?;
        out.bytes(bytes)?;
        return out.finish();
    }
    let to = path_there.as_deref().unwrap_or(path);
    let draft = draft(to);
    let made = fill(&draft, to, bytes).and_then(|()| fs::rename(&draft, to));
    made.map_err(|error| {
        // It has to go whatever went wrong; that it does not is the smaller mishap.
        let _ = fs::remove_file(&draft);
        failed(error)
    })
}

/// The name that a file has while it is written, in the same directory.
fn draft(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    PathBuf::from(name)
}

fn fill(draft: &Path, to: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::create_new(draft)?;
    if let Ok(facts) = fs::metadata(to) {
        file.set_permissions(facts.permissions())?;
    }
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_file_is_replaced_whole_and_keeps_its_mode() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("unit");
        write(&path, b"one").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let link = place.path().join("link");
        symlink(&path, &link).unwrap();
        write(&link, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2, "no draft is left");
    }

    #[test]
    fn what_cannot_be_written_leaves_what_was_there() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("unit");
        fs::write(&path, "old").unwrap();
        fs::create_dir(draft(&path)).unwrap();
        assert!(write(&path, b"new").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        let error = write(&place.path().join("none/unit"), b"new").unwrap_err().to_string();
        assert!(error.contains("none/unit: No such file"), "{error}");
    }
}
