//! An NVMe target of SPDK's, where it is installed.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test uses its part, ends where something fails, and says what it skips"
)]

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// Stops the target when the test that started it ($1) is gone, also when that was killed.
const GUARD: &str =
    "trap '' INT TERM HUP; tail --pid=$1 -f /dev/null; exec \"$2\" stop --instance \"$3\"";
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/nvme-target");

/// Runs the test `role` of this file in a network namespace of its own, where `BUSLANE_TEST_ROLE` says that it is meant.
pub(crate) fn plays_its_role_in_a_network_of_its_own() {
    let mut child = crate::common::tied("unshare")
        .arg("-n")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "role", "--nocapture"])
        .env("BUSLANE_TEST_ROLE", "1")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    assert!(crate::common::wait(&mut child, crate::common::PATIENCE).success());
}

/// A target that is stopped when it goes out of scope.
pub(crate) struct Target {
    instance: String,
    arguments: Vec<String>,
    /// One target at a time: each spins on a core.
    _turn: File,
    guard: Child,
    /// Its transport id.
    pub(crate) id: String,
}

impl Target {
    /// Starts one, told by `arguments` of `scripts/nvme-target start`; `None`, said aloud, where there is no
    /// SPDK.
    pub(crate) fn start(instance: &str, arguments: &[&str]) -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        if !std::env::split_paths(&path).any(|dir| dir.join("nvmf_tgt").exists()) {
            println!("SKIPPED: SPDK not found: nvmf_tgt is not on PATH");
            return None;
        }
        let turn = File::create(concat!(env!("CARGO_TARGET_TMPDIR"), "/nvme-target.lock")).unwrap();
        turn.lock().unwrap();
        let instance = format!("{instance}-{}", std::process::id());
        let arguments = arguments.iter().map(ToString::to_string).collect();
        let pid = std::process::id().to_string();
        let guard = ["-c", GUARD, "guard", &pid, SCRIPT, &instance];
        let guard = Command::new("sh").args(guard).spawn().unwrap();
        let mut target = Self { instance, arguments, _turn: turn, guard, id: String::new() };
        target.id = target.start_again();
        Some(target)
    }

    /// How its namespace is opened as a disk.
    #[cfg(feature = "spdk")]
    pub(crate) fn config(&self) -> buslane::disk::spdk::SpdkConfig {
        buslane::disk::spdk::SpdkConfig {
            transport_id: self.id.clone(),
            huge_memory_mib: 128,
            timeout_ms: 2_000,
            identity: String::new(),
            write_cache_off: false,
            power_loss_protected: Vec::new(),
            accept_volatile: true,
            read_only: false,
        }
    }

    /// Starts it again after [`Target::kill`]; returns its transport id.
    pub(crate) fn start_again(&self) -> String {
        let output = self.script("start", &self.arguments);
        assert!(
            output.status.success(),
            "nvme-target: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// SIGKILL, at once.
    pub(crate) fn kill(&self) {
        let pid = self.signal("KILL");
        // It holds huge pages and a socket until it is gone.
        while Path::new(&format!("/proc/{pid}/exe")).read_link().is_ok() {
            std::hint::spin_loop();
        }
    }

    /// Sends it a signal; returns its process id.
    pub(crate) fn signal(&self, name: &str) -> i32 {
        let pid = String::from_utf8(self.script("pid", &[]).stdout).unwrap();
        let pid: i32 = pid.trim().parse().unwrap();
        let sent = Command::new("kill").args(["-s", name, &pid.to_string()]).status().unwrap();
        assert!(sent.success());
        pid
    }

    /// The next `count` writes of an error bdev fail.
    pub(crate) fn fail_writes(&self, count: u32) {
        let output = self.script("fail", &["--count".into(), count.to_string()]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// The namespace goes, `remove`, or comes back, `add`.
    pub(crate) fn namespace(&self, action: &str) {
        let output = self.script(action, &[]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn script(&self, action: &str, arguments: &[String]) -> Output {
        Command::new(SCRIPT)
            .arg(action)
            .args(["--instance", &self.instance])
            .args(arguments)
            .output()
            .unwrap()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.script("stop", &[]);
        let _ = self.guard.kill();
        let _ = self.guard.wait();
    }
}
