//! The kernel's UDP socket as a port: one `recvmmsg` a burst in, one `sendmmsg` a burst out.
//!
//! All buffers, headers and addresses are allocated when the port is opened, and the kernel copies
//! between them and its own. A send that may succeed later (`EAGAIN`, `ENOBUFS`) leaves the datagram
//! queued; one that never will (`EMSGSIZE`, no route, refused by a filter) drops it, counted, so that
//! it does not block those behind it.
//!
//! A port that listens on every address of its host answers from the one it was asked at: each datagram carries
//! that address as control data, in both directions. Datagrams that a link on the way cannot carry whole are cut
//! into fragments there: they do not ask for an error that many networks swallow.
#![allow(unsafe_code, reason = "socket calls and the buffers they fill")]

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use crate::ids::Peer;
use crate::limits::{DATAGRAM_BYTES_MAX, ERRORS_SKIPPED_MAX, RECEIVE_BURST, TRANSMIT_BURST};
use crate::port::{Port, PortCounters, PortError};

/// What is asked of the kernel for each direction. Without `CAP_NET_ADMIN` it grants `rmem_max`.
const SOCKET_BUFFER_BYTES: libc::c_int = 8 << 20;

const _: () = assert!(
    DATAGRAM_BYTES_MAX * (RECEIVE_BURST + TRANSMIT_BURST) < 1 << 20,
    "the buffers of a port stay below a megabyte"
);

/// A non-blocking kernel UDP socket.
#[derive(Debug)]
pub struct UdpPort {
    socket: OwnedFd,
    local: SocketAddrV4,
    datagram_bytes: usize,
    counters: PortCounters,
    receive: Burst,
    /// Slots of the last burst that hold a whole datagram.
    good: [usize; RECEIVE_BURST],
    received: usize,
    transmit: Burst,
    /// Queued datagrams: slots `head`, `head + 1`, ... modulo `TRANSMIT_BURST`.
    head: usize,
    queued: usize,
    reserved: bool,
}

/// The address of ours that a datagram came to or is to leave from, as the kernel wants it.
#[repr(C, align(8))]
struct Control {
    header: libc::cmsghdr,
    info: libc::in_pktinfo,
}

/// Size of [`Control`], as it is counted in a message header.
const CONTROL_BYTES: usize = {
    assert!(size_of::<Control>() == 32, "CMSG_SPACE of an in_pktinfo");
    32
};

/// What the kernel counts as its length: without what aligns the next.
const CONTROL_USED_BYTES: usize = size_of::<libc::cmsghdr>() + size_of::<libc::in_pktinfo>();

/// `slots` datagrams with what the kernel wants to know about each. The headers point into the other
/// four blocks, which are never moved nor resized after `new`.
struct Burst {
    headers: Box<[libc::mmsghdr]>,
    vectors: Box<[libc::iovec]>,
    addresses: Box<[libc::sockaddr_in]>,
    controls: Box<[Control]>,
    bytes: Box<[u8]>,
    datagram_bytes: usize,
}

impl std::fmt::Debug for Burst {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Burst")
            .field("slots", &self.headers.len())
            .field("datagram_bytes", &self.datagram_bytes)
            .finish_non_exhaustive()
    }
}

impl UdpPort {
    /// Binds to `addr` for datagrams of at most `datagram_bytes`; port 0 takes any free one, which
    /// `local` then tells.
    ///
    /// # Errors
    /// `PortError::Listen` when the address is in use, not of this host, or sockets are exhausted.
    ///
    /// # Panics
    /// When `datagram_bytes` is 0 or above `limits::DATAGRAM_BYTES_MAX`.
    pub fn open(addr: SocketAddrV4, datagram_bytes: usize) -> Result<Self, PortError> {
        assert!((1..=DATAGRAM_BYTES_MAX).contains(&datagram_bytes), "{datagram_bytes}");
        let listen = |source| PortError::Listen { addr, source };
        let socket = open_socket().map_err(listen)?;
        if addr.ip().is_unspecified() {
            set_option(&socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1).map_err(listen)?;
        }
        bind(&socket, addr).map_err(listen)?;
        let local = local_address(&socket).map_err(listen)?;
        Ok(Self {
            socket,
            local,
            datagram_bytes,
            counters: PortCounters::default(),
            receive: Burst::new(RECEIVE_BURST, datagram_bytes),
            good: [0; RECEIVE_BURST],
            received: 0,
            transmit: Burst::new(TRANSMIT_BURST, datagram_bytes),
            head: 0,
            queued: 0,
            reserved: false,
        })
    }

