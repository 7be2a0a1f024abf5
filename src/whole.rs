//! A file written whole or not at all: whoever reads it never sees half of it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Writes `bytes` to the file `path`; what was there stays until all of them are on the disk, and keeps its mode. A link
/// gives way to the file, and what it leads to is left alone.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = draft(path);
    let made = fill(&draft, path, bytes).and_then(|()| fs::rename(&draft, path));
    if made.is_err() {
        // It has to go whatever went wrong; that it does not is the smaller mishap.
        let _ = fs::remove_file(&draft);
    }
    made
}

/// The same where a link leads to, so that it stays one.
pub(crate) fn replace_target(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let there = fs::canonicalize(path);
    replace(there.as_deref().unwrap_or(path), bytes)
}

/// The name that a file has while it is written, in the same directory.
fn draft(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    PathBuf::from(name)
}

fn fill(draft: &Path, to: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(draft)?;
    if let Some(facts) = fs::symlink_metadata(to).ok().filter(fs::Metadata::is_file) {
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
        replace(&path, b"one").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let link = place.path().join("link");
        symlink(&path, &link).unwrap();
        replace_target(&link, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        replace(&link, b"three").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_file());
        assert_eq!(fs::read(&path).unwrap(), b"two", "where a link led to is nobody's business");
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2, "no draft is left");
    }

    #[test]
    fn what_cannot_be_written_leaves_what_was_there() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("unit");
        fs::write(&path, "old").unwrap();
        fs::create_dir(draft(&path)).unwrap();
        assert!(replace(&path, b"new").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        let error = replace(&place.path().join("none/unit"), b"new").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
