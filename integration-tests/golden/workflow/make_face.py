"""Makes the golden vectors of the face nodes: MediaPipe's own FaceMesh on two small networks with made-up weights, its drawing
utilities, and OpenCV.

    python3.12 -m venv venv && venv/bin/pip install -r requirements-face.txt
    venv/bin/python make_face.py

make_face_models.py writes the networks to mediapipe/; they stand in for the real ones in a copy of the package.
"""

import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import cv2
import numpy as np
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).parent
MODELS = HERE / "mediapipe"
PLACES = {"face_detection_short_range.tflite": "face_detection", "face_landmark.tflite": "face_landmark"}


def spiral(count, centre, radius):
    """Points that fill a disc, each far from the one before."""
    i = np.arange(count)
    r, turn = np.sqrt((i + 0.5) / count) * radius, i * 2.399963
    return np.stack([centre + r * np.cos(turn), centre + r * np.sin(turn), r * np.sin(3 * turn) / 4], 1)


def picture(index, width, height, second=False):
    """Grey waves, a red square that moves, at times a second one or none: u8 (H, W, 3)."""
    y, x, c = np.mgrid[:height, :width, :3]
    out = 40 + (x * 3 + y * 2 + index * 11) % 256 // 4
    places = [] if index == 4 else [(40 + 5 * index, 50 + 3 * index)] + [(118 - 2 * index, 60)] * second
    for left, top in places:
        dx, dy = x - left, y - top
        inside = (abs(dx) < 18) & (abs(dy) < 22)
        out = np.where(inside, np.array([225, 80, 60])[c] + dx - 2 * dy * (c == 1), out)
    return out.astype(np.uint8)


def frame(index, size):
    """The moving picture of ../streamdiffusion/synthetic.py."""
    left, top = (index * 7) % (size - 16), (index * 5) % (size - 16)
    y, x, c = np.mgrid[:size, :size, :3]
    wave = (x * 6 + y * 4 + c * 90 + index * 23) % 512
    inside = (left <= x) & (x < left + 16) & (top <= y) & (y < top + 16)
    return np.where(inside, 230 - 60 * c, np.minimum(wave, 511 - wave)).astype(np.uint8)


def stand_in(root):
    """MediaPipe with the small networks, below `root`."""
    source = pathlib.Path(importlib.util.find_spec("mediapipe").origin).parent
    shutil.copytree(source, root / "mediapipe", copy_function=os.symlink)
    os.symlink(source.parent / "mediapipe.libs", root / "mediapipe.libs")
    for name, folder in PLACES.items():
        path = root / "mediapipe" / "modules" / folder / name
        path.unlink()
        shutil.copy(MODELS / name, path)
    sys.path.insert(0, str(root))


def landmarks(results):
    faces = results.multi_face_landmarks or []
    return np.array([[(p.x, p.y, p.z) for p in face.landmark] for face in faces], np.float32).reshape(-1, 468, 3)


def through(picture):
    """Bytes as the node has them, which are cut off from what ComfyUI made of bytes."""
    return (picture.astype(np.float32) / 255 * 255).astype(np.uint8)


def followed(mesh, pictures):
    every = [landmarks(mesh.process(through(picture))) for picture in pictures]
    return np.concatenate(every), np.array([len(faces) for faces in every], np.float32)


def drawn(faces, width, height, thickness):
    """What FaceMeshNode draws: each part in its colour, on black."""
    from mediapipe.framework.formats import landmark_pb2
    from mediapipe.python.solutions import drawing_utils, face_mesh_connections as joins

    parts = [("FACE_OVAL", (10, 200, 10)), ("LEFT_EYE", (180, 200, 10)), ("LEFT_EYEBROW", (180, 220, 10)),
             ("RIGHT_EYE", (10, 200, 180)), ("RIGHT_EYEBROW", (10, 220, 180)), ("LIPS", (10, 180, 10))]
    style = {}
    for name, colour in parts:
        for join in getattr(joins, f"FACEMESH_{name}"):
            style[join] = drawing_utils.DrawingSpec(color=colour, thickness=thickness)
    out = np.zeros((height, width, 3), np.uint8)
    for face in faces:
        points = [landmark_pb2.NormalizedLandmark(x=x, y=y, z=z) for x, y, z in face.tolist()]
        drawing_utils.draw_landmarks(out, landmark_pb2.NormalizedLandmarkList(landmark=points), list(style), None, style)
    return out[:, :, ::-1].copy()


