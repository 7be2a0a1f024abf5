//! Ethernet, ARP, IPv4, ICMP echo and UDP: as much of them as a port needs, and no device.
//!
//! `parse` turns a frame into a fact about it or into the reason why it is dropped; the `emit_*`
//! functions write the headers before a payload that already stands in its place. Fragments are
//! dropped: a datagram of ours always fits one frame.
//!
//! UDP checksums cost about a nanosecond for 10 bytes in software. A device that makes and checks
//! them does so; between processes of one host (memif) they may be left out, which IPv4 allows and
//! writes as 0.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;

use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
    Icmpv4Message, Icmpv4Packet, IpAddress, IpProtocol, Ipv4Packet, UdpPacket,
};

use crate::ids::Peer;

/// Ethernet header.
pub(crate) const ETHERNET_BYTES: usize = 14;
/// VLAN tag, between the addresses and the type of an Ethernet header.
pub(crate) const VLAN_BYTES: usize = 4;
/// IPv4 header without options, as we send it.
pub(crate) const IPV4_BYTES: usize = 20;
/// UDP header.
pub(crate) const UDP_BYTES: usize = 8;
/// All headers before the payload of a datagram we send, without a VLAN tag.
pub(crate) const HEADER_BYTES: usize = ETHERNET_BYTES + IPV4_BYTES + UDP_BYTES;
/// An ARP packet for IPv4 over Ethernet, with its Ethernet header.
pub(crate) const ARP_FRAME_BYTES: usize = ETHERNET_BYTES + 28;

const VLAN_TYPE: u16 = 0x8100;
const HOP_LIMIT: u8 = 64;

/// Who we are on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Local {
    /// Our Ethernet address.
    pub mac: [u8; 6],
    /// Our IPv4 address and UDP port.
    pub addr: SocketAddrV4,
}

/// What of an arriving frame's checksums is still to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// All of them; a UDP checksum of 0 means that the sender made none.
    All,
    /// As `All`, and a UDP checksum that covers the pseudo-header only is right: a kernel that leaves
    /// the rest to a device hands such frames to a neighbour on the same host (veth).
    AllOrPartial,
    /// None: the device has checked IPv4 and UDP.
    Nothing,
}

/// How the UDP checksum of a frame we send comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UdpChecksum {
    /// We sum the payload.
    Software,
    /// The device does; we write the sum of the pseudo-header where it expects it.
    Device,
    /// Nobody does: 0.
    Absent,
}

/// What a frame turned out to be. Ranges count from the start of the frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// A datagram for our address and port.
    Udp {
        /// Its sender, by way of the neighbour the frame came from.
        peer: Peer,
        /// Its payload.
        payload: Range<usize>,
    },
    /// A datagram for another UDP port of our address; its checksum was not looked at.
    OtherPort(u16),
    /// Somebody asks for our Ethernet address, or tells theirs.
    Arp {
        /// An answer is wanted.
        request: bool,
        /// Who speaks.
        mac: [u8; 6],
        /// Who speaks.
        ip: Ipv4Addr,
    },
    /// A ping to be answered.
    Echo {
        /// The neighbour the frame came from.
        mac: [u8; 6],
        /// Who asks.
        ip: Ipv4Addr,
        /// The whole ICMP message.
        message: Range<usize>,
    },
    /// Nothing for us, and why.
    Drop(Reason),
}

/// Why a frame is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// Shorter than its headers, or than they say.
    Short,
    /// Another Ethernet address, IPv4 address or VLAN.
    NotForUs,
    /// A protocol or message that this port does not speak.
    Protocol,
    /// A piece of a datagram.
    Fragment,
    /// A checksum does not match.
    Checksum,
    /// A sender that cannot be answered: a group address, or port 0.
    Sender,
}

/// What `frame` is to `local`. Any bytes will do.
#[must_use]
#[inline]
pub(crate) fn parse(frame: &[u8], local: &Local, check: Check) -> Parsed {
    match parse_frame(frame, local, check) {
        Ok(parsed) => parsed,
        Err(reason) => Parsed::Drop(reason),
    }
}

