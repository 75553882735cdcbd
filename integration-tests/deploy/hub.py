"""A hub for tests: every repository on it is one small LoRA. Prints its port, then serves until it is ended."""

import hashlib
import http.server
import json
import re
import struct
import sys

FILE = "pytorch_lora_weights.safetensors"


def lora():
    """Two tensors of zeros in the safetensors format."""
    layer = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    header = {
        f"{layer}.lora_A.weight": {"dtype": "F32", "shape": [4, 8], "data_offsets": [0, 128]},
        f"{layer}.lora_B.weight": {"dtype": "F32", "shape": [8, 4], "data_offsets": [128, 256]},
    }
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(256)


class Hub(http.server.BaseHTTPRequestHandler):
    """HuggingFace's calls that fetching a model makes."""

    content = lora()

    def do_GET(self):
        """A list of files, or a piece of the file."""
        if self.path.startswith("/api/models/"):
            body = json.dumps({"siblings": [{"rfilename": FILE}], "sha": "0123abcd"}).encode()
            self.send_response(200)
        else:
            first, last = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"]).groups()
            body = self.content[int(first) : int(last) + 1 if last else None]
            self.send_response(206)
            self.send_header("ETag", f'"{hashlib.sha256(self.content).hexdigest()}"')
            self.send_header("X-Repo-Commit", "0123abcd")
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(body) - 1}/{len(self.content)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Nothing."""


if __name__ == "__main__":
    server = http.server.ThreadingHTTPServer((sys.argv[1], 0), Hub)
    print(server.server_port, flush=True)
    server.serve_forever()
