//! The appliance over DPDK shared memory: published, killed, started again, consumed; nothing lost, nothing
//! twice; whoever calls its socket, however, and goes away. Needs neither privileges nor huge pages nor a NIC.
#![cfg(feature = "dpdk")]
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "drives real processes in real time"
)]

mod common;

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use common::{Running, itch_messages, order_flow, wait};

fn command(dir: &Path, args: &[&str], shards: u32) -> Command {
    let mut command = common::buslane();
    command.args(args).args(["--profile", "memif"]);
    let instance = format!("instance=test-{}-{shards}", std::process::id());
    let path = format!("disk.path={}", dir.join("memif.log").display());
    let shards = format!("shard.count={shards}");
    for setting in [&instance, &path, &shards, "disk.size=64MiB", "disk.segment=1MiB"] {
        command.args(["--set", setting]);
    }
    command
}

fn serve(dir: &Path, shards: u32) -> Running {
    let mut command = command(dir, &["serve"], shards);
    if shards > 1 {
        // With the client, they are more than two cores.
        command.args(["--set", "shard.core=none"]);
    }
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let child = Running(child);
    let mut said = String::new();
    loop {
        let mut line = String::new();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "not ready:\n{said}");
        if line.starts_with("ready") {
            break;
        }
        said.push_str(&line);
    }
    // Nobody reads on: what it says later must not stop it.
    thread::spawn(move || while stderr.read_line(&mut said).is_ok_and(|read| read > 0) {});
    child
}

/// How many messages were taken from publishers since the appliance started.
fn messages_taken(dir: &Path, shards: u32) -> u64 {
    let output = command(dir, &["stat", "-o", "json"], shards).output().unwrap();
    let stat = serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap_or_default();
    let accepted = |shard| stat["shards"][shard]["counters"]["messages_accepted"].as_u64();
    (0..shards as usize).filter_map(accepted).sum()
}

/// Waits until a publisher, which is not to end before, has more messages taken than there were.
fn wait_for_messages(dir: &Path, shards: u32, before: u64, publisher: &mut Running) {
    while messages_taken(dir, shards) <= before {
        assert!(publisher.0.try_wait().unwrap().is_none(), "the publisher gave up");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Publishes an order flow to a stream of the last shard while the appliance is killed, and reads it back.
fn order_flow_survives_kills(shards: u32) {
    let _turn = common::turn();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let dir = dir.path();
    let flow = order_flow(dir);
    let mut server = serve(dir, shards);
    let last = (shards - 1).to_string();
    let create = ["stream", "create", "orders", "--shard", &last];
    assert!(command(dir, &create, shards).status().unwrap().success());
    let itch = ["publish", "orders", "--rate", "4000", "--itch", flow.to_str().unwrap()];
    let mut publisher = Running(command(dir, &itch, shards).spawn().unwrap());
    // A publisher that only starts is not what is to be tried.
    wait_for_messages(dir, shards, 0, &mut publisher);
    for _ in 0..3 {
        thread::sleep(Duration::from_millis(700));
        drop(server);
        server = serve(dir, shards);
    }
    assert!(wait(&mut publisher.0, common::PATIENCE).success());
    let consume = ["consume", "orders", "-o", "raw"];
    let consumed = command(dir, &consume, shards).output().unwrap();
    assert!(consumed.status.success(), "{}", common::text(&consumed));
    drop(server);
    let messages = itch_messages(&flow);
    assert!(consumed.stdout == messages.concat(), "lost, doubled or reordered");
    println!("memif: {shards} shards, 3 kills, {} messages, lost 0 duplicated 0", messages.len());
}

/// Connects to a socket of sequenced packets, which the standard library does not know.
#[allow(unsafe_code, reason = "two system calls; what they return is owned at once")]
fn call(path: &Path) -> UnixStream {
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    use std::os::unix::ffi::OsStrExt;

    // SAFETY: takes integers only.
    let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0) };
    assert!(fd >= 0, "{}", io::Error::last_os_error());
    // SAFETY: just made, and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let family = u16::try_from(libc::AF_UNIX).unwrap();
    let mut address = libc::sockaddr_un { sun_family: family, sun_path: [0; 108] };
    for (to, from) in address.sun_path.iter_mut().zip(path.as_os_str().as_bytes()) {
        *to = from.cast_signed();
    }
    let bytes = u32::try_from(size_of_val(&address)).unwrap();
    // SAFETY: an address of that many bytes, which lives through the call.
    let result = unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), bytes) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    UnixStream::from(socket)
}

