//! The runtime directory: sockets, and links by which clients of the same user find the keys of an appliance.
//!
//! It is `$XDG_RUNTIME_DIR/buslane`, or `/tmp/buslane-<user id>` where there is no such directory, and belongs to this user
//! alone: in `/tmp` anybody can be there first, so what somebody else made is refused.
//!
//! Below a directory of this user that its group may enter and nobody else (as the unit's `/run/buslane`), the group
//! may enter this one too. Of the links that is no more than names: what they lead to is the owner's alone.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::net::{SocketAddrV4, UdpSocket};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::credentials::ENDING;
use super::private;
use crate::limits::DIRECTORIES_LOOKED_AT_MAX;

/// The directory, made if need be.
///
/// # Errors
/// Why it cannot be made, or is not this user's alone, and what to do.
pub(crate) fn directory() -> Result<PathBuf, String> {
    let user = private::own_user();
    let path = choose(std::env::var_os("XDG_RUNTIME_DIR"), user);
    claim(&path, user)?;
    Ok(path)
}

/// The directory, where it is there and this user's alone.
pub(super) fn existing(xdg: Option<OsString>) -> Option<PathBuf> {
    let user = private::own_user();
    let path = choose(xdg, user);
    path.symlink_metadata().is_ok_and(|facts| is_private(&facts, user)).then_some(path)
}

/// Root's, where neither of the two can be had: in a container whose root cannot be written, say.
const OF_ROOT: &str = "/run/buslane-0";

/// Directories of others, for root: it may look after the appliance of any user of this host. Only such as nobody but
/// their owner can have put anything into.
pub(super) fn of_others(xdg: Option<OsString>) -> Vec<PathBuf> {
    let xdg = xdg.map(PathBuf::from).into_iter();
    let named = xdg.chain([PathBuf::from("/run/buslane")]).map(|dir| dir.join("buslane"));
    let users = below("/run/user", "").map(|dir| dir.join("buslane"));
    let all = named.chain([PathBuf::from(OF_ROOT)]).chain(users).chain(below("/tmp", "buslane-"));
    let is_private =
        |dir: &PathBuf| dir.symlink_metadata().is_ok_and(|facts| is_private(&facts, facts.uid()));
    all.filter(is_private).collect()
}

/// What is in a directory under a name that begins so.
fn below(dir: &str, beginning: &'static str) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().take(DIRECTORIES_LOOKED_AT_MAX);
    let is_one = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default();
        name.as_encoded_bytes().starts_with(beginning.as_bytes())
    };
    entries.map(|entry| entry.path()).filter(is_one)
}

/// What the links of a directory lead to, where all whose address is served lead to one thing: then this user runs one
/// appliance.
pub(super) fn only_target(dir: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(dir).ok()?.flatten().take(DIRECTORIES_LOOKED_AT_MAX);
    let is_link = |path: &PathBuf| path.extension().is_some_and(|ending| ending == ENDING);
    let is_served = |link: &PathBuf| {
        let address: Option<SocketAddrV4> =
            link.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
        // Of one that was killed the link stays.
        address.is_some_and(|address| {
            UdpSocket::bind(address).is_err_and(|error| error.kind() == ErrorKind::AddrInUse)
        })
    };
    let links = entries.map(|entry| entry.path()).filter(is_link).filter(is_served);
    let mut targets: Vec<PathBuf> = links.filter_map(|link| fs::canonicalize(link).ok()).collect();
    targets.sort_unstable();
    targets.dedup();
    if targets.len() == 1 { targets.pop() } else { None }
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
    let facts = dir.metadata();
    facts.is_ok_and(|dir| dir.uid() == private::own_user() && dir.mode() & 0o077 == 0o050)
}

/// Whether nobody but this user can put anything there. A link is no directory.
fn is_private(facts: &fs::Metadata, user: u32) -> bool {
    facts.is_dir() && facts.uid() == user && facts.mode() & 0o027 == 0
}

/// Makes a directory, as private as the one it is in.
pub(crate) fn make(path: &Path) -> io::Result<()> {
    private::make_directory(path)?;
    set_mode(path)
}

