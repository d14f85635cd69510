"""Run as a program: loads pair models as a user without Boda does and writes their logits. Not a test by itself."""

import sys

from load_without_boda import NoBoda


def main(source: str, target: str, folders: list[str]) -> None:
    sys.meta_path.insert(0, NoBoda())
    sys.path[:] = [place for place in sys.path if not place.startswith(source)]
    import torch
    from PIL import Image
    from transformers import AutoModel, AutoProcessor

    found = {}
    for folder in folders:
        model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
        pictures = [Image.new("RGB", (40, 48), colour) for colour in ("red", "teal")]
        texts = ["고양이", "소파 위에 고양이 두 마리가 누워 있습니다."]
        with torch.no_grad():
            outputs = model(**processor(text=texts, images=pictures, padding=True, return_tensors="pt"), return_loss=True)
        found[folder] = (outputs.logits_per_image, float(outputs.loss), type(model).__module__)
    assert not any(name.partition(".")[0] == "boda" for name in sys.modules)
    torch.save(found, target)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
