#!/usr/bin/env python3
"""Checks session-v1.json against docs/protocol.md: check.py [VECTORS PAGE]

Layouts and ranges are read from the page's tables, as somebody reads them who writes a client; keys and seals are
computed by the packages noiseprotocol and cryptography. Nothing here shares code with the appliance.
"""

import json
import re
import struct
import sys
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from noise.connection import Keypair, NoiseConnection

from wire import NOISE, Failed, Generation, Receiving, k1_of, key_of, noise_of, secrets_of, siphash, with_mac

HERE = Path(__file__).resolve().parent
FIELD = re.compile(r"(\w*?[a-zA-Z_])(\d+)(>0|[<>]=\w+|\[\d+\.\.\d+\])?")
BELOW = 1 << 63
ANYTHING = ("lineage", "sack", "detail")
unhex = bytes.fromhex
checks = 0


class Malformed(Exception):
    """What is to be dropped."""


def same(what, one, other):
    global checks
    checks += 1
    if one != other:
        sys.exit(f"check.py: {what}: {one} is not {other}")


def demand(holds):
    if not holds:
        raise Malformed


class Layout:
    """Fields one behind the other, as the page writes them."""

    def __init__(self, text):
        matches = [FIELD.fullmatch(word) for word in text.split()]
        self.fields = [(name, int(size), limit or "") for name, size, limit in (match.groups() for match in matches)]
        self.size = sum(size for _, size, _ in self.fields)

    def read(self, data, is_frame=True):
        """The fields by name, each in its range."""
        demand(len(data) >= self.size)
        found, at = {}, 0
        for name, size, limit in self.fields:
            value = found[name] = int.from_bytes(data[at : at + size], "little")
            at += size
            demand(name != "z" or value == 0)
            is_number = is_frame and size == 8 and not name.endswith(ANYTHING)
            demand(not is_number or value < BELOW)
            if between := re.fullmatch(r"\[(\d+)\.\.(\d+)\]", limit):
                demand(int(between[1]) <= value <= int(between[2]))
            demand(limit != ">0" or value > 0)
            if bound := re.fullmatch(r"([<>])=(\w+)", limit):
                other = int(bound[2]) if bound[2].isdigit() else found[bound[2]]
                demand(value <= other if bound[1] == "<" else value >= other)
        return found


def is_layout(text):
    return text and all(FIELD.fullmatch(word) for word in text.split())