#[inline]
fn parse_frame(frame: &[u8], local: &Local, check: Check) -> Result<Parsed, Reason> {
    let ethernet = EthernetFrame::new_checked(frame).map_err(|_| Reason::Short)?;
    let to = ethernet.dst_addr();
    if to.0 != local.mac && !to.is_broadcast() {
        return Err(Reason::NotForUs);
    }
    let mac = ethernet.src_addr();
    if !mac.is_unicast() {
        return Err(Reason::Sender);
    }
    let (kind, start) = ether_type(frame, ethernet.ethertype())?;
    match kind {
        EthernetProtocol::Ipv4 if to.0 == local.mac => {
            parse_ipv4(frame, start, mac.0, local, check)
        }
        EthernetProtocol::Ipv4 => Err(Reason::NotForUs),
        EthernetProtocol::Arp => parse_arp(&frame[start..], local),
        EthernetProtocol::Ipv6 | EthernetProtocol::Unknown(_) => Err(Reason::Protocol),
    }
}

/// The protocol and where its packet starts, past one priority tag (VLAN 0) if there is one. Frames of
/// another VLAN are not for us: the network or the driver strips the tag of ours.
#[inline]
fn ether_type(frame: &[u8], kind: EthernetProtocol) -> Result<(EthernetProtocol, usize), Reason> {
    if kind != EthernetProtocol::Unknown(VLAN_TYPE) {
        return Ok((kind, ETHERNET_BYTES));
    }
    let tag: [u8; VLAN_BYTES] = frame
        .get(ETHERNET_BYTES..ETHERNET_BYTES + VLAN_BYTES)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(Reason::Short)?;
    if tag[0] & 0x0f != 0 || tag[1] != 0 {
        return Err(Reason::NotForUs);
    }
    let kind = EthernetProtocol::from((u16::from(tag[2]) << 8) | u16::from(tag[3]));
    Ok((kind, ETHERNET_BYTES + VLAN_BYTES))
}

#[inline]
fn parse_ipv4(
    frame: &[u8],
    start: usize,
    mac: [u8; 6],
    local: &Local,
    check: Check,
) -> Result<Parsed, Reason> {
    let packet = Ipv4Packet::new_checked(&frame[start..]).map_err(|_| Reason::Short)?;
    if packet.version() != 4 {
        return Err(Reason::Protocol);
    }
    if usize::from(packet.header_len()) < IPV4_BYTES {
        return Err(Reason::Short);
    }
    let header = &frame[start..start + usize::from(packet.header_len())];
    if check != Check::Nothing && fold(sum(header)) != u16::MAX {
        return Err(Reason::Checksum);
    }
    if packet.more_frags() || packet.frag_offset() != 0 {
        return Err(Reason::Fragment);
    }
    if packet.dst_addr() != *local.addr.ip() {
        return Err(Reason::NotForUs);
    }
    let ip = packet.src_addr();
    if ip.is_multicast() || ip.is_broadcast() || ip.is_unspecified() {
        return Err(Reason::Sender);
    }
    let message = start + usize::from(packet.header_len())..start + usize::from(packet.total_len());
    if packet.next_header() == IpProtocol::Udp {
        return parse_udp(frame, message, Peer::of(mac, ip), local, check);
    }
    if packet.next_header() != IpProtocol::Icmp {
        return Err(Reason::Protocol);
    }
    let icmp = Icmpv4Packet::new_checked(packet.payload()).map_err(|_| Reason::Short)?;
    if icmp.msg_type() != Icmpv4Message::EchoRequest || icmp.msg_code() != 0 {
        return Err(Reason::Protocol);
    }
    if !icmp.verify_checksum() {
        return Err(Reason::Checksum);
    }
    Ok(Parsed::Echo { mac, ip, message })
}

