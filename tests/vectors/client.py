#!/usr/bin/env python3
"""A client of Buslane, written from docs/protocol.md alone: client.py FILE.access HOST:PORT STREAM COUNT

It publishes COUNT messages to STREAM, which it creates, waits until they are durable, and reads them back. Where the
appliance goes away it comes back to it. It needs Python 3.11 and the packages noiseprotocol and cryptography.
"""

import hmac
import os
import select
import socket
import struct
import sys
import time
import tomllib

from cryptography.exceptions import InvalidTag

from wire import INIT, RESET, RESP, RETRY, SEALED, Failed, Generation, Receiving
from wire import frame, frames_of, hello, k1_of, key_of, noise_of, records_of, secrets_of, signed, tlv, with_mac
from wire import siphash

REGISTER, REGISTERED, PUBLISH, ACK, NAK, PROBE, SUBSCRIBE, SUBSCRIBED, DATA, STATUS, HEARTBEAT = range(1, 12)
CREATE_STREAM, STREAM_INFO, ERROR, CLOSE, REDIRECT = 15, 18, 20, 21, 23
AGAIN = {10, 14, 24, 25, 29}  # codes of what passes by itself
DATAGRAM_BYTES, WINDOW = 1472, 1024
TRY_S, SILENCE_S, PATIENCE_S = 1.0, 2.5, float(os.environ.get("PATIENCE_S", 10))


class Lost(Exception):
    """The session is gone: another one is asked for."""


class Elsewhere(Exception):
    """Another shard is to be asked."""