class Page:
    def __init__(self, text):
        self.datagrams, self.frames = {}, {}
        for row in re.findall(r"^\| (.*) \|$", text, re.M):
            cells = row.split(" | ")
            for layout, size in re.findall(r"`([^`]*)`, (\d+) bytes", cells[-1]):
                same(f"bytes of {layout}", Layout(layout).size, int(size))
            layouts = [Layout(layout) for layout in re.findall(r"`([^`]*)`", cells[-1]) if is_layout(layout)]
            if re.fullmatch("`0x..`", cells[0]):
                self.datagrams[int(cells[0].strip("`"), 16)] = (cells[1], layouts[0])
            elif cells[0].isdigit():
                self.frames[int(cells[0])] = (cells[1], cells[2], layouts, "+T" in cells[3])
        self.hello, self.accept = (
            Layout(" ".join(re.search(rf"^{name} =\d+ +(.*?), and", text, re.M | re.S)[1].split())) for name in ("P1", "P2")
        )

    def datagram(self, data):
        """Whether a datagram is looked at."""
        demand(data)
        kind = data[0]
        if kind & 15 == 1 and kind > 0x1F:  # INIT of a later version
            demand(len(data) == 256 and data[8:16] != bytes(8))
            return
        demand(kind in self.datagrams)
        name, layout = self.datagrams[kind]
        fields = layout.read(data, is_frame=False)
        if name in ("SEALED", "PLAIN"):
            demand(name == "PLAIN" or len(data) >= 36)
            return
        demand(len(data) == layout.size)
        if name == "INIT":
            is_plain = fields["suites"] == 0x8000
            demand(fields["suites"] & 1 or is_plain)
            if is_plain:
                self.plain(data, self.hello, 112, data[32:112] + data[160:176])
        if name == "RESP":
            demand(fields["suite"] in (1, 0x8000))
            if fields["suite"] == 0x8000:
                says = self.plain(data, self.accept, 48, data[16:48] + data[128:])
                opens = says["suite"] == 0x8000 and says["server_id"] and 576 <= says["datagram_bytes"] <= 8972
                opens = opens and says["shard"] < says["shards"] <= 64
                demand(says["server_id"] == 0 if says["status"] else opens)

    @staticmethod
    def plain(data, layout, at, zeros):
        demand(zeros == bytes(len(zeros)))
        return layout.read(data[at : at + layout.size], is_frame=False)

    def body(self, kind, body):
        name, _, layouts, has_tlvs = self.frames[kind]
        if name == "PAD":
            demand(body == bytes(len(body)))
            return
        if name == "NAK":
            demand(1 <= len(body) / 16 <= 16 and len(body) % 16 == 0)
            ranges = [layouts[0].read(body[at : at + 16]) for at in range(0, len(body), 16)]
            demand(all(one["last"] < other["first"] for one, other in zip(ranges, ranges[1:])))
            return
        fields, rest = layouts[0].read(body), body[layouts[0].size :]
        if has_tlvs:
            self.tlvs(name, fields, rest)
        elif name == "PUBLISH":
            demand(fields["first_seq"] + fields["count"] < BELOW)
            for _ in range(fields["count"]):
                size = layouts[1].read(rest)["len"]
                demand(len(rest) >= layouts[1].size + size)
                rest = rest[layouts[1].size + size :]
            demand(not rest)
        elif name == "ACK":
            demand(len(rest) == fields["runs"] * layouts[1].size)
            end = 0
            for at in range(0, len(rest), layouts[1].size):
                run = layouts[1].read(rest[at:])
                demand(end <= run["first_seq"])
                end = run["first_seq"] + run["count"]
                demand(run["first_seq"] + run["count"] < BELOW and run["first_sequence"] + run["count"] < BELOW)
        elif name == "DATA":
            demand(fields["first_sequence"] + fields["count"] < BELOW)
            self.records(fields, rest)
        else:
            demand(not rest)

    @staticmethod
    def records(fields, rest):
        streams = set()
        for sequence in range(fields["first_sequence"], fields["first_sequence"] + fields["count"]):
            demand(len(rest) >= 48)
            size, ext_len = int.from_bytes(rest[:4], "little"), int.from_bytes(rest[30:32], "little")
            size_padded = (size + 7) // 8 * 8
            streams.add(rest[24:28])
            demand(int.from_bytes(rest[32:40], "little") == sequence and ext_len <= size)
            demand(len(rest) >= 48 + size_padded and len(streams) == 1)
            rest = rest[48 + size_padded :]
        demand(not rest)

    @staticmethod
    def tlvs(name, fields, rest):
        found = {}
        while rest:
            demand(len(rest) >= 4)
            kind, size = struct.unpack_from("<HH", rest)
            padded = (size + 3) // 4 * 4
            value, padding = rest[4 : 4 + size], rest[4 + size : 4 + padded]
            demand(len(rest) >= 4 + padded and padding == bytes(len(padding)))
            demand(kind in (1, 2) or kind & 0x8000)
            if kind in (1, 2):
                demand(kind not in found and (kind == 1 or size <= 255))
                try:
                    found[kind] = value.decode()
                except UnicodeDecodeError:
                    raise Malformed from None
            rest = rest[4 + padded :]
        limit = 40 if name == "REGISTER" else 64
        if name == "ERROR":
            return
        if name == "REGISTER":
            want = fields["want"] & 0x7FFF
            demand(want <= 3 and (want == 3) == (1 in found))
            if want != 3:
                return
        demand(re.fullmatch(r"[A-Za-z0-9_\-/:][A-Za-z0-9._\-/:]*", found.get(1, "")) and len(found[1]) <= limit)

    def takes(self, frames, by):
        """Whether frames of a side are all taken."""
        try:
            while frames:
                demand(len(frames) >= 4)
                kind, zero, size = struct.unpack_from("<BBH", frames)
                demand(len(frames) >= 4 + size)
                body, frames = frames[4 : 4 + size], frames[4 + size :]
                if kind >= 128:
                    continue
                demand(kind in self.frames and zero == 0)
                demand(self.frames[kind][1] in ("both", "C" if by == "client" else "S"))
                self.body(kind, body)
        except Malformed:
            return False
        return True


