"""Drives one stream through a runner with pytrickle's own publisher and subscriber, and prints what it saw as JSON.

Usage: drive.py RUNNER CHANNELS STREAM FOLDER

RUNNER is the runner's address, CHANNELS the URL above the stream's channels, STREAM its name, FOLDER holds the input
segments 0.ts, 1.ts … of two seconds each.

The package's own __init__ imports its processing side, which needs torch, OpenCV and more; the client side needs none of
them, so its modules are imported one by one, as they are.
"""

import asyncio
import importlib.util
import json
import pathlib
import sys
import time
import types

import aiohttp

found = importlib.util.find_spec("pytrickle")
package = types.ModuleType("pytrickle")
package.__path__ = list(found.submodule_search_locations)
sys.modules["pytrickle"] = package

from pytrickle.publisher import TricklePublisher  # noqa: E402
from pytrickle.subscriber import TrickleSubscriber  # noqa: E402


async def read(url, into):
    """Every segment of a channel, until it ends."""
    async with TrickleSubscriber(url, start_seq=0) as subscriber:
        while segment := await subscriber.next():
            whole = b""
            while chunk := await segment.read():
                whole += chunk
            into.append(whole)


async def main(runner, channels, stream, folder):
    url = {name: f"{channels}{stream}{suffix}" for name, suffix in [
        ("subscribe_url", ""), ("publish_url", "-out"), ("control_url", "-control"),
        ("events_url", "-events"), ("data_url", "-data")]}
    seen = {"output": [], "events": [], "data": []}
    readers = [asyncio.create_task(read(url[name], seen[key])) for name, key in [
        ("publish_url", "output"), ("events_url", "events"), ("data_url", "data")]]
    said = {}
    async with aiohttp.ClientSession() as http:
        async def call(name, method, path, body=None):
            async with http.request(method, f"{runner}{path}", json=body) as answer:
                said[name] = {"status": answer.status, "body": await answer.json()}

        params = {"width": 384, "height": "384", "max_framerate": 30, "frame_ms": 1, "load_ms": 0, "say_every": 30}
        start = dict(url, gateway_request_id=stream, params=params, figures=True)
        await call("start", "POST", "/stream/start", start)
        await call("second", "POST", "/stream/start", dict(start, gateway_request_id="another"))
        async with TricklePublisher(url["control_url"], "application/json") as control:
            async with TricklePublisher(url["subscribe_url"], "video/mp2t") as source:
                for number, file in enumerate(sorted(pathlib.Path(folder).glob("*.ts"), key=lambda file: int(file.stem))):
                    began = time.monotonic()
                    whole = file.read_bytes()
                    async with await source.next() as segment:
                        for piece in range(0, len(whole), max(1, len(whole) // 40)):
                            await segment.write(whole[piece:piece + max(1, len(whole) // 40)])
                            await asyncio.sleep(0.04)
                    if number == 0:
                        async with await control.next() as message:
                            await message.write(json.dumps({"load_ms": 0, "frame_ms": 2, "width": 384, "height": 384,
                                                            "say_every": 30}).encode())
                    if number == 1:
                        await call("params", "POST", "/stream/params", {"frame_ms": 3, "load_ms": 0, "say_every": 30})
                        await call("bad", "POST", "/stream/params", {"frame_ms": -1})
                        await call("status", "GET", "/stream/status")
                    await asyncio.sleep(max(0, 2 - (time.monotonic() - began)))
        await call("stop", "POST", "/stream/stop", {})
        await asyncio.wait_for(asyncio.gather(*readers), 30)
        await call("after", "GET", "/stream/status")
    pathlib.Path(folder, "out.ts").write_bytes(b"".join(seen["output"]))
    events = [json.loads(event) for event in seen["events"] if event]
    data = [item for line in seen["data"] if line for item in json.loads(line)]
    print(json.dumps({"said": said, "segments": len(seen["output"]), "events": events, "data": data}))


asyncio.run(main(*sys.argv[1:]))