class Client:
    def __init__(self, credentials, server):
        self.secret, self.server_key = key_of("bls1", credentials["secret"]), key_of("blp1", credentials["server_key"])
        self.psk = key_of("bls1", credentials["psk"]) if "psk" in credentials else bytes(32)
        self.k1, self.instance, self.request = k1_of(self.server_key), os.urandom(16), 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.ask_at(server.rpartition(":")[0], int(server.rpartition(":")[2]))

    def ask_at(self, host, port):
        """Begins at a shard, of whose log and producers nothing is known as yet."""
        self.server, self.cookie = (host, port), bytes(16)
        self.log_id, self.epoch, self.producer_id, self.producer_epoch = bytes(16), 0, 0, 0
        self.witness, self.durable_to, self.receipts_to = (0, 0, 0), 0, 0
        self.open()

    def datagram(self, until):
        """The next datagram of the server, or nothing."""
        while (left := until - time.monotonic()) > 0:
            if select.select([self.socket], [], [], left)[0]:
                try:
                    data, address = self.socket.recvfrom(65536)
                except ConnectionError:  # an ICMP answer: there is nobody at present
                    continue
                if address == self.server and data:
                    return data
        return b""

    def open(self):
        """A session, and in it the producer."""
        deadline = time.monotonic() + PATIENCE_S
        while not (self.handshake() and self.register()):
            if time.monotonic() > deadline:
                raise Failed(f"{self.server} gives no session")

    def handshake(self):
        """One try of a second; whether there is a session."""
        self.client_id, ephemeral = os.urandom(8), os.urandom(32)
        head = struct.pack("<BxHxxxx8s", INIT, 1, self.client_id)
        noise = lambda: noise_of(self.secret, self.server_key, self.psk, ephemeral, head)
        says = hello(DATAGRAM_BYTES, self.instance)
        init = head + bytes(16) + noise().write_message(says) + bytes(64)
        end, wait, retries = time.monotonic() + TRY_S, 0.002, 0
        while time.monotonic() < end:
            self.socket.sendto(with_mac(init, self.cookie, self.k1), self.server)
            until, wait = time.monotonic() + wait, min(2 * wait, 0.2)
            while data := self.datagram(until):
                if data[8:16] != self.client_id:
                    continue
                if data[0] == RETRY and len(data) == 48 and retries < 3 and siphash(self.k1, data[:32]) == data[32:]:
                    self.cookie, retries = data[16:32], retries + 1
                    break
                if data[0] == RESP and len(data) == 144:
                    # The same keys make the same message: so a false answer spoils no true one.
                    answered = noise()
                    answered.write_message(says)
                    try:
                        return self.accept(answered.read_message(data[16:]), secrets_of(answered))
                    except InvalidTag:
                        continue
        return False

    def accept(self, says, secrets):
        status, suite, server_id, token, cookie, shard, retry_ms = struct.unpack("<HH4x8s16s16s16xH2xI8x", says)
        if status in AGAIN:
            time.sleep(min(retry_ms, 200) / 1000)
            return False
        if status or suite != 1 or server_id == bytes(8):
            raise Failed(f"no session: code {status}")
        self.server_id, self.token, self.cookie, self.shard = server_id, token, cookie, shard
        self.sending, self.receiving, self.packet_no = Generation(secrets[0]), Receiving(secrets[1]), 0
        self.said = self.heard = time.monotonic()
        return True

    def say(self, *frames):
        sending, now = self.sending, time.monotonic()
        age = now - sending.since
        if age >= 2 and (sending.sealed >= 1 << 22 or (age >= 3600 and sending.sealed >= 16)):
            sending = self.sending = sending.next()
        self.packet_no, self.said, sending.sealed = self.packet_no + 1, now, sending.sealed + 1
        self.socket.sendto(sending.seal(self.packet_no, self.server_id, b"".join(frames)), self.server)

    def hear(self, seconds):
        """Frames of one datagram, if one comes in time."""
        now = time.monotonic()
        if now - self.heard > SILENCE_S:
            raise Lost
        if now - self.said > 1:
            self.say(frame(HEARTBEAT, struct.pack("<IIQ", 0, 1, 0)))
        data = self.datagram(now + seconds)
        if data[:1] == bytes([RESET]) and len(data) == 32 and data[8:16] == self.server_id:
            if hmac.compare_digest(data[16:], self.token):
                raise Lost
        if data[:1] != bytes([SEALED]) or len(data) < 36 or data[8:16] != self.client_id:
            return []
        frames = self.receiving.open(data)
        if frames is None:
            return []
        self.heard = time.monotonic()
        frames = list(frames_of(frames))
        for kind, body in frames:
            if kind == CLOSE:
                raise Failed(f"the session is closed: code {int.from_bytes(body[:2], 'little')}")
            if kind == ERROR and body[4:8] == bytes(4) and body[0] not in AGAIN:
                raise Failed(f"the session is refused: code {body[0]}")
        return frames

    def ask(self, kind, body, answer):
        """Repeats a request until its answer, whose body is returned."""
        self.request += 1
        number, wait, deadline = struct.pack("<I", self.request), 0.002, time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            self.say(frame(kind, number + body))
            until, wait = time.monotonic() + wait, min(2 * wait, 0.2)
            while (left := until - time.monotonic()) > 0:
                for heard, said in self.hear(left):
                    if heard == answer and said[:4] == number:
                        return said
                    if heard == REDIRECT and said[:4] == number:
                        raise Elsewhere(said[4])
                    if heard == ERROR and said[4:8] == number and said[0] not in AGAIN:
                        raise Failed(f"refused: code {said[0]}")
        raise Failed(f"a request of kind {kind} is not answered")

    def register(self):
        want = 2 if self.producer_id else 1
        body = struct.pack("<HH16sQIIQQQQ", want, DATAGRAM_BYTES, self.log_id, self.producer_id, self.producer_epoch,
                           *self.witness, self.durable_to, self.epoch)
        try:
            said = self.ask(REGISTER, body, REGISTERED)
        except Lost:
            return False
        (room, log_id, epoch, self.lineage, self.producer_id, self.producer_epoch, _, self.accepted_to, durable_to,
         self.max_seq, self.max_bytes) = struct.unpack("<6xH16sQQQIIQQQQ32x", said)
        if self.log_id not in (bytes(16), log_id) or epoch < self.epoch or durable_to < self.durable_to:
            raise Failed("this is another log, or an older copy of it")
        self.log_id, self.epoch, self.durable_to, self.room, self.bytes = log_id, epoch, durable_to, room - 36, 0
        self.say(frame(HEARTBEAT, struct.pack("<IIQ", 0, 1, 0)))
        return True

    def create(self, name):
        """A stream, new or known, and its next sequence."""
        while True:
            try:
                said = self.ask(CREATE_STREAM, struct.pack("<I", 2**32 - 1) + tlv(1, name.encode()), STREAM_INFO)
                return struct.unpack_from("<4xI8xQ", said)
            except Elsewhere as shard:
                self.ask_at(self.server[0], self.server[1] - self.shard + shard.args[0])
            except Lost:
                self.open()

    def publish(self, stream, payloads):
        """Publishes messages, and returns when all are durable; it goes on over sessions."""
        first = self.accepted_to + 1
        last = first + len(payloads) - 1
        unsent, wait = first, 0.001

        def send(number, end, is_again):
            """Sends what fits a datagram of numbers up to `end`; the first that was not sent."""
            begin, parts, room = number, [], self.room - 4 - 16 - 12
            while number < end and (size := len(payloads[number - first])) <= room:
                if not is_again and (number > self.max_seq or self.bytes + size > self.max_bytes):
                    break
                self.bytes += 0 if is_again else size
                parts.append(signed(self.producer_id, number, stream, payloads[number - first]))
                room, number = room - size - 12, number + 1
            if parts:
                self.say(frame(PUBLISH, struct.pack("<IHxxQ", stream, len(parts), begin) + b"".join(parts)))
            return number

        while self.durable_to < last:
            try:
                while (end := send(unsent, last + 1, False)) > unsent:
                    unsent = end
                heard = self.hear(wait)
                for kind, body in heard:
                    if kind == ACK:
                        wait = 0.001
                        self.acknowledged(body)
                    for again, to in struct.iter_unpack("<QQ", body) if kind == NAK else ():
                        while again <= to:
                            again = send(again, to + 1, True)
                if not heard:
                    wait = min(2 * wait, 0.1)
                    self.say(frame(PROBE, struct.pack("<QQ", unsent, self.receipts_to)))
            except Lost:
                self.open()
                unsent = self.accepted_to + 1

    def acknowledged(self, body):
        _, _, durable_to, max_seq, max_bytes = struct.unpack_from("<5Q", body)
        receipts_from, runs = struct.unpack_from("<QH", body, 72)
        self.durable_to, self.max_seq = max(self.durable_to, durable_to), max(self.max_seq, max_seq)
        self.max_bytes, self.receipts_to = max(self.max_bytes, max_bytes), max(self.receipts_to, receipts_from - 1)
        for run in range(runs):
            first_seq, sequence, _, count, stream = struct.unpack_from("<QQQII", body, 88 + 40 * run)
            if first_seq <= self.receipts_to + 1 < first_seq + count:
                self.receipts_to = first_seq + count - 1
                if sequence:
                    self.witness = (stream, sequence + count - 1, self.lineage)

    def consume(self, stream, start, count):
        """Payloads of `count` messages from sequence `start` on."""
        expected, lineage, taken = start, 0, []
        while len(taken) < count:
            try:
                ask = struct.pack("<IBxxxIQQ", stream, 2, WINDOW, expected, lineage)
                sub, told = self.ask(SUBSCRIBE, ask, SUBSCRIBED)[:4], time.monotonic()
                told_at = expected
                while len(taken) < count:
                    is_behind = False
                    for kind, body in self.hear(0.05):
                        if kind == HEARTBEAT and body[:4] == sub:
                            is_behind |= int.from_bytes(body[8:], "little") > expected
                        if kind != DATA or body[:4] != sub:
                            continue
                        first, of = struct.unpack_from("<QQ", body, 8)
                        if first > expected:
                            is_behind = True
                            continue
                        for sequence, payload in records_of(body[24:]):
                            if sequence == expected:
                                taken.append(payload)
                                expected, lineage = expected + 1, of
                    if is_behind or expected - told_at > WINDOW // 2 or time.monotonic() - told > 0.05:
                        self.say(frame(STATUS, struct.pack("<4sIQQ", sub, is_behind, expected, expected + WINDOW)))
                        told, told_at = time.monotonic(), expected
            except Lost:
                self.open()
        return taken[:count]


def main():
    path, server, stream, count = sys.argv[1:]
    with open(path, "rb") as file:
        client = Client(tomllib.load(file), server)
    stream, start = client.create(stream)
    payloads = [f"message {number}".encode() * (1 + number % 7) for number in range(int(count))]
    print(f"publishing from {start} on in stream {stream}", flush=True)
    client.publish(stream, payloads)
    print(f"{count} durable", flush=True)
    found = client.consume(stream, start, len(payloads))
    if found != payloads:
        raise Failed("what was read is not what was published")
    client.say(frame(CLOSE, struct.pack("<HHxxxx", 0, 1)))
    print(f"{len(found)} read back")


if __name__ == "__main__":
    try:
        main()
    except Failed as failed:
        sys.exit(f"client.py: {failed}")