def public(secret):
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def check_keys(vectors):
    keys = {name: unhex(key) for name, key in vectors["keys"].items()}
    for who in ("server", "client"):
        same(f"{who}_public", public(keys[f"{who}_secret"]), keys[f"{who}_public"])
    same("k1", k1_of(keys["server_public"]).hex(), vectors["k1"])
    same("k1_plain", k1_of(bytes(32)).hex(), vectors["k1_plain"])
    for text in vectors["key_texts"]:
        try:
            found = key_of(text["prefix"], text["text"]).hex()
        except Failed:
            found = None
        same(text["text"], found, text["key"])
    return keys


def check_asked(asked, k1):
    """INIT, RETRY, and INIT again."""
    init, retry, again = (unhex(asked[name]) for name in ("init", "retry", "init_with_cookie"))
    same("INIT, cookie", init[16:32], bytes(16))
    same("INIT", with_mac(init, bytes(16), k1), init)
    same("RETRY", siphash(k1, retry[:32]), retry[32:])
    same("INIT again", with_mac(init, retry[16:32], k1), again)
    return init


def check_handshake(vectors, keys, of):
    psk = unhex(of["psk"]) if of["psk"] else bytes(32)
    init = check_asked(of["asked"], k1_of(keys["server_public"]))
    says, answers = unhex(vectors["hello"]), {"resp": "accept", "resp_refused": "refusal"}
    ephemerals = {"resp": "server_ephemeral", "resp_refused": "refusing_ephemeral"}
    for resp, answer in answers.items():
        datagram, answer = unhex(of[resp]), unhex(vectors[answer])
        asks = noise_of(keys["client_secret"], keys["server_public"], psk, keys["client_ephemeral"], init[:16])
        same("INIT, message", bytes(asks.write_message(says)), init[32:176])
        same("RESP, what is said", bytes(asks.read_message(datagram[16:])), answer)
        same("RESP, head", datagram[:16], bytes([0x13, 0, 1, 0, 0, 0, 0, 0]) + init[8:16])
        answering = NoiseConnection.from_name(NOISE)
        answering.set_as_responder()
        answering.set_prologue(b"buslane1" + init[:16])
        answering.set_psks(psk)
        answering.set_keypair_from_private_bytes(Keypair.STATIC, keys["server_secret"])
        answering.set_keypair_from_private_bytes(Keypair.EPHEMERAL, keys[ephemerals[resp]])
        answering.start_handshake()
        same("INIT, what is said", bytes(answering.read_message(init[32:176])), says)
        same("RESP, message", bytes(answering.write_message(answer)), datagram[16:])
        if resp == "resp":
            begin = [secret.hex() for secret in secrets_of(asks)]
            same("S0", begin, [of["generations"][by][0]["secret"] for by in ("client", "server")])
    for by, generations in of["generations"].items():
        check_sealed([each for each in of["sealed"] if each["from"] == by], generations)


