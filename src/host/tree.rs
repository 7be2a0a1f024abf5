//! What the kernel says in `/proc` and `/sys`, below a root: `/`, or a directory with a captured copy.
//!
//! Whatever cannot be read is `None`, be it missing or forbidden: a virtual machine lacks many of these
//! files, and a check that cannot see must say so, not guess. Paths are relative to the root.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// A root with `proc`, `sys`, `dev` and `etc` below it.
#[derive(Clone, Debug)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// The tree below `root`; `/` is the host itself.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Whether this is the running host, so that things can be measured, not only read.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.root == Path::new("/")
    }

    /// The directory it is in.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where `path` really is.
    #[must_use]
    pub fn real(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The text of a file, without white space around it.
    #[must_use]
    pub fn text(&self, path: &str) -> Option<String> {
        let bytes = fs::read(self.real(path)).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// The bytes of a file.
    #[must_use]
    pub fn bytes(&self, path: &str) -> Option<Vec<u8>> {
        fs::read(self.real(path)).ok()
    }

    /// A file that holds one number.
    #[must_use]
    pub fn number(&self, path: &str) -> Option<i64> {
        self.text(path)?.parse().ok()
    }

    /// A file that holds a list of processors, as in `0-3,8`.
    #[must_use]
    pub fn cpus(&self, path: &str) -> Option<CpuSet> {
        CpuSet::parse(&self.text(path)?)
    }

    /// A file that holds a list of words, the chosen one in brackets: the chosen one.
    #[must_use]
    pub fn chosen(&self, path: &str) -> Option<String> {
        Some(chosen(&self.text(path)?).to_owned())
    }

    /// The names in a directory, in order, without hidden ones, which keep empty directories of a captured
    /// tree; `None` where there is no such directory.
    #[must_use]
    pub fn names(&self, path: &str) -> Option<Vec<String>> {
        let entries = fs::read_dir(self.real(path)).ok()?;
        let mut names: Vec<String> =
            entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.retain(|name| !name.starts_with('.'));
        names.sort_unstable();
        Some(names)
    }

    /// The numbers in a directory of names such as `cpu0`, `node1` or, without a prefix, `123`; ascending.
    #[must_use]
    pub fn numbered(&self, path: &str, prefix: &str) -> Option<Vec<usize>> {
        let names = self.names(path)?;
        let number = |name: &String| name.strip_prefix(prefix)?.parse().ok();
        let mut numbers: Vec<usize> = names.iter().filter_map(number).collect();
        numbers.sort_unstable();
        Some(numbers)
    }

    /// The last name of what a link points to, as in `driver -> ../../drivers/vfio-pci`.
    #[must_use]
    pub fn link_name(&self, path: &str) -> Option<String> {
        let target = fs::read_link(self.real(path)).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }

    /// Whether there is such a file or directory.
    #[must_use]
    pub fn exists(&self, path: &str) -> bool {
        self.real(path).exists()
    }

    /// The PCI device a device directory or a link to one belongs to: the last address in its real path.
    #[must_use]
    pub fn pci_of(&self, path: &str) -> Option<String> {
        let real = self.real(path);
        let target = fs::canonicalize(&real).or_else(|_| fs::read_link(&real)).ok()?;
        let names = target.components().rev();
        let mut names = names.filter_map(|name| name.as_os_str().to_str());
        names.find(|name| is_pci_address(name)).map(str::to_owned)
    }
}

/// The word in brackets of `always [madvise] never`, or all of it where there are none.
#[must_use]
pub(crate) fn chosen(text: &str) -> &str {
    let inner = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    inner.map_or(text, |(word, _)| word)
}

/// Whether `text` is a full PCI address: `0000:41:00.0`.
#[must_use]
pub(crate) fn is_pci_address(text: &str) -> bool {
    let hex = |part: &str, digits: usize| {
        part.len() == digits && part.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let parts: Vec<&str> = text.split([':', '.']).collect();
    let [domain, bus, device, function] = parts[..] else {
        return false;
    };
    text.as_bytes().iter().filter(|byte| **byte == b':').count() == 2
        && (4..=8).contains(&domain.len())
        && hex(domain, domain.len())
        && hex(bus, 2)
        && hex(device, 2)
        && hex(function, 1)
}

/// A set of processors, written as the kernel writes it: `0-3,8`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CpuSet(BTreeSet<usize>);

/// Processors a kernel can have; a list with more is no list.
const CPUS_MAX: usize = 8192;

impl CpuSet {
    /// Reads `0-3,8`; nothing, and `(null)`, is the empty set.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let mut set = BTreeSet::new();
        if text.is_empty() || text == "(null)" {
            return Some(Self(set));
        }
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first: usize = first.trim().parse().ok()?;
            let last: usize = last.trim().parse().ok()?;
            if last < first || last >= CPUS_MAX {
                return None;
            }
            set.extend(first..=last);
        }
        Some(Self(set))
    }

    /// Reads a mask in hexadecimal, as in `ff` or `1,00000000`.
    #[must_use]
    pub fn parse_mask(text: &str) -> Option<Self> {
        let digits: Vec<u32> = text
            .trim()
            .chars()
            .filter(|c| *c != ',')
            .map(|c| c.to_digit(16))
            .collect::<Option<_>>()?;
        if digits.is_empty() || digits.len() * 4 > CPUS_MAX {
            return None;
        }
        let bits = digits.iter().rev().enumerate().flat_map(|(at, digit)| {
            (0..4).filter(move |bit| digit >> bit & 1 == 1).map(move |bit| at * 4 + bit)
        });
        Some(Self(bits.collect()))
    }

    /// Writes it as a mask in hexadecimal, in groups of 32 processors.
    #[must_use]
    pub fn mask(&self) -> String {
        let last = self.0.last().copied().unwrap_or(0);
        let mut groups = vec![0u32; last / 32 + 1];
        for cpu in &self.0 {
            groups[cpu / 32] |= 1 << (cpu % 32);
        }
        let mut text = String::new();
        for group in groups.iter().rev() {
            if text.is_empty() {
                text = format!("{group:x}");
            } else {
                text.push_str(&format!(",{group:08x}"));
            }
        }
        text
    }

    /// Whether `cpu` is in it.
    #[must_use]
    pub fn contains(&self, cpu: usize) -> bool {
        self.0.contains(&cpu)
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many are in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Those in it, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().copied()
    }

    /// Those that are not in `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        Self(self.0.difference(&other.0).copied().collect())
    }

    /// Those in both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self(self.0.intersection(&other.0).copied().collect())
    }

    /// Those in either.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        Self(self.0.union(&other.0).copied().collect())
    }
}

