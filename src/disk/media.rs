//! What a file is on: whether that keeps anything when the power goes.
//!
//! `O_DSYNC` promises no more than the media below it. A file system in memory, or a block device that is memory
//! (brd, zram, null_blk), be it below a partition, a loop device, device-mapper, md or an overlay, is `volatile`.
//! What cannot be seen from here (another mount namespace, a server's disk) is taken at the kernel's word.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::ids::Durability;

/// File systems that are memory.
const MEMORY_FILE_SYSTEMS: [&str; 5] = ["tmpfs", "ramfs", "devtmpfs", "hugetlbfs", "rootfs"];

/// Block devices that are memory, by name without the number.
const MEMORY_DEVICES: [(&str, &str); 3] =
    [("ram", "a RAM disk"), ("zram", "compressed memory"), ("nullb", "a null block device")];

/// Devices on top of one another, at most.
const DEPTH_MAX: u32 = 16;

/// A mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Where.
    pub point: PathBuf,
    /// As in `ext4`.
    pub kind: String,
    /// `major:minor` of what its files say they are on.
    device: String,
    /// A device, or a word.
    source: String,
    options: String,
}

impl Mount {
    /// Whether it is gone with the power.
    #[must_use]
    pub(crate) fn is_memory(&self) -> bool {
        MEMORY_FILE_SYSTEMS.contains(&self.kind.as_str())
    }
}

/// What the kernel tells of mounts and block devices.
#[derive(Clone, Debug)]
pub(crate) struct Media {
    /// `/`, but in tests.
    root: PathBuf,
}

impl Default for Media {
    fn default() -> Self {
        Self { root: PathBuf::from("/") }
    }
}

impl Media {
    /// Why what is written to the file or block device at `path` is safe.
    #[must_use]
    pub(crate) fn durability(&self, path: &Path) -> Durability {
        match self.memory(path) {
            Some(_) => Durability::Volatile,
            None => Durability::KernelSync,
        }
    }

    /// In what memory the file, directory or block device at `path` is; `None` where it is on media, as far as
    /// can be seen.
    #[must_use]
    pub(crate) fn memory(&self, path: &Path) -> Option<String> {
        self.memory_below(path, 0)
    }

    /// All mounts of this process, in the order they were made.
    ///
    /// # Errors
    /// What the operating system said.
    pub(crate) fn mounts(&self) -> io::Result<Vec<Mount>> {
        let text = fs::read_to_string(self.root.join("proc/self/mountinfo"))?;
        Ok(text.lines().filter_map(parse_mount).collect())
    }

    fn memory_below(&self, path: &Path, depth: u32) -> Option<String> {
        let metadata = fs::metadata(path).ok()?;
        if metadata.file_type().is_block_device() {
            return self.memory_of_device(&number(metadata.rdev()), depth);
        }
        let path = path.canonicalize().ok()?;
        let mounts = self.mounts().ok()?;
        // Of those at one point the last covers the others.
        let mount = mounts
            .iter()
            .filter(|mount| path.starts_with(&mount.point))
            .max_by_key(|mount| mount.point.as_os_str().len())?;
        self.memory_of_mount(mount, depth)
    }

    fn memory_of_mount(&self, mount: &Mount, depth: u32) -> Option<String> {
        let (point, kind) = (mount.point.display(), &mount.kind);
        if mount.is_memory() {
            return Some(format!("{kind}, mounted at {point}, is memory"));
        }
        if depth == DEPTH_MAX {
            return None;
        }
        if kind == "overlay" {
            let upper =
                mount.options.split(',').find_map(|option| option.strip_prefix("upperdir="))?;
            let below = self.memory_below(Path::new(upper), depth + 1)?;
            return Some(format!("the overlay at {point} writes to {upper}: {below}"));
        }
        if !mount.device.starts_with("0:") {
            return self.memory_of_device(&mount.device, depth);
        }
        // Some file systems (Btrfs) number their files by themselves.
        let source = fs::metadata(&mount.source).ok()?;
        let is_device = source.file_type().is_block_device();
        is_device.then(|| self.memory_of_device(&number(source.rdev()), depth)).flatten()
    }