def check_sealed(datagrams, generations):
    generation, receiving = None, Receiving(unhex(generations[0]["secret"]))
    for expected, of in zip(generations, datagrams, strict=True):
        if generation:
            same("next", generation.after.hex(), expected["secret"])
        generation = generation.next() if generation else Generation(unhex(expected["secret"]))
        same("key, iv", (generation.key.hex(), generation.iv.hex()), (expected["key"], expected["iv"]))
        datagram, frames = unhex(of["datagram"]), unhex(of["frames"])
        same("SEALED", generation.seal(of["packet_no"], unhex(of["conn_id"]), frames), datagram)
        same("SEALED, phase", datagram[1], of["phase"])
        for at in range(len(datagram)):
            try:
                generation.open(datagram[:at] + bytes([datagram[at] ^ 1]) + datagram[at + 1 :])
                same("a changed byte", at, None)
            except InvalidTag:
                pass
        same("SEALED, opened", receiving.open(datagram), frames)
        same("SEALED, repeated", receiving.open(datagram), None)


def check_plain(vectors, page):
    plain = vectors["plain"]
    init, hello, accept = check_asked(plain["asked"], k1_of(bytes(32))), unhex(plain["hello"]), unhex(plain["accept"])
    same("INIT, plain", init[32:240], bytes(80) + hello + bytes(80))
    same("RESP, plain", unhex(plain["resp"])[16:], bytes(32) + accept + bytes(16))
    same("PLAIN", unhex(plain["datagram"])[16:], unhex(vectors["handshakes"][0]["sealed"][0]["frames"]))
    reset = vectors["reset"]
    same("RESET", unhex(reset["datagram"]), bytes([0x14]) + bytes(7) + unhex(reset["conn_id"] + reset["token"]))
    versions = unhex(vectors["versions"])
    same("VERSIONS", versions, bytes([5]) + bytes(7) + init[8:16] + bytes([1, 0, 1, 0]) + bytes(12) + versions[32:])
    same("VERSIONS, mac", versions[32:], siphash(k1_of(bytes(32)), versions[:32]))
    made = [init.hex(), plain["resp"], plain["resp_refused"], plain["datagram"], reset["datagram"], vectors["versions"]]
    made += [of["asked"][name] for of in [plain, *vectors["handshakes"]] for name in of["asked"]]
    made += [of[name] for of in vectors["handshakes"] for name in ("resp", "resp_refused")]
    for of in [{"what": "a good one", "takes": True, "datagram": each} for each in made] + vectors["datagrams"]:
        try:
            page.datagram(unhex(of["datagram"]))
            takes = True
        except Malformed:
            takes = False
        same(of["what"], takes, of["takes"])


def check_frames(vectors, page):
    same("kinds", sorted(page.frames), [of["kind"] for of in vectors["frames"]])
    for of in vectors["frames"]:
        body = unhex(of["body"])
        sides = ["client", "server"] if of["from"] == "both" else [of["from"]]
        for by in ("client", "server"):
            takes = lambda body: page.takes(struct.pack("<BxH", of["kind"], len(body)) + body, by)
            same(f"{of['name']} by {by}", takes(body), by in sides)
            for number in of["numbers"] if by in sides else ():
                for verdict in ("takes", "refuses"):
                    for value in map(unhex, number[verdict]):
                        changed = body[: number["at"]] + value + body[number["at"] + len(value) :]
                        what = f"{of['name']}, byte {number['at']}: {value.hex()}"
                        same(what, takes(changed), verdict == "takes")
    for of in vectors["other_frames"]:
        same(of["what"], page.takes(unhex(of["frames"]), of["from"]), of["takes"])


def main():
    vectors, page = sys.argv[1:] or (HERE / "session-v1.json", HERE / "../../docs/protocol.md")
    vectors, page = json.loads(Path(vectors).read_text()), Page(Path(page).read_text())
    keys = check_keys(vectors)
    for handshake in vectors["handshakes"]:
        check_handshake(vectors, keys, handshake)
    check_plain(vectors, page)
    check_frames(vectors, page)
    print(f"{checks} checks")


if __name__ == "__main__":
    main()
