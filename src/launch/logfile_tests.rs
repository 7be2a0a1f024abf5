//! The shipping code on a file system of our own: killed, or without power, before every single step.
//!
//! A name that was not synced may be undone or not, each by itself; so may the bytes of a file. What was acknowledged
//! has to be at its path after the next start, or that start refuses and it is somewhere still.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::*;

/// What a file holds; the last of these only by serving.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    Nothing,
    Log,
    Served(u32),
    Text,
}

#[derive(Clone, Debug)]
enum Node {
    Directory,
    File(usize),
}

/// Names as the processes see them, and what of them is durable.
#[derive(Clone, Debug, Default)]
struct Disk {
    names: BTreeMap<PathBuf, Node>,
    durable: BTreeMap<PathBuf, Node>,
    files: Vec<Content>,
    /// Symbolic links of directories, and where they lead.
    links: BTreeMap<PathBuf, PathBuf>,
    mounts: Vec<PathBuf>,
    fstab: Vec<PathBuf>,
    /// Syncing a directory does nothing: what a file system may not do, and the code must rely on.
    forgets: bool,
}

/// The process ends before step `until`.
struct Model {
    disk: RefCell<Disk>,
    until: RefCell<u32>,
    is_gone: RefCell<bool>,
}

const GONE: i32 = 4_242;

impl Model {
    fn new(disk: Disk, until: u32) -> Self {
        let (disk, until) = (RefCell::new(disk), RefCell::new(until));
        Self { disk, until, is_gone: RefCell::new(false) }
    }

    fn step(&self) -> io::Result<()> {
        let mut until = self.until.borrow_mut();
        if *until == 0 {
            *self.is_gone.borrow_mut() = true;
            return Err(io::Error::from_raw_os_error(GONE));
        }
        *until -= 1;
        Ok(())
    }

    fn node(&self, path: &Path) -> Option<Node> {
        let path = self.follow(path);
        let is_root = path.parent().is_none();
        is_root.then_some(Node::Directory).or_else(|| self.disk.borrow().names.get(&path).cloned())
    }

    /// A path as the kernel goes it.
    fn follow(&self, path: &Path) -> PathBuf {
        let mut path = path.to_owned();
        let disk = self.disk.borrow();
        while let Some((link, to)) = disk.links.iter().find(|(link, _)| path.starts_with(link)) {
            let to = link.with_file_name("").join(to).join(path.strip_prefix(link).unwrap());
            path = to.components().fold(PathBuf::new(), |mut path, part| {
                if part == Component::ParentDir {
                    path.pop();
                } else {
                    path.push(part);
                }
                path
            });
        }
        path
    }