#[inline]
fn parse_udp(
    frame: &[u8],
    message: Range<usize>,
    mut peer: Peer,
    local: &Local,
    check: Check,
) -> Result<Parsed, Reason> {
    let udp = UdpPacket::new_checked(&frame[message.clone()]).map_err(|_| Reason::Short)?;
    if udp.dst_port() != local.addr.port() {
        return Ok(Parsed::OtherPort(udp.dst_port()));
    }
    if udp.src_port() == 0 {
        return Err(Reason::Sender);
    }
    // 0 means that the sender made none; a partial sum of 0 cannot be told from it and need not be.
    let (from, to) = (IpAddress::Ipv4(*peer.addr.ip()), IpAddress::Ipv4(*local.addr.ip()));
    let whole = || {
        let pseudo = pseudo_sum(*peer.addr.ip(), *local.addr.ip(), udp.len());
        let bytes = &frame[message.start..message.start + usize::from(udp.len())];
        udp.checksum() == 0 || fold(pseudo + sum(bytes)) == u16::MAX
    };
    let good = match check {
        Check::Nothing => true,
        Check::All => whole(),
        Check::AllOrPartial => udp.verify_partial_checksum(&from, &to) || whole(),
    };
    if !good {
        return Err(Reason::Checksum);
    }
    peer.addr.set_port(udp.src_port());
    let payload = message.start + UDP_BYTES..message.start + usize::from(udp.len());
    Ok(Parsed::Udp { peer, payload })
}

fn parse_arp(packet: &[u8], local: &Local) -> Result<Parsed, Reason> {
    let packet = ArpPacket::new_checked(packet).map_err(|_| Reason::Short)?;
    let repr = ArpRepr::parse(&packet).map_err(|_| Reason::Protocol)?;
    let ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    } = repr
    else {
        return Err(Reason::Protocol);
    };
    if target_protocol_addr != *local.addr.ip() {
        return Err(Reason::NotForUs);
    }
    if !source_hardware_addr.is_unicast() || source_protocol_addr.is_multicast() {
        return Err(Reason::Sender);
    }
    let request = match operation {
        ArpOperation::Request => true,
        ArpOperation::Reply => false,
        ArpOperation::Unknown(_) => return Err(Reason::Protocol),
    };
    Ok(Parsed::Arp { request, mac: source_hardware_addr.0, ip: source_protocol_addr })
}

impl Peer {
    fn of(mac: [u8; 6], ip: Ipv4Addr) -> Self {
        Self { addr: SocketAddrV4::new(ip, 0), mac, local: None }
    }
}

/// Writes the headers before the payload of `frame`, which starts at `HEADER_BYTES` and reaches to its
/// end.
///
/// # Panics
/// When the frame is shorter than the headers, or its payload longer than a datagram can be.
#[inline]
pub(crate) fn emit_udp(frame: &mut [u8], local: &Local, peer: Peer, checksum: UdpChecksum) {
    emit_ipv4(frame, local, peer.mac, *peer.addr.ip(), IpProtocol::Udp);
    let mut udp = UdpPacket::new_unchecked(&mut frame[ETHERNET_BYTES + IPV4_BYTES..]);
    let len = u16::try_from(udp.as_ref().len()).expect("emit_ipv4 has checked the length");
    assert!(usize::from(len) >= UDP_BYTES, "room for the UDP header");
    udp.set_src_port(local.addr.port());
    udp.set_dst_port(peer.addr.port());
    udp.set_len(len);
    match checksum {
        UdpChecksum::Absent => udp.set_checksum(0),
        UdpChecksum::Software => {
            udp.set_checksum(0);
            let pseudo = pseudo_sum(*local.addr.ip(), *peer.addr.ip(), len);
            let checksum = !fold(pseudo + sum(udp.as_ref()));
            udp.set_checksum(if checksum == 0 { u16::MAX } else { checksum });
        }
        UdpChecksum::Device => udp.set_checksum(smoltcp::wire::checksum::pseudo_header_v4(
            local.addr.ip(),
            peer.addr.ip(),
            IpProtocol::Udp,
            u32::from(len),
        )),
    }
}

/// The ones' complement sum of a UDP pseudo-header, not folded.
#[inline]
fn pseudo_sum(from: Ipv4Addr, to: Ipv4Addr, udp_len: u16) -> u64 {
    let halves =
        |ip: Ipv4Addr| (u64::from(u32::from(ip)) >> 16) + u64::from(u32::from(ip) & 0xffff);
    halves(from) + halves(to) + u64::from(u8::from(IpProtocol::Udp)) + u64::from(udp_len)
}

