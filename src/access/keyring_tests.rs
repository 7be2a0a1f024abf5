//! Keys that are made, opened, changed, and found damaged.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::{Arc, Barrier};
use std::thread;

use super::*;
use crate::access::IdentityId;

fn place() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().mode() & 0o7777
}

#[track_caller]
fn refused(dir: &Path, says: &str) {
    let said = Keyring::open_or_make(dir).unwrap_err().to_string();
    assert!(said.contains(says), "`{says}` is not in: {said}");
}

#[test]
fn keys_are_made_once_and_opened_from_then_on() {
    let place = place();
    let dir = place.path().join("data/keys");
    let none = Keyring::open(&dir).unwrap_err();
    assert!(none.to_string().contains("`buslane serve` makes them"), "{none}");
    let (made, is_made) = Keyring::open_or_make(&dir).unwrap();
    assert!(is_made);
    assert_eq!(names(&dir), [ACCESS, LOCAL_ACCESS, SERVER_KEY]);
    assert_eq!(mode(&dir), 0o700);
    for name in names(&dir) {
        assert_eq!(mode(&dir.join(name)), 0o600);
    }
    assert_eq!(names(&place.path().join("data")), ["keys"]);
    let (again, is_made) = Keyring::open_or_make(&dir).unwrap();
    assert!(!is_made);
    assert_eq!(again.secret, made.secret);
    assert_eq!(again.dir(), dir);
    let local = Credentials::load(&again.local_access()).unwrap();
    assert_eq!(local.server_key, made.secret.public());
    let known = again.access.by_key(&local.secret.public()).unwrap();
    assert_eq!((known.name.as_str(), &known.rights), (LOCAL, &crate::access::Rights::all()));
    assert!(!format!("{again:?}").contains(&made.secret.to_text()[4..]));
}

#[test]
fn an_empty_directory_gives_way() {
    let place = place();
    let dir = place.path().join("keys");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, Permissions::from_mode(0o700)).unwrap();
    assert!(Keyring::open(&dir).unwrap_err().to_string().contains("there are no keys"));
    fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
    assert!(Keyring::open_or_make(&dir).unwrap().1);
    assert_eq!(mode(&dir), 0o700);
}

#[test]
fn what_a_killed_process_left_is_cleared_away_and_what_another_makes_is_not() {
    let place = place();
    let dir = place.path().join("keys");
    let (left, other) = (draft(&dir), draft(&dir));
    for draft in [&left, &other] {
        private::make_directory(draft).unwrap();
        private::create(&draft.join(SERVER_KEY), "bls1ha", None).unwrap();
    }
    let _held = try_hold(&other).unwrap();
    assert!(Keyring::open_or_make(&dir).unwrap().1);
    assert!(!left.exists() && other.exists());
}

#[test]
fn of_many_that_make_it_at_once_one_wins_and_all_have_the_same() {
    for _ in 0..20 {
        let place = place();
        let dir = Arc::new(place.path().join("keys"));
        let all = Arc::new(Barrier::new(4));
        let makers: Vec<_> = (0..4)
            .map(|_| {
                let (dir, all) = (Arc::clone(&dir), Arc::clone(&all));
                #[allow(clippy::disallowed_methods, reason = "processes at once, in one test")]
                thread::spawn(move || {
                    all.wait();
                    Keyring::open_or_make(&dir).unwrap()
                })
            })
            .collect();
        let rings: Vec<_> = makers.into_iter().map(|maker| maker.join().unwrap()).collect();
        assert_eq!(rings.iter().filter(|(_, is_made)| *is_made).count(), 1);
        assert!(rings.iter().all(|(ring, _)| ring.secret == rings[0].0.secret));
        assert_eq!(names(place.path()), ["keys"]);
    }
}

#[test]
fn what_is_missing_or_damaged_is_named_and_nothing_is_made_over_it() {
    let place = place();
    let dir = place.path().join("keys");
    let whole = Keyring::open_or_make(&dir).unwrap().0;
    let key = dir.join(SERVER_KEY);
    let text = fs::read_to_string(&key).unwrap();
    fs::write(&key, format!("{text}\n\n")).unwrap();
    assert_eq!(
        Keyring::open(&dir).unwrap().secret,
        whole.secret,
        "ends of lines are no part of it"
    );
    for half in ["", "bls1", &text[..40]] {
        fs::write(&key, half).unwrap();
        refused(&dir, "server.key: what is in it ");
    }
    fs::write(&key, whole.secret.public().to_string()).unwrap();
    refused(&dir, "is a public key where a secret one (bls1..) is wanted");
    fs::remove_file(&key).unwrap();
    refused(&dir, "server.key: is not there, though the directory is; bring it back");
    private::create(&key, &text, None).unwrap();
    fs::remove_file(dir.join(ACCESS)).unwrap();
    refused(&dir, "access.toml: is not there");
    assert!(whole.reload().unwrap_err().to_string().contains("access.toml: is not there"));
    private::create(&dir.join(ACCESS), "[[identity", None).unwrap();
    refused(&dir, "access.toml:1: ");
    fs::write(dir.join(ACCESS), "").unwrap();
    fs::remove_file(dir.join(LOCAL_ACCESS)).unwrap();
    assert!(Keyring::open(&dir).is_ok(), "nobody has to be able to do all");
}

