//! The other end of a benchmark: an appliance, or an echo, in a process of its own on the shard's core.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};

use super::CommandError;
use crate::cpu;
use crate::profile::{DiskDriver, PortDriver, Profile};

/// How often a run of free ports is looked for.
const PORT_TRIES: u32 = 64;

/// What the other end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A serving appliance.
    Serve,
    /// Sends back what it gets.
    Echo,
}

/// Starts processes that may run on every core, although the thread that measures is pinned to one: a
/// process gets the cores of the thread that starts it.
#[derive(Debug)]
pub(super) struct Spawner {
    commands: Sender<Command>,
    children: Receiver<io::Result<Child>>,
}

impl Spawner {
    /// To be made before the calling thread is pinned.
    #[allow(clippy::disallowed_methods, reason = "a thread that only starts processes")]
    pub(super) fn new() -> Self {
        let (commands, asked) = channel::<Command>();
        let (started, children) = channel();
        std::thread::spawn(move || {
            for mut command in asked {
                let child = cpu::keep_descriptors().and_then(|()| command.spawn());
                if started.send(child).is_err() {
                    return;
                }
            }
        });
        Self { commands, children }
    }

    fn spawn(&self, command: Command) -> io::Result<Child> {
        self.commands.send(command).map_err(|_| io::Error::other("the spawner ended"))?;
        self.children.recv().map_err(|_| io::Error::other("the spawner ended"))?
    }
}

/// A process that ends with this value.
#[derive(Debug)]
pub(super) struct OtherProcess {
    child: Child,
}

impl OtherProcess {
    /// Starts it, and waits until an appliance is ready.
    pub(super) fn start(
        spawner: &Spawner,
        role: Role,
        profile_name: &str,
        settings: &[String],
    ) -> Result<Self, CommandError> {
        let failed = |why: String| CommandError::Failed(format!("starting the other end: {why}"));
        let binary = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
        let mut command = Command::new(binary);
        command.args(match role {
            Role::Serve => &["serve"][..],
            Role::Echo => &["bench", "echo"][..],
        });
        command.args(["--profile", profile_name]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = spawner.spawn(command).map_err(|error| failed(error.to_string()))?;
        let mut stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        let mut said = String::new();
        loop {
            let mut line = String::new();
            let read = stderr.read_line(&mut line).map_err(|error| failed(error.to_string()))?;
            if line.starts_with("ready") {
                pass_on(stderr);
                return Ok(Self { child });
            }
            said.push_str(&line);
            if read == 0 {
                let _ = child.wait();
                return Err(failed(said.trim().to_owned()));
            }
        }
    }

    /// Resident memory in bytes, where the system tells.
    pub(super) fn resident_bytes(&self) -> Option<u64> {
        cpu::resident_bytes(self.child.id())
    }
}

/// Passes on what the other end says later: why it stopped acknowledging, say.
#[allow(clippy::disallowed_methods, reason = "a thread that waits for lines")]
fn pass_on(stderr: BufReader<ChildStderr>) {
    std::thread::spawn(move || {
        for line in stderr.lines().map_while(Result::ok) {
            // Where our own stderr is closed there is nobody to tell.
            let _ = writeln!(io::stderr(), "appliance: {line}");
        }
    });
}

impl Drop for OtherProcess {
    fn drop(&mut self) {
        // SIGKILL: the log's recovery is part of what is measured, and an echo has nothing to save.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Formats the namespace a profile names, in a process that is gone when this returns.
pub(super) fn format(
    spawner: &Spawner,
    profile: &Profile,
    profile_name: &str,
    settings: &[String],
) -> Result<(), CommandError> {
    let failed = |why: String| CommandError::Failed(format!("formatting the namespace: {why}"));
    let binary = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
    let mut command = Command::new(binary);
    command.args(["log", "format", "--force", &profile.disk.path, &profile.disk.path]);
    command.args(["--profile", profile_name]);
    for setting in settings {
        command.args(["--set", setting]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = spawner.spawn(command).map_err(|error| failed(error.to_string()))?;
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// The settings that keep a benchmark apart from appliances that run on the same host: an instance, a log
/// and, on kernel UDP, a port of its own.
pub(super) fn own_settings(profile: &Profile) -> Result<Vec<String>, CommandError> {
    let process = std::process::id();
    let mut settings = vec![format!("instance=bench-{process}")];
    // The instance may be part of the path; a namespace is the one that is named.
    let path = match profile.disk.driver {
        DiskDriver::Spdk => profile.disk.path.clone(),
        DiskDriver::Uring | DiskDriver::Ram => log_path(profile),
    };
    settings.push(format!("disk.path={path}"));
    if !profile.source.is_given("security.keys") {
        settings.push(format!("security.keys={}.keys", log_path(profile)));
    }
    if profile.port.driver == PortDriver::Udp {
        let free = free_address(profile)
            .map_err(|error| CommandError::Failed(format!("{}: {error}", profile.port.address)))?;
        settings.push(format!("port.address={free}"));
    }
    Ok(settings)
}

/// An address with a free port, and as many behind it as there are more shards.
fn free_address(profile: &Profile) -> io::Result<SocketAddr> {
    let ip = *profile.port.address.ip();
    let mut tries = 0;
    loop {
        let first = UdpSocket::bind(SocketAddrV4::new(ip, 0))?;
        let address = first.local_addr()?;
        let bind = |offset| {
            let port = address.port().checked_add(offset).ok_or(io::ErrorKind::AddrInUse)?;
            UdpSocket::bind(SocketAddrV4::new(ip, port)).map(|_| ())
        };
        let more = u16::try_from(profile.shard.count - 1).expect("few shards");
        match (1..=more).try_for_each(bind) {
            Ok(()) => return Ok(address),
            Err(_) if tries < PORT_TRIES => tries += 1,
            Err(error) => return Err(error),
        }
    }
}

/// The benchmark's log, beside the profile's.
pub(super) fn log_path(profile: &Profile) -> String {
    format!("{}.bench-{}", profile.disk.path, std::process::id())
}
