//! Files and directories that only their owner may read and write.
//!
//! A file is judged by what was opened, not by what its name led to a moment before. A link is followed, because what it
//! leads to is judged; a pipe or a device is refused, and not waited for.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;

use zeroize::Zeroizing;

use super::error::AccessError;
use crate::limits::ACCESS_FILE_BYTES_MAX;

/// Permissions of everybody but the owner.
const OTHERS: u32 = 0o077;

/// How a file came to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// The user named it, or the directory it is in. Then root also takes what belongs to the owner of that directory, as
    /// it does where it looks after the appliance of another user.
    Named,
    /// It was found where such files are looked for.
    Found,
}

/// The user this process acts as.
pub(super) fn own_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Who may own a file for this process to believe it.
#[derive(Clone, Copy, Debug)]
struct Owners {
    user: u32,
    directory: Option<u32>,
}

impl Owners {
    fn of(path: &Path, way: Way) -> Self {
        let user = own_user();
        let named = way == Way::Named && user == 0;
        let directory = named.then(|| directory_of(path).metadata().map(|facts| facts.uid()).ok());
        Self { user, directory: directory.flatten() }
    }

    fn has(self, owner: u32) -> bool {
        owner == self.user || owner == 0 || Some(owner) == self.directory
    }
}

/// The directory that `path` stands in.
pub(super) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// What a private file says.
pub(super) fn read(path: &Path, way: Way) -> Result<Zeroizing<String>, AccessError> {
    let cannot = |error: io::Error| cannot_read(path, &error);
    // Not to wait for whoever writes into a pipe.
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    let file = options.open(path).map_err(cannot)?;
    let facts = file.metadata().map_err(cannot)?;
    judge(&facts, Owners::of(path, way)).map_err(|what| AccessError::host(path, what))?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity(&facts)));
    file.take(ACCESS_FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(cannot)?;
    // It may have grown meanwhile.
    check_length(bytes.len() as u64).map_err(|what| AccessError::host(path, what))?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => Err(AccessError::wrong(path, None, "is no text; bring it back, or make it anew")),
    }
}

/// Room for all of a file, so that none of it is left behind where a buffer grew.
fn capacity(facts: &Metadata) -> usize {
    usize::try_from(facts.len().min(ACCESS_FILE_BYTES_MAX)).expect("a small number") + 64
}

fn judge(facts: &Metadata, owners: Owners) -> Result<(), String> {
    if !facts.is_file() {
        return Err("is no regular file; keep keys in one".to_owned());
    }
    if !owners.has(facts.uid()) {
        return Err(foreign(facts.uid(), owners.user));
    }
    let mode = facts.mode() & 0o7777;
    if mode & OTHERS != 0 {
        return Err(format!(
            "others than its owner may read or write it (mode {mode:04o}); they may have done so: if it holds a secret, \
             change that; then chmod 600"
        ));
    }
    check_length(facts.len())
}

/// Whether a file of so many bytes can be one of these.
pub(super) fn check_length(bytes: u64) -> Result<(), String> {
    if bytes <= ACCESS_FILE_BYTES_MAX {
        return Ok(());
    }
    Err(format!(
        "has more than {ACCESS_FILE_BYTES_MAX} bytes, which no such file has; look what it is"
    ))
}

fn foreign(owner: u32, user: u32) -> String {
    format!(
        "belongs to user {owner}, and this process is user {user}; run it as that user, or give it a file of its own"
    )
}

fn cannot_read(path: &Path, error: &io::Error) -> AccessError {
    if error.kind() == ErrorKind::NotFound {
        return AccessError::absent(path, "is not there");
    }
    AccessError::host(path, format!("cannot be read: {error}"))
}