    /// Offers the queued slots `first..first + count`, which do not wrap; returns what the kernel took.
    fn send(&mut self, first: usize, count: usize) -> io::Result<usize> {
        assert!(count > 0 && first + count <= TRANSMIT_BURST);
        let headers = &mut self.transmit.headers[first..first + count];
        let count = u32::try_from(count).expect("at most TRANSMIT_BURST");
        // SAFETY: `headers` are `count` valid message headers; what they point at lives in the boxes
        // of `transmit`, and the kernel only reads it, during this call.
        let sent = unsafe {
            libc::sendmmsg(
                self.socket.as_raw_fd(),
                headers.as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    fn retire(&mut self, count: usize) {
        assert!(count <= self.queued, "{count} of {} retired", self.queued);
        self.head = (self.head + count) % TRANSMIT_BURST;
        self.queued -= count;
    }
}

impl Port for UdpPort {
    fn receive(&mut self) -> usize {
        self.received = 0;
        let mut taken = None;
        for _ in 0..ERRORS_SKIPPED_MAX {
            match self.receive.take(&self.socket) {
                Ok(count) => taken = Some(count),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(_) => {} // Nothing there, or a passing shortage: the next turn asks again.
            }
            break;
        }
        for slot in 0..taken.unwrap_or(0) {
            if self.receive.is_whole(slot) {
                self.good[self.received] = slot;
                self.received += 1;
            } else {
                self.counters.receive_dropped += 1;
            }
        }
        self.counters.received += u64::try_from(self.received).expect("at most a burst");
        self.received
    }

    fn datagram(&mut self, index: usize) -> (Peer, &mut [u8]) {
        assert!(index < self.received, "datagram {index} of {}", self.received);
        let slot = self.good[index];
        let peer = Peer::ip_only(self.receive.address(slot));
        (Peer { local: self.receive.local(slot), ..peer }, self.receive.payload_mut(slot))
    }

    fn reserve(&mut self, peer: Peer) -> Option<&mut [u8]> {
        if self.queued == TRANSMIT_BURST {
            return None;
        }
        let slot = (self.head + self.queued) % TRANSMIT_BURST;
        self.reserved = true;
        self.transmit.addresses[slot] = to_sockaddr(peer.addr);
        self.transmit.set_local(slot, peer.local);
        Some(self.transmit.room(slot))
    }

    fn commit(&mut self, len: usize) {
        assert!(mem::take(&mut self.reserved), "nothing is reserved");
        assert!(len <= self.datagram_bytes, "{len} of {} bytes", self.datagram_bytes);
        let slot = (self.head + self.queued) % TRANSMIT_BURST;
        self.transmit.vectors[slot].iov_len = len;
        self.queued += 1;
    }

    fn flush(&mut self) -> usize {
        let mut taken = 0;
        while self.queued > 0 {
            let count = self.queued.min(TRANSMIT_BURST - self.head);
            match self.send(self.head, count) {
                Ok(sent) => {
                    self.retire(sent);
                    taken += sent;
                }
                Err(error) => match sort_send_error(&error) {
                    SendError::Later => break,
                    SendError::Again => {}
                    SendError::Never => {
                        self.retire(1);
                        self.counters.transmit_dropped += 1;
                    }
                },
            }
        }
        self.counters.transmitted += u64::try_from(taken).expect("at most a burst");
        taken
    }

    fn resolve(&mut self, addr: SocketAddrV4) -> Option<Peer> {
        Some(Peer::ip_only(addr))
    }

    fn local(&self) -> SocketAddrV4 {
        self.local
    }

    fn datagram_bytes(&self) -> usize {
        self.datagram_bytes
    }

    fn counters(&self) -> PortCounters {
        self.counters
    }

    fn describe(&self) -> String {
        "kernel UDP".to_owned()
    }

    fn socket(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }
}

/// Descriptors waited for at once, at most.
const WAIT_FDS_MAX: usize = 2;

/// Sleeps in the kernel until one of `fds` can be read or is closed at its other end, a signal comes, or the
/// time is up. For those who may sleep: a shard never calls it.
///
/// # Errors
/// What the operating system said, but for signals.
///
/// # Panics
/// When more than two are to be waited for.
pub fn wait_readable(fds: &[BorrowedFd<'_>], most: Duration) -> io::Result<()> {
    wait(fds, libc::POLLIN, most)
}

/// The same until something can be written to `fd`.
///
/// # Errors
/// What the operating system said, but for signals.
pub fn wait_writable(fd: BorrowedFd<'_>, most: Duration) -> io::Result<()> {
    wait(&[fd], libc::POLLOUT, most)
}

fn wait(fds: &[BorrowedFd<'_>], events: libc::c_short, most: Duration) -> io::Result<()> {
    let mut polled = [libc::pollfd { fd: -1, events, revents: 0 }; WAIT_FDS_MAX];
    for (entry, fd) in polled[..fds.len()].iter_mut().zip(fds) {
        entry.fd = fd.as_raw_fd();
    }
    let most = libc::timespec {
        tv_sec: libc::time_t::try_from(most.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: most.subsec_nanos().into(),
    };
    let count = libc::nfds_t::try_from(fds.len()).expect("two at most");
    // SAFETY: `polled` has at least `count` entries; it, `most` and the descriptors live through the call.
    let ready =
        unsafe { libc::ppoll(polled.as_mut_ptr(), count, &raw const most, std::ptr::null()) };
    match ready {
        0.. => Ok(()),
        _ => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            error => Err(error),
        },
    }
}

impl Burst {
    fn new(slots: usize, datagram_bytes: usize) -> Self {
        let mut bytes = vec![0; slots * datagram_bytes].into_boxed_slice();
        let mut addresses = vec![to_sockaddr(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)); slots]
            .into_boxed_slice();
        let mut vectors: Box<[libc::iovec]> = bytes
            .chunks_exact_mut(datagram_bytes)
            .map(|chunk| libc::iovec {
                iov_base: chunk.as_mut_ptr().cast(),
                iov_len: datagram_bytes,
            })
            .collect();
        let mut controls: Box<[Control]> = (0..slots).map(|_| Control::empty()).collect();
        let headers = vectors
            .iter_mut()
            .zip(&mut addresses)
            .zip(&mut controls)
            .map(|((vector, address), control)| {
                let mut header = empty_header();
                header.msg_hdr.msg_control = (&raw mut *control).cast();
                header.msg_hdr.msg_name = (&raw mut *address).cast();
                header.msg_hdr.msg_namelen = SOCKADDR_BYTES;
                header.msg_hdr.msg_iov = &raw mut *vector;
                header.msg_hdr.msg_iovlen = 1;
                header
            })
            .collect();
        Self { headers, vectors, addresses, controls, bytes, datagram_bytes }
    }

    /// One system call: fills slots from the first on, and returns how many.
    fn take(&mut self, socket: &OwnedFd) -> io::Result<usize> {
        for header in &mut self.headers {
            header.msg_hdr.msg_namelen = SOCKADDR_BYTES;
            header.msg_hdr.msg_controllen = CONTROL_BYTES;
        }
        let slots = u32::try_from(self.headers.len()).expect("at most a burst");
        // SAFETY: `slots` valid headers; names, vectors and bytes they point at are in boxes that
        // `&mut self` keeps for this call, each as long as its header says.
        let taken = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                slots,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        usize::try_from(taken).map_err(|_| io::Error::last_os_error())
    }

    fn is_whole(&self, slot: usize) -> bool {
        let header = &self.headers[slot].msg_hdr;
        header.msg_flags & libc::MSG_TRUNC == 0
            && header.msg_namelen == SOCKADDR_BYTES
            && i32::from(self.addresses[slot].sin_family) == libc::AF_INET
    }

    fn address(&self, slot: usize) -> SocketAddrV4 {
        from_sockaddr(&self.addresses[slot])
    }

    /// The address of ours that a received datagram was sent to, where the kernel was asked to say.
    fn local(&self, slot: usize) -> Option<Ipv4Addr> {
        let control = &self.controls[slot];
        let is_told = self.headers[slot].msg_hdr.msg_controllen >= CONTROL_USED_BYTES
            && control.header.cmsg_level == libc::IPPROTO_IP
            && control.header.cmsg_type == libc::IP_PKTINFO;
        is_told.then(|| Ipv4Addr::from(u32::from_be(control.info.ipi_spec_dst.s_addr)))
    }

    /// Lets a datagram leave from this address of ours, or from the one the kernel chooses.
    fn set_local(&mut self, slot: usize, local: Option<Ipv4Addr>) {
        let header = &mut self.headers[slot].msg_hdr;
        let Some(local) = local else {
            header.msg_controllen = 0;
            return;
        };
        header.msg_controllen = CONTROL_BYTES;
        let control = &mut self.controls[slot];
        control.header.cmsg_len = CONTROL_USED_BYTES;
        control.header.cmsg_level = libc::IPPROTO_IP;
        control.header.cmsg_type = libc::IP_PKTINFO;
        control.info.ipi_ifindex = 0;
        control.info.ipi_spec_dst.s_addr = u32::from(local).to_be();
    }

    fn payload_mut(&mut self, slot: usize) -> &mut [u8] {
        let len = usize::try_from(self.headers[slot].msg_len).expect("u32 fits usize");
        &mut self.bytes[slot * self.datagram_bytes..][..len]
    }

    fn room(&mut self, slot: usize) -> &mut [u8] {
        &mut self.bytes[slot * self.datagram_bytes..][..self.datagram_bytes]
    }
}

impl Control {
    fn empty() -> Self {
        let control = MaybeUninit::<Self>::zeroed();
        // SAFETY: it is integers only, for which all zero bits are a valid value.
        unsafe { control.assume_init() }
    }
}

// SAFETY: the raw pointers in `headers` and `vectors` lead into the boxes of the same value and
// nowhere else, so they move with it: launch hands the port to its shard's thread once.
unsafe impl Send for Burst {}

enum SendError {
    /// The kernel is short of room: try in a later turn.
    Later,
    /// Not about this datagram: try at once.
    Again,
    /// This datagram will never go.
    Never,
}

fn sort_send_error(error: &io::Error) -> SendError {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => SendError::Later,
        // ECONNREFUSED reports, and by reporting clears, what an earlier datagram met.
        Some(libc::EINTR | libc::ECONNREFUSED) => SendError::Again,
        _ => SendError::Never,
    }
}

const SOCKADDR_BYTES: libc::socklen_t = {
    assert!(size_of::<libc::sockaddr_in>() == 16);
    16
};

fn to_sockaddr(addr: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::sa_family_t::try_from(libc::AF_INET).expect("a small constant"),
        sin_port: addr.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*addr.ip()).to_be() },
        sin_zero: [0; 8],
    }
}

