// Opens a trace in Perfetto's own trace processor and prints what queries give, one JSON array of rows a line.
//   node query.mjs FOLDER TRACE QUERY…
// FOLDER holds Perfetto's page as it is published: engine_bundle.js and trace_processor*.wasm.
import fs from "node:fs";
import path from "node:path";
import vm from "node:vm";

const [folder, trace, ...queries] = process.argv.slice(2);

// The bundle is a worker of the page: it takes a port, and bytes of TraceProcessorRpcStream over it. Numbers of fields are
// those of Perfetto's trace_processor.proto.
const APPEND = 1, FINALIZE = 2, QUERY = 3;
const varint = (n) => {
  const out = [];
  for (; n > 127; n = Math.floor(n / 128)) out.push((n % 128) | 128);
  return [...out, n];
};
const field = (number, bytes) => Buffer.concat([Buffer.from([...varint(number * 8 + 2), ...varint(bytes.length)]), bytes]);
const number = (id, value) => Buffer.from([...varint(id * 8), ...varint(value)]);

// A message as a list of [field, value]; values of wire type 2 are bytes.
function* read(bytes) {
  let at = 0;
  const next = () => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = bytes[at++];
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const key = Number(next());
    const kind = key & 7;
    if (kind === 0) yield [key >> 3, next()];
    else if (kind === 1) yield [key >> 3, bytes.subarray(at, (at += 8))];
    else if (kind === 2) {
      const size = Number(next());
      yield [key >> 3, bytes.subarray(at, (at += size))];
    } else if (kind === 5) yield [key >> 3, bytes.subarray(at, (at += 4))];
    else throw new Error(`wire type ${kind}`);
  }
}
const varints = (bytes) => {
  const all = [];
  for (let at = 0; at < bytes.length; ) {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = bytes[at++];
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) break;
    }
    all.push(Number(BigInt.asIntN(64, value)));
  }
  return all;
};

const answers = [];
let woken = () => {};
let left = Buffer.alloc(0);
const port = {
  onmessage: null,
  postMessage(bytes) {
    left = Buffer.concat([left, Buffer.from(bytes)]);
    // A piece may end within a message.
    for (;;) {
      let size = 0, at = 1, shift = 1;
      if (left.length < 2) break;
      for (; at < left.length; at++, shift *= 128) {
        size += (left[at] & 127) * shift;
        if (left[at] < 128) break;
      }
      if (at >= left.length || left.length < at + 1 + size) break;
      answers.push(Object.fromEntries(read(left.subarray(at + 1, at + 1 + size))));
      left = left.subarray(at + 1 + size);
    }
    woken();
  },
};
const answer = async (wanted) => {
  for (;;) {
    const found = answers.shift();
    if (!found) await new Promise((resolve) => (woken = resolve));
    else if (found[5]) throw new Error(Buffer.from(found[5]).toString());
    else if (Number(found[3]) === wanted) return found;
  }
};
let sequence = 0;
const send = (...parts) => {
  const message = Buffer.concat([number(1, sequence++), ...parts]);
  port.onmessage({ data: new Uint8Array(field(1, message)) });
};

const file = (url) => fs.readFileSync(path.join(folder, path.basename(url)));
const { log } = console;
const { exit } = process;
// What the bundle wants to find around it, and node's own mark gone.
Object.assign(globalThis, {
  self: globalThis,
  WorkerGlobalScope: class {},
  location: { href: "http://localhost/engine_bundle.js" },
  process: undefined,
  fetch: async (url) => new Response(file(url), { headers: { "content-type": "application/wasm" } }),
  XMLHttpRequest: class {
    open(_, url) {
      this.url = url;
    }
    send() {
      this.response = new Uint8Array(file(this.url)).buffer;
    }
  },
});
console.log = console.error = () => {};
vm.runInThisContext(file("engine_bundle.js").toString(), { filename: "engine_bundle.js" });
self.onmessage({ data: port });
// It finds its memory behind the start, in a turn of its own.
await new Promise((resolve) => setTimeout(resolve));

// Rows of a QueryResult: names, then cells by type.
function* rows(result) {
  const names = [], batches = [];
  for (const [id, value] of read(result)) {
    if (id === 1) names.push(Buffer.from(value).toString());
    else if (id === 2) throw new Error(Buffer.from(value).toString());
    else if (id === 3) batches.push(value);
  }
  let row = [];
  for (const batch of batches) {
    const cells = { kinds: [], ints: [], floats: [], texts: [] };
    for (const [id, value] of read(batch)) {
      if (id === 1) cells.kinds = varints(value);
      else if (id === 2) cells.ints.push(...varints(value));
      else if (id === 3) for (let at = 0; at < value.length; at += 8) cells.floats.push(Buffer.from(value).readDoubleLE(at));
      else if (id === 5) cells.texts.push(...Buffer.from(value).toString().split("\0"));
    }
    for (const kind of cells.kinds) {
      row.push(kind === 1 ? null : kind === 2 ? cells.ints.shift() : kind === 3 ? cells.floats.shift() : cells.texts.shift());
      if (row.length === names.length) {
        yield row;
        row = [];
      }
    }
  }
}

send(number(2, APPEND), field(101, fs.readFileSync(trace)));
await answer(APPEND);
send(number(2, FINALIZE));
await answer(FINALIZE);
for (const query of queries) {
  send(number(2, QUERY), field(103, field(1, Buffer.from(query))));
  const given = await answer(QUERY);
  log(JSON.stringify([...rows(given[203])]));
}
exit(0);