    /// The same for a block device, `major:minor`.
    fn memory_of_device(&self, device: &str, depth: u32) -> Option<String> {
        let mut place = self.root.join("sys/dev/block").join(device).canonicalize().ok()?;
        if place.join("partition").exists() {
            place.pop();
        }
        let name = place.file_name()?.to_string_lossy().into_owned();
        for (prefix, what) in MEMORY_DEVICES {
            let number = name.strip_prefix(prefix);
            if number.is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit())) {
                return Some(format!("{name} is {what}"));
            }
        }
        let read = |file: &str| fs::read_to_string(place.join(file)).ok();
        if read("device/model").is_some_and(|model| model.trim() == "scsi_debug") {
            return Some(format!("{name} is a disk of scsi_debug, which is memory"));
        }
        if depth == DEPTH_MAX {
            return None;
        }
        if let Some(file) = read("loop/backing_file") {
            let file = file.trim_end();
            let below = self.memory_below(Path::new(file), depth + 1)?;
            return Some(format!("{name} is the file {file}: {below}"));
        }
        let slaves = fs::read_dir(place.join("slaves")).ok()?;
        slaves.flatten().find_map(|slave| {
            let device = fs::read_to_string(slave.path().join("dev")).ok()?;
            let below = self.memory_of_device(device.trim(), depth + 1)?;
            Some(format!("{name} is on {}: {below}", slave.file_name().to_string_lossy()))
        })
    }
}

fn number(device: u64) -> String {
    format!("{}:{}", libc::major(device), libc::minor(device))
}

/// A line of `mountinfo`: id, parent, device, root, point, options, optional fields, `-`, kind, source, options.
fn parse_mount(line: &str) -> Option<Mount> {
    let (place, file_system) = line.split_once(" - ")?;
    let mut place = place.split(' ').skip(2);
    let (device, point) = (place.next()?, place.nth(1)?);
    let mut file_system = file_system.splitn(3, ' ');
    let (kind, source) = (file_system.next()?, file_system.next()?);
    let options = file_system.next().unwrap_or("");
    Some(Mount {
        point: PathBuf::from(unescape(point)),
        kind: kind.to_owned(),
        device: device.to_owned(),
        source: unescape(source),
        options: unescape(options),
    })
}