impl FromIterator<usize> for CpuSet {
    fn from_iter<I: IntoIterator<Item = usize>>(cpus: I) -> Self {
        Self(cpus.into_iter().collect())
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.0.iter().copied().peekable();
        let mut comma = "";
        while let Some(first) = cpus.next() {
            let mut last = first;
            while cpus.peek() == Some(&(last + 1)) {
                last = cpus.next().expect("peeked");
            }
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
            comma = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors() {
        for (text, cpus) in [
            ("", &[][..]),
            ("(null)", &[]),
            ("3", &[3]),
            ("0-2,5\n", &[0, 1, 2, 5]),
            ("7,1", &[1, 7]),
        ] {
            assert_eq!(CpuSet::parse(text), Some(cpus.iter().copied().collect()), "{text}");
        }
        for bad in ["a", "1-", "3-1", "-1", "1,,2", "0-99999999"] {
            assert_eq!(CpuSet::parse(bad), None, "{bad}");
        }
        assert_eq!(CpuSet::parse("0,1,2,5,7,8").unwrap().to_string(), "0-2,5,7-8");
        assert_eq!(CpuSet::default().to_string(), "");
    }

    #[test]
    fn masks_of_processors() {
        for (mask, list) in [("3", "0-1"), ("f0", "4-7"), ("1,00000000", "32"), ("0", "")] {
            let set = CpuSet::parse_mask(mask).unwrap();
            assert_eq!(set.to_string(), list);
            assert_eq!(set.mask(), mask);
        }
        assert_eq!(CpuSet::parse_mask("00000000,0000000f").unwrap().mask(), "f");
        assert_eq!(CpuSet::parse_mask("xyz"), None);
        assert_eq!(CpuSet::parse_mask(""), None);
    }

    #[test]
    fn pci_addresses() {
        for good in ["0000:41:00.0", "10000:e1:00.1"] {
            assert!(is_pci_address(good), "{good}");
        }
        for bad in ["41:00.0", "0000:41:00", "0000.41.00.0", "0000:41:0g.0", "net_memif0", ""] {
            assert!(!is_pci_address(bad), "{bad}");
        }
    }

    #[test]
    fn what_is_not_there_is_not_known() {
        let place = tempfile::tempdir().unwrap();
        let tree = Tree::new(place.path());
        assert_eq!(tree.text("proc/nothing"), None);
        assert_eq!(tree.names("sys"), None);
        fs::create_dir_all(place.path().join("sys/cpu12")).unwrap();
        fs::create_dir_all(place.path().join("sys/cpu2")).unwrap();
        fs::create_dir_all(place.path().join("sys/cpufreq")).unwrap();
        assert_eq!(tree.numbered("sys", "cpu"), Some(vec![2, 12]));
        fs::write(place.path().join("sys/thp"), "always [madvise] never\n").unwrap();
        assert_eq!(tree.chosen("sys/thp").as_deref(), Some("madvise"));
        assert_eq!(tree.chosen("/sys/thp").as_deref(), Some("madvise"), "absolute is relative");
        let link = place.path().join("sys/device");
        std::os::unix::fs::symlink("../devices/pci0000:40/0000:41:00.0/virtio1", link).unwrap();
        assert_eq!(tree.pci_of("sys/device").as_deref(), Some("0000:41:00.0"));
        assert_eq!(tree.link_name("sys/device").as_deref(), Some("virtio1"));
    }
}