#[test]
fn a_directory_or_a_file_that_others_may_enter_or_read_is_refused() {
    let place = place();
    let dir = place.path().join("keys");
    let ring = Keyring::open_or_make(&dir).unwrap().0;
    fs::set_permissions(&dir, Permissions::from_mode(0o750)).unwrap();
    refused(&dir, "keys: others than its owner may enter it (mode 0750); chmod 700");
    assert!(ring.reload().is_err());
    fs::set_permissions(&dir, Permissions::from_mode(0o700)).unwrap();
    for name in [SERVER_KEY, ACCESS] {
        fs::set_permissions(dir.join(name), Permissions::from_mode(0o644)).unwrap();
        refused(&dir, &format!("{name}: others than its owner may read or write it (mode 0644)"));
        fs::set_permissions(dir.join(name), Permissions::from_mode(0o600)).unwrap();
    }
    assert!(Keyring::open(&dir).is_ok());
}

#[test]
fn what_is_no_place_for_keys_is_said() {
    let place = place();
    let file = place.path().join("file");
    fs::write(&file, "").unwrap();
    refused(&file, "file: is no directory");
    refused(&file.join("keys"), "cannot be read: Not a directory");
    refused(&place.path().join("no/such/keys"), "keys cannot be made here");
    let dangling = place.path().join("dangling");
    symlink("nowhere", &dangling).unwrap();
    refused(&dangling, "keys cannot be made here");
    refused(Path::new("/proc/keys.buslane"), "name another directory with security.keys");
    assert_eq!(names(place.path()), ["dangling", "file"], "nothing is left");
}

#[test]
fn a_change_is_whole_or_none() {
    let place = place();
    let dir = place.path().join("keys");
    let ring = Keyring::open_or_make(&dir).unwrap().0;
    let before = fs::read_to_string(dir.join(ACCESS)).unwrap();
    let more = |text: &str| Ok(format!("{text}[[identity]]\nname = \"desk\"\n"));
    let access = ring.edit(more).unwrap();
    assert!(access.by_id(IdentityId::of("desk")).is_some());
    assert!(ring.access.by_id(IdentityId::of("desk")).is_none(), "what was read stays");
    assert!(ring.reload().unwrap().by_id(IdentityId::of("desk")).is_some());
    let after = fs::read_to_string(dir.join(ACCESS)).unwrap();
    assert_eq!(after, more(&before).unwrap());
    let twice = ring.edit(more).unwrap_err();
    assert!(twice.to_string().contains("there are two identities desk"), "{twice}");
    let refused = ring.edit(|_| Err("not today".to_owned())).unwrap_err();
    assert!(refused.to_string().ends_with("access.toml: not today"), "{refused}");
    let huge = ring.edit(|text| Ok(format!("{text}#{}", "x".repeat(1 << 20)))).unwrap_err();
    assert!(huge.to_string().contains("changed so, it has more than 1048576 bytes"), "{huge}");
    let no_toml = ring.edit(|text| Ok(text[..text.len() - 3].to_owned())).unwrap_err();
    assert!(matches!(no_toml, AccessError::Wrong(_)), "{no_toml}");
    assert_eq!(fs::read_to_string(dir.join(ACCESS)).unwrap(), after);
    assert_eq!(mode(&dir.join(ACCESS)), 0o600);
    assert_eq!(names(&dir).len(), 3, "no draft is left");
    fs::rename(dir.join(ACCESS), place.path().join("elsewhere")).unwrap();
    symlink(place.path().join("elsewhere"), dir.join(ACCESS)).unwrap();
    assert!(ring.reload().is_ok(), "a link is read");
    let linked = ring.edit(|text| Ok(text.to_owned())).unwrap_err();
    assert!(linked.to_string().contains("it is a link"), "{linked}");
}

#[test]
fn changes_at_once_lose_nothing() {
    let place = place();
    let dir = place.path().join("keys");
    let ring = Arc::new(Keyring::open_or_make(&dir).unwrap().0);
    let editors: Vec<_> = (0..8)
        .map(|number| {
            let ring = Arc::clone(&ring);
            #[allow(clippy::disallowed_methods, reason = "processes at once, in one test")]
            thread::spawn(move || {
                let more = format!("[[identity]]\nname = \"n{number}\"\n");
                ring.edit(|text| Ok(format!("{text}{more}"))).unwrap();
            })
        })
        .collect();
    editors.into_iter().for_each(|editor| editor.join().unwrap());
    assert_eq!(ring.reload().unwrap().identities().len(), 9);
}
