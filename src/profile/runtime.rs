//! Where sockets go: a directory that belongs to this user alone, or to its group where that is wanted.
//!
//! `{runtime}` in a profile becomes `$XDG_RUNTIME_DIR/buslane`, or `/tmp/buslane-<user id>` where there
//! is no such directory; `{instance}` becomes the profile's `instance`. The directory is made when a
//! profile names it, and refused when it is somebody else's: in `/tmp` anybody can be there first.
//!
//! Below a directory of this user that its group may enter and nobody else (as the unit's `/run/buslane`), the group
//! may enter this one too, and ask the appliance. A login's `$XDG_RUNTIME_DIR` has mode 0700, so there it may not.

use std::ffi::OsString;
use std::fs::{DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::{Profile, ProfileError};

/// The directory `{runtime}` stands for, made if need be.
///
/// # Errors
/// `ProfileError::Host` when it cannot be made or does not belong to this user alone.
pub(crate) fn directory() -> Result<PathBuf, ProfileError> {
    let user = own_user()?;
    let path = choose(std::env::var_os("XDG_RUNTIME_DIR"), user);
    claim(&path, user)?;
    Ok(path)
}

/// Puts the real names in place of `{runtime}` and `{instance}`.
pub(super) fn expand(profile: &mut Profile) -> Result<(), ProfileError> {
    let instance = profile.instance.clone();
    let mut runtime = None;
    for text in texts(profile) {
        if text.contains("{runtime}") {
            if runtime.is_none() {
                runtime = Some(directory()?.to_string_lossy().into_owned());
            }
            *text = text.replace("{runtime}", runtime.as_deref().expect("set above"));
        }
        *text = text.replace("{instance}", &instance);
    }
    Ok(())
}

/// The values in which placeholders have a meaning.
fn texts(profile: &mut Profile) -> impl Iterator<Item = &mut String> {
    let ports = [&mut profile.port, &mut profile.client.port];
    let eal =
        ports.into_iter().filter_map(|port| port.dpdk.as_mut()).flat_map(|dpdk| &mut dpdk.eal);
    eal.chain([&mut profile.disk.path, &mut profile.metrics.socket, &mut profile.metrics.dir])
}

fn own_user() -> Result<u32, ProfileError> {
    let metadata = Path::new("/proc/self").metadata();
    metadata.map(|metadata| metadata.uid()).map_err(|error| {
        ProfileError::Host(format!("/proc/self: {error}; mount /proc, it tells who we are"))
    })
}

fn choose(xdg: Option<OsString>, user: u32) -> PathBuf {
    let xdg = xdg.map(PathBuf::from).filter(|path| {
        // After `sudo` it may name the directory of another user.
        path.is_absolute() && path.metadata().is_ok_and(|metadata| metadata.uid() == user)
    });
    xdg.map_or_else(
        || PathBuf::from(format!("/tmp/buslane-{user}")),
        |directory| directory.join("buslane"),
    )
}

/// Whether a directory is this user's, and its group may look into it, and nobody else.
pub(crate) fn is_for_the_group(dir: &Path) -> bool {
    let facts = own_user().ok().zip(dir.metadata().ok());
    facts.is_some_and(|(user, dir)| dir.uid() == user && dir.mode() & 0o077 == 0o050)
}

/// Makes a directory, as private as the one it is in.
pub(crate) fn make(path: &Path) -> std::io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)?;
    set_mode(path)
}

/// Also where it was made by another release or under another unit.
fn set_mode(path: &Path) -> std::io::Result<()> {
    let mode = if path.parent().is_some_and(is_for_the_group) { 0o750 } else { 0o700 };
    std::fs::set_permissions(path, Permissions::from_mode(mode))
}

fn claim(path: &Path, user: u32) -> Result<(), ProfileError> {
    let wrong = |why: String| {
        let path = path.display();
        ProfileError::Host(format!(
            "{path}: {why}; remove it, or set XDG_RUNTIME_DIR to a directory of your own"
        ))
    };
    if let Err(error) = make(path)
        && error.kind() != std::io::ErrorKind::AlreadyExists
    {
        return Err(wrong(format!("cannot be made: {error}")));
    }
    let metadata = path.symlink_metadata().map_err(|error| wrong(error.to_string()))?;
    if !metadata.is_dir() || metadata.uid() != user || metadata.mode() & 0o027 != 0 {
        return Err(wrong("is not a directory of this user alone (mode 0700)".to_owned()));
    }
    set_mode(path).map_err(|error| wrong(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_directory_is_ours_alone() {
        let user = own_user().unwrap();
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("buslane");
        claim(&path, user).unwrap();
        claim(&path, user).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o700);

        assert!(claim(&path, user + 1).is_err(), "another user's");
        std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        assert!(claim(&path, user).unwrap_err().to_string().contains("0700"));
        std::fs::set_permissions(&path, Permissions::from_mode(0o750)).unwrap();
        claim(&path, user).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o700, "the group is not asked");
        std::fs::set_permissions(place.path(), Permissions::from_mode(0o750)).unwrap();
        claim(&path, user).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o750, "as that of the unit");
        let link = place.path().join("link");
        symlink(place.path(), &link).unwrap();
        assert!(claim(&link, user).is_err(), "a link may point anywhere");
    }

    #[test]
    fn a_foreign_runtime_directory_is_not_used() {
        let user = own_user().unwrap();
        let place = tempfile::tempdir().unwrap();
        let xdg = Some(place.path().as_os_str().to_owned());
        assert_eq!(choose(xdg.clone(), user), place.path().join("buslane"));
        assert_eq!(choose(xdg, user + 1), PathBuf::from(format!("/tmp/buslane-{}", user + 1)));
        assert_eq!(choose(Some("relative".into()), 7), PathBuf::from("/tmp/buslane-7"));
        assert_eq!(choose(None, 7), PathBuf::from("/tmp/buslane-7"));
    }
}