/// Also where it was made by another release or under another unit.
fn set_mode(path: &Path) -> io::Result<()> {
    let mode = if path.parent().is_some_and(is_for_the_group) { 0o750 } else { 0o700 };
    fs::set_permissions(path, Permissions::from_mode(mode))
}

fn claim(path: &Path, user: u32) -> Result<(), String> {
    let wrong = |why: String| {
        let path = path.display();
        format!("{path}: {why}; remove it, or set XDG_RUNTIME_DIR to a directory of your own")
    };
    if let Err(error) = make(path)
        && error.kind() != ErrorKind::AlreadyExists
    {
        return Err(wrong(format!("cannot be made: {error}")));
    }
    let facts = path.symlink_metadata().map_err(|error| wrong(error.to_string()))?;
    if !is_private(&facts, user) {
        return Err(wrong("is not a directory of this user alone (mode 0700)".to_owned()));
    }
    set_mode(path).map_err(|error| wrong(error.to_string()))
}

/// What the link of an appliance is called.
pub(super) fn link_name(address: SocketAddrV4) -> String {
    format!("{address}.{ENDING}")
}

/// A link from the address of a shard to the credentials of `local`, for as long as it is served.
#[derive(Debug)]
pub struct RuntimeLink {
    link: PathBuf,
    target: PathBuf,
}

impl RuntimeLink {
    /// Makes the link for `address`; one that another appliance left there gives way.
    ///
    /// # Errors
    /// What the operating system says, or why the runtime directory cannot be used.
    pub fn make(address: SocketAddrV4, local_access: &Path) -> io::Result<Self> {
        let made = directory()
            .map_err(io::Error::other)
            .and_then(|dir| Self::make_in(&dir, address, local_access));
        let user = private::own_user();
        if made.is_ok() || user != 0 {
            return made;
        }
        claim(Path::new(OF_ROOT), user).map_err(io::Error::other)?;
        Self::make_in(Path::new(OF_ROOT), address, local_access)
    }

    fn make_in(dir: &Path, address: SocketAddrV4, local_access: &Path) -> io::Result<Self> {
        let target = std::path::absolute(local_access)?;
        let link = dir.join(link_name(address));
        if link.symlink_metadata().is_ok_and(|facts| !facts.is_symlink()) {
            let what = format!("{} is no link; move it away", link.display());
            return Err(io::Error::new(ErrorKind::AlreadyExists, what));
        }
        // In one step, so that a client finds the old one or the new one.
        let number = getrandom::u64().map_err(io::Error::other)?;
        let draft = dir.join(format!(".{}-{number:016x}", link_name(address)));
        symlink(&target, &draft)?;
        fs::rename(&draft, &link).inspect_err(|_| {
            let _ = fs::remove_file(&draft);
        })?;
        Ok(Self { link, target })
    }
}

