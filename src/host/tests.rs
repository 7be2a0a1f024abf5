//! Checks on captured trees that are damaged: files missing, files full of nonsense. None may crash, and
//! none may pass for what it cannot see.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::host::needs::{Named, Tolerance};

fn needs() -> Needs {
    let named = |key: &str, value: &str| Named { key: key.to_owned(), value: value.to_owned() };
    Needs {
        profile: "test".into(),
        shards: vec![Named { key: "shard.core".into(), value: 2 }],
        nics: vec![named("port.dpdk.device", "0000:b1:00.0")],
        nvmes: vec![named("disk.path", "0000:65:00.0")],
        address: Some(std::net::Ipv4Addr::new(192, 168, 1, 7)),
        datagram_bytes: 8972,
        disk_path: Some("/var/lib/buslane/orders.log".into()),
        disk_bytes: 1 << 30,
        hugepage_bytes: Some(2 << 30),
        tolerance: Tolerance { jitter_us_max: 50, clock_us_max: 1000 },
        ..Needs::default()
    }
}

/// Copies a tree, links as links; returns its files.
fn copy(from: &Path, to: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (kind, to) = (entry.file_type().unwrap(), to.join(entry.file_name()));
        if kind.is_dir() {
            fs::create_dir(&to).unwrap();
            copy(&entry.path(), &to, files);
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(entry.path()).unwrap(), &to).unwrap();
        } else {
            fs::copy(entry.path(), &to).unwrap();
            files.push(to);
        }
    }
}

/// Where every core is a shard's, nothing can be moved elsewhere, and no mend pretends to.
#[test]
fn where_no_core_is_left_that_is_said() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/host/bare-metal-untuned");
    let tree = Tree::new(&root);
    let all = Topology::read(&tree).online();
    let shards = all.iter().map(|value| Named { key: "shard.cores".into(), value }).collect();
    let findings = check(&tree, &Needs { shards, ..needs() }, None);
    for id in ["irq.affinity", "cpu.isolated"] {
        let finding = findings.iter().find(|finding| finding.id == id).unwrap();
        assert!(finding.status.is_bad(), "{finding:?}");
        assert!(finding.mend.knobs.is_empty() && finding.mend.boot.is_empty(), "{finding:?}");
        assert!(finding.mend.command.contains("no core is left"), "{finding:?}");
    }
    // A profile for gateways on other hosts does not bind their clients to this one.
    assert!(profile::new(&tree, "x").contains("[client.port]\n# Any address"));
}

#[test]
fn a_damaged_tree_crashes_nothing() {
    for name in ["bare-metal-tuned", "bare-metal-untuned", "cloud-vm"] {
        let place = tempfile::tempdir().unwrap();
        let mut files = Vec::new();
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/host").join(name);
        copy(&from, place.path(), &mut files);
        let tree = Tree::new(place.path());
        let ask = || {
            let findings = check(&tree, &needs(), None);
            assert_eq!(findings.len(), CATALOGUE.len());
            let _ = tune::plan(&tree, &findings).script("test");
            let _ = profile::new(&tree, "test");
            let _ = needs().check_placement(&Topology::read(&tree), &|key| key.to_owned());
        };
        for nonsense in ["", "\n", "-1", "99999999999999999999", "a b,c-d:[e", "0-8191", "\u{fffd}"]
        {
            for file in &files {
                fs::write(file, nonsense).unwrap();
            }
            ask();
        }
        // One file after another goes.
        for (at, file) in files.iter().enumerate() {
            fs::remove_file(file).unwrap();
            if at % 16 == 0 {
                ask();
            }
        }
        ask();
    }
}

#[test]
fn nothing_passes_that_cannot_be_seen() {
    let place = tempfile::tempdir().unwrap();
    for finding in check(&Tree::new(place.path()), &needs(), None) {
        assert_eq!(finding.status, Status::Unknown, "{finding:?}");
    }
}

/// With `hidepid` a process sees itself only: that nobody else is seen says nothing.
#[test]
fn hidden_processes_are_not_absent_ones() {
    let place = tempfile::tempdir().unwrap();
    let task = place.path().join("proc/4711/task/4711");
    fs::create_dir_all(&task).unwrap();
    fs::write(place.path().join("proc/4711/comm"), "buslane\n").unwrap();
    fs::write(task.join("status"), "Name:\tbuslane\nCpus_allowed_list:\t0-3\n").unwrap();
    let wanted = |id: &str| ["irq.balance", "cpu.affinity", "time.sync"].contains(&id);
    let tree = Tree::new(place.path());
    for finding in check_some(&tree, &needs(), None, &wanted) {
        assert_eq!(finding.status, Status::Unknown, "{finding:?}");
    }
}

#[test]
fn ids_are_words_of_their_own_and_say_why() {
    for (at, item) in CATALOGUE.iter().enumerate() {
        let plain = |c: char| c.is_ascii_lowercase() || c == '.' || c == '_';
        assert!(item.id.chars().all(plain), "{item:?}");
        assert!(CATALOGUE[..at].iter().all(|other| other.id != item.id), "{item:?} is there twice");
        assert!(!item.why.is_empty() && !item.place.is_empty(), "{item:?}");
    }
    let text = include_str!("../../docs/host.md");
    for item in CATALOGUE {
        assert!(text.contains(&format!("`{}`", item.id)), "docs/host.md does not name {}", item.id);
    }
}

#[test]
fn a_required_check_is_one_line_with_all_that_is_to_be_known() {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir_all(place.path().join("sys/kernel/mm/transparent_hugepage")).unwrap();
    let path = place.path().join("sys/kernel/mm/transparent_hugepage/enabled");
    fs::write(&path, "[always] never\n").unwrap();
    let tree = Tree::new(place.path());
    let required = |ids: &[&str]| {
        let require = ids.iter().map(ToString::to_string).collect();
        let needs = Needs { require, ..needs() };
        check_required(&tree, &needs, "x.toml:9").err().map(|error| error.to_string())
    };
    assert_eq!(
        required(&["thp", "numa.balancing"]).unwrap(),
        "x.toml:9: required check thp is WARN: /sys/kernel/mm/transparent_hugepage/enabled: wanted \
         never, found always; mend: echo never > /sys/kernel/mm/transparent_hugepage/enabled\n\
         error: x.toml:9: required check numa.balancing is UNKNOWN: \
         /proc/sys/kernel/numa_balancing: wanted 0, found the kernel has no such setting, or it \
         cannot be read; mend: take numa.balancing out of host.require"
    );
    fs::write(&path, "always [never]\n").unwrap();
    assert_eq!(required(&["thp"]), None);
    assert_eq!(required(&[]), None);
}