/// Says something with two descriptors, or one.
#[allow(unsafe_code, reason = "a system call; the standard library passes no descriptors")]
fn pass(to: &UnixStream, message: &mut [u8], file: &File, count: u64) {
    use std::os::fd::AsRawFd;

    let fd = u64::try_from(file.as_raw_fd()).unwrap();
    let rights =
        u64::try_from(libc::SOL_SOCKET).unwrap() | u64::try_from(libc::SCM_RIGHTS).unwrap() << 32;
    // As it is on machines of 64 bits.
    let mut control = [16 + 4 * count, rights, fd | fd << 32];
    let mut part = libc::iovec { iov_base: message.as_mut_ptr().cast(), iov_len: message.len() };
    let header = libc::msghdr {
        msg_name: std::ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: &raw mut part,
        msg_iovlen: 1,
        msg_control: control.as_mut_ptr().cast(),
        msg_controllen: size_of_val(&control),
        msg_flags: 0,
    };
    // SAFETY: all it points to lives through the call.
    let sent = unsafe { libc::sendmsg(to.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) };
    assert!(sent > 0, "{}", io::Error::last_os_error());
}

/// Descriptors that a process has open.
fn descriptors(process: &Running) -> usize {
    fs::read_dir(format!("/proc/{}/fd", process.0.id())).unwrap().count()
}

/// Is let in, announces a region with a descriptor or two, and is gone.
fn announce_and_go(mut caller: UnixStream, memory: &File, count: u64) {
    let mut message = [0; 128];
    message[0] = 4;
    message[4..12].copy_from_slice(&memory.metadata().unwrap().len().to_le_bytes());
    pass(&caller, &mut message, memory, count);
    caller.read_exact(&mut message).unwrap();
    assert_eq!(message[0], if count == 1 { 1 } else { 8 });
}

/// Calls the server in a way of nine; one that hangs on is returned.
fn call_badly(path: &Path, way: usize, memory: &File) -> Option<UnixStream> {
    let mut caller = call(path);
    let init = |version: u8| {
        let mut message = [0_u8; 128];
        (message[0], message[3]) = (3, version);
        message
    };
    // It may hang up on nonsense before all of it is said.
    let mut say = |message: &[u8]| drop(caller.write(message));
    match way {
        0 => {}
        1 => say(&[1; 10]),
        2 => say(&[0xff; 128]),
        3 => say(&init(1)),
        4 => say(&init(2)),
        5..=7 => {
            say(&init(2));
            let mut message = [0; 128];
            // Its greeting, and that it takes us.
            for expected in [2, 1] {
                caller.read_exact(&mut message).unwrap();
                assert_eq!(message[0], expected);
            }
            if way > 5 {
                announce_and_go(caller, memory, way as u64 - 5);
            }
        }
        _ => return Some(caller),
    }
    None
}

#[test]
fn whoever_calls_the_socket_and_goes_away_does_no_harm() {
    let _turn = common::turn();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let dir = dir.path();
    let mut server = serve(dir, 1);
    let runtime = common::runtime();
    let socket = runtime.join(format!("memif-test-{}-1.sock", std::process::id()));
    let memory = tempfile::tempfile().unwrap();
    memory.set_len(65_536).unwrap();
    let before = descriptors(&server);
    let mut silent = Vec::new();
    for call in 0..500 {
        silent.extend(call_badly(&socket, call % 9, &memory));
        assert!(server.0.try_wait().unwrap().is_none(), "ended at call {call}");
    }
    let create = ["stream", "create", "orders"];
    assert!(command(dir, &create, 1).status().unwrap().success());
    // Clients that are killed wherever they are.
    let flow = order_flow(dir);
    let publish = ["publish", "orders", "--rate", "10k", "-q", "--itch", flow.to_str().unwrap()];
    // However many messages a fast machine stores until a kill: the next publisher finds room.
    let trim = ["stream", "trim", "orders", "--keep", "0", "--yes"];
    let kills = std::env::var("BUSLANE_TORTURE_ROUNDS").map_or(20, |_| 100);
    for at in 0..kills {
        let before = messages_taken(dir, 1);
        let mut publisher = Running(command(dir, &publish, 1).spawn().unwrap());
        // Half of them while they publish, the others wherever they are.
        if at % 2 == 0 {
            wait_for_messages(dir, 1, before, &mut publisher);
        }
        thread::sleep(Duration::from_millis(50 + at * 37 % 600));
        drop(publisher);
        assert!(server.0.try_wait().unwrap().is_none(), "ended at kill {at}");
        assert!(command(dir, &trim, 1).status().unwrap().success());
    }
    drop(silent);
    let create = ["stream", "create", "trades"];
    assert!(command(dir, &create, 1).status().unwrap().success());
    common::wait_until("what callers have passed is closed", || descriptors(&server) <= before);
    drop(server);
    println!("memif: 500 calls of nine kinds and {kills} clients killed");
}

#[test]
fn an_order_flow_over_shared_memory_survives_kills() {
    order_flow_survives_kills(1);
}

#[test]
fn a_memif_serves_two_shards_by_way_of_the_first() {
    order_flow_survives_kills(2);
}