impl Drop for RuntimeLink {
    fn drop(&mut self) {
        // By now it may be another appliance's, or cleaned away.
        if fs::read_link(&self.link).is_ok_and(|target| target == self.target) {
            let _ = fs::remove_file(&self.link);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn the_directory_is_ours_alone() {
        let user = private::own_user();
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("buslane");
        claim(&path, user).unwrap();
        claim(&path, user).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o700);

        assert!(claim(&path, user + 1).is_err(), "another user's");
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        assert!(claim(&path, user).unwrap_err().contains("0700"));
        fs::set_permissions(&path, Permissions::from_mode(0o750)).unwrap();
        claim(&path, user).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o700, "the group is not asked");
        fs::set_permissions(place.path(), Permissions::from_mode(0o750)).unwrap();
        claim(&path, user).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o750, "as that of the unit");
        let link = place.path().join("link");
        symlink(place.path(), &link).unwrap();
        assert!(claim(&link, user).is_err(), "a link may point anywhere");
    }

    #[test]
    fn a_foreign_runtime_directory_is_not_used() {
        let user = private::own_user();
        let place = tempfile::tempdir().unwrap();
        let xdg = Some(place.path().as_os_str().to_owned());
        assert_eq!(choose(xdg.clone(), user), place.path().join("buslane"));
        assert_eq!(
            choose(xdg.clone(), user + 1),
            PathBuf::from(format!("/tmp/buslane-{}", user + 1))
        );
        assert_eq!(choose(Some("relative".into()), 7), PathBuf::from("/tmp/buslane-7"));
        assert_eq!(choose(None, 7), PathBuf::from("/tmp/buslane-7"));
        assert_eq!(existing(xdg.clone()), None, "it is not there");
        let path = place.path().join("buslane");
        make(&path).unwrap();
        assert_eq!(existing(xdg.clone()), Some(path.clone()));
        fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
        assert_eq!(existing(xdg.clone()), None, "anybody can put something there");
        fs::remove_dir(&path).unwrap();
        symlink(place.path(), &path).unwrap();
        assert_eq!(existing(xdg), None, "a link may point anywhere");
    }

    #[test]
    fn a_link_is_there_while_it_is_served() {
        let place = tempfile::tempdir().unwrap();
        let address = "127.0.0.1:9310".parse().unwrap();
        let target = place.path().join("local.access");
        let link = place.path().join("127.0.0.1:9310.access");
        symlink("stale", &link).unwrap();
        let made = RuntimeLink::make_in(place.path(), address, &target).unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), target);
        let other = place.path().join("other.access");
        let taken = RuntimeLink::make_in(place.path(), address, &other).unwrap();
        drop(made);
        assert_eq!(fs::read_link(&link).unwrap(), other, "it is another appliance's by now");
        drop(taken);
        assert!(link.symlink_metadata().is_err());
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "no draft is left");
    }

    #[test]
    fn what_is_no_link_is_left_alone() {
        let place = tempfile::tempdir().unwrap();
        let address = "127.0.0.1:9310".parse().unwrap();
        let path = place.path().join(link_name(address));
        fs::write(&path, "mine").unwrap();
        let error = RuntimeLink::make_in(place.path(), address, Path::new("x")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        let none = place.path().join("none");
        assert!(RuntimeLink::make_in(&none, address, Path::new("x")).is_err());
    }

    #[test]
    fn the_only_appliance_is_the_one_that_all_links_lead_to() {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("buslane");
        fs::create_dir(&dir).unwrap();
        let files = ["one", "other"].map(|name| place.path().join(name));
        files.iter().for_each(|file| fs::write(file, "").unwrap());
        let served = [(); 4].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        let link = |address: SocketAddr, target: &Path| {
            let SocketAddr::V4(address) = address else { panic!("{address}") };
            symlink(target, dir.join(link_name(address))).unwrap();
        };
        let [one, two, three, four] = served.each_ref().map(|port| port.local_addr().unwrap());
        assert_eq!(only_target(&dir), None);
        link(one, &place.path().join("gone"));
        link(two, &files[0]);
        link(three, &files[0]);
        // Nobody is there any more.
        link("127.0.0.1:1".parse().unwrap(), &files[1]);
        let only = fs::canonicalize(&files[0]).unwrap();
        assert_eq!(only_target(&dir), Some(only), "two shards of one");
        link(four, &files[1]);
        assert_eq!(only_target(&dir), None);
        assert_eq!(only_target(&place.path().join("nowhere")), None);
    }

    #[test]
    fn a_directory_that_somebody_has_filled_is_not_looked_through_for_ever() {
        let place = tempfile::tempdir().unwrap();
        for number in 0..DIRECTORIES_LOOKED_AT_MAX + 100 {
            fs::create_dir(place.path().join(format!("buslane-{number}"))).unwrap();
        }
        let found = below(place.path().to_str().unwrap(), "buslane-").count();
        assert_eq!(found, DIRECTORIES_LOOKED_AT_MAX);
        assert_eq!(below(place.path().to_str().unwrap(), "other").count(), 0);
    }

    /// What a user made for himself is not taken for another's.
    #[test]
    fn only_a_directory_that_nobody_else_can_write_is_looked_into() {
        let place = tempfile::tempdir().unwrap();
        let of_xdg =
            || of_others(Some(place.path().into())).contains(&place.path().join("buslane"));
        assert!(!of_xdg(), "there is none");
        let dir = place.path().join("buslane");
        fs::create_dir(&dir).unwrap();
        for (mode, is_one) in [(0o700, true), (0o750, true), (0o770, false), (0o701, false)] {
            fs::set_permissions(&dir, Permissions::from_mode(mode)).unwrap();
            assert_eq!(of_xdg(), is_one, "{mode:o}");
        }
    }
}
