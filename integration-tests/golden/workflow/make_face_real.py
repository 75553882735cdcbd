"""What MediaPipe finds with its own models in a photograph that moves and turns, for a comparison by hand:

    venv/bin/pip install -r requirements-face.txt scikit-image
    venv/bin/python make_face_real.py FOLDER
    WEIR_FACE_REAL=FOLDER cargo test --test integration -- --ignored real_face_models

Models and photograph come from the packages and stay in FOLDER.
"""

import pathlib
import shutil
import sys

import cv2
import mediapipe
import numpy as np
from mediapipe.python.solutions.face_mesh import FaceMesh
from safetensors.numpy import save_file
from skimage.data import astronaut

PLACES = {"face_detection": "face_detection_short_range.tflite", "face_landmark": "face_landmark.tflite"}


def pictures():
    """From step to step 3 pixels aside, 2 down, 2 degrees round, 1 % larger."""
    photograph = astronaut()
    for i in range(12):
        matrix = cv2.getRotationMatrix2D((224, 110), 2 * i, 1 + i / 100)
        matrix[:, 2] += [3 * i, 2 * i]
        yield cv2.warpAffine(photograph, matrix, (512, 512))


def found(results):
    (face,) = results.multi_face_landmarks
    return [(p.x, p.y, p.z) for p in face.landmark]


def main(folder):
    package = pathlib.Path(mediapipe.__file__).parent
    (folder / "mediapipe").mkdir(parents=True, exist_ok=True)
    for place, name in PLACES.items():
        shutil.copy(package / "modules" / place / name, folder / "mediapipe" / name)
    every = list(pictures())
    out = {"pictures": np.stack(every)}
    for name, still in [("followed", False), ("still", True)]:
        with FaceMesh(static_image_mode=still) as mesh:
            out[name] = np.array([found(mesh.process(picture)) for picture in every], np.float32)
    save_file(out, folder / "real.safetensors")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