/// The kernel writes blanks, tabs, newlines and backslashes of names as octal numbers.
#[must_use]
pub(crate) fn unescape(text: &str) -> String {
    let replaced = text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n");
    replaced.replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A tree in which `sys/dev/block/M:m` leads to `sys/devices/NAME`, as the kernel lays it out.
    struct Host(tempfile::TempDir);

    impl Host {
        fn new(mounts: &str) -> Self {
            let host = Self(tempfile::tempdir().unwrap());
            host.write("proc/self/mountinfo", mounts);
            host
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn device(&self, number: &str, place: &str) {
            self.write(&format!("sys/devices/{place}/dev"), &format!("{number}\n"));
            let links = self.0.path().join("sys/dev/block");
            fs::create_dir_all(&links).unwrap();
            symlink(self.0.path().join("sys/devices").join(place), links.join(number)).unwrap();
        }

        fn slave(&self, of: &str, slave: &str) {
            let slaves = self.0.path().join("sys/devices").join(of).join("slaves");
            fs::create_dir_all(&slaves).unwrap();
            symlink(self.0.path().join("sys/devices").join(slave), slaves.join(slave)).unwrap();
        }

        fn media(&self) -> Media {
            Media { root: self.0.path().to_owned() }
        }

        /// The only mount.
        fn memory(&self) -> Option<String> {
            let media = self.media();
            let mounts = media.mounts().unwrap();
            media.memory_of_mount(&mounts[0], 0)
        }
    }

    fn mounted(device: &str, kind: &str, rest: &str) -> String {
        format!("36 35 {device} / /mnt/a\\040b rw,noatime shared:1 - {kind} {rest}\n")
    }

    #[test]
    fn a_mount_is_read_as_the_kernel_writes_it() {
        let host = Host::new(&mounted("98:0", "ext3", "/dev/root rw,errors=continue"));
        let mounts = host.media().mounts().unwrap();
        assert_eq!(mounts[0].point, Path::new("/mnt/a b"));
        assert_eq!((mounts[0].kind.as_str(), mounts[0].device.as_str()), ("ext3", "98:0"));
        assert_eq!(mounts[0].options, "rw,errors=continue");
    }

    #[test]
    fn file_systems_in_memory_are_memory() {
        for kind in MEMORY_FILE_SYSTEMS {
            let host = Host::new(&mounted("0:24", kind, "none rw"));
            let why = host.memory().expect(kind);
            assert_eq!(why, format!("{kind}, mounted at /mnt/a b, is memory"));
        }
        assert_eq!(Host::new(&mounted("0:24", "nfs4", "server:/x rw")).memory(), None);
    }

    #[test]
    fn devices_in_memory_are_found_below_what_is_on_them() {
        let host = Host::new(&mounted("253:1", "ext4", "/dev/mapper/b rw"));
        host.device("259:0", "nvme0n1");
        host.device("253:0", "dm-0");
        host.device("253:1", "dm-1");
        host.slave("dm-0", "nvme0n1");
        host.slave("dm-1", "dm-0");
        assert_eq!(host.memory(), None, "device-mapper over NVMe");
        host.device("254:0", "zram0");
        host.slave("dm-0", "zram0");
        let why = host.memory().expect("one of its legs is memory");
        assert_eq!(why, "dm-1 is on dm-0: dm-0 is on zram0: zram0 is compressed memory");
        let media = host.media();
        host.device("1:3", "ram3");
        host.device("259:9", "ram3/ram3p1");
        host.write("sys/devices/ram3/ram3p1/partition", "1\n");
        assert_eq!(media.memory_of_device("259:9", 0).unwrap(), "ram3 is a RAM disk");
        host.device("8:0", "sda");
        host.write("sys/devices/sda/device/model", "scsi_debug      \n");
        assert!(media.memory_of_device("8:0", 0).unwrap().contains("scsi_debug"));
        host.device("8:16", "ramsan");
        assert_eq!(media.memory_of_device("8:16", 0), None, "a name that only begins so");
    }

    #[test]
    fn a_loop_device_and_an_overlay_are_what_they_lead_to() {
        let memory = Path::new("/dev/shm");
        let media = Media::default();
        if media.memory(memory).is_none() {
            return; // No memory is mounted there.
        }
        let mount = |options: &str| mounted("0:60", "overlay", &format!("overlay rw,{options}"));
        let mut host = Host::new(&mount("lowerdir=/a,upperdir=/dev/shm,workdir=/b"));
        let real = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let own = fs::read_to_string(host.0.path().join("proc/self/mountinfo")).unwrap();
        host.write("proc/self/mountinfo", &format!("{own}{real}"));
        let why = host.memory().expect("it writes to memory");
        assert!(why.starts_with("the overlay at /mnt/a b writes to /dev/shm: tmpfs"), "{why}");
        host = Host::new(&real);
        host.device("7:0", "loop0");
        let file = tempfile::NamedTempFile::new_in(memory).unwrap();
        host.write("sys/devices/loop0/loop/backing_file", &format!("{}\n", file.path().display()));
        let why = host.media().memory_of_device("7:0", 0).expect("its file is in memory");
        assert!(why.starts_with("loop0 is the file /dev/shm/"), "{why}");
    }
}