fn from_sockaddr(raw: &libc::sockaddr_in) -> SocketAddrV4 {
    let ip = Ipv4Addr::from(u32::from_be(raw.sin_addr.s_addr));
    SocketAddrV4::new(ip, u16::from_be(raw.sin_port))
}

fn empty_header() -> libc::mmsghdr {
    let header = MaybeUninit::<libc::mmsghdr>::zeroed();
    // SAFETY: the header is integers and raw pointers, for which all zero bits are a valid value.
    unsafe { header.assume_init() }
}

fn open_socket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: no memory is passed.
    let fd = unsafe { libc::socket(libc::AF_INET, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was just opened and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    for (force, plain) in
        [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)]
    {
        // A small buffer is no error: losses it causes are repaired by the session and seen there.
        if set_option(&socket, libc::SOL_SOCKET, force, SOCKET_BUFFER_BYTES).is_err() {
            let _ = set_option(&socket, libc::SOL_SOCKET, plain, SOCKET_BUFFER_BYTES);
        }
    }
    let _ = set_option(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT);
    Ok(socket)
}

fn set_option(
    socket: &OwnedFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: `value` is a live int and its true size is passed.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            libc::socklen_t::try_from(size_of::<libc::c_int>()).expect("4"),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn bind(socket: &OwnedFd, addr: SocketAddrV4) -> io::Result<()> {
    let raw = to_sockaddr(addr);
    // SAFETY: `raw` is a live address and its true size is passed.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const raw).cast(), SOCKADDR_BYTES) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn local_address(socket: &OwnedFd) -> io::Result<SocketAddrV4> {
    let mut raw = to_sockaddr(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
    let mut len = SOCKADDR_BYTES;
    // SAFETY: `raw` is writable for `len` bytes, both live through the call.
    let result =
        unsafe { libc::getsockname(socket.as_raw_fd(), (&raw mut raw).cast(), &raw mut len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(from_sockaddr(&raw)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);

    fn send(port: &mut UdpPort, to: SocketAddrV4, bytes: &[u8]) {
        let peer = port.resolve(to).unwrap();
        port.reserve(peer).unwrap()[..bytes.len()].copy_from_slice(bytes);
        port.commit(bytes.len());
    }

    /// Loopback delivers before the send returns, but a loaded kernel may not: ask for a while.
    fn receive(port: &mut UdpPort) -> Vec<(Peer, Vec<u8>)> {
        for _ in 0..1_000_000 {
            let count = port.receive();
            if count > 0 {
                return (0..count)
                    .map(|index| (port.datagram(index).0, port.datagram(index).1.to_vec()))
                    .collect();
            }
        }
        Vec::new()
    }

    #[test]
    fn a_datagram_goes_there_and_back() {
        let mut server = UdpPort::open(ANY, 1472).unwrap();
        let mut client = UdpPort::open(ANY, 1472).unwrap();
        assert_ne!(client.local().port(), 0);
        send(&mut client, server.local(), b"there");
        assert_eq!(client.flush(), 1);
        assert_eq!(client.flush(), 0, "nothing is queued any more");
        let (peer, bytes) = receive(&mut server).remove(0);
        assert_eq!((peer, bytes.as_slice()), (Peer::ip_only(client.local()), &b"there"[..]));
        send(&mut server, peer.addr, b"and back");
        assert_eq!(server.flush(), 1);
        assert_eq!(receive(&mut client)[0].1, b"and back");
        assert_eq!(server.receive(), 0);
        let counters = server.counters();
        assert_eq!((counters.received, counters.transmitted), (1, 1));
    }

    #[test]
    fn an_answer_comes_from_the_address_that_was_asked() {
        let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
        let mut server = UdpPort::open(any, 576).unwrap();
        let mut client = UdpPort::open(ANY, 576).unwrap();
        for last in [1, 2, 9] {
            let asked = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, last), server.local().port());
            send(&mut client, asked, b"there");
            assert_eq!(client.flush(), 1);
            let (peer, _) = receive(&mut server).remove(0);
            assert_eq!((peer.addr, peer.local), (client.local(), Some(*asked.ip())));
            server.reserve(peer).unwrap()[..4].copy_from_slice(b"back");
            server.commit(4);
            // One without such an address behind it: what is left from before does not count.
            send(&mut server, client.local(), b"plain");
            assert_eq!(server.flush(), 2);
            let mut answers = receive(&mut client);
            while answers.len() < 2 {
                answers.extend(receive(&mut client));
            }
            assert_eq!(answers[0].0.addr, asked);
            assert_eq!(*answers[1].0.addr.ip(), Ipv4Addr::LOCALHOST);
        }
    }

    #[test]
    fn bursts_keep_their_order_across_the_end_of_the_ring() {
        let mut server = UdpPort::open(ANY, 576).unwrap();
        let mut client = UdpPort::open(ANY, 576).unwrap();
        let mut expected = 0_u32;
        for burst in [TRANSMIT_BURST, TRANSMIT_BURST - 10, 40, TRANSMIT_BURST] {
            for index in 0..u32::try_from(burst).unwrap() {
                send(&mut client, server.local(), &(expected + index).to_le_bytes());
            }
            if burst == TRANSMIT_BURST {
                assert!(client.reserve(Peer::ip_only(ANY)).is_none(), "full");
            }
            assert_eq!(client.flush(), burst);
            let end = expected + u32::try_from(burst).unwrap();
            while expected < end {
                let got = receive(&mut server);
                assert!(!got.is_empty() && got.len() <= RECEIVE_BURST);
                for (_, bytes) in got {
                    assert_eq!(bytes, expected.to_le_bytes());
                    expected += 1;
                }
            }
        }
    }

    #[test]
    fn an_oversized_datagram_is_dropped_and_counted() {
        let mut server = UdpPort::open(ANY, 576).unwrap();
        let mut client = UdpPort::open(ANY, 1472).unwrap();
        send(&mut client, server.local(), &[7; 577]);
        send(&mut client, server.local(), &[8; 576]);
        assert_eq!(client.flush(), 2);
        assert_eq!(receive(&mut server)[0].1, [8; 576]);
        assert_eq!(server.counters().receive_dropped, 1);
    }

    #[test]
    fn what_can_never_be_sent_does_not_block_the_rest() {
        let mut server = UdpPort::open(ANY, 576).unwrap();
        let mut client = UdpPort::open(ANY, 576).unwrap();
        // The kernel refuses a broadcast from a socket that did not ask for it, and port 0.
        send(&mut client, SocketAddrV4::new(Ipv4Addr::BROADCAST, 9), b"never");
        send(&mut client, SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0), b"never");
        send(&mut client, server.local(), b"rest");
        assert_eq!(client.flush(), 1);
        assert_eq!(client.counters().transmit_dropped, 2);
        assert_eq!(receive(&mut server)[0].1, b"rest");
    }

    #[test]
    fn a_peer_that_is_gone_costs_nothing_but_the_datagram() {
        let gone = UdpPort::open(ANY, 576).unwrap().local();
        let mut client = UdpPort::open(ANY, 576).unwrap();
        for _ in 0..3 {
            send(&mut client, gone, b"hello?");
            assert_eq!(client.flush(), 1);
            assert_eq!(client.receive(), 0);
        }
    }

    #[test]
    fn an_address_in_use_is_an_error_that_names_it() {
        let first = UdpPort::open(ANY, 576).unwrap();
        let error = UdpPort::open(first.local(), 576).unwrap_err();
        assert!(error.to_string().contains(&first.local().to_string()), "{error}");
        let foreign = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 9);
        assert!(matches!(UdpPort::open(foreign, 576), Err(PortError::Listen { .. })));
    }

    #[test]
    fn a_reservation_that_is_not_committed_is_overwritten() {
        let mut server = UdpPort::open(ANY, 576).unwrap();
        let mut client = UdpPort::open(ANY, 576).unwrap();
        let peer = Peer::ip_only(server.local());
        client.reserve(peer).unwrap()[..4].copy_from_slice(b"left");
        send(&mut client, server.local(), b"sent");
        assert_eq!(client.flush(), 1);
        assert_eq!(receive(&mut server)[0].1, b"sent");
    }

    #[test]
    #[should_panic(expected = "nothing is reserved")]
    fn a_commit_without_a_reservation_is_our_bug() {
        UdpPort::open(ANY, 576).unwrap().commit(1);
    }
}