/// The ones' complement sum of `bytes` as 16-bit words in network order, folded to 16 bits. In the
/// place of `smoltcp::wire::checksum::data`, of which it takes a seventh of the time on a jumbo frame: that
/// one adds with overflow checks, which our release profile keeps, and which cannot be vectorised.
#[inline]
fn sum(bytes: &[u8]) -> u64 {
    let (chunks, rest) = bytes.as_chunks::<4>();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    // 32-bit words: their sum cannot overflow 64 bits below 2^32 words, and a frame has 2^14 at most.
    // Summed in little-endian order and swapped at the end, as RFC 1071 section 2(B) allows.
    let total = chunks.iter().fold(u64::from(u32::from_le_bytes(last)), |total, chunk| {
        total.wrapping_add(u64::from(u32::from_le_bytes(*chunk)))
    });
    u64::from(fold(total).swap_bytes())
}

/// Adds the 16-bit words of `total` with end-around carry.
#[inline]
fn fold(total: u64) -> u16 {
    let mut total = total;
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    u16::try_from(total).expect("folded")
}

/// Turns `frame`, which holds an echo request's ICMP message from byte `ETHERNET_BYTES + IPV4_BYTES`
/// on, into the reply to it.
///
/// # Panics
/// When the frame is shorter than the headers.
pub(crate) fn emit_echo_reply(frame: &mut [u8], local: &Local, mac: [u8; 6], ip: Ipv4Addr) {
    emit_ipv4(frame, local, mac, ip, IpProtocol::Icmp);
    let mut icmp = Icmpv4Packet::new_unchecked(&mut frame[ETHERNET_BYTES + IPV4_BYTES..]);
    icmp.set_msg_type(Icmpv4Message::EchoReply);
    icmp.fill_checksum();
}

/// Writes an ARP packet into the first `ARP_FRAME_BYTES` of `frame`: a question for `ip` to everybody
/// when `mac` is `None`, else the answer to who asked.
///
/// # Panics
/// When the frame is shorter than that.
pub(crate) fn emit_arp(frame: &mut [u8], local: &Local, mac: Option<[u8; 6]>, ip: Ipv4Addr) {
    let to = mac.map_or(EthernetAddress::BROADCAST, EthernetAddress);
    emit_ethernet(frame, local.mac, to, EthernetProtocol::Arp);
    let repr = ArpRepr::EthernetIpv4 {
        operation: if mac.is_some() { ArpOperation::Reply } else { ArpOperation::Request },
        source_hardware_addr: EthernetAddress(local.mac),
        source_protocol_addr: *local.addr.ip(),
        target_hardware_addr: mac.map_or(EthernetAddress([0; 6]), EthernetAddress),
        target_protocol_addr: ip,
    };
    repr.emit(&mut ArpPacket::new_unchecked(&mut frame[ETHERNET_BYTES..ARP_FRAME_BYTES]));
}

#[inline]
fn emit_ethernet(frame: &mut [u8], from: [u8; 6], to: EthernetAddress, kind: EthernetProtocol) {
    let mut ethernet = EthernetFrame::new_unchecked(frame);
    ethernet.set_src_addr(EthernetAddress(from));
    ethernet.set_dst_addr(to);
    ethernet.set_ethertype(kind);
}

