"""What stands in the datagrams of Buslane, written from docs/protocol.md alone: keys, sums, seals and frames."""

import base64
import binascii
import hashlib
import struct
import time
import warnings

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from noise.connection import Keypair, NoiseConnection

# It is told its ephemeral key, so that the same message can be made twice; each is used for one handshake.
warnings.filterwarnings("ignore", "One of ephemeral keypairs is already set")
NOISE = b"Noise_IKpsk2_25519_AESGCM_SHA256"
INIT, RETRY, RESP, RESET, SEALED = 0x11, 0x12, 0x13, 0x14, 0x16
MASK = (1 << 64) - 1




class Failed(Exception):
    """What asking again does not mend."""


def siphash(key, data):
    """SipHash-2-4 with 128 bits."""
    k0, k1 = struct.unpack("<QQ", key)
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D ^ 0xEE, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]

    def add_rotate(a, b, bits):
        v[a] = v[a] + v[b] & MASK
        v[b] = (v[b] << bits | v[b] >> 64 - bits) & MASK ^ v[a]

    def rounds(count):
        for _ in range(count):
            add_rotate(0, 1, 13)
            add_rotate(2, 3, 16)
            v[0] = (v[0] << 32 | v[0] >> 32) & MASK
            add_rotate(0, 3, 21)
            add_rotate(2, 1, 17)
            v[2] = (v[2] << 32 | v[2] >> 32) & MASK

    data += bytes(7 - len(data) % 8) + bytes([len(data) % 256])
    for (word,) in struct.iter_unpack("<Q", data):
        v[3] ^= word
        rounds(2)
        v[0] ^= word
    v[2] ^= 0xEE
    rounds(4)
    low = v[0] ^ v[1] ^ v[2] ^ v[3]
    v[1] ^= 0xDD
    rounds(4)
    return struct.pack("<QQ", low, v[0] ^ v[1] ^ v[2] ^ v[3])


def crc32c(data, table=[]):
    if not table:
        for byte in range(256):
            for _ in range(8):
                byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
            table.append(byte)
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def key_of(prefix, text):
    """The 32 bytes of a key's text."""
    letters = text.removeprefix(prefix).upper()
    if not text.startswith(prefix) or len(letters) != 55 or set(letters) - set("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"):
        raise Failed(f"this is no key that begins with {prefix}")
    data = base64.b32decode(letters + "=")
    sum_ = binascii.crc_hqx(prefix.encode() + data[:32], 0).to_bytes(2, "little")
    if base64.b32encode(data).decode().rstrip("=") != letters or data[32:] != sum_:
        raise Failed("the key is mistyped")
    return data[:32]


def k1_of(public_key):
    return hashlib.sha256(b"buslane mac1" + public_key).digest()[:16]


class Generation:
    """The keys of a direction for some of its datagrams."""

    def __init__(self, secret, number=0):
        expand = lambda info, length: HKDFExpand(hashes.SHA256(), length, info).derive(secret)
        self.key, self.iv, self.after = expand(b"buslane key", 16), expand(b"buslane iv", 12), expand(b"buslane next", 32)
        self.number, self.phase, self.since, self.sealed = number, number % 4, time.monotonic(), 0

    def next(self):
        return Generation(self.after, self.number + 1)

    def nonce(self, packet_no):
        return bytes(a ^ b for a, b in zip(self.iv, packet_no.to_bytes(12, "little")))

    def seal(self, packet_no, conn_id, frames):
        head = bytes([SEALED, self.phase]) + packet_no.to_bytes(6, "little") + conn_id
        return head + AESGCM(self.key).encrypt(self.nonce(packet_no), frames, head)

    def open(self, datagram):
        packet_no = int.from_bytes(datagram[2:8], "little")
        return AESGCM(self.key).decrypt(self.nonce(packet_no), datagram[16:], datagram[:16])


class Receiving:
    """What comes from the other end: which generation opens it, and which datagrams have come."""

    def __init__(self, secret):
        self.current, self.before, self.came, self.highest = Generation(secret), None, set(), 0

    def open(self, datagram):
        """The frames of a datagram; `None` for one that is not of the session, or came before."""
        packet_no, phase = int.from_bytes(datagram[2:8], "little"), datagram[1]
        if packet_no in self.came or packet_no + 1024 <= self.highest:
            return None
        is_young = time.monotonic() - self.current.since < 2
        candidates = [self.current, self.current.next()] + ([self.before] if self.before and is_young else [])
        try:
            generation = next(each for each in candidates if each.phase == phase)
            frames = generation.open(datagram)
        except (StopIteration, InvalidTag):
            return None
        if generation.number > self.current.number:
            self.before, self.current = self.current, generation
        self.highest = max(self.highest, packet_no)
        self.came = {each for each in self.came | {packet_no} if each + 1024 > self.highest}
        return frames


def hello(datagram_bytes, instance):
    return struct.pack("<QHHHxx16sQQ", time.time_ns(), 1, datagram_bytes, 1, instance, 0, 0)


def noise_of(secret, server_key, psk, ephemeral, head):
    noise = NoiseConnection.from_name(NOISE)
    noise.set_as_initiator()
    noise.set_prologue(b"buslane1" + head)
    noise.set_psks(psk)
    noise.set_keypair_from_private_bytes(Keypair.STATIC, secret)
    noise.set_keypair_from_private_bytes(Keypair.EPHEMERAL, ephemeral)
    noise.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, server_key)
    noise.start_handshake()
    return noise


def secrets_of(noise):
    """S0 of the client's datagrams, and of the server's."""
    return noise.noise_protocol.cipher_state_encrypt.k, noise.noise_protocol.cipher_state_decrypt.k


def with_mac(init, cookie, k1):
    init = init[:16] + cookie + init[32:240]
    return init + siphash(k1, init[:64])


def frame(kind, body):
    return struct.pack("<BxH", kind, len(body)) + body


def tlv(kind, value):
    return struct.pack("<HH", kind, len(value)) + value + bytes(-len(value) % 4)


def signed(producer_id, number, stream, payload):
    """A message of PUBLISH."""
    sum_ = crc32c(struct.pack("<QQIHH", producer_id, number, stream, 0, 0) + payload)
    return struct.pack("<HHHHI", len(payload), 0, 0, 0, sum_) + payload


def frames_of(data):
    while data:
        if len(data) < 4 or len(data) < 4 + (length := int.from_bytes(data[2:4], "little")):
            raise Failed("a frame is cut")
        yield data[0], data[4 : 4 + length]
        data = data[4 + length :]


def records_of(data):
    """Sequence and payload of each record that is whole."""
    while data:
        length, crc, sequence = *struct.unpack_from("<II", data), int.from_bytes(data[32:40], "little")
        payload = data[48 : 48 + length]
        if crc32c(data[8:32] + payload) != crc:
            return
        yield sequence, payload
        data = data[48 + (length + 7) // 8 * 8 :]