/// Whether a directory is private to a user that is believed, and who that is.
pub(super) fn check_directory(path: &Path) -> Result<(), AccessError> {
    let facts = fs::metadata(path).map_err(|error| cannot_read(path, &error))?;
    if !facts.is_dir() {
        return Err(AccessError::host(path, "is no directory; move it away, or name another one"));
    }
    let user = own_user();
    if user != 0 && facts.uid() != user && facts.uid() != 0 {
        return Err(AccessError::host(path, foreign(facts.uid(), user)));
    }
    let mode = facts.mode() & 0o7777;
    if mode & OTHERS != 0 {
        let what = format!("others than its owner may enter it (mode {mode:04o}); chmod 700");
        return Err(AccessError::host(path, what));
    }
    Ok(())
}

/// Makes a directory for its owner alone.
pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

/// Makes a file that was not there; when it is made, it is on the disk. One that cannot be made whole is taken away again.
pub(super) fn create(path: &Path, text: &str, owner: Option<&Metadata>) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let mut fill = || {
        if let Some(owner) = owner.filter(|owner| own_user() == 0 && owner.uid() != 0) {
            fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    fill().inspect_err(|_| {
        // It has to go; that it does not is the smaller mishap.
        let _ = fs::remove_file(path);
    })
}

/// Puts `text` in the place of the file `path`, whole or not at all; whose it is, it stays. A link is refused: whoever owns
/// the directory could lead root anywhere. The caller sees to it that nobody else does so at the same time.
pub(super) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let facts = fs::symlink_metadata(path)?;
    if facts.is_symlink() {
        return Err(io::Error::other("it is a link; change what it leads to by hand"));
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = path.with_file_name(format!(".{name}.draft"));
    // Of one that was killed.
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    create(&draft, text, Some(&facts))?;
    fs::rename(&draft, path).inspect_err(|_| {
        let _ = fs::remove_file(&draft);
    })?;
    sync_directory(directory_of(path))
}

/// Sees to it that the names in a directory are on the disk.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    match File::open(path)?.sync_all() {
        // Some file systems have no such thing.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn place() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn said(path: &Path) -> String {
        read(path, Way::Found).unwrap_err().to_string()
    }

    #[test]
    fn a_file_of_ones_own_is_read_and_one_that_others_may_read_is_not() {
        let place = place();
        let path = place.path().join("x");
        create(&path, "secret", None).unwrap();
        assert_eq!(read(&path, Way::Found).unwrap().as_str(), "secret");
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o600);
        for mode in [0o400, 0o700, 0o600] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert!(read(&path, Way::Named).is_ok(), "{mode:o}");
        }
        for mode in [0o640, 0o604, 0o620, 0o602, 0o601, 0o610] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert!(said(&path).contains(&format!("(mode {mode:04o})")), "{mode:o}");
        }
    }

    #[test]
    fn what_is_no_regular_file_is_refused_and_not_waited_for() {
        let place = place();
        assert!(said(place.path()).contains("no regular file"));
        let pipe = place.path().join("pipe");
        let made = std::process::Command::new("mkfifo").args(["-m", "600"]).arg(&pipe).status();
        assert!(made.unwrap().success());
        assert!(said(&pipe).contains("no regular file"));
        assert!(said(Path::new("/dev/null")).contains("no regular file"));
        let none = place.path().join("none");
        assert!(matches!(read(&none, Way::Found), Err(AccessError::Absent(_))));
        let link = place.path().join("link");
        symlink(&none, &link).unwrap();
        assert!(matches!(read(&link, Way::Found), Err(AccessError::Absent(_))));
        symlink(&link, place.path().join("a")).unwrap();
        symlink("loop", place.path().join("loop")).unwrap();
        assert!(said(&place.path().join("loop")).contains("cannot be read"));
        assert!(said(&place.path().join("x\ny")).contains("x\\ny"));
    }

    #[test]
    fn a_link_is_judged_by_what_it_leads_to() {
        let place = place();
        let (path, link) = (place.path().join("x"), place.path().join("link"));
        create(&path, "text", None).unwrap();
        symlink(&path, &link).unwrap();
        assert!(read(&link, Way::Found).is_ok());
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert!(said(&link).contains("(mode 0644)"));
    }

    #[test]
    fn a_file_is_not_larger_than_such_a_file_is() {
        let place = place();
        let path = place.path().join("x");
        let most = usize::try_from(ACCESS_FILE_BYTES_MAX).unwrap();
        create(&path, &"x".repeat(most), None).unwrap();
        assert_eq!(read(&path, Way::Found).unwrap().len(), most);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"x").unwrap();
        assert!(said(&path).contains("more than 1048576 bytes"));
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(said(&path).contains("is no text"));
        fs::write(&path, "").unwrap();
        assert_eq!(read(&path, Way::Found).unwrap().as_str(), "");
    }

    #[test]
    fn owners_that_are_believed_are_oneself_root_and_for_root_whoever_has_the_directory() {
        let found = Owners { user: 1000, directory: None };
        assert!(found.has(1000) && found.has(0) && !found.has(1001));
        let root = Owners { user: 0, directory: Some(997) };
        assert!(root.has(0) && root.has(997) && !root.has(1000));
        let place = place();
        let path = place.path().join("x");
        create(&path, "x", None).unwrap();
        let facts = path.metadata().unwrap();
        let stranger = Owners { user: facts.uid() + 1, directory: None };
        let judged = judge(&facts, stranger);
        assert!(facts.uid() == 0 || judged.unwrap_err().contains("belongs to user"));
        if own_user() != 0 {
            return;
        }
        std::os::unix::fs::chown(&path, Some(997), None).unwrap();
        assert!(said(&path).contains("belongs to user 997"));
        assert!(read(&path, Way::Named).is_err(), "the directory is root's");
        std::os::unix::fs::chown(place.path(), Some(997), None).unwrap();
        assert!(read(&path, Way::Named).is_ok());
        assert!(said(&path).contains("belongs to user 997"));
        replace(&path, "new").unwrap();
        assert_eq!(path.metadata().unwrap().uid(), 997, "it stays the owner's");
    }

    #[test]
    fn a_file_is_made_once_and_replaced_whole() {
        let place = place();
        let path = place.path().join("x");
        create(&path, "one", None).unwrap();
        assert_eq!(create(&path, "two", None).unwrap_err().kind(), ErrorKind::AlreadyExists);
        symlink("nowhere", place.path().join("link")).unwrap();
        assert!(create(&place.path().join("link"), "two", None).is_err(), "a link is not followed");
        let draft = place.path().join(".x.draft");
        fs::write(&draft, "left by one that was killed").unwrap();
        replace(&path, "three").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "three");
        assert!(!draft.exists());
        let link = place.path().join("other");
        symlink(&path, &link).unwrap();
        assert!(replace(&link, "four").unwrap_err().to_string().contains("it is a link"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "three");
        fs::create_dir(&draft).unwrap();
        assert!(replace(&path, "four").is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "three");
        assert!(replace(&place.path().join("none"), "x").is_err());
    }

    #[test]
    fn a_directory_of_keys_is_its_owners_alone() {
        let place = place();
        fs::set_permissions(place.path(), Permissions::from_mode(0o700)).unwrap();
        check_directory(place.path()).unwrap();
        for mode in [0o750, 0o701, 0o770, 0o755] {
            fs::set_permissions(place.path(), Permissions::from_mode(mode)).unwrap();
            let said = check_directory(place.path()).unwrap_err().to_string();
            assert!(said.contains(&format!("(mode {mode:04o}); chmod 700")), "{said}");
        }
        fs::set_permissions(place.path(), Permissions::from_mode(0o700)).unwrap();
        let path = place.path().join("x");
        create(&path, "x", None).unwrap();
        assert!(check_directory(&path).unwrap_err().to_string().contains("no directory"));
        let none = check_directory(&place.path().join("none"));
        assert!(matches!(none, Err(AccessError::Absent(_))));
    }
}