#[inline]
fn emit_ipv4(frame: &mut [u8], local: &Local, mac: [u8; 6], to: Ipv4Addr, protocol: IpProtocol) {
    emit_ethernet(frame, local.mac, EthernetAddress(mac), EthernetProtocol::Ipv4);
    let mut packet = Ipv4Packet::new_unchecked(&mut frame[ETHERNET_BYTES..]);
    let len = u16::try_from(packet.as_ref().len()).expect("a frame of ours is below 64 KiB");
    packet.set_version(4);
    packet.set_header_len(20);
    packet.set_dscp(0);
    packet.set_ecn(0);
    packet.set_total_len(len);
    packet.set_ident(0);
    packet.clear_flags();
    packet.set_dont_frag(true);
    packet.set_frag_offset(0);
    packet.set_hop_limit(HOP_LIMIT);
    packet.set_next_header(protocol);
    packet.set_src_addr(*local.addr.ip());
    packet.set_dst_addr(to);
    packet.set_checksum(0);
    let checksum = !fold(sum(&packet.as_ref()[..IPV4_BYTES]));
    packet.set_checksum(checksum);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::cast_possible_truncation, reason = "test sizes are small")]

    use super::*;
    use proptest::prelude::*;

    const US: Local = Local {
        mac: [2, 0, 10, 0, 0, 1],
        addr: SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 7000),
    };
    const THEM: Local = Local {
        mac: [2, 0, 10, 0, 0, 2],
        addr: SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 40_000),
    };

    fn peer(of: &Local) -> Peer {
        Peer { addr: of.addr, mac: of.mac, local: None }
    }

    fn datagram(payload: &[u8], checksum: UdpChecksum) -> Vec<u8> {
        let mut frame = vec![0xa5; HEADER_BYTES + payload.len()];
        frame[HEADER_BYTES..].copy_from_slice(payload);
        emit_udp(&mut frame, &THEM, peer(&US), checksum);
        frame
    }

    fn echo_request() -> Vec<u8> {
        let mut frame = vec![0; HEADER_BYTES];
        frame.extend_from_slice(b"ping data");
        emit_ipv4(&mut frame, &THEM, US.mac, *US.addr.ip(), IpProtocol::Icmp);
        let mut icmp = Icmpv4Packet::new_unchecked(&mut frame[ETHERNET_BYTES + IPV4_BYTES..]);
        icmp.set_msg_type(Icmpv4Message::EchoRequest);
        icmp.set_msg_code(0);
        icmp.set_echo_ident(7);
        icmp.set_echo_seq_no(8);
        icmp.fill_checksum();
        frame
    }

    fn arp(to: Option<[u8; 6]>) -> Vec<u8> {
        let mut frame = vec![0; ARP_FRAME_BYTES];
        emit_arp(&mut frame, &THEM, to, *US.addr.ip());
        frame
    }

    fn with_tag(frame: &[u8], tag: [u8; 2]) -> Vec<u8> {
        [&frame[..12], &[0x81, 0], &tag, &frame[12..]].concat()
    }

    fn reason(frame: &[u8]) -> Option<Reason> {
        match parse(frame, &US, Check::All) {
            Parsed::Drop(reason) => Some(reason),
            Parsed::Udp { .. }
            | Parsed::OtherPort(_)
            | Parsed::Arp { .. }
            | Parsed::Echo { .. } => None,
        }
    }

    #[test]
    fn what_is_sent_is_understood() {
        for checksum in [UdpChecksum::Software, UdpChecksum::Absent] {
            let frame = datagram(b"payload", checksum);
            let payload = HEADER_BYTES..frame.len();
            assert_eq!(
                parse(&frame, &US, Check::All),
                Parsed::Udp { peer: peer(&THEM), payload: payload.clone() }
            );
            assert_eq!(&frame[payload], b"payload");
        }
    }

    #[test]
    fn a_checksum_left_to_the_device_is_good_only_where_partial_ones_are() {
        let frame = datagram(b"payload", UdpChecksum::Device);
        assert_eq!(reason(&frame), Some(Reason::Checksum));
        for check in [Check::AllOrPartial, Check::Nothing] {
            assert!(matches!(parse(&frame, &US, check), Parsed::Udp { .. }), "{check:?}");
        }
    }

    #[test]
    fn padding_is_not_payload_and_a_priority_tag_is_skipped() {
        let mut frame = datagram(b"x", UdpChecksum::Software);
        frame.resize(60, 0);
        let payload_of = |frame: &[u8]| match parse(frame, &US, Check::All) {
            Parsed::Udp { payload, .. } => payload,
            other @ (Parsed::OtherPort(_)
            | Parsed::Arp { .. }
            | Parsed::Echo { .. }
            | Parsed::Drop(_)) => panic!("{other:?}"),
        };
        assert_eq!(payload_of(&frame), 42..43);
        let tagged = with_tag(&frame, [0xe0, 0]);
        assert_eq!(payload_of(&tagged), 46..47);
        assert_eq!(reason(&with_tag(&frame, [0, 5])), Some(Reason::NotForUs));
        assert_eq!(reason(&tagged[..16]), Some(Reason::Short));
    }

    #[test]
    fn a_question_for_our_address_is_understood_and_so_is_an_answer() {
        let them = (THEM.mac, *THEM.addr.ip());
        for (to, request) in [(None, true), (Some(US.mac), false)] {
            let expected = Parsed::Arp { request, mac: them.0, ip: them.1 };
            assert_eq!(parse(&arp(to), &US, Check::All), expected);
        }
        let other = Local { addr: THEM.addr, ..US };
        assert_eq!(parse(&arp(None), &other, Check::All), Parsed::Drop(Reason::NotForUs));
    }

    #[test]
    fn a_ping_is_answered_with_its_own_data() {
        let request = echo_request();
        let Parsed::Echo { mac, ip, message } = parse(&request, &US, Check::All) else {
            panic!("not an echo request");
        };
        let mut reply = vec![0; ETHERNET_BYTES + IPV4_BYTES];
        reply.extend_from_slice(&request[message]);
        emit_echo_reply(&mut reply, &US, mac, ip);
        let ethernet = EthernetFrame::new_checked(&reply[..]).unwrap();
        assert_eq!(ethernet.dst_addr().0, THEM.mac);
        let packet = Ipv4Packet::new_checked(ethernet.payload()).unwrap();
        assert_eq!((packet.dst_addr(), packet.verify_checksum()), (*THEM.addr.ip(), true));
        let icmp = Icmpv4Packet::new_checked(packet.payload()).unwrap();
        assert_eq!((icmp.msg_type(), icmp.verify_checksum()), (Icmpv4Message::EchoReply, true));
        assert_eq!((icmp.echo_ident(), icmp.echo_seq_no(), icmp.data()), (7, 8, &b"ping data"[..]));
    }

    /// Applies `change` to the IPv4 header and makes its checksum good again.
    fn with_header(change: impl Fn(&mut Ipv4Packet<&mut [u8]>)) -> Vec<u8> {
        let mut frame = datagram(b"payload", UdpChecksum::Absent);
        let mut packet = Ipv4Packet::new_unchecked(&mut frame[ETHERNET_BYTES..]);
        change(&mut packet);
        if packet.header_len() == 20 {
            packet.fill_checksum();
        }
        frame
    }

    #[test]
    fn every_drop_has_its_reason() {
        assert_eq!(reason(&[]), Some(Reason::Short));
        assert_eq!(reason(&with_header(|ip| ip.set_more_frags(true))), Some(Reason::Fragment));
        assert_eq!(reason(&with_header(|ip| ip.set_frag_offset(8))), Some(Reason::Fragment));
        assert_eq!(reason(&with_header(|ip| ip.set_total_len(500))), Some(Reason::Short));
        assert_eq!(reason(&with_header(|ip| ip.set_total_len(24))), Some(Reason::Short));
        assert_eq!(reason(&with_header(|ip| ip.set_header_len(4))), Some(Reason::Short));
        assert_eq!(reason(&with_header(|ip| ip.set_version(5))), Some(Reason::Protocol));
        assert_eq!(
            reason(&with_header(|ip| ip.set_next_header(IpProtocol::Tcp))),
            Some(Reason::Protocol)
        );
        assert_eq!(
            reason(&with_header(|ip| ip.set_src_addr(Ipv4Addr::BROADCAST))),
            Some(Reason::Sender)
        );
        assert_eq!(
            reason(&with_header(|ip| ip.set_dst_addr(Ipv4Addr::new(10, 0, 0, 9)))),
            Some(Reason::NotForUs)
        );
        let mut other_mac = datagram(b"payload", UdpChecksum::Absent);
        other_mac[5] ^= 1;
        assert_eq!(reason(&other_mac), Some(Reason::NotForUs));
        let mut other_port = datagram(b"payload", UdpChecksum::Absent);
        UdpPacket::new_unchecked(&mut other_port[ETHERNET_BYTES + IPV4_BYTES..])
            .set_dst_port(US.addr.port() + 1);
        let elsewhere = Parsed::OtherPort(US.addr.port() + 1);
        assert_eq!(parse(&other_port, &US, Check::All), elsewhere);
        let mut lying_udp = datagram(b"payload", UdpChecksum::Absent);
        lying_udp[38..40].copy_from_slice(&[0, 200]);
        assert_eq!(reason(&lying_udp), Some(Reason::Short));
        let mut frame = vec![0; HEADER_BYTES];
        emit_udp(
            &mut frame,
            &Local { addr: SocketAddrV4::new(*THEM.addr.ip(), 0), ..THEM },
            peer(&US),
            UdpChecksum::Absent,
        );
        assert_eq!(reason(&frame), Some(Reason::Sender));
    }

    #[test]
    fn every_single_flipped_bit_of_headers_and_payload_is_seen() {
        let frame = datagram(b"payload", UdpChecksum::Software);
        for bit in ETHERNET_BYTES * 8..frame.len() * 8 {
            let mut bad = frame.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let parsed = parse(&bad, &US, Check::All);
            assert!(matches!(parsed, Parsed::Drop(_) | Parsed::OtherPort(_)), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_without_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            for check in [Check::All, Check::AllOrPartial, Check::Nothing] {
                let _ = parse(&bytes, &US, check);
            }
        }

        /// Mutated good frames reach deeper than noise does; ranges always lie within the frame.
        #[test]
        fn damaged_frames_are_parsed_without_a_panic(
            which in 0..4_usize,
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            keep in any::<prop::sample::Index>(),
            cut in any::<bool>(),
        ) {
            let mut frame = match which {
                0 => datagram(b"some payload", UdpChecksum::Software),
                1 => echo_request(),
                2 => arp(None),
                _ => with_tag(&datagram(b"tagged", UdpChecksum::Absent), [0, 0]),
            };
            for (index, value) in damage {
                let index = index.index(frame.len());
                frame[index] = value;
            }
            if cut {
                frame.truncate(keep.index(frame.len()));
            }
            for check in [Check::All, Check::AllOrPartial, Check::Nothing] {
                match parse(&frame, &US, check) {
                    Parsed::Udp { payload: range, .. } | Parsed::Echo { message: range, .. } => {
                        prop_assert!(range.start <= range.end && range.end <= frame.len());
                    }
                    Parsed::OtherPort(_) | Parsed::Arp { .. } | Parsed::Drop(_) => {}
                }
            }
        }

        #[test]
        fn any_datagram_comes_back(
            payload in proptest::collection::vec(any::<u8>(), 0..9000),
            ip in any::<[u8; 4]>(),
            port in 1..=u16::MAX,
            software in any::<bool>(),
        ) {
            let ip = Ipv4Addr::from(ip);
            prop_assume!(!ip.is_multicast() && !ip.is_broadcast() && !ip.is_unspecified());
            let from = Local { mac: THEM.mac, addr: SocketAddrV4::new(ip, port) };
            let checksum = if software { UdpChecksum::Software } else { UdpChecksum::Absent };
            let mut frame = vec![0; HEADER_BYTES];
            frame.extend_from_slice(&payload);
            emit_udp(&mut frame, &from, peer(&US), checksum);
            let expected = Parsed::Udp { peer: peer(&from), payload: HEADER_BYTES..frame.len() };
            prop_assert_eq!(parse(&frame, &US, Check::All), expected);
            prop_assert_eq!(&frame[HEADER_BYTES..], &payload[..]);
            // smoltcp is the oracle for our own sum.
            let udp = UdpPacket::new_checked(&frame[ETHERNET_BYTES + IPV4_BYTES..]).unwrap();
            prop_assert!(Ipv4Packet::new_unchecked(&frame[ETHERNET_BYTES..]).verify_checksum());
            prop_assert!(udp.verify_checksum(&ip.into(), &(*US.addr.ip()).into()));
        }
    }
}
