"use strict";

// The format is in FORMAT.md: a prefix of 7 bytes, then chunks of at most 64 KiB, each sealed with AES-256-GCM.
const PREFIX = 7, TAG = 16, CHUNK = 65536 + TAG, PADDING_HEADER = 48;
const MERGE = 16 * 1024 * 1024;

class Wrong extends Error {}

const part = (id) => document.getElementById(id);

function say(text, isWrong) {
  part("say").textContent = text;
  part("say").className = isWrong ? "wrong" : "";
}

function bytesOf(text) {
  try {
    const plain = atob(text.replace(/-/g, "+").replace(/_/g, "/"));
    return Uint8Array.from(plain, (character) => character.charCodeAt(0));
  } catch {
    return new Uint8Array();
  }
}

function sizeOf(count) {
  const units = ["bytes", "KiB", "MiB", "GiB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) { count /= 1024; unit += 1; }
  return `${unit ? count.toFixed(1) : count} ${units[unit]}`;
}

// Takes the pieces of a file as they come and keeps what they decrypt to. A chunk is the last one if nothing follows it, and was sealed as
// the last one: so a file that was cut off between two chunks does not open.
class Opener {
  constructor(key) {
    this.key = key;
    this.nonce = new Uint8Array(12);
    this.head = 0;
    this.chunk = new Uint8Array(CHUNK);
    this.filled = 0;
    this.counter = 0;
    this.plain = [];
    this.loose = 0;
    this.size = 0;
  }

  async take(piece) {
    let at = Math.min(PREFIX - this.head, piece.length);
    this.nonce.set(piece.subarray(0, at), this.head);
    this.head += at;
    while (at < piece.length) {
      if (this.filled === CHUNK) await this.open(0);
      const count = Math.min(CHUNK - this.filled, piece.length - at);
      this.chunk.set(piece.subarray(at, at + count), this.filled);
      this.filled += count;
      at += count;
    }
  }

  async end() {
    if (this.filled < TAG) throw new Wrong("The file is not whole: it was cut off. Nothing was saved.");
    await this.open(1);
    return new Blob(this.plain, { type: "application/octet-stream" });
  }

  async open(last) {
    if (this.counter > 0xffffffff) throw new Wrong("The file is longer than such a file can be. Nothing was saved.");
    new DataView(this.nonce.buffer).setUint32(PREFIX, this.counter);
    this.nonce[11] = last;
    let opened;
    try {
      opened = await crypto.subtle.decrypt({ name: "AES-GCM", iv: this.nonce }, this.key, this.chunk.subarray(0, this.filled));
    } catch {
      throw new Wrong(this.counter === 0
        ? "The key in the address is not the key of this file, or the file was changed. Nothing was saved."
        : "The file was changed or cut off on its way. Nothing was saved.");
    }
    this.counter += 1;
    this.filled = 0;
    this.plain.push(opened);
    this.size += opened.byteLength;
    this.loose += opened.byteLength;
    // A browser may keep blobs on its disk, and buffers only in memory.
    if (this.loose >= MERGE) {
      this.plain = [new Blob(this.plain)];
      this.loose = 0;
    }
  }
}

async function unpadded(blob) {
  const head = new DataView(await blob.slice(0, PADDING_HEADER).arrayBuffer());
  const magic = Array.from("bentopad", (character) => character.charCodeAt(0));
  const size = head.byteLength === PADDING_HEADER ? Number(head.getBigUint64(8)) : Infinity;
  if (!magic.every((byte, at) => at < head.byteLength && head.getUint8(at) === byte) || PADDING_HEADER + size > blob.size) {
    throw new Wrong("What is in the file is not what its address says. Nothing was saved.");
  }
  return blob.slice(PADDING_HEADER, PADDING_HEADER + size, "application/octet-stream");
}

async function fetched(bytes) {
  const key = await crypto.subtle.importKey("raw", bytes, "AES-GCM", false, ["decrypt"]);
  const broke = "The connection broke before all of it was here. Nothing was saved; try again.";
  let response;
  try {
    response = await fetch(`${location.pathname.replace(/\/+$/, "")}/raw`, { cache: "no-store", credentials: "omit", referrerPolicy: "no-referrer" });
  } catch {
    throw new Wrong(broke);
  }
  if (!response.ok) throw new Wrong(`The file is no longer there, or was fetched as often as its sender allowed (status ${response.status}).`);
  const total = Number(response.headers.get("content-length")) || 0;
  const opener = new Opener(key);
  const reader = response.body.getReader();
  let count = 0;
  for (;;) {
    let step;
    try {
      step = await reader.read();
    } catch {
      throw new Wrong(broke);
    }
    if (step.done) break;
    await opener.take(step.value);
    count += step.value.length;
    if (total) part("progress").value = count / total;
    say(total ? `${sizeOf(count)} of ${sizeOf(total)}` : sizeOf(count));
  }
  if (total && count !== total) throw new Wrong(broke);
  return opener.end();
}

function start() {
  const given = new URLSearchParams(location.hash.slice(1));
  const key = bytesOf(given.get("k") || "");
  const name = (given.get("n") || "file").replace(/[\u0000-\u001f\u007f\/\\:*?"<>|\u202a-\u202e\u2066-\u2069]/g, "_").slice(0, 200);
  part("name").textContent = name;
  part("name").hidden = !given.get("n");
  if (key.length !== 32) {
    say("The address has no key in it: it was not copied to its end. Ask its sender for all of it.", true);
    return;
  }
  if (!window.crypto || !crypto.subtle) {
    say("This browser does not decrypt on this page. Tor Browser does, and so does the program bento.", true);
    return;
  }
  part("fetch").hidden = false;
  part("fetch").addEventListener("click", async () => {
    part("fetch").disabled = true;
    part("progress").hidden = false;
    part("progress").value = 0;
    say("…");
    try {
      let blob = await fetched(key);
      if (given.get("p") === "1") blob = await unpadded(blob);
      part("save").href = URL.createObjectURL(blob);
      part("save").download = name;
      part("save").click();
      part("fetch").hidden = true;
      part("again").hidden = false;
      say(`Decrypted and whole: ${sizeOf(blob.size)}.`);
    } catch (error) {
      say(error instanceof Wrong ? error.message : `This did not work: ${error.message}. Nothing was saved.`, true);
      part("fetch").disabled = false;
    }
    part("progress").hidden = true;
  });
}

window.addEventListener("hashchange", () => location.reload());
start();