    /// A new name; only in a directory that is there.
    fn name(&self, path: &Path, node: Node) -> io::Result<()> {
        if self.disk.borrow().links.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let path = self.follow(path);
        let mut disk = self.disk.borrow_mut();
        let dir = path.parent().unwrap();
        if dir.parent().is_some() && !matches!(disk.names.get(dir), Some(Node::Directory)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if disk.names.contains_key(&path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        disk.names.insert(path, node);
        Ok(())
    }

    fn content(&self, path: &Path) -> Option<Content> {
        match self.node(path)? {
            Node::File(file) => Some(self.disk.borrow().files[file].clone()),
            Node::Directory => None,
        }
    }

    /// Whoever is ready serves, and acknowledges: the file's bytes are durable, whatever its names are.
    fn serve(&self, path: &Path, acknowledged: u32) {
        let Some(Node::File(file)) = self.node(path) else { panic!("ready without a log") };
        self.disk.borrow_mut().files[file] = Content::Served(acknowledged);
    }

    fn create(&self, path: &Path, content: Content) -> io::Result<()> {
        self.step()?;
        let file = self.disk.borrow().files.len();
        self.name(path, Node::File(file))?;
        self.disk.borrow_mut().files.push(content);
        Ok(())
    }
}

impl Files for Model {
    type Draft = ();

    fn find(&self, path: &Path) -> io::Result<Found> {
        self.step()?;
        Ok(match self.node(path) {
            None => Found::Nothing,
            Some(Node::Directory) => Found::Directory,
            Some(Node::File(_)) => Found::File,
        })
    }

    fn is_log(&self, path: &Path) -> bool {
        matches!(self.content(path), Some(Content::Log | Content::Served(_)))
    }

    fn link(&self, path: &Path) -> Option<PathBuf> {
        self.disk.borrow().links.get(path).cloned()
    }

    fn absolute(&self, path: &Path) -> PathBuf {
        path.to_owned()
    }

    fn make_directory(&self, dir: &Path) -> io::Result<()> {
        self.step()?;
        self.name(dir, Node::Directory)
    }

    fn sync_directory(&self, dir: &Path) -> io::Result<()> {
        self.step()?;
        let dir = self.follow(dir);
        let mut disk = self.disk.borrow_mut();
        if disk.forgets {
            return Ok(());
        }
        let inside = |path: &PathBuf| path.parent() == Some(dir.as_path());
        disk.durable.retain(|path, _| !inside(path));
        let synced: Vec<_> = disk
            .names
            .iter()
            .filter(|(path, _)| inside(path))
            .map(|(p, n)| (p.clone(), n.clone()))
            .collect();
        disk.durable.extend(synced);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        let (from, to) = (self.follow(from), self.follow(to));
        let mut disk = self.disk.borrow_mut();
        let node = disk.names.remove(&from).expect("it is there");
        assert!(disk.names.insert(to.clone(), node).is_none(), "{} is replaced", to.display());
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        let path = self.follow(path);
        self.disk.borrow_mut().names.remove(&path).expect("it is there");
        Ok(())
    }

    fn write(&self, path: &Path, _text: &str) -> io::Result<()> {
        self.create(path, Content::Text)
    }

    fn hold(&self, path: &Path) -> Result<Option<((), Made)>, LaunchError> {
        self.step().map_err(|error| wrong(path, &error))?;
        Ok(self.content(path).map(|content| match content {
            Content::Served(_) => ((), Made::Served),
            Content::Nothing | Content::Log | Content::Text => ((), Made::Nothing),
        }))
    }

    fn make(&self, path: &Path) -> Result<(), LaunchError> {
        let wrong = |error: io::Error| wrong(path, &error);
        self.create(path, Content::Nothing).map_err(wrong)?;
        self.step().map_err(wrong)?;
        let Some(Node::File(file)) = self.node(path) else { panic!("just made") };
        self.disk.borrow_mut().files[file] = Content::Log;
        Ok(())
    }

    fn mount_points(&self) -> Vec<MountPoint> {
        let points = self.disk.borrow().mounts.clone();
        points.into_iter().map(|path| MountPoint { path, is_memory: false }).collect()
    }

    fn wanted_mount_points(&self) -> Vec<PathBuf> {
        self.disk.borrow().fstab.clone()
    }
}

/// Every state the power can leave: each name that differs is as it was, or as it is.
fn power_cuts(disk: &Disk) -> Vec<Disk> {
    let differs = |path: &&PathBuf| {
        let (now, then) = (disk.names.get(*path), disk.durable.get(*path));
        format!("{now:?}") != format!("{then:?}")
    };
    let mut paths: Vec<&PathBuf> =
        disk.names.keys().chain(disk.durable.keys()).filter(differs).collect();
    paths.dedup();
    paths.sort();
    paths.dedup();
    assert!(paths.len() < 10, "few names are open at once");
    (0..1u32 << paths.len())
        .map(|kept| {
            let mut names = disk.durable.clone();
            for (bit, path) in paths.iter().enumerate() {
                if kept & 1 << bit == 0 {
                    continue;
                }
                match disk.names.get(*path) {
                    Some(node) => names.insert((*path).clone(), node.clone()),
                    None => names.remove(*path),
                };
            }
            // Nothing is found below a directory that is not.
            let there = |path: &Path, names: &BTreeMap<PathBuf, Node>| {
                path.ancestors()
                    .skip(1)
                    .all(|dir| dir.parent().is_none() || names.contains_key(dir))
            };
            let whole = names.clone();
            names.retain(|path, _| there(path, &whole));
            Disk { durable: names.clone(), names, ..disk.clone() }
        })
        // A rename leaves the old name or the new one, never neither.
        .filter(|cut| {
            let named = |names: &BTreeMap<PathBuf, Node>, file: usize| {
                names.values().any(|node| matches!(node, Node::File(other) if *other == file))
            };
            (0..disk.files.len()).all(|file| {
                let kept = named(&disk.durable, file) && named(&disk.names, file);
                !kept || named(&cut.names, file)
            })
        })
        .collect()
}

const LOG: &str = "/data/new/log.0";

fn empty() -> Disk {
    let root = BTreeMap::from([(PathBuf::from("/data"), Node::Directory)]);
    Disk { names: root.clone(), durable: root, ..Disk::default() }
}

/// Starts, and serves if that comes to be; returns what the disk is then, and whether it was ready.
fn start(disk: Disk, until: u32, serve: Option<u32>) -> (Disk, Result<(), String>, bool) {
    let model = Model::new(disk, until);
    let result = ensure(&model, Path::new(LOG), Missing::Refuse, &mut |_| {});
    let is_gone = *model.is_gone.borrow();
    if result.is_ok()
        && !is_gone
        && let Some(acknowledged) = serve
    {
        model.serve(Path::new(LOG), acknowledged);
    }
    (model.disk.into_inner(), result.map_err(|error| error.to_string()), is_gone)
}

/// What becomes of a disk whose process is gone: it was killed only, or the power was cut.
fn ends(disk: &Disk) -> Vec<Disk> {
    let mut ends = power_cuts(disk);
    ends.push(disk.clone());
    ends
}

/// The last start: what was acknowledged is at its path, or refused and still there.
fn check(disk: &Disk, acknowledged: Option<u32>) -> Result<(), String> {
    let held = |disk: &Disk| {
        let served = acknowledged.map(Content::Served);
        disk.names.values().any(
            |node| matches!(node, Node::File(file) if Some(&disk.files[*file]) == served.as_ref()),
        )
    };
    let (after, result, _) = start(disk.clone(), u32::MAX, None);
    let Some(number) = acknowledged else {
        return result
            .map_err(|why| format!("nothing was acknowledged, and it does not start: {why}"));
    };
    match result {
        Ok(()) => {
            let model = Model::new(after, u32::MAX);
            let found = model.content(Path::new(LOG));
            if found == Some(Content::Served(number)) {
                Ok(())
            } else {
                Err(format!("{found:?} is served"))
            }
        }
        Err(_) if held(&after) => Ok(()),
        Err(why) => Err(format!("refused, and it is gone: {why}")),
    }
}

/// Two starts that end at any step by any end, then one that serves and loses power, then the last.
fn explore(first: &Disk) -> Result<u32, String> {
    let mut tried = 0;
    for until in 0.. {
        let (disk, _, first_gone) = start(first.clone(), until, None);
        for disk in ends(&disk) {
            for until in 0.. {
                let (again, result, is_gone) = start(disk.clone(), until, Some(7));
                let acknowledged = (result.is_ok() && !is_gone).then_some(7);
                for cut in ends(&again) {
                    check(&cut, acknowledged)?;
                    tried += 1;
                }
                if !is_gone {
                    result?;
                    break;
                }
            }
        }
        if !first_gone {
            return Ok(tried);
        }
    }
    unreachable!("a start has an end")
}

#[test]
fn nothing_acknowledged_is_lost_with_a_crash_at_every_step_of_two_starts() {
    let tried = explore(&empty()).unwrap();
    assert!(tried > 1_000, "{tried}");
}

#[test]
fn without_the_directory_s_sync_the_exploration_finds_the_loss() {
    let found = explore(&Disk { forgets: true, ..empty() }).unwrap_err();
    assert!(found.contains("gone") || found.contains("served"), "{found}");
}

#[test]
fn a_log_served_by_an_earlier_release_gets_its_lost_name_back() {
    // What the rename was undone of: the log, served, under the draft's name.
    let mut disk = empty();
    disk.files.push(Content::Served(7));
    for names in [&mut disk.names, &mut disk.durable] {
        names.insert("/data/new".into(), Node::Directory);
        names.insert(format!("{LOG}.being-made").into(), Node::File(0));
    }
    for until in 0.. {
        let (after, _, is_gone) = start(disk.clone(), until, None);
        for cut in ends(&after) {
            check(&cut, Some(7)).unwrap();
        }
        if !is_gone {
            break;
        }
    }
}

#[test]
fn two_logs_beside_one_another_do_not_share_a_draft() {
    assert_ne!(draft_of(Path::new("/data/log.0")), draft_of(Path::new("/data/log.1")));
    assert_eq!(draft_of(Path::new("log")), Path::new("log.being-made"));
}

fn made() -> Disk {
    let (disk, result, _) = start(empty(), u32::MAX, Some(7));
    result.unwrap();
    disk
}

#[test]
fn a_log_that_was_there_is_missed_and_a_new_one_has_to_be_asked_for() {
    let mut disk = made();
    disk.names.remove(Path::new(LOG)).unwrap();
    let (after, result, _) = start(disk.clone(), u32::MAX, None);
    let why = result.unwrap_err();
    assert!(
        why.contains("log.0.made says so") && why.contains("buslane log format /data"),
        "{why}"
    );
    assert_eq!(after.names.len(), disk.names.len(), "nothing was made");
    let model = Model::new(disk, u32::MAX);
    ensure(&model, Path::new(LOG), Missing::MakeAnew, &mut |_| {}).unwrap();
    assert_eq!(model.content(Path::new(LOG)), Some(Content::Log));
    // All of it removed: somebody wants to begin anew.
    let mut disk = model.disk.into_inner();
    disk.names.retain(|path, _| !path.starts_with("/data/new"));
    start(disk, u32::MAX, None).1.unwrap();
}

#[test]
fn a_mount_that_is_missing_is_not_taken_for_an_empty_one() {
    let mut disk = empty();
    disk.mounts = vec!["/".into(), "/data".into()];
    let (mut disk, result, _) = start(disk, u32::MAX, Some(7));
    result.unwrap();
    assert!(disk.names.contains_key(Path::new("/.data.buslane")), "{:?}", disk.names);
    disk.names.retain(|path, _| !path.starts_with("/data/new"));
    disk.mounts = vec!["/".into()];
    let why = start(disk.clone(), u32::MAX, None).1.unwrap_err();
    assert!(why.contains("/.data.buslane") && why.contains("mount it"), "{why}");
    disk.mounts.push("/data".into());
    start(disk, u32::MAX, None).1.unwrap();

    let mut disk = empty();
    disk.fstab = vec!["/".into(), "/data".into()];
    let why = start(disk.clone(), u32::MAX, None).1.unwrap_err();
    assert!(why.contains("/etc/fstab") && why.contains("/data"), "{why}");
    disk.mounts.push("/data".into());
    start(disk, u32::MAX, None).1.unwrap();
}

/// A log below what is mounted on `/data`, reached by a link from elsewhere.
#[test]
fn a_link_into_a_mount_that_is_missing_leads_to_no_fresh_log() {
    let linked = |to: &str, log: &str| {
        let mut disk = empty();
        for dir in ["/srv", "/data/new"] {
            disk.names.insert(dir.into(), Node::Directory);
        }
        disk.links = BTreeMap::from([("/srv/link".into(), to.into())]);
        disk.mounts = vec!["/".into(), "/data".into()];
        let log = Path::new("/srv/link").join(log);
        let model = Model::new(disk, u32::MAX);
        ensure(&model, &log, Missing::Refuse, &mut |_| {}).unwrap();
        model.serve(&log, 7);
        let mut disk = model.disk.into_inner();
        assert!(disk.names.contains_key(Path::new(LOG)), "{to}: {:?}", disk.names);
        disk.mounts = vec!["/".into()];
        (disk, log)
    };
    for (to, log) in [("/data", "new/log.0"), ("/data/new", "log.0"), ("../data/./new", "log.0")] {
        let (disk, log) = linked(to, log);
        let refused = |disk: &Disk, says: &str| {
            let model = Model::new(disk.clone(), u32::MAX);
            let why = ensure(&model, &log, Missing::Refuse, &mut |_| {}).unwrap_err().to_string();
            assert!(why.contains(says) && why.contains("mount it"), "{to}: {why}");
            assert_eq!(model.disk.borrow().files.len(), disk.files.len(), "{to}: nothing is made");
        };
        // What is below the mount point itself: nothing, or a directory that looks like it.
        let mut bare = disk.clone();
        bare.names.retain(|path, _| !path.starts_with("/data/new"));
        let mut alike = bare.clone();
        alike.names.insert("/data/new".into(), Node::Directory);
        for mut below in [bare, alike] {
            refused(&below, "/.data.buslane says that a file system belongs on /data");
            below.names.remove(Path::new("/.data.buslane")).unwrap();
            below.fstab = vec!["/data".into()];
            refused(&below, "/etc/fstab says that a file system belongs on /data");
        }
    }
    // Nobody says that there was one: a link that leads nowhere is no name for a directory.
    let (mut disk, log) = linked("/data/new", "log.0");
    disk.names.retain(|path, _| !path.starts_with("/data/new") && path != "/.data.buslane");
    let model = Model::new(disk, u32::MAX);
    let why = ensure(&model, &log, Missing::Refuse, &mut |_| {}).unwrap_err().to_string();
    assert!(why.contains("/srv/link: leads to /data/new, which is not there"), "{why}");
}

#[test]
fn what_is_no_log_is_left_alone() {
    let mut disk = empty();
    disk.names.insert("/data/new".into(), Node::Directory);
    disk.files.push(Content::Text);
    disk.names.insert(LOG.into(), Node::File(0));
    let (after, result, _) = start(disk.clone(), u32::MAX, None);
    result.unwrap();
    assert_eq!(after.names.len(), disk.names.len(), "no note beside somebody's text");
}