FACE = [10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149, 150, 136, 172,
        58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109, 10]
REGIONS = {
    "mouth": [61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146],
    "left_eye": [263, 249, 390, 373, 374, 380, 381, 382, 362, 263, 466, 388, 387, 386, 385, 384, 398, 362],
    "right_eye": [33, 7, 163, 144, 145, 153, 154, 155, 133, 33, 246, 161, 160, 159, 158, 157, 173, 133],
    "nose": [168, 6, 197, 195, 5, 4, 1, 19, 94, 2, 164, 0, 11, 12, 13, 14, 15, 16, 17, 18, 200, 199, 175],
    "left_eyebrow": [276, 283, 282, 295, 285, 300, 293, 334, 296, 336],
    "right_eyebrow": [46, 53, 52, 65, 55, 70, 63, 105, 66, 107],
    "whole_face": FACE,
    "face_oval": FACE,
}


def mask(face, width, height, region, fill=True, grow=0, blur=0):
    """What FaceMeshMaskNode makes, in bytes."""
    points = (face[REGIONS[region], :2].astype(np.float64) * [width, height]).astype(np.int32)
    out = np.zeros((height, width), np.uint8)
    if not fill:
        cv2.polylines(out, [points], True, 255, 2)
    elif region in ("mouth", "whole_face", "face_oval"):
        cv2.fillConvexPoly(out, cv2.convexHull(points), 255)
    else:
        cv2.fillPoly(out, [points], 255)
    if grow:
        out = cv2.dilate(out, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (grow, grow)))
    return cv2.GaussianBlur(out, (2 * blur + 1,) * 2, 0) if blur else out


def drawing_vectors():
    width, height = 97, 71
    faces = [spiral(468, 0.5, radius) for radius in (0.45, 0.7)]
    faces = np.stack([face + [0.02 * k, -0.05 * k, 0] for k, face in enumerate(faces)]).astype(np.float32)
    out = {"drawing/faces": faces, "drawing/2": drawn(faces, width, height, 2)}
    # Of the others only where something is drawn, to save space.
    for thickness in (1, 3, 5):
        out[f"drawing/{thickness}"] = np.packbits(drawn(faces, width, height, thickness).any(-1))
    for k, face in enumerate(faces):
        for region in REGIONS:
            out[f"mask/{k}/{region}/1/0/0"] = np.packbits(mask(face, width, height, region))
    for region, fill, grow, blur in [("left_eye", 0, 0, 0), ("mouth", 0, 0, 0), ("nose", 1, 1, 0), ("mouth", 1, 6, 0),
                                     ("right_eyebrow", 0, 13, 0), ("mouth", 1, 0, 1), ("nose", 1, 0, 4), ("left_eye", 1, 3, 20)]:
        made = mask(faces[1], width, height, region, bool(fill), grow, blur)
        out[f"mask/1/{region}/{fill}/{grow}/{blur}"] = made if blur else np.packbits(made)
    return out


def mesh_vectors():
    from mediapipe.python.solutions.face_mesh import FaceMesh

    out = {}
    for name, settings, indices, second in [
        ("one", dict(max_num_faces=1), range(8), False),
        ("still", dict(static_image_mode=True), [1, 4, 6], False),
        ("two", dict(max_num_faces=2), [0, 2, 3, 5], True),
    ]:
        with FaceMesh(**settings) as mesh:
            faces, counts = followed(mesh, [picture(i, 160, 120, second) for i in indices])
        print(name, counts, [face[:, :2].mean(0).round(3).tolist() for face in faces])
        out[f"{name}/faces"], out[f"{name}/counts"] = faces, counts
    # The picture that the workflows' tests stream: it stays, so that the face is found and then followed.
    with FaceMesh() as mesh:
        for i in range(2):
            faces = landmarks(mesh.process(through(frame(3, 64))))
            assert len(faces) == 1
            out[f"frame/{i}"] = drawn(faces, 64, 64, 2)
    return out


if __name__ == "__main__":
    # A process holds one MediaPipe: this one is the copy.
    subprocess.run([sys.executable, HERE / "make_face_models.py"], check=True)
    with tempfile.TemporaryDirectory() as root:
        stand_in(pathlib.Path(root))
        vectors = {**mesh_vectors(), **drawing_vectors()}
    path = HERE / "face.safetensors"
    save_file({name: np.ascontiguousarray(value) for name, value in vectors.items()}, path)
    path.chmod(0o644)
    assert path.stat().st_size < 200_000, path.stat()
